"""Stage `train`: fine-tune the policy on what the plan lets it see (Plan-STaR section 3).

Content: ``run_summary.json``, the curve, the hash chain, the digests of every kept checkpoint's
leaves and a copy of the plan. Artifacts: the checkpoints themselves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.manifest.model import Manifest, TrainPart
from appliance.policy.presets import PRESETS
from appliance.stages.definition import Stage, StageContext
from appliance.stages.norm_stats import asset_id
from appliance.stages.pins import without_place

if TYPE_CHECKING:
    from appliance.training.processes import Layout
    from appliance.training.request import TrainRequest

EXP_NAME = "run"
# Settings of the train part that change no result; of a file, its digest does and its place not.
_NEUTRAL = ("num_workers",)
_FILES = ("init", "tokenizer")


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    part = manifest.as_dict()["train"]
    for name in _FILES:
        part[name] = without_place(part[name])
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
            "sentencepiece",
        ),
        manifest_part=_manifest_part,
        run=_run,
    )


def build_request(
    manifest: Manifest,
    *,
    files: Mapping[str, Path],
    dataset_root: Path,
    norm_stats_path: Path,
    plan_path: Path | None,
    cache_dir: Path | None,
) -> TrainRequest:
    """What the train part of ``manifest`` asks of training; nothing heavy is imported for it.

    ``files`` are as of a ``StageContext``.
    """
    return request_of(
        manifest.train,
        files=files,
        exp_name=EXP_NAME,
        repo_id=manifest.dataset.repo_id,
        dataset_root=dataset_root,
        norm_stats_path=norm_stats_path,
        sampling_plan_path=plan_path,
        asset_id=asset_id(manifest),
        resume=True,
        cache_dir=cache_dir,
    )


def request_of(part: TrainPart, *, files: Mapping[str, Path], **more: Any) -> TrainRequest:
    """A train part's settings as a request; ``files`` says where what it names lies, by key.

    ``more``: the fields of TrainRequest of which a train part says nothing.
    """
    from appliance.training.request import InitialWeights, TokenizerFile, TrainRequest
    from appliance.training.schedule import BudgetRule, RepeatRule

    return TrainRequest(
        config=PRESETS[part.config],
        num_train_steps=part.steps,
        batch_size=part.batch_size,
        seed=part.seed,
        num_workers=part.num_workers,
        sampler=part.sampler,
        fsdp_devices=part.fsdp_devices,
        sampler_seed_override=part.sampler_seed_override,
        sampler_replacement_override=part.sampler_replacement_override,
        freeze_mode=part.freeze_mode,
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
        save_interval=part.save_interval,
        init=None
        if part.init is None
        else InitialWeights(checkpoint=files["train.init.checkpoint"], sha256=part.init.sha256),
        tokenizer=None
        if part.tokenizer is None
        else TokenizerFile(path=files["train.tokenizer.path"], sha256=part.tokenizer.sha256),
        **more,
    )


def stage_request(context: StageContext) -> TrainRequest:
    """The request of a stage that trains, from the files of its upstream stages."""
    plan = context.inputs.get("plan")
    return build_request(
        context.manifest,
        files=context.files,
        dataset_root=context.dataset_root,
        norm_stats_path=context.inputs["norm_stats"] / "content" / "norm_stats.json",
        plan_path=None if plan is None else plan / "content",
        cache_dir=context.scratch_dir / "frames",
    )


def _run(context: StageContext) -> None:
    from appliance.training.processes import Folders, train_by_layout

    train_by_layout(
        stage_request(context),
        Folders(content=context.content, observed=context.observed, artifacts=context.artifacts),
        layout_of(context.manifest.train, gpus=context.manifest.runtime.gpus),
        context.progress,
    )


def layout_of(part: TrainPart, *, gpus: int) -> Layout:
    """How the processes of a training are spread."""
    from appliance.training.processes import Layout

    return Layout(processes=part.processes, cpu_devices=part.cpu_devices, gpus=gpus)
