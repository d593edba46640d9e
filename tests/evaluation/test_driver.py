from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.digest import sha256_file
from appliance.errors import (
    EvaluationError,
    PolicyRaisedError,
    PolicyServerError,
    SimulatorError,
    StorageError,
)
from appliance.evaluation.driver import evaluate
from appliance.simulator.faults import SimulatorLostError, TaskRaisedError, UnplayableTrialError
from appliance.simulator.values import digest_observation
from appliance.streams import stream
from tests.evaluation.fakes import (
    HORIZON,
    STEP_LIMIT,
    Crash,
    FakeSimulator,
    NoisePolicy,
    World,
    make_request,
    read_content,
    run_evaluation,
)

FOLDERS = ("content_dir", "observed_dir", "artifacts_dir")


def read_rows(content_dir: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (content_dir / "episodes.jsonl").read_text().splitlines()]


def read_metrics(content_dir: Path) -> dict[str, Any]:
    value = json.loads((content_dir / "metrics.json").read_text())
    assert isinstance(value, dict)
    return value


def test_an_episode_is_recorded_with_everything_needed_to_dispute_it(tmp_path: Path) -> None:
    policy = NoisePolicy()
    content = run_evaluation(tmp_path, policy=policy, episodes=1, policy_seed=5)
    (row,) = read_rows(content)
    seed, steps = 100000, 100000 % 7 + 3
    noises = [
        stream(5, "policy_noise", seed, query).standard_normal((1, HORIZON, 32), dtype=np.float32)
        for query in range(3)
    ]
    executed = np.concatenate([(np.abs(n[0, :3, :14]) + np.float32(0.125)) for n in noises])[:steps]
    simulator = FakeSimulator(World())
    first = simulator.reset(seed, "unseen")
    assert row == {
        "episode": 0,
        "seed": seed,
        "outcome": "success",
        "failure_class": None,
        "instruction": "unseen instruction 1",
        "steps": steps,
        "queries": 3,
        "first_observation": digest_observation(first),
        "first_physics": simulator.digest_physics(),
        "actions_sha256": hashlib.sha256(executed.astype("<f4").tobytes()).hexdigest(),
    }
    assert [noise.tolist() for _, noise in policy.queries] == [noise.tolist() for noise in noises]
    assert policy.queries[0][0]["prompt"] == "unseen instruction 1"


def test_an_unfinished_evaluation_with_other_records_is_not_gone_on_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.evaluation.request.RECORDS_VERSION", 1)
    run_evaluation(tmp_path, episodes=1)
    monkeypatch.undo()
    with pytest.raises(EvaluationError, match=r"differs in records \(1 there, 2 now\)"):
        run_evaluation(tmp_path, episodes=1)


def test_trials_are_searched_from_the_seeds_own_block_and_skips_are_recorded(
    tmp_path: Path,
) -> None:
    world = World(
        skips={200000: "unstable", 200002: "raised: ValueError: at 0x7f", 200003: "unplanned"}
    )
    content = run_evaluation(tmp_path, world=world, episodes=3, seed=1)
    trials = {
        "mode": "expert_checked",
        "seeds": [200001, 200004, 200005],
        "skipped": [
            {"seed": 200000, "reason": "unstable"},
            {"seed": 200002, "reason": "exception"},
            {"seed": 200003, "reason": "unplanned"},
        ],
    }
    assert json.loads((content / "trials.json").read_text()) == trials
    assert read_metrics(content)["trials"] == trials
    assert [row["seed"] for row in read_rows(content)] == trials["seeds"]
    assert "0x7f" in (tmp_path / "observed" / "journal.jsonl").read_text()


def test_pinned_trials_are_scored_in_their_order_without_an_expert_check(tmp_path: Path) -> None:
    world = World()
    content = run_evaluation(tmp_path, world=world, trials=(42, 7, 9), episodes=3)
    assert [row["seed"] for row in read_rows(content)] == [42, 7, 9]
    assert "expert_check" not in {name for name, _ in world.calls}


def test_outcomes_are_counted_as_section_4_says(tmp_path: Path) -> None:
    policy = NoisePolicy(fails=[100001, 100003])
    content = run_evaluation(tmp_path, policy=policy, episodes=4)
    metrics = read_metrics(content)
    assert [row["outcome"] for row in read_rows(content)] == ["success", "timeout"] * 2
    assert read_rows(content)[1]["steps"] == STEP_LIMIT
    assert metrics["successes"] == 2
    assert metrics["episodes"] == 4
    assert metrics["success_rate"] == 0.5
    assert metrics["failure_counts"] == {"timeout": 2, "exception": 0, "other": 0}
    assert metrics["avg_steps_success"] == ((100000 % 7 + 3) + (100002 % 7 + 3)) / 2
    assert metrics["wilson_interval"]["low"] == pytest.approx(0.15, abs=0.01)
    assert "not a RoboTwin score" in metrics["note"]


