"""What was declared before training: the manifest with its claim, signed before the work starts.

The chain signs it and lays it into the training stage's folder before it starts that stage, so it
is an input of the trained result: it is listed in the stage's receipt, travels with the result, and
is a dependency in the bundle's provenance. A claim that was widened afterwards no longer agrees
with it. The time in it is the machine's own; a local key cannot prove it to others. It is compared
with the training's start in the receipt, which the same clock gave, to the second.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from appliance.bundle.bounds import MAX_FACT_FILE_BYTES, parse_json
from appliance.bundle.dsse import (
    IN_TOTO_PAYLOAD_TYPE,
    Envelope,
    EnvelopeError,
    is_signed_by,
    sign_envelope,
)
from appliance.bundle.findings import Finding, error, warning
from appliance.bundle.inventory import read_regular_file
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import CONTENT, OBSERVED, PUBLIC_KEY_FILE, show_name
from appliance.bundle.public_keys import MAX_KEY_FILE_BYTES, PublicKey, parse_public_key
from appliance.bundle.sigstore import decode_attestation, encode_attestation
from appliance.bundle.statement import (
    STATEMENT_TYPE,
    StatementError,
    decode_statement,
    encode_statement,
)
from appliance.digest import sha256_json, tree_digest
from appliance.manifest.difference import checkout_without_place

PREDICATE_TYPE = "urn:plan-star-appliance:pre-registration:v1"
PREREGISTRATION_FILE = "preregistration.sigstore.json"
TRAINING = "train"
REGISTRATION_PATH = f"{OBSERVED}/{TRAINING}/{PREREGISTRATION_FILE}"
RECEIPT_PATH = f"{OBSERVED}/receipts/{TRAINING}.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preregistration:
    """A registration that was read; ``manifest`` is the normalized one, with its claim.

    ``finished`` maps the stages that were finished by then to their content digests.
    """

    envelope: Envelope
    manifest: Mapping[str, Any]
    registered_on: str | None
    lock_sha256: str | None = None
    finished: Mapping[str, str] = field(default_factory=dict)

    @property
    def key_id(self) -> str:
        """The key its signature names."""
        return self.envelope.signatures[0].key_id

    @property
    def claim(self) -> Mapping[str, Any] | None:
        """The success rate that was declared: ``value``, ``margin``, ``alpha``; None when none."""
        claim = _claim(self.manifest)["success_rate"]
        return claim if isinstance(claim, Mapping) else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Training:
    """What the receipt of the training says: its start (RFC 3339), its files' SHA-256.

    Training that was continued counts from its last start, and a result from the cache keeps its
    receipt and its registration, so a true registration is never later than ``started_on``.
    """

    started_on: str | None = None
    outputs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Counterpart:
    """What a bundle itself says of what its registration names.

    ``manifest`` is the signed one, ``key_id`` the bundle's signer, ``digests`` the SHA-256 of its
    files by bundle path, ``lock`` its lock, empty when it has none.
    """

    manifest: Mapping[str, Any]
    key_id: str | None
    lock: Mapping[str, Any]
    digests: Mapping[str, str]
    training: Training


def sign_preregistration(
    *,
    manifest: Mapping[str, Any],
    lock: Mapping[str, Any],
    upstream: Mapping[str, str],
    registered_on: str,
    key: SigningKey,
) -> bytes:
    """The bytes of a signed registration.

    ``manifest`` is normalized and holds the claim (``expect``); ``upstream`` maps the finished
    stages to their content digests; ``registered_on`` is RFC 3339.
    """
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [
            {"name": "manifest", "digest": {"sha256": sha256_json(manifest)}},
            {"name": "lock", "digest": {"sha256": sha256_json(lock)}},
        ],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "manifest": dict(manifest),
            "claim": _claim(manifest),
            "finished": dict(upstream),
            "registeredOn": registered_on,
        },
    }
    envelope = sign_envelope(encode_statement(statement), IN_TOTO_PAYLOAD_TYPE, key)
    return encode_attestation(envelope)


def read_preregistration(data: bytes) -> Preregistration:
    """The registration in a file's bytes; its signature is not looked at. Raises StatementError."""
    try:
        envelope = decode_attestation(data)
    except EnvelopeError as problem:
        raise StatementError(str(problem)) from problem
    statement = decode_statement(envelope, PREDICATE_TYPE)
    manifest, moment = (statement.predicate.get(name) for name in ("manifest", "registeredOn"))
    if not isinstance(manifest, Mapping):
        raise StatementError("it holds no manifest")
    if statement.subjects.get("manifest") != _digest(manifest):
        raise StatementError("its manifest is not its subject")
    finished = statement.predicate.get("finished")
    return Preregistration(
        envelope=envelope,
        manifest=manifest,
        registered_on=moment if isinstance(moment, str) else None,
        lock_sha256=statement.subjects.get("lock"),
        finished={
            stage: digest
            for stage, digest in (finished if isinstance(finished, Mapping) else {}).items()
            if isinstance(digest, str)
        },
    )


