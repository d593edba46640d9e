"""What is really in a bundle's folder, found out without believing any of it.

One pass: every regular file is opened without following links, hashed in pieces, and, when it is
one of the small files a check reads, kept. What is parsed later is therefore exactly what was
hashed, and memory does not grow with the files. Whatever is no regular file or folder is a finding
and is not opened.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from appliance.bundle.bounds import MAX_KEPT_BYTES
from appliance.bundle.findings import Finding, error, warning
from appliance.bundle.layout import describe_name_fault, show_name

PIECE_BYTES = 1 << 20

# How many bytes of the file with this bundle path may be kept; 0 for a file that is only hashed.
KeptLimit = Callable[[str], int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inventory:
    """Digests (SHA-256), sizes and kept bytes by bundle path; what was wrong; empty folders.

    ``file_modes`` and ``folder_modes`` hold the permission bits.
    """

    digests: Mapping[str, str]
    size_bytes: int
    kept: Mapping[str, bytes]
    empty_folders: tuple[str, ...]
    file_modes: Mapping[str, int]
    folder_modes: Mapping[str, int]
    findings: tuple[Finding, ...]


@dataclass(slots=True)
class Collector:
    """Gathers an inventory file by file; the sum of what is kept stays under a limit."""

    limit_of: KeptLimit
    digests: dict[str, str] = field(default_factory=dict)
    kept: dict[str, bytes] = field(default_factory=dict)
    empty_folders: list[str] = field(default_factory=list)
    file_modes: dict[str, int] = field(default_factory=dict)
    folder_modes: dict[str, int] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)
    size_bytes: int = 0
    kept_bytes: int = 0

    def add_file(self, name: str, read: Callable[[int], bytes]) -> None:
        """Hash what ``read(size)`` gives until it gives nothing, and keep it when it is wanted."""
        hasher = hashlib.sha256()
        limit = self.limit_of(name)
        pieces: list[bytes] | None = [] if limit else None
        size_bytes = 0
        while piece := read(PIECE_BYTES):
            hasher.update(piece)
            size_bytes += len(piece)
            if pieces is not None:
                pieces.append(piece)
                if size_bytes > min(limit, MAX_KEPT_BYTES - self.kept_bytes):
                    pieces = None
                    self.findings.append(_too_large(name))
        self.digests[name] = hasher.hexdigest()
        self.size_bytes += size_bytes
        if pieces is not None:
            self.kept[name] = b"".join(pieces)
            self.kept_bytes += size_bytes

    def add_name(self, name: str, mode: int) -> None:
        """Note an entry's mode, and what is wrong with its name."""
        fault = describe_name_fault(name)
        if fault:
            message = f"its name {fault}, so it cannot belong to a bundle"
            self.findings.append(error("name-unsafe", message, show_name(name)))
        if stat.S_ISREG(mode):
            self.file_modes[name] = stat.S_IMODE(mode)
        elif stat.S_ISDIR(mode):
            self.folder_modes[name] = stat.S_IMODE(mode)

    def finish(self) -> Inventory:
        """The inventory gathered so far."""
        return Inventory(
            digests=self.digests,
            size_bytes=self.size_bytes,
            kept=self.kept,
            empty_folders=tuple(self.empty_folders),
            file_modes=self.file_modes,
            folder_modes=self.folder_modes,
            findings=tuple(self.findings),
        )


def take_inventory(folder: Path, limit_of: KeptLimit) -> Inventory:
    """Look at everything below ``folder``; keep the bytes of the files ``limit_of`` lets in.

    Never raises for what it finds: what cannot be read is a finding.
    """
    collector = Collector(limit_of)
    pending = [""]
    while pending:
        pending.extend(_visit_folder(folder, pending.pop(), collector))
    return collector.finish()


def _visit_folder(root: Path, prefix: str, collector: Collector) -> list[str]:
    """Take in one folder's files; returns the prefixes of its subfolders."""
    try:
        with os.scandir(root / prefix) as entries:
            names = sorted(entry.name for entry in entries)
    except OSError as problem:
        collector.findings.append(_unreadable(prefix.rstrip("/"), problem))
        return []
    if not names and prefix:
        collector.empty_folders.append(prefix.rstrip("/"))
    return [f"{prefix}{name}/" for name in names if _visit_entry(root, prefix + name, collector)]


def _visit_entry(root: Path, name: str, collector: Collector) -> bool:
    """Take in one entry; True when it is a folder still to be visited."""
    path = root / name
    try:
        mode = path.lstat().st_mode
        collector.add_name(name, mode)
        if stat.S_ISDIR(mode):
            return True
        if stat.S_ISREG(mode):
            _hash_file(path, name, collector)
        else:
            kind = "symbolic link" if stat.S_ISLNK(mode) else "special file"
            message = f"is a {kind}; a bundle holds only files and folders. It was not opened"
            collector.findings.append(error("not-a-file", message, show_name(name)))
    except OSError as problem:
        collector.findings.append(_unreadable(name, problem))
    return False


def read_regular_file(path: Path, limit_bytes: int) -> bytes:
    """The bytes of a file that nobody vouches for.

    Raises OSError for a link, a pipe or any other special file, which is never waited for, and for
    more than ``limit_bytes``.
    """
    with _opened(path) as handle, os.fdopen(handle, "rb", closefd=False) as stream:
        data = stream.read(limit_bytes + 1)
    if len(data) > limit_bytes:
        raise OSError(f"it is larger than {limit_bytes >> 10} KiB")
    return data


def _hash_file(path: Path, name: str, collector: Collector) -> None:
    with _opened(path) as handle:
        collector.add_file(name, lambda size: os.read(handle, size))


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """A descriptor of the regular file ``path``."""
    # Non-blocking and without following links: the entry may have been replaced since lstat.
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(handle).st_mode):
            raise OSError("it is no regular file, or was replaced while it was looked at")
        yield handle
    finally:
        os.close(handle)


def _unreadable(name: str, problem: OSError) -> Finding:
    message = f"cannot be read ({problem.strerror or problem}), so it cannot be checked"
    return error("unreadable", message, show_name(name) or None)


def _too_large(name: str) -> Finding:
    message = "is too large to be read for what it says; its bytes were checked all the same"
    return warning("too-large", message, show_name(name))
