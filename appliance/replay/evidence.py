"""What a replay has found so far, compared with the original as it comes in."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from appliance.evaluation.statistics import Equivalence, equivalence_two_proportions
from appliance.manifest.model import Manifest
from appliance.replay.claim import ClaimResult, fisher_exact_p, judge_claim
from appliance.replay.comparison import (
    Compared,
    Outcome,
    Setting,
    StageComparison,
    compare_stage,
)
from appliance.replay.coverage import find_gaps
from appliance.replay.declared import DeclaredClaim
from appliance.replay.levels import Level, LevelResult, LevelStatus
from appliance.replay.reference import Reference
from appliance.replay.verdict import judge_bits, judge_rate

UNLIKELY = 0.001
"""Success counts of two machines that chance explains less often than this are a difference."""


@dataclass(slots=True, kw_only=True)
class Evidence:
    """Facts found, comparisons made, levels judged; and why nothing more can be, if so.

    ``reference`` is what is compared with; None compares nothing. ``invalid`` says why the inputs
    are not the original's, ``missing`` what is not at hand, time included. ``unpinned`` are the
    figures that the manifest could have expected and does not.
    """

    reference: Reference | None
    setting: Setting
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    stages: dict[str, StageComparison] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    levels: dict[Level, LevelResult] = field(default_factory=dict)
    claim: ClaimResult | None = None
    equivalence: Equivalence | None = None
    invalid: str | None = None
    missing: str | None = None
    unpinned: list[str] = field(default_factory=list)

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
        given = {name: pair for name, pair in pins.items() if None not in pair}
        self.unpinned = [
            f"expect.{name}"
            for name, (pin, found) in pins.items()
            if found is not None and pin is None
        ]
        if given:
            self.stages["expect"] = compare_stage(
                "expect",
                {"pins": {name: pair[0] for name, pair in given.items()}},
                {"pins": {name: pair[1] for name, pair in given.items()}},
                self.setting,
            )

    def judge_rate(
        self, level: Level, declared: DeclaredClaim, successes: int, episodes: int
    ) -> None:
        """R4 or R5: the declared claim decides; the original's own counts are evidence beside it.

        Source of the test between the two: Miettinen and Nurminen 1985, two one-sided.
        """
        claim = declared.claim
        if claim is not None:
            self.claim = judge_claim(claim, successes, episodes)
        result = judge_rate(self.claim, declared.why)
        theirs = self._original_counts()
        if claim is not None and theirs is not None and claim.margin < 1 and claim.alpha < 0.5:
            self.equivalence = equivalence_two_proportions(
                *theirs, successes, episodes, margin=claim.margin, alpha=claim.alpha
            )
            shown = "is" if self.equivalence.is_equivalent else "is not shown to be"
            text = (
                f"{result.reason}. The original's {theirs[0]} of {theirs[1]} {shown} equivalent"
                f" within that margin (p = {self.equivalence.p:.2g})"
            )
            result = replace(result, reason=text)
        self.levels[level] = result

    def compare_counts(self, successes: int, episodes: int) -> None:
        """On another platform episodes may differ one by one, but not the rates beyond chance."""
        counts = self._original_counts()
        if counts is None or self.setting.same_platform:
            return
        p = fisher_exact_p(*counts, successes, episodes)
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

    def _original_counts(self) -> tuple[int, int] | None:
        """The original's successes and episodes, where it has an evaluation."""
        if self.reference is None:
            return None
        metrics = self.reference.facts.get("evaluate", {}).get("metrics", {})
        successes, episodes = metrics.get("successes"), metrics.get("episodes")
        if not isinstance(successes, int) or not isinstance(episodes, int):
            return None
        return (successes, episodes) if 0 <= successes <= episodes > 0 else None

    def judge(self, level: Level, *, whole: bool, extent: str) -> LevelResult:
        """What a level of equal bits came to, by all that was compared and what was not said."""
        gaps: list[str] = []
        if self.reference is not None:
            recorded = self.reference.is_recorded
            gaps = find_gaps(level, self.reference.facts, self.facts, is_recorded=recorded)
        elif level is Level.R1:
            gaps = self.unpinned
            extent = "plan and norm stats, by what the manifest itself expects of them"
        return judge_bits(
            level,
            self.stages,
            whole=whole,
            extent=extent,
            same_platform=self.setting.same_platform,
            gaps=gaps,
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
