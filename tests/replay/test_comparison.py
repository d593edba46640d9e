"""What is compared and by which rule: on one platform every bit, elsewhere what can be promised."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from appliance.manifest.difference import ABSENT
from appliance.replay.comparison import (
    Outcome,
    Setting,
    compare_stage,
    order_key,
    read_number,
    show,
    walk,
)
from appliance.replay.levels import Level, LevelStatus
from appliance.replay.reference import choose_steps, expectations_path
from appliance.replay.rules import (
    FIRST_STEP_TOLERANCE,
    LOOSEST,
    Expectation,
    find_rule,
    step_tolerance,
)
from appliance.replay.verdict import judge_bits
from tests.conftest import GOLDEN

SAME = Setting(same_platform=True)
OTHER = Setting(same_platform=False)
FACTS: Mapping[str, Any] = json.loads(expectations_path(GOLDEN / "smoke.yaml").read_bytes())[
    "facts"
]


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path of every leaf of a tree."""
    if isinstance(value, Mapping):
        for key in value:
            yield from leaves(value[key], (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from leaves(item, (*path, index))
    else:
        yield path


PLACES = [path for stage in FACTS if stage != "manifest" for path in leaves(FACTS[stage], (stage,))]


def dotted(path: tuple[Any, ...]) -> str:
    return "".join(f"[{key}]" if isinstance(key, int) else f".{key}" for key in path)[1:]


def replaced(path: tuple[Any, ...], new: Any) -> Any:
    """The facts of one stage with the leaf at ``path`` replaced."""
    facts = copy.deepcopy(FACTS[path[0]])
    place = facts
    for key in path[1:-1]:
        place = place[key]
    place[path[-1]] = new
    return facts


def value_at(path: tuple[Any, ...]) -> Any:
    value: Any = FACTS
    for key in path:
        value = value[key]
    return value


def changed(value: Any) -> Any:
    """Another value of the same kind, as near as can be."""
    if isinstance(value, bool) or value is None:
        return "something else"
    if isinstance(value, int):
        return value + 1
    if isinstance(value, float):
        return value * (1 + 2**-50) + 1e-300
    return "x" + value[1:] if value else "x"


def test_facts_equal_themselves_everywhere() -> None:
    for setting in (SAME, OTHER):
        for stage, facts in FACTS.items():
            compared = compare_stage(stage, facts, facts, setting)
            assert set(compared.counts) == {Outcome.EQUAL}
            assert compared.first_difference is None


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(PLACES))
def test_on_one_platform_any_changed_fact_is_found_and_named(path: tuple[Any, ...]) -> None:
    found = replaced(path, changed(value_at(path)))
    compared = compare_stage(path[0], FACTS[path[0]], found, SAME)
    assert [row.path for row in compared.differences] == [dotted(path)]
    assert dotted(path) in compared.differences[0].sentence


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(PLACES))
def test_elsewhere_what_is_promised_everywhere_is_still_found(path: tuple[Any, ...]) -> None:
    found = replaced(path, changed(value_at(path)))
    compared = compare_stage(path[0], FACTS[path[0]], found, OTHER)
    rule = find_rule(dotted(path))
    if rule.expectation is Expectation.EXACT:
        assert [row.path for row in compared.differences] == [dotted(path)]
    elif isinstance(value_at(path), float) and rule.expectation is Expectation.TOLERANT:
        assert compared.counts[Outcome.WITHIN] == 1
        assert not compared.differences


@pytest.mark.parametrize("figure", ["loss", "grad_norm", "param_norm"])
@pytest.mark.parametrize("step", [0, 7, 19])
def test_figures_of_a_step_may_differ_elsewhere_by_its_tolerance_and_no_more(
    figure: str, step: int
) -> None:
    path = ("train", "steps", str(step), figure)
    tolerance = step_tolerance(step, half_precision=False)
    assert tolerance is not None
    for factor, outcome in ((0.9, Outcome.WITHIN), (1.1, Outcome.DIFFERENT)):
        found = replaced(path, value_at(path) * (1 + factor * tolerance))
        compared = compare_stage("train", FACTS["train"], found, OTHER)
        assert compared.counts.get(outcome) == 1
    found = replaced(path, value_at(path) * (1 + 0.01 * tolerance))
    assert compare_stage("train", FACTS["train"], found, SAME).first_difference is not None


def test_tolerances_grow_with_the_step_until_nothing_can_be_said() -> None:
    known = [step_tolerance(step, half_precision=False) for step in range(1200)]
    given_ones = [each for each in known if each is not None]
    assert known[0] == FIRST_STEP_TOLERANCE
    assert given_ones == sorted(given_ones)
    assert given_ones[-1] <= LOOSEST
    assert known[len(given_ones) :] == [None] * (1200 - len(given_ones))


def test_a_step_limit_is_the_same_on_every_machine_but_a_success_may_take_other_steps() -> None:
    path = ("evaluate", "episodes", "1", "steps")
    found = replaced(path, 50)
    assert compare_stage("evaluate", FACTS["evaluate"], found, OTHER).first_difference is not None
    succeeded = copy.deepcopy(FACTS["evaluate"])
    succeeded["episodes"]["1"] |= {"outcome": "success", "steps": 33}
    assert compare_stage("evaluate", FACTS["evaluate"], succeeded, OTHER).first_difference is None
    assert (
        compare_stage("evaluate", FACTS["evaluate"], succeeded, SAME).first_difference is not None
    )


