"""What follows from the levels: the four verdicts, in their order."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.manifest.model import SuccessRatePart
from appliance.replay.claim import judge_claim
from appliance.replay.levels import Level, LevelResult, LevelStatus
from appliance.replay.verdict import Conclusion, judge, judge_rate

statuses = st.sampled_from(LevelStatus)
level_maps = st.dictionaries(
    st.sampled_from(Level),
    st.builds(
        LevelResult,
        status=statuses,
        reason=st.just("because"),
        episodes_needed=st.none() | st.integers(1, 99),
    ),
    min_size=1,
)


def result(status: LevelStatus, needed: int | None = None) -> LevelResult:
    return LevelResult(status=status, reason="because", episodes_needed=needed)


def levels_of(**named: LevelStatus) -> dict[Level, LevelResult]:
    return {Level(name): result(status) for name, status in named.items()}


@given(level_maps, st.none() | st.just("other data"))
def test_a_contradiction_is_never_reproduced_and_nothing_else_is_not_reproduced(levels, invalid):
    verdict = judge(levels, asked=None, invalid=invalid)
    contradicted = any(each.status is LevelStatus.CONTRADICTED for each in levels.values())
    assert (verdict.conclusion is Conclusion.NOT_REPRODUCED) == contradicted
    if not contradicted:
        assert (verdict.conclusion is Conclusion.INVALID_INPUTS) == (invalid is not None)


@given(level_maps)
def test_reproduced_means_that_more_than_the_signature_was_shown(levels):
    verdict = judge(levels, asked=None)
    if verdict.conclusion is Conclusion.REPRODUCED:
        assert verdict.level is not None
        assert verdict.level > Level.R0
        assert levels[verdict.level].status is LevelStatus.SHOWN
        assert not any(each.status is LevelStatus.UNDECIDED for each in levels.values())


@given(level_maps)
def test_the_level_is_the_highest_one_shown(levels):
    shown = [level for level, each in levels.items() if each.status is LevelStatus.SHOWN]
    assert judge(levels, asked=None).level == max(shown, default=None)


def test_what_was_asked_for_must_have_been_shown():
    levels = levels_of(R1=LevelStatus.SHOWN, R2=LevelStatus.CONSISTENT)
    assert judge(levels, asked=None).conclusion is Conclusion.REPRODUCED
    verdict = judge(levels, asked=Level.R2)
    assert verdict.conclusion is Conclusion.INCONCLUSIVE
    assert "R2 was asked for and is consistent" in verdict.reason


def test_too_few_episodes_are_inconclusive_with_the_number_that_decides():
    claim = SuccessRatePart(value=0.9, margin=0.1, alpha=0.05)
    judged = judge_claim(claim, 17, 20)
    levels = {Level.R1: result(LevelStatus.SHOWN), Level.R5: judge_rate(judged)}
    for asked in (None, Level.R5):
        verdict = judge(levels, asked=asked)
        assert verdict.conclusion is Conclusion.INCONCLUSIVE
        assert verdict.episodes_needed == judged.episodes_needed
        assert str(judged.episodes_needed) in verdict.reason
    assert judge(levels, asked=Level.R1).conclusion is Conclusion.REPRODUCED


@pytest.mark.parametrize(
    ("successes", "conclusion"),
    [(38, Conclusion.REPRODUCED), (10, Conclusion.NOT_REPRODUCED), (33, Conclusion.INCONCLUSIVE)],
)
def test_a_claim_decides_the_rate_levels(successes, conclusion):
    claim = SuccessRatePart(value=0.925, margin=0.14, alpha=0.05)
    levels = {Level.R5: judge_rate(judge_claim(claim, successes, 40))}
    assert judge(levels, asked=Level.R5).conclusion is conclusion


def test_without_a_declared_margin_there_is_no_rate_level():
    rate = judge_rate(None)
    assert rate.status is LevelStatus.NOT_TESTED
    assert "expect.success_rate" in rate.reason


def test_an_intact_bundle_alone_is_inconclusive_and_says_what_is_missing():
    levels = {
        Level.R0: result(LevelStatus.SHOWN),
        Level.R1: LevelResult(status=LevelStatus.NOT_TESTED, reason="no dataset"),
    }
    verdict = judge(levels, asked=None)
    assert (verdict.conclusion, verdict.level) == (Conclusion.INCONCLUSIVE, Level.R0)
    assert "no dataset" in verdict.reason


def test_when_levels_are_shown_in_part_only_the_first_of_them_is_the_reason():
    levels = {
        Level.R0: result(LevelStatus.SHOWN),
        Level.R1: LevelResult(status=LevelStatus.PARTLY, reason="the original does not say plan"),
        Level.R2: result(LevelStatus.PARTLY),
    }
    verdict = judge(levels, asked=None)
    assert (verdict.conclusion, verdict.level) == (Conclusion.INCONCLUSIVE, Level.R0)
    assert verdict.reason == "R1 is partly: the original does not say plan"


def test_every_status_of_every_asked_level_has_one_verdict():
    for status, asked in itertools.product(LevelStatus, [Level.R1, Level.R2, Level.R3, Level.R5]):
        verdict = judge({Level.R0: result(LevelStatus.SHOWN), asked: result(status)}, asked=asked)
        expected = {
            LevelStatus.SHOWN: Conclusion.REPRODUCED,
            LevelStatus.CONTRADICTED: Conclusion.NOT_REPRODUCED,
        }.get(status, Conclusion.INCONCLUSIVE)
        assert verdict.conclusion is expected
