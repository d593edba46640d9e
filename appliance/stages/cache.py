"""The content-addressed cache of stage results, shared by all run folders of a user.

A result is found by its stage key and taken only when every file still has the digest of its
receipt. Results are copies: the code of a stage in a container may write its own run folder, and
must reach neither the cache nor another run through it.
"""

from __future__ import annotations

import contextlib
import logging
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from appliance.errors import StorageError
from appliance.files import copy_files, storage_errors
from appliance.stages.receipt import CHECKED_FILE, Receipt, find_damage, read_receipt, write_receipt

_ABANDONED_S = 86_400

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StageCache:
    """Results by stage and key below ``path``; ``path`` None means no cache."""

    path: Path | None

    def read(self, stage: str, key: str) -> Receipt | None:
        """The receipt of an undamaged result; None when there is none."""
        folder = self._folder(stage, key)
        receipt = read_receipt(folder) if folder else None
        if folder is None or receipt is None or receipt.key != key:
            return None
        damaged = find_damage(folder, receipt)
        if damaged:
            logger.warning("cached result %s is damaged (%s) and is not used", folder, damaged[0])
            return None
        return receipt

    def holds(self, stage: str, key: str) -> bool:
        """Whether an undamaged result is there."""
        return self.read(stage, key) is not None

    def take(self, stage: str, key: str, target: Path) -> bool:
        """Put the cached result at ``target``, which must not exist; False when there is none."""
        folder = self._folder(stage, key)
        receipt = self.read(stage, key)
        if folder is None or receipt is None:
            return False
        taken = _place(folder, receipt, target)
        if not taken:
            with storage_errors(folder, "marking a damaged result"):
                (folder / CHECKED_FILE).unlink(missing_ok=True)  # it is read again, and replaced
        return taken

    def put(self, stage: str, key: str, source: Path) -> None:
        """Add a finished stage folder. A result that is there and whole is left as it is.

        Where there is no room for a copy, the result is not kept here, and a warning says so.
        """
        folder = self._folder(stage, key)
        receipt = read_receipt(source)
        if folder is None or receipt is None or receipt.key != key or self.holds(stage, key):
            return
        shutil.rmtree(folder, ignore_errors=True)
        try:
            _place(source, receipt, folder)
        except StorageError as error:
            logger.warning("the result of %s is not kept for other runs: %s", stage, error)

    def _folder(self, stage: str, key: str) -> Path | None:
        return None if self.path is None else self.path / stage / key


def _place(source: Path, receipt: Receipt, target: Path) -> bool:
    """Copy what ``receipt`` lists of ``source``; False when a copy is not as it says."""
    with storage_errors(target, "placing a cached result"):
        target.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(target.parent)
        temporary = Path(tempfile.mkdtemp(dir=target.parent, prefix=".place.", suffix=".tmp"))
    try:
        result = temporary / "result"
        result.mkdir()
        copy_files({name: source / name for name in receipt.outputs}, result)
        damaged = find_damage(result, receipt)
        if damaged:
            logger.warning("%s: %s while it was copied; it is not used", source, damaged[0])
            return False
        write_receipt(result, receipt)
        with storage_errors(target, "placing a cached result"):
            result.rename(target)
        return True
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _remove_abandoned(folder: Path) -> None:
    """Remove the copies that killed processes left; those of a day may be another's at work."""
    for path in folder.glob(".place.*.tmp"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - path.stat().st_mtime > _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)
