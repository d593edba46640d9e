"""The frames of a dataset as columns and episodes: what plans, fingerprints and training read.

Rows of one episode stand together and in frame order, frames count from 0 without gap or
duplicate, and ``index`` equals the row number (Plan-STaR 1.1); anything else is named, never
repaired. Letters: N dataset rows, E episodes, S state dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from appliance.errors import PlanError

IntArray: TypeAlias = NDArray[np.int64]

BLOCK_ROWS = 1 << 17


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FrameColumns:
    """The tabular columns that name frames and states, in dataset row order; never images.

    ``episode_index`` and ``frame_index`` are None for a dataset that has no such columns (it is
    then one episode); ``state_NxS`` is needed only for change_point_state and gripper events.
    """

    episode_index: IntArray | None = None
    frame_index: IntArray | None = None
    index: IntArray | None = None
    state_NxS: NDArray[np.floating[Any]] | None = None

    @property
    def num_frames(self) -> int:
        """Number of dataset rows; PlanError when no column is given or lengths differ."""
        columns = (self.episode_index, self.frame_index, self.index, self.state_NxS)
        lengths = {len(column) for column in columns if column is not None}
        if len(lengths) != 1:
            raise PlanError(
                "A sampling plan needs columns of one length;"
                f" got lengths {sorted(lengths) or 'none'}. Read the dataset's columns again."
            )
        return lengths.pop()


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class EpisodeTable:
    """Episodes in row order: ids (may be sparse), first rows and lengths, each int64[E]."""

    ids: IntArray
    starts: IntArray
    lengths: IntArray

    def __len__(self) -> int:
        return len(self.ids)

    def take(self, ids: IntArray) -> EpisodeTable:
        """The episodes whose id is in ``ids``, still in row order."""
        chosen = np.isin(self.ids, ids)
        return EpisodeTable(
            ids=self.ids[chosen], starts=self.starts[chosen], lengths=self.lengths[chosen]
        )

    def slice(self, first: int, last: int) -> EpisodeTable:
        """Episodes ``first`` to ``last`` (exclusive) by position."""
        return EpisodeTable(
            ids=self.ids[first:last],
            starts=self.starts[first:last],
            lengths=self.lengths[first:last],
        )


def find_episode_fault(
    episode_index: IntArray, frame_index: IntArray, index: IntArray | None
) -> str | None:
    """One sentence naming the first thing wrong with these columns (N rows each), or None."""
    if len(episode_index) == 0:
        return "There is no frame in it."
    if index is not None:
        wrong = index != np.arange(len(index), dtype=np.int64)
        if wrong.any():
            row = int(np.argmax(wrong))
            return f"Row {row} has index {int(index[row])}; `index` must equal the row number."
    starts, lengths = _runs(episode_index)
    ids = episode_index[starts]
    order = np.argsort(ids, kind="stable")
    repeated = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    if len(repeated):
        first, second = int(order[repeated[0]]), int(order[repeated[0] + 1])
        return (
            f"The rows of episode {int(ids[first])} are not consecutive: they end at row"
            f" {int(starts[first] + lengths[first]) - 1} and go on at row {int(starts[second])}."
        )
    wrong = frame_index != frame_numbers(starts, lengths)
    if not wrong.any():
        return None
    row = int(np.argmax(wrong))
    position = int(np.searchsorted(starts, row, side="right")) - 1
    start, stop = int(starts[position]), int(starts[position] + lengths[position])
    return _describe_frame_fault(int(ids[position]), frame_index[start:stop], start, row)


def split_episodes(columns: FrameColumns) -> EpisodeTable:
    """The dataset's episodes; the whole dataset is one when it has no episode columns.

    Raises PlanError naming the first gap, duplicate or misplaced row.
    """
    num_frames = columns.num_frames
    if columns.episode_index is None or columns.frame_index is None:
        if num_frames == 0:
            raise PlanError("The dataset has no frames, so no plan can be built. Check its root.")
        zero = np.zeros(1, dtype=np.int64)
        return EpisodeTable(ids=zero, starts=zero, lengths=np.full(1, num_frames, dtype=np.int64))
    fault = find_episode_fault(columns.episode_index, columns.frame_index, columns.index)
    if fault is not None:
        raise PlanError(
            f"The dataset's episodes are damaged. {fault} Record or convert the dataset again."
        )
    starts, lengths = _runs(columns.episode_index)
    return EpisodeTable(ids=columns.episode_index[starts], starts=starts, lengths=lengths)


def frame_numbers(starts: IntArray, lengths: IntArray) -> IntArray:
    """For consecutive runs from row 0: each row's distance from the start of its run."""
    total = int(lengths.sum())
    return np.arange(total, dtype=np.int64) - np.repeat(starts, lengths)


def iterate_blocks(table: EpisodeTable) -> Iterator[tuple[int, int]]:
    """Positions (first, last) that cut the table into blocks of whole episodes.

    A block has at most ``BLOCK_ROWS`` rows unless one episode alone has more.
    """
    first, rows = 0, 0
    for position, length in enumerate(table.lengths.tolist()):
        if rows and rows + length > BLOCK_ROWS:
            yield first, position
            first, rows = position, 0
        rows += length
    if first < len(table):
        yield first, len(table)


def block_rows(block: EpisodeTable) -> slice | IntArray:
    """The dataset rows of a block of episodes: a slice when they stand together."""
    stop = int(block.starts[-1] + block.lengths[-1])
    if stop - int(block.starts[0]) == int(block.lengths.sum()):
        return slice(int(block.starts[0]), stop)
    local_starts = np.cumsum(block.lengths) - block.lengths
    return frame_numbers(local_starts, block.lengths) + np.repeat(block.starts, block.lengths)


def name_some(ids: IntArray, limit: int = 10) -> str:
    """The first ids as text, and how many more there are."""
    text = ", ".join(str(episode) for episode in ids[:limit].tolist())
    return text if len(ids) <= limit else f"{text} and {len(ids) - limit} more"


def _runs(episode_index: IntArray) -> tuple[IntArray, IntArray]:
    changes = np.flatnonzero(episode_index[1:] != episode_index[:-1]) + 1
    starts = np.concatenate([np.zeros(1, dtype=np.int64), changes])
    lengths = np.diff(starts, append=np.int64(len(episode_index)))
    return starts, lengths


def _describe_frame_fault(episode: int, frames: IntArray, start: int, row: int) -> str:
    values, counts = np.unique(frames, return_counts=True)
    if (counts > 1).any():
        frame = int(values[counts > 1][0])
        rows = (np.flatnonzero(frames == frame)[:2] + start).tolist()
        return f"Episode {episode} has frame {frame} more than once: rows {rows[0]} and {rows[1]}."
    missing = np.flatnonzero(values != np.arange(len(values), dtype=np.int64))
    if len(missing):
        frame = int(missing[0])
        return f"Episode {episode} lacks frame {frame}: row {row} holds {int(frames[row - start])}."
    return (
        f"Episode {episode} is out of order: row {row} holds frame {int(frames[row - start])}"
        f" where frame {row - start} should be."
    )
