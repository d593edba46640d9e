"""A reviewer's countersignature: a SLSA verification summary (VSA) over a bundle, kept beside it.

A bundle is never changed: whoever has checked it, or replayed it, signs a second statement whose
subject is the bundle's root attestation and its content digest. The file lies next to the bundle,
``BUNDLE.KEY.vsa.sigstore.json``, and speaks for the folder and for its archive alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from appliance.bundle.bounds import MAX_ATTESTATION_BYTES
from appliance.bundle.dsse import (
    IN_TOTO_PAYLOAD_TYPE,
    Envelope,
    EnvelopeError,
    is_signed_by,
    sign_envelope,
)
from appliance.bundle.findings import Countersignature, Finding, warning
from appliance.bundle.inventory import read_regular_file
from appliance.bundle.keys import SigningKey
from appliance.bundle.layout import ATTESTATION_FILE, CONTENT, show_name
from appliance.bundle.public_keys import PublicKey
from appliance.bundle.sigstore import decode_attestation, encode_attestation
from appliance.bundle.statement import (
    STATEMENT_TYPE,
    StatementError,
    decode_statement,
    digest_set,
    encode_statement,
)

PREDICATE_TYPE = "https://slsa.dev/verification_summary/v1"
VERIFIER_ID = "urn:plan-star-appliance:verifier:local-key:v1"
POLICY_URI = "urn:plan-star-appliance:policy:verify:v1"
REPLAY_FIELD = "urn:plan-star-appliance:replay:v1"
SUFFIX = ".vsa.sigstore.json"
SHORT_KEY_ID = 16

Result = Literal["PASSED", "FAILED"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """A countersignature that was read; nothing about it is verified by this."""

    envelope: Envelope
    attestation_sha256: str
    content_digest: Mapping[str, str]
    result: str
    levels: tuple[str, ...]
    verified_on: str | None
    replay: Mapping[str, Any] | None

    @property
    def key_id(self) -> str:
        """The key its signature names."""
        return self.envelope.signatures[0].key_id


def sign_summary(
    *,
    attestation_sha256: str,
    content_digest: str,
    result: Result,
    levels: Sequence[str],
    verified_on: str,
    version: str,
    key: SigningKey,
    replay: Mapping[str, Any] | None = None,
) -> bytes:
    """The bytes of a countersignature.

    ``attestation_sha256`` is the digest of the bundle's root attestation file; ``levels`` are those
    that were checked; ``replay`` is the verdict of a replay with its evidence. Raises ValueError
    for a value that JSON cannot hold.
    """
    root = {"name": ATTESTATION_FILE, "digest": {"sha256": attestation_sha256}}
    predicate: dict[str, Any] = {
        "verifier": {"id": VERIFIER_ID, "version": {"plan-star-appliance": version}},
        "timeVerified": verified_on,
        "resourceUri": f"urn:plan-star-appliance:bundle:{content_digest}",
        "policy": {"uri": POLICY_URI},
        "inputAttestations": [{"uri": ATTESTATION_FILE, "digest": root["digest"]}],
        "verificationResult": result,
        "verifiedLevels": [f"PLAN_STAR_{level}" for level in levels],
        "slsaVersion": "1.1",
    }
    if replay is not None:
        predicate[REPLAY_FIELD] = dict(replay)
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [root, {"name": CONTENT, "digest": digest_set(content_digest)}],
        "predicateType": PREDICATE_TYPE,
        "predicate": predicate,
    }
    envelope = sign_envelope(encode_statement(statement), IN_TOTO_PAYLOAD_TYPE, key)
    return encode_attestation(envelope)


def read_summary(data: bytes) -> Summary:
    """The countersignature in a file's bytes. Raises StatementError."""
    try:
        envelope = decode_attestation(data)
    except EnvelopeError as problem:
        raise StatementError(str(problem)) from problem
    statement = decode_statement(envelope, PREDICATE_TYPE, needs_sha256=False)
    predicate, digests = statement.predicate, statement.digest_sets
    root = digests.get(ATTESTATION_FILE, {}).get("sha256")
    levels = predicate.get("verifiedLevels")
    result, moment = predicate.get("verificationResult"), predicate.get("timeVerified")
    if root is None or result not in ("PASSED", "FAILED"):
        raise StatementError("it names no root attestation or no result")
    replay = predicate.get(REPLAY_FIELD)
    return Summary(
        envelope=envelope,
        attestation_sha256=root,
        content_digest=digests.get(CONTENT, {}),
        result=result,
        levels=tuple(
            level.removeprefix("PLAN_STAR_")
            for level in (levels if isinstance(levels, list) else [])
            if isinstance(level, str)
        ),
        verified_on=moment if isinstance(moment, str) else None,
        replay=replay if isinstance(replay, Mapping) else None,
    )


def summary_path(bundle: Path, key_id: str) -> Path:
    """Where the countersignature of key ``key_id`` over ``bundle`` lies: next to it."""
    place = bundle.resolve()
    return place.with_name(f"{place.name}.{key_id[:SHORT_KEY_ID]}{SUFFIX}")


def find_summaries(bundle: Path) -> list[Path]:
    """The countersignatures that lie next to ``bundle``, in the order of their names."""
    place = bundle.resolve()
    try:
        names = [path.name for path in place.parent.iterdir()]
    except OSError:
        return []
    head = f"{place.name}."
    return [
        place.with_name(name)
        for name in sorted(names)
        if name.startswith(head)
        and name.endswith(SUFFIX)
        and "." not in name.removeprefix(head).removesuffix(SUFFIX)
    ]


def check_summary(
    path: Path,
    attestation_sha256: str | None,
    content_digest: str | None,
    keys: Mapping[str, PublicKey],
) -> tuple[Countersignature | None, list[Finding]]:
    """What the countersignature in the file ``path`` says, and what is wrong with it.

    A file that is not one over this bundle is a warning: it is not part of the bundle, so the
    bundle stays intact. ``keys`` are those trusted; only with them a signature can be checked.
    """
    shown = show_name(path.name)
    try:
        found = read_summary(read_regular_file(path, MAX_ATTESTATION_BYTES))
    except OSError as problem:
        text = f"cannot be read ({problem.strerror or problem})"
        return None, [warning("countersignature-unreadable", text, shown)]
    except StatementError as problem:
        text = f"is not a countersignature: {problem}"
        return None, [warning("countersignature-malformed", text, shown)]
    expected = {} if content_digest is None else digest_set(content_digest)
    if found.attestation_sha256 != attestation_sha256 or found.content_digest != expected:
        text = "is over another bundle than this one"
        return None, [warning("countersignature-other", text, shown)]
    key = keys.get(found.key_id)
    if key is not None and not is_signed_by(found.envelope, key):
        text = f"its signature is not one of the key {found.key_id}"
        return None, [warning("countersignature-invalid", text, shown)]
    said = Countersignature(
        path=path,
        key_id=found.key_id,
        trusted=key is not None,
        result=found.result,
        levels=found.levels,
        verified_on=found.verified_on,
        replay=found.replay,
    )
    return said, []
