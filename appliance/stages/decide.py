"""Decide, for each stage in order, whether it must run: the one place `run` and `explain` share.

A stage's key is the digest of everything that decides its result: the stage's version, its part of
the manifest, the dataset's facts, the content digests of its upstream stages, and the environment.
The key of a stage is known only when its upstream stages are finished.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any

from appliance.manifest.difference import changed_fields
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.stages.cache import StageCache
from appliance.stages.definition import Stage
from appliance.stages.environment import locked_environment_parts
from appliance.stages.receipt import Receipt, find_damage, read_receipt, stage_key
from appliance.stages.run_folder import RunFolder


class Action(Enum):
    """What will happen to a stage."""

    DONE = "done"
    CACHED = "cached"
    RUN = "run"
    CONTINUE = "continue"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """One field that differs from the result now in the run folder."""

    path: str
    old: Any
    new: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What will happen to one stage, and why.

    ``key`` is None when the stage waits for an upstream stage that has to run first.
    """

    stage: str
    action: Action
    key: str | None = None
    key_parts: Mapping[str, Any] = field(default_factory=dict)
    receipt: Receipt | None = None
    changes: tuple[Change, ...] = ()
    waits_for: tuple[str, ...] = ()
    damage: tuple[str, ...] = ()


def build_key_parts(
    stage: Stage, manifest: Manifest, lock: Lock, upstream: Mapping[str, str]
) -> dict[str, Any]:
    """Everything that decides the result of ``stage``; ``upstream`` holds content digests."""
    parts = dict(stage.manifest_part(manifest))
    return {
        "stage": stage.name,
        "stage_version": stage.version,
        "manifest": parts,
        "dataset": {name: lock.dataset[name] for name in ("fingerprint", "media")},
        "files": {key: value for key, value in lock.files.items() if _takes(parts, key)},
        "inputs": dict(sorted(upstream.items())),
        "environment": locked_environment_parts(
            lock, stage.rooms, stage.packages, result_runtime(manifest)
        ),
    }


def decide_stage(
    stage: Stage,
    manifest: Manifest,
    lock: Lock,
    upstream: Mapping[str, str],
    *,
    folder: RunFolder,
    cache: StageCache,
    previous: Receipt | None,
) -> Decision:
    """Decide one stage whose upstream stages are all finished."""
    key_parts = build_key_parts(stage, manifest, lock, upstream)
    key = stage_key(key_parts)
    place = folder.stage_dir(stage.name, key)
    receipt = read_receipt(place)
    changes = changes_since(previous, key_parts)
    base = Decision(
        stage=stage.name, action=Action.RUN, key=key, key_parts=key_parts, changes=changes
    )
    if receipt is not None and receipt.key == key:
        damage = tuple(find_damage(place, receipt))
        if not damage:
            return replace(base, action=Action.DONE, receipt=receipt)
        return replace(base, damage=damage)
    if cache.holds(stage.name, key):
        return replace(base, action=Action.CACHED)
    return replace(base, action=Action.CONTINUE if place.is_dir() else Action.RUN)


def decide_chain(
    stages: Sequence[Stage],
    manifest: Manifest,
    lock: Lock,
    *,
    folder: RunFolder,
    cache: StageCache,
) -> list[Decision]:
    """Decide every stage without running anything; for `explain`.

    A stage behind one that has to run is UNKNOWN: whether it runs depends on the bytes its upstream
    will write. Its own changed fields are named all the same.
    """
    previous = read_previous(folder)
    finished: dict[str, str] = {}
    decisions: list[Decision] = []
    for stage in stages:
        waits_for = tuple(name for name in stage.upstream if name not in finished)
        if waits_for:
            decisions.append(
                _decide_waiting(
                    stage,
                    manifest,
                    lock,
                    finished,
                    old=previous.get(stage.name),
                    waits_for=waits_for,
                )
            )
            continue
        upstream = {name: finished[name] for name in stage.upstream}
        decision = decide_stage(
            stage,
            manifest,
            lock,
            upstream,
            folder=folder,
            cache=cache,
            previous=previous.get(stage.name),
        )
        if decision.receipt is not None:
            finished[stage.name] = decision.receipt.content_digest
        elif decision.action is Action.CACHED and decision.key is not None:
            cached = cache.read(stage.name, decision.key)
            if cached is not None:
                finished[stage.name] = cached.content_digest
        decisions.append(decision)
    return decisions


def read_previous(folder: RunFolder) -> dict[str, Receipt]:
    """The receipts of the stages that make up the present result of a run folder."""
    found: dict[str, Receipt] = {}
    for stage, place in folder.stage_places().items():
        receipt = read_receipt(place)
        if receipt is not None:
            found[stage] = receipt
    return found


def changes_since(previous: Receipt | None, key_parts: Mapping[str, Any]) -> tuple[Change, ...]:
    """Which fields differ from those of ``previous``; none when there is no previous result."""
    if previous is None:
        return ()
    return tuple(
        Change(path=path, old=old, new=new)
        for path, old, new in changed_fields(previous.key_parts, key_parts)
    )


def _decide_waiting(
    stage: Stage,
    manifest: Manifest,
    lock: Lock,
    finished: Mapping[str, str],
    *,
    old: Receipt | None,
    waits_for: tuple[str, ...],
) -> Decision:
    known = {name: finished[name] for name in stage.upstream if name in finished}
    key_parts = build_key_parts(stage, manifest, lock, known)
    changes = tuple(
        change
        for change in changes_since(old, key_parts)
        if change.path.removeprefix("inputs.") not in waits_for
    )
    action = Action.RUN if changes or old is None else Action.UNKNOWN
    return Decision(stage=stage.name, action=action, changes=changes, waits_for=waits_for)


def _takes(parts: Mapping[str, Any], key: str) -> bool:
    """Whether the file named by the manifest's ``key`` belongs to a stage with these parts."""
    value: Any = parts
    for step in key.split(".")[:-1]:
        value = value.get(step) if isinstance(value, Mapping) else None
    return isinstance(value, Mapping)


def result_runtime(manifest: Manifest) -> dict[str, Any]:
    """The part of ``runtime`` that decides results; which engine runs a stage is none of it."""
    runtime = manifest.as_dict()["runtime"]
    return {name: runtime[name] for name in ("cpu_threads", "cpu_max_isa", "gpus")}
