"""Stage `norm_stats`: normalization statistics as a controlled variable (Plan-STaR section 2).

Content: ``norm_stats.json`` in openpi's form, and its provenance (plan hash, subset, frames).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from appliance.dataset.columns import Columns
from appliance.manifest.model import Manifest
from appliance.norm_stats.compute import compute_norm_stats
from appliance.norm_stats.files import NormStats, write_norm_stats
from appliance.norm_stats.select import Subset, select_rows
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.stages.definition import Stage, StageContext
from appliance.stages.pins import norm_stats_without_place

if TYPE_CHECKING:  # the baseline imports nothing of the plan
    from appliance.plan.plan import Plan


def asset_id(manifest: Manifest) -> str:
    """Under which name the statistics are kept: the manifest's, or the dataset's repo_id."""
    return manifest.norm_stats.asset_id or manifest.dataset.repo_id


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    return {
        "norm_stats": norm_stats_without_place(manifest.as_dict()["norm_stats"]),
        "dataset": {"repo_id": manifest.dataset.repo_id},
        "train": {"config": manifest.train.config},
    }


def stage(*, with_plan: bool) -> Stage:
    """The stage; with a plan its statistics may be over the plan's frames."""
    return Stage(
        name="norm_stats",
        version=1,
        upstream=("dataset", "plan") if with_plan else ("dataset",),
        rooms=("norm_stats", "plan", "dataset", "episodes", "policy"),
        packages=("numpy", "scipy", "pyarrow"),
        manifest_part=_manifest_part,
        run=_run,
    )


def _run(context: StageContext) -> None:
    if context.manifest.norm_stats.mode == "reuse":
        _reuse(context)
    else:
        _recompute(context)


def _reuse(context: StageContext) -> None:
    from appliance.norm_stats.files import read_norm_stats

    manifest = context.manifest
    stats = read_norm_stats(context.files["norm_stats.path"])
    _write(context, stats, {"mode": "reuse", "asset_id": asset_id(manifest)})


def _recompute(context: StageContext) -> None:
    from appliance.dataset.columns import read_columns
    from appliance.plan.files import read_plan

    manifest = context.manifest
    preset = PRESETS[manifest.train.config]
    horizon = preset.model.action_horizon
    plan = read_plan(context.inputs["plan"] / "content") if "plan" in context.inputs else None
    columns = read_columns(context.dataset_root)
    stats, num_frames = compute_statistics(columns, plan, manifest.norm_stats.subset, preset)
    provenance = {
        "mode": "recompute",
        "asset_id": asset_id(manifest),
        "subset": manifest.norm_stats.subset,
        "num_frames": num_frames,
        "action_horizon_H": horizon,
        "plan_sha256": None if plan is None else plan.plan_sha256,
    }
    _write(context, stats, provenance)


def compute_statistics(
    columns: Columns, plan: Plan | None, subset: Subset, preset: TrainConfig
) -> tuple[NormStats, int]:
    """Statistics of a dataset as ``preset`` will see it, and the number of frames they are over.

    Raises NormStatsError when subset and plan do not go together.
    """
    rows = select_rows(
        subset,
        columns.episode_index,
        columns.frame_index,
        plan_meta=None if plan is None else plan.meta,
        anchor_indices=None if plan is None else plan.anchor_indices,
    )
    stats = compute_norm_stats(
        columns.state_NxS,
        columns.action_NxA,
        columns.episode_index,
        rows=rows,
        horizon=preset.model.action_horizon,
        delta_mask=preset.delta_mask,
    )
    return stats, len(rows)


def _write(context: StageContext, stats: NormStats, provenance: Mapping[str, Any]) -> None:
    for path in context.content.iterdir():
        path.unlink()  # left by a run that was stopped before its receipt
    write_norm_stats(stats, context.content, provenance=provenance)
