"""R4 and R5 judge the claim that was signed before training, and no other."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.bundle.keys import create_key
from appliance.bundle.preregistration import RECEIPT_PATH, REGISTRATION_PATH, sign_preregistration
from appliance.files import write_atomic, write_json
from appliance.manifest.model import CheckoutPart, Manifest
from appliance.replay.comparison import Setting
from appliance.replay.declared import NOTHING_DECLARED, claim_of_bundle, claim_of_manifest
from appliance.replay.evidence import Evidence
from appliance.replay.levels import Level, LevelStatus
from appliance.replay.places import Places
from appliance.replay.subject import Subject, open_subject
from appliance.replay.verdict import Conclusion, judge
from appliance.stages.bundle import identity_of
from appliance.stages.manifest import read_manifest
from tests.conftest import GOLDEN
from tests.replay.conftest import sign_bundle

WriteManifest = Callable[..., Path]
TRAINED = "2026-01-01T12:00:00Z"
BEFORE, AFTER = "2026-01-01T11:00:00Z", "2026-01-01T13:00:00Z"


@pytest.fixture
def read_claiming(write_manifest: WriteManifest) -> Callable[[str | None], Manifest]:
    """The smoke manifest with a claimed success rate within a margin, or without a claim."""

    def read(margin: str | None) -> Manifest:
        path = write_manifest(name=f"claims-{margin}.yaml")
        if margin is not None:
            claim = f"expect:\n  success_rate: {{value: 0.5, margin: {margin}, alpha: 0.05}}\n"
            text = path.read_text("utf-8").replace("episodes: 2", "episodes: 2000")
            path.write_text(text + claim, "utf-8")
        return read_manifest(path)

    return read


def register(root: Path, manifest: Manifest, moment: str) -> None:
    """Lay out what a bundle holds of a registration of ``manifest``."""
    key = create_key(root / "keys")
    data = sign_preregistration(
        manifest=manifest.as_dict(), lock={}, upstream={}, registered_on=moment, key=key
    )
    write_atomic(root / REGISTRATION_PATH, data)
    write_atomic(root / "public_key.pem", key.public_pem)
    write_json(root / RECEIPT_PATH, {"times": {"started_utc": TRAINED}, "outputs": {}})


def test_the_claim_that_was_registered_is_judged(
    tmp_path: Path, read_claiming: Callable[[str | None], Manifest]
) -> None:
    manifest = read_claiming("0.1")
    register(tmp_path, manifest, BEFORE)
    declared = claim_of_bundle(manifest, manifest.as_dict(), tmp_path)
    assert declared.claim is not None
    assert declared.claim.margin == 0.1
    assert declared == claim_of_manifest(manifest)


@pytest.mark.parametrize(
    ("registered", "moment", "claims", "text"),
    [
        ("0.1", BEFORE, "0.4", "0.5 within 0.4 (alpha 0.05), registered was 0.5 within 0.1"),
        ("0.1", AFTER, "0.1", "registered was nothing"),
        (None, BEFORE, "0.1", "registered was nothing"),
        ("0.1", BEFORE, None, "the manifest says nothing, registered was 0.5 within 0.1"),
    ],
)
def test_a_claim_that_was_not_registered_before_training_is_not_judged(
    tmp_path: Path,
    read_claiming: Callable[[str | None], Manifest],
    registered: str | None,
    moment: str,
    claims: str | None,
    text: str,
) -> None:
    register(tmp_path, read_claiming(registered), moment)
    manifest = read_claiming(claims)
    declared = claim_of_bundle(manifest, manifest.as_dict(), tmp_path)
    assert declared.claim is None
    assert declared.why.startswith("not declared before training: ")
    assert text in declared.why
    evidence = Evidence(reference=None, setting=Setting(same_platform=True))
    evidence.judge_rate(Level.R5, declared, 1000, 2000)
    assert evidence.levels[Level.R5].status is LevelStatus.NOT_TESTED
    assert evidence.levels[Level.R5].reason == declared.why
    verdict = judge(evidence.levels, asked=Level.R5)
    assert verdict.conclusion is Conclusion.INCONCLUSIVE
    assert "not declared before training" in verdict.reason


def test_a_claim_that_was_registered_for_another_evaluation_is_not_judged(
    tmp_path: Path, read_claiming: Callable[[str | None], Manifest]
) -> None:
    """Training comes from the cache with its registration, whatever is evaluated afterwards."""
    declared_for = read_claiming("0.1")
    register(tmp_path, declared_for, BEFORE)
    easier = replace(declared_for.eval, task="stack_blocks_two", episodes=100)
    manifest = replace(declared_for, eval=easier)
    declared = claim_of_bundle(manifest, manifest.as_dict(), tmp_path)
    assert declared.claim is None
    assert declared.why == (
        "not declared before training: the evaluation was registered otherwise"
        " (eval.task, eval.episodes)"
    )


def test_a_claim_counts_when_the_checkout_it_was_registered_for_was_moved(
    tmp_path: Path, read_claiming: Callable[[str | None], Manifest]
) -> None:
    def lies_at(place: str, tree: str) -> Manifest:
        checkout = CheckoutPart(path=place, python=f"{place}/bin/python", tree=tree)
        return replace(manifest, eval=replace(manifest.eval, checkout=checkout))

    manifest = read_claiming("0.1")
    register(tmp_path, lies_at("/old", "a"), BEFORE)
    for moved, is_judged in ((lies_at("/new", "a"), True), (lies_at("/old", "b"), False)):
        declared = claim_of_bundle(moved, moved.as_dict(), tmp_path)
        assert (declared.claim is not None) is is_judged, declared.why


@pytest.mark.parametrize("episodes", [2000, 1000])
def test_a_signed_bundle_is_judged_by_what_was_registered_for_its_own_evaluation(
    original: Path,
    tmp_path: Path,
    read_claiming: Callable[[str | None], Manifest],
    episodes: int,
) -> None:
    manifest = read_claiming("0.1")
    register(tmp_path, replace(manifest, eval=replace(manifest.eval, episodes=episodes)), BEFORE)
    content = tmp_path / "content"
    shutil.copytree(original / "content", content)
    write_json(content / "manifest.json", identity_of(manifest))
    paths = (REGISTRATION_PATH, RECEIPT_PATH)
    observed = {path.removeprefix("observed/"): tmp_path / path for path in paths}
    bundle = sign_bundle(tmp_path, manifest, content, observed=observed)
    with open_subject(bundle, Places(key_dir=tmp_path / "keys")) as subject:
        assert isinstance(subject, Subject), subject
        assert (subject.declared_claim.claim is not None) is (episodes == 2000)


def test_who_claims_nothing_is_told_what_would_be_a_claim(
    tmp_path: Path, read_claiming: Callable[[str | None], Manifest]
) -> None:
    manifest = read_claiming(None)
    assert claim_of_bundle(manifest, manifest.as_dict(), tmp_path).why == NOTHING_DECLARED


def test_of_a_bundle_the_registration_counts_and_of_a_golden_its_manifest(
    original: Path,
) -> None:
    with open_subject(original / "bundle", Places()) as bundle:
        assert isinstance(bundle, Subject)
        assert bundle.declared_claim.claim is None
        assert "not declared before training" in bundle.declared_claim.why
    with open_subject(GOLDEN / "smoke.yaml", Places()) as golden:
        assert isinstance(golden, Subject)
        assert golden.declared_claim.claim is not None
