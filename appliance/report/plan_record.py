"""Where a plan's episodes lie in the dataset, recorded so that pictures need no dataset.

The plan itself holds dataset rows; only the dataset knows which episode a row belongs to. Who has a
bundle has no dataset, so the plan stage records the kept episodes' rows, and the states of a few of
them. Letters: N dataset rows, S state dimensions, L frames of an episode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import FrameColumns, split_episodes
from appliance.plan.plan import Plan
from appliance.report.evidence import as_count, as_list, as_mapping, as_number, as_text

RECORD_FILE = "episodes.json"
RECORD_VERSION = 1
MOST_STATE_VALUES = 60_000
_DIGITS = 5


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RecordedEpisode:
    """One kept episode: its first dataset row, its length, and its states LxS where recorded."""

    episode: int
    first_row: int
    length: int
    state_LxS: NDArray[np.float64] | None = None


def describe_episodes(
    plan: Plan, columns: FrameColumns, names: Sequence[str] | None
) -> dict[str, Any]:
    """Rows and lengths of the kept episodes, and the states of the shortest, median and longest.

    States are rounded to five decimals, and left out where they would be large. ``columns`` are
    those the plan was built from. Raises PlanError when the dataset's episodes are damaged.
    """
    kept = np.array(plan.meta["episodes_keep"], dtype=np.int64)
    table = split_episodes(columns).take(kept)
    rows = list(zip(table.ids.tolist(), table.starts.tolist(), table.lengths.tolist(), strict=True))
    states = {}
    if columns.state_NxS is not None:
        for episode, first_row, length in _choose_shown(rows):
            state = columns.state_NxS[first_row : first_row + length].astype(np.float64)
            if state.size <= MOST_STATE_VALUES:
                states[str(episode)] = np.round(state, _DIGITS).tolist()
    return {
        "version": RECORD_VERSION,
        "episodes": [
            {"episode": episode, "first_row": first_row, "length": length}
            for episode, first_row, length in rows
        ],
        "state_names": None if names is None else list(names),
        "states": states,
    }


def _choose_shown(rows: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """The shortest, the median and the longest episode, each once, by number."""
    by_length = sorted(rows, key=lambda row: (row[2], row[0]))
    places = {0, len(by_length) // 2, len(by_length) - 1} if by_length else set()
    return sorted(by_length[place] for place in places)


def read_episodes(record: Mapping[str, Any]) -> list[RecordedEpisode]:
    """The episodes of a record; whatever does not fit is left out."""
    states = as_mapping(record.get("states"))
    found = []
    for entry in as_list(record.get("episodes")):
        fields = as_mapping(entry)
        episode, first_row, length = (
            as_count(fields.get(name)) for name in ("episode", "first_row", "length")
        )
        if episode is None or first_row is None or not length or length > 10**7:
            continue
        found.append(
            RecordedEpisode(
                episode=episode,
                first_row=first_row,
                length=length,
                state_LxS=_read_state(states.get(str(episode)), length),
            )
        )
    return found


def read_state_names(record: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The state dimensions' names, if every one has one."""
    names = [as_text(name) for name in as_list(record.get("state_names"))]
    known = tuple(name for name in names if name is not None)
    return known if known and len(known) == len(names) else None


def _read_state(value: object, length: int) -> NDArray[np.float64] | None:
    rows = as_list(value)
    if len(rows) != length:
        return None
    width = len(as_list(rows[0]))
    numbers = [[as_number(number) for number in as_list(row)] for row in rows]
    flat = [number for row in numbers for number in row if number is not None]
    if not width or len(flat) != length * width or any(len(row) != width for row in numbers):
        return None
    return np.array(flat, dtype=np.float64).reshape(length, width)
