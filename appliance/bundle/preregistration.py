"""What was declared before training: the manifest with its claim, signed before the work starts.

The chain signs it and lays it into the training stage's folder before it starts that stage, so it
is an input of the trained result: it is listed in the stage's receipt, travels with the result, and
is a dependency in the bundle's provenance. A claim that was widened afterwards no longer agrees
with it. The time in it is the machine's own; a local key cannot prove it to others.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from appliance.bundle.dsse import (
    IN_TOTO_PAYLOAD_TYPE,
    Envelope,
    EnvelopeError,
    is_signed_by,
    sign_envelope,
)
from appliance.bundle.findings import Finding, error, warning
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import show_name
from appliance.bundle.public_keys import PublicKey
from appliance.bundle.sigstore import decode_attestation, encode_attestation
from appliance.bundle.statement import (
    STATEMENT_TYPE,
    StatementError,
    decode_statement,
    encode_statement,
)
from appliance.digest import sha256_json

PREDICATE_TYPE = "urn:plan-star-appliance:pre-registration:v1"
PREREGISTRATION_FILE = "preregistration.sigstore.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Preregistration:
    """A registration that was read; ``manifest`` is the normalized one, with its claim."""

    envelope: Envelope
    manifest: Mapping[str, Any]
    registered_on: str | None

    @property
    def key_id(self) -> str:
        """The key its signature names."""
        return self.envelope.signatures[0].key_id


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
    return Preregistration(
        envelope=envelope,
        manifest=manifest,
        registered_on=moment if isinstance(moment, str) else None,
    )


def check_preregistration(
    name: str,
    data: bytes,
    manifest: Mapping[str, Any],
    key_id: str | None,
    keys: Mapping[str, PublicKey],
) -> Iterator[Finding]:
    """Whether the registration at ``name`` holds, and whether ``manifest`` still says the same.

    ``key_id`` signed the bundle; ``keys`` are those whose signatures can be checked.
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
    elif found.key_id != key_id:
        text = f"is signed by another key than the bundle, {found.key_id}"
        yield warning("preregistration-other-key", text, path)
    for part, what in (("expect", "the claim"), ("eval", "the evaluation")):
        before, now = _part(found.manifest, part), _part(manifest, part)
        if before != now:
            text = (
                f"{what} was declared otherwise before training: {_show(before)}, now {_show(now)};"
                " the result confirms nothing that was declared beforehand"
            )
            yield warning("declared-otherwise", text, path)


def describe_preregistration(data: bytes) -> str | None:
    """The declared claim and its time on one line for a person; None when it cannot be read."""
    try:
        found = read_preregistration(data)
    except StatementError:
        return None
    claim = _claim(found.manifest)["success_rate"]
    when = f"on {found.registered_on}, before training"
    if not isinstance(claim, Mapping):
        return f"no claim, {when}"
    return (
        f"success rate {claim.get('value')} within {claim.get('margin')}"
        f" (alpha {claim.get('alpha')}), {when}"
    )


def _claim(manifest: Mapping[str, Any]) -> dict[str, Any]:
    expect, evaluation = manifest.get("expect"), manifest.get("eval")
    return {
        "success_rate": expect.get("success_rate") if isinstance(expect, Mapping) else None,
        "episodes": evaluation.get("episodes") if isinstance(evaluation, Mapping) else None,
    }


def _part(manifest: Mapping[str, Any], part: str) -> Any:
    """What is compared: the claimed rate with its margin, or the whole evaluation."""
    return _claim(manifest)["success_rate"] if part == "expect" else manifest.get(part)


def _digest(value: object) -> str | None:
    try:
        return sha256_json(value)
    except (ValueError, RecursionError):
        return None


def _show(value: object) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return show_name(text if len(text) <= 120 else text[:117] + "...")
