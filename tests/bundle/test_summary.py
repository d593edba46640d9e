from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from google.protobuf.json_format import ParseDict
from hypothesis import given
from hypothesis import strategies as st
from in_toto_attestation.v1 import statement_pb2
from in_toto_attestation.v1.statement import Statement as OtherStatement

from appliance.bundle.bounds import MAX_ATTESTATION_BYTES
from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, sign_envelope
from appliance.bundle.keys import load_or_create_key
from appliance.bundle.sigstore import encode_attestation
from appliance.bundle.statement import StatementError
from appliance.bundle.summary import (
    SUFFIX,
    check_summary,
    find_summaries,
    read_summary,
    sign_summary,
    summary_path,
)
from appliance.bundle.verify import verify_bundle

CONTENT_DIGEST = "sha256-tree-v1:" + "ab" * 32
ROOT = "cd" * 32


def make(tmp_path: Path, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "attestation_sha256": ROOT,
        "content_digest": CONTENT_DIGEST,
        "result": "PASSED",
        "levels": ["R0", "R2"],
        "verified_on": "2026-01-01T00:00:00Z",
        "version": "1",
        "key": load_or_create_key(tmp_path / "keys"),
    }
    return sign_summary(**{**values, **changes})


def test_what_was_signed_is_what_is_read(tmp_path: Path) -> None:
    data = make(tmp_path, replay={"verdict": "REPRODUCED"})
    assert data == make(tmp_path, replay={"verdict": "REPRODUCED"})
    found = read_summary(data)
    assert (found.attestation_sha256, found.result) == (ROOT, "PASSED")
    assert found.content_digest == {"sha256_tree_v1": "ab" * 32}
    assert found.levels == ("R0", "R2")
    assert found.replay == {"verdict": "REPRODUCED"}


def test_it_is_an_in_toto_statement_with_the_fields_of_a_slsa_summary(tmp_path: Path) -> None:
    from in_toto_attestation.predicates.vsa.v1 import vsa_pb2

    value = json.loads(read_summary(make(tmp_path)).envelope.payload)
    # Refuses unknown fields. SLSA 1.1 has a list of levels and a verifier's version, which this
    # copy of its schema has not.
    known = {name: item for name, item in value["predicate"].items() if name != "verifiedLevels"}
    known["verifier"] = {"id": known["verifier"]["id"]}
    ParseDict(known, vsa_pb2.VerificationSummary())
    other = OtherStatement.copy_from_pb(ParseDict(value, statement_pb2.Statement()))
    other.validate()
    assert value["predicateType"] == "https://slsa.dev/verification_summary/v1"
    needed = {"verifier", "timeVerified", "resourceUri", "policy", "verificationResult"}
    assert needed | {"verifiedLevels"} <= set(value["predicate"])
    assert value["predicate"]["inputAttestations"][0]["digest"] == {"sha256": ROOT}


def test_root_statement_and_registration_are_in_toto_statements_too(pristine: Path) -> None:
    from appliance.bundle.sigstore import decode_attestation

    names = ["attestation.sigstore.json", "observed/train/preregistration.sigstore.json"]
    for name in names:
        envelope = decode_attestation((pristine / "bundle" / name).read_bytes())
        value = json.loads(envelope.payload)
        OtherStatement.copy_from_pb(ParseDict(value, statement_pb2.Statement())).validate()


def test_root_predicate_has_only_fields_of_slsa_provenance(pristine: Path) -> None:
    from in_toto_attestation.predicates.provenance.v1 import provenance_pb2

    from appliance.bundle.sigstore import decode_attestation

    data = (pristine / "bundle" / "attestation.sigstore.json").read_bytes()
    predicate = json.loads(decode_attestation(data).payload)["predicate"]
    found = ParseDict(predicate, provenance_pb2.Provenance())
    assert found.build_definition.build_type == "urn:plan-star-appliance:run:v1"


