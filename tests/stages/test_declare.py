"""What is signed before training, and that a key is asked for before the long work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from appliance.bundle.keys import create_key, load_or_create_key
from appliance.bundle.preregistration import read_preregistration
from appliance.stages.declare import DECLARATION, declare_before_training
from appliance.stages.manifest import read_manifest
from appliance.stages.resolve import resolve_lock
from tests.conftest import Appliance

WriteManifest = Callable[..., Path]


def test_the_declaration_is_signed_once_and_never_for_work_that_has_begun(
    tmp_path: Path, write_manifest: WriteManifest
) -> None:
    manifest = read_manifest(write_manifest())
    lock = resolve_lock(manifest)
    place = tmp_path / "train-0123"

    def declare() -> None:
        declare_before_training(
            place, manifest, lock, {}, lambda: load_or_create_key(tmp_path / "keys")
        )

    (place / "observed").mkdir(parents=True)
    (place / "observed" / ".preregistration.sigstore.json.x.tmp").write_bytes(b"{")  # a kill's
    declare()
    first = (place / DECLARATION).read_bytes()
    assert read_preregistration(first).manifest == manifest.as_dict()
    (place / "content").mkdir()
    (place / "content" / "curve.jsonl").write_bytes(b"")
    declare()
    assert (place / DECLARATION).read_bytes() == first
    (place / DECLARATION).unlink()
    declare()
    assert not (place / DECLARATION).exists()


def test_a_key_that_cannot_be_opened_ends_a_run_before_its_first_stage(
    tmp_path: Path, write_manifest: WriteManifest, appliance: Appliance
) -> None:
    create_key(tmp_path / "keys", passphrase=b"velvet")
    outcome = appliance(
        *("run", write_manifest(), "--run-dir", tmp_path / "run", "--no-cache"),
        *("--key-dir", tmp_path / "keys"),
    )
    assert outcome.code == 23
    assert "--passphrase-file" in outcome.err
    stages = tmp_path / "run" / "stages"
    assert not stages.exists() or not list(stages.iterdir())
