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
X264_OPTIONS = {"crf": "23", "preset": "veryfast", "x264-params": "cpu-independent=1"}
TINY_WIDTH_PX = 200
TINY_SCALE = 3


class VideoRecorder:
    """Encodes frames as they come and writes the file at the end, whole or not at all.

    One frame an action at 10 frames a second, as RoboTwin's own evaluation videos. The encoder uses
    one thread and none of the routines that x264 picks by processor, some of which give other bytes
    from one time to the next: equal frames give equal bytes with the same FFmpeg build.
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
        picture = np.ascontiguousarray(fit_for_video(frame_HxWx3))
        if self._stream is None:
            self._stream = self._container.add_stream(
                "libx264", rate=FRAMES_PER_SECOND, options=X264_OPTIONS
            )
            self._stream.height, self._stream.width = picture.shape[:2]
            self._stream.pix_fmt = "yuv420p"
            self._stream.codec_context.thread_count = 1
        frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
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
