"""DSSE: a signed envelope whose signature covers the payload and its type.

DSSE protocol 1.0.2: ``signature = Sign(PAE(type, payload))``. What is read here is strict: base64
in its one canonical form, no unknown fields. So an envelope that was changed at all is either
refused here or no longer fits its signature.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.bundle.keys import SigningKey
from appliance.bundle.public_keys import PublicKey

IN_TOTO_PAYLOAD_TYPE = "application/vnd.in-toto+json"


class EnvelopeError(ValueError):
    """Not an envelope; the text says what is wrong, without a place."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Signature:
    """One signature (DER) and the id of the key that is said to have made it."""

    key_id: str
    value: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Envelope:
    """A payload with its type and signatures; nothing about it is verified yet."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    def signed_bytes(self) -> bytes:
        """What the signatures are over."""
        return pre_authentication_encoding(self.payload_type, self.payload)


def pre_authentication_encoding(payload_type: str, payload: bytes) -> bytes:
    """PAE of the DSSE protocol: ``DSSEv1 SP len SP type SP len SP payload``, lengths in bytes."""
    kind = payload_type.encode("utf-8")
    return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)


def sign_envelope(
    payload: bytes, payload_type: str, key: SigningKey, *, key_id: str | None = None
) -> Envelope:
    """An envelope around ``payload`` with one signature; equal input gives equal bytes.

    ``key_id`` is what the key is called in the envelope, where a format has its own name for it.
    """
    value = key.sign(pre_authentication_encoding(payload_type, payload))
    signature = Signature(key_id=key_id or key.public.key_id, value=value)
    return Envelope(payload_type=payload_type, payload=payload, signatures=(signature,))


def is_signed_by(envelope: Envelope, key: PublicKey) -> bool:
    """Whether one of the signatures is a valid one of ``key``, whatever key id it carries."""
    data = envelope.signed_bytes()
    return any(key.accepts(signature.value, data) for signature in envelope.signatures)


def envelope_to_dict(envelope: Envelope) -> dict[str, Any]:
    """The JSON form; ``envelope_from_dict(envelope_to_dict(e)) == e``."""
    return {
        "payload": _encode(envelope.payload),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"keyid": signature.key_id, "sig": _encode(signature.value)}
            for signature in envelope.signatures
        ],
    }


def envelope_from_dict(value: object) -> Envelope:
    """Read the JSON form strictly. Raises EnvelopeError."""
    fields = _fields(value, "the envelope", {"payload", "payloadType", "signatures"})
    kind, signatures = fields["payloadType"], fields["signatures"]
    if not isinstance(kind, str):
        raise EnvelopeError("payloadType is not text")
    try:
        kind.encode("utf-8")
    except UnicodeEncodeError as error:
        raise EnvelopeError("payloadType is not Unicode") from error
    if not isinstance(signatures, list) or not signatures:
        raise EnvelopeError("signatures is not a list with at least one entry")
    return Envelope(
        payload_type=kind,
        payload=_decode(fields["payload"], "payload"),
        signatures=tuple(_signature_from_dict(signature) for signature in signatures),
    )


def _signature_from_dict(value: object) -> Signature:
    fields = _fields(value, "a signature", {"keyid", "sig"})
    if not isinstance(fields["keyid"], str):
        raise EnvelopeError("keyid is not text")
    return Signature(key_id=fields["keyid"], value=_decode(fields["sig"], "sig"))


def _fields(value: object, what: str, names: set[str]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise EnvelopeError(f"{what} is not a JSON object")
    if set(value) != names:
        raise EnvelopeError(f"{what} does not have exactly the fields {', '.join(sorted(names))}")
    return value


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def decode_base64(value: str | bytes, what: str) -> bytes:
    """The bytes of canonical base64 text. Raises EnvelopeError, which names ``what``."""
    try:
        data = base64.b64decode(value, validate=True)
        text = value if isinstance(value, bytes) else value.encode("ascii")
    except (binascii.Error, ValueError) as error:
        raise EnvelopeError(f"{what} is not base64") from error
    if base64.b64encode(data) != text:
        raise EnvelopeError(f"{what} is not base64 in its canonical form")
    return data


def _decode(value: object, what: str) -> bytes:
    if not isinstance(value, str):
        raise EnvelopeError(f"{what} is not text")
    return decode_base64(value, what)
