"""Everything a run reads, checked before the long work: columns, plan, statistics, pictures."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.dataset.columns import Columns, read_columns, read_info
from appliance.dataset.frames import open_frames
from appliance.digest import sha256_bytes
from appliance.errors import DatasetError, StorageError
from appliance.files import storage_errors
from appliance.norm_stats.files import NORM_STATS_FILE, NormStats, read_norm_stats, take_dims
from appliance.policy.tokenizer import make_tokenizer
from appliance.policy.transforms import ItemTransform
from appliance.training.counter_sampler import CounterStream
from appliance.training.data import EpisodeRows, SeededItems, WindowDataset
from appliance.training.exposure import Rows, expect_uniform
from appliance.training.mesh import writer_first
from appliance.training.request import TrainRequest
from appliance.training.sampler import IndexStream, SamplerName
from appliance.training.torch_sampler import TorchStream

logger = logging.getLogger(__name__)

SAMPLERS: Mapping[SamplerName, type[IndexStream]] = {
    "torch": TorchStream,
    "counter": CounterStream,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanFacts:
    """A checked plan's arrays, where its files lie, and what a budget expects of it."""

    path: Path
    sha256: str
    anchors_N: Rows
    stage_ids_N: npt.NDArray[np.int32]
    weights_N: npt.NDArray[np.float32]
    sampler_seed: int
    replacement: bool
    exposure: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainInputs:
    """What the loop works on.

    ``norm_stats_json`` are the file's own bytes; ``masked_cameras`` are the model's that the
    dataset does not have.
    """

    columns: Columns
    plan: PlanFacts | None
    norm_stats: NormStats
    norm_stats_json: bytes
    stream: IndexStream
    items: SeededItems
    frames_sha256: Mapping[str, str]
    masked_cameras: tuple[str, ...]
    exposure: Mapping[str, Any]

    @property
    def num_rows(self) -> int:
        """Rows of the dataset."""
        return self.columns.num_frames

    @property
    def drawn_rows(self) -> Rows:
        """The dataset row of each position of the index stream."""
        if self.plan is None:
            return np.arange(self.num_rows, dtype=np.int64)
        return self.plan.anchors_N

    def describe(self) -> dict[str, Any]:
        """Digests of what was read, for the run's identity and summary."""
        masked = {"masked_cameras": list(self.masked_cameras)} if self.masked_cameras else {}
        return {
            "plan_sha256": None if self.plan is None else self.plan.sha256,
            "norm_stats_sha256": sha256_bytes(self.norm_stats_json),
            "frames_sha256": dict(self.frames_sha256),
            "dataset_len": self.num_rows,
            **masked,
        }


def read_inputs(request: TrainRequest) -> TrainInputs:
    """Read and check the inputs, cheap and telling ones first, pictures last.

    Raises DatasetError, PlanError, NormStatsError, StorageError.
    """
    columns = read_columns(request.dataset_root)
    num_rows = columns.num_frames
    plan = None
    if request.sampling_plan_path is not None:
        plan = read_plan_facts(request, columns, request.sampling_plan_path)
    stream = build_stream(request, num_rows, plan)
    if request.num_train_steps:
        stream.check()
    stats, stats_json = read_statistics(request)
    transform = ItemTransform(
        config=request.config, norm_stats=stats, tokenizer=_make_tokenizer(request)
    )
    cameras, masked = choose_cameras(request)
    with writer_first("decoded frames"):
        frames = open_frames(
            request.dataset_root, request.repo_id, cameras, cache_dir=request.cache_dir
        )
    rows = WindowDataset(
        episode_rows(columns),
        frames,
        horizon=request.config.model.action_horizon,
        transform=transform,
    )
    return TrainInputs(
        columns=columns,
        plan=plan,
        norm_stats=stats,
        norm_stats_json=stats_json,
        stream=stream,
        items=SeededItems(select_rows(rows, plan), seed=request.seed),
        frames_sha256=frames.sha256,
        masked_cameras=masked,
        exposure=(expect_uniform(request.num_draws, num_rows) if plan is None else plan.exposure),
    )


def read_plan_facts(request: TrainRequest, columns: Columns, path: Path) -> PlanFacts:
    """Read a plan and check that it fits. Raises PlanError, StorageError."""
    # Imported here: a run without a plan is the same whether or not the plan code is there.
    from appliance.dataset.fingerprint import fingerprint_columns
    from appliance.plan.exposure import compute_exposure
    from appliance.plan.files import read_plan
    from appliance.plan.match import check_plan_matches

    plan = read_plan(path)
    fingerprint = fingerprint_columns(columns)
    check_plan_matches(
        plan,
        repo_id=request.repo_id,
        dataset_len=columns.num_frames,
        action_horizon=request.config.model.action_horizon,
        batch_size=request.batch,
        dataset_fingerprint=fingerprint.value,
        episode_digests=dict(fingerprint.episodes),
    )
    override = request.sampler_replacement_override
    replacement = bool(plan.meta["replacement"]) if override is None else override
    exposure = compute_exposure(plan.weights, plan.stage_ids, request.num_draws, replacement)
    for warning in exposure.warnings:
        logger.warning("%s", warning)
    seed = request.sampler_seed_override
    return PlanFacts(
        path=path,
        sha256=plan.plan_sha256,
        anchors_N=plan.anchor_indices,
        stage_ids_N=plan.stage_ids,
        weights_N=plan.weights,
        sampler_seed=int(plan.meta["sampler_seed"]) if seed is None else seed,
        replacement=replacement,
        exposure=exposure.to_mapping(),
    )


