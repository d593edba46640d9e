from __future__ import annotations

import itertools

import numpy as np
import pytest
import scipy.stats

from appliance.errors import EvaluationError
from appliance.evaluation.episodes_needed import (
    MOST_EPISODES,
    episodes_for_equivalence,
    episodes_for_fisher,
    episodes_for_mcnemar,
    episodes_for_paired_equivalence,
    power_of_equivalence,
    power_of_fisher,
    power_of_mcnemar,
    power_of_paired_equivalence,
)
from appliance.evaluation.statistics import (
    PairedCounts,
    equivalence_paired,
    equivalence_two_proportions,
    fisher_exact_p,
    mcnemar_exact_p,
)
from appliance.manifest.power import POWER_REQUIRED


def chance_of_pairs(first: int, second: int, n: int, p_first: float, p_second: float) -> float:
    shares = [p_first, p_second, 1 - p_first - p_second]
    return float(scipy.stats.multinomial.pmf([first, second, n - first - second], n, shares))


@pytest.mark.parametrize("shares", [(0.3, 0.1), (0.05, 0.05), (0.5, 0.0), (0.0, 1.0)])
@pytest.mark.parametrize("n", [1, 6, 14])
def test_mcnemars_power_is_the_sum_over_all_outcomes(n: int, shares: tuple[float, float]) -> None:
    expected = sum(
        chance_of_pairs(first, second, n, *shares)
        for first, second in itertools.product(range(n + 1), repeat=2)
        if first + second <= n and mcnemar_exact_p(first, second) <= 0.05
    )
    assert power_of_mcnemar(n, *shares, 0.05) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rates", [(0.9, 0.4), (0.5, 0.5), (1.0, 0.6)])
@pytest.mark.parametrize("n", [1, 9, 14])
def test_fishers_power_is_the_sum_over_all_outcomes(n: int, rates: tuple[float, float]) -> None:
    expected = sum(
        scipy.stats.binom.pmf(a, n, rates[0]) * scipy.stats.binom.pmf(b, n, rates[1])
        for a, b in itertools.product(range(n + 1), repeat=2)
        if fisher_exact_p(a, n, b, n) <= 0.05
    )
    assert power_of_fisher(n, *rates, 0.05) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("rates", [(0.9, 0.9), (0.5, 0.6), (1.0, 0.8)])
def test_the_power_of_equivalence_is_the_sum_over_all_outcomes(rates: tuple[float, float]) -> None:
    n, margin, alpha = 12, 0.4, 0.05
    expected = sum(
        scipy.stats.binom.pmf(a, n, rates[0]) * scipy.stats.binom.pmf(b, n, rates[1])
        for a, b in itertools.product(range(n + 1), repeat=2)
        if equivalence_two_proportions(a, n, b, n, margin=margin, alpha=alpha).is_equivalent
    )
    assert expected > 0.1
    power = power_of_equivalence(*rates, n, margin, alpha)
    assert power == pytest.approx(expected, abs=1e-9)


def test_the_power_of_paired_equivalence_is_the_sum_over_all_outcomes() -> None:
    n, margin, shares = 12, 0.4, (0.1, 0.2)
    expected = sum(
        chance_of_pairs(first, second, n, *shares)
        for first, second in itertools.product(range(n + 1), repeat=2)
        if first + second <= n
        and equivalence_paired(
            PairedCounts(both=n - first - second, only_first=first, only_second=second, neither=0),
            margin=margin,
        ).is_equivalent
    )
    assert expected > 0.1
    power = power_of_paired_equivalence(*shares, n, margin, 0.05)
    assert power == pytest.approx(expected, abs=1e-9)


def test_the_number_of_episodes_is_enough_and_one_fewer_is_not() -> None:
    n = episodes_for_mcnemar(0.3, 0.1, 0.05)
    assert n is not None
    assert power_of_mcnemar(n, 0.3, 0.1, 0.05) >= POWER_REQUIRED
    assert power_of_mcnemar(n - 1, 0.3, 0.1, 0.05) < POWER_REQUIRED
    n = episodes_for_fisher(0.9, 0.7, 0.05)
    assert n is not None
    assert power_of_fisher(n, 0.9, 0.7, 0.05) >= POWER_REQUIRED
    assert power_of_fisher(n - 1, 0.9, 0.7, 0.05) < POWER_REQUIRED
    n = episodes_for_equivalence(0.9, 0.1, 0.05)
    assert n is not None
    assert power_of_equivalence(0.9, 0.9, n, 0.1, 0.05) >= POWER_REQUIRED
    assert power_of_equivalence(0.9, 0.9, n - 1, 0.1, 0.05) < POWER_REQUIRED
    n = episodes_for_paired_equivalence(0.2, 0.1, 0.05)
    assert n is not None
    assert power_of_paired_equivalence(0.1, 0.1, n, 0.1, 0.05) >= POWER_REQUIRED
    assert power_of_paired_equivalence(0.1, 0.1, n - 1, 0.1, 0.05) < POWER_REQUIRED


def test_what_no_number_decides_has_none() -> None:
    assert episodes_for_mcnemar(0.1, 0.1, 0.05) is None
    assert episodes_for_mcnemar(0.0, 0.0, 0.05) is None
    assert episodes_for_fisher(0.5, 0.5, 0.05) is None
    assert power_of_mcnemar(MOST_EPISODES, 0.1, 0.1, 0.05) < 0.06


def test_the_level_of_the_equivalence_tests_is_kept_where_it_is_promised() -> None:
    """At a true difference of the margin, equivalence is shown in about alpha of all cases."""
    for rate in np.linspace(0.55, 0.95, 5):
        assert power_of_equivalence(rate, rate - 0.1, 100, 0.1, 0.05) < 0.06
        assert power_of_paired_equivalence(0.15, 0.05, 100, 0.1, 0.05) < 0.06


@pytest.mark.parametrize("shares", [(-0.1, 0.2), (0.6, 0.5)])
def test_shares_that_are_none_are_refused(shares: tuple[float, float]) -> None:
    with pytest.raises(EvaluationError, match="shares of trials"):
        power_of_mcnemar(5, *shares, 0.05)
    with pytest.raises(EvaluationError, match="shares of trials"):
        power_of_paired_equivalence(*shares, 5, 0.1, 0.05)
