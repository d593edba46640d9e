"""The evaluation's driver asking a server: what is recorded, what is lost, what goes on."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import PolicyServerError
from appliance.serving.client import RemotePolicy
from appliance.serving.messages import ServerDescription
from tests.evaluation.fakes import HORIZON, NoisePolicy, World, read_content, run_evaluation
from tests.serving.fakes import foreign_server, running_server

DESCRIPTION = ServerDescription(
    noise_shape=(HORIZON, 32), cameras=("cam_high",), image_size=(15, 21), policy={"config": "x"}
)


def open_policy(url: str) -> RemotePolicy:
    return RemotePolicy(url, action_horizon=3, connect_timeout_s=30, answer_timeout_s=30)


def read_rows(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "content" / "episodes.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize(("workers", "query_batch"), [(1, 1), (3, 1), (3, 4)])
def test_a_served_policy_is_scored_as_the_one_in_memory(
    tmp_path: Path, workers: int, query_batch: int
) -> None:
    fails = [100001] if query_batch == 1 else []  # NoisePolicy looks at its first place alone
    options: dict[str, Any] = {"workers": workers, "query_batch": query_batch, "episodes": 6}
    run_evaluation(tmp_path / "here", policy=NoisePolicy(fails), **options)
    with (
        running_server(NoisePolicy(fails), description=DESCRIPTION) as url,
        open_policy(url) as remote,
    ):
        run_evaluation(tmp_path / "there", policy=remote, **options)
    assert read_content(tmp_path / "there") == read_content(tmp_path / "here")


class ForeignPolicy:
    """Somebody else's server: it succeeds on every trial, until its ``fault``-th answer."""

    def __init__(self, fault: int, value: Any) -> None:
        self.asked = 0
        self._fault = fault
        self._value = value
        self._lock = threading.Lock()

    def __call__(self, message: Any) -> Any:
        with self._lock:
            self.asked += 1
            number = self.asked
        if number == self._fault:
            if isinstance(self._value, Exception):
                raise self._value
            return self._value
        return {"actions": np.ones((50, 14), dtype=np.float32)}


def nan_actions() -> dict[str, Any]:
    return {"actions": np.full((50, 14), np.nan)}


@pytest.mark.parametrize(
    ("value", "failure_class"),
    [
        (nan_actions(), "action_not_finite"),
        ({"actions": np.ones((50, 7))}, "action_shape"),
        ({"actions": np.ones((2, 14))}, "action_shape"),
        ("Traceback ...\nKeyError: 'cam_low'", "policy"),
    ],
)
def test_an_unusable_answer_of_a_server_ends_its_episode_and_no_other(
    tmp_path: Path, value: Any, failure_class: str
) -> None:
    with foreign_server(ForeignPolicy(3, value)) as url, open_policy(url) as remote:
        run_evaluation(tmp_path, policy=remote)
    rows = read_rows(tmp_path)
    assert [row["failure_class"] for row in rows].count(failure_class) == 1
    assert [row["outcome"] for row in rows].count("success") == 3


@pytest.mark.parametrize(
    "value",
    [
        "Traceback ...\nKeyError: 'cam_low'",
        {"actions": np.ones((50, 7))},
        {"actions": np.ones((2, 14))},
    ],
)
def test_a_server_that_never_gives_usable_actions_ends_the_evaluation_with_nothing_recorded(
    tmp_path: Path, value: Any
) -> None:
    with (
        foreign_server(lambda message: value) as url,
        open_policy(url) as remote,
        pytest.raises(PolicyServerError, match=r"first 3 trials.*for this robot") as raised,
    ):
        run_evaluation(tmp_path, policy=remote)
    assert raised.value.exit_code == 19
    assert '"kind": "episode"' not in (tmp_path / "observed" / "journal.jsonl").read_text()


class PickyPolicy(NoisePolicy):
    """Raises on the second trial alone."""

    def infer(self, observations: Any, noise: np.ndarray) -> np.ndarray:
        if int(observations[0]["state"][0]) == 1:
            raise ValueError("bad picture")
        return super().infer(observations, noise)


def test_an_interrupted_evaluation_goes_on_though_the_servers_first_answer_is_then_an_error(
    tmp_path: Path,
) -> None:
    def interrupt(name: str, seed: int) -> None:
        if (name, seed) == ("reset", 100001):
            raise KeyboardInterrupt

    with running_server(PickyPolicy(), description=DESCRIPTION) as url:
        with open_policy(url) as remote:
            run_evaluation(tmp_path / "calm", policy=remote)
        folder = tmp_path / "interrupted"
        with open_policy(url) as remote, pytest.raises(KeyboardInterrupt):
            run_evaluation(folder, policy=remote, world=World(before_call=interrupt))
        with open_policy(url) as remote:
            run_evaluation(folder, policy=remote)
    assert [row["failure_class"] for row in read_rows(folder)] == [None, "policy", None, None]
    assert read_content(folder) == read_content(tmp_path / "calm")


def test_a_server_that_is_gone_ends_the_evaluation_and_nothing_finished_is_lost(
    tmp_path: Path,
) -> None:
    calm = ForeignPolicy(0, None)
    with foreign_server(calm) as url, open_policy(url) as remote:
        run_evaluation(tmp_path / "calm", policy=remote)
    folder = tmp_path / "broken"
    # Queries of a trial: 100000 needs 8 steps, 3 a query; the fifth query is in the second trial.
    dying = ForeignPolicy(5, ConnectionAbortedError())
    with (
        foreign_server(dying) as url,
        open_policy(url) as remote,
        pytest.raises(PolicyServerError, match="the policy server is gone"),
    ):
        run_evaluation(folder, policy=remote)
    journal = (folder / "observed" / "journal.jsonl").read_text()
    assert journal.count('"kind": "episode"') == 1
    assert journal.count('"kind": "policy_lost"') == 1
    assert not (folder / "content" / "metrics.json").exists()
    again = ForeignPolicy(0, None)
    with foreign_server(again) as url, open_policy(url) as remote:
        run_evaluation(folder, policy=remote)
    assert read_content(folder) == read_content(tmp_path / "calm")
    assert dying.asked + again.asked == calm.asked + 2  # the broken trial is asked from its start


def test_a_server_of_ours_that_restarts_in_the_middle_changes_no_result(tmp_path: Path) -> None:
    run_evaluation(tmp_path / "calm", policy=NoisePolicy())
    policy = NoisePolicy()
    with running_server(policy, description=DESCRIPTION) as url:
        port = int(url.rpartition(":")[2])
        remote = open_policy(url)
        remote.infer([{**observe(), "prompt": "x"}], np.zeros((1, HORIZON, 32), np.float32))
    with running_server(NoisePolicy(), description=DESCRIPTION, port=port), remote:
        run_evaluation(tmp_path / "restarted", policy=remote)
        assert remote.reconnects == 1
    assert read_content(tmp_path / "restarted") == read_content(tmp_path / "calm")


def observe() -> dict[str, Any]:
    picture = np.zeros((15, 21, 3), dtype=np.uint8)
    return {"images": {"cam_high": picture}, "state": np.zeros(14, dtype=np.float32)}
