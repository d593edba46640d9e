"""The files of an evaluation, written from its journal, sorted by trial.

``content/``: trials.json, episodes.jsonl, metrics.json: the same bytes for the same evaluation on
the same platform, without a time in them. ``observed/``: episodes.jsonl with seconds and the
videos' digests beside the same rows; _metrics.json and _result.txt in RoboTwin's historic forms
(Plan-STaR 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from appliance.digest import canonical_json
from appliance.evaluation.journal import Journal
from appliance.evaluation.records import FAILURE_CLASSES, FAILURES, Episode
from appliance.evaluation.request import EvalRequest
from appliance.evaluation.statistics import CONFIDENCE, wilson_interval
from appliance.evaluation.trials import TrialList
from appliance.files import storage_errors, write_atomic, write_json

TRIALS_NAME = "trials.json"
EPISODES_NAME = "episodes.jsonl"
METRICS_NAME = "metrics.json"
OBSERVED_METRICS_NAME = "_metrics.json"
RESULT_NAME = "_result.txt"
VIDEOS_NAME = "videos"
FAULT_KINDS = ("failed", "policy_lost")

ROBOTWIN_SIMULATOR = {"embodiment": "aloha-agilex", "planner": "curobo", "shader": "rt"}
"""What RoboTwin's published numbers are measured with."""


def read_finished(journal: Journal) -> dict[int, Episode]:
    """The finished episodes of a journal, by trial number."""
    rows = [row["record"] for row in journal.of_kind("episode")]
    return {row["episode"]: Episode(**row) for row in rows}


def write_trials(content_dir: Path, trials: TrialList) -> None:
    """Write the list of trials, with every skipped seed and its reason. Raises StorageError."""
    write_json(content_dir / TRIALS_NAME, trials.to_dict())


def write_content(
    content_dir: Path, request: EvalRequest, trials: TrialList, finished: Mapping[int, Episode]
) -> None:
    """Write episodes.jsonl and, last, metrics.json. Raises StorageError."""
    episodes = [finished[number] for number in range(len(trials.seeds))]
    rows = b"".join(canonical_json(episode.to_dict()) + b"\n" for episode in episodes)
    write_atomic(content_dir / EPISODES_NAME, rows)
    metrics = {
        "task": request.task,
        "task_config": request.task_config,
        "simulator": dict(request.simulator),
        "note": score_note(request.simulator),
        "policy": dict(request.policy),
        "seed": request.seed,
        "policy_seed": request.policy_seed,
        "instruction_type": request.instruction_type,
        "action_steps": request.action_steps,
        "query_batch": request.query_batch,
        "trials": trials.to_dict(),
        "confidence": CONFIDENCE,
        **summarize(episodes),
    }
    write_json(content_dir / METRICS_NAME, metrics)


def summarize(episodes: Sequence[Episode]) -> dict[str, Any]:
    """The figures of section 4: counts, rate, Wilson interval, mean steps of the successes."""
    steps = [episode.steps for episode in episodes if episode.outcome == "success"]
    outcomes = [episode.outcome for episode in episodes]
    classes = [episode.failure_class for episode in episodes]
    return {
        "episodes": len(episodes),
        "successes": len(steps),
        "success_rate": len(steps) / len(episodes),
        "wilson_interval": asdict(wilson_interval(len(steps), len(episodes))),
        "avg_steps_success": sum(steps) / len(steps) if steps else None,
        "failure_counts": {failure: outcomes.count(failure) for failure in FAILURES},
        "failure_classes": {name: classes.count(name) for name in FAILURE_CLASSES},
    }


def score_note(simulator: Mapping[str, Any]) -> str | None:
    """What must stand beside a score not measured as RoboTwin's own are; None beside those."""
    ours = {key: simulator.get(key) for key in ROBOTWIN_SIMULATOR}
    if ours == ROBOTWIN_SIMULATOR:
        return None
    return (
        f"Measured with the embodiment {ours['embodiment']}, the planner {ours['planner']} and the"
        f" shader {ours['shader']}: not a RoboTwin score."
    )


def write_observed(observed_dir: Path, request: EvalRequest, journal: Journal) -> None:
    """Write _metrics.json, episodes.jsonl and _result.txt; remove videos that no episode names.

    Raises StorageError.
    """
    finished = read_finished(journal)
    figures = summarize([finished[number] for number in sorted(finished)])
    rows = sorted(journal.of_kind("episode"), key=lambda row: int(row["record"]["episode"]))
    metrics = {
        **figures,
        "note": score_note(request.simulator),
        "eval_time_sec": round(journal.wall_time_s, 3),
        "started_at_utc": journal.started_at_utc,
        "simulator_failures": len(journal.of_kind("failed")),
        "faults": [_without(row, "at_s") for row in journal.rows if row["kind"] in FAULT_KINDS],
        "simulator_versions": _newest_description(journal),
        "episode_rows": [_observed_row(row) for row in rows],
    }
    write_json(observed_dir / OBSERVED_METRICS_NAME, metrics)
    lines = b"".join(canonical_json(_observed_row(row)) + b"\n" for row in rows)
    write_atomic(observed_dir / EPISODES_NAME, lines)
    write_atomic(
        observed_dir / RESULT_NAME,
        (
            f"Timestamp: {journal.started_at_utc}\n\n"
            f"Instruction Type: {request.instruction_type}\n\n"
            f"{figures['success_rate']}"
        ).encode(),
    )
    _remove_stray_videos(observed_dir, {str(row.get("video")) for row in rows})


def _newest_description(journal: Journal) -> Mapping[str, Any]:
    started = journal.of_kind("started")
    return dict(started[-1]["description"]) if started else {}


def _observed_row(row: Mapping[str, Any]) -> dict[str, Any]:
    observed = _without(row, "kind", "at_s", "record")
    record = row["record"]
    return {**record, "success": record["outcome"] == "success", **observed}


def _without(row: Mapping[str, Any], *keys: str) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key not in keys}


def _remove_stray_videos(observed_dir: Path, named: set[str]) -> None:
    folder = observed_dir / VIDEOS_NAME
    if not folder.is_dir():
        return
    with storage_errors(folder, "removing videos of attempts that do not count"):
        for path in sorted(folder.iterdir()):
            if f"{VIDEOS_NAME}/{path.name}" not in named:
                path.unlink()
