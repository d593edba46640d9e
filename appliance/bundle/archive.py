"""A bundle as one ``.tar.gz`` file: packed in one way only, and read no other way.

Members are regular files in ascending order of their names, below one folder, with fixed owner,
mode and time; a POSIX pax header appears only where a name or size needs one. The reader rebuilds
each header from the name and size it says and compares: links, devices, absolute names, ``..``,
duplicates, sparse files and every other trick of the format differ from the one form and end the
reading. Nothing is ever written outside the target. What is unpacked in memory is a small piece at
a time, and an archive that grows beyond all measure is refused.

Equal bundles give equal archives with the same zlib; another zlib may compress differently, which
changes no file and no digest inside.
"""

from __future__ import annotations

import bisect
import gzip
import os
import stat
import tarfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from appliance.bundle.findings import error
from appliance.bundle.inventory import Collector, Inventory, KeptLimit
from appliance.bundle.layout import (
    FILE_MODE,
    FOLDER_MODE,
    BundleContentError,
    clash_order,
    describe_name_fault,
    find_clash,
    show_name,
)
from appliance.digest import list_files, sha256_file
from appliance.errors import NotABundleError
from appliance.files import atomic_folder, finish_folders, storage_errors, sync_folder

ROOT: Final = "audit-bundle"
BLOCK_BYTES: Final = tarfile.BLOCKSIZE
END_BYTES: Final = 2 * BLOCK_BYTES
PIECE_BYTES: Final = 1 << 18
COMPRESSION_LEVEL: Final = 6
STORED: Final = 0
GZIP_MAGIC: Final = b"\x1f\x8b\x08"
# No name, no time, no operating system: what Python's gzip writes for either level (RFC 1952).
GZIP_HEADER: Final = GZIP_MAGIC + b"\0\0\0\0\0\0\xff"
MAX_PAX_BYTES: Final = 4096
MAX_FILES: Final = 200_000
MAX_RATIO: Final = 100
RATIO_ALLOWANCE_BYTES: Final = 64 << 20


class ArchiveError(ValueError):
    """Not an archive in the one form; the text says what is wrong, without a place."""


def pack_bundle(bundle_dir: Path, archive: Path) -> str:
    """Write the bundle folder as a ``.tar.gz`` file, whole or not at all; returns its SHA-256.

    The bundle is not verified. Raises BundleContentError for a name that cannot go in, StorageError
    for a link or special file and for the disk.
    """
    names = list_files(bundle_dir)
    for name in names:
        fault = describe_name_fault(name)
        if fault:
            raise BundleContentError(
                f"{bundle_dir}/{show_name(name)}: cannot be packed: the name {fault}. Remove it."
            )
    partial = archive.with_name(f".{archive.name}.{os.getpid()}.tmp")
    try:
        with storage_errors(archive, "packing the bundle"):
            archive.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("xb") as stream:
                unpacked_bytes = _write_members(stream, bundle_dir, names, COMPRESSION_LEVEL)
                if unpacked_bytes > _most_unpacked_bytes(stream.tell()):
                    # So empty that it would be taken for a bomb: store it as it is.
                    stream.seek(0)
                    stream.truncate()
                    _write_members(stream, bundle_dir, names, STORED)
                stream.flush()
                os.fsync(stream.fileno())
            partial.replace(archive)
            sync_folder(archive.parent)
    finally:
        partial.unlink(missing_ok=True)
    return sha256_file(archive)


def unpack_bundle(archive: Path, bundle_dir: Path) -> None:
    """Unpack an archive into the folder ``bundle_dir``, which appears whole or not at all.

    What was unpacked still has to be verified. Raises NotABundleError when the file is not an
    archive in the form :func:`pack_bundle` writes, StorageError for the disk.
    """
    with atomic_folder(bundle_dir, doing="unpacking the bundle") as folder:
        try:
            with storage_errors(bundle_dir, f"unpacking {archive}"):
                for member in read_members(archive):
                    _extract(member, folder)
                finish_folders(folder, FOLDER_MODE)
        except ArchiveError as problem:
            raise NotABundleError(
                f"{archive}: cannot be unpacked: {problem}. Get the archive again from its author."
            ) from problem


