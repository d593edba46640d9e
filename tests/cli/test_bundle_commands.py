"""`verify`, `bundle`, `countersign` and `keys` as a person uses them."""

from __future__ import annotations

import json
import os
import pty
import stat
import subprocess
import sys
from pathlib import Path
from typing import IO, Any

import pytest

from appliance.bundle.keys import (
    MAX_PASSPHRASE_BYTES,
    PRIVATE_KEY_FILE,
    PUBLIC_KEY_FILE,
    create_key,
    load_or_create_key,
)
from appliance.bundle.verify import verify_bundle
from appliance.digest import digest_files
from appliance.errors import ReplayError, SigningKeyError
from tests.bundle.sample import make_bundle
from tests.conftest import Appliance


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``bundle`` and the ``keys`` it was signed with; never to be changed."""
    base = tmp_path_factory.mktemp("made")
    make_bundle(base)
    return base


@pytest.fixture
def reviewer(tmp_path: Path) -> Path:
    """The key folder of somebody else, who trusts nobody yet."""
    load_or_create_key(tmp_path / "reviewer")
    return tmp_path / "reviewer"


def test_verify_has_an_exit_code_for_each_outcome_on_a_folder_and_on_its_archive(
    made: Path, reviewer: Path, tmp_path: Path, appliance: Appliance
) -> None:
    archive = tmp_path / "packed.tar.gz"
    assert appliance("bundle", "pack", made / "bundle", "-o", archive).code == 0
    damaged = tmp_path / "damaged.tar.gz"
    damaged.write_bytes(archive.read_bytes()[:-20])
    for place in (made / "bundle", archive):
        assert appliance("verify", place, "--key-dir", made / "keys").code == 0
        assert appliance("verify", place, "--key", made / "keys" / PUBLIC_KEY_FILE).code == 0
        assert appliance("verify", place, "--key-dir", reviewer).code == 22
        outcome = appliance(
            *("verify", place, "--key-dir", made / "keys"),
            *("--content-digest", "sha256-tree-v1:" + "0" * 64),
        )
        assert outcome.code == 21
        assert "another result" in outcome.out
    assert appliance("verify", damaged, "--key-dir", made / "keys").code == 21
    assert appliance("verify", tmp_path, "--key-dir", made / "keys").code == 20


def test_a_folder_of_trusted_keys_is_enough(
    made: Path, reviewer: Path, tmp_path: Path, appliance: Appliance
) -> None:
    trusted = tmp_path / "trusted"
    trusted.mkdir(mode=0o700)
    key_id = load_or_create_key(made / "keys").key_id
    (trusted / f"{key_id}.pem").write_bytes((made / "keys" / PUBLIC_KEY_FILE).read_bytes())
    place = made / "bundle"
    outcome = appliance("verify", place, "--key-dir", reviewer, "--trust-dir", trusted)
    assert outcome.code == 0


def test_the_very_bundle_can_be_asked_for(made: Path, tmp_path: Path, appliance: Appliance) -> None:
    report = json.loads(
        appliance("verify", made / "bundle", "--key-dir", made / "keys", "--json").out
    )
    right = report["attestation_sha256"]
    for digest, code in ((right, 0), ("0" * 64, 21)):
        outcome = appliance(
            "verify", made / "bundle", "--key-dir", made / "keys", "--attestation", digest
        )
        assert outcome.code == code


def test_packing_and_unpacking_gives_the_same_files_and_the_same_archive(
    made: Path, tmp_path: Path, appliance: Appliance
) -> None:
    first, second = tmp_path / "first.tar.gz", tmp_path / "second.tar.gz"
    said = appliance("bundle", "pack", made / "bundle", "--output", first)
    assert appliance("bundle", "unpack", first).code == 0
    assert digest_files(tmp_path / "first") == digest_files(made / "bundle")
    assert appliance("verify", tmp_path / "first", "--key-dir", made / "keys").code == 0
    again = appliance("bundle", "pack", tmp_path / "first", "--output", second)
    assert first.read_bytes() == second.read_bytes()
    assert said.out.split()[0] == again.out.split()[0]


def test_what_exists_is_never_replaced(made: Path, tmp_path: Path, appliance: Appliance) -> None:
    taken = tmp_path / "taken.tar.gz"
    taken.write_bytes(b"mine")
    assert appliance("bundle", "pack", made / "bundle", "-o", taken).code == 30
    assert taken.read_bytes() == b"mine"
    archive = tmp_path / "a.tar.gz"
    assert appliance("bundle", "pack", made / "bundle", "-o", archive).code == 0
    assert appliance("bundle", "unpack", archive, "-o", tmp_path).code == 30


def test_what_is_no_intact_bundle_is_not_packed(
    bundle_copy: Path, tmp_path: Path, appliance: Appliance
) -> None:
    (bundle_copy / "content" / "more").write_bytes(b"")
    outcome = appliance("bundle", "pack", bundle_copy, "-o", tmp_path / "a.tar.gz")
    assert outcome.code == 21
    assert "content/more" in outcome.err
    assert not (tmp_path / "a.tar.gz").exists()
    assert appliance("bundle", "pack", tmp_path / "nothing").code == 20
    assert appliance("bundle", "unpack", bundle_copy / "VERIFY.md").code == 20


@pytest.fixture
def bundle_copy(made: Path, tmp_path: Path) -> Path:
    import shutil

    shutil.copytree(made / "bundle", tmp_path / "copy")
    return tmp_path / "copy"


def verdict_of(bundle: Path, made: Path, conclusion: str) -> dict[str, Any]:
    """A replay's verdict on a bundle, in the form of the schema."""
    report = verify_bundle(bundle, key_dir=made / "keys")
    levels = {"R1": "shown", "R2": "not tested", "R3": "shown"}
    return {
        "format": "plan-star-replay-verdict-v1",
        "appliance": "1",
        "subject": {
            "kind": "bundle",
            "name": "touch_block-demo50",
            "identity": report.content_digest,
            "manifest_sha256": "0" * 64,
        },
        "content_digest": report.content_digest,
        "verdict": conclusion,
        "level": "R3",
        "reason": "R1 shown, R3 shown",
        "episodes_needed": None,
        "levels": {
            name: {"status": status, "reason": "", "meaning": ""} for name, status in levels.items()
        },
        "claim": None,
        "equivalence": None,
        "stages": [],
        "platform": {
            "same": True,
            "differences": [],
            "here": {"packages": {}, "platform": {}, "sources": {}},
        },
        "started_utc": "2026-01-02T00:00:00+00:00",
        "seconds": 1.5,
    }


