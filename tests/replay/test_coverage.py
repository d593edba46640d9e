"""A reference that is silent about what a level needs does not pass for one that agrees."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.replay.comparison import Setting
from appliance.replay.coverage import NEEDED, SAMPLED, describe_gaps, find_gaps
from appliance.replay.evidence import Evidence
from appliance.replay.levels import Level, LevelStatus
from appliance.replay.reference import Reference, Surroundings
from tests.conftest import DATASET, Appliance
from tests.replay.test_comparison import FACTS, replaced

STAGES = {
    Level.R1: ("dataset", "plan", "norm_stats", "train"),
    Level.R2: ("train",),
    Level.R3: ("evaluate",),
}


def without(*path: str) -> dict[str, Any]:
    """The facts without what lies at ``path``."""
    facts: dict[str, Any] = copy.deepcopy(dict(FACTS))
    place = facts
    for key in path[:-1]:
        place = place[key]
    del place[path[-1]]
    return facts


def judge(level: Level, said: dict[str, Any], *, is_recorded: bool = False) -> tuple[str, str]:
    """Status and reason of ``level`` when all facts are found and the original ``said`` these."""
    nothing = Surroundings(packages={}, platform={}, sources={})
    reference = Reference(facts=said, surroundings=nothing, seconds={}, is_recorded=is_recorded)
    evidence = Evidence(reference=reference, setting=Setting(same_platform=True))
    for stage in STAGES[level]:
        evidence.compare(stage, copy.deepcopy(FACTS[stage]))
    result = evidence.judge(level, whole=True, extent="everything")
    return result.status, result.reason


@pytest.mark.parametrize("level", NEEDED)
def test_what_says_everything_shows_a_level(level: Level) -> None:
    status, reason = judge(level, dict(FACTS))
    assert status == LevelStatus.SHOWN, reason


@pytest.mark.parametrize(
    ("level", "path"),
    [
        (Level.R1, ("dataset",)),
        (Level.R1, ("dataset", "figures", "fingerprint")),
        (Level.R1, ("plan", "arrays")),
        (Level.R1, ("plan", "arrays", "weights")),
        (Level.R1, ("norm_stats", "norm_stats", "state", "q99")),
        (Level.R1, ("norm_stats", "provenance")),
        (Level.R1, ("train", "configuration")),
        (Level.R1, ("train", "configuration", "schedule_in_force", "peak_lr")),
        (Level.R2, ("train", "steps")),
        (Level.R2, ("train", "steps", "7")),
        (Level.R2, ("train", "steps", "7", "digest")),
        (Level.R2, ("train", "summary", "hash_chain")),
        (Level.R3, ("evaluate", "trials")),
        (Level.R3, ("evaluate", "episodes")),
        (Level.R3, ("evaluate", "episodes", "1")),
        (Level.R3, ("evaluate", "episodes", "0", "outcome")),
        (Level.R3, ("evaluate", "metrics", "episodes")),
    ],
)
def test_a_level_is_partly_shown_where_the_original_is_silent_and_that_is_named(
    level: Level, path: tuple[str, ...]
) -> None:
    status, reason = judge(level, without(*path))
    assert status == LevelStatus.PARTLY
    assert f"the original does not say {'.'.join(path)}" in reason


def test_the_end_of_the_chain_stands_for_the_steps_that_a_golden_does_not_keep() -> None:
    some = without("train", "steps", "7")
    assert judge(Level.R2, some, is_recorded=True)[0] == LevelStatus.SHOWN
    assert judge(Level.R2, some)[0] == LevelStatus.PARTLY
    unended = without("train", "summary", "hash_chain")
    assert judge(Level.R2, unended, is_recorded=True)[0] == LevelStatus.PARTLY
    assert any(pattern.startswith(SAMPLED) for pattern in NEEDED[Level.R2])


def test_what_a_newer_version_says_beside_what_a_level_needs_is_no_gap() -> None:
    newer = {**FACTS, "evaluate": replaced(("evaluate", "metrics", "bootstrap"), 0.5)}
    assert find_gaps(Level.R3, FACTS, newer, is_recorded=False) == []


def test_many_gaps_are_counted_not_listed() -> None:
    assert describe_gaps(["a", "b", "c"], most=2) == "the original does not say a, b and 1 more"


def empty_out(content: Path) -> None:
    for path in sorted(content.rglob("*"), reverse=True):
        if path.is_file() and path.name != "manifest.json":
            path.unlink()


def test_a_hollow_bundle_is_not_reproduced(
    changed_bundle: Callable[[Callable[[Path], None]], Path],
    appliance: Appliance,
    tmp_path: Path,
) -> None:
    bundle = changed_bundle(empty_out)
    outcome = appliance(
        *("replay", bundle, "--dataset-root", DATASET, "--work-dir", tmp_path / "work"),
        *("--key-dir", tmp_path / "keys", "--level", "R1"),
    )
    assert outcome.code == 41, outcome.out
    assert "R1  partly" in outcome.out
    assert "the original does not say dataset" in " ".join(outcome.out.split())
