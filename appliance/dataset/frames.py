"""Decoded pictures of a LeRobotDataset, as arrays.

Each camera's video files are decoded once, front to back, with PyAV, into uint8 ``frames_NxHxWx3``
(N = dataset rows, RGB); the pixels are the ones lerobot's own per-item access gives with its
``pyav`` backend. With a cache folder the array is a memory-mapped ``.npy`` file under a name made
of the media fingerprint and the decoder's version, so it is found again by content, never by path.
The hub is never asked: the local format is checked before lerobot is imported.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from appliance.dataset.columns import read_columns, read_info
from appliance.dataset.fingerprint import fingerprint_columns
from appliance.dataset.media import media_fingerprint
from appliance.digest import sha256_json
from appliance.errors import DatasetError, StorageError
from appliance.files import atomic_folder, read_json, storage_errors, write_json

logger = logging.getLogger(__name__)

Frames = npt.NDArray[np.uint8]

TIMESTAMP_TOLERANCE_S = 1e-4
"""How far a stored frame may be from the time its row names (lerobot's own default)."""

ARRAY_FILE = "frames.npy"
FACTS_FILE = "frames.json"
DIGEST_ROWS = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedFrames:
    """One camera's frames in the cache: the array's file, and the SHA-256 of its pixels."""

    path: Path
    sha256: str


class FrameStore:
    """Frames by camera and row. Pickling sends file names where there are files, else the arrays.

    ``sha256`` names each camera's decoded pixels: what training really saw.
    """

    def __init__(
        self, arrays: Mapping[str, Frames], *, cached: Mapping[str, CachedFrames] | None = None
    ) -> None:
        self._arrays = dict(arrays)
        self._cached = dict(cached or {})
        self.cameras = tuple(arrays)
        self.sha256 = {
            camera: self._cached[camera].sha256
            if camera in self._cached
            else digest_frames(self._arrays[camera])
            for camera in self.cameras
        }

    def frames(self, camera: str) -> Frames:
        """All frames of ``camera``, N x H x W x 3; not to be written to."""
        return self._arrays[camera]

    def read(self, camera: str, row: int) -> Frames:
        """The H x W x 3 picture of ``camera`` at dataset row ``row``; not to be written to."""
        return np.asarray(self._arrays[camera][row])

    def __getstate__(self) -> dict[str, Any]:
        state = dict(self.__dict__)
        state["_arrays"] = {
            camera: None if camera in self._cached else frames
            for camera, frames in self._arrays.items()
        }
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        for camera, cached in self._cached.items():
            self._arrays[camera] = np.load(cached.path, mmap_mode="r")


def open_frames(
    root: Path, repo_id: str, cameras: Sequence[str], *, cache_dir: Path | None = None
) -> FrameStore:
    """The frames of ``cameras`` ("cam_high" or the full feature name), decoded or from the cache.

    Without ``cache_dir`` the arrays stay in memory. Cached pixels are checked against their
    digest; a damaged file is decoded again. Raises DatasetError for a missing or foreign dataset,
    an unknown camera, or a row without its frame; StorageError for the cache folder.
    """
    read_info(root)
    media = None if cache_dir is None else media_fingerprint(root)
    if cache_dir is None or media is None:
        with offline_dataset(root, repo_id) as dataset:
            return FrameStore({camera: decode_camera(dataset, camera) for camera in cameras})
    folders = {camera: cache_dir / _cache_name(root, media.value, camera) for camera in cameras}
    cached = {camera: _read_cached(folder) for camera, folder in folders.items()}
    if None in cached.values():
        with offline_dataset(root, repo_id, cache_dir) as dataset:
            for camera, folder in folders.items():
                if cached[camera] is None:
                    cached[camera] = _write_cached(folder, dataset, camera)
    found = {camera: entry for camera, entry in cached.items() if entry is not None}
    arrays = {camera: np.load(entry.path, mmap_mode="r") for camera, entry in found.items()}
    return FrameStore(arrays, cached=found)


@contextlib.contextmanager
def offline_dataset(root: Path, repo_id: str, scratch_dir: Path | None = None) -> Iterator[Any]:
    """The ``LeRobotDataset`` at ``root``, opened without the hub, with the PyAV video backend.

    lerobot copies the tabular columns to an Arrow cache; where the environment names none, that
    cache lies under ``scratch_dir`` or in a temporary folder. Raises DatasetError.
    """
    info = read_info(root)
    if not info.is_v3:
        raise DatasetError(
            f"{root}: format {info.codebase_version}, but pictures are read from v3.0 only. Make a"
            f" converted copy with `appliance dataset convert {root} NEW_FOLDER`."
        )
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
    with contextlib.ExitStack() as stack:
        if "HF_DATASETS_CACHE" not in os.environ:
            arrow_dir = scratch_dir or Path(
                stack.enter_context(tempfile.TemporaryDirectory(prefix="appliance-arrow-"))
            )
            stack.enter_context(arrow_cache(arrow_dir / "arrow"))
        from lerobot.datasets.lerobot_dataset import LeRobotDataset, LeRobotDatasetMetadata

        try:
            metadata = LeRobotDatasetMetadata(repo_id, root)
            _check_files(root, metadata)
            yield LeRobotDataset(repo_id, root, video_backend="pyav")
        except (OSError, ValueError, KeyError) as error:
            raise DatasetError(
                f"{root}: lerobot cannot open this {info.codebase_version} dataset"
                f" ({type(error).__name__}: {error}). Check that it was copied completely."
            ) from error


@contextlib.contextmanager
def arrow_cache(folder: Path) -> Iterator[None]:
    """Let the ``datasets`` library keep its Arrow copies in ``folder`` for a while."""
    import datasets  # type: ignore[import-untyped]

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = folder
    try:
        yield
    finally:
        datasets.config.HF_DATASETS_CACHE = before


def _check_files(root: Path, metadata: Any) -> None:
    """A missing file would send lerobot to the hub; name it instead. Raises DatasetError."""
    for episode in range(metadata.total_episodes):
        paths = [metadata.get_data_file_path(episode)]
        paths += [metadata.get_video_file_path(episode, key) for key in metadata.video_keys]
        for path in paths:
            if not (root / path).is_file():
                raise DatasetError(
                    f"{root / path}: missing, but episode {episode} needs it. Copy the dataset"
                    " again, completely."
                )


def decode_camera(dataset: Any, camera: str) -> Frames:
    """All frames of one camera of an open LeRobotDataset, N x H x W x 3. Raises DatasetError."""
    frames: Frames = np.empty(frames_shape(dataset, camera), dtype=np.uint8)
    decode_into(dataset, camera, frames)
    return frames


def frames_shape(dataset: Any, camera: str) -> tuple[int, int, int, int]:
    """(N, H, W, 3) of ``camera``. Raises DatasetError for pictures without three colours."""
    feature = feature_name(camera, dataset.features)
    described = dataset.features[feature]
    sizes = dict(zip(described["names"], described["shape"], strict=True))
    channels = sizes.get("channels", sizes.get("channel"))
    if channels != 3:
        raise DatasetError(f"{feature}: {channels} channels. Only colour pictures are supported.")
    return int(dataset.num_frames), int(sizes["height"]), int(sizes["width"]), 3


def decode_into(dataset: Any, camera: str, frames: Frames) -> None:
    """Decode ``camera`` into ``frames`` (N x H x W x 3), each video file front to back."""
    feature = feature_name(camera, dataset.features)
    if feature in dataset.meta.video_keys:
        for path, wanted in _rows_by_video(dataset, feature).items():
            _decode_video(path, wanted, frames)
        return
    pictures = dataset.hf_dataset.select_columns([feature]).with_format(None)
    for row, picture in enumerate(pictures):
        frames[row] = np.asarray(picture[feature].convert("RGB"))


def feature_name(camera: str, features: Mapping[str, Any]) -> str:
    """The dataset feature of ``camera``. Raises DatasetError naming the cameras there are."""
    for name in (camera, f"observation.images.{camera}"):
        if name in features:
            return name
    known = [name for name, feature in features.items() if feature["dtype"] in ("video", "image")]
    raise DatasetError(
        f"Camera {camera} is not in the dataset; it has {', '.join(known) or 'none'}. Use a"
        " train.config with those cameras, or record the dataset with this one."
    )


def _rows_by_video(dataset: Any, feature: str) -> dict[Path, list[tuple[float, int]]]:
    """(time in the file in seconds, dataset row) of every row, by video file, ascending."""
    times = np.asarray(
        dataset.hf_dataset.select_columns(["timestamp"]).with_format("numpy")["timestamp"],
        dtype=np.float64,
    )
    wanted: dict[Path, list[tuple[float, int]]] = {}
    for number in range(dataset.meta.total_episodes):
        episode = dataset.meta.episodes[number]
        start = float(episode[f"videos/{feature}/from_timestamp"])
        path = Path(dataset.root) / dataset.meta.get_video_file_path(number, feature)
        rows = range(int(episode["dataset_from_index"]), int(episode["dataset_to_index"]))
        wanted.setdefault(path, []).extend((start + times[row], row) for row in rows)
    return {path: sorted(rows) for path, rows in wanted.items()}


def _decode_video(path: Path, wanted: Sequence[tuple[float, int]], frames: Frames) -> None:
    """Decode ``path`` from the first frame on and copy each wanted frame to its row."""
    import av

    pending = iter(wanted)
    time_s, row = next(pending)
    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for frame in container.decode(stream):
                shown_s = float(frame.pts * frame.time_base)
                pixels: Frames | None = None
                while abs(shown_s - time_s) < TIMESTAMP_TOLERANCE_S:
                    if pixels is None:
                        pixels = frame.to_rgb().to_ndarray()
                    frames[row] = pixels
                    following = next(pending, None)
                    if following is None:
                        return
                    time_s, row = following
                if shown_s > time_s:
                    break
    except (av.FFmpegError, ValueError) as error:
        raise DatasetError(
            f"{path}: cannot be decoded ({error}). The file is damaged or its pictures are not of"
            " the size the dataset states; copy the dataset again."
        ) from error
    raise DatasetError(
        f"{path}: no frame within {TIMESTAMP_TOLERANCE_S} s of {time_s:.6f} s, which row {row}"
        " needs. The video and the table do not belong together; copy the dataset again."
    )


def digest_frames(frames: Frames) -> str:
    """SHA-256 of shape and pixels."""
    hasher = hashlib.sha256(str(frames.shape).encode("ascii"))
    for start in range(0, len(frames), DIGEST_ROWS):
        hasher.update(np.ascontiguousarray(frames[start : start + DIGEST_ROWS]).data)
    return hasher.hexdigest()


def _cache_name(root: Path, media: str, camera: str) -> str:
    """A folder name made of all that decides the array: stored bytes, rows, decoder."""
    import av

    name = {
        "format": 1,
        "media": media,
        "rows": fingerprint_columns(read_columns(root)).value,
        "camera": camera,
        "av": av.__version__,
        "ffmpeg": {name: list(version) for name, version in av.library_versions.items()},
    }
    return sha256_json(name)[:40]


def _read_cached(folder: Path) -> CachedFrames | None:
    """The cache entry in ``folder`` when it is there and whole."""
    if not (folder / FACTS_FILE).is_file():
        return None
    try:
        facts = read_json(folder / FACTS_FILE)
        digest = digest_frames(np.load(folder / ARRAY_FILE, mmap_mode="r"))
    except (StorageError, OSError, ValueError) as error:
        logger.warning("%s: damaged frame cache, decoding again (%s)", folder, error)
        return None
    if facts.get("sha256") != digest:
        logger.warning("%s: changed frame cache, decoding again", folder)
        return None
    return CachedFrames(path=folder / ARRAY_FILE, sha256=digest)


def _write_cached(folder: Path, dataset: Any, camera: str) -> CachedFrames:
    shape = frames_shape(dataset, camera)
    with atomic_folder(folder, doing="caching decoded frames") as temporary:
        with storage_errors(folder, "caching decoded frames"):
            frames = np.lib.format.open_memmap(  # type: ignore[no-untyped-call]
                temporary / ARRAY_FILE, mode="w+", dtype=np.uint8, shape=shape
            )
            _reserve_blocks(temporary / ARRAY_FILE)
            decode_into(dataset, camera, frames)
            frames.flush()
        digest = digest_frames(frames)
        write_json(temporary / FACTS_FILE, {"sha256": digest, "shape": list(shape)})
    return CachedFrames(path=folder / ARRAY_FILE, sha256=digest)


def _reserve_blocks(path: Path) -> None:
    """Take the disk space of the whole sparse file now. Raises OSError where there is too little.

    Without it a mapped page that finds no block while decoding ends the process with SIGBUS. Where
    a file system cannot reserve, the C library writes into each block instead (posix_fallocate(3)).
    """
    with path.open("r+b") as stream:
        os.posix_fallocate(stream.fileno(), 0, path.stat().st_size)
