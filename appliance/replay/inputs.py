"""R1 of a replay: each stage before training computed again and compared, and the configuration."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from appliance.errors import DatasetError, NormStatsError, PlanError, TrainingError
from appliance.manifest.model import Manifest
from appliance.replay.evidence import Evidence
from appliance.replay.levels import Level, LevelStatus
from appliance.replay.places import describe_other_norm_stats
from appliance.replay.recompute import (
    recompute_configuration,
    recompute_dataset,
    recompute_norm_stats,
    recompute_plan,
)
from appliance.replay.subject import Subject
from appliance.replay.verdict import not_tested

_Recompute = Callable[[Manifest, Path, Path], dict[str, Any]]


def replay_inputs(
    subject: Subject,
    manifest: Manifest,
    work: Path,
    evidence: Evidence,
    announce: Callable[[str], None],
    *,
    recording: bool = False,
) -> None:
    """Compute again in ``work``, add to ``evidence``, and judge R1.

    A stage whose code now fails on the original's inputs contradicts it. Inputs that are others, or
    not there, contradict nothing: they are noted in ``evidence``.
    """
    root = subject.root
    if not root.is_dir():
        evidence.missing = f"the dataset is not at {root}; name it with --dataset-root"
        evidence.levels[Level.R1] = not_tested(evidence.missing)
        return
    evidence.compare("manifest", {"manifest": dict(subject.declared)})
    steps: list[tuple[str, _Recompute]] = [
        ("dataset", recompute_dataset),
        ("plan", recompute_plan),
        ("norm_stats", recompute_norm_stats),
        ("train", recompute_configuration),
    ]
    if manifest.plan is None:
        del steps[1]
    for name, recompute in steps:
        if not evidence.may_go_on():
            break
        announce(f"{name}: computing again" if name != "train" else "configuration")
        if name == "norm_stats":
            evidence.invalid = describe_other_norm_stats(manifest, subject.norm_stats_sha256)
        if evidence.invalid is not None:
            return
        started = time.monotonic()
        try:
            facts = recompute(manifest, root, work)
        except DatasetError as error:
            evidence.invalid = str(error)
            return
        except (PlanError, NormStatsError, TrainingError) as error:
            text = f"stage {name} cannot be computed again: {error}"
            evidence.set_level(Level.R1, LevelStatus.CONTRADICTED, text)
            return
        if name != "train":
            evidence.seconds[name] = time.monotonic() - started
        evidence.compare(name, facts)
    if not recording:
        evidence.compare_pins(manifest)
    if Level.R1 not in evidence.levels:
        evidence.levels[Level.R1] = evidence.judge(
            Level.R1, whole=True, extent="data, plan, norm stats and configuration"
        )
