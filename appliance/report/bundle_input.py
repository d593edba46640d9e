"""A bundle's folder as the input of a report: its files, its manifest, what the check said."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance.bundle.bounds import MAX_ATTESTATION_BYTES
from appliance.bundle.checks import read_attestation
from appliance.bundle.facts import read_manifest
from appliance.bundle.findings import VerifyReport
from appliance.bundle.layout import ATTESTATION_FILE, BUNDLE_FILE
from appliance.report.evidence import Evidence, as_list, as_text
from appliance.report.report_input import ReportInput


def read_bundle_input(
    folder: Path, check: VerifyReport | None, *, embed_videos: bool
) -> ReportInput:
    """What a report on the bundle in ``folder`` is made from; nothing in it is believed.

    The manifest is the signed one where it can be read, else the one in the content. Links and
    special files are passed over: the check has named them, and they may lead anywhere.
    """
    evidence = Evidence(_list_regular_files(folder))
    description = evidence.read_mapping(BUNDLE_FILE)
    return ReportInput(
        files=evidence.files,
        name=as_text(description.get("name")),
        manifest=_read_signed(evidence) or evidence.read_mapping("content/manifest.json"),
        content_digest=(check.content_digest if check is not None else None)
        or as_text(description.get("content_digest")),
        levels=tuple(
            level for value in as_list(description.get("levels")) if (level := as_text(value))
        ),
        check=check,
        embed_videos=embed_videos,
    )


def _list_regular_files(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for root, _, names in os.walk(folder):
        for name in names:
            path = Path(root, name)
            if stat.S_ISREG(path.lstat().st_mode):
                found[path.relative_to(folder).as_posix()] = path
    return found


def _read_signed(evidence: Evidence) -> Mapping[str, Any]:
    data = evidence.read_bytes(ATTESTATION_FILE, MAX_ATTESTATION_BYTES)
    statement = read_attestation(data).statement
    return {} if statement is None else read_manifest(statement.predicate)
