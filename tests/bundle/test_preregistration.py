from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.describe import format_report
from appliance.bundle.facts import check_registrations
from appliance.bundle.findings import VerifyReport
from appliance.bundle.keys import load_or_create_key
from appliance.bundle.preregistration import (
    PREREGISTRATION_FILE,
    Training,
    describe_preregistration,
    find_registration,
    read_preregistration,
    read_training,
    sign_preregistration,
)
from appliance.bundle.statement import StatementError
from appliance.bundle.verify import verify_bundle
from appliance.digest import sha256_json
from tests.bundle.sample import (
    LOCK,
    MANIFEST,
    RECEIPT,
    REGISTRATION,
    content_files,
    make_bundle,
    make_receipt,
    observed_files,
    stage_digest,
)

PATH = f"observed/{REGISTRATION}"
CLAIM = MANIFEST["expect"]["success_rate"]
LATE = "the result confirms nothing"


def with_margin(margin: float) -> dict[str, Any]:
    claim = {"value": 0.75, "margin": margin, "alpha": 0.05}
    return {**MANIFEST, "expect": {"success_rate": claim}}


def registered_claim(bundle: Path) -> Any:
    found = find_registration(bundle)
    return None if found is None else found.claim


def codes(report: VerifyReport) -> list[tuple[str, str | None]]:
    return [(finding.code, finding.path) for finding in report.findings]


def test_registration_reads_back_and_names_manifest_and_lock(tmp_path: Path) -> None:
    data = sign_preregistration(
        manifest=MANIFEST,
        lock=LOCK,
        upstream={"plan": "sha256-tree-v1:ab"},
        registered_on="2026-01-01T00:00:00Z",
        key=load_or_create_key(tmp_path),
    )
    found = read_preregistration(data)
    assert found.manifest == MANIFEST
    assert found.registered_on == "2026-01-01T00:00:00Z"
    statement = json.loads(found.envelope.payload)
    assert statement["subject"] == [
        {"name": "manifest", "digest": {"sha256": sha256_json(MANIFEST)}},
        {"name": "lock", "digest": {"sha256": sha256_json(LOCK)}},
    ]
    assert statement["predicate"]["claim"] == {
        "success_rate": MANIFEST["expect"]["success_rate"],
        "episodes": 4,
    }


def test_verify_says_what_was_declared_and_when(pristine: Path) -> None:
    report = verify_bundle(pristine / "bundle", key_dir=pristine / "keys")
    assert report.findings == ()
    expected = (
        "success rate 0.75 within 0.2 (alpha 0.05), declared on 2026-01-01T01:59:00Z,"
        " before training (started on 2026-01-01T02:00:00Z)"
    )
    assert report.claims.declared == expected
    assert expected in format_report(report)


@pytest.mark.parametrize(
    "declared",
    [
        with_margin(0.1),
        {**MANIFEST, "expect": None},
        {**MANIFEST, "eval": {**MANIFEST["eval"], "episodes": 40}},
    ],
)
def test_claim_that_was_changed_after_training_is_named_though_the_bundle_is_intact(
    tmp_path: Path, declared: dict[str, Any]
) -> None:
    make_bundle(tmp_path, declared=declared)
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.trusted
    assert codes(report) == [("declared-otherwise", PATH)]
    assert "registered otherwise" in report.findings[0].message


def test_what_does_not_concern_the_claim_may_change(tmp_path: Path) -> None:
    """Golden digests are added to a manifest after its first run."""
    expect = {**MANIFEST["expect"], "plan_sha256": "00" * 32}
    make_bundle(tmp_path, declared={**MANIFEST, "expect": expect})
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.findings == ()


def put(tmp_path: Path, data: bytes, receipt: bytes | None = None) -> VerifyReport:
    """The check of a bundle that was signed with these bytes as its registration."""
    receipt = make_receipt(data) if receipt is None else receipt
    make_bundle(tmp_path, observed={**observed_files(), REGISTRATION: data, RECEIPT: receipt})
    return verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")


