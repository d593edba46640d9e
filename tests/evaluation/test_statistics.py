from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
import scipy.special
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.proportion import (
    confint_proportions_2indep,
    proportion_confint,
)
from statsmodels.stats.proportion import (
    test_proportions_2indep as statsmodels_test,
)

from appliance.errors import EvaluationError
from appliance.evaluation.score_tests import score_of_difference, score_of_paired_difference
from appliance.evaluation.statistics import (
    Interval,
    PairedCounts,
    count_pairs,
    difference_interval,
    equivalence_paired,
    equivalence_two_proportions,
    fisher_exact_p,
    mcnemar_exact_p,
    wilson_interval,
)


@pytest.mark.parametrize("confidence", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("n", [1, 2, 5, 20, 40, 100])
def test_wilson_interval_equals_scipy_for_every_count(n: int, confidence: float) -> None:
    for successes in range(n + 1):
        ours = wilson_interval(successes, n, confidence)
        theirs = scipy.stats.binomtest(successes, n).proportion_ci(
            confidence_level=confidence, method="wilson"
        )
        assert ours.low == pytest.approx(theirs.low, abs=1e-12)
        assert ours.high == pytest.approx(theirs.high, abs=1e-12)


def test_wilson_interval_of_the_published_example() -> None:
    # 38 of 40, Newcombe 1998's formula worked by hand to four decimals.
    interval = wilson_interval(38, 40)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.8350, 0.9862)


@given(n=st.integers(1, 10_000), data=st.data())
def test_wilson_interval_holds_the_rate_and_mirrors_failures(n: int, data: st.DataObject) -> None:
    successes = data.draw(st.integers(0, n))
    interval = wilson_interval(successes, n)
    mirrored = wilson_interval(n - successes, n)
    assert 0 <= interval.low <= successes / n <= interval.high <= 1
    assert interval.low == pytest.approx(1 - mirrored.high, abs=1e-12)


@pytest.mark.parametrize(
    ("successes", "n", "confidence"), [(1, 0, 0.95), (-1, 3, 0.95), (4, 3, 0.95), (1, 3, 1.0)]
)
def test_wilson_interval_refuses_what_is_no_count(
    successes: int, n: int, confidence: float
) -> None:
    with pytest.raises(EvaluationError):
        wilson_interval(successes, n, confidence)


def test_intervals_overlap_when_they_share_a_point() -> None:
    low, high = Interval(low=0.0, high=0.2), Interval(low=0.3, high=1.0)
    assert not low.overlaps(high)
    assert not high.overlaps(low)
    assert low.overlaps(Interval(low=0.2, high=0.25))
    assert Interval(low=0.0, high=1.0).overlaps(high)


def test_mcnemar_equals_scipys_binomial_test_for_all_small_counts() -> None:
    for first in range(26):
        for second in range(26):
            ours = mcnemar_exact_p(first, second)
            if first + second == 0:
                assert ours == 1.0
            else:
                theirs = scipy.stats.binomtest(first, first + second, 0.5).pvalue
                assert ours == pytest.approx(theirs, rel=1e-12)


def test_mcnemar_is_exact_where_floats_would_underflow() -> None:
    assert mcnemar_exact_p(0, 1000) == pytest.approx(2.0**-999, rel=1e-15)


def test_pairs_are_counted_trial_by_trial() -> None:
    counts = count_pairs([True, True, False, False, True], [True, False, True, False, False])
    assert counts == PairedCounts(both=1, only_first=2, only_second=1, neither=1)


def test_pairs_of_unequal_length_are_refused() -> None:
    with pytest.raises(EvaluationError, match="2 trials against 1"):
        count_pairs([True, False], [True])


def test_negative_discordant_counts_are_refused() -> None:
    with pytest.raises(EvaluationError):
        mcnemar_exact_p(-1, 2)


def test_wilson_interval_equals_statsmodels() -> None:
    for successes in (0, 1, 37, 40):
        low, high = proportion_confint(successes, 40, alpha=0.05, method="wilson")
        ours = wilson_interval(successes, 40)
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)


