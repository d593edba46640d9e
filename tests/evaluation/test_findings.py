from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from appliance.errors import ApplianceError, EvaluationError, PolicyRaisedError, SimulatorError
from appliance.evaluation.findings import Findings
from appliance.evaluation.journal import Journal
from appliance.evaluation.policy_queries import UnusableActionsError
from appliance.simulator.faults import UnplayableTrialError
from tests.evaluation.fakes import World, read_content, run_evaluation

ALL_DONE = "all done"


class MemoryJournal:
    """What was recorded: job numbers, in order."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def append(self, kind: str, row: Mapping[str, Any]) -> None:
        self.numbers.append(row["number"])


def settle(journal: MemoryJournal, fails: Sequence[bool], order: Sequence[int]) -> str:
    """One session in which jobs finish in ``order``: its error, or what says there is none."""
    findings = Findings(
        cast(Journal, journal), numbers=range(len(fails)), recorded=set(journal.numbers)
    )
    try:
        for number in order:
            failure = SimulatorError(f"job {number}") if fails[number] else None
            findings.add(number, "episode", {"number": number}, failure)
    except SimulatorError as error:
        return str(error)
    return ALL_DONE


FAILING = [
    fails for count in range(1, 6) for fails in itertools.product((False, True), repeat=count)
]


@pytest.mark.parametrize("fails", FAILING, ids=lambda fails: "".join("ox"[fail] for fail in fails))
def test_what_ends_an_evaluation_is_a_matter_of_trial_numbers_not_of_order_or_interruptions(
    fails: tuple[bool, ...],
) -> None:
    is_hopeless = len(fails) >= 3 and all(fails[:3])
    jobs = range(len(fails))
    for order in itertools.permutations(jobs):
        for interrupted_after in range(len(fails)):
            journal = MemoryJournal()
            first = settle(journal, fails, order[:interrupted_after])
            left = [number for number in jobs if number not in journal.numbers]
            ends = {first, settle(journal, fails, left)} - {ALL_DONE}
            assert len(ends) == is_hopeless
            if is_hopeless:
                assert "job 2" in ends.pop()
                assert not any(fails[number] for number in journal.numbers)
            else:
                assert sorted(journal.numbers) == list(jobs)


def test_nothing_is_recorded_after_the_evaluation_was_refused() -> None:
    journal = MemoryJournal()
    findings = Findings(cast(Journal, journal), numbers=range(9), recorded=())
    failures = [UnplayableTrialError(f"seed {number}") for number in range(3)]
    for number in (0, 1):
        findings.add(number, "episode", {"number": number}, failures[number])
    with pytest.raises(EvaluationError, match="seed 2"):
        findings.add(2, "episode", {"number": 2}, failures[2])
    for failure in (None, failures[0]):
        with pytest.raises(EvaluationError, match="seed 2"):
            findings.add(3, "episode", {"number": 3}, failure)
    assert journal.numbers == []


@pytest.mark.parametrize(
    ("failure", "kind", "text"),
    [
        (UnplayableTrialError("seed 7"), EvaluationError, "cannot be begun on this machine"),
        (SimulatorError("no memory"), SimulatorError, "failed twice on each"),
        (UnusableActionsError("policy", "KeyError"), PolicyRaisedError, "the policy raised"),
        (UnusableActionsError("action_shape", "(1, 7)"), PolicyRaisedError, r"eval\.action_steps"),
    ],
)
def test_the_refusal_says_what_failed_and_what_to_do(
    failure: ApplianceError, kind: type[ApplianceError], text: str
) -> None:
    findings = Findings(cast(Journal, MemoryJournal()), numbers=range(3), recorded=())
    findings.add(0, "episode", {"number": 0}, failure)
    findings.add(1, "episode", {"number": 1}, failure)
    with pytest.raises(kind, match=f"first 3 trials.*{text}") as raised:
        findings.add(2, "episode", {"number": 2}, failure)
    assert str(failure) in str(raised.value)


def refuse_seeds_1_to_3(name: str, seed: int) -> None:
    if name == "reset" and seed in (1, 2, 3):
        raise UnplayableTrialError(f"seed {seed} cannot be begun")


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_the_first_three_trials_decide_whatever_later_ones_do_with_any_number_of_workers(
    tmp_path: Path, workers: int
) -> None:
    options: dict[str, Any] = {"world": World(before_call=refuse_seeds_1_to_3), "episodes": 6}
    with pytest.raises(EvaluationError, match=r"first 3 trials.*seed 3 cannot be begun"):
        run_evaluation(tmp_path / "refused", trials=(1, 2, 3, 4, 5, 6), workers=workers, **options)
    journal = (tmp_path / "refused" / "observed" / "journal.jsonl").read_text()
    assert "unplayable" not in journal
    for folder, count in (("one", 1), ("some", workers)):
        run_evaluation(tmp_path / folder, trials=(1, 2, 4, 3, 5, 6), workers=count, **options)
    assert read_content(tmp_path / "some") == read_content(tmp_path / "one")