def test_a_countersignature_lies_beside_the_bundle_and_is_read_from_there(
    made: Path, bundle_copy: Path, reviewer: Path, tmp_path: Path, appliance: Appliance
) -> None:
    before = digest_files(bundle_copy)
    signer = made / "keys" / PUBLIC_KEY_FILE
    replay = tmp_path / "replay.json"
    replay.write_text(json.dumps(verdict_of(bundle_copy, made, "REPRODUCED")))
    outcome = appliance(
        *("countersign", bundle_copy, "--key", signer, "--key-dir", reviewer),
        *("--replay", replay),
    )
    assert outcome.code == 0, outcome.err
    assert digest_files(bundle_copy) == before
    written = [path for path in tmp_path.iterdir() if path.name.endswith(".vsa.sigstore.json")]
    assert len(written) == 1
    assert appliance("keys", "trust", signer, "--key-dir", reviewer).code == 0
    said = appliance("verify", bundle_copy, "--key-dir", reviewer)
    assert said.code == 0
    assert "PASSED for R0, R1, R3" in said.out
    assert "replay: REPRODUCED" in said.out
    stranger = appliance("verify", bundle_copy, "--key", signer)
    assert stranger.code == 0
    assert "not checked" in stranger.out


def test_a_countersignature_of_another_bundle_or_a_changed_one_is_named(
    made: Path, bundle_copy: Path, reviewer: Path, tmp_path: Path, appliance: Appliance
) -> None:
    signer = made / "keys" / PUBLIC_KEY_FILE
    other = make_bundle(tmp_path, name="other", key=load_or_create_key(made / "keys"), observed={})
    place = tmp_path / "elsewhere.json"
    assert (
        appliance(
            *("countersign", other.path, "--key", signer, "--key-dir", reviewer, "-o", place)
        ).code
        == 0
    )
    said = appliance("verify", bundle_copy, "--key", signer, "--countersignature", place)
    assert said.code == 0
    assert "countersignature-other" in said.out
    place.write_bytes(place.read_bytes().replace(b'"sig":"M', b'"sig":"N'))
    said = appliance("verify", other.path, "--key-dir", reviewer, "--countersignature", place)
    assert "countersignature-" in said.out
    assert "PASSED" not in said.out


