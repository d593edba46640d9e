"""Gripper events and the weights they give to anchors near them (Plan-STaR section 1.6).

float64 arithmetic element by element; ``exp`` comes from exact decimal arithmetic over the few
integer distances there are. Letters: N dataset rows or anchors, M events, E kept episodes.
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import EpisodeTable, IntArray, iterate_blocks, name_some
from appliance.errors import PlanError
from appliance.plan.anchors import Anchors
from appliance.plan.balance import DECIMAL_CONTEXT
from appliance.plan.params import PlanParams
from appliance.plan.peaks import Segments, find_peaks, read_block, suppress_peaks
from appliance.plan.plan import FloatArray

NO_EVENT = -1
_SORT_ELEMENTS = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GripperEvents:
    """Dataset rows of all events, ascending, int64[M]; events of each kept episode, int64[E]."""

    rows: IntArray
    counts: IntArray
    warnings: tuple[str, ...]


def find_events(
    table: EpisodeTable, params: PlanParams, state_NxS: NDArray[np.floating[Any]] | None
) -> GripperEvents:
    """Events of every kept episode. Raises PlanError when a gripper dimension does not exist."""
    state_NxS = _check_gripper_dims(params.gripper_dims, state_NxS)
    rows: list[IntArray] = []
    counts = np.zeros(len(table), dtype=np.int64)
    skip = max(params.gripper_delta1, params.gripper_delta2)
    dims = list(params.gripper_dims)
    for first, last in iterate_blocks(table):
        block = table.slice(first, last)
        segments = Segments.of(block.lengths)
        diff = measure_changes(read_block(state_NxS, block, dims), segments, params)
        thresholds = segments.quantiles(diff, params.gripper_quantile_q, skip=skip)
        peaks = find_peaks(diff, segments, thresholds)
        episodes, frames, _ = suppress_peaks(diff, peaks, segments, params.gripper_min_gap, None)
        rows.append(np.sort(block.starts[episodes] + frames))
        counts[first:last] = np.bincount(episodes, minlength=len(block))
    silent = table.ids[counts == 0]
    return GripperEvents(
        rows=np.concatenate(rows), counts=counts, warnings=_warn_silent(silent, params)
    )


def measure_changes(
    gripper_nxG: NDArray[np.floating[Any]], segments: Segments, params: PlanParams
) -> FloatArray:
    """``diff`` of every row of a block: the greater change over delta1 or delta2 frames.

    ``gripper_nxG`` are the gripper dimensions. max_abs takes their maximum first, per_dim last.
    """
    opened = np.abs(gripper_nxG.astype(np.float64))
    if params.gripper_reduce == "max_abs":
        opened = opened.max(axis=1, keepdims=True)
    diff = np.zeros(len(opened), dtype=np.float64)
    for column in opened.T:
        smooth = filter_median(column, segments, params.gripper_smooth_window)
        for delta in (params.gripper_delta1, params.gripper_delta2):
            np.maximum(diff, np.abs(segments.differences(smooth, delta)), out=diff)
    return diff


def filter_median(values: FloatArray, segments: Segments, window: int) -> FloatArray:
    """Median over a centred odd window, truncated at each episode's ends."""
    radius = min(window // 2, int(segments.lengths.max()))  # more reaches no further
    window = 2 * radius + 1
    if radius == 0:
        return values.copy()
    result = np.empty_like(values)
    step = max(1, _SORT_ELEMENTS // window)
    lengths = segments.lengths[segments.episodes]
    for first in range(0, len(values), step):
        rows = np.arange(first, min(first + step, len(values)), dtype=np.int64)
        frames, ends = segments.frames[rows], lengths[rows]
        around = np.full((len(rows), window), np.inf, dtype=np.float64)
        for place, shift in enumerate(range(-radius, radius + 1)):
            inside = (frames + shift >= 0) & (frames + shift < ends)
            around[inside, place] = values[rows[inside] + shift]
        around.sort(axis=1)
        held = np.minimum(frames, radius) + 1 + np.minimum(ends - 1 - frames, radius)
        each = np.arange(len(rows), dtype=np.int64)
        result[rows] = (around[each, (held - 1) // 2] + around[each, held // 2]) * 0.5
    return result


def compute_event_weights(
    anchors: Anchors, table: EpisodeTable, events: GripperEvents, horizon: int, params: PlanParams
) -> FloatArray:
    """``1 + gamma * m`` of each anchor, float64[N]."""
    distances = measure_distances(anchors, table, events.rows, horizon)
    distinct, places = np.unique(distances, return_inverse=True)
    nearness = np.array([_nearness(distance, params) for distance in distinct.tolist()])
    return (1.0 + params.gripper_gamma * nearness)[places]


def measure_distances(
    anchors: Anchors, table: EpisodeTable, event_rows: IntArray, horizon: int
) -> IntArray:
    """Least distance in frames from an event of the episode to the window of H frames.

    0 inside the window, ``NO_EVENT`` when the episode has none.
    """
    far = np.iinfo(np.int64).max // 4
    padded = np.concatenate([np.full(1, -far), event_rows, np.full(1, far)])
    starts = table.starts[anchors.episode_positions]
    stops = starts + table.lengths[anchors.episode_positions]
    after = np.searchsorted(event_rows, anchors.rows, side="left") + 1
    following, preceding = padded[after], padded[after - 1]
    ahead = np.where(
        following < stops, np.maximum(following - (anchors.rows + horizon - 1), 0), far
    )
    behind = np.where(preceding >= starts, anchors.rows - preceding, far)
    nearest = np.minimum(ahead, behind)
    return np.where(nearest >= far, NO_EVENT, nearest)


def _nearness(distance: int, params: PlanParams) -> float:
    if distance == NO_EVENT:
        return 0.0
    if params.gripper_event_mode == "hard":
        return 1.0 if distance <= params.gripper_window_w else 0.0
    context = DECIMAL_CONTEXT
    share = context.divide(Decimal(-distance), Decimal(params.gripper_sigma))
    return float(context.exp(share))


def _check_gripper_dims(
    dims: tuple[int, ...], state_NxS: NDArray[np.floating[Any]] | None
) -> NDArray[np.floating[Any]]:
    if state_NxS is None:
        raise PlanError(
            "plan.gripper_event_enabled: true needs the column observation.state, which the"
            " dataset does not have. Set it to false."
        )
    outside = [dim for dim in dims if dim >= state_NxS.shape[1]]
    if outside:
        raise PlanError(
            f"plan.gripper_dims: {outside[0]} is outside observation.state, which has"
            f" {state_NxS.shape[1]} dimensions (state_dim). `appliance dataset fields` shows the"
            " range of each."
        )
    return state_NxS


def _warn_silent(silent: IntArray, params: PlanParams) -> tuple[str, ...]:
    if not len(silent):
        return ()
    advice = (
        " With one idle gripper max_abs sees no event; try gripper_reduce: per_dim."
        if params.gripper_reduce == "max_abs"
        else ""
    )
    return (f"Kept episodes without a gripper event ({len(silent)}): {name_some(silent)}.{advice}",)