def build_stream(request: TrainRequest, num_rows: int, plan: PlanFacts | None) -> IndexStream:
    """The plan's weighted stream over its anchors, or uniform shuffling over all rows."""
    make = SAMPLERS[request.sampler]
    if plan is None:
        return make(num_items=num_rows, batch_size=request.batch, seed=request.seed)
    return make(
        num_items=len(plan.anchors_N),
        batch_size=request.batch,
        seed=plan.sampler_seed,
        weights_N=plan.weights_N,
        replacement=plan.replacement,
    )


def select_rows(rows: WindowDataset, plan: PlanFacts | None) -> Any:
    """The ``Subset`` of the anchors, or all rows."""
    from torch.utils.data import Subset

    if plan is None:
        return rows
    return Subset(rows, plan.anchors_N)  # type: ignore[arg-type]  # an array is a sequence too


def read_statistics(request: TrainRequest) -> tuple[NormStats, bytes]:
    """Norm stats cut to the robot's dimensions, and the file's bytes. Raises NormStatsError."""
    path = request.norm_stats_path
    stats = read_norm_stats(path)
    file = path / NORM_STATS_FILE if path.is_dir() else path
    with storage_errors(file, "reading the normalization statistics"):
        data = file.read_bytes()
    dims = len(request.config.delta_mask)
    cut = NormStats(state=take_dims(stats.state, dims), actions=take_dims(stats.actions, dims))
    return cut, data


def episode_rows(columns: Columns) -> EpisodeRows:
    """Columns as training reads them. Raises DatasetError when episodes are not contiguous."""
    episode = columns.episode_index
    starts = np.flatnonzero(np.diff(episode, prepend=episode[:1] - 1))
    if len(np.unique(episode[starts])) != len(starts):
        raise DatasetError(
            "The dataset's rows are not ordered by episode, so action windows cannot be cut."
            " Record or convert it again with lerobot."
        )
    ends = np.append(starts[1:], len(episode))
    return EpisodeRows(
        state_NxS=np.asarray(columns.state_NxS, dtype=np.float32),
        action_NxA=np.asarray(columns.action_NxA, dtype=np.float32),
        episode_end_N=np.repeat(ends, ends - starts).astype(np.int64),
        prompt_N=np.asarray(columns.task_index, dtype=np.int64),
        prompts=dict(columns.tasks),
    )


def choose_cameras(request: TrainRequest) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The cameras the model looks at: those the dataset has, and those that are masked for it.

    Warns of masked ones (pi0 spec, "Inputs": zeros, masked). Raises DatasetError when none is left.
    """
    info = read_info(request.dataset_root)
    keys = request.config.model.image_keys
    wanted = tuple(camera for camera, key in request.config.cameras if key in keys)
    there = tuple(camera for camera in wanted if info.has_camera(camera))
    if not there:
        raise DatasetError(
            f"{request.dataset_root}: the dataset has none of the cameras that"
            f" {request.config.name} looks at ({', '.join(wanted)}); it has"
            f" {', '.join(info.cameras) or 'none'}. Use a train.config with one of those, or record"
            " the dataset with one of these."
        )
    masked = tuple(camera for camera in wanted if camera not in there)
    if masked:
        logger.warning(
            "%s: the dataset has no %s; the policy is trained and evaluated without, its pictures"
            " masked.",
            request.dataset_root,
            ", ".join(masked),
        )
    return there, masked


def check_free_space(folder: Path, needed_bytes: int) -> None:
    """Raise StorageError when ``folder``'s disk cannot take what the run will write."""
    with storage_errors(folder, "looking for free disk space"):
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    if free < needed_bytes:
        raise StorageError(
            f"{folder}: {free / 1e9:.1f} GB are free, but checkpoints will take about"
            f" {needed_bytes / 1e9:.1f} GB. Free some space, or keep fewer checkpoints"
            " (save_interval)."
        )


def _make_tokenizer(request: TrainRequest) -> Any:
    if request.tokenizer is None:
        return make_tokenizer(request.config)
    return make_tokenizer(
        request.config,
        model_path=request.tokenizer.path,
        model_sha256=request.tokenizer.sha256,
    )
