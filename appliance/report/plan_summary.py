"""What a person wants to see of a plan, as plain values: the whole, and one episode of it.

Nothing is drawn or printed here. Letters: N anchors, K stages, A anchors of one episode, M events.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import FrameColumns, IntArray, name_some, split_episodes
from appliance.errors import PlanError
from appliance.plan.anchors import clamp_tail_keep, count_valid_starts
from appliance.plan.exposure import Exposure, compute_exposure
from appliance.plan.plan import Plan

MOST_BINS = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class StageShare:
    """Anchors of one stage, and its share of the drawing probability."""

    stage: int
    anchors: int
    mass: float


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightBin:
    """How many anchors have a weight in [low, high), the last bin with its upper end."""

    low: float
    high: float
    anchors: int


@dataclass(frozen=True, slots=True, kw_only=True)
class EventSummary:
    """Gripper events: ``count`` of all kept episodes, None when the plan does not record them."""

    enabled: bool
    count: int | None
    per_episode: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanSummary:
    """A plan at a glance; ``settings`` are those a person asks for first."""

    settings: Mapping[str, Any]
    num_anchors: int
    ess: float
    stages: tuple[StageShare, ...]
    events: EventSummary
    weights: tuple[WeightBin, ...]

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class StageSpan:
    """Frames ``first`` to ``last`` (exclusive) of an episode in which anchors have ``stage``."""

    stage: int
    first: int
    last: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodeView:
    """One kept episode of a plan, everything in frames of that episode.

    ``anchor_frames`` int64[A] with ``stage_ids`` int32[A] and ``weights`` float32[A];
    ``event_frames`` int64[M], None when the plan records no events; ``first_row`` is the episode's
    first dataset row; ``num_valid_starts`` V: windows may start at frames 0 to V-1;
    ``mean_weight`` is over the whole plan.
    """

    episode: int
    length: int
    first_row: int
    num_valid_starts: int
    anchor_frames: IntArray
    stage_ids: NDArray[np.int32]
    weights: NDArray[np.float32]
    mean_weight: float
    event_frames: IntArray | None
    spans: tuple[StageSpan, ...]


def summarize_plan(plan: Plan) -> PlanSummary:
    """A plan at a glance. Raises PlanError for weights nothing can be drawn with."""
    exposure = compute_exposure(plan.weights, plan.stage_ids, 0, True)
    event_rows = plan.extra_arrays.get("event_rows")
    event = _part(plan.meta, "gripper_event")
    per_episode = _part(_part(plan.meta, "summary"), "num_gripper_events_per_episode")
    return PlanSummary(
        settings=_name_settings(plan.meta),
        num_anchors=exposure.num_anchors,
        ess=exposure.ess,
        stages=_share_stages(plan, exposure),
        events=EventSummary(
            enabled=event.get("enabled") is True,
            count=None if event_rows is None else len(event_rows),
            per_episode=dict(per_episode),
        ),
        weights=_bin_weights(plan.weights),
    )


def _part(value: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    part = value.get(key)
    return part if isinstance(part, Mapping) else {}


def _name_settings(meta: Mapping[str, Any]) -> dict[str, Any]:
    anchors, stages = _part(meta, "anchor_strategy"), _part(meta, "stage_strategy")
    return {
        "plan_version": meta.get("plan_version"),
        "plan_sha256": meta.get("plan_sha256"),
        "repo_id": meta.get("repo_id"),
        "train_config_name": meta.get("train_config_name"),
        "dataset_fingerprint": meta.get("dataset_fingerprint"),
        "dataset_len": meta.get("dataset_len"),
        "num_episodes_total": meta.get("num_episodes_total"),
        "episodes_keep": meta.get("episodes_keep"),
        "action_horizon_H": meta.get("action_horizon_H"),
        "batch_size": meta.get("batch_size"),
        "tail_keep": _part(meta, "valid_start_rule").get("tail_keep"),
        "num_valid_frames": _part(meta, "summary").get("num_valid_frames"),
        "stride_S": anchors.get("stride_S"),
        "stride_requested": anchors.get("stride_requested"),
        "stage_strategy": stages.get("type"),
        "num_stages_K": stages.get("num_stages_K"),
        "stage_balance": _part(meta, "weight_strategy").get("stage_balance"),
        "sampler_seed": meta.get("sampler_seed"),
        "replacement": meta.get("replacement"),
    }


def _share_stages(plan: Plan, exposure: Exposure) -> tuple[StageShare, ...]:
    """One row a stage, the empty ones of the plan's K too."""
    planned = _part(plan.meta, "stage_strategy").get("num_stages_K")
    masses = exposure.stage_mass
    counts = np.bincount(plan.stage_ids, minlength=len(masses)).tolist()
    shares = [
        StageShare(stage=stage, anchors=count, mass=mass)
        for stage, (count, mass) in enumerate(zip(counts, masses, strict=True))
    ]
    if isinstance(planned, int) and planned <= len(plan.weights):
        shares += [
            StageShare(stage=stage, anchors=0, mass=0.0) for stage in range(len(shares), planned)
        ]
    return tuple(shares)


