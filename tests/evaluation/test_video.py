from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import av
import numpy as np
import pytest

from appliance.errors import StorageError
from appliance.evaluation.video import VideoRecorder, fit_for_video


def decode(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def record(path: Path, frames: list[np.ndarray]) -> bytes:
    with VideoRecorder() as recorder:
        for frame in frames:
            recorder.add(frame)
        return recorder.write(path)


@pytest.mark.parametrize("count", [1, 2, 61])
def test_a_video_decodes_to_as_many_frames_as_were_added(tmp_path: Path, count: int) -> None:
    frames = [np.full((72, 96, 3), (40 * k) % 256, dtype=np.uint8) for k in range(count)]
    data = record(tmp_path / "a.mp4", frames)
    decoded = decode(tmp_path / "a.mp4")
    assert len(decoded) == count
    assert (tmp_path / "a.mp4").read_bytes() == data
    for frame, picture in zip(frames, decoded, strict=True):
        assert picture.shape == (216, 288, 3)
        assert abs(int(picture.mean()) - int(frame.mean())) <= 4


def test_equal_frames_give_equal_bytes(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(20)]
    assert len({record(tmp_path / f"{turn}.mp4", frames) for turn in range(40)}) == 1


def test_equal_frames_give_equal_bytes_in_threads_too(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (72, 96, 3), dtype=np.uint8) for _ in range(10)]
    with ThreadPoolExecutor(3) as pool:
        videos = pool.map(lambda name: record(tmp_path / f"{name}.mp4", frames), range(9))
    assert len({record(tmp_path / "main.mp4", frames), *videos}) == 1


@pytest.mark.parametrize("rgb", [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (9, 9, 9)])
def test_colours_come_back_as_they_were(tmp_path: Path, rgb: tuple[int, int, int]) -> None:
    picture = np.full((72, 96, 3), rgb, dtype=np.uint8)
    record(tmp_path / "a.mp4", [picture] * 3)
    for decoded in decode(tmp_path / "a.mp4"):
        assert np.abs(decoded.astype(int) - np.array(rgb)).max() <= 6


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((72, 96), (216, 288)),
        ((15, 21), (46, 64)),
        ((240, 320), (240, 320)),
        ((225, 301), (226, 302)),
    ],
)
def test_tiny_pictures_are_tripled_and_sides_are_even(
    size: tuple[int, int], expected: tuple[int, int]
) -> None:
    assert fit_for_video(np.zeros((*size, 3), dtype=np.uint8)).shape == (*expected, 3)


def test_tripling_keeps_the_pixels() -> None:
    picture = np.random.default_rng(1).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert (fit_for_video(picture)[1::3, 1::3] == picture).all()


def test_a_recorder_that_is_abandoned_leaves_no_file(tmp_path: Path) -> None:
    for frames in (0, 1, 3):
        with VideoRecorder() as recorder:
            for _ in range(frames):
                recorder.add(np.zeros((16, 16, 3), dtype=np.uint8))
    assert list(tmp_path.iterdir()) == []


def test_a_video_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "videos").write_text("a file where the folder should be")
    with pytest.raises(StorageError):
        record(tmp_path / "videos" / "a.mp4", [np.zeros((16, 16, 3), dtype=np.uint8)])
