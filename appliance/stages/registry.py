"""The stages of a manifest, in order."""

from __future__ import annotations

from dataclasses import replace

from appliance.errors import ManifestError
from appliance.manifest.model import Manifest
from appliance.stages import dataset, evaluate, norm_stats, plan, train
from appliance.stages.definition import Stage
from appliance.training.platform import GPU_PACKAGES


def stages_for(manifest: Manifest) -> tuple[Stage, ...]:
    """The chain of ``manifest``; a baseline (``plan: null``) has no plan stage.

    On GPUs the packages of CUDA decide what jax computes, and nowhere else.
    """
    with_plan = manifest.plan is not None
    stages = (
        dataset.STAGE,
        *((plan.STAGE,) if with_plan else ()),
        norm_stats.stage(with_plan=with_plan),
        train.stage(with_plan=with_plan),
        evaluate.STAGE,
    )
    return tuple(map(_on_gpus, stages)) if manifest.runtime.gpus else stages


def _on_gpus(stage: Stage) -> Stage:
    if "jax" not in stage.packages:
        return stage
    return replace(stage, packages=(*stage.packages, *GPU_PACKAGES))


def find_stage(manifest: Manifest, name: str) -> Stage:
    """The stage called ``name``. Raises ManifestError with the names there are."""
    stages = {stage.name: stage for stage in stages_for(manifest)}
    if name not in stages:
        raise ManifestError(
            f"{name}: this manifest has no stage of that name. It has: {', '.join(stages)}."
        )
    return stages[name]
