"""Several devices and several processes train as one device does; the failure of one ends all."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from appliance.errors import PlanError, StageFailedError, TrainingError
from appliance.norm_stats.files import NORM_STATS_FILE
from appliance.policy.parameters import abstract_params, flatten_params
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.training import mesh, processes
from appliance.training.checkpoints import CheckpointFolder
from appliance.training.mesh import (
    build_mesh,
    choose_axis,
    gather_to_writer,
    leaf_sharding,
    local_slots,
)
from appliance.training.processes import Folders, Layout, train_by_layout
from appliance.training.request import ProgressCallback
from appliance.training.run import abstract_state
from tests.conftest import ROOT
from tests.training.small_run import WIDE_CONFIG, make_request, read_content, run

STEPS = 4
LOSS_TOLERANCE = 1e-5
"""Relative: devices add a batch up in another order. Seen: up to 1e-6 in four steps."""

LATER_TOLERANCE = 1e-3
"""The same after 32 steps, in which differences grow."""

LEAF_TOLERANCE = 1e-6
"""The same for a leaf's elements after four steps."""

HURRIED = {"XLA_FLAGS": "--xla_backend_optimization_level=0"}

LAYOUTS = {"one": (1, 1, 1), "four": (2, 2, 2)}
"""Processes, CPU devices of each, devices that share one copy."""


