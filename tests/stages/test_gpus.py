"""A result belongs to the model of the GPUs it was computed on; their driver is recorded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.engine.gpus import GpuMissingError
from appliance.errors import StageFailedError
from appliance.replay.reference import describe_surroundings, surroundings_of
from appliance.replay.work import describe_lack
from appliance.stages.execute import execute_stage, load_run
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import Receipt
from appliance.stages.resolve import resolve_lock
from tests.cli.prepare_run import prepare
from tests.stand_in_gpus import A100, H100, list_gpus, put_on_path, write_nvidia_smi

WriteManifest = Callable[..., Path]
ONE_GPU = ("engine: host", "engine: docker\n  gpus: 1")


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Make this a machine whose ``nvidia-smi`` is this script."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    put_on_path(tmp_path / "bin", monkeypatch)
    return lambda script: write_nvidia_smi(tmp_path / "bin", script)


def run_dataset(manifest: Path, run_dir: Path) -> Receipt:
    return execute_stage(
        prepare(manifest, run_dir).path, "dataset", lambda done, total, text="": None
    )


def test_another_gpu_model_is_another_stage_key_and_another_driver_is_not(
    write_manifest: WriteManifest, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    manifest = write_manifest(ONE_GPU)
    receipts = []
    for number, script in enumerate(
        (list_gpus(H100), list_gpus(A100), list_gpus(H100, driver="580.1"), list_gpus(H100, A100))
    ):
        machine(script)
        receipts.append(run_dataset(manifest, tmp_path / str(number)))
    h100, a100, newer, more = receipts
    assert h100.key_parts["environment"]["platform"]["gpus"] == [H100]
    assert h100.key != a100.key
    assert h100.key == newer.key == more.key
    drivers = [receipt.host["gpu_driver"] for receipt in receipts]
    assert drivers == ["570.86.15", "570.86.15", "580.1", "570.86.15"]


def test_a_stage_refuses_another_gpu_than_the_locked_one(
    write_manifest: WriteManifest, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    machine(list_gpus(H100))
    folder = prepare(write_manifest(ONE_GPU), tmp_path / "run")
    machine(list_gpus(A100))
    with pytest.raises(StageFailedError, match=r"platform\.gpus.*H100.*now.*A100"):
        execute_stage(folder.path, "dataset", lambda done, total, text="": None)


@pytest.mark.parametrize("script", [None, "echo 'cannot talk to the driver' >&2; exit 9"])
def test_a_manifest_with_gpus_is_not_locked_where_none_can_be_had(
    write_manifest: WriteManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    machine: Callable[[str], None],
    script: str | None,
) -> None:
    manifest = read_manifest(write_manifest(ONE_GPU))
    if script is None:
        monkeypatch.setenv("PATH", str(tmp_path))
    else:
        machine(script)
    with pytest.raises(GpuMissingError, match=r"nvidia-smi is not there|cannot talk"):
        resolve_lock(manifest)
    assert describe_surroundings(manifest).platform["gpus"] == []
    assert "the original had 1 GPU, and here" in (describe_lack(manifest) or "")


def test_a_replay_on_another_gpu_model_is_on_another_platform(
    write_manifest: WriteManifest, machine: Callable[[str], None]
) -> None:
    manifest = read_manifest(write_manifest(ONE_GPU))
    machine(list_gpus(H100))
    there = surroundings_of(resolve_lock(manifest))
    assert describe_lack(manifest) is None
    assert there.changes(describe_surroundings(manifest)) == []
    machine(list_gpus(A100))
    (change,) = there.changes(surroundings_of(resolve_lock(manifest)))
    assert (change[0], list(change[1]), list(change[2])) == ("platform.gpus", [H100], [A100])


def test_a_run_without_gpus_asks_no_driver_and_records_none(
    write_manifest: WriteManifest, tmp_path: Path, machine: Callable[[str], None]
) -> None:
    machine(f"touch {tmp_path}/asked; exit 1")
    manifest = write_manifest()
    receipt = run_dataset(manifest, tmp_path / "run")
    lock = load_run(tmp_path / "run").lock
    assert "gpus" not in lock.platform
    assert "gpus" not in receipt.key_parts["environment"]["platform"]
    assert "gpu_driver" not in receipt.host
    assert "gpus" not in describe_surroundings(read_manifest(manifest)).platform
    assert not (tmp_path / "asked").exists()
