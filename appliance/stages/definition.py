"""What a stage is, and what it is given.

A stage's output folder has three parts:

* ``content/``: deterministic; the same manifest on the same platform gives the same bytes. It goes
  into the bundle and decides the content digest.
* ``observed/``: times, host, logs, videos. It goes into the bundle, apart from the content.
* ``artifacts/``: large files (checkpoints). They stay in the run folder; their digests are content.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from appliance.manifest.model import Manifest

CONTENT = "content"
OBSERVED = "observed"
ARTIFACTS = "artifacts"
PARTS = (CONTENT, OBSERVED, ARTIFACTS)

# Written into files that carry a creation time by their format; the true times are in the receipts.
FIXED_TIME_UTC = "1970-01-01T00:00:00Z"


class Progress(Protocol):
    """Told how far long work has come; never changes what it computes."""

    def __call__(self, done: int, total: int, text: str = "") -> None:
        """``done`` of ``total`` units are finished; ``text`` is a short state for a person."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """All a stage may read, and the folder it may write.

    ``files`` says where what the manifest names lies, by the key that names it
    (``pins.places_for_stages``): a stage joins no path of the manifest itself. ``inputs`` maps each
    upstream stage to its finished folder. ``scratch_dir`` holds caches that never change a result.
    """

    manifest: Manifest
    files: Mapping[str, Path]
    dataset_root: Path
    inputs: Mapping[str, Path]
    folder: Path
    scratch_dir: Path
    progress: Progress

    @property
    def content(self) -> Path:
        """Folder of the deterministic outputs; it exists."""
        return self._part(CONTENT)

    @property
    def observed(self) -> Path:
        """Folder of what was seen and may differ between runs; it exists."""
        return self._part(OBSERVED)

    @property
    def artifacts(self) -> Path:
        """Folder of the large outputs; it exists."""
        return self._part(ARTIFACTS)

    def _part(self, name: str) -> Path:
        path = self.folder / name
        path.mkdir(parents=True, exist_ok=True)
        return path


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One step of the chain.

    ``version`` is raised when the meaning of the outputs changes. ``manifest_part`` gives all that
    the stage takes from the manifest. ``rooms`` are the parts of this package whose source decides
    the result, ``packages`` the installed distributions that do. ``reads`` are the places it reads
    beside the run folder and what the manifest names.
    """

    name: str
    version: int
    upstream: tuple[str, ...]
    rooms: tuple[str, ...]
    packages: tuple[str, ...]
    manifest_part: Callable[[Manifest], Mapping[str, Any]]
    run: Callable[[StageContext], None]
    reads: tuple[Path, ...] = ()
