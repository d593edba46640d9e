from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, utils
from hypothesis import given
from hypothesis import strategies as st
from securesystemslib.dsse import Envelope as OtherEnvelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import CryptoSigner, SSlibKey

from appliance.bundle.dsse import (
    IN_TOTO_PAYLOAD_TYPE,
    Envelope,
    EnvelopeError,
    envelope_from_dict,
    envelope_to_dict,
    is_signed_by,
    pre_authentication_encoding,
    sign_envelope,
)
from appliance.bundle.keys import SigningKey
from appliance.bundle.public_keys import describe_public_key
from appliance.bundle.sigstore import decode_attestation, encode_attestation

# The key, payload and signature of the DSSE protocol's own example.
VECTOR_KEY = 97358161215184420915383655311931858321456579547487070936769975997791359926199
VECTOR_TYPE = "http://example.com/HelloWorld"
VECTOR_SIGNATURE = (
    "A3JqsQGtVsJ2O2xqrI5IcnXip5GToJ3F+FnZ+O88SjtR6rDAajabZKciJTfUiHqJPcIAriEGAHTVeCUjW2JIZA=="
)


def make_key(number: int = VECTOR_KEY) -> SigningKey:
    secret = ec.derive_private_key(number, ec.SECP256R1())
    return SigningKey(public=describe_public_key(secret.public_key()), secret=secret)


def other_key(key: SigningKey) -> SSlibKey:
    return SSlibKey.from_crypto(key.secret.public_key(), keyid=key.key_id)


def test_encoding_is_that_of_the_official_vector() -> None:
    assert (
        pre_authentication_encoding(VECTOR_TYPE, b"hello world")
        == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    )


def test_signature_is_that_of_the_official_vector() -> None:
    envelope = sign_envelope(b"hello world", VECTOR_TYPE, make_key())
    r, s = utils.decode_dss_signature(envelope.signatures[0].value)
    assert base64.b64encode(r.to_bytes(32) + s.to_bytes(32)).decode() == VECTOR_SIGNATURE


def test_lengths_count_bytes_not_characters() -> None:
    assert pre_authentication_encoding("ü", "€".encode()) == "DSSEv1 2 ü 3 €".encode()


@given(st.binary(max_size=200), st.text(max_size=20))
def test_reading_what_was_written_gives_the_same_envelope(payload: bytes, kind: str) -> None:
    """``envelope_from_dict(envelope_to_dict(e)) == e``, and the same for the attestation file."""
    envelope = sign_envelope(payload, kind, make_key())
    assert envelope_from_dict(envelope_to_dict(envelope)) == envelope
    assert decode_attestation(encode_attestation(envelope)) == envelope
    assert is_signed_by(envelope, make_key().public)


@given(st.binary(max_size=200))
def test_securesystemslib_accepts_our_envelope_and_we_accept_theirs(payload: bytes) -> None:
    key = make_key()
    ours = envelope_to_dict(sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, key))
    theirs = OtherEnvelope.from_dict(ours)
    assert list(theirs.verify([other_key(key)], 1)) == [key.key_id]
    assert theirs.pae() == pre_authentication_encoding(IN_TOTO_PAYLOAD_TYPE, payload)


def test_we_verify_an_envelope_signed_by_securesystemslib_in_either_half() -> None:
    key = make_key()
    accepted = 0
    for number in range(20):
        envelope = OtherEnvelope(b"%d" % number, IN_TOTO_PAYLOAD_TYPE, {})
        envelope.sign(CryptoSigner(key.secret, other_key(key)))
        read = envelope_from_dict(envelope.to_dict())
        _, s = utils.decode_dss_signature(read.signatures[0].value)
        lower = s <= 0x7FFFFFFF800000007FFFFFFFFFFFFFFFDE737D56D38BCF4279DCE5617E3192A8
        assert is_signed_by(read, key.public) == lower
        accepted += lower
    assert 0 < accepted < 20


def test_securesystemslib_refuses_after_a_change_and_so_do_we() -> None:
    key = make_key()
    value = envelope_to_dict(sign_envelope(b"{}", IN_TOTO_PAYLOAD_TYPE, key))
    value["payload"] = base64.b64encode(b"[]").decode()
    assert not is_signed_by(envelope_from_dict(value), key.public)
    with pytest.raises(VerificationError):
        OtherEnvelope.from_dict(value).verify([other_key(key)], 1)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
