"""Two looks at a dataset before a plan is built: fields and horizon (Plan-STaR section 1.11).

*Fields*: what is there, and the range of each state dimension, so that a person can find the
gripper. *Horizon*: how many action windows run past their episode's end and so repeat the last
action, and how still those windows are: why valid starts exist. Letters: N dataset rows, E
episodes, S state and A action dimensions, H action horizon.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from appliance.dataset.columns import ACTION, COLUMNS, STATE, AnyFloatArray, Columns, read_columns
from appliance.dataset.info import damaged, list_data_files, read_info
from appliance.episodes import EpisodeTable, FrameColumns, split_episodes
from appliance.errors import DatasetError


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """One column or camera: whether it is there, and its dtype and shape by ``meta/info.json``."""

    name: str
    present: bool
    dtype: str | None
    shape: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class DimensionRange:
    """Least and greatest value of one dimension, and its share of frames with a change."""

    dimension: int
    name: str | None
    minimum: float
    maximum: float
    changing_share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldReport:
    """What a dataset holds. Ranges and lengths are empty when their columns are missing."""

    codebase_version: str
    num_frames: int
    num_episodes: int
    fps: float
    fields: tuple[Field, ...]
    cameras: tuple[Field, ...]
    state_dim: int | None
    episode_lengths: tuple[tuple[int, int], ...]
    state_range: tuple[DimensionRange, ...]
    action_range: tuple[DimensionRange, ...]

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeHorizon:
    """Windows of one episode that run past its end, and mean stillness at two of its frames.

    ``std_last_frame`` is the mean over dimensions of the action's standard deviation over the
    horizon at the last frame (0: one repeated action); ``std_last_valid_start`` the same at the
    last valid start, None when the episode has none.
    """

    episode: int
    length: int
    windows_past_end: int
    std_last_frame: float
    std_last_valid_start: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HorizonReport:
    """The horizon check of every episode and overall."""

    action_horizon: int
    num_windows: int
    windows_past_end: int
    share_past_end: float
    mean_std_last_frame: float
    mean_std_last_valid_start: float | None
    episodes: tuple[EpisodeHorizon, ...]

    def to_mapping(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)


def check_fields(root: Path) -> FieldReport:
    """What the dataset at ``root`` holds. DatasetError only when it is not readable."""
    info = read_info(root)
    first_file = list_data_files(info)[0]
    try:
        held = set(pq.read_schema(first_file).names)
    except (pa.ArrowException, OSError) as error:
        raise damaged(first_file, str(error)) from error

    def describe(name: str, present: bool) -> Field:
        feature = info.features.get(name)
        return Field(
            name=name,
            present=present,
            dtype=feature.dtype if feature else None,
            shape=feature.shape if feature else None,
        )

    fields = tuple(describe(name, name in held) for name in COLUMNS)
    cameras = tuple(describe(name, True) for name in info.cameras)
    columns = read_columns(root) if all(field.present for field in fields) else None
    lengths: tuple[tuple[int, int], ...] = ()
    if columns is not None:
        table = _split(columns)
        lengths = tuple(zip(table.ids.tolist(), table.lengths.tolist(), strict=True))
    return FieldReport(
        codebase_version=info.codebase_version,
        num_frames=info.num_frames,
        num_episodes=info.num_episodes,
        fps=info.fps,
        fields=fields,
        cameras=cameras,
        state_dim=columns.state_NxS.shape[1] if columns is not None else None,
        episode_lengths=lengths,
        state_range=_measure_ranges(columns, columns.state_NxS, info.features[STATE].names)
        if columns is not None and STATE in info.features
        else (),
        action_range=_measure_ranges(columns, columns.action_NxA, info.features[ACTION].names)
        if columns is not None and ACTION in info.features
        else (),
    )


def check_horizon(columns: Columns, action_horizon: int) -> HorizonReport:
    """How many windows of H actions repeat the last action, and how still those are."""
    if action_horizon < 1:
        raise DatasetError(f"The action horizon is {action_horizon}. It must be 1 or more.")
    table = _split(columns)
    spans = zip(table.ids.tolist(), table.starts.tolist(), table.lengths.tolist(), strict=True)
    episodes = []
    for episode, start, length in spans:
        last_valid = length - action_horizon
        action_LxA = columns.action_NxA[start : start + length]
        episodes.append(
            EpisodeHorizon(
                episode=episode,
                length=length,
                windows_past_end=min(length, action_horizon - 1),
                std_last_frame=_measure_stillness(action_LxA, length - 1, action_horizon),
                std_last_valid_start=_measure_stillness(action_LxA, last_valid, action_horizon)
                if last_valid >= 0
                else None,
            )
        )
    past_end = sum(episode.windows_past_end for episode in episodes)
    valid = [e.std_last_valid_start for e in episodes if e.std_last_valid_start is not None]
    return HorizonReport(
        action_horizon=action_horizon,
        num_windows=columns.num_frames,
        windows_past_end=past_end,
        share_past_end=past_end / columns.num_frames,
        mean_std_last_frame=sum(e.std_last_frame for e in episodes) / len(episodes),
        mean_std_last_valid_start=sum(valid) / len(valid) if valid else None,
        episodes=tuple(episodes),
    )


def _split(columns: Columns) -> EpisodeTable:
    return split_episodes(
        FrameColumns(episode_index=columns.episode_index, frame_index=columns.frame_index)
    )


def _measure_stillness(action_LxA: AnyFloatArray, frame: int, horizon: int) -> float:
    rows = np.minimum(np.arange(frame, frame + horizon), len(action_LxA) - 1)
    return float(action_LxA[rows].astype(np.float64).std(axis=0).mean())


def _measure_ranges(
    columns: Columns, values_NxD: AnyFloatArray, names: tuple[str, ...] | None
) -> tuple[DimensionRange, ...]:
    same_episode = columns.episode_index[1:] == columns.episode_index[:-1]
    ranges = []
    for dim in range(values_NxD.shape[1]):
        values_N = values_NxD[:, dim]
        changing = (values_N[1:] != values_N[:-1]) & same_episode
        ranges.append(
            DimensionRange(
                dimension=dim,
                name=names[dim] if names and len(names) == values_NxD.shape[1] else None,
                minimum=float(values_N.min()),
                maximum=float(values_N.max()),
                changing_share=float(changing.sum()) / max(1, int(same_episode.sum())),
            )
        )
    return tuple(ranges)
