"""The bundle of a real run, before other people's programs and a reviewer."""

from __future__ import annotations

import base64
import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.in_toto import in_toto_key_id
from appliance.bundle.keys import PUBLIC_KEY_FILE, load_key
from appliance.digest import digest_files, sha256_file
from tests.bundle.other_tools import CHECKS
from tests.conftest import GOLDEN, Appliance
from tests.golden.conftest import Workplace

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

REGISTRATION = "observed/train/preregistration.sigstore.json"


def payload_of(path: Path) -> Any:
    value = json.loads(path.read_bytes())
    envelope = value.get("dsseEnvelope", value)
    return json.loads(base64.b64decode(envelope["payload"]))


@pytest.mark.parametrize("tool", sorted(CHECKS))
def test_other_tools_accept_the_bundle_of_a_run(
    tool: str, smoke: dict[str, Any], workplace: Workplace, tmp_path: Path
) -> None:
    key = workplace.folder / "keys" / PUBLIC_KEY_FILE
    assert CHECKS[tool](Path(smoke["bundle"]), key, tmp_path)


def test_other_tools_refuse_the_bundle_of_a_run_after_a_change(
    smoke: dict[str, Any], workplace: Workplace, tmp_path: Path
) -> None:
    """One change for each tool, all in one copy: each tool looks at its own part."""
    bundle = tmp_path / "bundle"
    shutil.copytree(smoke["bundle"], bundle)
    link_name = f"evaluate.{in_toto_key_id(load_key(workplace.folder / 'keys').public)[:8]}.link"
    (bundle / "attestations" / "in-toto" / link_name).unlink()
    crate = bundle / "ro-crate-metadata.json"
    crate.write_text(crate.read_text("utf-8").replace('"HowToStep"', '"Thing"'))
    bom = bundle / "observed" / "train" / "environment.cdx.json"
    bom.write_text(bom.read_text("utf-8").replace('"library"', '"book"', 1))
    root = bundle / "attestation.sigstore.json"
    text = root.read_text("utf-8")
    key = workplace.folder / "keys" / PUBLIC_KEY_FILE
    for tool in ("model_signing", "in-toto-verify", "roc-validator", "cyclonedx"):
        assert not CHECKS[tool](bundle, key, tmp_path), tool
    start = text.index('"payload":"') + len('"payload":"')
    root.write_text(
        text[: start + 40] + ("A" if text[start + 40] != "A" else "B") + text[start + 41 :]
    )
    assert not CHECKS["openssl"](bundle, key, tmp_path)
    root.write_text(text.replace('"payload":', '"load":'))
    assert not CHECKS["sigstore"](bundle, key, tmp_path)


def test_the_claim_was_signed_before_training_and_is_an_input_of_the_result(
    smoke: dict[str, Any],
) -> None:
    bundle = Path(smoke["bundle"])
    registration = payload_of(bundle / REGISTRATION)
    receipt = json.loads((bundle / "observed/receipts/train.json").read_bytes())
    digest = sha256_file(bundle / REGISTRATION)
    assert registration["predicate"]["registeredOn"][:19] <= receipt["times"]["started_utc"][:19]
    assert set(registration["predicate"]["finished"]) == {"dataset", "plan", "norm_stats"}
    assert receipt["outputs"]["observed/preregistration.sigstore.json"] == digest
    root = payload_of(bundle / "attestation.sigstore.json")["predicate"]["buildDefinition"]
    assert registration["predicate"]["manifest"] == root["externalParameters"]["manifest"]
    declared = [each for each in root["resolvedDependencies"] if each["name"] == "pre-registration"]
    assert [each["digest"] for each in declared] == [{"sha256": digest}]
    link = next((bundle / "attestations" / "in-toto").glob("train.*.link"))
    materials = payload_of(link)["materials"]
    assert materials["train/observed/preregistration.sigstore.json"] == {"sha256": digest}


def test_checkpoints_go_into_the_bundle_when_asked_for_and_stay(
    smoke: dict[str, Any], workplace: Workplace, appliance: Appliance
) -> None:
    """On a copy of the run folder: the other tests look at the bundle without them."""
    shutil.copytree(workplace.folder / "smoke", workplace.folder / "large", symlinks=True)
    asked = ("run", GOLDEN / "smoke.yaml", "--run-dir", workplace.folder / "large", "--no-cache")
    asked += ("--key-dir", workplace.folder / "keys", "--json")
    for options, written in (((), False), (("--with-checkpoints",), True), ((), False)):
        outcome = appliance(*asked, *options)
        assert outcome.code == 0, outcome.err
        result = json.loads(outcome.out)
        assert (result["ran"], result["bundle_written"]) == ([], written)
        assert result["content_digest"] == smoke["content_digest"]
    bundle = Path(result["bundle"])
    receipt = json.loads((bundle / "observed/receipts/train.json").read_bytes())
    made = {name for name in receipt["outputs"] if name.startswith("artifacts/")}
    assert made
    assert digest_files(bundle / "artifacts" / "train") == {
        name.removeprefix("artifacts/"): receipt["outputs"][name] for name in made
    }
    assert appliance("verify", bundle, "--key-dir", workplace.folder / "keys").code == 0


def test_the_bill_of_materials_holds_what_is_installed_here(smoke: dict[str, Any]) -> None:
    import importlib.metadata

    bom = json.loads((Path(smoke["bundle"]) / "observed/train/environment.cdx.json").read_bytes())
    found = {item["name"].lower(): item for item in bom["components"]}
    for name in ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "torch", "lerobot", "numpy"):
        assert found[name]["version"] == importlib.metadata.version(name)
        facts = {
            each["name"].rpartition(":")[2]: each["value"] for each in found[name]["properties"]
        }
        assert int(facts["installed-files"]) > 10
        assert facts["installed-files-digest"].startswith("sha256-tree-v1:")


def test_a_reviewer_packs_sends_unpacks_verifies_and_countersigns(
    smoke: dict[str, Any], workplace: Workplace, tmp_path: Path, appliance: Appliance
) -> None:
    archives = [tmp_path / "a.tar.gz", tmp_path / "b.tar.gz"]
    for archive in archives:
        assert appliance("bundle", "pack", smoke["bundle"], "--output", archive).code == 0
    assert archives[0].read_bytes() == archives[1].read_bytes()
    received = tmp_path / "received"
    assert appliance("bundle", "unpack", archives[0], "--output", received).code == 0
    reviewer = tmp_path / "reviewer"
    signer = workplace.folder / "keys" / PUBLIC_KEY_FILE
    assert appliance("verify", received, "--key-dir", reviewer).code == 22
    done = appliance("countersign", received, "--key", signer, "--key-dir", reviewer)
    assert done.code == 0, done.err
    assert appliance("keys", "trust", signer, "--key-dir", reviewer).code == 0
    digest = smoke["content_digest"]
    outcome = appliance(
        "verify", received, "--key-dir", reviewer, "--content-digest", digest, "--json"
    )
    assert outcome.code == 0, outcome.out
    report = json.loads(outcome.out)
    assert [each["result"] for each in report["countersignatures"]] == ["PASSED"]
    assert report["countersignatures"][0]["trusted"]
