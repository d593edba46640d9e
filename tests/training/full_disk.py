"""Disks that get full, each a small tmpfs; started by test_disasters in a mount namespace.

``python -m tests.training.full_disk saving DISK ASSETS WHOLE``: DISK is an empty folder, WHOLE
holds the same run on a roomy disk. Trains on DISK, fills it from the second checkpoint on, checks
what is left, frees it and goes on. ``... decoding DISK``: caches frames on a disk too small for
them, then on the same one with room. Exits with 0 when all held.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.dataset.frames import open_frames
from appliance.errors import StorageError
from appliance.training import loop
from tests.conftest import DATASET
from tests.training.small_run import CONFIG, REPO_ID, make_request, read_content, run

CAMERAS = ("cam_high",)
SIZE_BYTES = 32 << 20
ROOM_BYTES = 64 << 10
"""Left free: less than a checkpoint takes."""


def mount_disk(disk: Path, size_bytes: int, *options: str) -> None:
    """A disk in memory of ``size_bytes`` at ``disk``."""
    shown = ",".join((f"size={size_bytes}", *options))
    subprocess.run(["mount", "-t", "tmpfs", "-o", shown, "tmpfs", str(disk)], check=True)


def take_space(filler: Path) -> None:
    """Fill the disk with the file ``filler``, up to ``ROOM_BYTES``."""
    disk = os.statvfs(filler.parent)
    with filler.open("wb") as stream:
        os.posix_fallocate(stream.fileno(), 0, disk.f_bavail * disk.f_frsize - ROOM_BYTES)


def fill_while_saving(disk: Path, assets: Path, whole: Path) -> None:
    """A checkpoint finds no room; once there is some the run ends as it would have."""
    mount_disk(disk, SIZE_BYTES)
    request = make_request(assets, sampling_plan_path=assets / "plan", save_interval=2)
    filler = disk / "filler"

    def fill_disk(done: int, total: int, text: str) -> None:
        if done == 3:
            take_space(filler)

    out = disk / "out"
    loop.PROGRESS_INTERVAL_S = 0.0
    with pytest.raises(StorageError, match=r"The disk is full\. Free some space") as caught:
        run(request, out, on_progress=fill_disk)
    assert caught.value.exit_code == 30
    checkpoints = out / "artifacts" / "checkpoints" / CONFIG.name / "test"
    steps = [path.name for path in checkpoints.iterdir() if path.name.isdecimal()]
    assert steps == ["2"], steps
    assert not list(checkpoints.glob(".*.tmp")), "half a checkpoint was left"
    # Not even enough to begin: said before the long work.
    with pytest.raises(StorageError, match="are free, but checkpoints will take about"):
        run(replace(request, exp_name="another"), out)
    filler.unlink()
    run(request, out)
    assert read_content(out) == read_content(whole)
    # A finished run needs no room to be found finished.
    take_space(filler)
    run(request, out)
    assert read_content(out) == read_content(whole)


def fill_while_decoding(disk: Path) -> None:
    """Frames find no room, which is an error and not a signal; once there is some they do."""
    frames_bytes = open_frames(DATASET, REPO_ID, CAMERAS).frames(*CAMERAS).nbytes
    mount_disk(disk, frames_bytes // 2)
    with pytest.raises(StorageError, match=r"The disk is full\. Free some space") as caught:
        open_frames(DATASET, REPO_ID, CAMERAS, cache_dir=disk / "cache")
    assert caught.value.exit_code == 30
    assert not list(disk.rglob("frames.npy")), "half an array was left"
    mount_disk(disk, frames_bytes * 2, "remount")
    store = open_frames(DATASET, REPO_ID, CAMERAS, cache_dir=disk / "cache")
    assert store.sha256 == open_frames(DATASET, REPO_ID, CAMERAS).sha256


STORIES = {"saving": fill_while_saving, "decoding": fill_while_decoding}


if __name__ == "__main__":
    STORIES[sys.argv[1]](*map(Path, sys.argv[2:]))
