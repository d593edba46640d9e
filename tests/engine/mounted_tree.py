"""A folder that holds what a container's mounts would show, and nothing else of the machine."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

_MAX_LINKS = 40


def copy_mounts(mounts: Iterable[Mapping[str, Any]], root: Path) -> None:
    """Copy each mount's source to its target below ``root``, links as they are."""
    for mount in mounts:
        source, target = Path(mount["Source"]), root / mount["Target"].lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, symlinks=True, dirs_exist_ok=True)
        else:
            shutil.copy(source, target)


def find_inside(root: Path, path: Path) -> Path:
    """Where a process whose root is ``root`` comes out at ``path``; it may be nowhere.

    Links and ``..`` are followed as path_resolution(7) has it, without leaving ``root``.
    """
    place, left = root, list(path.parts[1:])
    num_links = 0
    while left:
        step = left.pop(0)
        if step == "..":
            place = place if place == root else place.parent
            continue
        place /= step
        if place.is_symlink():
            num_links += 1
            assert num_links <= _MAX_LINKS, f"{path}: a circle of links"
            text = Path(os.fspath(place.readlink()))
            left = [*(text.parts[1:] if text.is_absolute() else text.parts), *left]
            place = root if text.is_absolute() else place.parent
        elif left and not place.is_dir():
            return place / "not there"
    return place
