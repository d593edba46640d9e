"""Expected facts against found ones: what is equal, within tolerance, different, not comparable.

Bits are compared first, everywhere. Only where they differ does the platform matter: on the same
platform that is a difference, on another one the rule of the fact decides (:mod:`.rules`).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from appliance.manifest.difference import ABSENT
from appliance.replay.levels import Level
from appliance.replay.rules import Expectation, Rule, find_rule, step_tolerance

PART_ORDER: Mapping[str, tuple[str, ...]] = {
    "dataset": ("figures", "episodes"),
    "plan": ("meta", "arrays", "exposure"),
    "norm_stats": ("norm_stats", "provenance"),
    "train": ("configuration", "inputs", "steps", "summary", "checkpoints"),
    "evaluate": ("trials", "episodes", "metrics"),
}
"""The parts of a stage's facts, causes before what follows from them."""

_DIGEST = re.compile(r"([a-z0-9-]+:)?[0-9a-f]{64}")
_CAUSES_FIRST = (
    *("learning_rate", "loss", "grad_norm", "param_norm", "loss_bits", "grad_norm_bits"),
    *("seed", "instruction", "first_physics", "first_observation", "actions_sha256"),
)
_SCENES = ("evaluate.trials.", "evaluate.episodes.")
_MET_LIMIT = "timeout"
CHECKPOINT_DIGEST = "evaluate.metrics.policy.params"
_NO_LONGER_RECORDED = ("first_state_sha256",)
MAX_DIGITS = 18


