"""Building a plan, step by step (Plan-STaR section 1). Pure: arrays in, a Plan out.

The same columns and parameters give the same ``plan_sha256`` on every machine. Letters: N anchors.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import EpisodeTable, FrameColumns, IntArray, name_some, split_episodes
from appliance.errors import PlanError
from appliance.plan.anchors import clamp_tail_keep, count_valid_starts, place_anchors
from appliance.plan.balance import compute_base_weights, count_stages
from appliance.plan.episodes import select_episodes
from appliance.plan.gripper import GripperEvents, compute_event_weights, find_events
from appliance.plan.metadata import (
    describe_libraries,
    describe_params,
    describe_rules,
    hash_plan,
)
from appliance.plan.params import PlanParams
from appliance.plan.plan import PLAN_VERSION, Plan
from appliance.plan.stages import assign_stages
from appliance.plan.weights import combine_weights, compute_figures

logger = logging.getLogger(__name__)


def build_plan(
    columns: FrameColumns,
    params: PlanParams,
    *,
    repo_id: str,
    train_config_name: str,
    action_horizon: int,
    batch_size: int,
    dataset_fingerprint: str | None,
    created_at_utc: str,
    episode_digests: Mapping[int, str] | None = None,
) -> Plan:
    """The sampling plan of these columns.

    ``episode_digests`` (episode id -> SHA-256 in hexadecimal) are stored with the plan, so that a
    later mismatch of the fingerprint can name the episodes that changed. Warnings are logged and
    kept in ``Plan.warnings``. Raises PlanError.
    """
    _check_sizes(action_horizon, batch_size)
    has_episode_fields = columns.episode_index is not None and columns.frame_index is not None
    table = split_episodes(columns)
    kept_ids = select_episodes(
        table,
        params.num_episodes_keep,
        params.episode_selection_seed,
        has_episode_fields=has_episode_fields,
    )
    kept = table.take(kept_ids)
    tail_keep = clamp_tail_keep(params.valid_start_tail_keep, action_horizon)
    valid_starts = count_valid_starts(kept.lengths, action_horizon, tail_keep)
    min_anchors = batch_size if params.min_anchors is None else params.min_anchors
    anchors = place_anchors(
        kept,
        valid_starts,
        stride=params.stride,
        plan_seed=params.plan_seed,
        min_anchors=min_anchors,
    )
    stages = assign_stages(anchors, kept, action_horizon, params, columns.state_NxS)
    stage_counts = count_stages(stages.ids, params.num_stages)
    base_weights = compute_base_weights(stages.ids, stage_counts, params)
    events, event_weights = None, None
    if params.gripper_event_enabled:
        events = find_events(kept, params, columns.state_NxS)
        event_weights = compute_event_weights(anchors, kept, events, action_horizon, params)
    weights = combine_weights(base_weights, event_weights, params.clip_ratio, params.epsilon_mix)
    arrays: dict[str, NDArray[Any]] = {
        "anchor_indices": anchors.rows,
        "stage_ids": stages.ids,
        "weights": weights,
        **_extra_arrays(events, episode_digests),
    }
    meta = {
        "plan_version": PLAN_VERSION,
        "created_at_utc": created_at_utc,
        "train_config_name": train_config_name,
        "repo_id": repo_id,
        "dataset_fingerprint": dataset_fingerprint,
        "dataset_len": columns.num_frames,
        "has_episode_fields": has_episode_fields,
        "num_episodes_total": len(table),
        "num_episodes_keep": len(kept_ids),
        "episodes_keep": kept_ids.tolist(),
        "action_horizon_H": action_horizon,
        "batch_size": batch_size,
        **describe_params(params),
        **describe_rules(
            params,
            tail_keep=tail_keep,
            stride=anchors.stride,
            min_anchors=min_anchors,
            num_filled=stages.num_filled_boundaries,
        ),
        "summary": _summarize(valid_starts, weights, stage_counts, events),
        "libraries": describe_libraries(),
    }
    meta["plan_sha256"] = hash_plan(meta, arrays)
    warnings = (
        *_warn_empty_episodes(kept, valid_starts, action_horizon),
        *stages.warnings,
        *(events.warnings if events else ()),
    )
    for warning in warnings:
        logger.warning(warning)
    return _assemble(meta, arrays, warnings)


def _assemble(
    meta: Mapping[str, Any], arrays: dict[str, NDArray[Any]], warnings: tuple[str, ...]
) -> Plan:
    own = ("anchor_indices", "stage_ids", "weights")
    return Plan(
        meta=meta,
        anchor_indices=arrays["anchor_indices"],
        stage_ids=arrays["stage_ids"],
        weights=arrays["weights"],
        extra_arrays={name: array for name, array in arrays.items() if name not in own},
        computed_sha256=meta["plan_sha256"],
        warnings=warnings,
    )


def _check_sizes(action_horizon: int, batch_size: int) -> None:
    for name, value in (("action_horizon", action_horizon), ("batch_size", batch_size)):
        if value < 1:
            raise PlanError(f"plan: {name} is {value}. It must be 1 or more.")


def _extra_arrays(
    events: GripperEvents | None, episode_digests: Mapping[int, str] | None
) -> dict[str, NDArray[Any]]:
    arrays: dict[str, NDArray[Any]] = {}
    if events is not None:
        arrays["event_rows"] = events.rows
    if episode_digests is not None:
        ids = sorted(episode_digests)
        digests = b"".join(bytes.fromhex(episode_digests[episode]) for episode in ids)
        arrays["dataset_episode_ids"] = np.array(ids, dtype=np.int64)
        arrays["dataset_episode_digests"] = np.frombuffer(digests, dtype=np.uint8).reshape(-1, 32)
    return arrays


def _summarize(
    valid_starts: IntArray,
    weights: NDArray[np.float32],
    stage_counts: list[int],
    events: GripperEvents | None,
) -> dict[str, Any]:
    figures = compute_figures(weights)
    per_episode: dict[str, Any] = {"min": None, "mean": None, "max": None}
    if events is not None:
        per_episode = {
            "min": int(events.counts.min()),
            "mean": int(events.counts.sum()) / len(events.counts),
            "max": int(events.counts.max()),
        }
    return {
        "num_valid_frames": int(valid_starts.sum()),
        "num_anchors": len(weights),
        "stage_counts": stage_counts,
        "num_gripper_events_per_episode": per_episode,
        "weight_stats": {
            "min": figures.minimum,
            "median": figures.median,
            "max": figures.maximum,
        },
        "ESS_reference": figures.ess,
    }


def _warn_empty_episodes(
    kept: EpisodeTable, valid_starts: IntArray, horizon: int
) -> tuple[str, ...]:
    empty = kept.ids[valid_starts == 0]
    if not len(empty):
        return ()
    text = (
        f"Kept episodes without a valid start at action horizon {horizon} ({len(empty)}), which"
        f" give no anchor: {name_some(empty)}."
    )
    return (text,)
