"""What a replay is compared with: the facts of a result, or those recorded beside a manifest.

A golden's expectations lie beside it: ``smoke.yaml`` has ``smoke.expected.json``, text that a
change of the code changes visibly, written by ``appliance replay --record`` and by nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from appliance import __version__
from appliance.errors import ManifestError
from appliance.files import read_json, write_json
from appliance.manifest.difference import ABSENT, FieldChange, changed_fields
from appliance.manifest.lock import Lock
from appliance.manifest.model import Manifest
from appliance.replay.facts import Facts, keep_steps, read_facts
from appliance.replay.results import Result
from appliance.stages.environment import (
    describe_gpus_at_hand,
    describe_platform,
    package_versions,
    source_digests,
)
from appliance.stages.registry import stages_for

FORMAT = "plan-star-expectations-v1"
SUFFIX = ".expected.json"
FIRST_STEPS = 20
STEP_INTERVAL = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What decides bits beside the manifest: package versions and platform; and our own source.

    The source is not part of ``same_platform``: whether changed source changes a result is what a
    replay is for.
    """

    packages: Mapping[str, Any]
    platform: Mapping[str, Any]
    sources: Mapping[str, Any]

    def changes(self, other: Surroundings) -> list[FieldChange]:
        """What differs in packages and platform, by field; what is not known here is left out."""
        changes = changed_fields(self._deciding(), other._deciding())
        return [change for change in changes if change[1] is not ABSENT]

    def _deciding(self) -> dict[str, Any]:
        platform = {name: value for name, value in self.platform.items() if name != "appliance"}
        packages = {name: value for name, value in self.packages.items() if value is not None}
        return {"packages": packages, "platform": platform}


@dataclass(frozen=True, slots=True, kw_only=True)
class Reference:
    """The facts a replay should find again, where they were found, and how long stages took."""

    facts: Facts
    surroundings: Surroundings
    seconds: Mapping[str, float]
    is_recorded: bool

    @property
    def num_steps(self) -> int:
        """How many training steps are among the facts."""
        return len(self.facts.get("train", {}).get("steps", {}))


def describe_surroundings(manifest: Manifest) -> Surroundings:
    """This machine, as far as the stages of ``manifest`` depend on it."""
    stages = stages_for(manifest)
    return Surroundings(
        packages=package_versions({name for stage in stages for name in stage.packages}),
        platform={**describe_platform(), **describe_gpus_at_hand(manifest.runtime.gpus)},
        sources=source_digests({room for stage in stages for room in stage.rooms}),
    )


def surroundings_of(lock: Lock) -> Surroundings:
    """The surroundings that a lock was resolved in."""
    value = lock.to_dict()
    return Surroundings(**{name: value[name] for name in ("packages", "platform", "sources")})


def reference_of(result: Result) -> Reference:
    """A finished result as what a replay is compared with. Raises StorageError."""
    seconds = {name: stage.seconds for name, stage in result.stages.items()}
    lock = result.lock
    return Reference(
        facts=read_facts(result),
        surroundings=Surroundings(
            packages=_mapping(lock.get("packages")),
            platform=_mapping(lock.get("platform")),
            sources=_mapping(lock.get("sources")),
        ),
        seconds={name: value for name, value in seconds.items() if value is not None},
        is_recorded=False,
    )


def expectations_path(manifest_path: Path) -> Path:
    """Where the expectations of a golden manifest lie."""
    return manifest_path.with_name(manifest_path.stem + SUFFIX)


def read_expectations(manifest_path: Path) -> Reference | None:
    """What was recorded for a golden manifest; None when nothing was.

    Raises ManifestError when the file is not one of expectations, StorageError.
    """
    path = expectations_path(manifest_path)
    if not path.is_file():
        return None
    value = read_json(path)
    if not _is_expectations(value):
        raise ManifestError(
            f"{path}: not expectations in the form {FORMAT}. Record them again with `appliance"
            f" replay {manifest_path} --record`."
        )
    recorded = value["recorded"]
    return Reference(
        facts=value["facts"],
        surroundings=Surroundings(
            packages=_mapping(recorded.get("packages")),
            platform=_mapping(recorded.get("platform")),
            sources=_mapping(recorded.get("sources")),
        ),
        seconds={
            name: float(seconds)
            for name, seconds in _mapping(recorded.get("seconds")).items()
            if isinstance(seconds, int | float)
        },
        is_recorded=True,
    )


def _is_expectations(value: Any) -> bool:
    """Whether a JSON value has the form that ``write_expectations`` gives it, stage by stage."""
    if not isinstance(value, Mapping) or value.get("format") != FORMAT:
        return False
    facts = value.get("facts")
    if not isinstance(facts, Mapping) or not isinstance(value.get("recorded"), Mapping):
        return False
    stages = [stage for name, stage in facts.items() if name != "manifest"]
    parts = [part for stage in stages for part in _mapping(stage).values()]
    rows = [
        row
        for stage in stages
        for part in ("steps", "episodes")
        for row in _mapping(_mapping(stage).get(part)).values()
    ]
    return all(
        isinstance(each, Mapping) for each in (facts.get("manifest", {}), *stages, *parts, *rows)
    )


def write_expectations(
    manifest_path: Path, facts: Facts, surroundings: Surroundings, seconds: Mapping[str, float]
) -> Path:
    """Record ``facts`` beside a golden manifest; returns the file. Raises StorageError."""
    path = expectations_path(manifest_path)
    steps = facts.get("train", {}).get("steps", {})
    write_json(
        path,
        {
            "format": FORMAT,
            "recorded": {
                "appliance": __version__,
                "packages": dict(surroundings.packages),
                "platform": dict(surroundings.platform),
                "sources": dict(surroundings.sources),
                "seconds": {name: round(value, 1) for name, value in seconds.items()},
            },
            "facts": keep_steps(facts, choose_steps(map(int, steps))),
        },
    )
    return path


def choose_steps(steps: Iterable[int]) -> list[int]:
    """The steps that are kept: the first ones, one in a hundred, the last."""
    every = sorted(steps)
    kept = {step for step in every if step < FIRST_STEPS or step % STEP_INTERVAL == 0}
    return sorted(kept | set(every[-1:]))


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}
