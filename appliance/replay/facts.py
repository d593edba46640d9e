"""What a result says, stage by stage, as one tree of JSON values: the facts that are compared.

The tree of a stage has parts in the order in which a difference explains the ones after it: in
``train`` first the configuration, then the steps, then what follows from them. Steps and episodes
are mappings by number, so that a path such as ``train.steps.12.loss`` names one figure.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import PlanError, StorageError
from appliance.plan.files import read_arrays
from appliance.replay.reading import Reader
from appliance.replay.results import Result

Facts = Mapping[str, Any]
"""Stage name -> part -> ...: JSON values."""

_SUMMARY_INPUTS = ("plan_sha256", "norm_stats_sha256", "frames_sha256", "dataset_len")
_VOLATILE_META = ("created_at_utc", "libraries")
SAMPLES = 5


def read_facts(result: Result) -> dict[str, Any]:
    """The facts of every finished stage of ``result``. Raises StorageError for damaged files."""
    facts: dict[str, Any] = {"manifest": dict(result.manifest)} if result.manifest else {}
    for name, stage in result.stages.items():
        facts[name] = read_stage_facts(name, stage.content, result.reader)
    return facts


def read_stage_facts(stage: str, content: Path, reader: Reader | None = None) -> dict[str, Any]:
    """The facts in one stage's ``content`` folder; a file that is missing says nothing.

    ``reader`` is that of the result the stage belongs to; None for what was made here. Raises
    StorageError for damaged files.
    """
    facts = _READERS[stage](content, reader or Reader(bounded=False))
    return {part: value for part, value in facts.items() if value}


def _dataset_facts(content: Path, reader: Reader) -> dict[str, Any]:
    value = reader.read_object(content / "dataset.json")
    episodes = value.pop("episodes", [])
    listed = episodes if isinstance(episodes, list) else []
    rows = [each for each in listed if isinstance(each, Mapping)]
    return {"figures": value, "episodes": _by_number(rows, "episode_index")}


def _plan_facts(content: Path, reader: Reader) -> dict[str, Any]:
    meta = reader.read_object(content / "plan_meta.json")
    return {
        "meta": {name: value for name, value in meta.items() if name not in _VOLATILE_META},
        "arrays": _describe_arrays(content / "plan_arrays.npz"),
        "exposure": reader.read_object(content / "exposure.json"),
    }


def _norm_stats_facts(content: Path, reader: Reader) -> dict[str, Any]:
    return {
        "norm_stats": reader.read_object(content / "norm_stats.json").get("norm_stats"),
        "provenance": reader.read_object(content / "norm_stats_provenance.json"),
    }


def _train_facts(content: Path, reader: Reader) -> dict[str, Any]:
    summary = reader.read_object(content / "run_summary.json")
    return {
        "configuration": summary.pop("configuration", {}),
        "inputs": {name: summary.pop(name) for name in _SUMMARY_INPUTS if name in summary},
        "steps": read_steps(content, reader),
        "summary": summary,
        "checkpoints": reader.read_object(content / "checkpoint_leaves.json"),
    }


def read_steps(content: Path, reader: Reader | None = None) -> dict[str, dict[str, Any]]:
    """Curve and hash chain in one: step number -> its figures, bits and digest.

    Raises StorageError for damaged files.
    """
    reader = reader or Reader(bounded=False)
    steps: dict[str, dict[str, Any]] = {}
    for name in ("curve.jsonl", "hash_chain.jsonl"):
        for row in reader.read_rows(content / name):
            steps.setdefault(str(row.get("step")), {}).update(
                {key: value for key, value in row.items() if key != "step"}
            )
    return steps


def _evaluate_facts(content: Path, reader: Reader) -> dict[str, Any]:
    return {
        "trials": reader.read_object(content / "trials.json"),
        "episodes": _by_number(reader.read_rows(content / "episodes.jsonl"), "episode"),
        "metrics": {
            name: value
            for name, value in reader.read_object(content / "metrics.json").items()
            if name != "trials"
        },
    }


def _by_number(rows: Iterable[Mapping[str, Any]], key: str) -> dict[str, dict[str, Any]]:
    """Rows by the number each carries under ``key``."""
    return {
        str(row.get(key)): {name: value for name, value in row.items() if name != key}
        for row in rows
    }


def _describe_arrays(path: Path) -> dict[str, Any]:
    """Type, shape, digest and a few values of each array of a plan."""
    if not path.is_file():
        return {}
    try:
        arrays = read_arrays(path)
    except PlanError as error:
        raise StorageError(str(error)) from error
    return {name: _describe_array(arrays[name]) for name in sorted(arrays)}


def _describe_array(array: np.ndarray[Any, Any]) -> dict[str, Any]:
    little = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)
    flat = little.reshape(-1)
    chosen = sorted({round(part * (flat.size - 1) / (SAMPLES - 1)) for part in range(SAMPLES)})
    return {
        "dtype": array.dtype.str,
        "shape": list(array.shape),
        "values": {str(index): flat[index].item() for index in chosen if index >= 0},
        "sha256": hashlib.sha256(little.tobytes()).hexdigest(),
    }


def keep_steps(facts: Mapping[str, Any], chosen: Iterable[int]) -> dict[str, Any]:
    """The facts with only the ``chosen`` training steps, as a golden's expectations keep them."""
    train = dict(facts.get("train", {}))
    wanted = {str(step) for step in chosen}
    steps = train.get("steps", {})
    train["steps"] = {step: steps[step] for step in steps if step in wanted}
    return {**facts, "train": train} if "train" in facts else dict(facts)


_READERS: Mapping[str, Callable[[Path, Reader], dict[str, Any]]] = {
    "dataset": _dataset_facts,
    "plan": _plan_facts,
    "norm_stats": _norm_stats_facts,
    "train": _train_facts,
    "evaluate": _evaluate_facts,
}
