"""Programs that know nothing of ours accept a bundle, and refuse it after a change that matters."""

from __future__ import annotations

import base64
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.dsse import IN_TOTO_PAYLOAD_TYPE, envelope_to_dict, sign_envelope
from appliance.bundle.in_toto import in_toto_key_id
from appliance.bundle.keys import PUBLIC_KEY_FILE, SigningKey, load_key, load_or_create_key
from tests.bundle.other_tools import CHECKS

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl")

EVALUATED_CHECKPOINT = "train/artifacts/checkpoints/20/params.bin"


@pytest.mark.parametrize("tool", sorted(CHECKS))
def test_every_tool_accepts_the_untouched_bundle(tool: str, pristine: Path, tmp_path: Path) -> None:
    key = pristine / "keys" / PUBLIC_KEY_FILE
    assert CHECKS[tool](pristine / "bundle", key, tmp_path)


@pytest.mark.parametrize("tool", ["model_signing", "in-toto-verify", "openssl"])
def test_tools_that_check_a_signature_refuse_another_key(
    tool: str, pristine: Path, tmp_path: Path
) -> None:
    load_or_create_key(tmp_path / "other")
    assert not CHECKS[tool](pristine / "bundle", tmp_path / "other" / PUBLIC_KEY_FILE, tmp_path)


def edit_json(path: Path, edit: Callable[[Any], None]) -> None:
    value = json.loads(path.read_bytes())
    edit(value)
    path.write_text(json.dumps(value, sort_keys=True, indent=1))


def edit_payload(path: Path, edit: Callable[[Any], None], key: SigningKey | None = None) -> None:
    """Change what an envelope holds; with a key, sign it again as its owner could."""

    def change(value: Any) -> None:
        envelope = value.get("dsseEnvelope", value)
        statement = json.loads(base64.b64decode(envelope["payload"]))
        edit(statement)
        data = json.dumps(statement).encode()
        envelope["payload"] = base64.b64encode(data).decode()
        if key is not None:
            signed = sign_envelope(
                data, IN_TOTO_PAYLOAD_TYPE, key, key_id=in_toto_key_id(key.public)
            )
            envelope.update(envelope_to_dict(signed))

    edit_json(path, change)


def entity(crate: Any, identity: str) -> Any:
    return next(item for item in crate["@graph"] if item["@id"] == identity)


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(bytes(data))


def link_of(bundle: Path, step: str) -> Path:
    return next((bundle / "attestations" / "in-toto").glob(f"{step}.*.link"))


def other_checkpoint(link: Any) -> None:
    link["materials"][EVALUATED_CHECKPOINT] = {"sha256": "0" * 64}


def without_checkpoint(link: Any) -> None:
    del link["materials"][EVALUATED_CHECKPOINT]