def test_average_steps_are_null_without_a_success(tmp_path: Path) -> None:
    policy = NoisePolicy(fails=range(100000, 100004))
    assert read_metrics(run_evaluation(tmp_path, policy=policy))["avg_steps_success"] is None


class BrokenPolicy(NoisePolicy):
    """Answers the second query of the second trial with ``answer``."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self._answer = answer

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> Any:
        good = super().infer(observations, noise)
        return self._answer if observations[0]["state"][0] == np.float32(1 + 3 / 64) else good


def with_nan() -> np.ndarray:
    actions = np.ones((1, HORIZON, 14), dtype=np.float32)
    actions[0, 3, 2] = np.nan
    return actions


@pytest.mark.parametrize(
    ("answer", "failure_class"),
    [
        (with_nan(), "action_not_finite"),
        (np.full((1, HORIZON, 14), 1e300), "action_not_finite"),
        (np.ones((1, HORIZON, 32)), "action_shape"),
        (np.ones((HORIZON, 14)), "action_shape"),
        (np.ones((1, HORIZON - 1, 14)), "action_shape"),
        (np.array([[["a"] * 14] * HORIZON]), "action_shape"),
        ([[1.0], [2.0, 3.0]], "action_shape"),
        (None, "action_shape"),
    ],
)
def test_an_answer_that_cannot_be_executed_ends_its_episode_and_no_other(
    tmp_path: Path, answer: Any, failure_class: str
) -> None:
    content = run_evaluation(tmp_path, policy=BrokenPolicy(answer))
    rows = read_rows(content)
    assert [row["outcome"] for row in rows] == ["success", "exception", "success", "success"]
    assert (rows[1]["failure_class"], rows[1]["steps"], rows[1]["queries"]) == (failure_class, 3, 2)
    assert read_metrics(content)["failure_counts"] == {"timeout": 0, "exception": 1, "other": 0}
    observed = json.loads((tmp_path / "observed" / "_metrics.json").read_text())
    assert observed["episode_rows"][1]["detail"].startswith("The policy answered")


def test_a_task_that_ends_itself_before_its_limit_is_counted_as_other(tmp_path: Path) -> None:
    content = run_evaluation(tmp_path, world=World(gives_up=[100002]))
    row = read_rows(content)[2]
    assert (row["outcome"], row["failure_class"], row["steps"]) == ("other", "ended_early", 2)
    metrics = read_metrics(content)
    assert metrics["failure_counts"] == {"timeout": 0, "exception": 0, "other": 1}
    assert metrics["failure_classes"]["ended_early"] == 1


def test_a_pinned_trial_that_cannot_be_begun_is_other_and_costs_no_restart(tmp_path: Path) -> None:
    world = World(before_call=Crash("reset", 8, times=9, error=UnplayableTrialError))
    content = run_evaluation(tmp_path, world=world, trials=(7, 8, 9), episodes=3)
    row = read_rows(content)[1]
    assert (row["outcome"], row["failure_class"], row["steps"]) == ("other", "unplayable", 0)
    assert world.started == 1


def test_pinned_trials_of_which_none_can_be_begun_are_not_written_down_as_failures(
    tmp_path: Path,
) -> None:
    def refuse(name: str, seed: int) -> None:
        raise UnplayableTrialError(f"the expert cannot play seed {seed}")

    with pytest.raises(EvaluationError, match=r"first 3 trials.*cannot be begun.*Pin other"):
        run_evaluation(tmp_path, world=World(before_call=refuse), trials=(7, 8, 9, 10))
    assert '"kind": "episode"' not in (tmp_path / "observed" / "journal.jsonl").read_text()


class RaisingPolicy(NoisePolicy):
    """Raises when asked for the trials it is told to."""

    def __init__(self, raises: Sequence[int], error: Exception) -> None:
        super().__init__()
        self._raises = [seed % 1000 for seed in raises]
        self._error = error

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        if int(observations[0]["state"][0]) in self._raises:
            raise self._error
        return super().infer(observations, noise)


def test_a_policy_that_raises_in_a_trial_ends_that_trial_as_an_exception(tmp_path: Path) -> None:
    policy = RaisingPolicy([100001], PolicyRaisedError("KeyError: 'cam_low'"))
    content = run_evaluation(tmp_path, policy=policy)
    rows = read_rows(content)
    assert [row["outcome"] for row in rows] == ["success", "exception", "success", "success"]
    assert rows[1]["failure_class"] == "policy"
    observed = json.loads((tmp_path / "observed" / "_metrics.json").read_text())
    assert "cam_low" in observed["episode_rows"][1]["detail"]


def test_a_policy_that_raises_on_everything_is_not_scored(tmp_path: Path) -> None:
    policy = RaisingPolicy(range(100000, 100009), PolicyRaisedError("KeyError: 'cam_low'"))
    with pytest.raises(PolicyRaisedError, match=r"first 3 trials.*cam_low.*for this robot"):
        run_evaluation(tmp_path, policy=policy)
    journal = (tmp_path / "observed" / "journal.jsonl").read_text()
    assert '"kind": "episode"' not in journal
    assert '"kind": "policy_lost"' not in journal


@pytest.mark.parametrize("workers", [1, 3])
def test_a_policy_lost_in_mid_episode_ends_the_evaluation_which_goes_on_when_it_is_back(
    tmp_path: Path, workers: int
) -> None:
    run_evaluation(tmp_path / "calm", episodes=6)
    policy = RaisingPolicy([100003], PolicyServerError("the connection was lost"))
    folder = tmp_path / "lost"
    with pytest.raises(PolicyServerError, match="connection was lost") as caught:
        run_evaluation(folder, policy=policy, episodes=6, workers=workers)
    assert caught.value.exit_code == 19
    assert '"kind": "policy_lost"' in (folder / "observed" / "journal.jsonl").read_text()
    again = World()
    run_evaluation(folder, world=again, episodes=6, workers=workers)
    assert read_content(folder) == read_content(tmp_path / "calm")
    assert {seed for name, seed in again.calls if name == "reset"} >= {100003}
    observed = json.loads((folder / "observed" / "_metrics.json").read_text())
    assert [fault["kind"] for fault in observed["faults"]] == ["policy_lost"]


@pytest.mark.parametrize("name", ["expert_check", "reset", "step"])
def test_a_simulator_that_fails_once_is_replaced_and_changes_no_result(
    tmp_path: Path, name: str
) -> None:
    run_evaluation(tmp_path / "calm", video=True)
    world = World(before_call=Crash(name, 100002, times=1))
    run_evaluation(tmp_path / "crash", world=world, video=True)
    assert read_content(tmp_path / "crash") == read_content(tmp_path / "calm")
    assert (world.started, world.closed) == (2, 2)
    observed = json.loads((tmp_path / "crash" / "observed" / "_metrics.json").read_text())
    assert observed["simulator_failures"] == 1
    assert observed["episode_rows"][2]["video_frames"] == observed["episode_rows"][2]["steps"] + 1


@pytest.mark.parametrize(
    ("error", "failure_class"), [(SimulatorLostError, "simulator"), (TaskRaisedError, "task")]
)
def test_a_trial_in_which_the_simulator_fails_twice_counts_as_an_exception(
    tmp_path: Path, error: type[SimulatorError], failure_class: str
) -> None:
    world = World(before_call=Crash("step", 100002, times=2, error=error))
    content = run_evaluation(tmp_path, world=world)
    rows = read_rows(content)
    assert [row["outcome"] for row in rows] == ["success", "success", "exception", "success"]
    assert rows[2]["failure_class"] == failure_class
    assert rows[2]["actions_sha256"] is None
    assert world.started == 3
    observed = json.loads((tmp_path / "observed" / "_metrics.json").read_text())
    assert [fault["again"] for fault in observed["faults"]] == [True, False]


def test_a_simulator_lost_while_it_starts_is_started_once_more(tmp_path: Path) -> None:
    class Late(FakeSimulator):
        tries = 0

        def start(self) -> None:
            Late.tries += 1
            if Late.tries == 1:
                raise SimulatorLostError("did not answer 'start' within 180 s")
            super().start()

    run_evaluation(tmp_path / "calm")
    folder = tmp_path / "late"
    arguments = {name: folder / name.removesuffix("_dir") for name in FOLDERS}
    world = World()
    evaluate(
        make_request(),
        NoisePolicy(),
        lambda number: Late(world),
        on_progress=lambda done, total, text: None,
        **arguments,
    )
    assert read_content(folder) == read_content(tmp_path / "calm")
    observed = json.loads((folder / "observed" / "_metrics.json").read_text())
    assert observed["simulator_failures"] == 1


def test_a_seed_on_which_the_expert_check_fails_twice_is_skipped_as_an_exception(
    tmp_path: Path,
) -> None:
    world = World(before_call=Crash("expert_check", 100001, times=2))
    content = run_evaluation(tmp_path, world=world, episodes=2)
    assert read_metrics(content)["trials"]["seeds"] == [100000, 100002]
    assert read_metrics(content)["trials"]["skipped"] == [{"seed": 100001, "reason": "exception"}]


def test_a_simulator_that_cannot_start_ends_the_evaluation_and_loses_nothing(
    tmp_path: Path,
) -> None:
    calm = run_evaluation(tmp_path / "calm")

    class NoDevice(FakeSimulator):
        def start(self) -> None:
            raise SimulatorError("no rendering device")

    world = World(before_call=Crash("step", 100002, times=1))
    simulators = [FakeSimulator(world), NoDevice(world)]
    folder = tmp_path / "broken"
    arguments: dict[str, Any] = {
        "content_dir": folder / "content",
        "observed_dir": folder / "observed",
        "artifacts_dir": folder / "artifacts",
        "on_progress": lambda done, total, text: None,
    }
    with pytest.raises(SimulatorError, match="no rendering device"):
        evaluate(make_request(), NoisePolicy(), lambda number: simulators.pop(0), **arguments)
    again = World()
    run_evaluation(folder, world=again)
    assert read_content(folder) == {p.name: p.read_bytes() for p in sorted(calm.iterdir())}
    assert {seed for _, seed in again.calls} == {100002, 100003}


@pytest.mark.parametrize("name", ["expert_check", "reset", "step"])
def test_a_machine_on_which_nothing_works_is_not_written_down_as_the_policys_failures(
    tmp_path: Path, name: str
) -> None:
    def fail(called: str, seed: int) -> None:
        if called == name:
            raise SimulatorError("no memory left")

    with pytest.raises(SimulatorError, match=r"first 3 trials.* no memory left"):
        run_evaluation(tmp_path, world=World(before_call=fail))
    journal = (tmp_path / "observed" / "journal.jsonl").read_text()
    assert '"kind": "episode"' not in journal
    assert journal.count('"kind": "check"') == (0 if name == "expert_check" else 4)


def test_failures_count_when_something_worked_before_the_evaluation_was_stopped(
    tmp_path: Path,
) -> None:
    """An interrupted run ends like an uninterrupted one, also when only failing trials are left."""

    def fail(name: str, seed: int) -> None:
        if name == "reset" and seed > 1:
            raise UnplayableTrialError(f"seed {seed} cannot be played")

    def stop(done: int, total: int, text: str) -> None:
        raise KeyboardInterrupt

    world = World(before_call=fail)
    options: dict[str, Any] = {"trials": (1, 2, 3, 4), "episodes": 4}
    run_evaluation(tmp_path / "calm", world=world, **options)
    folders = {name: tmp_path / "stopped" / name.removesuffix("_dir") for name in FOLDERS}
    with pytest.raises(KeyboardInterrupt):
        evaluate(
            make_request(**options),
            NoisePolicy(),
            lambda number: FakeSimulator(world),
            on_progress=stop,
            **folders,
        )
    run_evaluation(tmp_path / "stopped", world=world, **options)
    assert read_content(tmp_path / "stopped") == read_content(tmp_path / "calm")


def test_early_failures_count_once_something_has_worked_or_all_is_done(tmp_path: Path) -> None:
    for seeds in ((1, 2), (1, 2, 3)):

        def fail(name: str, seed: int) -> None:
            if name == "step" and seed != 3:
                raise SimulatorError("this trial cannot be played")

        folder = tmp_path / str(len(seeds))
        content = run_evaluation(
            folder, world=World(before_call=fail), trials=seeds, episodes=len(seeds)
        )
        outcomes = [row["outcome"] for row in read_rows(content)]
        assert outcomes == ["exception", "exception", "success"][: len(seeds)]


@pytest.mark.parametrize("workers", [2, 3, 8])
def test_any_number_of_workers_gives_the_same_content(tmp_path: Path, workers: int) -> None:
    skips = {100001: "unstable", 100005: "unplanned", 100006: "unsuccessful"}
    policy = [NoisePolicy(fails=[100003, 100010]) for _ in range(2)]
    run_evaluation(tmp_path / "one", world=World(skips=skips), policy=policy[0], episodes=9)
    world = World(skips=skips, before_call=Crash("step", 100004, times=1))
    run_evaluation(tmp_path / "many", world=world, policy=policy[1], episodes=9, workers=workers)
    assert read_content(tmp_path / "many") == read_content(tmp_path / "one")
    assert world.started == world.closed


def test_an_error_in_one_worker_ends_the_others_and_is_the_one_reported(tmp_path: Path) -> None:
    class DiskError(Exception):
        pass

    def fill_disk(name: str, seed: int) -> None:
        if (name, seed) == ("reset", 100003):
            raise DiskError

    world = World(before_call=fill_disk)
    with pytest.raises(DiskError):
        run_evaluation(tmp_path, world=world, episodes=9, workers=3)
    assert world.started == world.closed


def test_a_finished_evaluation_starts_no_simulator_and_writes_the_same(tmp_path: Path) -> None:
    run_evaluation(tmp_path)
    before = read_content(tmp_path)
    for path in (tmp_path / "content").iterdir():
        path.unlink()
    world = World()
    run_evaluation(tmp_path, world=world)
    assert world.started == 0
    assert read_content(tmp_path) == before


def test_a_folder_with_another_evaluations_episodes_is_refused_with_the_difference(
    tmp_path: Path,
) -> None:
    run_evaluation(tmp_path)
    with pytest.raises(EvaluationError, match=r"differs in policy_seed \(0 there, 1 now\)"):
        run_evaluation(tmp_path, policy_seed=1)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"episodes": 0}, "eval.episodes: 0 is not positive"),
        ({"action_steps": 0}, "eval.action_steps: 0 is not positive"),
        ({"action_steps": HORIZON + 1}, "more than the 4 actions"),
        ({"query_batch": 0}, "eval.query_batch: 0 is not positive"),
        ({"workers": 0}, "workers: 0 is not positive"),
        ({"seed": -1}, "not negative"),
        ({"instruction_type": "both"}, "'both' is unknown"),
        ({"trials": (1, 2, 1), "episodes": 3}, "1 stands there more than once"),
        ({"trials": (1, 2), "episodes": 3}, "pins 2 seeds"),
    ],
)
def test_a_request_that_cannot_work_is_refused_before_anything_is_written(
    tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    with pytest.raises(EvaluationError, match=text):
        run_evaluation(tmp_path / "out", **changes)
    assert not (tmp_path / "out").exists()


def test_observed_files_have_robotwins_form_and_the_seconds(tmp_path: Path) -> None:
    content = run_evaluation(tmp_path, policy=NoisePolicy(fails=[100001]), video=True)
    observed = tmp_path / "observed"
    result = (observed / "_result.txt").read_text().split("\n\n")
    assert result[0].startswith("Timestamp: 20")
    assert result[1:] == ["Instruction Type: unseen", "0.75"]
    metrics = json.loads((observed / "_metrics.json").read_text())
    assert metrics["eval_time_sec"] >= 0
    assert metrics["simulator_versions"] == {"runtime": "in memory"}
    lines = (observed / "episodes.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == metrics["episode_rows"]
    for row, record in zip(metrics["episode_rows"], read_rows(content), strict=True):
        assert {key: row[key] for key in record} == record
        name = f"videos/episode_{row['episode']}_seed{row['seed']}_{row['outcome']}.mp4"
        assert row["video"] == name
        assert row["video_sha256"] == sha256_file(observed / name)
        assert row["seconds"] >= 0
    assert len(list((observed / "videos").iterdir())) == 4


def test_videos_of_attempts_that_do_not_count_are_removed(tmp_path: Path) -> None:
    stray = tmp_path / "observed" / "videos" / "episode_0_seed100000_timeout.mp4"
    stray.parent.mkdir(parents=True)
    stray.write_bytes(b"left by a killed attempt")
    run_evaluation(tmp_path, video=True)
    assert not stray.exists()
    assert len(list(stray.parent.iterdir())) == 4


def test_content_holds_no_time_and_no_machine(tmp_path: Path) -> None:
    run_evaluation(tmp_path / "a")
    run_evaluation(tmp_path / "b")
    assert read_content(tmp_path / "a") == read_content(tmp_path / "b")


def test_an_unwritable_folder_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "observed").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        run_evaluation(tmp_path)


def test_progress_counts_finished_episodes(tmp_path: Path) -> None:
    seen: list[tuple[int, int, str]] = []
    evaluate(
        make_request(episodes=2),
        NoisePolicy(),
        lambda number: FakeSimulator(World()),
        content_dir=tmp_path / "content",
        observed_dir=tmp_path / "observed",
        artifacts_dir=tmp_path / "artifacts",
        on_progress=lambda done, total, text: seen.append((done, total, text)),
    )
    assert [entry[:2] for entry in seen] == [(0, 2), (0, 2), (1, 2), (2, 2)]
    assert seen[-1][2] == "seed 100001: success after 9 steps"