class Outcome(StrEnum):
    """What the comparison of one fact came to."""

    EQUAL = "equal"
    WITHIN = "within tolerance"
    DIFFERENT = "different"
    NOT_COMPARABLE = "not comparable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One fact, compared. ``found`` or ``expected`` is ABSENT where one side does not have it."""

    stage: str
    path: str
    level: Level
    expected: Any
    found: Any
    outcome: Outcome
    rule: str

    @property
    def sentence(self) -> str:
        """Where and what, on one line."""
        return f"{self.path}: expected {show(self.expected)}, found {show(self.found)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageComparison:
    """All that was compared of one stage; ``differences`` in the order of their cause."""

    stage: str
    counts: Mapping[Outcome, int]
    level_counts: Mapping[tuple[Level, Outcome], int]
    differences: tuple[Compared, ...]

    @property
    def first_difference(self) -> Compared | None:
        """What differs first."""
        return self.differences[0] if self.differences else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the rules have to know beside two values.

    ``same_platform``: bits are promised. ``half_precision``: the model computes in 16 bits.
    ``trials_bind``: the trial list is part of what is expected even on another platform.
    ``checkpoint_binds``: so is the evaluated checkpoint, which is meant to be the original's own.
    """

    same_platform: bool
    half_precision: bool = False
    trials_bind: bool = True
    checkpoint_binds: bool = False


def compare_stage(
    stage: str, expected: Mapping[str, Any], found: Mapping[str, Any], setting: Setting
) -> StageComparison:
    """Compare the facts of one stage that both sides have parts of.

    A part only one side has is not compared: it was not recorded, or not recomputed.
    """
    judge = _FactJudge(stage=stage, expected=expected, found=found, setting=setting)
    compared: list[Compared] = []
    order = PART_ORDER.get(stage, ())
    shared = [part for part in expected if part in found]
    for part in sorted(shared, key=lambda name: (order.index(name) if name in order else 99, name)):
        rows = [
            judge.compare(path, before, after)
            for path, before, after in walk(expected[part], found[part], f"{stage}.{part}")
        ]
        compared += sorted(rows, key=_explains_last)
    return StageComparison(
        stage=stage,
        counts=Counter(row.outcome for row in compared),
        level_counts=Counter((row.level, row.outcome) for row in compared),
        differences=tuple(row for row in compared if row.outcome is Outcome.DIFFERENT),
    )


def walk(expected: Any, found: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    """Every leaf of two trees side by side, by path; lists of one length are walked into."""
    if isinstance(expected, Mapping) and isinstance(found, Mapping):
        for key in sorted({*expected, *found}, key=order_key):
            yield from walk(expected.get(key, ABSENT), found.get(key, ABSENT), f"{path}.{key}")
    elif _is_list(expected) and _is_list(found) and len(expected) == len(found):
        for index, (before, after) in enumerate(zip(expected, found, strict=True)):
            yield from walk(before, after, f"{path}[{index}]")
    else:
        yield path, expected, found


def order_key(key: object) -> tuple[int, int, str]:
    """Numbers by value, then what causes before what follows in a step or episode, then names."""
    text = str(key)
    number = read_number(text)
    if number is not None:
        return (0, number, "")
    if text in _CAUSES_FIRST:
        return (1, _CAUSES_FIRST.index(text), "")
    return (2, 0, text)


def read_number(text: str) -> int | None:
    """The number of a step or an episode; None for any other text, overlong digits among them."""
    is_one = text.isascii() and text.isdecimal() and len(text) <= MAX_DIGITS
    return int(text) if is_one else None


def is_same(expected: Any, found: Any) -> bool:
    """Whether two JSON values are the same: 1 is 1.0, but not true."""
    if _is_list(expected) and _is_list(found):
        return len(expected) == len(found) and all(map(is_same, expected, found))
    return isinstance(expected, bool) == isinstance(found, bool) and bool(expected == found)


def show(value: Any) -> str:
    """A value on one short line."""
    if value is ABSENT:
        return "nothing"
    text = value if isinstance(value, str) else repr(value)
    if _DIGEST.fullmatch(text):
        return text.rpartition(":")[2][:12]
    return text if len(text) <= 80 else text[:77] + "..."


@dataclass(frozen=True, slots=True, kw_only=True)
class _FactJudge:
    """Judges the facts of one stage; ``expected`` and ``found`` are all of its facts."""

    stage: str
    expected: Mapping[str, Any]
    found: Mapping[str, Any]
    setting: Setting

    def compare(self, path: str, expected: Any, found: Any) -> Compared:
        rule = find_rule(path)
        return Compared(
            stage=self.stage,
            path=path,
            level=rule.level,
            expected=expected,
            found=found,
            outcome=self._judge(path, rule, expected, found),
            rule=rule.expectation.value,
        )

    def _judge(self, path: str, rule: Rule, expected: Any, found: Any) -> Outcome:
        if is_same(expected, found):
            return Outcome.EQUAL
        # Newer versions say more than older ones; the media figure needs a video library.
        if expected is ABSENT or _is_unknown_media(path, expected, found):
            return Outcome.NOT_COMPARABLE
        if found is ABSENT and path.rpartition(".")[2] in _NO_LONGER_RECORDED:
            return Outcome.NOT_COMPARABLE
        if self.setting.same_platform or self._is_bound(path, rule):
            return Outcome.DIFFERENT
        tolerance = self._tolerance(path, rule)
        if rule.expectation is not Expectation.TOLERANT or tolerance is None:
            return Outcome.NOT_COMPARABLE
        return Outcome.WITHIN if _is_close(expected, found, tolerance) else Outcome.DIFFERENT

    def _is_bound(self, path: str, rule: Rule) -> bool:
        """Whether bits are promised on another platform too."""
        if path == CHECKPOINT_DIGEST:
            return self.setting.checkpoint_binds
        if rule.expectation is Expectation.EXACT:
            return self.setting.trials_bind or not path.startswith(_SCENES)
        return rule.expectation is Expectation.PLATFORM and self._met_limit(path)

    def _tolerance(self, path: str, rule: Rule) -> float | None:
        if rule.tolerance is not None:
            return rule.tolerance
        step = read_number(path.split(".")[2])
        if step is None:
            return None
        return step_tolerance(step, half_precision=self.setting.half_precision)

    def _met_limit(self, path: str) -> bool:
        """Whether this is the length of an episode that met the step limit on both sides.

        The limit is part of the task, so it is the same on every machine.
        """
        parts = path.split(".")
        if parts[:2] != ["evaluate", "episodes"] or parts[-1] not in ("steps", "queries"):
            return False
        rows = [side.get("episodes", {}).get(parts[2], {}) for side in (self.expected, self.found)]
        return all(row.get("outcome") == _MET_LIMIT for row in rows) and is_same(
            rows[0].get("seed"), rows[1].get("seed")
        )


def _is_unknown_media(path: str, expected: Any, found: Any) -> bool:
    return (
        path.startswith("dataset.")
        and path.endswith(".media")
        and (expected is None or found is None or found is ABSENT)
    )


def _is_close(expected: Any, found: Any, tolerance: float) -> bool:
    both = [
        value
        for value in (expected, found)
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    return len(both) == 2 and math.isclose(*both, rel_tol=tolerance, abs_tol=0.0)


def _explains_last(row: Compared) -> bool:
    """A digest says that something differs, not what: sorted after what says it."""
    in_sequence = row.path.startswith(("train.steps.", "evaluate.episodes."))
    return (
        not in_sequence and isinstance(row.expected, str) and bool(_DIGEST.fullmatch(row.expected))
    )


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)
