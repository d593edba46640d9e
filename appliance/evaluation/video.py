"""Episode videos: H.264 in an MP4, small, and large enough for a person to see something.

PyAV is imported here and nowhere else in this room.
"""

from __future__ import annotations

import io
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import numpy as np
from numpy.typing import NDArray

from appliance.files import write_atomic

FRAMES_PER_SECOND = 10
TINY_WIDTH_PX = 200
TINY_SCALE = 3


class VideoRecorder:
    """Encodes frames as they come and writes the file at the end, whole or not at all.

    One frame an action at 10 frames a second, as RoboTwin's own evaluation videos. Equal frames
    give equal bytes with the same FFmpeg build: the encoder uses one thread, and colours are
    converted here, because FFmpeg's conversion rounds by how its memory happens to be aligned.
    """

    def __init__(self) -> None:
        self.frame_count = 0
        self._bytes = io.BytesIO()
        self._container: Any = av.open(self._bytes, mode="w", format="mp4")
        self._stream: Any = None

    def __enter__(self) -> VideoRecorder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._container.close()

    def add(self, frame_HxWx3: NDArray[np.uint8]) -> None:
        """Append one picture, RGB uint8 HxWx3; all pictures have the first one's size."""
        picture = fit_for_video(frame_HxWx3)
        if self._stream is None:
            self._stream = self._container.add_stream(
                "libx264", rate=FRAMES_PER_SECOND, options={"crf": "23", "preset": "veryfast"}
            )
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.thread_count = 1
        frame = av.VideoFrame.from_ndarray(to_yuv420(picture), format="yuv420p")
        self._container.mux(self._stream.encode(frame))
        self.frame_count += 1

    def write(self, path: Path) -> bytes:
        """Finish the video, write it to ``path`` and return its bytes; it has at least one frame.

        Raises StorageError.
        """
        self._container.mux(self._stream.encode())
        self._container.close()
        data = self._bytes.getvalue()
        write_atomic(path, data, doing="writing an episode's video")
        return data


def fit_for_video(frame_HxWx3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture three times as large if it is tiny, with even sides (H.264 needs them)."""
    scale = TINY_SCALE if frame_HxWx3.shape[1] < TINY_WIDTH_PX else 1
    large = frame_HxWx3.repeat(scale, axis=0).repeat(scale, axis=1)
    return np.pad(large, ((0, large.shape[0] % 2), (0, large.shape[1] % 2), (0, 0)), mode="edge")


def to_yuv420(rgb_HxWx3: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The planes Y, U, V below each other (3H/2 x W), for even H and W.

    BT.601 in limited range, in whole numbers; colour is the mean of each 2x2 pixels.
    """
    height_px, width_px = rgb_HxWx3.shape[:2]
    red, green, blue = np.moveaxis(rgb_HxWx3.astype(np.int32), 2, 0)
    luma = ((66 * red + 129 * green + 25 * blue + 128) >> 8) + 16
    blocks = rgb_HxWx3.reshape(height_px // 2, 2, width_px // 2, 2, 3)
    red, green, blue = np.moveaxis(blocks.sum(axis=(1, 3), dtype=np.int32), 2, 0)
    # Sums of four pixels: a shift by 10 instead of 8.
    chroma_u = ((-38 * red - 74 * green + 112 * blue + 512) >> 10) + 128
    chroma_v = ((112 * red - 94 * green - 18 * blue + 512) >> 10) + 128
    planes = np.concatenate([luma.ravel(), chroma_u.ravel(), chroma_v.ravel()])
    yuv: NDArray[np.uint8] = planes.astype(np.uint8).reshape(-1, width_px)
    return yuv