def registration(key_dir: Path, **changes: Any) -> bytes:
    values: dict[str, Any] = {
        "manifest": MANIFEST,
        "lock": LOCK,
        "upstream": {},
        "registered_on": "2026-01-01T00:00:00Z",
        "key": load_or_create_key(key_dir),
    }
    return sign_preregistration(**{**values, **changes})


def test_registration_by_another_key_is_named(tmp_path: Path) -> None:
    report = put(tmp_path, registration(tmp_path / "other"))
    assert codes(report) == [("preregistration-unchecked", PATH)]
    assert report.trusted


def test_registration_with_a_wrong_signature_is_an_error_even_if_the_root_lists_it(
    tmp_path: Path,
) -> None:
    good = registration(tmp_path / "keys")
    other = registration(tmp_path / "keys", registered_on="2020-01-01T00:00:00Z")
    mark = b'"sig":"'
    start, end = (data.index(mark) + len(mark) for data in (good, other))
    spoiled = other[:end] + good[start : good.index(b'"', start)]
    spoiled += other[other.index(b'"', end) :]
    report = put(tmp_path, spoiled)
    assert codes(report) == [("preregistration-invalid", PATH)]
    assert report.exit_code == 21


@pytest.mark.parametrize("data", [b"", b"null", b"{}", b"\xff", b"[" * 100_000])
def test_registration_that_is_none_is_an_error(tmp_path: Path, data: bytes) -> None:
    report = put(tmp_path, data)
    assert codes(report) == [("preregistration-malformed", PATH)]
    with pytest.raises(StatementError):
        read_preregistration(data)


def test_a_root_statement_is_no_registration(pristine: Path) -> None:
    with pytest.raises(StatementError, match="predicateType"):
        read_preregistration((pristine / "bundle/attestation.sigstore.json").read_bytes())


def test_claim_that_nobody_registered_is_named(tmp_path: Path) -> None:
    make_bundle(tmp_path, observed=observed_files())
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.trusted
    assert codes(report) == [("preregistration-missing", PATH)]
    assert LATE in report.findings[0].message
    assert report.claims.declared is None
    assert registered_claim(tmp_path / "bundle") is None


def test_bundle_without_a_claim_needs_no_registration(tmp_path: Path) -> None:
    silent = {name: value for name, value in MANIFEST.items() if name != "expect"}
    make_bundle(tmp_path, observed=observed_files(), manifest=silent, content=content_files(silent))
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.findings == ()


@pytest.mark.parametrize(
    ("registered_on", "is_late"),
    [
        ("2026-01-01T02:00:00Z", False),
        ("2026-01-01T02:00:01Z", True),
        ("2026-01-01T02:30:00+01:00", False),
        ("2026-01-01T01:30:00-01:00", True),
        ("2030-01-01T00:00:00Z", True),
    ],
)
def test_registration_after_the_start_of_training_is_named_and_claims_nothing(
    tmp_path: Path, registered_on: str, is_late: bool
) -> None:
    make_bundle(tmp_path, registered_on=registered_on)
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.trusted
    assert codes(report) == ([("preregistration-late", PATH)] if is_late else [])
    assert ("before training" in str(report.claims.declared)) is not is_late
    assert ("after training had started" in str(report.claims.declared)) is is_late
    assert registered_claim(tmp_path / "bundle") == (None if is_late else CLAIM)


@pytest.mark.parametrize(
    "receipt",
    [
        b"[]",
        b"{",
        b'{"times": {"started_utc": "yesterday"}}',
        b'{"times": {"started_utc": "2026-01-01T02:00:00"}}',
        b'{"times": {"started_utc": 5}, "outputs": []}',
    ],
)
def test_time_that_the_receipt_does_not_tell_is_not_taken_for_before(
    tmp_path: Path, receipt: bytes
) -> None:
    report = put(tmp_path, registration(tmp_path / "keys"), receipt)
    assert report.trusted
    assert codes(report) == [("preregistration-undated", PATH)]
    assert str(report.claims.declared).endswith("not shown to be before training")
    assert registered_claim(tmp_path / "bundle") is None


