"""Can so many episodes decide a claimed success rate? Exact binomial, two one-sided tests.

The claim "rate ``value`` within ``margin``" is confirmed by ``successes`` of ``episodes`` when both
"the rate is ``value - margin`` or less" and "the rate is ``value + margin`` or more" are rejected,
each by the exact binomial test at level ``alpha``; a bound outside [0, 1] needs no test. The power
is the chance of that when the true rate is ``value``. Source: Schuirmann 1987 (two one-sided
tests). Probabilities are summed from the terms of the distribution; the tests compare with scipy,
which is not imported here because it takes a second to load.
"""

from __future__ import annotations

import math
from collections.abc import Callable

POWER_REQUIRED = 0.8
"""The customary power: a true claim must be confirmed four times of five."""
TIE = 1e-12
"""Rounding of a probability: one that is exactly ``alpha`` must count as ``alpha`` or less."""


def confirming_counts(
    episodes: int, value: float, margin: float, alpha: float
) -> tuple[int, int] | None:
    """The least and the greatest number of successes that confirm the claim; None if none does."""
    lower, upper = bounds(value, margin)
    low = 0 if lower is None else least_above(episodes, lower, alpha)
    high = episodes if upper is None else episodes - least_above(episodes, 1 - upper, alpha)
    return (low, high) if low <= high else None


def least_above(episodes: int, rate: float, alpha: float) -> int:
    """The least count whose exact binomial test rejects, at ``alpha``, "the rate is ``rate``".

    The alternative is a greater rate; ``episodes + 1`` when no count rejects.
    """
    return _first(0, episodes + 1, lambda count: tail_from(count, episodes, rate) <= alpha + TIE)


def bounds(value: float, margin: float) -> tuple[float | None, float | None]:
    """``value - margin`` and ``value + margin``, None for one that no rate can reach.

    Rounded to nine decimals, so that 0.35 + 0.65 is one.
    """
    lower, upper = round(value - margin, 9), round(value + margin, 9)
    return (lower if lower > 0 else None), (upper if upper < 1 else None)


def power_to_confirm(episodes: int, value: float, margin: float, alpha: float) -> float:
    """The probability in [0, 1] that ``episodes`` trials confirm a claim that is exactly true."""
    counts = confirming_counts(episodes, value, margin, alpha)
    if counts is None:
        return 0.0
    low, high = counts
    missed = 1 - tail_from(low, episodes, value) + tail_from(high + 1, episodes, value)
    return min(1.0, max(0.0, 1 - missed))


def episodes_to_confirm(value: float, margin: float, alpha: float, most: int) -> int | None:
    """A number of episodes that decides the claim with the required power; None above ``most``.

    One fewer would not do. (Power rises in steps, so a smaller number elsewhere may do by luck.)
    """

    def is_enough(episodes: int) -> bool:
        return power_to_confirm(episodes, value, margin, alpha) >= POWER_REQUIRED

    reach = 1
    while not is_enough(reach):
        if reach == most:
            return None
        reach = min(2 * reach, most)
    return _first(reach // 2, reach, is_enough)


def margin_to_confirm(episodes: int, value: float, alpha: float) -> float | None:
    """The least multiple of 0.01 that ``episodes`` trials decide as a margin; None if none does.

    A margin that covers every rate decides nothing.
    """
    hundredths = _first(
        1,
        100,
        lambda margin: power_to_confirm(episodes, value, margin / 100, alpha) >= POWER_REQUIRED,
    )
    margin = hundredths / 100
    return None if bounds(value, margin) == (None, None) else margin


def tail_from(count: int, episodes: int, rate: float) -> float:
    """``P(X >= count)`` for ``X`` binomial; absolute error below 1e-9 up to 100,000 episodes."""
    if count <= 0:
        return 1.0
    if count > episodes or rate <= 0:
        return 0.0
    if rate >= 1:
        return 1.0
    # Bernstein's inequality: less than exp(-70) lies further out than this.
    reach = 12 * math.sqrt(episodes * rate * (1 - rate)) + 70
    if count < episodes * rate - reach:
        return 1.0
    last = min(episodes, math.ceil(episodes * rate + reach))
    odds = rate / (1 - rate)
    # From the largest term in range outwards: it is the one that cannot underflow.
    largest = max(count, min(episodes, int(episodes * rate)))
    term = start = math.exp(_log_term(largest, episodes, rate))
    terms = [term]
    for successes in range(largest, last):
        term *= (episodes - successes) / (successes + 1) * odds
        terms.append(term)
    term = start
    for successes in range(largest, count, -1):
        term *= successes / ((episodes - successes + 1) * odds)
        terms.append(term)
    return min(1.0, math.fsum(terms))


def _log_term(count: int, episodes: int, rate: float) -> float:
    ways = math.lgamma(episodes + 1) - math.lgamma(count + 1) - math.lgamma(episodes - count + 1)
    return ways + count * math.log(rate) + (episodes - count) * math.log1p(-rate)


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The first number in [low, high) from which ``holds``, by bisection; ``high`` when none."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return low