def test_a_golden_binds_the_trials_elsewhere_a_bundle_does_not() -> None:
    found = replaced(("evaluate", "trials", "seeds", 0), 123)
    bound = compare_stage("evaluate", FACTS["evaluate"], found, OTHER)
    free = Setting(same_platform=False, trials_bind=False)
    assert bound.first_difference is not None
    assert compare_stage("evaluate", FACTS["evaluate"], found, free).first_difference is None


def test_what_only_a_newer_version_says_is_no_difference_but_what_is_lost_is() -> None:
    more = copy.deepcopy(FACTS["train"])
    more["configuration"]["new_setting"] = 1
    compared = compare_stage("train", FACTS["train"], more, SAME)
    assert (compared.first_difference, compared.counts[Outcome.NOT_COMPARABLE]) == (None, 1)
    lost = compare_stage("train", more, FACTS["train"], SAME)
    assert lost.first_difference is not None
    assert lost.first_difference.found is ABSENT


def test_the_start_that_older_versions_recorded_is_not_missed() -> None:
    older = copy.deepcopy(FACTS["evaluate"])
    for episode in older["episodes"].values():
        del episode["first_physics"]
        episode["first_state_sha256"] = "ab" * 32
    compared = compare_stage("evaluate", older, FACTS["evaluate"], SAME)
    assert compared.first_difference is None
    assert compared.counts[Outcome.NOT_COMPARABLE] == 2 * len(older["episodes"])


def test_another_platform_may_round_the_first_scene_otherwise() -> None:
    found = replaced(
        ("evaluate", "episodes", "0", "first_physics"), "sha256-physics-v1:" + "0" * 64
    )
    same, other = (compare_stage("evaluate", FACTS["evaluate"], found, at) for at in (SAME, OTHER))
    assert same.first_difference is not None
    assert other.first_difference is None


def test_what_explains_comes_before_what_follows() -> None:
    found = copy.deepcopy(FACTS["plan"])
    found["meta"]["plan_sha256"] = "0" * 64
    found["meta"]["weight_strategy"]["clip_ratio"] = 4.0
    found["arrays"]["weights"]["sha256"] = "0" * 64
    paths = [row.path for row in compare_stage("plan", FACTS["plan"], found, SAME).differences]
    assert paths == [
        "plan.meta.weight_strategy.clip_ratio",
        "plan.meta.plan_sha256",
        "plan.arrays.weights.sha256",
    ]


def test_a_level_is_as_good_as_what_was_compared() -> None:
    def level_of(found: Any, setting: Setting, *, whole: bool = True) -> LevelStatus:
        stages = {"train": compare_stage("train", FACTS["train"], found, setting)}
        return judge_bits(
            Level.R2,
            stages,
            whole=whole,
            extent="all steps",
            same_platform=setting.same_platform,
        ).status

    facts = FACTS["train"]
    nearly = replaced(("train", "steps", "3", "loss"), facts["steps"]["3"]["loss"] * (1 + 1e-7))
    assert level_of(facts, SAME) is LevelStatus.SHOWN
    assert level_of(facts, OTHER) is LevelStatus.SHOWN  # the same bits elsewhere: all the better
    assert level_of(facts, SAME, whole=False) is LevelStatus.PARTLY
    assert level_of(nearly, OTHER) is LevelStatus.CONSISTENT
    assert level_of(nearly, SAME) is LevelStatus.CONTRADICTED
    assert level_of({"configuration": facts["configuration"]}, SAME) is LevelStatus.NOT_TESTED


@given(st.integers(0, 3000))
def test_a_record_keeps_the_first_steps_the_last_and_some_between(count: int) -> None:
    kept = choose_steps(range(count))
    assert kept == sorted(set(kept))
    assert set(kept) <= set(range(count))
    if count:
        assert kept[0] == 0
        assert kept[-1] == count - 1
    assert len(kept) <= 21 + count / 100


def test_names_are_numbers_only_as_far_as_any_run_counts() -> None:
    names = ["10", "9", "9" * 5000, "\u0663", "\u00b2", "-1", "loss", "1" * 19]
    assert sorted(names, key=order_key)[:3] == ["9", "10", "loss"]
    assert [read_number(name) for name in names] == [10, 9, None, None, None, None, None, None]
    before, found = (
        {"steps": {name: {"loss": loss} for name in names}} for loss in (1.0, 1.0 + 1e-9)
    )
    assert compare_stage("train", before, found, OTHER).counts == {
        Outcome.WITHIN: 2,
        Outcome.NOT_COMPARABLE: len(names) - 2,
    }


def test_walking_names_every_leaf_once() -> None:
    paths = [path for path, _, _ in walk(FACTS["evaluate"], FACTS["evaluate"], "evaluate")]
    assert len(paths) == len(set(paths))
    assert set(paths) >= {dotted(path) for path in leaves(FACTS["evaluate"], ("evaluate",))}


def test_a_digest_is_shown_by_its_first_digits() -> None:
    assert show("sha256-tree-v1:" + "ab" * 32) == "ab" * 6
    assert show(ABSENT) == "nothing"
    assert len(show("long " * 50)) == 80
