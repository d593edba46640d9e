"""Stage `train`: fine-tune the policy on what the plan lets it see (Plan-STaR section 3).

Content: ``run_summary.json``, the curve, the hash chain, the digests of every kept checkpoint's
leaves and a copy of the plan. Artifacts: the checkpoints themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.manifest.model import Manifest
from appliance.policy.presets import PRESETS
from appliance.stages.definition import Stage, StageContext
from appliance.stages.norm_stats import asset_id

EXP_NAME = "run"
# Settings of the train part that change no result.
_NEUTRAL = ("num_workers",)


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    part = manifest.as_dict()["train"]
    return {
        "train": {name: value for name, value in part.items() if name not in _NEUTRAL},
        "dataset": {"repo_id": manifest.dataset.repo_id},
        "norm_stats": {"asset_id": asset_id(manifest)},
    }


def stage(*, with_plan: bool) -> Stage:
    """The stage; without a plan it is the baseline: uniform shuffling of the whole dataset."""
    return Stage(
        name="train",
        version=1,
        upstream=("dataset", "plan", "norm_stats") if with_plan else ("dataset", "norm_stats"),
        rooms=(
            *("training", "policy", "norm_stats", "dataset", "episodes"),
            *(("plan",) if with_plan else ()),
        ),
        packages=(
            "jax",
            "jaxlib",
            "flax",
            "optax",
            "orbax-checkpoint",
            "tensorstore",
            "ml-dtypes",
            "torch",
            "lerobot",
            "datasets",
            "av",
            "numpy",
            "pyarrow",
        ),
        manifest_part=_manifest_part,
        run=_run,
    )


def _run(context: StageContext) -> None:
    from appliance.training.optimizer import FreezeMode
    from appliance.training.processes import Folders, Layout, train_by_layout
    from appliance.training.request import InitialWeights, TrainRequest
    from appliance.training.schedule import BudgetRule, RepeatRule

    manifest = context.manifest
    part = manifest.train
    plan = context.inputs.get("plan")
    freeze_mode: FreezeMode = "strong" if part.freeze_mode == "strong" else "default"
    request = TrainRequest(
        config=PRESETS[part.config],
        exp_name=EXP_NAME,
        repo_id=manifest.dataset.repo_id,
        dataset_root=context.dataset_root,
        norm_stats_path=context.inputs["norm_stats"] / "content" / "norm_stats.json",
        num_train_steps=part.steps,
        batch_size=part.batch_size,
        seed=part.seed,
        num_workers=part.num_workers,
        sampler=part.sampler,
        fsdp_devices=part.fsdp_devices,
        sampling_plan_path=None if plan is None else plan / "content",
        sampler_seed_override=part.sampler_seed_override,
        sampler_replacement_override=part.sampler_replacement_override,
        freeze_mode=freeze_mode,
        budget_aware_schedule=part.budget_aware_schedule,
        budget=BudgetRule(
            warmup_ratio=part.budget_warmup_ratio,
            min_warmup_steps=part.budget_min_warmup_steps,
        ),
        plan_aware_lr_scale=part.plan_aware_lr_scale,
        repeat=RepeatRule(
            target_effective_repeat=part.plan_target_effective_repeat,
            power=part.plan_lr_scale_power,
            min_scale=part.plan_lr_min_scale,
        ),
        asset_id=asset_id(manifest),
        save_interval=part.save_interval,
        init=None
        if part.init is None
        else InitialWeights(
            checkpoint=context.manifest_dir / part.init.checkpoint, sha256=part.init.sha256
        ),
        resume=True,
        cache_dir=context.scratch_dir / "frames",
    )
    train_by_layout(
        request,
        Folders(content=context.content, observed=context.observed, artifacts=context.artifacts),
        Layout(
            processes=part.processes,
            cpu_devices=part.cpu_devices,
            gpus=manifest.runtime.gpus,
        ),
        context.progress,
    )
