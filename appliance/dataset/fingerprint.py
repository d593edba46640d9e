"""The content fingerprint of a dataset: the same data, the same figure (Plan-STaR section 1.9).

Independent of folder, machine, file times and LeRobot format. An episode's digest is SHA-256 over
its columns, each as a header line (name, dtype, shape) and little-endian C-order bytes; task texts
enter as runs of frames. The fingerprint is SHA-256 over the canonical JSON of the list of episode
digests, in order of episode ids. Images and videos are a second figure (``media``).
"""

from __future__ import annotations

import bisect
import hashlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.dataset.columns import ACTION, STATE, Columns
from appliance.digest import canonical_json, sha256_json
from appliance.episodes import EpisodeTable, FrameColumns, IntArray, name_some, split_episodes
from appliance.errors import DatasetError

CONTENT_PREFIX = "sha256-content-v1:"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """One figure for a whole dataset and the SHA-256 of each episode by id, ascending."""

    value: str
    episodes: Mapping[int, str]

    @classmethod
    def of(cls, prefix: str, episodes: Mapping[int, str]) -> Fingerprint:
        """The fingerprint of these episodes' digests."""
        ordered = {episode: episodes[episode] for episode in sorted(episodes)}
        value = prefix + sha256_json(list(ordered.values()))
        return cls(value=value, episodes=MappingProxyType(ordered))

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON: ``{"value": ..., "episodes": {"0": ..., ...}}``."""
        episodes = {str(episode): digest for episode, digest in self.episodes.items()}
        return {"value": self.value, "episodes": episodes}

    @classmethod
    def from_mapping(cls, value: Mapping[str, Any]) -> Fingerprint:
        """The inverse of ``to_mapping``. Raises DatasetError for anything else."""
        try:
            episodes = {int(episode): str(sha) for episode, sha in value["episodes"].items()}
            return cls(value=str(value["value"]), episodes=MappingProxyType(episodes))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(
                f"Not a recorded dataset fingerprint ({error!r}). Compute it again with"
                " `appliance dataset fingerprint`."
            ) from error


def fingerprint_columns(columns: Columns) -> Fingerprint:
    """The content fingerprint of a dataset's columns; limited by SHA-256."""
    table = split_episodes(
        FrameColumns(episode_index=columns.episode_index, frame_index=columns.frame_index)
    )
    return Fingerprint.of(CONTENT_PREFIX, dict(_iterate_digests(columns, table)))


def _iterate_digests(columns: Columns, table: EpisodeTable) -> Iterator[tuple[int, str]]:
    parts: list[_ColumnBytes | _TaskRuns] = [
        _ColumnBytes("episode_index", columns.episode_index),
        _ColumnBytes("frame_index", columns.frame_index),
        _ColumnBytes("timestamp", columns.timestamp),
        _TaskRuns(columns.task_index, columns.tasks),
        _ColumnBytes(STATE, columns.state_NxS),
        _ColumnBytes(ACTION, columns.action_NxA),
    ]
    spans = zip(table.ids.tolist(), table.starts.tolist(), table.lengths.tolist(), strict=True)
    for episode, start, length in spans:
        pieces: list[bytes | memoryview] = []
        for part in parts:
            pieces += part.cut(start, length)
        yield episode, hashlib.sha256(b"".join(pieces)).hexdigest()


class _ColumnBytes:
    """A column's little-endian C-order bytes, to be cut episode by episode."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        self._bytes = stored.reshape(-1).view(np.uint8).data
        self._row_bytes = stored.dtype.itemsize * math.prod(stored.shape[1:])
        self._before = f"{name} {stored.dtype.str} "
        self._after = "".join(f"x{size}" for size in stored.shape[1:]) + "\n"
        self._headers: dict[int, bytes] = {}

    def cut(self, start: int, length: int) -> tuple[bytes, memoryview]:
        """The header line and the bytes of rows ``start`` to ``start + length``."""
        header = self._headers.get(length)
        if header is None:
            header = f"{self._before}{length}{self._after}".encode("ascii")
            self._headers[length] = header
        first = start * self._row_bytes
        return header, self._bytes[first : first + length * self._row_bytes]


class _TaskRuns:
    """An episode's task texts as runs: a header line and canonical JSON, made once a kind."""

    def __init__(self, task_index: IntArray, tasks: Mapping[int, str]) -> None:
        self._task_index = task_index
        self._tasks = tasks
        self._changes = (np.flatnonzero(task_index[1:] != task_index[:-1]) + 1).tolist()
        self._encoded: dict[tuple[tuple[int, int], ...], bytes] = {}

    def cut(self, start: int, length: int) -> tuple[bytes]:
        """The runs of rows ``start`` to ``start + length``."""
        first = bisect.bisect_right(self._changes, start)
        last = bisect.bisect_left(self._changes, start + length)
        bounds = [start, *self._changes[first:last], start + length]
        runs = tuple((int(self._task_index[a]), b - a) for a, b in pairwise(bounds))
        if runs not in self._encoded:
            self._encoded[runs] = self._encode(runs)
        return (self._encoded[runs],)

    def _encode(self, runs: tuple[tuple[int, int], ...]) -> bytes:
        """``[[text, frames], ...]`` in frame order; neighbours with the same text are one run."""
        texts: list[list[Any]] = []
        for task, frames in runs:
            if texts and texts[-1][0] == self._tasks[task]:
                texts[-1][1] += frames
            else:
                texts.append([self._tasks[task], frames])
        data = canonical_json(texts)
        return b"task runs %d\n" % len(data) + data


def find_changed_episodes(expected: Mapping[int, str], actual: Mapping[int, str]) -> list[int]:
    """Ids of episodes that are new, gone, or have another digest, ascending."""
    ids = sorted(expected.keys() | actual.keys())
    return [episode for episode in ids if expected.get(episode) != actual.get(episode)]


def describe_mismatch(expected: Fingerprint | str, actual: Fingerprint) -> str | None:
    """A sentence on how ``actual`` differs from what was pinned, or None when it does not.

    Episodes are named when ``expected`` has their digests, not only the one figure.
    """
    value = expected if isinstance(expected, str) else expected.value
    if value == actual.value:
        return None
    text = f"expected {value}, the dataset has {actual.value}."
    if isinstance(expected, str):
        return f"{text} It holds {len(actual.episodes)} episodes."
    changed = find_changed_episodes(expected.episodes, actual.episodes)
    return f"{text} Episodes that differ: {name_some(np.array(changed, dtype=np.int64))}."