def test_mcnemar_equals_statsmodels() -> None:
    for first, second in [(0, 0), (1, 5), (12, 3), (30, 41)]:
        theirs = mcnemar([[7, first], [second, 2]], exact=True).pvalue
        assert mcnemar_exact_p(first, second) == pytest.approx(min(1.0, theirs), rel=1e-12)


def test_fishers_test_equals_scipys_for_all_small_tables() -> None:
    for n_a, n_b in [(1, 1), (3, 8), (9, 9)]:
        for a in range(n_a + 1):
            for b in range(n_b + 1):
                theirs = scipy.stats.fisher_exact([[a, n_a - a], [b, n_b - b]]).pvalue
                assert fisher_exact_p(a, n_a, b, n_b) == pytest.approx(theirs, rel=1e-9)


def test_the_interval_of_a_difference_equals_statsmodels() -> None:
    for a, n_a, b, n_b in [(0, 10, 10, 10), (37, 40, 1, 40), (56, 70, 48, 80), (5, 5, 5, 5)]:
        low, high = confint_proportions_2indep(a, n_a, b, n_b, method="newcomb", compare="diff")
        ours = difference_interval(a, n_a, b, n_b)
        assert (ours.low, ours.high) == pytest.approx((low, high), abs=1e-12)


def test_the_interval_of_a_difference_is_the_published_one() -> None:
    # Newcombe 1998, table II, contrast (a) 56/70 - 48/80, method 10.
    ours = difference_interval(56, 70, 48, 80)
    assert (round(ours.low, 4), round(ours.high, 4)) == (0.0524, 0.3339)


def score_by_search(a: int, n_a: int, b: int, n_b: int, delta: float) -> float:
    """The score test's statistic with its constrained likelihood maximized numerically."""

    def loss(rate_b: float) -> float:
        return -(
            scipy.special.xlogy(a, rate_b + delta)
            + scipy.special.xlog1py(n_a - a, -(rate_b + delta))
            + scipy.special.xlogy(b, rate_b)
            + scipy.special.xlog1py(n_b - b, -rate_b)
        )

    low, high = max(0.0, -delta) + 1e-12, min(1.0, 1 - delta) - 1e-12
    found = scipy.optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-13}
    )
    rate_b, rate_a, n = found.x, found.x + delta, n_a + n_b
    variance = (rate_a * (1 - rate_a) / n_a + rate_b * (1 - rate_b) / n_b) * n / (n - 1)
    return float((a / n_a - b / n_b - delta) / np.sqrt(variance))