def check(tmp_path: Path, data: bytes, **changes: Any) -> tuple[Any, list[str]]:
    path = tmp_path / f"b.0000{SUFFIX}"
    path.write_bytes(data)
    key = load_or_create_key(tmp_path / "keys").public
    values: dict[str, Any] = {
        "attestation_sha256": ROOT,
        "content_digest": CONTENT_DIGEST,
        "keys": {key.key_id: key},
    }
    said, findings = check_summary(path, **{**values, **changes})
    return said, [finding.code for finding in findings]


def test_it_counts_only_for_the_very_bundle_and_with_a_holding_signature(tmp_path: Path) -> None:
    data = make(tmp_path)
    said, codes = check(tmp_path, data)
    assert said is not None
    assert (said.trusted, codes) == (True, [])
    said, codes = check(tmp_path, data, keys={})
    assert said is not None
    assert (said.trusted, codes) == (False, [])
    assert check(tmp_path, data, attestation_sha256="00" * 32) == (None, ["countersignature-other"])
    assert check(tmp_path, data, content_digest=None) == (None, ["countersignature-other"])
    forged = make(tmp_path, key=load_or_create_key(tmp_path / "other"))
    mine, theirs = (load_or_create_key(tmp_path / name).key_id for name in ("keys", "other"))
    forged = forged.replace(theirs.encode(), mine.encode())
    assert check(tmp_path, forged) == (None, ["countersignature-invalid"])
    missing = tmp_path / "missing"
    assert check_summary(missing, ROOT, CONTENT_DIGEST, {})[0] is None


@given(data=st.binary(max_size=60) | st.sampled_from([b"null", b"[]", b"{}", b"[" * 99_999]))
def test_garbage_is_named_and_never_raises(tmp_path_factory: Any, data: bytes) -> None:
    folder = tmp_path_factory.getbasetemp()
    assert check(folder, data) == (None, ["countersignature-malformed"])


@pytest.mark.parametrize(
    "edit",
    [
        lambda value: value["predicate"].pop("verificationResult"),
        lambda value: value["predicate"].update(verificationResult="MAYBE"),
        lambda value: value["subject"].pop(0),
        lambda value: value.update(predicateType="https://slsa.dev/provenance/v1"),
        lambda value: value.update(subject="x"),
    ],
)
def test_statement_that_is_no_summary_is_refused(tmp_path: Path, edit: Any) -> None:
    value = json.loads(read_summary(make(tmp_path)).envelope.payload)
    edit(value)
    key = load_or_create_key(tmp_path / "keys")
    envelope = sign_envelope(json.dumps(value).encode(), IN_TOTO_PAYLOAD_TYPE, key)
    with pytest.raises(StatementError):
        read_summary(encode_attestation(envelope))


def test_summaries_lie_beside_their_bundle_and_are_told_from_those_of_others(
    tmp_path: Path,
) -> None:
    mine = summary_path(tmp_path / "run", "ab" * 32)
    for path in (mine, summary_path(tmp_path / "run.tar.gz", "ab" * 32), tmp_path / "run.json"):
        path.write_bytes(b"")
    assert find_summaries(tmp_path / "run") == [mine]
    assert find_summaries(tmp_path / "nothing" / "there") == []


@pytest.mark.timeout(60)
@pytest.mark.parametrize("kind", ["pipe", "link", "folder", "too large"])
def test_what_is_no_plain_file_beside_a_bundle_is_named_and_not_waited_for(
    bundle: Path, pristine: Path, kind: str
) -> None:
    place = bundle.with_name(f"{bundle.name}.aaaa{SUFFIX}")
    if kind == "pipe":
        os.mkfifo(place)
    elif kind == "link":
        place.symlink_to(bundle / "attestation.sigstore.json")
    elif kind == "folder":
        place.mkdir()
    else:
        with place.open("wb") as stream:
            stream.truncate(MAX_ATTESTATION_BYTES + 1)
    report = verify_bundle(bundle, key_dir=pristine / "keys")
    assert report.trusted
    assert [finding.code for finding in report.findings] == ["countersignature-unreadable"]
    assert report.findings[0].path == place.name
