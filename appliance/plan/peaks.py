"""Peaks of a score along each episode, and their suppression (Plan-STaR sections 1.4, 1.6).

A block of episodes is laid end to end; each computation runs over the whole block at once.
Letters: n rows of a block, e its episodes, N dataset rows, S state dimensions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import EpisodeTable, IntArray, block_rows, frame_numbers, name_some
from appliance.errors import PlanError
from appliance.plan.exact import compute_quantile
from appliance.plan.plan import FloatArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Segments:
    """Episodes laid end to end: lengths, starts int64[e]; frame, episode of each row int64[n]."""

    lengths: IntArray
    starts: IntArray
    frames: IntArray
    episodes: IntArray

    @classmethod
    def of(cls, lengths: IntArray) -> Segments:
        """Segments of these lengths, from row 0."""
        starts = np.cumsum(lengths) - lengths
        return cls(
            lengths=lengths,
            starts=starts,
            frames=frame_numbers(starts, lengths),
            episodes=np.repeat(np.arange(len(lengths), dtype=np.int64), lengths),
        )

    def differences(self, values: FloatArray, delta: int) -> FloatArray:
        """``x[t] - x[t-delta]`` inside each episode, 0 for t < delta."""
        result = np.zeros_like(values)
        if delta < len(values):
            result[delta:] = values[delta:] - values[:-delta]
        result[self.frames < delta] = 0.0
        return result

    def quantiles(self, values: FloatArray, q: float, *, skip: int) -> FloatArray:
        """Each episode's quantile over ``values[skip:]``, over all where it is that short."""
        result = np.empty(len(self.lengths), dtype=np.float64)
        spans = zip(self.starts.tolist(), self.lengths.tolist(), strict=True)
        for position, (start, length) in enumerate(spans):
            first = start + skip if length > skip else start
            result[position] = compute_quantile(values[first : start + length], q)
        return result


def read_block(
    state_NxS: NDArray[np.floating[Any]], block: EpisodeTable, dims: list[int] | None = None
) -> NDArray[np.floating[Any]]:
    """The state rows of a block of episodes, of all or some dimensions.

    Raises PlanError when a value in them is not finite.
    """
    state_nxS = state_NxS[block_rows(block)]
    if dims is not None:
        state_nxS = state_nxS[:, dims]
    finite = np.isfinite(state_nxS)
    if not finite.all():
        bad = Segments.of(block.lengths).episodes[~finite.all(axis=1)]
        names = name_some(block.ids[np.unique(bad)])
        raise PlanError(
            f"observation.state has a value that is not finite in episode {names}."
            " Record the episode again or leave it out."
        )
    return state_nxS


def find_peaks(score: FloatArray, segments: Segments, thresholds: FloatArray) -> IntArray:
    """Rows of the block that are interior local maxima above their episode's threshold.

    A peak has ``score[t] >= score[t-1]``, ``score[t] > score[t+1]`` and ``score[t] > threshold``.
    """
    if len(score) < 3:
        return np.empty(0, dtype=np.int64)
    candidate = np.zeros(len(score), dtype=np.bool_)
    candidate[1:-1] = (score[1:-1] >= score[:-2]) & (score[1:-1] > score[2:])
    candidate &= (segments.frames > 0) & (
        segments.frames < np.repeat(segments.lengths - 1, segments.lengths)
    )
    rows = np.flatnonzero(candidate)
    return rows[score[rows] > thresholds[segments.episodes[rows]]]


def suppress_peaks(
    score: FloatArray, peaks: IntArray, segments: Segments, min_gap: int, limit: int | None
) -> tuple[IntArray, IntArray, IntArray]:
    """Greedy non-maximum suppression in each episode, highest first, ties to the earlier frame.

    Kept peaks are at least ``min_gap`` apart; at most ``limit`` an episode. Returns the episode
    (position in the block), frame and rank (0 = highest) of each kept peak.
    """
    episodes, frames = segments.episodes[peaks], segments.frames[peaks]
    order = np.lexsort((frames, -score[peaks], episodes))
    episodes, frames = episodes[order], frames[order]
    kept: list[tuple[IntArray, IntArray, IntArray]] = []
    chosen = np.zeros(len(segments.lengths), dtype=np.int64)
    while len(episodes) and (limit is None or len(kept) < limit):
        first = np.ones(len(episodes), dtype=np.bool_)
        first[1:] = episodes[1:] != episodes[:-1]
        rank = np.full(int(first.sum()), len(kept), dtype=np.int64)
        kept.append((episodes[first], frames[first], rank))
        chosen[episodes[first]] = frames[first]
        alive = np.abs(frames - chosen[episodes]) >= min_gap
        episodes, frames = episodes[alive], frames[alive]
    if not kept:
        empty = np.empty(0, dtype=np.int64)
        return empty, empty, empty
    return (
        np.concatenate([part[0] for part in kept]),
        np.concatenate([part[1] for part in kept]),
        np.concatenate([part[2] for part in kept]),
    )
