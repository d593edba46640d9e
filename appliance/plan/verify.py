"""Checking a plan: findings, never the first exception (Plan-STaR section 1.11).

``verify_plan`` looks at a plan alone or together with its dataset's columns; ``verify_plan_files``
begins at the files; ``verify_rebuild`` builds the plan again. Letters: N anchors, K stages.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from appliance.episodes import EpisodeTable, FrameColumns, IntArray, name_some, split_episodes
from appliance.errors import ApplianceError, PlanError
from appliance.plan.anchors import clamp_tail_keep, count_valid_starts
from appliance.plan.build import build_plan
from appliance.plan.compare import compare_plans
from appliance.plan.files import read_plan
from appliance.plan.match import find_changed_episodes
from appliance.plan.metadata import REQUIRED_KEYS, params_from_metadata
from appliance.plan.plan import PLAN_VERSION_1, Plan
from appliance.plan.weights import compute_figures

_REQUIRED_KEYS_1 = ("plan_version", "repo_id", "dataset_len", "action_horizon_H", "plan_sha256")


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing wrong with a plan: a short code for machines and a sentence for people."""

    code: str
    text: str


def verify_plan_files(
    path: Path,
    columns: FrameColumns | None = None,
    *,
    dataset_fingerprint: str | None = None,
    episode_digests: Mapping[int, str] | None = None,
) -> list[Finding]:
    """Findings about the plan in ``path``; an unreadable plan is one finding."""
    try:
        plan = read_plan(path, check_hash=False)
    except ApplianceError as error:
        return [Finding(code="unreadable", text=str(error))]
    return verify_plan(
        plan, columns, dataset_fingerprint=dataset_fingerprint, episode_digests=episode_digests
    )


def verify_plan(
    plan: Plan,
    columns: FrameColumns | None = None,
    *,
    dataset_fingerprint: str | None = None,
    episode_digests: Mapping[int, str] | None = None,
) -> list[Finding]:
    """Everything wrong with a plan, in the order of section 1.11; empty when all is right.

    With ``columns`` also whether anchors stand on valid starts of kept episodes; with
    ``dataset_fingerprint`` also whether the data is the one the plan was built from.
    """
    findings = [*_check_hash(plan), *_check_keys(plan), *_check_arrays(plan)]
    if not findings:
        findings.extend(_check_summary(plan))
    if dataset_fingerprint is not None:
        findings.extend(_check_fingerprint(plan, dataset_fingerprint, episode_digests))
    if columns is not None:
        try:
            findings.extend(_check_against_columns(plan, columns))
        except PlanError as error:
            findings.append(Finding(code="dataset", text=str(error)))
    return findings


def verify_rebuild(plan: Plan, columns: FrameColumns) -> list[Finding]:
    """Build a version 2 plan again from its own metadata and report every difference."""
    meta = plan.meta
    if meta.get("plan_version") == PLAN_VERSION_1:
        text = "A plan-star-v1 plan cannot be rebuilt; build a plan-star-v2 plan instead."
        return [Finding(code="rebuild", text=text)]
    try:
        rebuilt = build_plan(
            columns,
            params_from_metadata(meta),
            repo_id=meta["repo_id"],
            train_config_name=meta["train_config_name"],
            action_horizon=meta["action_horizon_H"],
            batch_size=meta["batch_size"],
            dataset_fingerprint=meta["dataset_fingerprint"],
            created_at_utc=meta["created_at_utc"],
            episode_digests=_stored_digests(plan),
        )
    except PlanError as error:
        return [Finding(code="rebuild", text=f"The plan cannot be rebuilt. {error}")]
    except (KeyError, TypeError, ValueError, AttributeError, MemoryError) as error:
        text = f"The plan's metadata does not say how it was built ({error!r}). Build a new one."
        return [Finding(code="rebuild", text=text)]
    return [
        Finding(code="rebuild", text=f"Rebuilt from the data, the plan differs: {difference}")
        for difference in compare_plans(plan, rebuilt).describe()
    ]


