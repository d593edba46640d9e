"""A run whose disk gets full while it saves; started by test_disasters in a mount namespace.

``python -m tests.training.full_disk ASSETS WHOLE DISK``: WHOLE holds the same run on a roomy disk,
DISK is an empty folder. Mounts a small tmpfs there, trains, fills the disk from the second
checkpoint on, checks what is left, frees the disk and goes on. Exits with 0 when all held.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import StorageError
from appliance.training import loop
from tests.training.small_run import CONFIG, make_request, read_content, run

SIZE_BYTES = 32 << 20
ROOM_BYTES = 64 << 10
"""Left free: less than a checkpoint takes."""


def main() -> None:
    """Run the whole story."""
    assets, whole, disk = map(Path, sys.argv[1:])
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE_BYTES}", "tmpfs", str(disk)]
    subprocess.run(command, check=True)
    request = make_request(assets, sampling_plan_path=assets / "plan", save_interval=2)
    filler = disk / "filler"

    def fill_disk(done: int, total: int, text: str) -> None:
        if done == 3:
            free = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
            with filler.open("wb") as stream:
                os.posix_fallocate(stream.fileno(), 0, free - ROOM_BYTES)

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


if __name__ == "__main__":
    main()
