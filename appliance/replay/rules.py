"""What may be expected of each fact: equal bits anywhere, or on one platform, or a tolerance.

The first rule whose pattern fits a fact's path decides. Tolerances were measured by running the
same training with other instruction sets (SSE4.2, AVX-512 against AVX2): figures of a float32
model differ by 5e-7 at the first step and 6e-6 after 60 (relative). Twenty times as much is
allowed, growing with the step, and a step where that would exceed ``LOOSEST`` is not compared: two
honest runs part company in the end.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from dataclasses import dataclass
from enum import StrEnum

from appliance.replay.levels import Level

FIRST_STEP_TOLERANCE = 2e-5
HALF_PRECISION_TOLERANCE = 2e-2
GROWTH_PER_STEP = 1.05
LOOSEST = 0.05
ROUNDING = 1e-9


class Expectation(StrEnum):
    """What is expected of a fact."""

    EXACT = "bit for bit on every machine"
    TOLERANT = "within a tolerance, bit for bit on the same platform"
    PLATFORM = "bit for bit on the same platform"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One expectation of the facts whose path fits ``pattern`` (``*`` fits anything, dots too).

    ``tolerance`` is relative; None means the growing one of a training step.
    """

    pattern: str
    level: Level
    expectation: Expectation
    tolerance: float | None = ROUNDING


def _rule(
    pattern: str, level: Level, expectation: Expectation, tolerance: float | None = ROUNDING
) -> Rule:
    return Rule(pattern=pattern, level=level, expectation=expectation, tolerance=tolerance)


RULES = (
    _rule("manifest.*", Level.R1, Expectation.EXACT),
    _rule("expect.*", Level.R1, Expectation.EXACT),
    _rule("dataset.*", Level.R1, Expectation.EXACT),
    # Exposure goes through the math library's logarithm and exponential.
    _rule("plan.exposure.*", Level.R1, Expectation.TOLERANT),
    _rule("plan.*", Level.R1, Expectation.EXACT),
    _rule("norm_stats.*", Level.R1, Expectation.EXACT),
    _rule("train.configuration.schedule_in_force.*", Level.R1, Expectation.TOLERANT),
    _rule("train.configuration.*", Level.R1, Expectation.EXACT),
    # Pictures are decoded and converted by code that is chosen by the processor.
    _rule("train.inputs.frames_sha256*", Level.R2, Expectation.PLATFORM),
    _rule("train.inputs.*", Level.R2, Expectation.EXACT),
    _rule("train.steps.*.learning_rate", Level.R2, Expectation.TOLERANT, 1e-6),
    _rule("train.steps.*.loss", Level.R2, Expectation.TOLERANT, None),
    _rule("train.steps.*.grad_norm", Level.R2, Expectation.TOLERANT, None),
    _rule("train.steps.*.param_norm", Level.R2, Expectation.TOLERANT, None),
    _rule("train.steps.*", Level.R2, Expectation.PLATFORM),
    _rule("train.summary.hash_chain", Level.R2, Expectation.PLATFORM),
    _rule("train.summary.*", Level.R2, Expectation.TOLERANT),
    _rule("train.checkpoints.*", Level.R2, Expectation.PLATFORM),
    _rule("evaluate.trials.*", Level.R3, Expectation.EXACT),
    _rule("evaluate.episodes.*.seed", Level.R3, Expectation.EXACT),
    _rule("evaluate.episodes.*.instruction", Level.R3, Expectation.EXACT),
    _rule("evaluate.episodes.*", Level.R3, Expectation.PLATFORM),
    _rule("evaluate.metrics.policy.params", Level.R3, Expectation.PLATFORM),
    _rule("evaluate.metrics.policy.*", Level.R3, Expectation.EXACT),
    _rule("evaluate.metrics.simulator.*", Level.R3, Expectation.EXACT),
    _rule("evaluate.metrics.success*", Level.R3, Expectation.PLATFORM),
    _rule("evaluate.metrics.failure_counts*", Level.R3, Expectation.PLATFORM),
    _rule("evaluate.metrics.avg_steps_success", Level.R3, Expectation.PLATFORM),
    _rule("evaluate.metrics.wilson_interval*", Level.R3, Expectation.PLATFORM),
    _rule("evaluate.metrics.*", Level.R3, Expectation.EXACT),
)
_OTHERWISE = _rule("*", Level.R1, Expectation.EXACT)


def find_rule(path: str) -> Rule:
    """The rule for the fact at the dotted ``path``; which step or episode does not matter."""
    return _find_rule(re.sub(r"\.\d+(?=\.|$)", ".0", path))


@functools.lru_cache(maxsize=4096)
def _find_rule(path: str) -> Rule:
    for rule in RULES:
        if fnmatch.fnmatchcase(path, rule.pattern):
            return rule
    return _OTHERWISE


def step_tolerance(step: int, *, half_precision: bool) -> float | None:
    """The relative tolerance of a training step's figures; None where none can be stated."""
    if step > 1000:
        return None
    first = HALF_PRECISION_TOLERANCE if half_precision else FIRST_STEP_TOLERANCE
    tolerance = float(first * GROWTH_PER_STEP**step)
    return tolerance if tolerance <= LOOSEST else None