CHANGES: dict[str, tuple[str, Callable[[Path, SigningKey], object]]] = {
    "a result changed": (
        "model_signing",
        lambda bundle, _: flip(bundle / "content/evaluate/metrics.json"),
    ),
    "a log added": (
        "model_signing",
        lambda bundle, _: (bundle / "observed/more.txt").write_bytes(b"x"),
    ),
    "a video removed": (
        "model_signing",
        lambda bundle, _: (bundle / "observed/evaluate/videos/episode0.mp4").unlink(),
    ),
    "the model signature edited": (
        "model_signing",
        lambda bundle, _: edit_payload(
            bundle / "attestations/model.sig", lambda value: value["predicate"].update(x=1)
        ),
    ),
    "a product changed": (
        "in-toto-verify",
        lambda bundle, _: flip(bundle / "content/train/hash_chain.jsonl"),
    ),
    "a product removed": (
        "in-toto-verify",
        lambda bundle, _: (bundle / "content/evaluate/episodes.jsonl").unlink(),
    ),
    "a file beside the products": (
        "in-toto-verify",
        lambda bundle, _: (bundle / "content/extra.json").write_bytes(b"{}"),
    ),
    "the manifest changed": (
        "in-toto-verify",
        lambda bundle, _: flip(bundle / "content/manifest.json"),
    ),
    "a link edited": (
        "in-toto-verify",
        lambda bundle, _: edit_payload(link_of(bundle, "evaluate"), other_checkpoint),
    ),
    "another checkpoint evaluated, signed": (
        "in-toto-verify",
        lambda bundle, key: edit_payload(link_of(bundle, "evaluate"), other_checkpoint, key),
    ),
    "no checkpoint evaluated, signed": (
        "in-toto-verify",
        lambda bundle, key: edit_payload(link_of(bundle, "evaluate"), without_checkpoint, key),
    ),
    "a link removed": ("in-toto-verify", lambda bundle, _: link_of(bundle, "train").unlink()),
    "the statement edited": (
        "openssl",
        lambda bundle, _: edit_payload(
            bundle / "attestation.sigstore.json", lambda value: value["subject"].pop()
        ),
    ),
    "a workflow without tools": (
        "roc-validator",
        lambda bundle, _: edit_json(
            bundle / "ro-crate-metadata.json",
            lambda crate: entity(crate, "content/manifest.json").pop("hasPart"),
        ),
    ),
    "the workflow file gone": (
        "roc-validator",
        lambda bundle, _: (bundle / "content/manifest.json").unlink(),
    ),
    "a digest that is none": (
        "cyclonedx",
        lambda bundle, _: edit_json(
            bundle / "observed/train/environment.cdx.json",
            lambda bom: bom["components"][1]["components"][0]["hashes"][0].update(content="x"),
        ),
    ),
    "a component without a name": (
        "cyclonedx",
        lambda bundle, _: edit_json(
            bundle / "observed/train/environment.cdx.json",
            lambda bom: bom["components"][0].pop("name"),
        ),
    ),
    "an envelope without a payload": (
        "sigstore",
        lambda bundle, _: edit_json(
            bundle / "attestation.sigstore.json",
            lambda value: value["dsseEnvelope"].pop("payload"),
        ),
    ),
    "material of no kind": (
        "sigstore",
        lambda bundle, _: edit_json(
            bundle / "observed/train/preregistration.sigstore.json",
            lambda value: value["verificationMaterial"].pop("publicKey"),
        ),
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_tool_refuses_after_a_change_that_concerns_it(
    change: str, bundle: Path, pristine: Path, tmp_path: Path
) -> None:
    tool, spoil = CHANGES[change]
    key = load_key(pristine / "keys")
    spoil(bundle, key)
    assert not CHECKS[tool](bundle, pristine / "keys" / PUBLIC_KEY_FILE, tmp_path)


def test_the_owner_may_sign_a_link_again_and_in_toto_still_accepts_it(
    bundle: Path, pristine: Path, tmp_path: Path
) -> None:
    """The refusals above are for what the links say, not for how the test signs them."""
    key = load_key(pristine / "keys")
    edit_payload(link_of(bundle, "evaluate"), lambda link: link["byproducts"].update(x="y"), key)
    accepts = CHECKS["in-toto-verify"]
    assert accepts(bundle, pristine / "keys" / PUBLIC_KEY_FILE, tmp_path)


def test_model_signing_signs_what_we_sign(pristine: Path, tmp_path: Path) -> None:
    """The reference tool, given the same key and folder, lists the same files and digests."""
    from model_signing import hashing, signing

    ours = json.loads((pristine / "bundle/attestations/model.sig").read_bytes())
    ignored = ["attestation.sigstore.json", "attestations/model.sig"]
    signing.Config().use_elliptic_key_signer(
        private_key=pristine / "keys" / "signing_key.pem"
    ).set_hashing_config(
        hashing.Config().set_ignored_paths(
            paths=[pristine / "bundle" / name for name in ignored], ignore_git_paths=False
        )
    ).sign(pristine / "bundle", tmp_path / "theirs.sig")
    theirs = json.loads((tmp_path / "theirs.sig").read_bytes())
    assert theirs["verificationMaterial"]["publicKey"] == ours["verificationMaterial"]["publicKey"]
    payloads = [
        json.loads(base64.b64decode(value["dsseEnvelope"]["payload"])) for value in (ours, theirs)
    ]
    assert payloads[0]["predicate"]["resources"] == payloads[1]["predicate"]["resources"]
    assert payloads[0]["subject"][0]["digest"] == payloads[1]["subject"][0]["digest"]
    assert payloads[0]["predicateType"] == payloads[1]["predicateType"]
