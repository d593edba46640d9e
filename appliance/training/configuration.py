"""The configuration a run will have in force, resolved without training and without jax.

It is the ``configuration`` of ``run_summary.json``: the same fields, the same values.
"""

from __future__ import annotations

from typing import Any, TypeVar

from appliance.plan.exposure import compute_exposure
from appliance.plan.plan import Plan
from appliance.policy.presets import ScheduleConfig
from appliance.training.request import TrainRequest, budget_schedule, describe_request, plain_data
from appliance.training.schedule import effective_repeat, plan_scale, scale_peak

T = TypeVar("T")


def resolve_configuration(request: TrainRequest, plan: Plan | None) -> dict[str, Any]:
    """The request with every default and override in force, the schedule and the sampler.

    Raises TrainingError for a request that training would refuse.
    """
    seed, replacement = request.seed, None
    if plan is not None:
        seed = _choose(request.sampler_seed_override, int(plan.meta["sampler_seed"]))
        replacement = _choose(request.sampler_replacement_override, bool(plan.meta["replacement"]))
    return {
        **describe_request(request),
        "schedule_in_force": plain_data(_schedule_in_force(request, plan, replacement)),
        "sampler_seed": seed,
        "sampler_replacement": replacement,
    }


def _schedule_in_force(
    request: TrainRequest, plan: Plan | None, replacement: bool | None
) -> ScheduleConfig:
    """Budget first, then the plan's scale (Plan-STaR 3)."""
    schedule = budget_schedule(request)
    if plan is None or not request.plan_aware_lr_scale:
        return schedule
    exposure = compute_exposure(
        plan.weights, plan.stage_ids, request.num_draws, bool(replacement)
    ).to_mapping()
    repeat = effective_repeat(request.num_draws, float(exposure["exposure_ESS"]))
    return scale_peak(schedule, plan_scale(repeat, request.repeat))


def _choose(override: T | None, planned: T) -> T:
    return planned if override is None else override