def _stored_digests(plan: Plan) -> dict[int, str] | None:
    ids = plan.extra_arrays.get("dataset_episode_ids")
    digests = plan.extra_arrays.get("dataset_episode_digests")
    if ids is None or digests is None:
        return None
    return {
        int(episode): digest.tobytes().hex() for episode, digest in zip(ids, digests, strict=True)
    }


def _check_hash(plan: Plan) -> Iterator[Finding]:
    recorded = plan.meta.get("plan_sha256")
    if plan.computed_sha256 != recorded:
        yield Finding(
            code="sha256",
            text=f"Plan sha256 mismatch: expected {recorded}, computed {plan.computed_sha256}."
            " The plan was edited after it was built.",
        )


def _check_keys(plan: Plan) -> Iterator[Finding]:
    version_1 = plan.meta.get("plan_version") == PLAN_VERSION_1
    for key in _REQUIRED_KEYS_1 if version_1 else REQUIRED_KEYS:
        if key not in plan.meta:
            yield Finding(code="keys", text=f"The metadata lacks {key}.")


def _check_arrays(plan: Plan) -> Iterator[Finding]:
    rows, stages, weights = plan.anchor_indices, plan.stage_ids, plan.weights
    if len(rows) == 0:
        yield Finding(code="anchors", text="The plan has no anchor.")
        return
    if not np.isfinite(weights).all():
        yield Finding(code="weights", text="A weight is not finite.")
    elif (weights < 0).any():
        yield Finding(code="weights", text="A weight is negative.")
    elif not weights.any():
        yield Finding(code="weights", text="All weights are zero.")
    length = plan.meta.get("dataset_len")
    if isinstance(length, int) and (int(rows.min()) < 0 or int(rows.max()) >= length):
        yield Finding(
            code="range",
            text=f"Anchors reach from row {int(rows.min())} to {int(rows.max())}; the dataset has"
            f" {length} rows.",
        )
    steps = np.diff(rows)
    if (steps < 0).any():
        yield Finding(code="order", text="Anchors are not in ascending order.")
    if len(np.unique(rows)) != len(rows):
        yield Finding(code="unique", text="An anchor occurs more than once.")
    num_stages = _dig(plan.meta, "stage_strategy", "num_stages_K")
    if int(stages.min()) < 0 or (isinstance(num_stages, int) and int(stages.max()) >= num_stages):
        yield Finding(
            code="stages",
            text=f"Stage ids reach from {int(stages.min())} to {int(stages.max())}; the plan has"
            f" {num_stages} stages.",
        )


def _dig(value: object, *keys: str) -> Any:
    for key in keys:
        if not isinstance(value, Mapping):
            return None
        value = value.get(key)
    return value


def _check_summary(plan: Plan) -> Iterator[Finding]:
    """Recorded figures against recomputed ones; a figure a version 1 plan lacks is not missed."""
    summary = plan.meta.get("summary")
    if not isinstance(summary, Mapping):
        if plan.meta.get("plan_version") != PLAN_VERSION_1:
            yield Finding(code="summary", text="The metadata's summary is not an object.")
        return
    figures = compute_figures(plan.weights)
    num_stages = _dig(plan.meta, "stage_strategy", "num_stages_K")
    least = num_stages if isinstance(num_stages, int) and num_stages < 1 << 20 else 0
    recomputed: dict[tuple[str, ...], Any] = {
        ("num_anchors",): len(plan.weights),
        ("stage_counts",): np.bincount(plan.stage_ids, minlength=least).tolist(),
        ("weight_stats", "min"): figures.minimum,
        ("weight_stats", "median"): figures.median,
        ("weight_stats", "max"): figures.maximum,
        ("ESS_reference",): figures.ess,
    }
    version_1 = plan.meta.get("plan_version") == PLAN_VERSION_1
    for keys, value in recomputed.items():
        recorded = _dig(summary, *keys)
        if version_1 and (recorded is None or _is_close(recorded, value)):
            continue
        if recorded != value:
            name = ".".join(keys)
            yield Finding(
                code="summary", text=f"summary.{name} is {recorded!r}, recomputed it is {value!r}."
            )


