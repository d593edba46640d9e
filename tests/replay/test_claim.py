"""A declared rate is judged as full enumeration of the binomial distribution judges it."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact

from appliance.manifest.model import SuccessRatePart
from appliance.manifest.power import POWER_REQUIRED, bounds
from appliance.replay.claim import (
    ClaimOutcome,
    chance_to_decide,
    decide_claim,
    episodes_to_decide,
    fisher_exact_p,
    judge_claim,
)

claims = st.builds(
    lambda value, margin, alpha: SuccessRatePart(
        value=value / 100, margin=margin / 100, alpha=alpha
    ),
    st.integers(0, 100),
    st.integers(1, 60),
    st.sampled_from([0.01, 0.05, 0.1, 0.5]),
)


def exact_tail_from(count: int, episodes: int, rate: Fraction) -> Fraction:
    """P(X >= count) in whole numbers."""
    terms = range(max(count, 0), episodes + 1)
    return sum(
        (math.comb(episodes, k) * rate**k * (1 - rate) ** (episodes - k) for k in terms),
        start=Fraction(0),
    )


def enumerate_outcome(claim: SuccessRatePart, successes: int, episodes: int) -> ClaimOutcome:
    """The definition, in exact fractions: two one-sided tests, and their opposite."""
    lower, upper = bounds(claim.value, claim.margin)
    if lower is None and upper is None:
        return ClaimOutcome.UNDECIDED
    alpha = Fraction(str(claim.alpha))
    above, below = [], []  # one-sided p-values: "the rate is above", "the rate is below"
    for bound in (lower, upper):
        if bound is None:
            above.append(None)
            below.append(None)
            continue
        rate = Fraction(str(bound))
        above.append(exact_tail_from(successes, episodes, rate))
        below.append(1 - exact_tail_from(successes + 1, episodes, rate))
    if (lower is None or above[0] <= alpha) and (upper is None or below[1] <= alpha):
        return ClaimOutcome.CONFIRMED
    each = alpha if lower is None or upper is None else alpha / 2
    if (lower is not None and below[0] <= each) or (upper is not None and above[1] <= each):
        return ClaimOutcome.CONTRADICTED
    return ClaimOutcome.UNDECIDED


@settings(max_examples=50, deadline=None)
@given(claims, st.integers(1, 25))
def test_every_count_is_judged_as_exact_fractions_judge_it(claim, episodes):
    for successes in range(episodes + 1):
        assert decide_claim(claim, successes, episodes) is enumerate_outcome(
            claim, successes, episodes
        ), successes


@settings(max_examples=60, deadline=None)
@given(claims, st.integers(1, 150), st.integers(0, 100))
def test_the_chance_to_decide_is_that_of_full_enumeration(claim, episodes, percent):
    rate = percent / 100
    decided = [
        decide_claim(claim, successes, episodes) is not ClaimOutcome.UNDECIDED
        for successes in range(episodes + 1)
    ]
    expected = binom.pmf(range(episodes + 1), episodes, rate)[decided].sum()
    assert chance_to_decide(claim, rate, episodes) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(claims, st.integers(1, 150))
def test_a_true_claim_is_contradicted_and_a_false_one_confirmed_no_more_often_than_alpha(
    claim, episodes
):
    lower, upper = bounds(claim.value, claim.margin)
    counts = range(episodes + 1)
    outcomes = [decide_claim(claim, count, episodes) for count in counts]

    def chance(outcome: ClaimOutcome, rate: float) -> float:
        return binom.pmf(counts, episodes, rate)[[each is outcome for each in outcomes]].sum()

    for bound in (lower, upper):
        if bound is not None:
            assert chance(ClaimOutcome.CONFIRMED, bound) <= claim.alpha + 1e-9
            assert chance(ClaimOutcome.CONTRADICTED, bound) <= claim.alpha + 1e-9
    assert chance(ClaimOutcome.CONTRADICTED, claim.value) <= claim.alpha + 1e-9


@settings(max_examples=60, deadline=None)
@given(claims, st.integers(0, 100), st.integers(1, 50))
def test_the_number_of_episodes_decides_and_one_fewer_does_not(claim, percent, least):
    rate = percent / 100
    needed = episodes_to_decide(claim, rate, least=least, most=5000)
    if needed is None:
        assert chance_to_decide(claim, rate, 5000) < POWER_REQUIRED
        return
    assert needed >= least
    assert chance_to_decide(claim, rate, needed) >= POWER_REQUIRED
    if needed > least:
        assert chance_to_decide(claim, rate, needed - 1) < POWER_REQUIRED


def test_an_undecided_claim_names_a_number_that_decides():
    claim = SuccessRatePart(value=0.9, margin=0.1, alpha=0.05)
    result = judge_claim(claim, 17, 20)
    assert result.outcome is ClaimOutcome.UNDECIDED
    assert result.episodes_needed is not None
    assert result.episodes_needed > 20
    assert chance_to_decide(claim, 17 / 20, result.episodes_needed) >= POWER_REQUIRED
    assert f"about {result.episodes_needed} episodes would decide" in result.sentence


def test_a_rate_on_the_edge_of_the_margin_cannot_be_decided_by_any_number():
    claim = SuccessRatePart(value=0.7, margin=0.1, alpha=0.05)
    result = judge_claim(claim, 12, 20)
    assert (result.outcome, result.episodes_needed) == (ClaimOutcome.UNDECIDED, None)
    assert "more than 10,000" in result.sentence


def test_counts_that_are_none_are_refused():
    claim = SuccessRatePart(value=0.5, margin=0.1, alpha=0.05)
    for successes, episodes in ((1, 0), (-1, 5), (6, 5)):
        with pytest.raises(ValueError, match="not a count"):
            judge_claim(claim, successes, episodes)


@given(st.integers(0, 30), st.integers(1, 30), st.integers(0, 30), st.integers(1, 30))
def test_fishers_test_is_scipys(first, first_of, second, second_of):
    first, second = min(first, first_of), min(second, second_of)
    table = [[first, first_of - first], [second, second_of - second]]
    expected = fisher_exact(table).pvalue
    assert fisher_exact_p(first, first_of, second, second_of) == pytest.approx(expected, rel=1e-6)
