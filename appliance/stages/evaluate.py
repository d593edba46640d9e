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
from appliance.simulator.spec import ROBOTWIN_IMAGE_SIZE, SimulatorSpec
from appliance.stages.definition import Stage, StageContext
from appliance.stages.pins import checkout_without_place, without_place
from appliance.stages.train import EXP_NAME

if TYPE_CHECKING:
    from appliance.evaluation.protocols import SimulatorFactory
    from appliance.policy.tokenizer import Tokenizer


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    train = manifest.as_dict()["train"]
    part = manifest.as_dict()["eval"]
    return {
        "eval": {**part, "checkout": checkout_without_place(part["checkout"])},
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
    simulator, make_simulator = _choose_simulator(context, config)
    evaluate(
        EvalRequest(
            task=part.task,
            task_config=part.task_config,
            simulator=simulator,
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
        make_simulator,
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


def _choose_simulator(
    context: StageContext, config: TrainConfig
) -> tuple[dict[str, Any], SimulatorFactory]:
    """The simulator the manifest asks for: what the records say of it, and how to make one."""
    from appliance.simulator.checkout import CheckoutProcess, CheckoutSpec
    from appliance.simulator.worker import SimulatorProcess

    part = context.manifest.eval
    asked: dict[str, Any] = {
        "task": part.task,
        "task_config": part.task_config,
        "embodiment": part.embodiment,
        "planner": part.planner,
        "shader": part.shader,
        "cameras": tuple(camera for camera, _ in config.cameras),
        "image_size": _picture_size(config),
    }

    def options(number: int) -> dict[str, Any]:
        log_path = context.observed / f"simulator-{number}.log"
        return {"log_path": log_path, "call_timeout_s": part.call_timeout_s}

    if part.checkout is not None:
        root = (context.manifest_dir / part.checkout.path).resolve()
        python = context.manifest_dir / part.checkout.python
        there = CheckoutSpec(root=root, python=python, **asked)
        record = {"name": part.simulator, **there.as_record(), **_describe_checkout(root, python)}
        return record, lambda number: CheckoutProcess(there, **options(number))
    spec = SimulatorSpec(**asked)
    record = {"name": part.simulator, **spec.as_record()}
    return record, lambda number: SimulatorProcess(spec, **options(number))


def _describe_checkout(root: Path, python: Path) -> dict[str, str]:
    """What stands in the records of the checkout as it is now; the lock has its assets too."""
    from appliance.simulator.checkout import digest_code, digest_environment

    return {"checkout": digest_code(root), "environment": digest_environment(python)}


def _picture_size(config: TrainConfig) -> tuple[int, int]:
    """(width, height) of the cameras: what the policy reads, if that has the shape of RoboTwin's.

    A policy of square pictures was trained on RoboTwin's, resized with padding; it gets those and
    does the same to them.
    """
    height_px, width_px = config.model.image_size
    wide, high = ROBOTWIN_IMAGE_SIZE
    return (width_px, height_px) if width_px * high == height_px * wide else ROBOTWIN_IMAGE_SIZE


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
