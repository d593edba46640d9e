"""What a replay has found so far, compared with the original as it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from appliance.manifest.model import Manifest
from appliance.replay.claim import ClaimResult, fisher_exact_p
from appliance.replay.comparison import (
    Compared,
    Outcome,
    Setting,
    StageComparison,
    compare_stage,
)
from appliance.replay.levels import Level, LevelResult, LevelStatus
from appliance.replay.reference import Reference
from appliance.replay.verdict import judge_bits

UNLIKELY = 0.001
"""Success counts of two machines that chance explains less often than this are a difference."""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Facts found, comparisons made, levels judged; and why nothing more can be, if so.

    ``reference`` is what is compared with; None compares nothing. ``invalid`` says why the inputs
    are not the original's, ``missing`` what is not at hand.
    """

    reference: Reference | None
    setting: Setting
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, StageComparison] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    levels: dict[Level, LevelResult] = field(default_factory=dict)
    claim: ClaimResult | None = None
    invalid: str | None = None
    missing: str | None = None

    def compare(self, stage: str, facts: dict[str, Any]) -> None:
        """Add to the found facts of a stage, and compare all of them so far."""
        if stage != "manifest":
            self.facts.setdefault(stage, {}).update(facts)
        if self.reference is None:
            return
        expected = dict(self.reference.facts.get(stage, {}))
        found = dict(self.facts.get(stage, {}))
        if stage == "manifest":
            expected, found = {"manifest": expected}, facts
        if "steps" in found:
            shared = expected.get("steps", {}).keys() & found["steps"].keys()
            expected["steps"] = {step: expected["steps"][step] for step in shared}
            found["steps"] = {step: found["steps"][step] for step in shared}
        if stage == "train" and "summary" not in found:
            expected.pop("summary", None)
        comparison = compare_stage(stage, expected, found, self.setting)
        if comparison.counts:
            self.stages[stage] = comparison

    def compare_pins(self, manifest: Manifest) -> None:
        """What the manifest itself expects of plan and statistics (``expect``)."""
        expect, facts = manifest.expect, self.facts
        if expect is None:
            return
        pins = {
            "plan_sha256": (
                expect.plan_sha256,
                facts.get("plan", {}).get("meta", {}).get("plan_sha256"),
            ),
            "norm_stats_sha256": (
                expect.norm_stats_sha256,
                facts.get("norm_stats", {}).get("provenance", {}).get("norm_stats_sha256"),
            ),
        }
        given = {name: pair for name, pair in pins.items() if pair[0] is not None}
        if given:
            self.stages["expect"] = compare_stage(
                "expect",
                {"pins": {name: pair[0] for name, pair in given.items()}},
                {"pins": {name: pair[1] for name, pair in given.items()}},
                self.setting,
            )

    def compare_counts(self, successes: int, episodes: int) -> None:
        """On another platform episodes may differ one by one, but not the rates beyond chance."""
        if self.reference is None or self.setting.same_platform:
            return
        theirs = self.reference.facts.get("evaluate", {}).get("metrics", {})
        counts = theirs.get("successes"), theirs.get("episodes")
        if not all(isinstance(count, int) for count in counts) or not 0 <= counts[0] <= counts[1]:
            return
        p = fisher_exact_p(int(counts[0]), int(counts[1]), successes, episodes)
        if p < UNLIKELY:
            stage = self.stages["evaluate"]
            row = Compared(
                stage="evaluate",
                path="evaluate.metrics.successes",
                level=Level.R3,
                expected=f"{counts[0]} of {counts[1]}",
                found=f"{successes} of {episodes} (chance explains this with p = {p:.1g})",
                outcome=Outcome.DIFFERENT,
                rule=f"Fisher's exact test at {UNLIKELY}",
            )
            self.stages["evaluate"] = StageComparison(
                stage="evaluate",
                counts=stage.counts,
                level_counts=stage.level_counts,
                differences=(*stage.differences, row),
            )

    def judge(self, level: Level, *, whole: bool, extent: str) -> LevelResult:
        """What a level of equal bits came to, by all that was compared."""
        return judge_bits(
            level,
            self.stages,
            whole=whole,
            extent=extent,
            same_platform=self.setting.same_platform,
        )

    def set_level(self, level: Level, status: LevelStatus, reason: str) -> None:
        """Note what a level came to."""
        self.levels[level] = LevelResult(status=status, reason=reason)

    def may_go_on(self) -> bool:
        """Whether nothing so far contradicts the original or stands in the way."""
        if self.invalid is not None or self.missing is not None:
            return False
        if any(result.status is LevelStatus.CONTRADICTED for result in self.levels.values()):
            return False
        return not any(stage.differences for stage in self.stages.values())
