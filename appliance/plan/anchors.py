"""Valid starts and anchors: which frames may start a training window (Plan-STaR 1.2, 1.3).

Counting needs no enumeration: an episode of V valid starts (always its first V frames) has one
anchor at every frame ``offset + k * stride`` below V. Letters: E kept episodes, N anchors.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from appliance.episodes import EpisodeTable, IntArray
from appliance.errors import PlanError

VALID_START_FORMULA = "f <= min(L_e - H + tail_keep, L_e - 1)"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Anchors:
    """N anchors in ascending row order: dataset row, frame, the episode's place in the table."""

    rows: IntArray
    frames: IntArray
    episode_positions: IntArray
    stride: int

    def __len__(self) -> int:
        return len(self.rows)


def clamp_tail_keep(valid_start_tail_keep: int, horizon: int) -> int:
    """``valid_start_tail_keep`` clamped to [0, H-1]; H-1 is exactly "no tail filter"."""
    return min(max(valid_start_tail_keep, 0), horizon - 1)


def count_valid_starts(lengths: IntArray, horizon: int, tail_keep: int) -> IntArray:
    """Number of valid starts of each episode (they are its first frames), int64[E]."""
    last = np.minimum(lengths - horizon + tail_keep, lengths - 1)
    return np.asarray(np.maximum(last + 1, 0), dtype=np.int64)


def hash_offsets(plan_seed: int, ids: IntArray) -> list[int]:
    """``h(plan_seed, e)`` of each episode: 64 bits of SHA-256 over ``"{plan_seed}:{e}"``."""
    digests = (hashlib.sha256(f"{plan_seed}:{episode}".encode("ascii")) for episode in ids.tolist())
    return [int.from_bytes(digest.digest()[:8], "little") for digest in digests]


def place_anchors(
    table: EpisodeTable,
    valid_starts: IntArray,
    *,
    stride: int,
    plan_seed: int,
    min_anchors: int,
) -> Anchors:
    """Anchors of the kept episodes, halving the stride until there are ``min_anchors``.

    Raises PlanError when even stride 1 gives too few.
    """
    hashes = hash_offsets(plan_seed, table.ids)
    while True:
        offsets = np.array([value % stride for value in hashes], dtype=np.int64)
        counts = np.maximum((valid_starts - offsets + stride - 1) // stride, 0)
        total = int(counts.sum())
        if total >= min_anchors:
            return _enumerate_anchors(table, offsets, counts, stride)
        if stride == 1:
            raise PlanError(
                f"Not enough anchors for one batch: anchors={total}, required>={min_anchors}."
                " Try smaller stride or more demos."
            )
        stride = max(1, stride // 2)


def _enumerate_anchors(
    table: EpisodeTable, offsets: IntArray, counts: IntArray, stride: int
) -> Anchors:
    positions = np.repeat(np.arange(len(table), dtype=np.int64), counts)
    firsts = np.cumsum(counts) - counts
    steps = np.arange(len(positions), dtype=np.int64) - np.repeat(firsts, counts)
    frames = np.repeat(offsets, counts) + steps * stride
    return Anchors(
        rows=table.starts[positions] + frames,
        frames=frames,
        episode_positions=positions,
        stride=stride,
    )
