"""What goes wrong from outside ends with a clear error, its exit code, and the last checkpoint."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from torch.utils.data import DataLoader

from appliance.errors import TrainingError
from appliance.training import loop
from tests.conftest import ROOT
from tests.training.small_run import CONFIG, make_request, read_content, run


def mount_privately(*command: str | Path) -> list[str | Path]:
    """``command`` in a mount namespace of its own, where it may mount."""
    unshare = ["unshare", "--mount"] if os.geteuid() == 0 else ["unshare", "-r", "--mount"]
    return [*unshare, *command]


def can_mount() -> bool:
    if shutil.which("unshare") is None:
        return False
    probe = mount_privately("mount", "-t", "tmpfs", "tmpfs", "/tmp")
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def tell_full_disk(environment: dict[str, str], story: str, disk: Path, *more: Path) -> None:
    """Run a story of ``tests.training.full_disk`` on a small disk at ``disk``."""
    disk.mkdir()
    command = [sys.executable, "-m", "tests.training.full_disk", story, disk, *more]
    done = subprocess.run(
        mount_privately(*command), check=False, cwd=ROOT, env=environment, stderr=subprocess.PIPE
    )
    shown = done.stderr.decode()
    assert done.returncode == 0, shown[-2000:]
    assert "Traceback" not in shown


needs_mounts = pytest.mark.skipif(
    not can_mount(), reason="this machine allows no mount of a small disk"
)


@needs_mounts
def test_a_disk_that_gets_full_while_saving_leaves_the_last_checkpoint_and_the_run_goes_on(
    assets: Path, child_environment: dict[str, str], tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    run(make_request(assets, sampling_plan_path=assets / "plan", save_interval=2), whole)
    tell_full_disk(child_environment, "saving", tmp_path / "disk", assets, whole)


@needs_mounts
def test_a_disk_that_gets_full_while_decoding_is_an_error_and_no_signal(
    child_environment: dict[str, str], tmp_path: Path
) -> None:
    tell_full_disk(child_environment, "decoding", tmp_path / "disk")


@pytest.mark.parametrize("main_thread_hears", [False, True])
def test_a_data_worker_that_is_killed_is_reported_and_the_run_goes_on(
    main_thread_hears: bool,
    assets: Path,
    compiled_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where torch tells the main thread, as it does once workers were started from there."""
    if main_thread_hears:
        list(DataLoader([0], num_workers=1, multiprocessing_context="spawn"))  # type: ignore[arg-type]
    monkeypatch.setattr(loop, "PROGRESS_INTERVAL_S", 0.0)
    request = make_request(assets, num_train_steps=60, save_interval=2, num_workers=1)

    def kill_worker(done: int, total: int, text: str) -> None:
        for worker in multiprocessing.active_children() if done == 3 else []:
            worker.kill()

    with pytest.raises(TrainingError, match=r"^A data loader worker died .*lower train\.num_work"):
        run(request, tmp_path / "killed", on_progress=kill_worker)
    kept = list((tmp_path / "killed/artifacts/checkpoints" / CONFIG.name / "test").glob("[0-9]*"))
    assert "2" in [path.name for path in kept]
    calm = make_request(assets, num_train_steps=60, save_interval=2)
    run(calm, tmp_path / "killed")
    run(calm, tmp_path / "whole")
    assert read_content(tmp_path / "killed") == read_content(tmp_path / "whole")
