"""What a report is made from, as its sections get it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.bundle.findings import VerifyReport

REPORT_FILE = "report.html"


@dataclass(frozen=True, slots=True, kw_only=True)
class StageState:
    """How far a stage of a run folder is: ``done``, ``unfinished`` or ``not run``."""

    name: str
    state: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportInput:
    """What a report is made from.

    ``files`` maps bundle paths to files; ``manifest`` is the normalized one with its expectations,
    empty when there is none; ``levels`` are those the bundle records evidence for. ``place`` is the
    bundle path the page itself will have when it is written as a part of a bundle, so that it links
    to its neighbours; None otherwise.
    ``check`` is the outcome of verifying, where that was done. ``stages`` are those of a run folder
    that is not a bundle yet. ``replay`` is a replay's verdict document. ``embed_videos`` puts
    videos into the page while they have room.
    """

    files: Mapping[str, Path]
    name: str | None
    manifest: Mapping[str, Any]
    content_digest: str | None = None
    levels: tuple[str, ...] = ()
    place: str | None = None
    check: VerifyReport | None = None
    stages: tuple[StageState, ...] = ()
    replay: Mapping[str, Any] = field(default_factory=dict)
    embed_videos: bool = False