def _bin_weights(weights: NDArray[np.float32]) -> tuple[WeightBin, ...]:
    """Equally wide bins from the least weight to the greatest; one bin when they are equal."""
    values = weights.astype(np.float64)
    low, high = float(values.min()), float(values.max())
    if low == high:
        return (WeightBin(low=low, high=high, anchors=len(values)),)
    counts, edges = np.histogram(values, bins=MOST_BINS, range=(low, high))
    bounds = edges.tolist()
    return tuple(
        WeightBin(low=bounds[place], high=bounds[place + 1], anchors=int(count))
        for place, count in enumerate(counts)
    )


def view_episode(plan: Plan, columns: FrameColumns, episode: int | None) -> EpisodeView:
    """One kept episode (None: the first kept one) with its anchors, stages, weights and events.

    ``columns`` are those of the dataset the plan was built from. Raises PlanError when they are
    not, or when the plan does not keep the episode.
    """
    if plan.meta.get("dataset_len") != columns.num_frames:
        raise PlanError(
            f"Sampling plan dataset_len mismatch: the plan has {plan.meta.get('dataset_len')}, the"
            f" dataset {columns.num_frames}. Give the dataset the plan was built from."
        )
    table = split_episodes(columns)
    chosen = _choose_episode(plan, episode)
    places = np.flatnonzero(table.ids == chosen)
    if not len(places):
        raise PlanError(f"Episode {chosen} is not in the dataset. Give the plan's own dataset.")
    first_row, length = int(table.starts[places[0]]), int(table.lengths[places[0]])
    inside = (plan.anchor_indices >= first_row) & (plan.anchor_indices < first_row + length)
    frames = plan.anchor_indices[inside] - first_row
    stages = plan.stage_ids[inside]
    valid = _count_valid(plan.meta, length)
    event_rows = plan.extra_arrays.get("event_rows")
    events = None
    if event_rows is not None:
        events = event_rows[(event_rows >= first_row) & (event_rows < first_row + length)]
        events = events.astype(np.int64) - first_row
    return EpisodeView(
        episode=chosen,
        length=length,
        first_row=first_row,
        num_valid_starts=valid,
        anchor_frames=frames,
        stage_ids=stages,
        weights=plan.weights[inside],
        mean_weight=float(plan.weights.astype(np.float64).mean()),
        event_frames=events,
        spans=_find_spans(frames, stages, valid),
    )


def _choose_episode(plan: Plan, episode: int | None) -> int:
    kept = plan.meta.get("episodes_keep")
    if not isinstance(kept, list) or not kept or not all(isinstance(each, int) for each in kept):
        raise PlanError("The plan's episodes_keep is not a list of episodes. Rebuild the plan.")
    if episode is None:
        return int(kept[0])
    if episode not in kept:
        names = name_some(np.array(kept, dtype=np.int64))
        raise PlanError(f"The plan does not keep episode {episode}. It keeps {names}.")
    return episode


def _count_valid(meta: Mapping[str, Any], length: int) -> int:
    horizon = meta.get("action_horizon_H")
    tail_keep = _part(meta, "valid_start_rule").get("tail_keep", 0)
    if not isinstance(horizon, int) or horizon < 1 or not isinstance(tail_keep, int):
        raise PlanError(f"The plan's action_horizon_H is {horizon!r}. Rebuild the plan.")
    lengths = np.array([length], dtype=np.int64)
    return int(count_valid_starts(lengths, horizon, clamp_tail_keep(tail_keep, horizon))[0])


def _find_spans(
    frames: IntArray, stages: NDArray[np.int32], num_valid: int
) -> tuple[StageSpan, ...]:
    """Runs of equal stages; a run reaches to the next run's first anchor, the last to the end."""
    if not len(frames):
        return ()
    firsts = np.flatnonzero(np.diff(stages, prepend=stages[0] - 1))
    bounds = [0, *frames[firsts[1:]].tolist(), max(num_valid, int(frames[-1]) + 1)]
    return tuple(
        StageSpan(stage=int(stages[place]), first=bounds[number], last=bounds[number + 1])
        for number, place in enumerate(firsts.tolist())
    )