def read_training(data: bytes | None) -> Training:
    """What the receipt with these bytes says; nothing when there is none or it is broken."""
    try:
        receipt = parse_json(data or b"null")
    except ValueError:
        return Training()
    if not isinstance(receipt, Mapping):
        return Training()
    times, outputs = receipt.get("times"), receipt.get("outputs")
    start = times.get("started_utc") if isinstance(times, Mapping) else None
    return Training(
        started_on=start if isinstance(start, str) else None,
        outputs=outputs if isinstance(outputs, Mapping) else {},
    )


def find_registration(bundle_dir: Path) -> Preregistration | None:
    """The registration of a bundle that verified as intact: what it declares, and for what.

    None when there is none, when the bundle's own key did not sign it, and when it is not shown to
    be from before training: the training's receipt is missing or says that training had started.
    The bundle is not verified here, nor whether it still says the same.
    """
    try:
        registered = read_regular_file(bundle_dir / REGISTRATION_PATH, MAX_FACT_FILE_BYTES)
        receipt = read_regular_file(bundle_dir / RECEIPT_PATH, MAX_FACT_FILE_BYTES)
        pem = read_regular_file(bundle_dir / PUBLIC_KEY_FILE, MAX_KEY_FILE_BYTES)
        found, key = read_preregistration(registered), parse_public_key(pem)
    except (OSError, ValueError):
        return None
    if found.key_id != key.key_id or not is_signed_by(found.envelope, key):
        return None
    return found if _is_before(found, read_training(receipt)) else None


def evaluation_of(manifest: Mapping[str, Any]) -> Any:
    """A manifest's ``eval``, of a RoboTwin checkout only which one it is and not where it lies."""
    part = manifest.get("eval")
    if not isinstance(part, Mapping) or not isinstance(part.get("checkout"), Mapping):
        return part
    return {**part, "checkout": checkout_without_place(part["checkout"])}


def check_presence(manifest: Mapping[str, Any], digests: Mapping[str, str]) -> Iterator[Finding]:
    """Whether a claim in the signed ``manifest`` was declared before training at all."""
    claim = _claim(manifest)["success_rate"]
    if claim is not None and REGISTRATION_PATH not in digests:
        text = (
            f"is missing: the claim {_show(claim)} was not declared before training, so the result"
            " confirms nothing that was declared beforehand"
        )
        yield warning("preregistration-missing", text, REGISTRATION_PATH)


def check_preregistration(
    name: str, data: bytes, bundle: Counterpart, keys: Mapping[str, PublicKey]
) -> Iterator[Finding]:
    """Whether the registration at ``name`` holds, and whether ``bundle`` still says the same.

    ``keys`` are those whose signatures can be checked.
    """
    path = show_name(name)
    try:
        found = read_preregistration(data)
    except StatementError as problem:
        yield error("preregistration-malformed", f"is not a pre-registration: {problem}", path)
        return
    signer = keys.get(found.key_id)
    if signer is None:
        text = f"is signed by another key than the bundle, {show_name(found.key_id)}"
        yield warning("preregistration-unchecked", text, path)
    elif not is_signed_by(found.envelope, signer):
        yield error("preregistration-invalid", "its signature does not hold", path)
        return
    elif found.key_id != bundle.key_id:
        text = f"is signed by another key than the bundle, {found.key_id}"
        yield warning("preregistration-other-key", text, path)
    yield from _check_time(found, bundle.training, path)
    yield from _check_binding(found, bundle, name)
    for part, what in (("expect", "the claim"), ("eval", "the evaluation")):
        before, now = _part(found.manifest, part), _part(bundle.manifest, part)
        if before != now:
            text = (
                f"{what} was registered otherwise: {_show(before)}, now {_show(now)};"
                " the result confirms nothing that was declared beforehand"
            )
            yield warning("declared-otherwise", text, path)


def describe_preregistration(data: bytes, training: Training) -> str | None:
    """The declared claim and its time on one line for a person; None when it cannot be read."""
    try:
        found = read_preregistration(data)
    except StatementError:
        return None
    when = f"on {_show_time(found.registered_on)}, {_describe_order(found, training)}"
    claim = found.claim
    if claim is None:
        return f"no success rate; the manifest was signed {when}"
    value, margin, alpha = (_show(claim.get(name)) for name in ("value", "margin", "alpha"))
    return f"success rate {value} within {margin} (alpha {alpha}), declared {when}"