def test_only_a_trusted_intact_bundle_is_countersigned(
    made: Path, bundle_copy: Path, reviewer: Path, tmp_path: Path, appliance: Appliance
) -> None:
    assert appliance("countersign", bundle_copy, "--key-dir", reviewer).code == 22
    signer = made / "keys" / PUBLIC_KEY_FILE
    replay = tmp_path / "replay.json"
    good = verdict_of(bundle_copy, made, "REPRODUCED")
    odd_level = {"R9 \x1b[31m": {"status": "shown", "reason": "", "meaning": ""}}
    bad = (
        {},
        [good],
        {**good, "subject": {}},
        {**good, "content_digest": "sha256-tree-v1:" + "0" * 64},
        {**good, "content_digest": None, "subject": {**good["subject"], "kind": "manifest"}},
        {**good, "levels": odd_level},
        {**good, "verdict": "PASSED"},
        {**good, "more": 1},
    )
    for text in ("x", *map(json.dumps, bad)):
        replay.write_text(text)
        arguments = ("countersign", bundle_copy, "--key", signer, "--key-dir", reviewer)
        assert appliance(*arguments, "--replay", replay).code == 30, text
    (bundle_copy / "VERIFY.md").write_bytes(b"")
    assert appliance("countersign", bundle_copy, "--key-dir", made / "keys").code == 21
    assert not list(tmp_path.glob("*.vsa.sigstore.json"))


def test_a_replay_that_did_not_reproduce_is_signed_as_failed(
    made: Path, bundle_copy: Path, tmp_path: Path, appliance: Appliance
) -> None:
    replay = tmp_path / "replay.json"
    replay.write_text(json.dumps(verdict_of(bundle_copy, made, "NOT REPRODUCED")))
    outcome = appliance("countersign", bundle_copy, "--key-dir", made / "keys", "--replay", replay)
    assert outcome.code == 0
    said = appliance("verify", bundle_copy, "--key-dir", made / "keys")
    assert "FAILED" in said.out
    assert "replay: NOT REPRODUCED" in said.out


@pytest.mark.parametrize("conclusion", ["INCONCLUSIVE", "INVALID INPUTS"])
def test_a_replay_that_decided_nothing_is_not_signed_as_failed(
    made: Path, bundle_copy: Path, tmp_path: Path, appliance: Appliance, conclusion: str
) -> None:
    replay = tmp_path / "replay.json"
    replay.write_text(json.dumps(verdict_of(bundle_copy, made, conclusion)))
    outcome = appliance("countersign", bundle_copy, "--key-dir", made / "keys", "--replay", replay)
    assert outcome.code == ReplayError.exit_code
    assert f"{replay}: not countersigned, because the verdict is {conclusion}" in outcome.err
    assert not list(tmp_path.glob("*.vsa.sigstore.json"))


# -- keys


def test_an_encrypted_key_signs_with_its_passphrase_and_not_without(
    made: Path, bundle_copy: Path, tmp_path: Path, appliance: Appliance
) -> None:
    folder, words = tmp_path / "keys", tmp_path / "words"
    words.write_text("correct horse\n")
    words.chmod(0o600)
    outcome = appliance("keys", "create", "--passphrase-file", words, "--key-dir", folder)
    assert outcome.code == 0, outcome.err
    private = folder / PRIVATE_KEY_FILE
    assert stat.S_IMODE(private.stat().st_mode) == 0o600
    assert private.read_bytes().startswith(b"-----BEGIN ENCRYPTED PRIVATE KEY-----")
    assert "correct" not in outcome.out + outcome.err
    arguments = ("countersign", bundle_copy, "--key-dir", folder)
    arguments += ("--key", made / "keys" / PUBLIC_KEY_FILE)
    without = appliance(*arguments)
    assert without.code == 23
    assert "--passphrase-file" in without.err
    words.write_text("wrong\n")
    assert appliance(*arguments, "--passphrase-file", words).code == 23
    words.write_text("correct horse\n")
    assert appliance(*arguments, "--passphrase-file", words).code == 0
    shown = json.loads(appliance("keys", "show", "--key-dir", folder, "--json").out)
    assert shown["key_id"] in outcome.out


def test_a_passphrase_file_that_others_can_read_is_refused(
    tmp_path: Path, appliance: Appliance
) -> None:
    words = tmp_path / "words"
    words.write_text("secret\n")
    words.chmod(0o644)
    arguments = ("keys", "create", "--key-dir", tmp_path / "keys", "--passphrase-file", words)
    outcome = appliance(*arguments)
    assert outcome.code == 23
    assert "chmod 600" in outcome.err
    words.write_text("")
    words.chmod(0o600)
    assert appliance(*arguments).code == 23
    words.unlink()
    assert appliance(*arguments).code == 23
    assert not (tmp_path / "keys" / PRIVATE_KEY_FILE).exists()