def _is_close(recorded: object, value: object) -> bool:
    """Version 1 computed its figures in another arithmetic; they need to agree to six digits."""
    if isinstance(value, float) and isinstance(recorded, int | float):
        return abs(recorded - value) <= 1e-6 * abs(value)
    return isinstance(value, list) and isinstance(recorded, dict | list)


def _check_fingerprint(
    plan: Plan, fingerprint: str, episode_digests: Mapping[int, str] | None
) -> Iterator[Finding]:
    recorded = plan.meta.get("dataset_fingerprint")
    if recorded in (None, fingerprint) or plan.meta.get("plan_version") == PLAN_VERSION_1:
        return
    changed = find_changed_episodes(plan, episode_digests) if episode_digests else None
    names = f" Changed episodes: {name_some(np.array(changed))}." if changed else ""
    yield Finding(
        code="fingerprint",
        text=f"Sampling plan dataset_fingerprint mismatch: the plan was built from {recorded}, the"
        f" dataset is {fingerprint}.{names}",
    )


def _check_against_columns(plan: Plan, columns: FrameColumns) -> Iterator[Finding]:
    length = plan.meta.get("dataset_len")
    if length != columns.num_frames:
        yield Finding(
            code="dataset_len",
            text=f"Sampling plan dataset_len mismatch: the plan has {length}, the dataset"
            f" {columns.num_frames}.",
        )
        return
    table = split_episodes(columns)
    rows = plan.anchor_indices
    if len(rows) == 0 or int(rows.min()) < 0 or int(rows.max()) >= columns.num_frames:
        return
    positions = np.searchsorted(np.sort(table.starts), rows, side="right") - 1
    yield from _check_episodes_keep(plan, table, positions)
    yield from _check_valid_starts(plan, table, positions)


def _check_episodes_keep(plan: Plan, table: EpisodeTable, positions: IntArray) -> Iterator[Finding]:
    kept = plan.meta.get("episodes_keep")
    if not isinstance(kept, list) or not all(isinstance(episode, int) for episode in kept):
        yield Finding(code="episodes", text="episodes_keep is not a list of episode ids.")
        return
    absent = sorted(set(kept) - set(table.ids.tolist()))
    if absent:
        yield Finding(code="episodes", text=f"Kept episodes are not in the dataset: {absent[:10]}.")
    outside = sorted(set(np.unique(table.ids[positions]).tolist()) - set(kept))
    if outside:
        yield Finding(
            code="episodes", text=f"Anchors lie in episodes that are not kept: {outside[:10]}."
        )


def _check_valid_starts(plan: Plan, table: EpisodeTable, positions: IntArray) -> Iterator[Finding]:
    horizon = plan.meta.get("action_horizon_H")
    tail_keep = _dig(plan.meta, "valid_start_rule", "tail_keep")
    if not isinstance(horizon, int) or not 1 <= horizon < 1 << 40:
        yield Finding(code="valid_start", text=f"action_horizon_H is {horizon!r}.")
        return
    tail_keep = clamp_tail_keep(tail_keep, horizon) if isinstance(tail_keep, int) else 0
    frames = plan.anchor_indices - table.starts[positions]
    valid = count_valid_starts(table.lengths, horizon, tail_keep)
    bad = np.flatnonzero(frames >= valid[positions])
    if len(bad):
        row = int(plan.anchor_indices[bad[0]])
        yield Finding(
            code="valid_start",
            text=f"{len(bad)} anchors are not on valid starts, the first at row {row} (episode"
            f" {int(table.ids[positions[bad[0]]])}, frame {int(frames[bad[0]])}).",
        )
