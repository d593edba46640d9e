"""A replay's verdict, signed: a countersignature beside the bundle, which it does not change."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.bundle.keys import SigningKey
from appliance.bundle.summary import sign_summary, summary_path
from appliance.errors import ReplayError
from appliance.files import write_atomic
from appliance.replay.levels import LevelStatus
from appliance.replay.replay import Replay
from appliance.replay.verdict import Conclusion


def check_can_be_signed(replay: Replay) -> None:
    """Raise ReplayError when there is nothing a countersignature could say."""
    report = replay.subject.report
    if report is None:
        raise ReplayError(
            f"{replay.subject.label}: a countersignature is about a bundle, and this is a"
            f" {replay.subject.kind}. Replay the bundle."
        )
    if not report.trusted:
        raise ReplayError(
            f"{replay.subject.label}: not countersigned, because it is not from a signer you trust."
            " Verify it with the signer's key (--key), or trust that key first."
        )
    if replay.verdict.conclusion not in (Conclusion.REPRODUCED, Conclusion.NOT_REPRODUCED):
        raise ReplayError(
            f"{replay.subject.label}: not countersigned, because the verdict is"
            f" {replay.verdict.conclusion.value}: neither passed nor failed."
        )


def countersign(replay: Replay, document: Mapping[str, Any], key: SigningKey) -> Path:
    """Sign ``document`` and write it beside the bundle; returns the file.

    PASSED names the levels that were shown; FAILED names none. Raises ReplayError, StorageError.
    """
    check_can_be_signed(replay)
    report = replay.subject.report
    assert report is not None, "check_can_be_signed saw to it"
    passed = replay.verdict.conclusion is Conclusion.REPRODUCED
    levels = [
        level.value
        for level, result in replay.verdict.levels.items()
        if passed and result.status is LevelStatus.SHOWN
    ]
    data = sign_summary(
        attestation_sha256=str(report.attestation_sha256),
        content_digest=str(report.content_digest),
        result="PASSED" if passed else "FAILED",
        levels=levels,
        verified_on=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        key=key,
        replay=document,
    )
    target = summary_path(report.path, key.key_id)
    write_atomic(target, data, doing="writing the countersignature")
    return target
