"""The driver with RoboTwin's own code in processes of their own; the expert replayed as a policy.

Starting a simulator is what takes the time here, so that as few as possible are started.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from appliance.digest import sha256_file
from appliance.errors import SimulatorError
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.values import StepResult
from appliance.simulator.worker import SimulatorProcess
from tests.conftest import ROOT
from tests.evaluation.expert_replay import (
    ExpertReplay,
    evaluate_replay,
    query_noise,
    record_expert,
)
from tests.evaluation.fakes import read_content

SPEC = SimulatorSpec(task="touch_block", cameras=("cam_high",), image_size=(96, 72))
SEEDS = (100000, 100001, 100002)
DEMONSTRATED = 2

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.fixture(scope="module")
def actions(tmp_path_factory: pytest.TempPathFactory) -> dict[int, np.ndarray]:
    """The expert's actions on the first two seeds; on the third the policy walks at random."""
    with SimulatorProcess(SPEC) as simulator:
        return record_expert(simulator, DEMONSTRATED)


@pytest.fixture(scope="module")
def calm(actions: Mapping[int, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation with one worker in which nothing goes wrong."""
    folder = tmp_path_factory.mktemp("calm")
    policy = ExpertReplay(actions)
    evaluate_replay(
        folder, policy, lambda number: SimulatorProcess(SPEC), episodes=len(SEEDS), video=True
    )
    assert policy.image_shapes == {(72, 96, 3)}, "one camera, at the size the policy reads"
    assert all("block" in prompt for prompt in policy.prompts)
    return folder


def read_rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "content" / "episodes.jsonl").read_text("utf-8").splitlines()
    return [json.loads(line) for line in lines]


def read_observed(folder: Path) -> dict[str, Any]:
    value = json.loads((folder / "observed" / "_metrics.json").read_text("utf-8"))
    assert isinstance(value, dict)
    return value


def test_the_replayed_expert_solves_its_trials_and_random_motion_runs_into_the_limit(
    calm: Path,
) -> None:
    metrics = json.loads((calm / "content" / "metrics.json").read_text("utf-8"))
    assert metrics["trials"] == {"mode": "expert_checked", "seeds": list(SEEDS), "skipped": []}
    assert [row["outcome"] for row in read_rows(calm)] == ["success", "success", "timeout"]
    assert read_rows(calm)[2]["steps"] == 60
    assert metrics["failure_counts"] == {"timeout": 1, "exception": 0, "other": 0}


def test_each_video_shows_the_start_and_every_executed_action(calm: Path) -> None:
    for row in read_observed(calm)["episode_rows"]:
        path = calm / "observed" / row["video"]
        assert row["video_sha256"] == sha256_file(path)
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert len(frames) == row["steps"] + 1
        assert frames[0].shape == (216, 288, 3)
        assert frames[0].std() > 10, "the picture is not empty"


def run_in_a_process(
    folder: Path, actions: Mapping[int, np.ndarray], *, workers: int, kill_at: int | None = None
) -> None:
    """Evaluate in a process of its own; kill -9 it once ``kill_at`` episodes are finished."""
    folder.mkdir(exist_ok=True)
    np.savez(folder / "actions.npz", **{str(seed): each for seed, each in actions.items()})
    command = [sys.executable, "-m", "tests.evaluation.expert_replay", str(folder)]
    arguments = [str(folder / "actions.npz"), str(workers), str(len(SEEDS))]
    process = subprocess.Popen([*command, *arguments], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if kill_at is not None and int(line.split()[0]) >= kill_at:
            process.kill()
            break
    process.stdout.close()
    assert process.wait(300) == (0 if kill_at is None else -signal.SIGKILL)


def test_two_workers_in_another_process_give_the_same_bytes_as_one(
    calm: Path, actions: Mapping[int, np.ndarray], tmp_path: Path
) -> None:
    run_in_a_process(tmp_path, actions, workers=2)
    assert read_content(tmp_path) == read_content(calm)
    videos = [row["video_sha256"] for row in read_observed(tmp_path)["episode_rows"]]
    assert videos == [row["video_sha256"] for row in read_observed(calm)["episode_rows"]]


def test_killed_half_way_and_run_again_gives_the_same_bytes(
    calm: Path, actions: Mapping[int, np.ndarray], tmp_path: Path
) -> None:
    run_in_a_process(tmp_path, actions, workers=2, kill_at=1)
    assert not (tmp_path / "content" / "episodes.jsonl").exists()
    journal = (tmp_path / "observed" / "journal.jsonl").read_text("utf-8")
    finished = journal.count('"kind": "episode"')
    assert 1 <= finished < len(SEEDS)
    run_in_a_process(tmp_path, actions, workers=1)
    assert read_content(tmp_path) == read_content(calm)
    journal = (tmp_path / "observed" / "journal.jsonl").read_text("utf-8")
    assert journal.count('"kind": "episode"') == len(SEEDS), "nothing finished was done again"


def test_killed_simulators_and_an_interrupted_run_change_no_result(
    calm: Path, actions: Mapping[int, np.ndarray], tmp_path: Path
) -> None:
    texts: list[str] = []

    def disturb(done: int, total: int, text: str) -> None:
        texts.append(text)
        if len(texts) == 1:
            for child in multiprocessing.active_children():
                assert child.pid is not None
                os.kill(child.pid, signal.SIGKILL)
        if done == 2:
            raise KeyboardInterrupt

    def run(**more: Any) -> None:
        evaluate_replay(
            tmp_path,
            ExpertReplay(actions),
            lambda number: SimulatorProcess(SPEC),
            episodes=len(SEEDS),
            video=True,
            **more,
        )

    with pytest.raises(KeyboardInterrupt):
        run(on_progress=disturb)
    assert not multiprocessing.active_children()
    run()
    assert read_observed(tmp_path)["simulator_failures"] == 1
    assert read_content(tmp_path) == read_content(calm)


class FaultySimulator(SimulatorProcess):
    """Real processes that are stopped or killed when they are asked for a step of some trials."""

    def __init__(self, faults: dict[int, list[signal.Signals]]) -> None:
        super().__init__(SPEC)
        self._faults = faults
        self._seed = -1

    def reset(self, seed: int, instruction_type: str = "unseen") -> Any:
        self._seed = seed
        return super().reset(seed, instruction_type)

    def step(self, actions_KxA: np.ndarray, *, want_frames: bool = True) -> StepResult:
        if self._faults.get(self._seed):
            assert self.pid is not None
            fault = self._faults[self._seed].pop()
            os.kill(self.pid, fault)
            self._call_timeout_s = 4 if fault is signal.SIGSTOP else 600
        return super().step(actions_KxA, want_frames=want_frames)


class FaultyReplay(ExpertReplay):
    """Gives values that are not finite on one trial, and too few joints on another."""

    def __init__(self, actions: Mapping[int, np.ndarray], not_finite: int, too_few: int) -> None:
        super().__init__(actions)
        self._not_finite = query_noise(not_finite, 1).tobytes()
        self._too_few = query_noise(too_few, 0).tobytes()

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        answer = super().infer(observations, noise)
        asked = noise[0].tobytes()
        if asked == self._not_finite:
            answer[0, 3, 2] = np.nan
        return answer[:, :, :7] if asked == self._too_few else answer


def test_every_fault_is_recorded_as_what_it_is_and_spoils_nothing_else(
    calm: Path, actions: Mapping[int, np.ndarray], tmp_path: Path
) -> None:
    """The first hangs once, the second is killed twice, two get unusable actions; one is well."""
    faults = {SEEDS[0]: [signal.SIGSTOP], SEEDS[2]: [signal.SIGKILL, signal.SIGKILL]}
    order = (SEEDS[0], SEEDS[2], 7, 8, SEEDS[1])
    evaluate_replay(
        tmp_path,
        FaultyReplay(actions, not_finite=7, too_few=8),
        lambda number: FaultySimulator(faults),
        episodes=len(order),
        trials=order,
    )
    rows = read_rows(tmp_path)
    assert [(row["outcome"], row["failure_class"]) for row in rows] == [
        ("success", None),
        ("exception", "simulator"),
        ("exception", "action_not_finite"),
        ("exception", "action_shape"),
        ("success", None),
    ]
    assert [row["steps"] for row in rows[1:4]] == [0, 16, 0]
    calm_rows = [{**row, "episode": 0} for row in read_rows(calm)]
    assert [{**rows[number], "episode": 0} for number in (0, 4)] == calm_rows[:2]
    observed = read_observed(tmp_path)
    assert observed["simulator_failures"] == 3
    assert ["within 4 s" in fault["error"] for fault in observed["faults"]] == [True, False, False]
    assert [fault["again"] for fault in observed["faults"]] == [True, True, False]
    assert "not finite" in observed["episode_rows"][2]["detail"]


def test_a_missing_renderer_ends_the_evaluation_with_what_to_do_about_it(
    actions: Mapping[int, np.ndarray], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "no_driver.json"))
    with pytest.raises(SimulatorError, match=r"No rendering device.*unset VK_DRIVER") as caught:
        evaluate_replay(tmp_path, ExpertReplay(actions), lambda number: SimulatorProcess(SPEC))
    assert caught.value.exit_code == 16
    assert '"kind": "episode"' not in (tmp_path / "observed" / "journal.jsonl").read_text("utf-8")


def test_a_missing_instruction_file_is_named_before_the_first_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_runtime(tmp_path / "robotwin", without="stack_blocks_two.json")
    monkeypatch.syspath_prepend(str(tmp_path))
    spec = SimulatorSpec(task="stack_blocks_two", cameras=("cam_high",))
    with pytest.raises(SimulatorError, match=r"instruction file .*stack_blocks_two\.json") as found:
        SimulatorProcess(spec, log_path=tmp_path / "log").start()
    assert found.value.exit_code == 16


def copy_runtime(target: Path, without: str) -> None:
    """RoboTwin's installed package as links, one instruction file left out."""
    import robotwin

    source = Path(next(iter(robotwin.__path__)))
    description = target / "description"
    instructions = description / "task_instruction"
    instructions.mkdir(parents=True)
    for folder, place in ((source, target), (source / "description", description)):
        for path in folder.iterdir():
            if not (place / path.name).exists():
                (place / path.name).symlink_to(path)
    for path in (source / "description" / "task_instruction").iterdir():
        if path.name != without:
            (instructions / path.name).symlink_to(path)
