"""Which failures are findings about a trial, and when they say that nothing can be done here.

A job that failed by no fault of the actions (the simulator failed twice, the trial cannot be begun,
the policy gave nothing for this robot) is a finding about the trial only if such jobs can be done
here at all. The first three jobs decide it, in trial order, whatever comes of later ones: if all
three failed like this, the evaluation ends and no such failure is recorded, so that a machine
without memory, a broken renderer, another machine's trials or a server of another robot are not
written down as a policy's failures. Hence it depends neither on the number of workers nor on what
was interrupted.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Mapping, Sequence

from appliance.errors import ApplianceError, EvaluationError, PolicyRaisedError, SimulatorError
from appliance.evaluation.journal import Journal
from appliance.evaluation.policy_queries import UnusableActionsError
from appliance.simulator.faults import UnplayableTrialError

DECIDING_JOBS = 3


class Findings:
    """What jobs of one kind found, on its way to the journal; any number of threads may add.

    Until one of the first three jobs was done, failures wait. What was done is recorded at once,
    and before what waits for it: one of the first three in the journal shows that jobs can be done.
    """

    def __init__(
        self, journal: Journal, *, numbers: Sequence[int], recorded: Collection[int]
    ) -> None:
        """``numbers``: the jobs in trial order, the first three at least if there are so many.

        ``recorded`` are the numbers already in the journal. Fewer than three jobs decide nothing:
        what they find is recorded as it comes.
        """
        self._journal = journal
        self._lock = threading.Lock()
        self._deciding = tuple(numbers[:DECIDING_JOBS])
        self._is_decided = len(self._deciding) < DECIDING_JOBS or any(
            number in recorded for number in self._deciding
        )
        self._failures: dict[int, ApplianceError] = {}
        self._waiting: list[tuple[str, Mapping[str, object]]] = []
        self._refusal: ApplianceError | None = None

    def add(
        self, number: int, kind: str, row: Mapping[str, object], failure: ApplianceError | None
    ) -> None:
        """Record what job ``number`` found; ``failure`` says why it could not be done.

        Raises SimulatorError, EvaluationError or PolicyRaisedError when none of the first three
        could be done, and again for whatever is found after that.
        """
        with self._lock:
            if self._refusal is not None:
                raise self._refusal
            if failure is None or self._is_decided:
                self._journal.append(kind, row)
                self._is_decided |= number in self._deciding
                self._write_waiting()
            else:
                self._waiting.append((kind, row))
                self._failures[number] = failure
                self._refuse_if_hopeless()

    def _write_waiting(self) -> None:
        while self._is_decided and self._waiting:
            self._journal.append(*self._waiting[0])
            del self._waiting[0]

    def _refuse_if_hopeless(self) -> None:
        if all(number in self._failures for number in self._deciding):
            self._refusal = _hopeless(self._failures[self._deciding[-1]])
            raise self._refusal


def _hopeless(failure: ApplianceError) -> ApplianceError:
    """The error that ends an evaluation of which nothing could be done."""
    first = f"Nothing worked on the first {DECIDING_JOBS} trials"
    again = "Nothing of this is counted against the policy."
    if isinstance(failure, UnplayableTrialError):
        return EvaluationError(
            f"{first}: they cannot be begun on this machine. {failure} {again} Pin other trials, or"
            " leave eval.trials out to search for some."
        )
    if isinstance(failure, SimulatorError):
        return SimulatorError(
            f"{first}: the simulator failed twice on each, in fresh processes. {failure} {again}"
            " Check memory, renderer and eval.call_timeout_s, then run the same command again."
        )
    check = "Check that it is a policy for this robot and these cameras"
    if isinstance(failure, UnusableActionsError) and failure.failure_class == "action_shape":
        return PolicyRaisedError(
            f"{first}: no answer of the policy can be executed. {failure} {again} {check}, and that"
            " it gives as many actions as eval.action_steps, then run the same command again."
        )
    return PolicyRaisedError(
        f"{first}: the policy raised on each. {failure} {again} {check}, then run the same command"
        " again."
    )
