"""Stage `evaluate`: roll the checkpoint out in the simulator (Plan-STaR section 4).

Content: the trial list, one record an episode, the metrics. Observed: times, videos, RoboTwin's own
result form. The checkpoint's leaves must be those the train stage recorded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from appliance.manifest.difference import checkout_without_place
from appliance.manifest.model import Manifest
from appliance.stages.definition import Stage, StageContext
from appliance.stages.pins import without_place
from appliance.stages.simulators import ChosenSimulator, cameras_of, choose_simulator, picture_size
from appliance.stages.trained_policy import find_after_training, open_policy

if TYPE_CHECKING:
    from appliance.evaluation.request import EvalRequest


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    train = manifest.as_dict()["train"]
    part = manifest.as_dict()["eval"]
    return {
        "eval": {**part, "checkout": checkout_without_place(part["checkout"])},
        "train": {"config": train["config"], "tokenizer": without_place(train["tokenizer"])},
    }


def _run(context: StageContext) -> None:
    from appliance.evaluation.driver import evaluate

    part = context.manifest.eval
    opened = open_policy(
        find_after_training(
            context.manifest,
            context.inputs["train"],
            context.inputs["norm_stats"],
            part.checkpoint,
            files=context.files,
        ),
        sampling_steps=part.sampling_steps,
    )
    simulator = choose_simulator(
        context.manifest,
        files=context.files,
        cameras=cameras_of(opened.config),
        image_size=picture_size(*opened.config.model.image_size),
    )
    evaluate(
        make_request(
            context.manifest,
            simulator,
            opened.identity,
            workers=min(context.manifest.runtime.cpu_threads, part.episodes),
        ),
        opened.policy,
        simulator.factory(context.observed),
        content_dir=context.content,
        observed_dir=context.observed,
        artifacts_dir=context.artifacts,
        on_progress=context.progress,
    )


def make_request(
    manifest: Manifest, simulator: ChosenSimulator, policy: Mapping[str, Any], *, workers: int
) -> EvalRequest:
    """The evaluation a manifest asks for, of the policy that the records name by ``policy``."""
    from appliance.evaluation.request import EvalRequest

    part = manifest.eval
    return EvalRequest(
        task=part.task,
        task_config=part.task_config,
        simulator=simulator.record,
        policy=policy,
        episodes=part.episodes,
        seed=part.seed,
        policy_seed=part.policy_seed,
        instruction_type=part.instruction_type,
        action_steps=part.action_steps,
        query_batch=part.query_batch,
        trials=None if part.trials is None else tuple(part.trials),
        video=part.video,
        workers=workers,
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
