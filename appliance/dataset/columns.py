"""The tabular columns of a LeRobot dataset as NumPy arrays, read with pyarrow alone.

One array a column, filled file by file, so the peak is the arrays plus one data file. Columns are
checked as they are read: rows in order, frames without gap or duplicate, every number finite.
Letters: N dataset rows, S state dimensions, A action dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from appliance.dataset.info import (
    DatasetInfo,
    damaged,
    list_data_files,
    read_info,
    read_table,
)
from appliance.episodes import FrameColumns, find_episode_fault
from appliance.errors import DatasetError

__all__ = [
    "COLUMNS",
    "Columns",
    "DatasetInfo",
    "plan_columns_from_arrow",
    "read_columns",
    "read_info",
    "read_plan_columns",
    "to_numpy",
]

IntArray: TypeAlias = NDArray[np.int64]
AnyFloatArray: TypeAlias = NDArray[np.floating[Any]]

STATE = "observation.state"
ACTION = "action"
INTEGER_COLUMNS = ("episode_index", "frame_index", "index", "task_index")
COLUMNS = (*INTEGER_COLUMNS, "timestamp", STATE, ACTION)

_CHECK_ROWS = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Columns:
    """All tabular columns of a dataset in row order; floats keep the dtype they are stored with.

    ``tasks`` maps task_index to the instruction's text. Arrays are read-only.
    """

    episode_index: IntArray
    frame_index: IntArray
    index: IntArray
    timestamp: AnyFloatArray
    task_index: IntArray
    tasks: Mapping[int, str]
    state_NxS: AnyFloatArray
    action_NxA: AnyFloatArray

    @property
    def num_frames(self) -> int:
        """Number of dataset rows N."""
        return len(self.episode_index)

    @property
    def episode_ids(self) -> IntArray:
        """Ids of all episodes, ascending."""
        return np.unique(self.episode_index)

    def to_plan_columns(self) -> FrameColumns:
        """The columns a plan is built from; shares the arrays."""
        return FrameColumns(
            episode_index=self.episode_index,
            frame_index=self.frame_index,
            index=self.index,
            state_NxS=self.state_NxS,
        )


def read_columns(root: Path) -> Columns:
    """All tabular columns of the dataset at ``root``, checked.

    Raises DatasetError naming what is missing or the first thing that is wrong.
    """
    info = read_info(root)
    arrays = _read_arrays(info, COLUMNS)
    fault = find_episode_fault(arrays["episode_index"], arrays["frame_index"], arrays["index"])
    if fault is not None:
        raise DatasetError(f"{info.root}: {fault} Record or convert the dataset again.")
    for name in ("timestamp", STATE, ACTION):
        _check_finite(info, name, arrays)
    _check_tasks(info, arrays["task_index"])
    return Columns(
        episode_index=arrays["episode_index"],
        frame_index=arrays["frame_index"],
        index=arrays["index"],
        timestamp=arrays["timestamp"],
        task_index=arrays["task_index"],
        tasks=MappingProxyType(dict(info.tasks)),
        state_NxS=arrays[STATE],
        action_NxA=arrays[ACTION],
    )


def read_plan_columns(root: Path, *, with_state: bool = True) -> FrameColumns:
    """Only what a plan needs; ``with_state=False`` leaves observation.state unread.

    A dataset without episode_index/frame_index gives None for them (the plan then takes it for one
    episode). Raises DatasetError; faults inside episodes are left for the plan to name.
    """
    info = read_info(root)
    held = set(_column_names(list_data_files(info)[0]))
    wanted = [
        name
        for name in ("episode_index", "frame_index", "index", STATE)
        if name in held and (with_state or name != STATE)
    ]
    if not wanted:
        raise DatasetError(
            f"{info.root}: none of the columns episode_index, frame_index, index,"
            " observation.state exists, so no plan can be built."
        )
    arrays = _read_arrays(info, wanted)
    if STATE in arrays:
        _check_finite(info, STATE, arrays)
    return FrameColumns(
        episode_index=arrays.get("episode_index"),
        frame_index=arrays.get("frame_index"),
        index=arrays.get("index"),
        state_NxS=arrays.get(STATE),
    )


def plan_columns_from_arrow(table: pa.Table) -> FrameColumns:
    """Plan columns from an Arrow table, without a copy where it is one chunk."""
    names = set(table.column_names)

    def take(name: str) -> NDArray[Any] | None:
        if name not in names:
            return None
        column = table[name]
        chunk = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
        return to_numpy(chunk, name)

    return FrameColumns(
        episode_index=take("episode_index"),
        frame_index=take("frame_index"),
        index=take("index"),
        state_NxS=take(STATE),
    )


def to_numpy(array: pa.Array, name: str) -> NDArray[Any]:
    """An Arrow array of numbers (1-D) or of equally long lists (2-D) as NumPy, if need be copied.

    Raises ValueError for nulls, ragged lists and types that are no numbers.
    """
    if array.null_count:
        raise ValueError(f"column {name} has missing values")
    kind = array.type
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    if pa.types.is_fixed_size_list(kind) or pa.types.is_list(kind) or pa.types.is_large_list(kind):
        width = _list_width(array, name)
        flat = to_numpy(array.flatten(), name)
        return np.asarray(flat.reshape(len(array), width))
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind)):
        raise ValueError(f"column {name} has the type {kind}, not numbers")
    return np.asarray(array.to_numpy(zero_copy_only=True))


def _list_width(array: pa.Array, name: str) -> int:
    if pa.types.is_fixed_size_list(array.type):
        return int(array.type.list_size)
    lengths = array.value_lengths().to_numpy(zero_copy_only=False)
    if len(lengths) and (lengths != lengths[0]).any():
        raise ValueError(f"column {name} has vectors of different lengths")
    return int(lengths[0]) if len(lengths) else 0


def _column_names(file: Path) -> list[str]:
    try:
        return list(pq.read_schema(file).names)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, str(error).splitlines()[0] if str(error) else "unreadable") from error


def _read_arrays(info: DatasetInfo, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """The named columns of all data files, each one array of its own, read-only."""
    files = list_data_files(info)
    lengths = [_count_rows(file) for file in files]
    num_frames = sum(lengths)
    if num_frames != info.num_frames:
        raise DatasetError(
            f"{info.root}: meta/info.json says {info.num_frames} frames, the data files hold"
            f" {num_frames}. Files are missing or left over; copy the dataset again."
        )
    arrays: dict[str, NDArray[Any]] = {}
    first = 0
    for file, length in zip(files, lengths, strict=True):
        for name, part in _read_file(file, names).items():
            if name not in arrays:
                arrays[name] = np.empty((num_frames, *part.shape[1:]), dtype=part.dtype)
            whole = arrays[name]
            if whole.shape[1:] != part.shape[1:] or whole.dtype != part.dtype:
                raise damaged(file, f"column {name} differs in type or width from other files")
            whole[first : first + length] = part
        first += length
    for array in arrays.values():
        array.flags.writeable = False
    return arrays


def _count_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, str(error).splitlines()[0] if str(error) else "unreadable") from error


def _read_file(file: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    missing = sorted(set(names) - set(_column_names(file)))
    if missing:
        raise DatasetError(
            f"{file}: the columns {', '.join(missing)} are missing. A dataset for this needs"
            f" {', '.join(names)}."
        )
    table = read_table(file, list(names))
    parts: dict[str, NDArray[Any]] = {}
    for name in names:
        try:
            part = to_numpy(table[name], name)
        except (ValueError, pa.ArrowException) as error:
            raise damaged(file, str(error)) from error
        parts[name] = _shape_part(file, name, part)
    return parts


def _shape_part(file: Path, name: str, part: NDArray[Any]) -> NDArray[Any]:
    if name in INTEGER_COLUMNS:
        if part.ndim != 1 or part.dtype.kind not in "iu":
            raise damaged(file, f"column {name} is not one integer a row")
        return part.astype(np.int64, copy=False)
    if part.dtype.kind != "f":
        raise damaged(file, f"column {name} holds {part.dtype}, not floating-point numbers")
    if name == "timestamp":
        if part.ndim != 1:
            raise damaged(file, "column timestamp is not one number a row")
        return part
    return part.reshape(len(part), 1) if part.ndim == 1 else part  # LeRobot stores width 1 bare


def _check_finite(info: DatasetInfo, name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    values = arrays[name]
    for first in range(0, len(values), _CHECK_ROWS):
        finite = np.isfinite(values[first : first + _CHECK_ROWS])
        if finite.all():
            continue
        row = first + int(np.argmin(finite.reshape(len(finite), -1).all(axis=1)))
        where = f"row {row}"
        if "episode_index" in arrays and "frame_index" in arrays:
            episode, frame = int(arrays["episode_index"][row]), int(arrays["frame_index"][row])
            where = f"episode {episode}, frame {frame} (row {row})"
        raise DatasetError(
            f"{info.root}: {name} is not finite at {where}. Record that episode again."
        )


def _check_tasks(info: DatasetInfo, task_index: IntArray) -> None:
    unknown = sorted(set(np.unique(task_index).tolist()) - set(info.tasks))
    if unknown:
        raise DatasetError(
            f"{info.root}: task_index {unknown[0]} occurs in the frames but has no text in the"
            " dataset's tasks. Copy or record the dataset again."
        )
