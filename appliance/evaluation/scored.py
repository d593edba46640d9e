"""A finished evaluation as it lies in a folder, read back and checked against itself."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance.errors import EvaluationError
from appliance.evaluation.records import NOT_PLAYED
from appliance.evaluation.results import EPISODES_NAME, METRICS_NAME
from appliance.files import read_json, storage_errors


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredEvaluation:
    """The metrics; whether each seed was solved; the digest of the physics each seed began with.

    ``starts`` is None for a trial that was not played (``unplayed``), and where older records do
    not hold it.
    """

    metrics: Mapping[str, Any]
    successes: Mapping[int, bool]
    starts: Mapping[int, str | None]
    unplayed: frozenset[int]


def read_evaluation(content_dir: Path) -> ScoredEvaluation:
    """The evaluation in a ``content/`` folder.

    Raises EvaluationError when the files are not those of an evaluation or contradict each other,
    StorageError when one is missing or unreadable.
    """
    metrics = read_json(content_dir / METRICS_NAME)
    path = content_dir / EPISODES_NAME
    with storage_errors(path, "reading the episodes"):
        lines = path.read_bytes().splitlines()
    try:
        rows = [json.loads(line) for line in lines]
        successes = {int(row["seed"]): row["outcome"] == "success" for row in rows}
        starts = {int(row["seed"]): row.get("first_physics") for row in rows}
        unplayed = frozenset(
            int(row["seed"]) for row in rows if row.get("failure_class") in NOT_PLAYED
        )
        counted = (int(metrics["successes"]), int(metrics["episodes"]))
        is_named = isinstance(metrics["policy"], Mapping) and bool(rows)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _not_an_evaluation(content_dir, repr(error)) from error
    if not is_named:
        raise _not_an_evaluation(content_dir, "no episode, or no policy named")
    if counted != (sum(successes.values()), len(rows)) or len(successes) != len(rows):
        raise EvaluationError(
            f"{content_dir}: {METRICS_NAME} counts {counted[0]} successes of {counted[1]}, but"
            f" {EPISODES_NAME} holds {sum(successes.values())} of {len(rows)}. One of them was"
            " changed; evaluate again."
        )
    return ScoredEvaluation(metrics=metrics, successes=successes, starts=starts, unplayed=unplayed)


def _not_an_evaluation(content_dir: Path, why: str) -> EvaluationError:
    return EvaluationError(
        f"{content_dir}: not the records of an evaluation ({why}). Name the folder of an"
        " evaluation, a run or a bundle."
    )
