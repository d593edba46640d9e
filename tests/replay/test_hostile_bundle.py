"""`replay` of a bundle that is damaged, or whose signer is a stranger: what it must not do."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.files import write_json
from appliance.replay.places import NOWHERE, forget_checkout
from appliance.stages.bundle import identity_of
from appliance.stages.manifest import read_manifest
from tests.conftest import DATASET, Appliance
from tests.replay.conftest import sign_bundle
from tests.simulator.stand_in_checkout import assemble_checkout, install_stand_in, make_environment

WriteManifest = Callable[..., Path]
OTHER_TREE = "sha256-tree-v1:" + "ab" * 32


@pytest.fixture
def sign_variant(
    original: Path, tmp_path: Path, write_manifest: WriteManifest
) -> Callable[..., Path]:
    """The original's content under a manifest with other lines, signed by another key."""

    def sign(*replacements: tuple[str, str]) -> Path:
        manifest = read_manifest(write_manifest(*replacements))
        content = tmp_path / "content"
        shutil.copytree(original / "content", content)
        write_json(content / "manifest.json", identity_of(manifest))
        return sign_bundle(tmp_path, manifest, content)

    return sign


@pytest.fixture
def replay(appliance: Appliance, tmp_path: Path) -> Callable[..., Any]:
    """Replay a bundle as somebody who trusts no key."""

    def run(target: Path, *options: str | Path) -> Any:
        return appliance(
            *("replay", target, "--work-dir", tmp_path / "work", "--dataset-root", DATASET),
            *("--key-dir", tmp_path / "no-keys", *options),
        )

    return run


@pytest.fixture
def checkout_bundle(sign_variant: Callable[..., Path], tmp_path: Path) -> Path:
    """A bundle that names a checkout of its own, whose interpreter leaves ``started`` behind."""
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\ntouch {tmp_path}/started\n")
    python.chmod(0o755)
    (tmp_path / "RoboTwin" / "envs").mkdir(parents=True)
    (tmp_path / "RoboTwin" / "envs" / "_base_task.py").write_text("")
    places = f"path: {tmp_path}/RoboTwin, python: {python}, tree: '{OTHER_TREE}'"
    named = f"  simulator: robotwin-checkout\n  checkout: {{{places}}}\n"
    return sign_variant(("  simulator: robotwin\n", named))


