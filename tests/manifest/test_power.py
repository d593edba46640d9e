from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom

from appliance.manifest.power import (
    POWER_REQUIRED,
    TIE,
    bounds,
    confirming_counts,
    episodes_to_confirm,
    margin_to_confirm,
    power_to_confirm,
    tail_from,
)


@pytest.mark.parametrize("episodes", [1, 2, 7, 100, 5000, 100_000])
@pytest.mark.parametrize("rate", [1e-9, 0.001, 0.3, 0.5, 0.93, 0.999, 1 - 1e-9])
def test_tails_are_those_of_scipy(episodes, rate):
    counts = {0, 1, episodes // 3, int(episodes * rate), int(episodes * rate) + 1, episodes}
    for count in counts | {episodes + 1}:
        assert tail_from(count, episodes, rate) == pytest.approx(
            binom.sf(count - 1, episodes, rate), abs=1e-9
        )


def test_tails_at_the_ends():
    assert tail_from(3, 5, 0.0) == 0.0
    assert tail_from(3, 5, 1.0) == 1.0
    assert tail_from(0, 5, 0.0) == 1.0
    assert tail_from(6, 5, 1.0) == 0.0


def enumerate_counts(episodes: int, value: float, margin: float, alpha: float) -> list[int]:
    """Every success count that confirms, tested one by one with scipy's binomial."""
    lower, upper = bounds(value, margin)
    return [
        successes
        for successes in range(episodes + 1)
        if (lower is None or binom.sf(successes - 1, episodes, lower) <= alpha + TIE)
        and (upper is None or binom.cdf(successes, episodes, upper) <= alpha + TIE)
    ]


@settings(max_examples=200, deadline=None)
@given(
    st.integers(1, 200),
    st.integers(0, 100),
    st.integers(1, 60),
    st.sampled_from([0.01, 0.05, 0.1]),
)
def test_counts_and_power_are_those_of_full_enumeration(episodes, value, margin, alpha):
    claim = (value / 100, margin / 100, alpha)
    confirming = enumerate_counts(episodes, *claim)
    counts = confirming_counts(episodes, *claim)
    assert counts == ((confirming[0], confirming[-1]) if confirming else None)
    expected = sum(binom.pmf(successes, episodes, claim[0]) for successes in confirming)
    assert power_to_confirm(episodes, *claim) == pytest.approx(expected, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 20), st.integers(1, 10), st.sampled_from([0.01, 0.05, 0.1]))
def test_the_number_offered_decides_and_one_fewer_does_not(value, margin, alpha):
    claim = (value / 20, margin / 20, alpha)
    if bounds(*claim[:2]) == (None, None):
        return
    episodes = episodes_to_confirm(*claim, most=100_000)
    assert episodes is not None
    assert power_to_confirm(episodes, *claim) >= POWER_REQUIRED
    assert episodes == 1 or power_to_confirm(episodes - 1, *claim) < POWER_REQUIRED


def test_no_number_is_offered_above_the_most():
    assert episodes_to_confirm(0.5, 0.01, 0.05, most=1000) is None


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 300), st.integers(0, 20))
def test_the_margin_offered_decides_and_a_hundredth_less_does_not(episodes, value):
    margin = margin_to_confirm(episodes, value / 20, 0.05)
    if margin is None:
        margin = max(value, 20 - value) / 20  # the least that covers every rate
    else:
        assert bounds(value / 20, margin) != (None, None)
        assert power_to_confirm(episodes, value / 20, margin, 0.05) >= POWER_REQUIRED
    if margin > 0.01:
        assert power_to_confirm(episodes, value / 20, margin - 0.01, 0.05) < POWER_REQUIRED


def test_bounds_outside_zero_and_one_need_no_test():
    assert bounds(0.35, 0.65) == (None, None)
    assert bounds(0.9, 0.1) == (0.8, None)
    assert bounds(0.1, 0.1) == (None, 0.2)
    assert bounds(0.5, 0.1) == (0.4, 0.6)
