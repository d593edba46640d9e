"""A declared success rate, judged by counts: confirmed, contradicted, or not decided by so few.

Confirmed is the exact equivalence test of ``manifest/power.py``. Contradicted is its opposite: the
exact binomial test rejects that the true rate lies within the margin at all, at level ``alpha``
(half of it for each side where both can be reached, Bonferroni). What is neither is undecided, and
then the number of episodes that would decide is given. A true claim is contradicted, and a false
one confirmed, with a probability of at most ``alpha``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction

from appliance.manifest.model import SuccessRatePart
from appliance.manifest.power import (
    POWER_REQUIRED,
    bounds,
    confirming_counts,
    least_above,
    tail_from,
)
from appliance.manifest.schema import schema_at

MOST_EPISODES = int(schema_at(("eval", "episodes"))["maximum"])
"""The most episodes a manifest may ask for; more is never proposed."""


class ClaimOutcome(StrEnum):
    """What counts say of a claimed rate."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    UNDECIDED = "undecided"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimResult:
    """A claim judged by ``successes`` of ``episodes``.

    ``confirming`` are the least and greatest count that would have confirmed it, None if none does.
    ``episodes_needed`` is given when undecided: so many episodes decide, either way, with
    probability ``POWER_REQUIRED``, if the true rate is the observed one; None when more than
    ``MOST_EPISODES`` would be needed.
    """

    value: float
    margin: float
    alpha: float
    successes: int
    episodes: int
    outcome: ClaimOutcome
    confirming: tuple[int, int] | None
    episodes_needed: int | None

    @property
    def sentence(self) -> str:
        """The result as a person would say it."""
        measured = (
            f"{self.successes} of {self.episodes} episodes succeeded"
            f" ({self.successes / self.episodes:.1%})"
        )
        claim = f"the declared {self.value:.1%} within {self.margin:.1%} (alpha {self.alpha})"
        if self.outcome is ClaimOutcome.CONFIRMED:
            return f"{measured}, which confirms {claim}"
        if self.outcome is ClaimOutcome.CONTRADICTED:
            return f"{measured}, which contradicts {claim}"
        if self.episodes_needed is None:
            more = f"more than {MOST_EPISODES:,} episodes would be needed to decide"
        else:
            more = f"about {self.episodes_needed} episodes would decide"
        return f"{measured}, which neither confirms nor contradicts {claim}; {more}"


def judge_claim(claim: SuccessRatePart, successes: int, episodes: int) -> ClaimResult:
    """Judge ``claim`` by ``successes`` of ``episodes``.

    Raises ValueError for counts that are not ``0 <= successes <= episodes``, ``episodes >= 1``.
    """
    if episodes < 1 or not 0 <= successes <= episodes:
        raise ValueError(f"{successes} of {episodes} is not a count of successes")
    outcome = decide_claim(claim, successes, episodes)
    needed = None
    if outcome is ClaimOutcome.UNDECIDED:
        needed = episodes_to_decide(claim, successes / episodes, least=episodes + 1)
    return ClaimResult(
        value=claim.value,
        margin=claim.margin,
        alpha=claim.alpha,
        successes=successes,
        episodes=episodes,
        outcome=outcome,
        confirming=confirming_counts(episodes, claim.value, claim.margin, claim.alpha),
        episodes_needed=needed,
    )


def decide_claim(claim: SuccessRatePart, successes: int, episodes: int) -> ClaimOutcome:
    """What so many successes say of ``claim``."""
    if bounds(claim.value, claim.margin) == (None, None):
        return ClaimOutcome.UNDECIDED  # covers every rate, so counts say nothing about it
    confirming = confirming_counts(episodes, claim.value, claim.margin, claim.alpha)
    if confirming is not None and confirming[0] <= successes <= confirming[1]:
        return ClaimOutcome.CONFIRMED
    most_below, fewest_above = contradicting_counts(claim, episodes)
    if successes <= most_below or successes >= fewest_above:
        return ClaimOutcome.CONTRADICTED
    return ClaimOutcome.UNDECIDED


def contradicting_counts(claim: SuccessRatePart, episodes: int) -> tuple[int, int]:
    """``(a, b)``: at most a successes, or at least b, contradict the claim.

    a is -1 and b is ``episodes + 1`` where no count does.
    """
    lower, upper = bounds(claim.value, claim.margin)
    alpha = claim.alpha if lower is None or upper is None else claim.alpha / 2
    most_below, fewest_above = -1, episodes + 1
    if upper is not None:
        fewest_above = least_above(episodes, upper, alpha)
    if lower is not None:
        # At most a successes at rate p are at least episodes - a failures at rate 1 - p.
        most_below = episodes - least_above(episodes, 1 - lower, alpha)
    return most_below, fewest_above


def chance_to_decide(claim: SuccessRatePart, rate: float, episodes: int) -> float:
    """The probability that ``episodes`` trials decide the claim, either way, at a true ``rate``."""
    if bounds(claim.value, claim.margin) == (None, None):
        return 0.0
    most_below, fewest_above = contradicting_counts(claim, episodes)
    chance = 1 - tail_from(most_below + 1, episodes, rate) + tail_from(fewest_above, episodes, rate)
    confirming = confirming_counts(episodes, claim.value, claim.margin, claim.alpha)
    if confirming is not None:
        low, high = confirming
        chance += tail_from(low, episodes, rate) - tail_from(high + 1, episodes, rate)
    return min(1.0, max(0.0, chance))


def episodes_to_decide(
    claim: SuccessRatePart, rate: float, *, least: int = 1, most: int = MOST_EPISODES
) -> int | None:
    """A number of episodes, ``least`` or more, that decides the claim at a true ``rate``.

    It does with the required power, and one fewer would not, unless it is ``least`` itself. (Power
    rises in steps, so a smaller number elsewhere may do by luck.) None above ``most``.
    """

    def is_enough(episodes: int) -> bool:
        return chance_to_decide(claim, rate, episodes) >= POWER_REQUIRED

    if least > most:
        return None
    low, reach = least - 1, least
    while not is_enough(reach):
        if reach >= most:
            return None
        low, reach = reach, min(2 * reach, most)
    while reach - low > 1:
        middle = (low + reach) // 2
        if is_enough(middle):
            reach = middle
        else:
            low = middle
    return reach


def fisher_exact_p(first: int, first_of: int, second: int, second_of: int) -> float:
    """The two-sided p-value of Fisher's exact test of ``first/first_of`` against the other rate.

    The sum of the probabilities of all tables with these margins that are no likelier than the one
    observed, in whole numbers. Source: Fisher 1935.
    """
    total, successes = first_of + second_of, first + second
    low, high = max(0, successes - second_of), min(first_of, successes)
    ways = [
        math.comb(first_of, count) * math.comb(second_of, successes - count)
        for count in range(low, high + 1)
    ]
    observed = ways[first - low]
    as_unlikely = sum(way for way in ways if way <= observed)
    return float(Fraction(as_unlikely, math.comb(total, successes)))