@pytest.mark.parametrize("delta", [-0.9, -0.3, -0.1, 0.05, 0.1, 0.3])
@pytest.mark.parametrize(("n_a", "n_b"), [(5, 5), (5, 9), (20, 20), (40, 100)])
def test_the_score_of_a_difference_is_at_the_likeliest_rates(
    n_a: int, n_b: int, delta: float
) -> None:
    # statsmodels 0.15 takes successes for trials in one coefficient of Miettinen and Nurminen's
    # cubic, so that its figures for a difference other than 0 are not the likeliest rates'.
    for a in range(0, n_a + 1, max(1, n_a // 5)):
        for b in range(0, n_b + 1, max(1, n_b // 5)):
            ours = float(score_of_difference(a, n_a, b, n_b, delta))
            assert ours == pytest.approx(score_by_search(a, n_a, b, n_b, delta), abs=1e-4)


def test_the_score_of_no_difference_equals_statsmodels() -> None:
    for a, n_a, b, n_b in [(1, 5, 4, 9), (37, 40, 30, 41), (99, 100, 80, 100)]:
        theirs = statsmodels_test(a, n_a, b, n_b, method="score", compare="diff")
        assert float(score_of_difference(a, n_a, b, n_b, 0.0)) == pytest.approx(theirs.statistic)


@pytest.mark.parametrize("delta", [-0.4, -0.1, 0.05, 0.3])
def test_the_paired_score_is_at_the_likeliest_shares(delta: float) -> None:
    n = 30

    def score(first: int, second: int) -> float:
        def loss(share: float) -> float:
            return -float(
                scipy.special.xlogy(first, share + delta)
                + scipy.special.xlogy(second, share)
                + scipy.special.xlogy(n - first - second, 1 - delta - 2 * share)
            )

        found = scipy.optimize.minimize_scalar(
            loss,
            bounds=(max(0.0, -delta), (1 - delta) / 2),
            method="bounded",
            options={"xatol": 1e-13},
        )
        variance = (2 * found.x + delta - delta**2) / n
        return float(((first - second) / n - delta) / np.sqrt(variance))

    for first in range(0, n + 1, 4):
        for second in range(0, n + 1 - first, 4):
            ours = float(score_of_paired_difference(first, second, n, delta))
            assert ours == pytest.approx(score(first, second), abs=1e-4)


def test_the_paired_score_of_no_difference_is_mcnemars() -> None:
    # McNemar 1947 without continuity correction: (b - c)^2 / (b + c).
    for first, second in [(1, 0), (7, 3), (3, 7), (12, 12)]:
        ours = float(score_of_paired_difference(first, second, 40, 0.0))
        assert ours**2 == pytest.approx((first - second) ** 2 / (first + second))
        assert np.sign(ours) == np.sign(first - second)


COUNTS = st.integers(1, 60).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, st.floats(0.02, 0.6), st.floats(0.01, 0.2))
def test_two_rates_are_equivalent_just_when_their_interval_lies_within_the_margin(
    first: tuple[int, int], second: tuple[int, int], margin: float, alpha: float
) -> None:
    found = equivalence_two_proportions(*first, *second, margin=margin, alpha=alpha)
    assert found.interval.low <= found.difference <= found.interval.high
    assert found.interval.low >= -1
    assert found.interval.high <= 1
    if abs(found.p - alpha) > 1e-9:
        within = -margin < found.interval.low and found.interval.high < margin
        assert found.is_equivalent == within


@settings(max_examples=60, deadline=None)
@given(COUNTS, COUNTS, st.floats(0.02, 0.6))
def test_equivalence_does_not_depend_on_which_is_first(
    first: tuple[int, int], second: tuple[int, int], margin: float
) -> None:
    one = equivalence_two_proportions(*first, *second, margin=margin)
    other = equivalence_two_proportions(*second, *first, margin=margin)
    assert one.p_above == pytest.approx(other.p_below, abs=1e-9)
    assert one.p_below == pytest.approx(other.p_above, abs=1e-9)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=4, max_size=4), st.floats(0.02, 0.6))
def test_paired_equivalence_keeps_the_same_laws(counts: list[int], margin: float) -> None:
    both, first, second, neither = counts
    if sum(counts) == 0:
        return
    pairs = PairedCounts(both=both, only_first=first, only_second=second, neither=neither)
    swapped = PairedCounts(both=both, only_first=second, only_second=first, neither=neither)
    found = equivalence_paired(pairs, margin=margin)
    other = equivalence_paired(swapped, margin=margin)
    assert found.p_above == pytest.approx(other.p_below, abs=1e-9)
    assert found.interval.low == pytest.approx(-other.interval.high, abs=1e-9)
    if abs(found.p - found.alpha) > 1e-9:
        within = -margin < found.interval.low and found.interval.high < margin
        assert found.is_equivalent == within


def test_equal_rates_of_few_trials_are_not_shown_to_be_equivalent() -> None:
    assert not equivalence_two_proportions(9, 10, 9, 10, margin=0.1).is_equivalent
    assert equivalence_two_proportions(900, 1000, 900, 1000, margin=0.1).is_equivalent


@pytest.mark.parametrize(("margin", "alpha"), [(0.0, 0.05), (1.0, 0.05), (0.1, 0.0), (0.1, 0.5)])
def test_a_margin_that_cannot_be_tested_is_refused(margin: float, alpha: float) -> None:
    with pytest.raises(EvaluationError):
        equivalence_two_proportions(1, 2, 1, 2, margin=margin, alpha=alpha)


@pytest.mark.parametrize("counts", [(-1, 5, 1, 5), (1, 0, 1, 5), (1, 5, 6, 5), (1, 5, 1, 0)])
def test_counts_that_are_none_are_refused(counts: tuple[int, int, int, int]) -> None:
    for function in (fisher_exact_p, difference_interval):
        with pytest.raises(EvaluationError):
            function(*counts)
    with pytest.raises(EvaluationError):
        equivalence_two_proportions(*counts, margin=0.1)
