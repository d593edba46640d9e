"""`replay` where the files that a bundle names lie elsewhere, are others, or are not there."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from appliance.bundle.archive import pack_bundle
from appliance.digest import sha256_file
from appliance.files import write_json
from appliance.norm_stats.files import NORM_STATS_FILE
from appliance.replay.places import Places
from appliance.replay.recompute import recompute_configuration, recompute_norm_stats
from appliance.replay.subject import Subject, open_subject
from appliance.replay.work import choose_extent
from appliance.stages.bundle import identity_of
from appliance.stages.manifest import read_manifest
from appliance.stages.pins import dataset_root, named_files
from tests.conftest import DATASET, Appliance
from tests.policy.small_tokenizer import train_tokenizer
from tests.replay.conftest import sign_bundle

WriteManifest = Callable[..., Path]
STEPS = "config: pi0_tiny_aloha_robotwin\n  steps: 20"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reused:
    """A bundle whose statistics were reused, and the author's file, which is not where it was."""

    bundle: Path
    file: Path


@pytest.fixture
def reuse(original: Path, tmp_path: Path, write_manifest: WriteManifest) -> Callable[..., Reused]:
    """Sign a bundle that reused statistics, written as ``text`` of the original's; then move it."""

    def make(text: Callable[[bytes], bytes] = bytes) -> Reused:
        author, content = tmp_path / "author", tmp_path / "content"
        shutil.copytree(original / "content", content)
        author.mkdir()
        file = author / NORM_STATS_FILE
        file.write_bytes(text((content / "norm_stats" / NORM_STATS_FILE).read_bytes()))
        asked = "mode: recompute\n  subset: episodes_valid"
        manifest = read_manifest(write_manifest((asked, f"mode: reuse\n  path: {file}")))
        recompute_norm_stats(manifest, dataset_root(manifest), tmp_path / "work-of-author")
        shutil.rmtree(content / "norm_stats")
        shutil.copytree(tmp_path / "work-of-author/norm_stats/content", content / "norm_stats")
        write_json(content / "manifest.json", identity_of(manifest))
        files = {"norm_stats.path": sha256_file(file)}
        bundle = sign_bundle(tmp_path, manifest, content, files=files)
        shutil.move(author, tmp_path / "elsewhere")
        return Reused(bundle=bundle, file=tmp_path / "elsewhere" / NORM_STATS_FILE)

    return make


@pytest.fixture
def replay(appliance: Appliance, tmp_path: Path) -> Callable[..., Any]:
    """Replay a bundle up to R1; the exit code and the verdict."""

    def run(target: Path, *options: str | Path) -> tuple[int, dict[str, Any]]:
        outcome = appliance(
            *("replay", target, "--work-dir", tmp_path / "work", "--dataset-root", DATASET),
            *("--key-dir", tmp_path / "keys", "--level", "R1", "--json", *options),
        )
        return outcome.code, json.loads(outcome.out)

    return run


def test_a_bundle_brings_the_statistics_it_reused(
    reuse: Callable[..., Reused], replay: Callable[..., Any], tmp_path: Path
) -> None:
    made = reuse()
    pack_bundle(made.bundle, tmp_path / "packed.tar.gz")
    for target in (made.bundle, tmp_path / "packed.tar.gz"):
        code, said = replay(target)
        assert (code, said["verdict"]) == (0, "REPRODUCED"), said["reason"]
        assert said["levels"]["R1"]["status"] == "shown"


def test_statistics_that_are_not_here_or_others_contradict_nothing(
    reuse: Callable[..., Reused], replay: Callable[..., Any], tmp_path: Path
) -> None:
    made = reuse(lambda text: text + b"\n")  # so that the bundle's own copy is another file
    code, said = replay(made.bundle)
    assert (code, said["verdict"]) == (42, "INVALID INPUTS")
    assert f"{tmp_path}/author/norm_stats.json; name your copy" in said["reason"]
    assert "--norm-stats" in said["reason"]
    assert said["levels"]["R1"]["status"] == "not tested"
    other = made.bundle / "content" / "norm_stats" / NORM_STATS_FILE
    code, said = replay(made.bundle, "--norm-stats", other)
    assert (code, said["verdict"]) == (42, "INVALID INPUTS")
    assert sha256_file(other) in said["reason"]
    code, said = replay(made.bundle, "--norm-stats", made.file)
    assert (code, said["verdict"]) == (0, "REPRODUCED"), said["reason"]


