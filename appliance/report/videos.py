"""How a page gets the episodes' videos: as a link to the bundle's file, or inside the page.

Only files that are among the bundle's are linked, whatever a row calls its video.
"""

from __future__ import annotations

import base64
import os
import posixpath
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from appliance.report.blocks import Video
from appliance.report.evidence import as_text
from appliance.report.report_input import ReportInput

MAX_EMBEDDED_BYTES = 64 << 20
_VIDEO_PREFIX = "observed/evaluate/"


@dataclass(slots=True, kw_only=True)
class VideoShelf:
    """Finds an episode's video and says how the page gets it; keeps count of what is embedded."""

    view: ReportInput
    out_dir: Path
    embedded_bytes: int = 0

    def find(self, name: object, label: str) -> Video | None:
        """The video a row calls ``name``; None when there is no such file among the bundle's."""
        text = as_text(name)
        if text is None:
            return None
        bundle_path = _VIDEO_PREFIX + text
        path = self.view.files.get(bundle_path)
        if path is None or not text.endswith(".mp4"):
            return None
        if self.view.embed_videos:
            data = self._read(path)
            if data is not None:
                source = "data:video/mp4;base64," + base64.b64encode(data).decode("ascii")
                return Video(source=source, label=label, embedded=True)
        return Video(source=quote(self._link(bundle_path, path)), label=label, embedded=False)

    def _read(self, path: Path) -> bytes | None:
        try:
            size = path.stat().st_size
            if self.embedded_bytes + size > MAX_EMBEDDED_BYTES:
                return None
            data = path.read_bytes()
        except OSError:
            return None
        self.embedded_bytes += len(data)
        return data

    def _link(self, bundle_path: str, path: Path) -> str:
        """A relative link, begun with a dot, so that no name is taken for a scheme."""
        if self.view.place is not None:
            link = posixpath.relpath(bundle_path, posixpath.dirname(self.view.place))
        else:
            link = Path(os.path.relpath(path.resolve(), self.out_dir.resolve())).as_posix()
        return link if link.startswith("../") else "./" + link
