"""Stage `plan`: build the sampling plan (Plan-STaR section 1). Pure NumPy; no image is read.

Content: ``plan_meta.json``, ``plan_arrays.npz`` and the expected exposure for the train budget.
Observed: where the kept episodes lie in the dataset, for pictures where the dataset is not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from appliance.files import read_json, write_json
from appliance.manifest.model import Manifest
from appliance.policy.presets import PRESETS
from appliance.stages.definition import FIXED_TIME_UTC, Stage, StageContext


def batch_size(manifest: Manifest) -> int:
    """The batch size in force: the manifest's, or its preset's."""
    return manifest.train.batch_size or PRESETS[manifest.train.config].batch_size


def _manifest_part(manifest: Manifest) -> Mapping[str, Any]:
    return {
        "plan": manifest.as_dict()["plan"],
        "dataset": {"repo_id": manifest.dataset.repo_id},
        "train": {
            "config": manifest.train.config,
            "batch_size": batch_size(manifest),
            "steps": manifest.train.steps,
            "sampler_replacement_override": manifest.train.sampler_replacement_override,
        },
    }


def _run(context: StageContext) -> None:
    from appliance.dataset.columns import STATE, read_columns
    from appliance.dataset.info import read_info
    from appliance.plan.build import build_plan
    from appliance.plan.exposure import compute_exposure
    from appliance.plan.files import write_plan
    from appliance.plan.params import PlanParams
    from appliance.report.plan_record import RECORD_FILE, describe_episodes

    manifest = context.manifest
    params = PlanParams.from_mapping(manifest.plan or {})
    columns = read_columns(context.dataset_root)
    facts = read_json(context.inputs["dataset"] / "content" / "dataset.json")
    plan = build_plan(
        columns.to_plan_columns(),
        params,
        repo_id=manifest.dataset.repo_id,
        train_config_name=manifest.train.config,
        action_horizon=PRESETS[manifest.train.config].model.action_horizon,
        batch_size=batch_size(manifest),
        dataset_fingerprint=str(facts["fingerprint"]),
        created_at_utc=FIXED_TIME_UTC,
        episode_digests={each["episode_index"]: each["content"] for each in facts["episodes"]},
    )
    write_plan(plan, context.content)
    override = manifest.train.sampler_replacement_override
    exposure = compute_exposure(
        plan.weights,
        plan.stage_ids,
        n=manifest.train.steps * batch_size(manifest),
        replacement=params.replacement if override is None else override,
    )
    write_json(context.content / "exposure.json", dict(exposure.to_mapping()))
    state = read_info(context.dataset_root).features.get(STATE)
    record = describe_episodes(plan, columns.to_plan_columns(), state.names if state else None)
    write_json(context.observed / RECORD_FILE, record)


STAGE = Stage(
    name="plan",
    version=1,
    upstream=("dataset",),
    rooms=("plan", "dataset", "episodes", "policy"),
    packages=("numpy", "scipy", "pyarrow"),
    manifest_part=_manifest_part,
    run=_run,
)