@pytest.mark.parametrize("time", ["2026 \x1b[31mRED", "0001-01-01T00:00:00+14:00", "2026-01-01"])
def test_time_in_a_registration_is_one_or_nothing(tmp_path: Path, time: str) -> None:
    data = registration(tmp_path / "keys", registered_on=time)
    training = Training(started_on="2026-01-01T02:00:00+00:00")
    expected = "declared on an unknown day, not shown to be before training"
    assert str(describe_preregistration(data, training)).endswith(expected)
    assert read_training(None) == Training()


def test_registration_made_on_other_results_is_an_error(tmp_path: Path) -> None:
    """What training read was finished, and signed, when the claim was declared."""
    whole = stage_digest(content_files(), "plan")
    good = registration(tmp_path / "keys", upstream={"plan": whole})
    assert put(tmp_path, good).findings == ()
    for upstream in ({"plan": "sha256-tree-v1:" + "0" * 64}, {"plan": whole, "none": whole}):
        report = put(tmp_path, registration(tmp_path / "keys", upstream=upstream))
        assert codes(report) == [("contradiction", PATH)]
        assert "other results" in report.findings[0].message
        assert report.exit_code == 21


@pytest.mark.timeout(60)
def test_registration_that_names_thousands_of_stages_is_one_error_and_found_at_once(
    tmp_path: Path,
) -> None:
    stages = [f"s{number:05}" for number in range(20_000)]
    data = registration(tmp_path / "keys", upstream=dict.fromkeys(stages, "sha256-tree-v1:ab"))
    digests = {f"content/{stage}/file": "ab" * 32 for stage in stages}
    found = list(check_registrations({PATH: data}, digests, {}, None, {}))
    (other,) = (finding for finding in found if finding.code == "contradiction")
    assert "s00000 was sha256-tree-v1:ab then, and is sha256-tree-v1:" in other.message
    assert "(and 19999 more)" in other.message


def test_a_file_of_a_registration_s_name_elsewhere_is_none(tmp_path: Path) -> None:
    make_bundle(tmp_path, content={**content_files(), f"x/{PREREGISTRATION_FILE}": b"nothing"})
    assert verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys").findings == ()


def test_registration_that_training_did_not_see_is_an_error(tmp_path: Path) -> None:
    first = registration(tmp_path / "keys")
    second = registration(tmp_path / "keys", manifest=with_margin(0.2))
    assert put(tmp_path, first).trusted
    other = registration(tmp_path / "keys", registered_on="2025-12-31T00:00:00Z")
    for seen in (other, b"nothing"):
        report = put(tmp_path, second, make_receipt(seen))
        assert codes(report) == [("contradiction", PATH)]
        assert report.exit_code == 21


def test_registration_with_another_lock_is_named_unless_only_the_manifest_changed(
    tmp_path: Path,
) -> None:
    """A run that goes on, or takes its training from the cache, resolves its lock anew."""
    report = put(tmp_path, registration(tmp_path / "keys", lock={**LOCK, "packages": {}}))
    assert report.trusted
    assert codes(report) == [("preregistration-other-lock", PATH)]
    expect = {**MANIFEST["expect"], "plan_sha256": "00" * 32}
    pinned = {**MANIFEST, "expect": expect}
    lock = {**LOCK, "manifest_sha256": sha256_json(pinned)}
    data = registration(tmp_path / "keys", manifest=pinned, lock=lock)
    assert put(tmp_path, data).findings == ()


def test_registered_claim_is_the_registration_s_own_and_only_the_bundle_s_signer_makes_it(
    tmp_path: Path,
) -> None:
    make_bundle(tmp_path, declared=with_margin(0.1))
    assert registered_claim(tmp_path / "bundle") == {**CLAIM, "margin": 0.1}
    make_bundle(tmp_path, declared={**MANIFEST, "expect": None})
    assert registered_claim(tmp_path / "bundle") is None
    put(tmp_path, registration(tmp_path / "other"))
    assert registered_claim(tmp_path / "bundle") is None
    put(tmp_path, b"{}")
    assert registered_claim(tmp_path / "bundle") is None
    assert registered_claim(tmp_path / "nothing") is None
