"""The verdict as a document: JSON of a fixed form (``verdict-v1.json``), fit to be signed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jsonschema
from jsonschema.exceptions import best_match

from appliance import __version__
from appliance.errors import StorageError
from appliance.files import read_json, write_json
from appliance.manifest.difference import ABSENT
from appliance.replay.comparison import Compared, Outcome, StageComparison
from appliance.replay.levels import MEANINGS
from appliance.replay.replay import Replay
from appliance.replay.subject import Subject

FORMAT = "plan-star-replay-verdict-v1"
SCHEMA_FILE = Path(__file__).with_name("verdict-v1.json")


def verdict_document(replay: Replay) -> dict[str, Any]:
    """The replay's verdict and evidence as JSON values, in the form of the schema."""
    verdict, subject = replay.verdict, replay.subject
    return {
        "format": FORMAT,
        "appliance": __version__,
        "subject": {
            "kind": subject.kind,
            "name": subject.name,
            "identity": subject.identity if isinstance(subject, Subject) else None,
            "manifest_sha256": subject.manifest_sha256 if isinstance(subject, Subject) else None,
        },
        "content_digest": None if subject.report is None else subject.report.content_digest,
        "verdict": verdict.conclusion.value,
        "level": None if verdict.level is None else verdict.level.value,
        "reason": verdict.reason,
        "episodes_needed": verdict.episodes_needed,
        "levels": {
            level.value: {
                "status": result.status.value,
                "reason": result.reason,
                "meaning": MEANINGS[level],
            }
            for level, result in verdict.levels.items()
        },
        "claim": _claim_to_dict(replay),
        "equivalence": _equivalence_to_dict(replay),
        "stages": [
            _stage_to_dict(stage, replay.seconds.get(name)) for name, stage in replay.stages.items()
        ],
        "platform": {
            "same": replay.same_platform,
            "differences": _platform_differences(replay),
            "here": _plain(asdict(replay.here)),
        },
        "started_utc": replay.started_utc,
        "seconds": round(sum(replay.seconds.values()), 3),
    }


def write_verdict(replay: Replay, path: Path) -> dict[str, Any]:
    """Write the document to ``path`` and return it. Raises StorageError."""
    document = verdict_document(replay)
    write_json(path, document)
    return document


def read_verdict(path: Path) -> dict[str, Any]:
    """The document in the file ``path``. Raises StorageError when it has not the schema's form."""
    value = read_json(path)
    fault = best_match(jsonschema.Draft202012Validator(read_schema()).iter_errors(value))
    if fault is not None:
        where = fault.json_path.removeprefix("$").removeprefix(".") or "the whole"
        raise StorageError(
            f"{path}: not the verdict of a replay: {where}: {fault.message[:200]}. Give what"
            " `appliance replay BUNDLE --output FILE` wrote, unchanged."
        )
    verdict: dict[str, Any] = value
    return verdict


def read_schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of the document."""
    value: dict[str, Any] = json.loads(SCHEMA_FILE.read_bytes())
    return value


def _claim_to_dict(replay: Replay) -> dict[str, Any] | None:
    claim = replay.claim
    if claim is None:
        return None
    confirming = None if claim.confirming is None else list(claim.confirming)
    return {**asdict(claim), "outcome": claim.outcome.value, "confirming": confirming}


def _equivalence_to_dict(replay: Replay) -> dict[str, Any] | None:
    found = replay.equivalence
    if found is None:
        return None
    return {
        "difference": found.difference,
        "margin": found.margin,
        "alpha": found.alpha,
        "p": found.p,
        "is_equivalent": found.is_equivalent,
    }


def _stage_to_dict(stage: StageComparison, seconds: float | None) -> dict[str, Any]:
    first = stage.first_difference
    return {
        "stage": stage.stage,
        "equal": stage.counts.get(Outcome.EQUAL, 0),
        "within_tolerance": stage.counts.get(Outcome.WITHIN, 0),
        "different": len(stage.differences),
        "not_comparable": stage.counts.get(Outcome.NOT_COMPARABLE, 0),
        "first_difference": None if first is None else _difference_to_dict(first),
        "seconds": None if seconds is None else round(seconds, 3),
    }


def _difference_to_dict(row: Compared) -> dict[str, Any]:
    return {
        "path": row.path,
        "level": row.level.value,
        "expected": _plain(row.expected),
        "found": _plain(row.found),
        "rule": row.rule,
    }


def _platform_differences(replay: Replay) -> list[dict[str, Any]]:
    if replay.there is None:
        return []
    return [
        {"field": path, "there": _plain(there), "here": _plain(here)}
        for path, there, here in replay.there.changes(replay.here)
    ]


def _plain(value: Any) -> Any:
    if value is ABSENT:
        return None
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value
