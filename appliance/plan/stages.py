"""Stage labels of anchors: time_quantile and change_point_state (Plan-STaR section 1.4).

Letters: N anchors, E kept episodes, S state dimensions, K stages.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import EpisodeTable, IntArray, iterate_blocks, name_some
from appliance.errors import PlanError
from appliance.plan.anchors import Anchors
from appliance.plan.params import PlanParams
from appliance.plan.peaks import Segments, find_peaks, read_block, suppress_peaks
from appliance.plan.plan import FloatArray

PEAK_MODE = "local_max_nms_topk"
PEAK_THRESHOLD_Q = 0.9

_FAR = np.iinfo(np.int64).max // 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Stages:
    """Stage of each anchor, how many boundaries had to be filled in, and warnings."""

    ids: NDArray[np.int32]
    num_filled_boundaries: int
    warnings: tuple[str, ...]


def assign_stages(
    anchors: Anchors,
    table: EpisodeTable,
    horizon: int,
    params: PlanParams,
    state_NxS: NDArray[np.floating[Any]] | None,
) -> Stages:
    """Stage of each anchor by ``params.stage_strategy``, int32 in [0, K-1]."""
    if params.stage_strategy == "time_quantile":
        return assign_time_quantiles(anchors, table, horizon, params.num_stages)
    if state_NxS is None:
        raise PlanError(
            "plan.stage_strategy: change_point_state needs the column observation.state, which"
            " the dataset does not have. Use time_quantile."
        )
    boundaries, num_filled = find_boundaries(table, params, state_NxS)
    passed = np.zeros(len(anchors), dtype=np.int64)
    for column in boundaries.T:
        passed += column[anchors.episode_positions] <= anchors.frames
    ids = np.minimum(passed, params.num_stages - 1).astype(np.int32)
    return Stages(ids=ids, num_filled_boundaries=num_filled, warnings=())


def assign_time_quantiles(
    anchors: Anchors, table: EpisodeTable, horizon: int, num_stages: int
) -> Stages:
    """``clip(K * f // max(1, L - H), 0, K - 1)`` in integer arithmetic."""
    denominators = np.maximum(table.lengths - horizon, 1)[anchors.episode_positions]
    ids = np.minimum(num_stages * anchors.frames // denominators, num_stages - 1).astype(np.int32)
    short = table.ids[table.lengths <= horizon]
    warnings: tuple[str, ...] = ()
    if len(short):
        text = (
            f"Kept episodes not longer than the action horizon {horizon} ({len(short)}), whose"
            f" stages are counted with a denominator of 1: {name_some(short)}."
        )
        warnings = (text,)
    return Stages(ids=ids, num_filled_boundaries=0, warnings=warnings)


def find_boundaries(
    table: EpisodeTable, params: PlanParams, state_NxS: NDArray[np.floating[Any]]
) -> tuple[IntArray, int]:
    """Stage boundaries of each episode, int64[E x K-1], unused places far beyond any frame.

    Also the number of boundaries that are no peaks but filled in at equal distances.
    """
    wanted = params.num_stages - 1
    boundaries = np.full((len(table), wanted), _FAR, dtype=np.int64)
    found = np.zeros(len(table), dtype=np.int64)
    for first, last in iterate_blocks(table):
        block = table.slice(first, last)
        segments = Segments.of(block.lengths)
        state_nxS = read_block(state_NxS, block)
        score = _score_changes(state_nxS, segments, params.change_point_delta)
        peaks = find_peaks(score, segments, segments.quantiles(score, PEAK_THRESHOLD_Q, skip=0))
        episodes, frames, ranks = suppress_peaks(
            score, peaks, segments, params.change_point_min_gap, wanted
        )
        usable = (block.lengths >= params.change_point_delta + 3)[episodes]
        boundaries[first + episodes[usable], ranks[usable]] = frames[usable]
        found[first:last] = np.bincount(episodes[usable], minlength=len(block))
    return _fill_boundaries(boundaries, found, table.lengths, params)


def _score_changes(
    state_nxS: NDArray[np.floating[Any]], segments: Segments, delta: int
) -> FloatArray:
    """``||s[t] - s[t-delta]||``, the squares added dimension by dimension; 0 for t < delta."""
    total = np.zeros(len(state_nxS), dtype=np.float64)
    for dim in range(state_nxS.shape[1]):
        change = segments.differences(state_nxS[:, dim].astype(np.float64), delta)
        total += change * change
    return np.sqrt(total)


def _fill_boundaries(
    boundaries: IntArray, found: IntArray, lengths: IntArray, params: PlanParams
) -> tuple[IntArray, int]:
    num_stages, delta = params.num_stages, params.change_point_delta
    wanted = num_stages - 1
    short = lengths < delta + 3
    num_found = int(found.sum())
    positions = np.arange(len(lengths), dtype=np.int64)
    for j in range(wanted):
        candidate = _divide_to_even((j + 1) * (lengths - 1), num_stages)
        distances = np.abs(boundaries - candidate[:, None])
        far_enough = (distances >= params.change_point_min_gap).all(axis=1)
        interior = (candidate > 0) & (candidate < lengths - 1)
        fill = ~short & (found < wanted) & interior & far_enough
        boundaries[positions[fill], found[fill]] = candidate[fill]
        found = found + fill
        boundaries[short, j] = np.maximum(1, _divide_to_even((j + 1) * lengths[short], num_stages))
    num_filled = int(found[~short].sum()) - num_found + int(short.sum()) * wanted
    return boundaries, num_filled


def _divide_to_even(numerator: IntArray, denominator: int) -> IntArray:
    """``round(numerator / denominator)`` for non-negative integers, halves to even, exactly."""
    quotient, rest = numerator // denominator, numerator % denominator
    up = (2 * rest > denominator) | ((2 * rest == denominator) & (quotient % 2 == 1))
    return np.asarray(quotient + up, dtype=np.int64)
