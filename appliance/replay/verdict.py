"""The verdict of a replay: what was asked, what each level came to, and what follows from it.

* NOT REPRODUCED: something that was compared contradicts the original or its declared claim.
* INVALID INPUTS: what was given is not what the original was made from, so nothing can follow.
* INCONCLUSIVE: no contradiction, but what was asked could not be shown: too few episodes (then with
  the number that would decide), another platform, or nothing to compare with.
* REPRODUCED: everything that was tested holds, and what was asked for was tested.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from appliance.replay.claim import ClaimOutcome, ClaimResult
from appliance.replay.comparison import Outcome, StageComparison
from appliance.replay.coverage import describe_gaps
from appliance.replay.declared import NOTHING_DECLARED
from appliance.replay.levels import Level, LevelResult, LevelStatus

Levels = Mapping[Level, LevelResult]


class Conclusion(StrEnum):
    """The verdict in one word, as it is printed."""

    REPRODUCED = "REPRODUCED"
    NOT_REPRODUCED = "NOT REPRODUCED"
    INCONCLUSIVE = "INCONCLUSIVE"
    INVALID_INPUTS = "INVALID INPUTS"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """The conclusion, the highest level that was shown, and why.

    ``episodes_needed`` goes with INCONCLUSIVE when so many evaluated episodes would decide.
    """

    conclusion: Conclusion
    level: Level | None
    levels: Levels
    reason: str
    episodes_needed: int | None = None


def judge(levels: Levels, *, asked: Level | None, invalid: str | None = None) -> Verdict:
    """The verdict on these level results.

    ``asked`` None means whatever could be tested; ``invalid`` says why the inputs are not those of
    the original, if they are not. The order of the rules is that of the module's list.
    """
    shown = [level for level, result in levels.items() if result.status is LevelStatus.SHOWN]
    highest = max(shown, default=None)

    def conclude(conclusion: Conclusion, reason: str, needed: int | None = None) -> Verdict:
        return Verdict(
            conclusion=conclusion,
            level=highest,
            levels=levels,
            reason=reason,
            episodes_needed=needed,
        )

    contradicted = _first_with(levels, LevelStatus.CONTRADICTED)
    if contradicted is not None:
        text = f"{contradicted} does not hold: {levels[contradicted].reason}"
        return conclude(Conclusion.NOT_REPRODUCED, text)
    if invalid is not None:
        return conclude(Conclusion.INVALID_INPUTS, invalid)
    undecided = _first_with(levels, LevelStatus.UNDECIDED)
    if undecided is not None and (asked is None or asked >= undecided):
        result = levels[undecided]
        text = f"{undecided} is undecided: {result.reason}"
        return conclude(Conclusion.INCONCLUSIVE, text, result.episodes_needed)
    if asked is not None and levels[asked].status is not LevelStatus.SHOWN:
        result = levels[asked]
        return conclude(
            Conclusion.INCONCLUSIVE,
            f"{asked} was asked for and is {result.status.value}: {result.reason}",
        )
    if highest is None or highest is Level.R0:
        return conclude(Conclusion.INCONCLUSIVE, _say_why_nothing_is_shown(levels, highest))
    return conclude(Conclusion.REPRODUCED, _sum_up(levels))


def judge_bits(
    level: Level,
    stages: Mapping[str, StageComparison],
    *,
    whole: bool,
    extent: str,
    same_platform: bool,
    gaps: Sequence[str] = (),
) -> LevelResult:
    """The result of a level that promises equal bits (R1, R2, R3), from what was compared.

    ``whole`` tells whether all that the level speaks of was computed again, ``extent`` what was,
    ``gaps`` what of it the original does not say, so that it was not compared.
    """
    rows = [row for stage in stages.values() for row in stage.differences if row.level is level]
    if rows:
        more = f" (and {len(rows) - 1} more)" if len(rows) > 1 else ""
        where = rows[0]
        return LevelResult(
            status=LevelStatus.CONTRADICTED, reason=f"stage {where.stage}, {where.sentence}{more}"
        )
    equal, within, odd = (
        sum(stage.level_counts.get((level, outcome), 0) for stage in stages.values())
        for outcome in (Outcome.EQUAL, Outcome.WITHIN, Outcome.NOT_COMPARABLE)
    )
    if equal + within == 0:
        return LevelResult(status=LevelStatus.NOT_TESTED, reason="there is nothing to compare with")
    silent = "; " + describe_gaps(gaps) if gaps else ""
    loose = level is not Level.R1 and not same_platform and within + odd > 0
    if loose:
        reason = f"{extent}: {equal} figures bit for bit, {within} within their tolerance"
        return LevelResult(
            status=LevelStatus.CONSISTENT,
            reason=f"{reason}, on another platform than the original{silent}",
        )
    status = LevelStatus.SHOWN if whole and not gaps else LevelStatus.PARTLY
    return LevelResult(status=status, reason=f"{extent}: {equal + within} figures equal{silent}")


def judge_rate(claim: ClaimResult | None, why_none: str = NOTHING_DECLARED) -> LevelResult:
    """The result of a level that speaks of the success rate (R4, R5).

    ``why_none`` says why there is no claim to judge.
    """
    if claim is None:
        return not_tested(why_none)
    statuses = {
        ClaimOutcome.CONFIRMED: LevelStatus.SHOWN,
        ClaimOutcome.CONTRADICTED: LevelStatus.CONTRADICTED,
        ClaimOutcome.UNDECIDED: LevelStatus.UNDECIDED,
    }
    return LevelResult(
        status=statuses[claim.outcome],
        reason=claim.sentence,
        episodes_needed=claim.episodes_needed,
    )


def not_tested(reason: str) -> LevelResult:
    """The result of a level that this replay did not look at."""
    return LevelResult(status=LevelStatus.NOT_TESTED, reason=reason)


def _say_why_nothing_is_shown(levels: Levels, highest: Level | None) -> str:
    for level, result in sorted(levels.items()):
        if result.status in (LevelStatus.PARTLY, LevelStatus.CONSISTENT):
            return f"{level} is {result.status.value}: {result.reason}"
    text = "nothing was computed again" if highest else "nothing could be tested"
    reasons = [result.reason for level, result in levels.items() if level is Level.R1]
    return ": ".join([text, *reasons])


def _first_with(levels: Levels, status: LevelStatus) -> Level | None:
    return min((level for level, result in levels.items() if result.status is status), default=None)


def _sum_up(levels: Levels) -> str:
    named = [
        f"{level} {result.status.value}"
        for level, result in sorted(levels.items())
        if result.status is not LevelStatus.NOT_TESTED
    ]
    return ", ".join(named)
