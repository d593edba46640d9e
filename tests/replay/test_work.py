"""How much is repeated: what was asked for, or what the budget reaches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.errors import ReplayError
from appliance.replay.levels import Level
from appliance.replay.places import Places
from appliance.replay.subject import Subject, open_subject
from appliance.replay.work import Passage, choose_extent
from tests.conftest import GOLDEN

TEN = Passage(first_step=10, num_steps=2)


@pytest.fixture
def golden() -> Iterator[Subject]:
    """The smoke golden, whose stages' times are recorded."""
    with open_subject(GOLDEN / "smoke.yaml", Places()) as subject:
        assert isinstance(subject, Subject)
        yield subject


def test_auto_goes_as_far_as_the_budget_reaches(golden: Subject) -> None:
    assert golden.reference is not None
    seconds = golden.reference.seconds["train"] + golden.reference.seconds["evaluate"]
    whole = choose_extent(golden, None, None, seconds + 1)
    assert (whole.train, whole.evaluate, whole.spot) == (True, True, None)
    some = choose_extent(golden, None, None, seconds - 1)
    assert (some.train, some.evaluate) == (False, False)
    assert some.spot == Passage(first_step=0, num_steps=3)
    assert "the budget" in some.why


def test_auto_evaluates_a_checkpoint_at_hand_when_training_costs_too_much(golden: Subject) -> None:
    assert golden.reference is not None
    at_hand = replace(golden, train_artifacts=Path("a"), train_content=Path("c"))
    budget_s = golden.reference.seconds["evaluate"] + 1
    extent = choose_extent(at_hand, None, None, budget_s)
    assert (extent.train, extent.evaluate, extent.adopt) == (False, True, True)


def test_auto_takes_a_few_steps_when_the_cost_is_not_known(golden: Subject) -> None:
    extent = choose_extent(replace(golden, reference=None), None, None, 1e9)
    assert extent.spot is not None
    assert (extent.train, extent.evaluate) == (False, False)


def test_what_is_asked_for_is_done_whatever_it_costs(golden: Subject) -> None:
    at_hand = replace(golden, train_artifacts=Path("a"), train_content=Path("c"))

    def work(subject: Subject, level: Level, spot: Passage | None = None) -> tuple[object, ...]:
        extent = choose_extent(subject, level, spot, 0.0)
        return extent.spot, extent.train, extent.evaluate, extent.adopt

    assert work(golden, Level.R1) == (None, False, False, False)
    assert work(golden, Level.R2) == (None, True, False, False)
    assert work(golden, Level.R2, TEN) == (TEN, False, False, False)
    assert work(golden, Level.R3) == (None, True, True, False)
    assert work(at_hand, Level.R3, TEN) == (TEN, False, True, True)
    assert work(at_hand, Level.R4) == (None, False, True, True)
    assert work(at_hand, Level.R5) == (None, True, True, False)
    with pytest.raises(ReplayError, match="--artifacts"):
        work(golden, Level.R4)
