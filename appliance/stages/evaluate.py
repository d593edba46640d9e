"""Stage `evaluate`: roll the checkpoint out in the simulator (Plan-STaR section 4).

Content: the trial list, one record an episode, the metrics. Observed: times, videos, RoboTwin's own
result form. The checkpoint's leaves must be those the train stage recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from appliance.digest import tree_digest
from appliance.errors import CheckpointError
from appliance.files import read_json
from appliance.manifest.model import Manifest
from appliance.policy.presets import PRESETS, TrainConfig
from appliance.simulator.spec import SimulatorSpec
from appliance.stages.definition import Stage, StageContext
from appliance.stages.pins import without_place
from appliance.stages.train import EXP_NAME

if TYPE_CHECKING:
    from appliance.policy.tokenizer import Tokenizer


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    train = manifest.as_dict()["train"]
    return {
        "eval": manifest.as_dict()["eval"],
        "train": {"config": train["config"], "tokenizer": without_place(train["tokenizer"])},
    }


def _run(context: StageContext) -> None:
    from appliance.evaluation.checkpoints import find_checkpoint
    from appliance.evaluation.driver import evaluate
    from appliance.evaluation.request import EvalRequest
    from appliance.norm_stats.files import read_norm_stats
    from appliance.policy.checkpoint import digest_leaves, load_params
    from appliance.policy.inference import Policy
    from appliance.policy.parameters import abstract_params
    from appliance.simulator.worker import SimulatorProcess

    part = context.manifest.eval
    config = PRESETS[context.manifest.train.config]
    checkpoints = context.inputs["train"] / "artifacts" / "checkpoints" / config.name / EXP_NAME
    step, folder = find_checkpoint(checkpoints, part.checkpoint)
    params = load_params(folder / "params", abstract_params(config.model))
    leaves = digest_leaves(params)
    _check_leaves(context.inputs["train"], step, leaves)
    policy = Policy(
        params,
        config,
        read_norm_stats(context.inputs["norm_stats"] / "content" / "norm_stats.json"),
        sampling_steps=part.sampling_steps,
        tokenizer=_make_tokenizer(context, config),
    )
    spec = _simulator_spec(context.manifest, config)
    evaluate(
        EvalRequest(
            task=part.task,
            task_config=part.task_config,
            simulator={"name": part.simulator, **spec.as_record()},
            policy={
                "config": config.name,
                "checkpoint": step,
                "params": tree_digest(leaves),
                "tokenizer": policy.tokenizer_name,
                "sampling_steps": part.sampling_steps,
            },
            episodes=part.episodes,
            seed=part.seed,
            policy_seed=part.policy_seed,
            instruction_type=part.instruction_type,
            action_steps=part.action_steps,
            query_batch=part.query_batch,
            trials=None if part.trials is None else tuple(part.trials),
            video=part.video,
            workers=min(context.manifest.runtime.cpu_threads, part.episodes),
        ),
        policy,
        lambda number: SimulatorProcess(
            spec,
            log_path=context.observed / f"simulator-{number}.log",
            call_timeout_s=part.call_timeout_s,
        ),
        content_dir=context.content,
        observed_dir=context.observed,
        artifacts_dir=context.artifacts,
        on_progress=context.progress,
    )


def _make_tokenizer(context: StageContext, config: TrainConfig) -> Tokenizer:
    """The tokenizer that training had. Raises CheckpointError when its file is another now."""
    from appliance.policy.tokenizer import make_tokenizer

    named = context.manifest.train.tokenizer
    if named is None:
        return make_tokenizer(config)
    return make_tokenizer(
        config, model_path=context.manifest_dir / named.path, model_sha256=named.sha256
    )


def _simulator_spec(manifest: Manifest, config: TrainConfig) -> SimulatorSpec:
    """Only the cameras the policy reads, at the size it reads them."""
    height_px, width_px = config.model.image_size
    part = manifest.eval
    return SimulatorSpec(
        task=part.task,
        task_config=part.task_config,
        embodiment=part.embodiment,
        planner=part.planner,
        shader=part.shader,
        cameras=tuple(camera for camera, _ in config.cameras),
        image_size=(width_px, height_px),
    )


def _check_leaves(train: Path, step: int, leaves: Mapping[str, str]) -> None:
    recorded = read_json(train / "content" / "checkpoint_leaves.json")[str(step)]
    changed = sorted(
        name for name in {*recorded, *leaves} if recorded.get(name) != leaves.get(name)
    )
    if changed:
        raise CheckpointError(
            f"checkpoint {step} in {train}: {len(changed)} parameters are not those that training"
            f" recorded, first {changed[0]}. The checkpoint was changed after training; run the"
            " train stage again."
        )


STAGE = Stage(
    name="evaluate",
    version=1,
    upstream=("norm_stats", "train"),
    rooms=("evaluation", "simulator", "policy", "norm_stats"),
    packages=(
        "jax",
        "jaxlib",
        "flax",
        "orbax-checkpoint",
        "ml-dtypes",
        "numpy",
        "scipy",
        "sapien",
        "rlinf-robotwin-runtime",
        "toppra",
        "mplib",
        "transforms3d",
        "torch",
        "av",
        "sentencepiece",
    ),
    manifest_part=_manifest_part,
    run=_run,
)