@pytest.fixture(scope="module")
def runs(
    assets: Path, child_environment: dict[str, str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """The same run on every layout, each in processes of its own, compiled in a hurry."""
    environment = {**child_environment, **HURRIED}
    folder = tmp_path_factory.mktemp("layouts")
    for name, (count, devices, fsdp) in LAYOUTS.items():
        arguments = [
            assets,
            folder / name,
            STEPS,
            "--plan",
            assets / "plan",
            "--sampler",
            "counter",
        ]
        arguments += ["--processes", count, "--cpu-devices", devices, "--fsdp", fsdp]
        arguments += ["--wide", "--interval", 100, "--sampler", "counter"]
        command = [sys.executable, "-m", "tests.training.small_run", *map(str, arguments)]
        subprocess.run(command, check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    return {name: folder / name for name in LAYOUTS}


def curve(out: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in read_content(out)["curve.jsonl"].splitlines()]


def session(out: Path) -> dict[str, Any]:
    (found,) = json.loads((out / "observed" / "timing.json").read_text())["sessions"]
    return dict(found)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_of_two_devices_give_the_losses_of_one_device(runs: dict[str, Path]) -> None:
    for expected, found in zip(curve(runs["one"]), curve(runs["four"]), strict=True):
        assert found["learning_rate"] == expected["learning_rate"]
        for figure in ("loss", "grad_norm", "param_norm"):
            np.testing.assert_allclose(found[figure], expected[figure], rtol=LOSS_TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_layout_is_really_in_force_and_changes_no_draw(runs: dict[str, Path]) -> None:
    whole = session(runs["one"])["state_bytes"]
    for name, (count, devices, fsdp) in LAYOUTS.items():
        facts = session(runs[name])
        assert (facts["processes"], facts["devices"]) == (count, count * devices)
        assert (facts["fsdp_devices"], facts["state_bytes"]) == (fsdp, whole)
        # All but small leaves is in the MLPs, which are cut.
        share = facts["state_bytes_a_device"] / whole
        assert share == 1 if fsdp == 1 else 0.5 <= share < 0.52
    summaries = [
        json.loads(read_content(out)["run_summary.json"])["index_stream_sha256"]
        for out in runs.values()
    ]
    assert len(set(summaries)) == 1


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_checkpoints_of_every_layout_hold_the_same_leaves(runs: dict[str, Path]) -> None:
    """Up to the order in which devices add up a batch: whole leaves, each part in its place."""
    expected, found = (read_last_state(out / "artifacts", WIDE_CONFIG) for out in runs.values())
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_allclose(found[path], leaf, rtol=0, atol=LEAF_TOLERANCE, err_msg=path)


def read_last_state(artifacts: Path, config: TrainConfig) -> dict[str, Any]:
    """Every leaf of the newest checkpoint: parameters, average, optimizer, step."""
    folder = artifacts / "checkpoints" / config.name / "test"
    request = make_request(folder, config=config)
    statistics = next(folder.glob(f"[0-9]*/assets/{request.asset}/{NORM_STATS_FILE}"))
    checkpoints = CheckpointFolder(
        folder, asset_id=request.asset, norm_stats_json=statistics.read_bytes()
    )
    template = abstract_state(request)
    state = checkpoints.restore(checkpoints.positions()[0], template)
    flat, _ = jax.tree_util.tree_flatten_with_path(state)
    return {jax.tree_util.keystr(path): leaf for path, leaf in flat}


def train_by_two(
    assets: Path,
    out: Path,
    *,
    cpu_devices: int = 1,
    on_progress: Any = lambda *_: None,
    **changes: Any,
) -> None:
    folders = Folders(
        content=out / "content", observed=out / "observed", artifacts=out / "artifacts"
    )
    request = make_request(assets, sampling_plan_path=assets / "plan", **changes)
    train_by_layout(request, folders, Layout(processes=2, cpu_devices=cpu_devices), on_progress)


@pytest.fixture
def members(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The processes of the run that was started last."""
    started: list[Any] = []
    start_members = processes._start_members

    def remember(*arguments: Any) -> Any:
        started[:] = start_members(*arguments)
        return started

    monkeypatch.setattr(processes, "_start_members", remember)
    return started


def kill_the_second(members: list[Any]) -> ProgressCallback:
    """Kill process 1 once the first resume point of a run that saves each step is there."""

    def kill(done: int, total: int, text: str) -> None:
        if done >= 2 and text.startswith("loss"):
            os.kill(members[1].process.pid, signal.SIGKILL)

    return kill


def first_steps(out: Path) -> list[int]:
    """The step that each session of a run began at."""
    timing = json.loads((out / "observed" / "timing.json").read_text())
    return [each["first_step"] for each in timing["sessions"]]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_state_that_is_cut_over_two_processes_resumes_bit_for_bit(
    assets: Path,
    runs: dict[str, Path],
    child_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: list[Any],
) -> None:
    for name, value in {**child_environment, **HURRIED}.items():
        monkeypatch.setenv(name, value)
    wide = {
        "config": WIDE_CONFIG,
        "num_train_steps": STEPS,
        "sampler": "counter",
        "save_interval": 10,
        "fsdp_devices": 2,
        "cpu_devices": 2,
    }
    with pytest.raises(StageFailedError, match=r"^training-1 was ended by SIGKILL"):
        train_by_two(
            assets,
            tmp_path,
            on_progress=kill_the_second(members),
            resume_interval_s=0.0,
            **wide,
        )
    train_by_two(assets, tmp_path, **wide)
    assert 0 < first_steps(tmp_path)[-1] < STEPS
    assert read_content(tmp_path) == read_content(runs["four"])
    found, expected = (
        read_last_state(out / "artifacts", WIDE_CONFIG) for out in (tmp_path, runs["four"])
    )
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_processes_resume_bit_for_bit_and_a_killed_one_ends_the_other(
    assets: Path,
    child_environment: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    members: list[Any],
) -> None:
    for name, value in child_environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(StageFailedError, match=r"^training-1 was ended by SIGKILL\. What was"):
        train_by_two(
            assets,
            tmp_path / "killed",
            on_progress=kill_the_second(members),
            num_train_steps=STEPS * 8,
            resume_interval_s=0.0,
        )
    assert all(member.process.exitcode is not None for member in members)
    train_by_two(assets, tmp_path / "killed", num_train_steps=STEPS * 8)
    assert 0 < first_steps(tmp_path / "killed")[-1] < STEPS * 8
    train_by_two(assets, tmp_path / "whole", num_train_steps=STEPS * 8)
    assert read_content(tmp_path / "killed") == read_content(tmp_path / "whole")
    alone = make_request(assets, sampling_plan_path=assets / "plan", num_train_steps=STEPS * 8)
    run(alone, tmp_path / "alone")
    for expected, found in zip(curve(tmp_path / "alone"), curve(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(found["loss"], expected["loss"], rtol=LATER_TOLERANCE)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_error_of_a_process_is_raised_as_its_own(assets: Path, tmp_path: Path) -> None:
    with pytest.raises(PlanError, match=r"^Sampling plan repo_id mismatch"):
        train_by_two(assets, tmp_path, repo_id="another")


def test_gpus_must_divide_by_the_processes(assets: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"^3 GPUs cannot be shared by 2 processes"):
        train_by_layout(
            make_request(assets),
            Folders(content=tmp_path, observed=tmp_path, artifacts=tmp_path),
            Layout(processes=2, gpus=3),
            lambda *_: None,
        )


def test_gpus_are_dealt_out_in_order() -> None:
    layout = Layout(processes=2, gpus=4)
    assert [layout.local_gpus(rank) for rank in range(2)] == [[0, 1], [2, 3]]
    assert Layout(processes=2).local_gpus(1) is None


@pytest.mark.parametrize(
    ("shape", "columns", "axis"),
    [
        ((1024, 1024), 4, 0),  # exactly 4 MiB of float32
        ((1024, 1023), 4, None),  # a little less
        ((1 << 21,), 4, None),  # one dimension
        ((18, 2048, 16384), 4, 2),
        ((18, 2050, 16386), 2, 2),
        ((18, 2048, 16387), 4, 1),  # the largest is not divisible
        ((1025, 1027), 4, None),
        ((2048, 2048), 1, None),
    ],
)
def test_large_leaves_are_cut_along_their_largest_divisible_axis(
    shape: tuple[int, ...], columns: int, axis: int | None
) -> None:
    assert choose_axis(shape, 4, columns) == axis


def test_the_full_preset_is_nearly_all_cut() -> None:
    config = PRESETS["pi0_base_aloha_robotwin_full"]
    leaves = flatten_params(abstract_params(config.model))
    cut = sum(
        leaf.size
        for leaf in leaves.values()
        if choose_axis(leaf.shape, 4, config.fsdp_devices) is not None
    )
    assert cut / sum(leaf.size for leaf in leaves.values()) > 0.99


def test_one_device_holds_everything_whole() -> None:
    mesh = build_mesh(1)
    assert mesh.size == jax.device_count() == 1
    assert leaf_sharding(mesh, (4096, 4096), np.float32).is_fully_replicated
    assert local_slots(32) == range(32)


def test_only_the_writer_keeps_what_is_gathered(monkeypatch: pytest.MonkeyPatch) -> None:
    tree = {"a": jax.numpy.arange(3), "b": jax.numpy.ones((2, 2))}
    gathered = gather_to_writer(tree)
    assert gathered is not None
    assert {name: type(leaf) for name, leaf in gathered.items()} == dict.fromkeys("ab", np.ndarray)
    monkeypatch.setattr(mesh, "is_writer", lambda: False)
    assert gather_to_writer(tree) is None