def test_a_passphrase_as_long_as_can_be_opens_its_key_and_a_longer_one_makes_none(
    made: Path, bundle_copy: Path, tmp_path: Path, appliance: Appliance
) -> None:
    words = tmp_path / "words"
    words.write_text("é" * (MAX_PASSPHRASE_BYTES // 2) + "xx\r\n")
    words.chmod(0o600)
    for folder, ending in (("keys", "x\r\n"), ("bare", "x")):
        arguments = ("--key-dir", tmp_path / folder, "--passphrase-file", words)
        outcome = appliance("keys", "create", *arguments)
        assert outcome.code == 23
        assert f"{MAX_PASSPHRASE_BYTES} bytes" in outcome.err
        words.write_text("é" * (MAX_PASSPHRASE_BYTES // 2) + ending)
        assert appliance("keys", "create", *arguments).code == 0
        signer = made / "keys" / PUBLIC_KEY_FILE
        assert appliance("countersign", bundle_copy, "--key", signer, *arguments).code == 0
        words.write_text("é" * (MAX_PASSPHRASE_BYTES // 2) + "xx")
    with pytest.raises(SigningKeyError, match="bytes"):
        create_key(tmp_path / "typed", passphrase=b"a" * (MAX_PASSPHRASE_BYTES + 1))
    assert not (tmp_path / "typed").exists()


def test_a_key_is_never_replaced(tmp_path: Path, appliance: Appliance) -> None:
    assert appliance("keys", "create", "--key-dir", tmp_path).code == 0
    before = (tmp_path / PRIVATE_KEY_FILE).read_bytes()
    assert appliance("keys", "create", "--key-dir", tmp_path).code == 23
    assert (tmp_path / PRIVATE_KEY_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("typed", "code"),
    [
        ([b"velvet\n", b"velvet\n"], 0),
        ([b"velvet\n", b"two\n"], 23),
        ([b"\n"] * 2, 23),
        ([b"\x04"], 130),
    ],
)
def test_a_passphrase_is_asked_for_twice_in_a_terminal_and_never_echoed(
    tmp_path: Path, typed: list[bytes], code: int
) -> None:
    keyboard, screen = pty.openpty()
    command = [sys.executable, "-m", "appliance", "keys", "create", "--encrypt"]
    with subprocess.Popen(
        [*command, "--key-dir", str(tmp_path)],
        stdin=screen,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as started:
        os.close(screen)
        assert started.stdout is not None
        said = b""
        for answer in typed:
            said += read_until(started.stdout, b": ")
            os.write(keyboard, answer)
        said += started.stdout.read()
    os.close(keyboard)
    assert started.returncode == code, said
    assert (tmp_path / PRIVATE_KEY_FILE).exists() == (code == 0)
    assert b"velvet" not in said


def read_until(stream: IO[bytes], end: bytes) -> bytes:
    """What a program says up to its next prompt; typing earlier would be thrown away."""
    said = b""
    while not said.endswith(end):
        piece = stream.read(1)
        assert piece, said
        said += piece
    return said


def test_without_a_terminal_a_passphrase_must_come_from_a_file(
    tmp_path: Path, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Path(os.devnull).open() as nothing:
        monkeypatch.setattr(sys, "stdin", nothing)
        outcome = appliance("keys", "create", "--encrypt", "--key-dir", tmp_path)
    assert outcome.code == 23
    assert "--passphrase-file" in outcome.err


BLOCKED = """
import sys
for name in ("numpy", "scipy", "pyarrow", "jax", "flax", "torch", "lerobot", "sapien", "robotwin",
             "docker", "matplotlib", "jinja2", "in_toto", "securesystemslib", "model_signing",
             "sigstore", "cyclonedx", "rocrate", "rocrate_validator", "requests", "rdflib"):
    sys.modules[name] = None  # importing it fails as if it were not installed
from appliance.cli.main import main
main()
"""


@pytest.mark.parametrize(
    "arguments",
    [
        ("verify", "{bundle}", "--key-dir", "{keys}"),
        ("verify", "{archive}", "--key-dir", "{keys}", "--json"),
        ("bundle", "pack", "{bundle}", "--output", "{new}"),
        ("bundle", "unpack", "{archive}", "--output", "{new}"),
        ("countersign", "{bundle}", "--key-dir", "{keys}", "--output", "{new}"),
        ("keys", "show", "--key-dir", "{keys}"),
    ],
    ids=" ".join,
)
def test_the_core_installation_is_enough(
    made: Path, tmp_path: Path, appliance: Appliance, arguments: tuple[str, ...]
) -> None:
    archive = tmp_path / "a.tar.gz"
    assert appliance("bundle", "pack", made / "bundle", "--output", archive).code == 0
    places = {"bundle": made / "bundle", "keys": made / "keys", "archive": archive}
    command = [argument.format(**places, new=tmp_path / "new") for argument in arguments]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
