"""What a bundle says of its run, and whether its parts say the same.

Only files whose bytes were hashed in the same pass are read (:mod:`appliance.bundle.inventory`).
Everything may be garbage: a value of the wrong type, or a text longer than any there is, counts as
not said. Files are known by their name, wherever a stage has put them below ``content/`` or
``observed/``. Only one is held as a value at a time.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.bundle.bounds import parse_json
from appliance.bundle.findings import Claims, Finding, error
from appliance.bundle.layout import BUNDLE_FILE, CONTENT, OBSERVED, show_name
from appliance.bundle.preregistration import (
    RECEIPT_PATH,
    REGISTRATION_PATH,
    Counterpart,
    check_preregistration,
    check_presence,
    describe_preregistration,
    read_training,
)
from appliance.bundle.public_keys import PublicKey
from appliance.digest import sha256_json

PLAN_META_FILE = "plan_meta.json"
RUN_SUMMARY_FILE = "run_summary.json"
PROVENANCE_FILE = "norm_stats_provenance.json"
LOCK_FILE = "lock.json"
MANIFEST_FILE = "manifest.json"
METRICS_FILE = "metrics.json"
OBSERVED_METRICS_FILE = "_metrics.json"
EPISODES_FILE = "episodes.jsonl"
FACT_FILES = frozenset(
    {
        PLAN_META_FILE,
        RUN_SUMMARY_FILE,
        PROVENANCE_FILE,
        LOCK_FILE,
        MANIFEST_FILE,
        METRICS_FILE,
        OBSERVED_METRICS_FILE,
        EPISODES_FILE,
    }
)
# There is one of each, in one place.
SINGLE_FILES = frozenset({RECEIPT_PATH, REGISTRATION_PATH})

MAX_COUNT = 2**53
MAX_TEXT_LENGTH = 1000
RATE_TOLERANCE = 1e-9


@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    """One thing said in one place, such as the plan's hash in ``run_summary.json``."""

    name: str
    value: str | int
    path: str


def is_fact_file(name: str) -> bool:
    """Whether a file of this bundle path is read for what it says."""
    if name in SINGLE_FILES:
        return True
    top, _, rest = name.partition("/")
    return top in (CONTENT, OBSERVED) and rest.rpartition("/")[2] in FACT_FILES


def check_facts(kept: Mapping[str, bytes], manifest: Mapping[str, Any]) -> list[Finding]:
    """Compare what the files and the signed manifest say; each contradiction is an error."""
    findings: list[Finding] = []
    facts = [*_manifest_facts(manifest)]
    for name in filter(_is_object_file, sorted(kept)):
        try:
            value = parse_json(kept[name])
        except ValueError as problem:
            text = f"is not readable as JSON ({problem})"
            findings.append(error("malformed", text, show_name(name)))
            continue
        facts.extend(_file_facts(name, _mapping(value)))
        if name.endswith("/" + MANIFEST_FILE) and not _agrees(value, manifest):
            text = "says something else than the signed manifest"
            findings.append(error("contradiction", text, show_name(name)))
    findings.extend(_compare(facts))
    for name in sorted(kept):
        if name.endswith("/" + EPISODES_FILE) and is_fact_file(name):
            findings.extend(_check_episodes(name, kept))
    return findings


def check_registrations(
    kept: Mapping[str, bytes],
    digests: Mapping[str, str],
    manifest: Mapping[str, Any],
    key_id: str | None,
    keys: Mapping[str, PublicKey],
) -> Iterator[Finding]:
    """Check what was declared before training against what the bundle says now.

    ``digests`` holds the SHA-256 of every file by bundle path.
    """
    yield from check_presence(manifest, digests)
    bundle = Counterpart(
        manifest=manifest,
        key_id=key_id,
        lock=_find(kept, LOCK_FILE),
        digests=digests,
        training=read_training(kept.get(RECEIPT_PATH)),
    )
    if REGISTRATION_PATH in kept:
        yield from check_preregistration(REGISTRATION_PATH, kept[REGISTRATION_PATH], bundle, keys)


def read_claims(
    kept: Mapping[str, bytes], predicate: Mapping[str, Any], manifest: Mapping[str, Any]
) -> Claims:
    """What the bundle says of its run; whatever is absent or of the wrong type is None."""
    bundle_file = _mapping(_parsed(kept, BUNDLE_FILE))
    metrics = _find(kept, METRICS_FILE) or _find(kept, OBSERVED_METRICS_FILE)
    simulator = {**_mapping(manifest.get("eval")), **_mapping(metrics.get("simulator"))}
    dataset = {
        **_mapping(manifest.get("dataset")),
        **_mapping(_find(kept, LOCK_FILE).get("dataset")),
    }
    times = _mapping(_mapping(predicate.get("runDetails")).get("metadata"))
    levels = bundle_file.get("levels")
    return Claims(
        name=_text(bundle_file.get("name")),
        levels=tuple(filter(_text, levels)) if isinstance(levels, list) else (),
        dataset_repo_id=_text(dataset.get("repo_id")),
        dataset_fingerprint=_text(dataset.get("fingerprint")),
        plan_sha256=_text(_find(kept, PLAN_META_FILE).get("plan_sha256")),
        task=_text(simulator.get("task")),
        embodiment=_text(simulator.get("embodiment")),
        planner=_text(simulator.get("planner")),
        shader=_text(simulator.get("shader")),
        episodes=_count(metrics.get("episodes")),
        successes=_count(metrics.get("successes")),
        success_rate=_fraction(metrics.get("success_rate")),
        success_interval=_interval(metrics.get("wilson_interval")),
        declared=describe_preregistration(
            kept.get(REGISTRATION_PATH, b""), read_training(kept.get(RECEIPT_PATH))
        ),
        started_on=_text(times.get("startedOn")),
        finished_on=_text(times.get("finishedOn")),
    )


