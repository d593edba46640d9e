"""The power of a comparison of two policies, and how many episodes decide one.

Powers are sums over all outcomes, so they hold for small numbers too, where formulas for large ones
do not. Rates are assumptions: a number of episodes holds for these rates and no others.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from fractions import Fraction
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from appliance.errors import EvaluationError
from appliance.evaluation.score_tests import score_of_difference, score_of_paired_difference
from appliance.evaluation.statistics import check_margin
from appliance.manifest.power import POWER_REQUIRED, tail_from

MOST_EPISODES = 2000
"""No larger number is looked for: nobody would play it."""

_NEGLIGIBLE = 1e-12


def power_of_mcnemar(n: int, only_first: float, only_second: float, alpha: float) -> float:
    """The chance that the exact McNemar test of ``n`` common trials rejects at ``alpha``.

    ``only_first`` and ``only_second`` are the true shares of trials that one policy alone solves.
    Raises EvaluationError for shares that are none.
    """
    _check_shares(only_first, only_second)
    discordant_rate = only_first + only_second
    if discordant_rate == 0:
        return 0.0
    first_share = only_first / discordant_rate
    total = 0.0
    for discordant, chance in enumerate(_chances(n, discordant_rate)):
        edge = None if chance < _NEGLIGIBLE else _rejecting_tail(discordant, alpha)
        if edge is not None:
            below = 1 - tail_from(edge + 1, discordant, first_share)
            above = tail_from(discordant - edge, discordant, first_share)
            total += float(chance) * (below + above)
    return min(1.0, max(0.0, total))


def power_of_fisher(n: int, rate_a: float, rate_b: float, alpha: float) -> float:
    """The chance that Fisher's exact test of ``n`` independent trials a side rejects."""
    log_ways = _log_ways(n)
    chances_a, chances_b = _chances(n, rate_a), _chances(n, rate_b)
    total = 0.0
    for successes in range(2 * n + 1):
        a = np.arange(max(0, successes - n), min(n, successes) + 1)
        b = successes - a
        log_share = log_ways[a] + log_ways[b]
        share = np.exp(log_share - log_share.max())
        share /= share.sum()
        # An outcome's p-value: all outcomes that are no likelier, equal ones (rounded) included.
        ordered = np.sort(share)
        p = np.cumsum(ordered)[np.searchsorted(ordered, share * (1 + 1e-9), side="right") - 1]
        total += float((chances_a[a] * chances_b[b])[p <= alpha].sum())
    return min(1.0, total)


@functools.lru_cache(maxsize=4096)
def _rejecting_tail(discordant: int, alpha: float) -> int | None:
    """The largest smaller count at which McNemar's test rejects; None when it never does."""
    most = Fraction(alpha) * 2**discordant / 2
    ways, tail, count = 1, 1, 0
    while tail <= most and 2 * count < discordant:
        ways = ways * (discordant - count) // (count + 1)
        tail += ways
        count += 1
    return count - 1 if count else None


def power_of_equivalence(
    rate_a: float, rate_b: float, n: int, margin: float, alpha: float
) -> float:
    """The chance that ``n`` independent trials a side show two rates within ``margin``."""
    check_margin(margin, alpha)
    critical = NormalDist().inv_cdf(1 - alpha)
    a, b = np.meshgrid(np.arange(n + 1), np.arange(n + 1), indexing="ij")
    shown = (score_of_difference(a, n, b, n, -margin) >= critical) & (
        score_of_difference(a, n, b, n, margin) <= -critical
    )
    chances = np.outer(_chances(n, rate_a), _chances(n, rate_b))
    return float(chances[shown].sum())


def power_of_paired_equivalence(
    only_first: float, only_second: float, n: int, margin: float, alpha: float
) -> float:
    """The chance that ``n`` common trials show two rates within ``margin``."""
    check_margin(margin, alpha)
    _check_shares(only_first, only_second)
    critical = NormalDist().inv_cdf(1 - alpha)
    total = 0.0
    first_share = 0.0
    if only_first + only_second > 0:
        first_share = only_first / (only_first + only_second)
    for discordant, chance in enumerate(_chances(n, only_first + only_second)):
        if chance < _NEGLIGIBLE:
            continue
        first = np.arange(discordant + 1)
        second = discordant - first
        shown = (score_of_paired_difference(first, second, n, -margin) >= critical) & (
            score_of_paired_difference(first, second, n, margin) <= -critical
        )
        total += float(chance) * float(_chances(discordant, first_share)[shown].sum())
    return min(1.0, total)


def episodes_for_mcnemar(only_first: float, only_second: float, alpha: float) -> int | None:
    """So many common trials tell two such policies apart with the required power; None above most.

    One fewer would not do. (Power rises in steps, so a smaller number elsewhere may do by luck.)
    """
    return _fewest(lambda n: power_of_mcnemar(n, only_first, only_second, alpha))


def episodes_for_fisher(rate_a: float, rate_b: float, alpha: float) -> int | None:
    """So many independent trials a side tell two policies of these rates apart."""
    return _fewest(lambda n: power_of_fisher(n, rate_a, rate_b, alpha), most=512)


def episodes_for_equivalence(rate: float, margin: float, alpha: float) -> int | None:
    """So many independent trials a side show two policies of one rate to be equivalent."""
    return _fewest(lambda n: power_of_equivalence(rate, rate, n, margin, alpha), most=512)


def episodes_for_paired_equivalence(discordant: float, margin: float, alpha: float) -> int | None:
    """So many common trials show two policies of one rate to be equivalent.

    ``discordant`` is the share of trials that just one of them solves, half of it each.
    """
    half = discordant / 2
    return _fewest(lambda n: power_of_paired_equivalence(half, half, n, margin, alpha))


def _fewest(power: Callable[[int], float], most: int = MOST_EPISODES) -> int | None:
    low, high = 0, 8
    while power(high) < POWER_REQUIRED:
        if high == most:
            return None
        low, high = high, min(2 * high, most)
    while high - low > 1:
        middle = (low + high) // 2
        if power(middle) >= POWER_REQUIRED:
            high = middle
        else:
            low = middle
    return high


def _chances(n: int, rate: float) -> NDArray[np.float64]:
    """``P(X = 0), ..., P(X = n)`` for ``X`` binomial."""
    counts = np.arange(n + 1)
    if rate <= 0 or rate >= 1:
        return np.asarray(counts == (n if rate >= 1 else 0), dtype=np.float64)
    chances: NDArray[np.float64] = np.exp(
        _log_ways(n) + counts * math.log(rate) + (n - counts) * math.log1p(-rate)
    )
    return chances


def _log_ways(n: int) -> NDArray[np.float64]:
    """The logarithms of the numbers of ways to choose 0, ..., n of ``n``."""
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    ways: NDArray[np.float64] = log_factorial[n] - log_factorial - log_factorial[::-1]
    return ways


def _check_shares(only_first: float, only_second: float) -> None:
    if min(only_first, only_second) < 0 or only_first + only_second > 1 + 1e-12:
        raise EvaluationError(
            f"{only_first} and {only_second}: shares of trials are not negative, and together not"
            " more than one."
        )
