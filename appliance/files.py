"""Files that are either there whole or not there at all.

Write = temporary name in the same folder, flush to disk, rename. A reader never sees half a file,
and a full disk or a kill leaves what was there before. ``OSError`` becomes :class:`StorageError`
with a text a person can act on; nothing else is translated here.
"""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from appliance.errors import StorageError

_COPIED_BYTES = 1 << 28
_PIECE_BYTES = 1 << 20

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def storage_errors(path: Path, doing: str) -> Iterator[None]:
    """Turn an ``OSError`` raised inside into a :class:`StorageError` that names ``path``.

    ``doing`` completes the sentence "while ...", for example ``"writing the plan"``.
    """
    try:
        yield
    except OSError as error:
        raise StorageError(describe_os_error(error, path, doing)) from error


def describe_os_error(error: OSError, path: Path, doing: str) -> str:
    """One paragraph: what failed, where, and what to do about it."""
    advice = {
        errno.ENOSPC: "The disk is full. Free some space and run the same command again; finished"
        " work is kept.",
        errno.EDQUOT: "The disk quota is used up. Free some space and run the same command again;"
        " finished work is kept.",
        errno.EACCES: "Permission is missing. Choose a folder you may write to, or change its"
        " permissions.",
        errno.EPERM: "Permission is missing. Choose a folder you may write to, or change its"
        " permissions.",
        errno.EROFS: "The file system is read-only. Choose another folder.",
        errno.ENOENT: "It does not exist. Check the path.",
        errno.ENOTDIR: "A part of the path is a file, not a folder. Check the path.",
        errno.EISDIR: "It is a folder, not a file. Check the path.",
    }.get(error.errno or 0, "Check the path and the disk, then run the same command again.")
    where = error.filename if isinstance(error.filename, str) else str(path)
    return f"{where}: {error.strerror or error} while {doing}. {advice}"


def write_atomic(path: Path, data: bytes, *, mode: int = 0o644, doing: str | None = None) -> None:
    """Write ``data`` to ``path`` so that it is there whole or not at all.

    The parent folder is made when missing. The old content of ``path`` stays until the rename.
    Raises StorageError.
    """
    with storage_errors(path, doing or f"writing {path.name}"):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(mode)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write ``value`` as sorted, indented UTF-8 JSON with a final newline, atomically."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomic(path, text.encode("utf-8") + b"\n")


def read_json(path: Path) -> Any:
    """The JSON value in ``path``. Raises StorageError when unreadable or not JSON."""
    with storage_errors(path, f"reading {path.name}"):
        data = path.read_bytes()
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise StorageError(
            f"{path}: not valid JSON ({error}). The file is damaged or not what was expected."
        ) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder's entries to disk, so that a rename in it survives a power cut."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def finish_folders(folder: Path, mode: int) -> None:
    """Give ``folder`` and each below it this mode, whatever the umask was, and flush its entries.

    Raises OSError.
    """
    for root, _, _ in os.walk(folder):
        Path(root).chmod(mode)
        sync_folder(Path(root))


@contextlib.contextmanager
def atomic_folder(path: Path, *, doing: str | None = None) -> Iterator[Path]:
    """Yield a fresh temporary folder beside ``path``; on success it takes the place of ``path``.

    On any exception the temporary folder is removed and ``path`` is left as it was.
    Raises StorageError.
    """
    what = doing or f"writing {path.name}"
    with storage_errors(path, what):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp"))
        temporary.chmod(0o755)
    try:
        yield temporary
        with storage_errors(path, what):
            replace_folder(temporary, path)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files and folders that killed writes left below ``folder``.

    Raises StorageError.
    """
    with storage_errors(folder, "removing what a killed run left"):
        for path in sorted(folder.rglob(".*.tmp")):
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def replace_folder(source: Path, target: Path) -> None:
    """Rename ``source`` to ``target``; an old ``target`` is moved aside first, then removed."""
    old = target.with_name(f".{target.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if target.exists():
        target.rename(old)
    source.rename(target)
    sync_folder(target.parent)
    shutil.rmtree(old, ignore_errors=True)


def set_aside(place: Path, why: str) -> None:
    """Rename what lies at ``place``, if anything does, so that it is kept. Raises StorageError."""
    if not place.exists():
        return
    number = 1
    while (target := place.with_name(f"{place.name}.{why}-{number}")).exists():
        number += 1
    with storage_errors(place, "setting it aside"):
        place.rename(target)
    logger.info("%s is kept as %s", place, target.name)


def copy_files(files: Mapping[str, Path], target: Path) -> None:
    """Copy each file to its path (POSIX, relative) below ``target``, where none of them may be yet.

    A copy shares the disk's blocks with its original where the file system can (btrfs, XFS), but
    never the file: whoever may write one of them does not change the other. Raises StorageError.
    """
    with storage_errors(target, f"copying files to {target.name}"):
        for name, source in files.items():
            path = target / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with source.open("rb", buffering=0) as reader, path.open("xb", buffering=0) as writer:
                with contextlib.suppress(OSError):  # not every file system can
                    while os.copy_file_range(reader.fileno(), writer.fileno(), _COPIED_BYTES):
                        pass
                while piece := reader.read(_PIECE_BYTES):  # what is left
                    while piece:
                        piece = piece[writer.write(piece) :]
