"""The files a finished run leaves beside its checkpoints and in its content folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.files import storage_errors, write_json
from appliance.policy.presets import ScheduleConfig
from appliance.training.exposure import DrawLog
from appliance.training.inputs import TrainInputs
from appliance.training.journal import CHAIN_FILE, CURVE_FILE
from appliance.training.request import (
    TrainRequest,
    budget_schedule,
    describe_request,
    plain_data,
)
from appliance.training.schedule import effective_repeat, plan_scale, scale_peak

SUMMARY_FILE = "run_summary.json"
LEAVES_FILE = "checkpoint_leaves.json"
PLAN_FOLDER = "sampling_plan"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateInForce:
    """The schedule a run follows, and how the plan scaled it (None without plan-aware scaling)."""

    schedule: ScheduleConfig
    plan_lr_scale: float | None
    plan_effective_repeat: float | None


def choose_rate(request: TrainRequest, inputs: TrainInputs) -> RateInForce:
    """Budget first, then the plan's scale (Plan-STaR 3)."""
    schedule = budget_schedule(request)
    if inputs.plan is None:
        return RateInForce(schedule=schedule, plan_lr_scale=None, plan_effective_repeat=None)
    repeat = effective_repeat(request.num_draws, float(inputs.exposure["exposure_ESS"]))
    if not request.plan_aware_lr_scale:
        return RateInForce(schedule=schedule, plan_lr_scale=None, plan_effective_repeat=repeat)
    scale = plan_scale(repeat, request.repeat)
    return RateInForce(
        schedule=scale_peak(schedule, scale), plan_lr_scale=scale, plan_effective_repeat=repeat
    )


def describe_run(
    request: TrainRequest,
    inputs: TrainInputs,
    rate: RateInForce,
    *,
    counts: Mapping[str, int],
    draws: DrawLog,
    chain: str,
) -> dict[str, Any]:
    """``run_summary.json``: the configuration in force, expected and realized exposure.

    No time, host or path is in it: the same run gives the same bytes.
    """
    plan = inputs.plan
    realized = draws.summarize(
        None if plan is None else plan.anchors_N, None if plan is None else plan.stage_ids_N
    )
    return {
        "configuration": {
            **describe_request(request),
            "schedule_in_force": plain_data(rate.schedule),
            "sampler_seed": inputs.stream.seed,
            "sampler_replacement": None if plan is None else plan.replacement,
        },
        **inputs.describe(),
        **inputs.exposure,
        "plan_lr_scale": rate.plan_lr_scale,
        "plan_effective_repeat": rate.plan_effective_repeat,
        **realized,
        **counts,
        "final_checkpoint": request.num_train_steps,
        "hash_chain": chain,
    }


def copy_plan(inputs: TrainInputs, *folders: Path) -> None:
    """Copy the plan's files, byte for byte, to ``sampling_plan/`` in each folder.

    Raises StorageError: a run without its plan beside it cannot be audited.
    """
    if inputs.plan is None:
        return
    from appliance.plan.files import copy_plan as copy_files

    for folder in folders:
        copy_files(inputs.plan.path, folder / PLAN_FOLDER)


def remove_results(content_dir: Path) -> None:
    """Remove what an overwritten run left in a folder of its own. Raises StorageError."""
    with storage_errors(content_dir, "removing the earlier run"):
        for name in (SUMMARY_FILE, LEAVES_FILE, CURVE_FILE, CHAIN_FILE):
            (content_dir / name).unlink(missing_ok=True)
        if (content_dir / PLAN_FOLDER).exists():
            shutil.rmtree(content_dir / PLAN_FOLDER)


def write_results(
    summary: Mapping[str, Any], leaves: Mapping[str, Any], content_dir: Path, run_dir: Path
) -> None:
    """The summary to both folders, the leaf digests to the content. Raises StorageError."""
    for folder in (content_dir, run_dir):
        write_json(folder / SUMMARY_FILE, summary)
    write_json(content_dir / LEAVES_FILE, leaves)
