from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.describe import format_report
from appliance.bundle.findings import VerifyReport
from appliance.bundle.keys import load_or_create_key
from appliance.bundle.preregistration import read_preregistration, sign_preregistration
from appliance.bundle.statement import StatementError
from appliance.bundle.verify import verify_bundle
from appliance.digest import sha256_json
from tests.bundle.sample import LOCK, MANIFEST, REGISTRATION, make_bundle, observed_files

PATH = f"observed/{REGISTRATION}"


def with_margin(margin: float) -> dict[str, Any]:
    claim = {"value": 0.75, "margin": margin, "alpha": 0.05}
    return {**MANIFEST, "expect": {"success_rate": claim}}


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
    expected = "success rate 0.75 within 0.2 (alpha 0.05), on 2026-01-01T01:59:00Z, before training"
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
    assert "otherwise before training" in report.findings[0].message


def test_what_does_not_concern_the_claim_may_change(tmp_path: Path) -> None:
    """Golden digests are added to a manifest after its first run."""
    expect = {**MANIFEST["expect"], "plan_sha256": "00" * 32}
    make_bundle(tmp_path, declared={**MANIFEST, "expect": expect})
    report = verify_bundle(tmp_path / "bundle", key_dir=tmp_path / "keys")
    assert report.findings == ()


def put(tmp_path: Path, data: bytes) -> VerifyReport:
    """The check of a bundle that was signed with these bytes as its registration."""
    make_bundle(tmp_path, observed={**observed_files(), REGISTRATION: data})
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
