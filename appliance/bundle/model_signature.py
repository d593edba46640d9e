"""The OpenSSF model signature over a bundle: what ``model_signing verify key`` reads.

An in-toto statement whose predicate lists every file with its SHA-256, in a Sigstore bundle; the
subject's digest is the SHA-256 of all the digests in the order of the list. Written here without
that library, so that signing needs no more than the core installation. Format: the OpenSSF Model
Signing specification, predicate ``https://model_signing/signature/v1.0``, method ``files``.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath

from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.keys import SigningKey
from appliance.bundle.public_keys import PublicKey
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.statement import STATEMENT_TYPE, encode_statement
from appliance.digest import sha256_bytes

PREDICATE_TYPE = "https://model_signing/signature/v1.0"


def model_key_hint(key: PublicKey) -> str:
    """The key's name in a model signature: the SHA-256 of its PEM text."""
    return sha256_bytes(key.pem)


def sign_model(
    digests: Mapping[str, str], ignored: Sequence[str], name: str, key: SigningKey
) -> bytes:
    """The bytes of the signature file over ``digests`` (SHA-256 by path in the folder).

    ``ignored`` are paths in the folder that the signature does not cover, itself among them.
    """
    # In the order of path objects, which compares part by part, as the reference tool sorts.
    names = sorted(digests, key=PurePosixPath)
    root = hashlib.sha256(b"".join(bytes.fromhex(digests[path]) for path in names)).hexdigest()
    statement = {
        "_type": STATEMENT_TYPE,
        "subject": [{"name": name, "digest": {"sha256": root}}],
        "predicateType": PREDICATE_TYPE,
        "predicate": {
            "serialization": {
                "method": "files",
                "hash_type": "sha256",
                "allow_symlinks": False,
                "ignore_paths": sorted(ignored),
            },
            "resources": [
                {"name": path, "algorithm": "sha256", "digest": digests[path]} for path in names
            ],
        },
    }
    envelope = sign_envelope(encode_statement(statement), IN_TOTO_PAYLOAD_TYPE, key)
    return encode_attestation(envelope, hint=model_key_hint(key.public))
