"""A replay's verdict, signed: a countersignature beside the bundle, which it does not change."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.bundle.keys import SigningKey
from appliance.bundle.summary import Result, sign_summary, summary_path
from appliance.errors import ReplayError
from appliance.files import write_atomic
from appliance.replay.levels import Level, LevelStatus
from appliance.replay.replay import Replay
from appliance.replay.subject import DamagedBundle, Subject
from appliance.replay.verdict import Conclusion


def check_can_be_signed(subject: Subject | DamagedBundle) -> None:
    """Raise ReplayError when no verdict on ``subject`` could be countersigned, before it is found.

    A damaged bundle is let through: its verdict costs nothing, and says why it is not signed.
    """
    report = subject.report
    if report is None:
        raise ReplayError(
            f"{subject.label}: a countersignature is about a bundle, and this is a"
            f" {subject.kind}. Replay the bundle."
        )
    if report.intact and not report.trusted:
        raise ReplayError(
            f"{subject.label}: not countersigned, because it is not from a signer you trust."
            " Verify it with the signer's key (--key), or trust that key first."
        )


def summarize_verdict(document: Mapping[str, Any], label: str) -> tuple[Result, list[Level]]:
    """What a countersignature says of the verdict ``document``, which has the form of the schema.

    PASSED names the levels that were shown; FAILED names none. Raises ReplayError, which names
    ``label``, for a verdict that is neither.
    """
    conclusion = Conclusion(document["verdict"])
    _check_is_decided(conclusion, label)
    if conclusion is not Conclusion.REPRODUCED:
        return "FAILED", []
    levels = {Level(name): LevelStatus(each["status"]) for name, each in document["levels"].items()}
    return "PASSED", sorted(level for level in levels if levels[level] is LevelStatus.SHOWN)


def _check_is_decided(conclusion: Conclusion, label: str) -> None:
    if conclusion not in (Conclusion.REPRODUCED, Conclusion.NOT_REPRODUCED):
        raise ReplayError(
            f"{label}: not countersigned, because the verdict is {conclusion.value}: neither passed"
            " nor failed. Replay with what the verdict's reason asks for, and sign that."
        )


def countersign(replay: Replay, document: Mapping[str, Any], key: SigningKey) -> Path:
    """Sign ``document`` and write it beside the bundle; returns the file.

    PASSED names the levels that were shown; FAILED names none. Raises ReplayError for a subject or
    a verdict of which nothing can be said, StorageError.
    """
    check_can_be_signed(replay.subject)
    report = replay.subject.report
    assert report is not None, "check_can_be_signed saw to it"
    result, levels = summarize_verdict(document, replay.subject.label)
    data = sign_summary(
        attestation_sha256=str(report.attestation_sha256),
        content_digest=str(report.content_digest),
        result=result,
        levels=levels,
        verified_on=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        version=__version__,
        key=key,
        replay=document,
    )
    target = summary_path(report.path, key.key_id)
    write_atomic(target, data, doing="writing the countersignature")
    return target
