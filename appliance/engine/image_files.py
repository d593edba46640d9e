"""Every file of an image by what it holds: to say whether two builds made the same.

Read from the engine's export of a container that never ran. A file is its kind, mode, owner and
content or target; times are left out. The image's id is not used: it also names times and history.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.digest import CHUNK_BYTES, sha256_json
from appliance.engine.container import reader
from appliance.engine.daemon import connected, daemon_errors, find_image

# What the engine itself puts into every container.
_ENGINE_PATHS = frozenset(
    {".dockerenv", "dev/console", "etc/hostname", "etc/hosts", "etc/resolv.conf"}
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFiles:
    """The files of one image, by path; each is a line of kind, mode, owner and content."""

    name: str
    id: str
    files: Mapping[str, str]

    @property
    def digest(self) -> str:
        """One digest of all of them."""
        return f"sha256-image-files-v1:{sha256_json(dict(self.files))}"


def read_image_files(name: str) -> ImageFiles:
    """Hash every file of the image ``name``: a minute for 9 GB.

    Raises ImageError, RuntimeMissingError, StageFailedError.
    """
    with connected() as client:
        image = find_image(client, name, None)
        with (
            daemon_errors(f"reading the files of {name}"),
            reader(client, image.id, command=["none"]) as container_id,
        ):
            archive = _ChunkReader(client.api.export(container_id, CHUNK_BYTES))
            files = dict(digest_archive(io.BufferedReader(archive, CHUNK_BYTES)))
    return ImageFiles(name=name, id=image.id, files=files)


def digest_archive(stream: Any) -> Iterator[tuple[str, str]]:
    """Path and description of every entry of a tar ``stream``, in its order."""
    with tarfile.open(fileobj=stream, mode="r|") as archive:
        for entry in archive:
            path = entry.name.strip("/")
            if path in _ENGINE_PATHS or not path:
                continue
            yield path, _describe(archive, entry)


def list_differences(first: ImageFiles, second: ImageFiles) -> list[str]:
    """Every path that is not the same in both, by path, with both descriptions."""
    paths = sorted({*first.files, *second.files})
    return [
        f"{path}: {first.files.get(path, 'absent')} | {second.files.get(path, 'absent')}"
        for path in paths
        if first.files.get(path) != second.files.get(path)
    ]


def _describe(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    owner = f"{entry.mode & 0o7777:04o} {entry.uid}:{entry.gid}"
    if entry.issym() or entry.islnk():
        return f"{'link' if entry.issym() else 'hard link'} {owner} {entry.linkname}"
    if entry.isdir():
        return f"folder {owner}"
    if not entry.isfile():
        return f"special {entry.type!r} {owner}"
    hasher = hashlib.sha256()
    stream = archive.extractfile(entry)
    while stream is not None and (piece := stream.read(CHUNK_BYTES)):
        hasher.update(piece)
    return f"file {owner} {hasher.hexdigest()}"


class _ChunkReader(io.RawIOBase):
    """A stream of byte pieces as a file that can only be read forward."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._left:
            self._left = next(self._pieces, b"")
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        return size
