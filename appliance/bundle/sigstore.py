"""The Sigstore bundle, version 0.3, around a DSSE envelope signed with a plain public key.

There is no certificate and no transparency log: the key is named by a hint, and whoever verifies
must have the key already. The file is canonical JSON with a final newline, and only that one
spelling is accepted, so that no byte of it can change unseen. So the payload stands at a known
place, and is taken out before anything is parsed. Specification: sigstore/protobuf-specs,
``sigstore_bundle.proto``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from appliance.bundle.bounds import MAX_ENVELOPE_BYTES, parse_json
from appliance.bundle.dsse import (
    Envelope,
    EnvelopeError,
    decode_base64,
    envelope_from_dict,
    envelope_to_dict,
)
from appliance.digest import canonical_json

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"
_BEFORE_PAYLOAD = b'{"dsseEnvelope":{"payload":"'
_OTHER_FORM = "it is not written in the canonical form (other fields, order, spacing or key hint)"


def encode_attestation(envelope: Envelope, *, hint: str | None = None) -> bytes:
    """The file's bytes for an envelope with one signature.

    ``hint`` names the key outside the envelope; it is the signature's key id unless a format has
    its own name for the key.
    """
    return _encode(envelope, hint or envelope.signatures[0].key_id)


def decode_attestation(data: bytes, *, first_form: bool = False) -> Envelope:
    """The envelope in the file's bytes; ``decode_attestation(encode_attestation(e)) == e``.

    Raises EnvelopeError for anything else than exactly what :func:`encode_attestation` writes. With
    ``first_form`` only the form of the first version is read, which left ``tlogEntries`` out.
    """
    frame, payload = _split(data)
    if len(frame) > MAX_ENVELOPE_BYTES:
        raise EnvelopeError(_OTHER_FORM)
    try:
        value = parse_json(frame)
    except ValueError as error:
        raise EnvelopeError("it is not JSON") from error
    if not isinstance(value, Mapping) or value.get("mediaType") != MEDIA_TYPE:
        raise EnvelopeError(f"its mediaType is not {MEDIA_TYPE}")
    envelope = envelope_from_dict(value.get("dsseEnvelope"))
    if len(envelope.signatures) != 1:
        raise EnvelopeError("it does not have exactly one signature")
    try:
        expected = _encode(envelope, envelope.signatures[0].key_id, with_log=not first_form)
    except ValueError as error:
        raise EnvelopeError("it holds text that is not Unicode") from error
    if payload is None or frame != expected:
        raise EnvelopeError(_OTHER_FORM)
    return replace(envelope, payload=decode_base64(payload, "payload"))


def _split(data: bytes) -> tuple[bytes, bytes | None]:
    """The file with an empty payload, and the payload's text; None where it cannot stand."""
    start = len(_BEFORE_PAYLOAD)
    end = data.find(b'"', start)
    if not data.startswith(_BEFORE_PAYLOAD) or end < 0:
        return data, None
    return _BEFORE_PAYLOAD + data[end:], data[start:end]


def _encode(envelope: Envelope, hint: str, *, with_log: bool = True) -> bytes:
    # An empty log is what readers that are strict about the schema ask for.
    material: dict[str, Any] = {"publicKey": {"hint": hint}}
    if with_log:
        material["tlogEntries"] = []
    value = {
        "mediaType": MEDIA_TYPE,
        "verificationMaterial": material,
        "dsseEnvelope": envelope_to_dict(envelope),
    }
    return canonical_json(value) + b"\n"
