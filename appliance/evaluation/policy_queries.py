"""Queries of the policy: seeded noise, batches of a fixed shape, and the check of what comes back.

What is guaranteed: the answer to a query is a function of its observation, the policy, the policy
seed, the trial's seed and number, and ``query_batch``; not of the number of workers, their speed,
or which other queries share the batch. The noise comes from a stream named by trial and query. A
program compiled for another batch size rounds differently (measured: no answer of the tiny preset
has the same bits in batches of 1, 2, 4 and 8), so every call has the same shape, filled up where
fewer ask. A trial keeps its place (its number modulo the size), so that not even a kernel which
treats places differently (measured: none does) can tell runs apart.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import EvaluationError, PolicyRaisedError
from appliance.evaluation.protocols import ClosablePolicy, PolicyProtocol
from appliance.simulator.values import Observation
from appliance.streams import stream

ROBOT_DIMS = 14


class UnusableActionsError(EvaluationError):
    """The policy gave nothing that can be executed; it ends the episode, not the evaluation."""

    def __init__(self, failure_class: str, text: str) -> None:
        super().__init__(text)
        self.failure_class = failure_class


class QueriesClosedError(EvaluationError):
    """A query was not asked, because the evaluation ends."""

    def __init__(self) -> None:
        super().__init__("The evaluation ends: the policy is not asked any more.")


@dataclass(slots=True, eq=False)
class _Query:
    """A query on its way: what is asked, from which place, and what came of it."""

    place: int
    item: Mapping[str, Any]
    noise_HxA: NDArray[np.float32]
    actions_HxD: NDArray[np.float32] | None = None
    error: BaseException | None = None

    @property
    def is_answered(self) -> bool:
        return self.actions_HxD is not None or self.error is not None


class PolicyQueries:
    """Asks one policy for the actions of any number of trials, from any number of threads.

    Whoever finds the policy idle asks for all that wait, so that batches fill by themselves when
    the policy is what takes the time, and nobody ever waits for a batch to fill.
    """

    def __init__(self, policy: PolicyProtocol, policy_seed: int, query_batch: int = 1) -> None:
        self._policy = policy
        self._policy_seed = policy_seed
        self._query_batch = query_batch
        self._turn = threading.Condition()
        self._waiting: list[_Query] = []
        self._is_busy = False
        self._is_closed = False
        self.calls = 0
        self.answers = 0

    def ask(
        self, observation: Observation, *, trial_number: int, trial_seed: int, query: int
    ) -> NDArray[np.float32]:
        """The policy's ``actions_HxD``, finite float32.

        Raises UnusableActionsError, PolicyServerError when the policy is gone, and
        QueriesClosedError after ``close``.
        """
        mine = _Query(
            place=trial_number % self._query_batch,
            item={
                "images": dict(observation["images"]),
                "state": np.asarray(observation["state"], dtype=np.float32),
                "prompt": observation["instruction"],
            },
            noise_HxA=self._noise(trial_seed, query),
        )
        with self._turn:
            self._waiting.append(mine)
        while True:
            with self._turn:
                self._turn.wait_for(
                    lambda: mine.is_answered or self._is_closed or not self._is_busy
                )
                if mine.is_answered:
                    break
                if self._is_closed:
                    raise QueriesClosedError
                self._is_busy = True
                batch = self._take_batch()
            try:
                self._answer(batch)
            finally:
                with self._turn:
                    self._is_busy = False
                    self._turn.notify_all()
        if mine.error is not None:
            raise mine.error
        assert mine.actions_HxD is not None
        return mine.actions_HxD

    def close(self) -> None:
        """Ask nothing any more: whoever waits is woken, and a ClosablePolicy is closed."""
        with self._turn:
            self._is_closed = True
            self._turn.notify_all()
        if isinstance(self._policy, ClosablePolicy):
            self._policy.close()

    def _take_batch(self) -> list[_Query]:
        """The longest waiting query of every place."""
        batch: dict[int, _Query] = {}
        for each in self._waiting:
            batch.setdefault(each.place, each)
        taken = list(batch.values())
        self._waiting = [each for each in self._waiting if each not in taken]
        return taken

    def _answer(self, batch: Sequence[_Query]) -> None:
        """Answer every query of the batch; what ends the evaluation is what the others get."""
        try:
            self._answer_or_split(batch)
        except BaseException as error:
            for each in batch:
                if not each.is_answered:
                    each.error = error
            raise

    def _answer_or_split(self, batch: Sequence[_Query]) -> None:
        """Answer the queries of the batch, those of a failed batch one by one."""
        try:
            self._answer_together(batch)
        except (PolicyRaisedError, UnusableActionsError) as error:
            if len(batch) > 1:
                for each in batch:
                    self._answer_or_split([each])
            else:
                batch[0].error = _as_unusable(error)

    def _answer_together(self, batch: Sequence[_Query]) -> None:
        by_place = {each.place: each for each in batch}
        rows = [by_place.get(place, batch[0]) for place in range(self._query_batch)]
        noise_BxHxA = np.stack([each.noise_HxA for each in rows])
        answer = self._policy.infer([each.item for each in rows], noise_BxHxA)
        wanted = (self._query_batch, self._policy.noise_shape[0], ROBOT_DIMS)
        actions_BxHxD = check_answer(answer, wanted)
        # Nothing is handed out before every row is found good: a bad one sends all back.
        good = [check_finite(actions_BxHxD[each.place]) for each in batch]
        for each, actions_HxD in zip(batch, good, strict=True):
            each.actions_HxD = actions_HxD
        self.calls += 1
        self.answers += len(batch)

    def _noise(self, trial_seed: int, query: int) -> NDArray[np.float32]:
        generator = stream(self._policy_seed, "policy_noise", trial_seed, query)
        return generator.standard_normal(self._policy.noise_shape, dtype=np.float32)


def check_answer(answer: object, wanted: tuple[int, int, int]) -> NDArray[np.float32]:
    """``answer`` as float32 of the wanted shape; raises UnusableActionsError (``action_shape``)."""
    try:
        actions = np.asarray(answer)
    except ValueError as error:
        raise UnusableActionsError(
            "action_shape",
            f"The policy answered with something ragged instead of {wanted} numbers.",
        ) from error
    if actions.shape != wanted or actions.dtype.kind not in "fiu":
        raise UnusableActionsError(
            "action_shape",
            f"The policy answered with shape {actions.shape}, type {actions.dtype}, instead of"
            f" {wanted} numbers.",
        )
    with np.errstate(over="ignore"):
        actions_BxHxD: NDArray[np.float32] = actions.astype(np.float32)
    return actions_BxHxD


def check_finite(actions_HxD: NDArray[np.float32]) -> NDArray[np.float32]:
    """``actions_HxD``; raises UnusableActionsError (``action_not_finite``)."""
    if not np.isfinite(actions_HxD).all():
        count = int((~np.isfinite(actions_HxD)).sum())
        raise UnusableActionsError(
            "action_not_finite", f"The policy answered with {count} values that are not finite."
        )
    return actions_HxD


def _as_unusable(error: PolicyRaisedError | UnusableActionsError) -> UnusableActionsError:
    if isinstance(error, UnusableActionsError):
        return error
    unusable = UnusableActionsError("policy", f"The policy raised: {error}")
    unusable.__cause__ = error
    return unusable
