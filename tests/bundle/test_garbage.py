"""Whatever lies in a bundle's folder, the check ends with findings, never with an exception."""

from __future__ import annotations

import base64
import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.bundle.describe import describe_claims, format_report, report_to_dict
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.facts import FACT_FILES, check_facts, read_claims, read_manifest
from appliance.bundle.findings import VerifyReport
from appliance.bundle.keys import SigningKey, load_key
from appliance.bundle.layout import ATTESTATION_FILE, BUNDLE_FILE, PUBLIC_KEY_FILE
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.verify import verify_bundle

JSON_LEAVES = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(st.characters(), max_size=8)
)
JSON_VALUES = st.recursive(
    JSON_LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
RELAXED = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def check(folder: Path, keys: Path) -> VerifyReport:
    report = verify_bundle(folder, key_dir=keys)
    format_report(report).encode("utf-8")
    json.dumps(report_to_dict(report)).encode("utf-8")
    return report


def spoil(value: Any, path: list[int], new: Any) -> Any:
    """``value`` with the part that ``path`` leads to replaced by ``new``."""
    if not path or not isinstance(value, dict | list) or not value:
        return new
    if isinstance(value, dict):
        key = sorted(value)[path[0] % len(value)]
        return {**value, key: spoil(value[key], path[1:], new)}
    place = path[0] % len(value)
    return [*value[:place], spoil(value[place], path[1:], new), *value[place + 1 :]]


@RELAXED
@given(
    data=st.binary(max_size=300) | JSON_VALUES.map(lambda value: json.dumps(value).encode()),
    name=st.sampled_from(
        [ATTESTATION_FILE, BUNDLE_FILE, PUBLIC_KEY_FILE, *(f"content/x/{n}" for n in FACT_FILES)]
    ),
)
def test_garbage_in_any_file_that_is_read_is_survived(
    pristine: Path, data: bytes, name: str
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        shutil.copytree(pristine / "bundle", bundle)
        (bundle / name).parent.mkdir(exist_ok=True)
        (bundle / name).write_bytes(data)
        assert check(bundle, pristine / "keys").exit_code == 21


@RELAXED
@given(path=st.lists(st.integers(0, 20), max_size=6), new=JSON_VALUES)
def test_any_spoiled_part_of_a_signed_statement_is_survived(
    pristine: Path, path: list[int], new: Any
) -> None:
    keys = pristine / "keys"
    with tempfile.TemporaryDirectory() as folder:
        bundle = Path(folder) / "bundle"
        shutil.copytree(pristine / "bundle", bundle)
        attestation = bundle / ATTESTATION_FILE
        envelope = json.loads(attestation.read_bytes())["dsseEnvelope"]
        statement = spoil(json.loads(base64.b64decode(envelope["payload"])), path, new)
        attestation.write_bytes(sign_again(statement, load_key(keys)))
        check(bundle, keys)


def sign_again(statement: Any, key: SigningKey) -> bytes:
    payload = json.dumps(statement).encode()
    return encode_attestation(sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, key))


@pytest.mark.parametrize("field", ["format", "content_digest", "levels", "name"])
def test_bundle_file_nested_as_deeply_as_can_be_read_is_survived(
    bundle: Path, pristine: Path, field: str
) -> None:
    value = json.loads((bundle / BUNDLE_FILE).read_bytes())
    for depth in range(880, 1000, 7):
        text = json.dumps({**value, field: "HERE"}).replace('"HERE"', "[" * depth + "]" * depth)
        (bundle / BUNDLE_FILE).write_text(text)
        assert check(bundle, pristine / "keys").exit_code == 21


@RELAXED
@given(
    files=st.dictionaries(st.sampled_from(sorted(FACT_FILES)), JSON_VALUES, min_size=1),
    manifest=st.dictionaries(st.sampled_from(["dataset", "plan", "eval"]), JSON_VALUES),
    predicate=st.dictionaries(st.sampled_from(["buildDefinition", "runDetails"]), JSON_VALUES),
)
def test_any_json_in_signed_files_is_survived(
    files: dict[str, Any], manifest: dict[str, Any], predicate: dict[str, Any]
) -> None:
    kept = {f"content/x/{name}": json.dumps(value).encode() for name, value in files.items()}
    check_facts(kept, manifest)
    describe_claims(read_claims(kept, predicate, manifest))
    read_manifest(predicate)


@pytest.mark.parametrize(
    "payload",
    [b"[" * 200_000, b'{"a":' * 50_000, b"9" * 100_000, b"\xff", b'"\\ud800"', b"{}", b"null"],
)
def test_signed_payload_of_any_kind_is_survived(
    bundle: Path, pristine: Path, payload: bytes
) -> None:
    key = load_key(pristine / "keys")
    envelope = sign_envelope(payload, IN_TOTO_PAYLOAD_TYPE, key)
    (bundle / ATTESTATION_FILE).write_bytes(encode_attestation(envelope))
    assert check(bundle, pristine / "keys").exit_code == 21
