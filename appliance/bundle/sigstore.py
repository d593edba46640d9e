"""The Sigstore bundle, version 0.3, around a DSSE envelope signed with a plain public key.

There is no certificate and no transparency log: the key is named by a hint, and whoever verifies
must have the key already. The file is canonical JSON with a final newline, and only that one
spelling is accepted, so that no byte of it can change unseen. Specification:
sigstore/protobuf-specs, ``sigstore_bundle.proto``.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from appliance.bundle.dsse import Envelope, EnvelopeError, envelope_from_dict, envelope_to_dict
from appliance.digest import canonical_json

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle.v0.3+json"


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
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
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
    if data != expected:
        raise EnvelopeError(
            "it is not written in the canonical form (other fields, order, spacing or key hint)"
        )
    return envelope


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