def take_archive_inventory(archive: Path, limit_of: KeptLimit) -> Inventory:
    """What is in an archive, read in one pass and never unpacked to disk.

    What breaks the reading is a finding, as is everything that then is missing.
    """
    collector = Collector(limit_of)
    try:
        for member in read_members(archive):
            collector.add_name(member.name, stat.S_IFREG | FILE_MODE)
            collector.add_file(member.name, member.read)
    except ArchiveError as problem:
        collector.findings.append(error("archive-malformed", f"cannot be read further: {problem}"))
    except OSError as problem:
        text = f"cannot be read ({problem.strerror or problem})"
        collector.findings.append(error("unreadable", text))
    return collector.finish()


def is_archive(path: Path) -> bool:
    """Whether ``path`` is a regular file that begins like a gzip file."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return stream.read(len(GZIP_MAGIC)) == GZIP_MAGIC
    except (OSError, ValueError):
        return False


@dataclass(slots=True)
class Member:
    """One file of an archive; its bytes can be read once, in order."""

    name: str
    size_bytes: int
    unread_bytes: int
    source: _Inflater

    def read(self, size: int) -> bytes:
        """Up to ``size`` further bytes; empty at the end. Raises ArchiveError."""
        size = min(size, self.unread_bytes)
        data = self.source.take(size) if size else b""
        self.unread_bytes -= len(data)
        return data


class _Inflater:
    """The decompressed bytes of a gzip file with exactly one member, a piece at a time."""

    def __init__(self, stream: BinaryIO, compressed_bytes: int) -> None:
        self._stream = stream
        self._limit_bytes = _most_unpacked_bytes(compressed_bytes)
        self._given_bytes = 0
        self._machine = zlib.decompressobj(wbits=31)
        self._ready = b""

    def take(self, size: int) -> bytes:
        """Exactly ``size`` bytes. Raises ArchiveError."""
        if size < 0:
            raise ArchiveError("a size is negative")
        pieces: list[bytes] = []
        needed = size
        while needed > 0:
            if not self._ready and not self._inflate():
                raise ArchiveError("it ends too early")
            piece, self._ready = self._ready[:needed], self._ready[needed:]
            pieces.append(piece)
            needed -= len(piece)
        return b"".join(pieces)

    def check_end(self) -> None:
        """Raises ArchiveError unless everything has been given and nothing follows."""
        if self._ready or self._inflate() or self._machine.unused_data or self._stream.read(1):
            raise ArchiveError("something follows after its end")

    def _inflate(self) -> bool:
        """Get more bytes ready; False at the end of the gzip member."""
        while not self._ready and not self._machine.eof:
            data = self._machine.unconsumed_tail or self._stream.read(PIECE_BYTES)
            if not data:
                raise ArchiveError("it ends too early")
            try:
                self._ready = self._machine.decompress(data, PIECE_BYTES)
            except zlib.error as problem:
                raise ArchiveError(f"its compressed data is damaged ({problem})") from problem
        self._given_bytes += len(self._ready)
        if self._given_bytes > self._limit_bytes:
            raise ArchiveError("it unpacks to far more than a bundle of its size would")
        return bool(self._ready)


def read_members(archive: Path) -> Iterator[Member]:
    """The files of an archive in order; each must be read before the next is asked for.

    Raises ArchiveError for anything that :func:`pack_bundle` would not have written, and OSError.
    """
    with archive.open("rb") as stream:
        if stream.read(len(GZIP_HEADER)) != GZIP_HEADER:
            raise ArchiveError("its header is not the one form")
        stream.seek(0)
        source = _Inflater(stream, archive.stat().st_size)
        previous = ""
        seen: list[tuple[str, str]] = []
        for _ in range(MAX_FILES):
            member = _read_header(source)
            if member is None:
                source.check_end()
                return
            if member.name.encode() <= previous.encode():
                raise ArchiveError(f"{show_name(member.name)} is not in ascending order")
            previous = member.name
            _add_name(member.name, seen)
            yield member
            while member.read(PIECE_BYTES):
                pass
            if source.take(-member.size_bytes % BLOCK_BYTES).strip(b"\0"):
                raise ArchiveError(f"the padding after {show_name(member.name)} is not empty")
        raise ArchiveError(f"it holds more than {MAX_FILES} files")


def _add_name(name: str, seen: list[tuple[str, str]]) -> None:
    """Put ``name`` in its place in ``seen``. Raises ArchiveError when it clashes with one there."""
    entry = clash_order(name)
    place = bisect.bisect_left(seen, entry)
    for _, other in seen[max(0, place - 1) : place + 1]:
        if find_clash(other, name) is not None:
            raise ArchiveError(
                f"some file systems cannot keep {show_name(name)} apart from {show_name(other)}"
            )
    seen.insert(place, entry)


def _read_header(source: _Inflater) -> Member | None:
    """The next member; None at the end of the archive."""
    block = source.take(BLOCK_BYTES)
    if not block.strip(b"\0"):
        if source.take(END_BYTES - BLOCK_BYTES).strip(b"\0"):
            raise ArchiveError("its end is damaged")
        return None
    header = block
    records: dict[str, str] = {}
    info = _parse_block(block)
    if info.type == tarfile.XHDTYPE:
        if not 0 <= info.size <= MAX_PAX_BYTES:
            raise ArchiveError("a header is too long, or its length is negative")
        data = source.take(info.size + -info.size % BLOCK_BYTES)
        block = source.take(BLOCK_BYTES)
        header += data + block
        records = _parse_records(data[: info.size])
        info = _parse_block(block)
    path = records.get("path", info.name)
    size_text = records.get("size", str(info.size))
    name = path.removeprefix(ROOT + "/")
    if not size_text.isdecimal() or not size_text.isascii() or len(size_text) > 15:
        raise ArchiveError("a size is not a number")
    if describe_name_fault(name) or _make_header(name, int(size_text)) != header:
        raise ArchiveError(f"the entry {show_name(path)} is not a plain file in the one form")
    size_bytes = int(size_text)
    return Member(name=name, size_bytes=size_bytes, unread_bytes=size_bytes, source=source)


def _parse_block(block: bytes) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError) as problem:
        raise ArchiveError("a header is damaged") from problem


def _parse_records(data: bytes) -> dict[str, str]:
    """The ``LENGTH KEY=VALUE`` lines of a pax header."""
    records: dict[str, str] = {}
    for line in data.split(b"\n"):
        key, _, value = line.partition(b" ")[2].partition(b"=")
        records[key.decode("utf-8", "replace")] = value.decode("utf-8", "replace")
    return records


def _make_header(name: str, size_bytes: int) -> bytes:
    """The only header a file of this name and size may have."""
    info = tarfile.TarInfo(f"{ROOT}/{name}")
    info.size, info.mode, info.mtime = size_bytes, FILE_MODE, 0
    return info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")


def _most_unpacked_bytes(compressed_bytes: int) -> int:
    """How much an archive of this size may unpack to."""
    return MAX_RATIO * compressed_bytes + RATIO_ALLOWANCE_BYTES


def _write_members(stream: BinaryIO, bundle_dir: Path, names: list[str], level: int) -> int:
    """Write the whole archive; returns the bytes that were compressed."""
    with gzip.GzipFile("", "wb", level, stream, mtime=0) as packed:
        for name in names:
            with (bundle_dir / name).open("rb") as reader:
                size_bytes = os.fstat(reader.fileno()).st_size
                packed.write(_make_header(name, size_bytes))
                copied_bytes = 0
                while piece := reader.read(PIECE_BYTES):
                    packed.write(piece)
                    copied_bytes += len(piece)
                if copied_bytes != size_bytes:
                    raise OSError(f"{name} changed while it was packed")
                packed.write(bytes(-size_bytes % BLOCK_BYTES))
        packed.write(bytes(END_BYTES))
        return packed.tell()


def _extract(member: Member, folder: Path) -> None:
    """Write one file; the folders it lies in get their mode at the end."""
    target = folder / member.name
    target.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(handle, "wb") as writer:
        os.fchmod(writer.fileno(), FILE_MODE)
        while piece := member.read(PIECE_BYTES):
            writer.write(piece)
        writer.flush()
        os.fsync(writer.fileno())