def read_manifest(predicate: Mapping[str, Any]) -> Mapping[str, Any]:
    """The normalized manifest in a SLSA predicate; empty when there is none."""
    definition = _mapping(predicate.get("buildDefinition"))
    return _mapping(_mapping(definition.get("externalParameters")).get("manifest"))


def _manifest_facts(manifest: Mapping[str, Any]) -> Iterator[Fact]:
    where = "the signed manifest"
    dataset = _mapping(manifest.get("dataset"))
    yield from _facts(where, dataset, {"repo_id": "repo_id", "fingerprint": "dataset_fingerprint"})
    if "plan" in manifest and manifest["plan"] is None:
        yield Fact(name="plan_sha256", value="none (baseline)", path=where)
    if manifest:
        try:
            yield Fact(name="manifest_sha256", value=sha256_json(manifest), path=where)
        except (ValueError, RecursionError):
            return


def _is_object_file(name: str) -> bool:
    """Whether it is one of the files that hold one JSON object with facts."""
    return is_fact_file(name) and name not in SINGLE_FILES and not name.endswith(EPISODES_FILE)


def _file_facts(path: str, fields: Mapping[str, Any]) -> Iterator[Fact]:
    shared = {
        "plan_sha256": "plan_sha256",
        "repo_id": "repo_id",
        "dataset_fingerprint": "dataset_fingerprint",
    }
    base = path.rpartition("/")[2]
    if base in (PLAN_META_FILE, RUN_SUMMARY_FILE, PROVENANCE_FILE):
        yield from _facts(path, fields, shared)
    elif base == LOCK_FILE:
        renamed = {"repo_id": "repo_id", "fingerprint": "dataset_fingerprint"}
        yield from _facts(path, _mapping(fields.get("dataset")), renamed)
        yield from _facts(path, fields, {"manifest_sha256": "manifest_sha256"})
    elif base in (METRICS_FILE, OBSERVED_METRICS_FILE):
        yield from _facts(path, fields, {"episodes": "episodes", "successes": "successes"})


def _facts(path: str, fields: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[Fact]:
    for field, name in names.items():
        value = _text(fields.get(field)) or _count(fields.get(field))
        if value is not None:
            yield Fact(name=name, value=value, path=path)


def _compare(facts: list[Fact]) -> Iterator[Finding]:
    first: dict[str, Fact] = {}
    for fact in facts:
        known = first.setdefault(fact.name, fact)
        if known.value != fact.value:
            text = (
                f"says {fact.name} is {show_name(str(fact.value))}, but {show_name(known.path)}"
                f" says {show_name(str(known.value))}"
            )
            yield error("contradiction", text, show_name(fact.path))


def _agrees(part: object, whole: object) -> bool:
    try:
        return _is_part_of(part, whole)
    except RecursionError:
        return False


def _is_part_of(part: object, whole: object) -> bool:
    """Whether every value in ``part`` stands at the same place in ``whole``, which may say more."""
    if isinstance(part, Mapping) and isinstance(whole, Mapping):
        return all(key in whole and _is_part_of(part[key], whole[key]) for key in part)
    return part == whole


def _check_episodes(name: str, kept: Mapping[str, bytes]) -> Iterator[Finding]:
    """Count the rows of ``episodes.jsonl`` and compare with the metrics beside it."""
    count = successes = 0
    for line in io.BytesIO(kept[name]):
        count += 1
        try:
            row = _mapping(parse_json(line))
        except ValueError as problem:
            text = f"line {count} is not readable as JSON ({problem})"
            yield error("malformed", text, show_name(name))
            return
        successes += row.get("outcome") == "success" or row.get("success") is True
    metrics_name = name.removesuffix(EPISODES_FILE) + METRICS_FILE
    metrics = _mapping(_parsed(kept, metrics_name))
    counted: list[tuple[str, float, Callable[[object], float | None]]] = [
        ("episodes", count, _count),
        ("successes", successes, _count),
        ("success_rate", successes / count if count else 0.0, _fraction),
    ]
    for field, expected, read in counted:
        said = read(metrics.get(field))
        if said is not None and abs(said - expected) > RATE_TOLERANCE:
            text = f"says {field} is {said}, but {show_name(name)} gives {expected}"
            yield error("contradiction", text, show_name(metrics_name))


def _find(kept: Mapping[str, bytes], base: str) -> Mapping[str, Any]:
    """The first file of this name, ``content/`` before ``observed/``; empty when there is none."""
    for name in sorted(kept):
        if name.rpartition("/")[2] == base and is_fact_file(name):
            value = _mapping(_parsed(kept, name))
            if value:
                return value
    return {}


def _parsed(kept: Mapping[str, bytes], name: str) -> Any:
    try:
        return parse_json(kept.get(name, b"null"))
    except ValueError:
        return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and 0 < len(value) <= MAX_TEXT_LENGTH else None


def _count(value: object) -> int | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and isinstance(value, int) and 0 <= value < MAX_COUNT else None


def _fraction(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    if not (0 <= value <= 1) or math.isnan(value):
        return None
    return float(value)


def _interval(value: object) -> tuple[float, float] | None:
    fields = _mapping(value)
    low, high = _fraction(fields.get("low")), _fraction(fields.get("high"))
    return None if low is None or high is None else (low, high)
