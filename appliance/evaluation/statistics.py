"""Statistics of success counts: intervals, exact tests, equivalence within a declared margin.

Everything here is a function of counts. The exact tests are summed in whole numbers, so that no
figure depends on a library's rounding. Checked against scipy and statsmodels in the tests.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from statistics import NormalDist

from appliance.errors import EvaluationError
from appliance.evaluation.score_tests import score_of_difference, score_of_paired_difference

CONFIDENCE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """An interval for a success rate, in [0, 1], or for a difference of two, in [-1, 1]."""

    low: float
    high: float

    def overlaps(self, other: Interval) -> bool:
        """Whether the two intervals share a point (touching counts)."""
        return self.low <= other.high and other.low <= self.high


@dataclass(frozen=True, slots=True, kw_only=True)
class PairedCounts:
    """How two policies fared on the same trials."""

    both: int
    only_first: int
    only_second: int
    neither: int

    @property
    def trials(self) -> int:
        """How many trials both played."""
        return self.both + self.only_first + self.only_second + self.neither


@dataclass(frozen=True, slots=True, kw_only=True)
class Equivalence:
    """Two one-sided tests (Schuirmann 1987) of a difference of rates within ``margin``.

    ``p_above`` is the p-value of "the difference is -margin or less", ``p_below`` of "it is margin
    or more", ``p`` the larger one. ``interval`` is the two-sided 1 - 2 alpha interval of the same
    test: it lies within the margin just when ``is_equivalent``.
    """

    difference: float
    margin: float
    alpha: float
    p_above: float
    p_below: float
    interval: Interval

    @property
    def p(self) -> float:
        """The p-value of the two tests together."""
        return max(self.p_above, self.p_below)

    @property
    def is_equivalent(self) -> bool:
        """Whether the rates are shown to lie within ``margin`` of each other."""
        return self.p <= self.alpha


def wilson_interval(successes: int, n: int, confidence: float = CONFIDENCE) -> Interval:
    """The Wilson score interval (without continuity correction) for ``successes`` of ``n`` trials.

    Raises EvaluationError for counts that are not ``0 <= successes <= n``, ``n >= 1``, or a
    confidence outside (0, 1). Source: Wilson 1927, as in Brown, Cai, DasGupta 2001, eq. 4.
    """
    if not 0 < confidence < 1:
        raise EvaluationError(f"confidence: {confidence} is not between 0 and 1. Use 0.95.")
    _check_counts(successes, n)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    rate = successes / n
    shrink = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / shrink
    half = z / shrink * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    # The ends 0 and 1 are exact in the formula, but not after rounding.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == n else min(1.0, centre + half)
    return Interval(low=low, high=high)


def count_pairs(first: Sequence[bool], second: Sequence[bool]) -> PairedCounts:
    """Count how two policies fared, trial by trial; both sequences are in the same trial order.

    Raises EvaluationError when their lengths differ.
    """
    if len(first) != len(second):
        raise EvaluationError(
            f"{len(first)} trials against {len(second)}: a paired comparison needs the same trials"
            " on both sides."
        )
    pairs = list(zip(first, second, strict=True))
    return PairedCounts(
        both=pairs.count((True, True)),
        only_first=pairs.count((True, False)),
        only_second=pairs.count((False, True)),
        neither=pairs.count((False, False)),
    )


def mcnemar_exact_p(only_first: int, only_second: int) -> float:
    """The two-sided p-value of the exact McNemar test from the two discordant counts.

    Twice the smaller binomial tail at 1/2, at most 1; without discordant trials 1. Source: exact
    conditional form of McNemar 1947 (a binomial test of ``only_first`` of their sum at 1/2).
    Raises EvaluationError for negative counts.
    """
    if only_first < 0 or only_second < 0:
        raise EvaluationError(
            f"{only_first} and {only_second}: discordant counts are not negative."
        )
    discordant = only_first + only_second
    tail = sum(math.comb(discordant, k) for k in range(min(only_first, only_second) + 1))
    return float(min(Fraction(1), Fraction(2 * tail, 2**discordant)))


def fisher_exact_p(successes_a: int, n_a: int, successes_b: int, n_b: int) -> float:
    """The two-sided p-value of Fisher's exact test that two independent rates are equal.

    The sum over the outcomes with the same number of successes in all that are not more probable
    than the one seen. Raises EvaluationError for counts that are none. Source: Fisher 1935.
    """
    _check_counts(successes_a, n_a)
    _check_counts(successes_b, n_b)
    successes = successes_a + successes_b
    counts = range(max(0, successes - n_b), min(n_a, successes) + 1)
    ways = {count: math.comb(n_a, count) * math.comb(n_b, successes - count) for count in counts}
    seen = ways[successes_a]
    return float(Fraction(sum(each for each in ways.values() if each <= seen), sum(ways.values())))


def difference_interval(
    successes_a: int, n_a: int, successes_b: int, n_b: int, confidence: float = CONFIDENCE
) -> Interval:
    """An interval for rate a minus rate b, independent trials: Newcombe's of two Wilson intervals.

    Source: Newcombe 1998 (Statistics in Medicine 17, 873), method 10. Raises EvaluationError.
    """
    a, b = (
        wilson_interval(successes_a, n_a, confidence),
        wilson_interval(successes_b, n_b, confidence),
    )
    rate_a, rate_b = successes_a / n_a, successes_b / n_b
    difference = rate_a - rate_b
    return Interval(
        low=max(-1.0, difference - math.hypot(rate_a - a.low, b.high - rate_b)),
        high=min(1.0, difference + math.hypot(a.high - rate_a, rate_b - b.low)),
    )


def equivalence_two_proportions(
    successes_a: int, n_a: int, successes_b: int, n_b: int, *, margin: float, alpha: float = 0.05
) -> Equivalence:
    """Whether two success rates of independent trials lie within ``margin`` of each other.

    Two one-sided score tests (Miettinen and Nurminen 1985), asymptotic; with fewer than ten trials
    a side their true level may exceed ``alpha``. Raises EvaluationError for counts that are none,
    a margin or an alpha out of range.
    """
    _check_counts(successes_a, n_a)
    _check_counts(successes_b, n_b)

    def score(delta: float) -> float:
        return float(score_of_difference(successes_a, n_a, successes_b, n_b, delta))

    return _test_equivalence(
        score, difference=successes_a / n_a - successes_b / n_b, margin=margin, alpha=alpha
    )


def equivalence_paired(pairs: PairedCounts, *, margin: float, alpha: float = 0.05) -> Equivalence:
    """Whether two success rates on the same trials lie within ``margin`` of each other.

    Two one-sided score tests for paired rates (Tango 1998), asymptotic. Raises EvaluationError.
    """
    n = pairs.trials
    if n < 1 or min(pairs.both, pairs.only_first, pairs.only_second, pairs.neither) < 0:
        raise EvaluationError(f"{pairs}: not counts of trials. At least one trial is needed.")

    def score(delta: float) -> float:
        return float(score_of_paired_difference(pairs.only_first, pairs.only_second, n, delta))

    difference = (pairs.only_first - pairs.only_second) / n
    return _test_equivalence(score, difference=difference, margin=margin, alpha=alpha)


def _test_equivalence(
    score: Callable[[float], float], *, difference: float, margin: float, alpha: float
) -> Equivalence:
    check_margin(margin, alpha)
    critical = NormalDist().inv_cdf(1 - alpha)
    return Equivalence(
        difference=difference,
        margin=margin,
        alpha=alpha,
        p_above=_tail_above(score(-margin)),
        p_below=_tail_above(-score(margin)),
        interval=Interval(
            low=_crossing(score, critical, -1.0, difference),
            high=_crossing(score, -critical, difference, 1.0),
        ),
    )


def check_margin(margin: float, alpha: float) -> None:
    """Raise EvaluationError unless a margin and a level are ones that can be tested."""
    if not 0 < margin < 1:
        raise EvaluationError(
            f"margin: {margin} is not between 0 and 1. It is a difference of rates: 0.1 is ten"
            " percentage points."
        )
    check_alpha(alpha)


def check_alpha(alpha: float) -> None:
    """Raise EvaluationError unless a test can have this level."""
    if not 0 < alpha < 0.5:
        raise EvaluationError(f"alpha: {alpha} is not between 0 and 0.5. Use 0.05.")


def _tail_above(score: float) -> float:
    """``P(Z >= score)`` for a standard normal Z."""
    return 0.5 * math.erfc(score / math.sqrt(2))


def _crossing(score: Callable[[float], float], level: float, low: float, high: float) -> float:
    """Where the falling ``score`` passes ``level`` in (low, high), by bisection."""
    for _ in range(60):
        middle = (low + high) / 2
        if score(middle) > level:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _check_counts(successes: int, n: int) -> None:
    if n < 1 or not 0 <= successes <= n:
        raise EvaluationError(
            f"{successes} successes of {n} trials: not a count of trials. At least one trial is"
            " needed, and no more successes than trials."
        )