def test_where_reused_statistics_lie_is_not_in_the_content(reuse: Callable[..., Reused]) -> None:
    made = reuse()
    manifest = json.loads((made.bundle / "content" / "manifest.json").read_bytes())
    assert "path" not in manifest["norm_stats"]
    assert "author" not in json.dumps(manifest)


@pytest.fixture
def sign_naming(
    original: Path, tmp_path: Path, write_manifest: WriteManifest
) -> Callable[[str], Path]:
    """The original's content under a manifest whose train part has this line more."""

    def sign(line: str) -> Path:
        manifest = read_manifest(write_manifest((STEPS, f"{STEPS}\n  {line}")))
        content = tmp_path / "content"
        shutil.copytree(original / "content", content)
        write_json(content / "manifest.json", identity_of(manifest))
        summary = content / "train" / "run_summary.json"
        work = original / "content-work"  # where plan and statistics were computed
        in_force = recompute_configuration(manifest, dataset_root(manifest), work)
        write_json(summary, {**json.loads(summary.read_bytes()), **in_force})
        return sign_bundle(tmp_path, manifest, content)

    return sign


def test_without_the_weights_auto_shows_r1_and_more_is_refused_before_any_work(
    sign_naming: Callable[[str], Path], appliance: Appliance, tmp_path: Path
) -> None:
    bundle = sign_naming(f"init: {{checkpoint: /nowhere/weights, sha256: {'f' * 64}}}")
    common = ("replay", bundle, "--dataset-root", DATASET, "--key-dir", tmp_path / "keys")
    for asked in (("--level", "R2"), ("--level", "R5"), ("--spot-check", "0:1")):
        outcome = appliance(*common, "--work-dir", tmp_path / "asked", *asked)
        assert outcome.code == 44, outcome.err
        assert "/nowhere/weights is not on this machine" in outcome.err
        assert "--init" in outcome.err
        assert not (tmp_path / "asked").exists()
    outcome = appliance(*common, "--work-dir", tmp_path / "work", "--json")
    said = json.loads(outcome.out)
    assert (outcome.code, said["verdict"], said["level"]) == (0, "REPRODUCED", "R1")
    absent = "train.init.checkpoint: /nowhere/weights is not on this machine"
    assert said["levels"]["R2"]["reason"].startswith(absent)


def test_the_user_says_where_his_copies_of_weights_and_tokenizer_lie(
    sign_naming: Callable[[str], Path], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    tokenizer = train_tokenizer(tmp_path / "own" / "tokenizer.model")
    (tmp_path / "own" / "weights.npz").write_bytes(b"weights")
    digest = sha256_file(tokenizer)
    bundle = sign_naming(
        f"init: {{checkpoint: weights.npz, sha256: {'f' * 64}}}\n"
        f"  tokenizer: {{path: /nowhere/tokenizer.model, sha256: {digest}}}"
    )

    def why(**places: Path) -> str:
        with open_subject(bundle, Places(key_dir=tmp_path / "keys", **places)) as subject:
            assert isinstance(subject, Subject)
            assert all(path.is_absolute() for path in named_files(subject.manifest).values())
            return choose_extent(subject, None, None, 300.0).why

    weights = tmp_path / "own" / "weights.npz"
    assert "weights.npz is not on this machine" in why()
    assert "--tokenizer" in why(init=weights)
    assert "is not what is pinned" in why(init=weights, tokenizer=weights)
    assert "is not what is pinned" in why(init=tmp_path / "own", tokenizer=tokenizer)
    assert why(init=weights, tokenizer=tokenizer) == "how long the original took is not known"
