"""What a LeRobot dataset says about itself: ``meta/info.json`` and its tasks.

Formats v3.0, v2.1 and v2.0, read with pyarrow and the standard library alone; nothing is fetched
from anywhere and no image is touched.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from appliance.errors import DatasetError, StorageError
from appliance.files import read_json

INFO_FILE = "meta/info.json"
CODEBASE_VERSIONS = ("v3.0", "v2.1", "v2.0")
IMAGE_DTYPES = ("image", "video")


@dataclass(frozen=True, slots=True, kw_only=True)
class Feature:
    """One feature of the dataset: dtype as LeRobot writes it, shape, and names if it has any."""

    dtype: str
    shape: tuple[int, ...]
    names: tuple[str, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DatasetInfo:
    """A dataset's own description. ``tasks`` maps task_index to text; ``repo_id`` is the caller's.

    ``cameras`` are the names of image and video features, sorted.
    """

    root: Path
    repo_id: str | None
    codebase_version: str
    robot_type: str | None
    fps: float
    features: Mapping[str, Feature]
    cameras: tuple[str, ...]
    tasks: Mapping[int, str]
    num_frames: int
    num_episodes: int

    @property
    def is_v3(self) -> bool:
        """True for format v3.0, False for v2.0 and v2.1."""
        return self.codebase_version == "v3.0"

    def has_camera(self, camera: str) -> bool:
        """Whether ``camera`` ("cam_high" or the full feature name) is one of ``cameras``."""
        return any(name in self.cameras for name in (camera, f"observation.images.{camera}"))


def read_info(root: Path, *, repo_id: str | None = None) -> DatasetInfo:
    """The description of the dataset at ``root``.

    Raises DatasetError when the folder is missing, is no LeRobotDataset, or has another format.
    """
    root = Path(root)
    if not root.is_dir():
        raise DatasetError(
            f"{root}: no such folder, so there is no dataset. Check dataset.root (it is relative to"
            " the manifest file), or record the dataset first."
        )
    file = root / INFO_FILE
    if not file.is_file():
        raise DatasetError(
            f"{root}: not a LeRobotDataset ({INFO_FILE} is missing). Point dataset.root at the"
            " folder that holds data/ and meta/."
        )
    try:
        raw = read_json(file)
    except StorageError as error:
        raise DatasetError(str(error)) from error
    if not isinstance(raw, dict):
        raise damaged(file, "it is not a JSON object")
    version = _read_version(file, raw)
    features = _read_features(file, raw)
    return DatasetInfo(
        root=root,
        repo_id=repo_id,
        codebase_version=version,
        robot_type=raw["robot_type"] if isinstance(raw.get("robot_type"), str) else None,
        fps=_read_number(file, raw, "fps"),
        features=MappingProxyType(features),
        cameras=tuple(sorted(name for name in features if features[name].dtype in IMAGE_DTYPES)),
        tasks=MappingProxyType(_read_tasks(root, v3=version == "v3.0")),
        num_frames=int(_read_number(file, raw, "total_frames")),
        num_episodes=int(_read_number(file, raw, "total_episodes")),
    )


def list_data_files(info: DatasetInfo) -> list[Path]:
    """The Parquet files with the frames, in dataset row order. Raises DatasetError when none."""
    files = sorted((info.root / "data").glob("*/*.parquet"))
    if not files:
        raise DatasetError(
            f"{info.root / 'data'}: there are no Parquet files, so the dataset has no frames. Copy"
            " the dataset again."
        )
    return files


def read_table(file: Path, columns: list[str] | None = None) -> pa.Table:
    """A Parquet file's columns; DatasetError when it is damaged or unreadable."""
    try:
        return pq.ParquetFile(file).read(columns=columns)
    except (pa.ArrowException, OSError) as error:
        raise damaged(file, str(error).splitlines()[0] if str(error) else "unreadable") from error


def damaged(file: Path, what: str) -> DatasetError:
    """The error for a file of the dataset that is not what it should be."""
    return DatasetError(f"{file}: {what}. The dataset is damaged; copy or record it again.")


def _read_version(file: Path, raw: Mapping[str, Any]) -> str:
    version = raw.get("codebase_version")
    if version not in CODEBASE_VERSIONS:
        raise DatasetError(
            f"{file}: codebase_version is {version!r}, which is not known. Known are"
            f" {', '.join(CODEBASE_VERSIONS)}; convert the dataset with the lerobot that wrote it."
        )
    return str(version)


def _read_number(file: Path, raw: Mapping[str, Any], key: str) -> float:
    value = raw.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 2**53:
        raise damaged(file, f"{key} is {value!r}, not a number of 0 or more")
    return value


def _read_features(file: Path, raw: Mapping[str, Any]) -> dict[str, Feature]:
    described = raw.get("features")
    if not isinstance(described, dict):
        raise damaged(file, "features is missing")
    features: dict[str, Feature] = {}
    for name, value in described.items():
        shape = value.get("shape") if isinstance(value, dict) else None
        if not isinstance(shape, list) or not all(isinstance(size, int) for size in shape):
            raise damaged(file, f"features.{name}.shape is not a list of integers")
        features[name] = Feature(
            dtype=str(value.get("dtype")),
            shape=tuple(shape),
            names=_flatten_names(value.get("names")),
        )
    return features


def _flatten_names(names: object) -> tuple[str, ...] | None:
    """Names as one tuple: LeRobot writes a list, or a mapping such as ``{"motors": [...]}``."""
    if isinstance(names, dict):
        lists = [value for value in names.values() if isinstance(value, list)]
        names = lists[0] if len(lists) == 1 else list(names)
    if not isinstance(names, list):
        return None
    return tuple(str(name) for name in names)


def _read_tasks(root: Path, *, v3: bool) -> dict[int, str]:
    file = root / ("meta/tasks.parquet" if v3 else "meta/tasks.jsonl")
    if not file.is_file():
        raise damaged(file, "the file is missing")
    rows = _task_rows_v3(file) if v3 else _task_rows_v2(file)
    tasks = dict(rows)
    if len(tasks) != len(rows):
        raise damaged(file, "a task_index occurs twice")
    return tasks


def _task_rows_v3(file: Path) -> list[tuple[int, str]]:
    table = read_table(file)
    texts = [
        name
        for name in table.column_names
        if name != "task_index"
        and (pa.types.is_string(table[name].type) or pa.types.is_large_string(table[name].type))
    ]
    if "task_index" not in table.column_names or not texts:
        raise damaged(file, "it lacks task_index or the task's text")
    name = "task" if "task" in texts else texts[0]
    pairs = zip(table["task_index"].to_pylist(), table[name].to_pylist(), strict=True)
    rows = [(index, text) for index, text in pairs if index is not None and text is not None]
    if len(rows) != table.num_rows:
        raise damaged(file, "a task has no index or no text")
    return rows


def _task_rows_v2(file: Path) -> list[tuple[int, str]]:
    rows: list[tuple[int, str]] = []
    try:
        for line in file.read_text(encoding="utf-8").splitlines():
            if line.strip():
                value = json.loads(line)
                rows.append((int(value["task_index"]), str(value["task"])))
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise damaged(file, f"line {len(rows) + 1} is not a task ({error})") from error
    return rows
