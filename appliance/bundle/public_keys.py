"""Public keys: ECDSA on P-256 with SHA-256, read from PEM, named, and asked about signatures.

A key is named by the SHA-256 of its DER SubjectPublicKeyInfo. Of the two valid forms of a signature
only the one in the lower half of the order is accepted.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, utils

from appliance.errors import SigningKeyError

MAX_KEY_FILE_BYTES = 64 * 1024

# Order of the P-256 base point, SEC 2 section 2.4.2.
P256_ORDER = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicKey:
    """A public key and its name; ``pem`` is the canonical SubjectPublicKeyInfo PEM."""

    key_id: str
    pem: bytes
    point: ec.EllipticCurvePublicKey = field(repr=False, compare=False)

    def accepts(self, signature: bytes, data: bytes) -> bool:
        """Whether ``signature`` (DER, lower half of the order) is this key's over ``data``."""
        try:
            _, s = utils.decode_dss_signature(signature)
            if s > P256_ORDER // 2:
                return False
            self.point.verify(signature, data, ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            return False
        return True


def load_public_key(path: Path) -> PublicKey:
    """The public key in the PEM file ``path``. Raises SigningKeyError."""
    try:
        with path.open("rb") as stream:
            data = stream.read(MAX_KEY_FILE_BYTES + 1)
        return parse_public_key(data)
    except OSError as error:
        raise SigningKeyError(
            f"{path}: the public key cannot be read ({error.strerror}). Check the path."
        ) from error
    except ValueError as error:
        raise SigningKeyError(
            f"{path}: {error}. Give the signer's ECDSA P-256 public key as a PEM file that begins"
            " with -----BEGIN PUBLIC KEY-----."
        ) from error


def parse_public_key(pem: bytes) -> PublicKey:
    """The P-256 public key in ``pem``. Raises ValueError that says what is wrong with it."""
    if len(pem) > MAX_KEY_FILE_BYTES:
        raise ValueError("too long for a public key")
    if b"PRIVATE KEY-----" in pem:
        raise ValueError("this is a private key, not a public one")
    try:
        point = serialization.load_pem_public_key(pem)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ValueError("not a public key in PEM form") from error
    if not isinstance(point, ec.EllipticCurvePublicKey) or point.curve.name != "secp256r1":
        raise ValueError("not an ECDSA key on the curve P-256")
    return describe_public_key(point)


def describe_public_key(point: ec.EllipticCurvePublicKey) -> PublicKey:
    """``point`` with its name and canonical PEM."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = point.public_bytes(serialization.Encoding.DER, form)
    return PublicKey(
        key_id=hashlib.sha256(der).hexdigest(),
        pem=point.public_bytes(serialization.Encoding.PEM, form),
        point=point,
    )