def _check_time(found: Preregistration, training: Training, path: str) -> Iterator[Finding]:
    order = _is_before(found, training)
    if order is None:
        text = (
            f"says {_show_time(found.registered_on)}, and {RECEIPT_PATH} does not say when training"
            " started: it is not shown that the claim was declared before"
        )
        yield warning("preregistration-undated", text, path)
    elif not order:
        text = (
            f"is from {_show_time(found.registered_on)}, after training had started on"
            f" {_show_time(training.started_on)}; the result confirms nothing that was declared"
            " beforehand"
        )
        yield warning("preregistration-late", text, path)


def _check_binding(found: Preregistration, bundle: Counterpart, name: str) -> Iterator[Finding]:
    """Whether what was finished, locked and trained then is what the bundle holds."""
    path = show_name(name)
    stages, nothing = _stage_digests(bundle.digests), tree_digest({})
    others = sorted(
        (stage, registered, stages.get(stage, nothing))
        for stage, registered in found.finished.items()
        if stages.get(stage, nothing) != registered
    )
    if others:
        stage, registered, digest = others[0]
        more = f" (and {len(others) - 1} more)" if len(others) > 1 else ""
        text = (
            f"was made for training on other results: {show_name(stage)} was"
            f" {show_name(registered)} then, and is {digest} in this bundle{more}"
        )
        yield error("contradiction", text, path)
    trained_with = bundle.training.outputs.get(f"{OBSERVED}/{PREREGISTRATION_FILE}")
    if bundle.training.outputs and trained_with != bundle.digests.get(name):
        text = f"is not the one that lay there when training ran: {RECEIPT_PATH} lists another"
        yield error("contradiction", text, path)
    if bundle.lock and found.lock_sha256 not in _lock_digests(bundle.lock, found.manifest):
        # No contradiction: a lock is resolved anew by each run, and training may be an older one's.
        text = (
            "was made with another lock than the bundle's: packages, platform or source changed"
            " between training and the end of the run"
        )
        yield warning("preregistration-other-lock", text, path)


def _stage_digests(digests: Mapping[str, str]) -> dict[str, str | None]:
    """The content digest of each stage's result in a bundle; None when a name cannot be hashed."""
    stages: dict[str, dict[str, str]] = {}
    for name, sha256 in digests.items():
        top, _, rest = name.partition("/")
        stage, slash, path = rest.partition("/")
        if top == CONTENT and slash:
            stages.setdefault(stage, {})[path] = sha256
    return {stage: _digest_tree(files) for stage, files in stages.items()}


def _digest_tree(files: Mapping[str, str]) -> str | None:
    try:
        return tree_digest(files)
    except ValueError:
        return None


def _lock_digests(lock: Mapping[str, Any], manifest: Mapping[str, Any]) -> set[str | None]:
    """The lock's digest, as it is and as it would be for the registered manifest."""
    return {_digest(lock), _digest({**lock, "manifest_sha256": _digest(manifest)})}


def _is_before(found: Preregistration, training: Training) -> bool | None:
    """Whether it was signed before training started; None when the times do not say.

    Both times are cut to the second, so equal ones do not contradict it.
    """
    registered, started = _parse_time(found.registered_on), _parse_time(training.started_on)
    return None if registered is None or started is None else registered <= started


def _parse_time(text: str | None) -> float | None:
    """Seconds since 1970 of an RFC 3339 time; None for anything else."""
    try:
        moment = datetime.datetime.fromisoformat(text or "")
        return None if moment.tzinfo is None else moment.astimezone(datetime.UTC).timestamp()
    except (ValueError, OverflowError):  # no time, or none of UTC's years 1 to 9999
        return None


def _describe_order(found: Preregistration, training: Training) -> str:
    start = _show_time(training.started_on)
    return {
        True: f"before training (started on {start})",
        False: f"after training had started (on {start})",
        None: "not shown to be before training",
    }[_is_before(found, training)]


def _show_time(text: str | None) -> str:
    """A time in UTC, to the second."""
    moment = _parse_time(text)
    if moment is None:
        return "an unknown day"
    shown = datetime.datetime.fromtimestamp(int(moment // 1), datetime.UTC)
    return f"{shown:%Y-%m-%dT%H:%M:%SZ}"


def _claim(manifest: Mapping[str, Any]) -> dict[str, Any]:
    expect, evaluation = manifest.get("expect"), manifest.get("eval")
    return {
        "success_rate": expect.get("success_rate") if isinstance(expect, Mapping) else None,
        "episodes": evaluation.get("episodes") if isinstance(evaluation, Mapping) else None,
    }


def _part(manifest: Mapping[str, Any], part: str) -> Any:
    """What is compared: the claimed rate with its margin, or the whole evaluation."""
    return _claim(manifest)["success_rate"] if part == "expect" else evaluation_of(manifest)


def _digest(value: object) -> str | None:
    try:
        return sha256_json(value)
    except (ValueError, RecursionError):
        return None


def _show(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return show_name(text if len(text) <= 120 else text[:117] + "...")