def test_an_interpreter_that_a_bundle_names_is_never_started(
    checkout_bundle: Path, replay: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = replay(checkout_bundle)
    assert outcome.code == 0, outcome.err
    assert "R1  shown" in outcome.out
    assert "--checkout-python" in outcome.out
    for asked in (("--level", "R2"), ("--level", "R3"), ("--spot-check", "0:1")):
        outcome = replay(checkout_bundle, *asked)
        assert outcome.code == 44
        assert "--checkout and its interpreter with --checkout-python" in outcome.err
    assert not (tmp_path / "started").exists()


def test_half_a_checkout_is_none(
    checkout_bundle: Path, replay: Callable[..., Any], tmp_path: Path
) -> None:
    outcome = replay(checkout_bundle, "--level", "R2", "--checkout", tmp_path / "RoboTwin")
    assert outcome.code == 44
    assert not (tmp_path / "started").exists()


def test_a_named_checkout_must_be_the_one_that_the_bundle_pins(
    checkout_bundle: Path, replay: Callable[..., Any], tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    assemble_checkout(mine)
    install_stand_in(mine)
    make_environment(tmp_path / "venv")
    named = ("--checkout", mine, "--checkout-python", tmp_path / "venv" / "bin" / "python")
    outcome = replay(checkout_bundle, "--level", "R2", *named)
    assert outcome.code == 16, outcome.out
    assert f"pinned: {OTHER_TREE}" in outcome.err
    assert not (tmp_path / "started").exists()


@pytest.mark.parametrize(
    ("pinned", "locked", "kept"),
    [(OTHER_TREE, "locked", OTHER_TREE), (None, "locked", "locked"), (None, None, None)],
)
def test_of_a_bundles_checkout_only_the_digest_is_kept(
    pinned: str | None, locked: str | None, kept: str | None
) -> None:
    manifest = {"eval": {"task": "t", "checkout": {"path": "/p", "python": "x", "tree": pinned}}}
    lock = {} if locked is None else {"files": {"eval.checkout.tree": locked}}
    checkout = {"path": NOWHERE, "python": NOWHERE, "tree": kept}
    assert forget_checkout(manifest, lock) == {"eval": {"task": "t", "checkout": checkout}}


def test_an_image_that_a_stranger_names_is_not_run_unless_the_user_chooses_the_engine(
    sign_variant: Callable[..., Path], replay: Callable[..., Any]
) -> None:
    bundle = sign_variant(("engine: host", "engine: docker\n  image: theirs"))
    outcome = replay(bundle)
    assert outcome.code == 0, outcome.err
    assert "--engine" in outcome.out
    outcome = replay(bundle, "--level", "R2")
    assert outcome.code == 44
    assert "--engine" in outcome.err


def flip(path: Path, *places: int) -> None:
    data = bytearray(path.read_bytes())
    for place in places:
        data[place] ^= 1
    path.write_bytes(data)


def corrupt_deflate(path: Path) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, a=np.arange(100_000))
    path.write_bytes(packed.getvalue())
    flip(path, 60, 2000)


def claim_72_tebibytes(path: Path) -> None:
    header = b"{'descr':'<i8','fortran_order':False,'shape':(10000000000000,)}"
    header += b" " * (117 - len(header)) + b"\n"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)


ARRAYS = "content/plan/plan_arrays.npz"


def gut(bundle: Path) -> None:
    (bundle / "attestation.sigstore.json").write_text("{}")
    (bundle / "content" / "manifest.json").write_text('{"version":1}')


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda bundle: flip(bundle / ARRAYS, 30, 300), ARRAYS),
    "a truncated curve": (
        lambda bundle: (bundle / "content/train/curve.jsonl").write_bytes(b'{"step": 0'),
        "content/train/curve.jsonl",
    ),
    "no JSON in bundle.json": (lambda bundle: (bundle / "bundle.json").write_text("x"), "bundle."),
    "no bundle.json": (lambda bundle: (bundle / "bundle.json").unlink(), "bundle.json"),
    "a gutted attestation": (gut, "attestation"),
    "corrupt deflate data": (lambda bundle: corrupt_deflate(bundle / ARRAYS), ARRAYS),
    "an array of 72 TiB": (lambda bundle: claim_72_tebibytes(bundle / ARRAYS), ARRAYS),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_whatever_is_damaged_in_a_bundle_is_invalid_input(
    original: Path, tmp_path: Path, replay: Callable[..., Any], damage: str
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(original / "bundle", copy)
    change, named = DAMAGES[damage]
    change(copy)
    outcome = replay(copy, "--level", "R1", "--json")
    assert outcome.code == 42, outcome.err
    said = json.loads(outcome.out)
    assert (said["verdict"], said["stages"], said["level"]) == ("INVALID INPUTS", [], None)
    assert said["subject"]["identity"] is said["subject"]["manifest_sha256"] is None
    assert said["reason"].startswith("the bundle is not intact: ")
    assert named in said["reason"]


@pytest.mark.parametrize("damage", [corrupt_deflate, claim_72_tebibytes])
def test_diff_names_arrays_that_cannot_be_read(
    original: Path, tmp_path: Path, appliance: Appliance, damage: Callable[[Path], None]
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(original / "bundle", copy)
    damage(copy / ARRAYS)
    outcome = appliance("diff", copy, original / "bundle")
    assert outcome.code == 30, outcome.err
    assert "plan_arrays.npz" in outcome.err