def test_openssl_accepts_the_signature_over_the_encoding(tmp_path: Path) -> None:
    key = make_key()
    envelope = sign_envelope(b'{"a":1}', IN_TOTO_PAYLOAD_TYPE, key)
    (tmp_path / "key.pem").write_bytes(key.public_pem)
    (tmp_path / "signature").write_bytes(envelope.signatures[0].value)
    (tmp_path / "signed").write_bytes(envelope.signed_bytes())
    command = ["openssl", "dgst", "-sha256", "-verify", "key.pem", "-signature", "signature"]
    good = subprocess.run([*command, "signed"], cwd=tmp_path, capture_output=True, check=False)
    assert good.stdout == b"Verified OK\n"
    (tmp_path / "signed").write_bytes(envelope.signed_bytes() + b" ")
    bad = subprocess.run([*command, "signed"], cwd=tmp_path, capture_output=True, check=False)
    assert bad.returncode != 0


def test_payload_type_is_under_the_signature() -> None:
    key = make_key()
    envelope = sign_envelope(b"{}", IN_TOTO_PAYLOAD_TYPE, key)
    changed = Envelope(
        payload_type="text/plain", payload=envelope.payload, signatures=envelope.signatures
    )
    assert not is_signed_by(changed, key.public)
    assert not is_signed_by(envelope, make_key(7).public)


@pytest.mark.parametrize(
    "change",
    [
        {"payload": "e30"},
        {"payload": "e31="},
        {"payload": " e30="},
        {"payload": 3},
        {"payload": "é"},
        {"payloadType": None},
        {"payloadType": "\ud800"},
        {"signatures": []},
        {"signatures": {}},
        {"signatures": [None]},
        {"signatures": [{"sig": "AA=="}]},
        {"signatures": [{"sig": "AA==", "keyid": 1}]},
        {"signatures": [{"sig": "!", "keyid": "x"}]},
        {"extra": 1},
    ],
)
def test_envelope_in_any_other_form_is_refused(change: dict[str, Any]) -> None:
    value = envelope_to_dict(sign_envelope(b"{}", IN_TOTO_PAYLOAD_TYPE, make_key()))
    with pytest.raises(EnvelopeError):
        envelope_from_dict({**value, **change})


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: data.replace(b":", b": ", 1),
        lambda data: b" " + data,
        lambda data: b"\xef\xbb\xbf" + data,
        lambda data: data.decode().encode("utf-16"),
        lambda data: data.replace(b"v0.3", b"v0.2"),
        lambda data: data.replace(b'"hint":"', b'"hint":"0'),
        lambda data: data.replace(b',"tlogEntries":[]', b""),
        lambda data: data.replace(b'"tlogEntries":[]', b'"tlogEntries":[],"x":1'),
        lambda data: data.replace(b'"keyid"', b'"keyid":"x","keyid"'),
        lambda data: data.replace(b"application", b"\\u0061pplication", 1),
        lambda _: b"[" * 100_000,
        lambda _: b"\xff",
        lambda _: b"",
        lambda _: b"null",
    ],
)
def test_attestation_in_any_other_spelling_is_refused(spoil: Any) -> None:
    data = encode_attestation(sign_envelope(b"{}", IN_TOTO_PAYLOAD_TYPE, make_key()))
    with pytest.raises(EnvelopeError):
        decode_attestation(spoil(data))


def test_attestation_is_a_sigstore_bundle_that_names_the_key_by_hint() -> None:
    import json

    envelope = sign_envelope(b"{}", IN_TOTO_PAYLOAD_TYPE, make_key())
    value = json.loads(encode_attestation(envelope))
    assert value["mediaType"] == "application/vnd.dev.sigstore.bundle.v0.3+json"
    assert value["verificationMaterial"] == {
        "publicKey": {"hint": make_key().key_id},
        "tlogEntries": [],
    }
    assert set(value) == {"mediaType", "verificationMaterial", "dsseEnvelope"}
