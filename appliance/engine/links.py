"""Where the links in a folder lead, when the folder is shown to a container.

A container follows a link by its text, from the place the folder is mounted at. What lies there on
the host may be reached over further links, which the container does not have: the bytes themselves
are mounted where the text leads.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path


def find_links_out(target: Path, source: Path) -> Iterator[tuple[Path, Path]]:
    """For each link in ``source`` that leads out of it: where a container looks, where that lies.

    ``source`` is mounted at ``target``. Links to nothing, or to what is neither file nor folder,
    are left out; links to folders are not followed into them.
    """
    for parent, folders, files in os.walk(source):
        for name in (*folders, *files):
            link = Path(parent, name)
            if not link.is_symlink():
                continue
            beside = target / link.parent.relative_to(source)
            seen = Path(os.path.normpath(beside / link.readlink()))
            if not seen.is_relative_to(target) and (real := _find_real(link)) is not None:
                yield seen, real


def _holds_only(folder: Path, shown: Mapping[Path, Path]) -> bool:
    """Whether every entry of ``folder`` is shown where it lies; no, when it cannot be listed."""
    try:
        return all(shown.get(entry) == entry for entry in folder.iterdir())
    except OSError:
        return False


def _find_real(link: Path) -> Path | None:
    """The file or folder a link leads to in the end; None for anything else, or nothing."""
    real = Path(os.path.realpath(link))
    with contextlib.suppress(OSError):
        if real.is_file() or real.is_dir():
            return real
    return None


def gather_whole_folders(shown: Mapping[Path, Path]) -> dict[Path, Path]:
    """``shown`` (source by target), with each folder for its entries where all of them are in it.

    Nothing more is shown by this: a hub's cache of a thousand files becomes one mount.
    """
    parents = {target.parent for target, source in shown.items() if target == source}
    whole = {folder for folder in parents if _holds_only(folder, shown)}
    return {
        **{target: source for target, source in shown.items() if target.parent not in whole},
        **{folder: folder for folder in whole},
    }
