"""Batches of policy queries: who shares one with whom changes no answer."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from appliance.errors import PolicyRaisedError, PolicyServerError
from appliance.evaluation.policy_queries import PolicyQueries, UnusableActionsError
from appliance.norm_stats.files import NormStats, Stats
from appliance.policy.inference import Policy
from appliance.policy.initialization import init_params
from appliance.policy.presets import PRESETS
from appliance.simulator.values import Observation

TINY = PRESETS["pi0_tiny_aloha_robotwin"]
HORIZON = 2
BATCH = 3


def make_observation(number: int) -> Observation:
    generator = np.random.default_rng(number)
    return Observation(
        images={"cam_high": generator.integers(0, 256, (72, 96, 3), np.uint8)},
        state=generator.normal(size=14).astype(np.float32),
        instruction=f"touch block {number}",
    )


class GatedPolicy:
    """Answers with the first state value and the place; stands still until its gate is open."""

    noise_shape = (HORIZON, 14)

    def __init__(self, refuses: Sequence[float] = ()) -> None:
        self.gate = threading.Event()
        self.asked = threading.Event()
        self.batches: list[Sequence[Mapping[str, Any]]] = []
        self.threads = 0
        self._refuses = refuses

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        self.threads += 1
        assert self.threads == 1, "one thread at a time"
        assert noise.shape == (len(observations), *self.noise_shape)
        self.asked.set()
        assert self.gate.wait(30)
        self.batches.append(observations)
        self.threads -= 1
        firsts = [item["state"][0] for item in observations]
        if set(firsts) & set(self._refuses):
            raise PolicyRaisedError("cannot look at this")
        rows = [np.full((HORIZON, 14), first, np.float32) for first in firsts]
        return np.stack(rows)


def ask(queries: PolicyQueries, number: int) -> np.ndarray:
    observation = make_observation(number)
    observation["state"][0] = number
    return queries.ask(observation, trial_number=number, trial_seed=number, query=0)


def ask_while_busy(
    policy: GatedPolicy, queries: PolicyQueries, first: int, later: Sequence[int]
) -> dict[int, Any]:
    """Ask for ``first`` alone and for ``later`` while the policy is busy with it."""
    with ThreadPoolExecutor(len(later) + 1) as pool:
        futures = {first: pool.submit(ask, queries, first)}
        assert policy.asked.wait(30)
        for count, number in enumerate(later, 1):
            futures[number] = pool.submit(ask, queries, number)
            while len(queries._waiting) < count:
                threading.Event().wait(0.001)
        policy.gate.set()
        return {number: future.exception() or future.result() for number, future in futures.items()}


def test_queries_that_wait_share_a_call_of_fixed_size_each_at_its_trials_place() -> None:
    policy = GatedPolicy()
    queries = PolicyQueries(policy, 0, BATCH)
    answers = ask_while_busy(policy, queries, 0, [1, 2, 4])
    assert {number: answer[0, 0] for number, answer in answers.items()} == {0: 0, 1: 1, 2: 2, 4: 4}
    firsts = [[int(item["state"][0]) for item in batch] for batch in policy.batches]
    assert firsts == [[0, 0, 0], [1, 1, 2], [4, 4, 4]], (
        "padding repeats; trials 1 and 4 share a place"
    )
    assert (queries.calls, queries.answers) == (3, 4)
    assert policy.batches[0][1] is policy.batches[0][0], "padding is the same object"


def test_a_query_the_policy_raises_on_spoils_no_other_of_its_batch() -> None:
    policy = GatedPolicy(refuses=[2])
    answers = ask_while_busy(policy, PolicyQueries(policy, 0, BATCH), 0, [1, 2])
    assert [answers[number][0, 0] for number in (0, 1)] == [0, 1]
    assert isinstance(answers[2], UnusableActionsError)
    assert answers[2].failure_class == "policy"
    assert "cannot look at this" in str(answers[2])


def test_a_row_that_is_not_finite_spoils_no_other_of_its_batch() -> None:
    class NotFinite(GatedPolicy):
        def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
            answer = super().infer(observations, noise)
            answer[answer == 1] = np.nan
            return answer

    policy = NotFinite()
    answers = ask_while_busy(policy, PolicyQueries(policy, 0, BATCH), 0, [1, 2])
    assert [answers[number][0, 0] for number in (0, 2)] == [0, 2]
    assert answers[1].failure_class == "action_not_finite"


def test_a_policy_that_is_gone_fails_every_query_of_its_batch() -> None:
    class Gone(GatedPolicy):
        def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
            super().infer(observations, noise)
            raise PolicyServerError("connection lost")

    policy = Gone()
    answers = ask_while_busy(policy, PolicyQueries(policy, 0, BATCH), 0, [1, 2])
    assert {type(answer) for answer in answers.values()} == {PolicyServerError}


def test_a_policy_that_is_gone_when_a_batch_is_asked_one_by_one_fails_every_query_left() -> None:
    class GoneAfterRaising(GatedPolicy):
        def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
            answer = super().infer(observations, noise)
            if len(self.batches) == 2:
                raise PolicyRaisedError("not together")
            if len(self.batches) == 4:
                raise PolicyServerError("connection lost")
            return answer

    policy = GoneAfterRaising()
    answers = ask_while_busy(policy, PolicyQueries(policy, 0, 4), 0, [1, 2, 3])
    assert len(policy.batches) == 4
    errors = [answer for answer in answers.values() if isinstance(answer, Exception)]
    assert {type(error) for error in errors} == {PolicyServerError}
    assert len(errors) >= 2, "the query that was asked, and the one that was not"


@pytest.fixture(scope="module")
def tiny_policy() -> Policy:
    stats = Stats(mean=np.zeros(14), std=np.ones(14), q01=-np.ones(14), q99=np.ones(14))
    return Policy(init_params(TINY.model, 0), TINY, NormStats(state=stats, actions=stats))


def answers_of(policy: Policy, batch: int, groups: Sequence[Sequence[int]]) -> dict[int, bytes]:
    """The answers' bits when the queries of each group are computed together."""
    queries = PolicyQueries(policy, 5, batch)
    found: dict[int, bytes] = {}
    for group in groups:
        waiting = threading.Barrier(len(group))

        def ask_at_once(number: int, waiting: threading.Barrier = waiting) -> bytes:
            waiting.wait(30)
            return queries.ask(
                make_observation(number), trial_number=number, trial_seed=number, query=0
            ).tobytes()

        with ThreadPoolExecutor(len(group)) as pool:
            found |= dict(zip(group, pool.map(ask_at_once, group), strict=True))
    return found


def test_a_real_policys_answer_has_the_same_bits_whoever_shares_its_batch(
    tiny_policy: Policy,
) -> None:
    alone = answers_of(tiny_policy, 4, [[number] for number in range(8)])
    assert answers_of(tiny_policy, 4, [[0, 1, 2, 3], [4, 5, 6, 7]]) == alone
    assert answers_of(tiny_policy, 4, [[0, 5, 2, 7], [4, 1], [6, 3]]) == alone
