"""Weights and tokenizer named by a manifest: checked, recorded, used, and free to lie elsewhere."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import orbax.checkpoint as ocp
import pytest

from appliance.bundle.assemble import list_dependencies
from appliance.bundle.keys import (
    PRIVATE_KEY_FILE,
    PUBLIC_KEY_FILE,
    create_key,
    default_key_dir,
    secret_places,
)
from appliance.digest import digest_files, sha256_file, tree_digest
from appliance.engine.isolation import Exposure, find_mounts
from appliance.errors import CheckpointError, ManifestError
from appliance.norm_stats.files import NORM_STATS_FILE, NormStats, Stats, write_norm_stats
from appliance.policy.checkpoint import digest_leaves, read_leaves
from appliance.policy.initialization import init_params
from appliance.policy.parameters import flatten_params, nest_params
from appliance.policy.presets import PRESETS
from appliance.policy.weights import paligemma_shapes
from appliance.stages.bundle import identity_of
from appliance.stages.cache import StageCache
from appliance.stages.decide import Action, decide_chain
from appliance.stages.execute import execute_stage, load_run
from appliance.stages.manifest import read_manifest
from appliance.stages.pins import dataset_root, named_files, places_for_stages
from appliance.stages.registry import stages_for
from appliance.stages.resolve import resolve_lock
from appliance.stages.run_folder import RunFolder
from appliance.stages.trained_policy import find_after_training, open_policy
from tests.cli.prepare_run import prepare
from tests.conftest import Appliance
from tests.engine.mounted_tree import copy_mounts, find_inside
from tests.policy.small_tokenizer import train_tokenizer
from tests.stages.linked_files import NUM_DIMS, STEPS, link_files

TINY = PRESETS["pi0_tiny_aloha_robotwin"]
WriteManifest = Callable[..., Path]


def quiet(done: int, total: int, text: str = "") -> None:
    del done, total, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """What lies beside a manifest: weights of each kind, and a tokenizer."""

    params: Path
    archive: Path
    tokenizer: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    leaves = flatten_params(init_params(TINY.model, 11))
    tree = nest_params({f"{path}/value": leaf for path, leaf in leaves.items()})
    with ocp.PyTreeCheckpointer() as writer:
        writer.save(tmp_path / "weights" / "params", {"params": tree})
    arrays = {
        path.replace("PaliGemma/", "params/"): leaves[path] for path in paligemma_shapes(TINY.model)
    }
    archive = tmp_path / "weights" / "pt.npz"
    np.savez(archive, **arrays)  # type: ignore[arg-type]
    tokenizer = train_tokenizer(tmp_path / "weights" / "tokenizer.model")
    return Files(params=tmp_path / "weights" / "params", archive=archive, tokenizer=tokenizer)


def train_part(weights: Path, tokenizer: Path, *, steps: int = 0, sha256: str = "") -> str:
    found = tree_digest(digest_files(weights)) if weights.is_dir() else sha256_file(weights)
    return (
        f"config: pi0_tiny_aloha_robotwin\n  steps: {steps}\n"
        f"  init: {{checkpoint: {weights}, sha256: {sha256 or found}}}\n"
        f"  tokenizer: {{path: {tokenizer}, sha256: {sha256_file(tokenizer)}}}"
    )


def run_stages(folder: RunFolder, *names: str) -> dict[str, Path]:
    receipts = {name: execute_stage(folder.path, name, quiet) for name in names}
    return {name: folder.stage_dir(name, receipt.key) for name, receipt in receipts.items()}


@pytest.mark.parametrize("kind", ["params", "archive"])
def test_training_starts_from_the_weights_and_records_them(
    kind: str, files: Files, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    weights: Path = getattr(files, kind)
    path = write_manifest((STEPS, train_part(weights, files.tokenizer)))
    folder = prepare(path, tmp_path / "run")
    places = run_stages(folder, "dataset", "plan", "norm_stats", "train")
    lock = load_run(folder.path).lock
    digest = tree_digest(digest_files(weights)) if weights.is_dir() else sha256_file(weights)
    assert lock.files == {
        "train.init.checkpoint": digest,
        "train.tokenizer.path": sha256_file(files.tokenizer),
    }
    named = {item.name: item.digest for item in list_dependencies(lock.to_dict())}
    assert named["file train.tokenizer.path"] == f"sha256:{sha256_file(files.tokenizer)}"
    assert named["file train.init.checkpoint"] == (digest if ":" in digest else f"sha256:{digest}")
    content = places["train"] / "content"
    configuration = json.loads((content / "run_summary.json").read_text())["configuration"]
    assert configuration["init_sha256"] == digest
    assert configuration["tokenizer_sha256"] == sha256_file(files.tokenizer)
    leaves = json.loads((content / "checkpoint_leaves.json").read_text())["0"]
    stored = digest_leaves(read_leaves(files.params))
    given = (
        stored if kind == "params" else {key: stored[key] for key in paligemma_shapes(TINY.model)}
    )
    assert {key: leaves[key] for key in given} == given
    assert leaves.keys() == stored.keys()
    drawn = leaves.keys() - given.keys()
    assert bool(drawn) == (kind == "archive")
    assert any(leaves[key] != stored[key] for key in drawn) == bool(drawn)


def test_evaluation_reads_prompts_with_the_named_model(
    files: Files, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    path = write_manifest((STEPS, train_part(files.params, files.tokenizer)))
    folder = prepare(path, tmp_path / "run")
    places = run_stages(folder, "dataset", "plan", "norm_stats", "train")
    run = load_run(folder.path)
    trained = find_after_training(
        run.manifest, places["train"], places["norm_stats"], 0, files=run.files
    )
    opened = open_policy(trained, sampling_steps=1)
    assert opened.identity["tokenizer"] == f"sentencepiece:{sha256_file(files.tokenizer)}"
    files.tokenizer.write_bytes(b"another")
    with pytest.raises(CheckpointError, match="tokenizer model has SHA-256"):
        open_policy(trained, sampling_steps=1)


def decisions(folder: RunFolder) -> dict[str, tuple[Action, tuple[str, ...]]]:
    run = load_run(folder.path)
    found = decide_chain(
        stages_for(run.manifest), run.manifest, run.lock, folder=folder, cache=StageCache(None)
    )
    return {
        item.stage: (item.action, tuple(change.path for change in item.changes)) for item in found
    }


def test_files_may_lie_elsewhere_but_not_be_others(
    files: Files, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    path = write_manifest((STEPS, train_part(files.params, files.tokenizer)))
    folder = prepare(path, tmp_path / "run")
    before = identity_of(load_run(folder.path).manifest)
    run_stages(folder, "dataset", "plan", "norm_stats", "train")
    moved = (tmp_path / "weights").rename(tmp_path / "elsewhere")
    path = write_manifest((STEPS, train_part(moved / "params", moved / "tokenizer.model")))
    folder = prepare(path, tmp_path / "run")
    assert identity_of(load_run(folder.path).manifest) == before
    assert [action for action, _ in decisions(folder).values()] == [*[Action.DONE] * 4, Action.RUN]

    other = train_tokenizer(moved / "other.model", vocab_size=50)
    path = write_manifest((STEPS, train_part(moved / "params", other)))
    found = decisions(prepare(path, tmp_path / "run"))
    assert [found[name][0] for name in ("dataset", "plan", "norm_stats")] == [Action.DONE] * 3
    action, changes = found["train"]
    assert action is Action.RUN
    assert set(changes) == {'files."train.tokenizer.path"', "manifest.train.tokenizer.sha256"}


def test_reused_statistics_may_lie_elsewhere_but_not_be_others(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    def prepare_reusing(path: Path) -> RunFolder:
        asked = "mode: recompute\n  subset: episodes_valid"
        manifest = write_manifest((asked, f"mode: reuse\n  path: {path}"))
        return prepare(manifest, tmp_path / "run")

    ones = np.ones(NUM_DIMS, np.float64)
    stats = Stats(mean=0 * ones, std=ones, q01=-ones, q99=ones)
    place = write_norm_stats(NormStats(state=stats, actions=stats), tmp_path / "here")
    folder = prepare_reusing(place)
    before = identity_of(load_run(folder.path).manifest)
    run_stages(folder, "dataset", "plan", "norm_stats")
    place = place.parent.rename(tmp_path / "elsewhere") / NORM_STATS_FILE
    folder = prepare_reusing(place)
    assert identity_of(load_run(folder.path).manifest) == before
    assert decisions(folder)["norm_stats"] == (Action.DONE, ())
    place.write_bytes(place.read_bytes() + b"\n")
    changes = ('files."norm_stats.path"',)
    assert decisions(prepare_reusing(place))["norm_stats"] == (Action.RUN, changes)


def test_what_is_missing_or_another_is_told_before_any_stage_runs(
    files: Files, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    def refuse(part: str) -> str:
        with pytest.raises(CheckpointError) as caught:
            prepare(write_manifest((STEPS, part)), tmp_path / "run")
        return str(caught.value)

    plain = train_part(files.params, files.tokenizer)
    text = refuse(plain.replace(str(files.params), "nowhere"))
    assert text.startswith("train.init.checkpoint: ")
    assert "nowhere is missing" in text
    text = refuse(train_part(files.params, files.tokenizer, sha256="f" * 64))
    assert "is a folder, which is pinned by `sha256-tree-v1:`" in text
    text = refuse(train_part(files.archive, files.tokenizer, sha256=f"sha256-tree-v1:{'0' * 64}"))
    assert "is a file, which is pinned by its plain SHA-256" in text
    files.tokenizer.write_bytes(b"another")
    assert "tokenizer model has SHA-256" in refuse(plain)
    files.tokenizer.unlink()
    assert "tokenizer model is missing" in refuse(plain)


def test_stages_find_files_named_over_links_where_a_container_has_them(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    linked = link_files(tmp_path, steps=0)
    path = write_manifest(*linked.replacements, name=linked.name)
    manifest = read_manifest(path)
    folder = prepare(path, tmp_path / "run")
    run = load_run(folder.path)
    exposure = Exposure(
        run_dir=folder.path,
        inputs=(dataset_root(manifest), *named_files(manifest).values()),
        hidden=(),
    )
    root = tmp_path / "container"
    copy_mounts(find_mounts(exposure), root)
    assert find_inside(root, run.dataset_root / "meta" / "info.json").is_file()
    tokenizer = find_inside(root, run.files["train.tokenizer.path"])
    assert tokenizer.read_bytes() == linked.tokenizer.read_bytes()
    stats = find_inside(root, run.files["norm_stats.path"] / NORM_STATS_FILE)
    assert stats.read_bytes() == linked.norm_stats.read_bytes()
    assert not find_inside(root, path).exists(), "the manifest's own folder is not shown"

    places = run_stages(folder, "dataset", "plan", "norm_stats", "train")
    reused = places["norm_stats"] / "content" / NORM_STATS_FILE
    assert reused.read_bytes() == linked.norm_stats.read_bytes()
    summary = json.loads((places["train"] / "content" / "run_summary.json").read_text())
    assert summary["configuration"]["tokenizer_sha256"] == sha256_file(linked.tokenizer)


def test_a_checkouts_interpreter_stays_the_link_that_knows_its_packages(
    write_manifest: WriteManifest, tmp_path: Path
) -> None:
    (tmp_path / "manifests").mkdir()
    (tmp_path / "robotwin" / "bin").mkdir(parents=True)
    (tmp_path / "robotwin" / "bin" / "python").symlink_to(sys.executable)
    (tmp_path / "linked").symlink_to("robotwin")
    checkout = "checkout: {path: ../linked, python: ../linked/bin/python}"
    path = write_manifest(
        (
            "simulator: robotwin\n  embodiment: stand_in\n  planner: ik_toppra\n  shader: minimal",
            f"simulator: robotwin-checkout\n  {checkout}",
        ),
        name="manifests/manifest.yaml",
    )
    places = places_for_stages(read_manifest(path))
    assert places == {
        "eval.checkout.path": tmp_path / "robotwin",
        "eval.checkout.python": tmp_path / "robotwin" / "bin" / "python",
    }


@pytest.mark.parametrize("engine", ["host", "docker"])
@pytest.mark.parametrize("name", [PRIVATE_KEY_FILE, PUBLIC_KEY_FILE, "link"])
@pytest.mark.parametrize("own", [False, True])
def test_a_manifest_that_names_the_signing_key_or_what_lies_beside_it_is_refused(
    engine: str,
    name: str,
    own: bool,
    write_manifest: WriteManifest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    keys = default_key_dir() if own else tmp_path / "keys"
    create_key(keys)
    (tmp_path / "link").symlink_to(keys / PRIVATE_KEY_FILE)
    named = tmp_path / name if name == "link" else keys / name
    part = f"{STEPS}\n  init: {{checkpoint: {named}, sha256: {'f' * 64}}}"
    manifest = read_manifest(write_manifest((STEPS, part), ("engine: host", f"engine: {engine}")))
    with pytest.raises(ManifestError, match=r"train\.init\.checkpoint: .* lies in "):
        resolve_lock(manifest, secrets=secret_places(tmp_path / "keys"))
    if own:
        with pytest.raises(ManifestError, match=r"train\.init\.checkpoint: .* lies in "):
            resolve_lock(manifest)


def test_a_run_refuses_a_manifest_that_names_its_key_or_passphrase(
    appliance: Appliance, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    create_key(tmp_path / "keys", passphrase=b"velvet")
    (tmp_path / "words").write_text("velvet")
    (tmp_path / "words").chmod(0o600)
    places = ("--key-dir", tmp_path / "keys", "--passphrase-file", tmp_path / "words")
    for named in (tmp_path / "keys" / PRIVATE_KEY_FILE, tmp_path / "words"):
        part = f"{STEPS}\n  init: {{checkpoint: {named}, sha256: {'f' * 64}}}"
        outcome = appliance(
            "run", write_manifest((STEPS, part)), "--run-dir", tmp_path / "run", *places
        )
        assert outcome.code == ManifestError.exit_code, outcome.err
        assert f"train.init.checkpoint: {named} lies in " in outcome.err
        assert not (tmp_path / "run" / "stages").exists()


def test_weights_that_are_others_than_pinned_stop_the_train_stage(
    files: Files, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    wrong = f"sha256-tree-v1:{'0' * 64}"
    path = write_manifest((STEPS, train_part(files.params, files.tokenizer, sha256=wrong)))
    folder = prepare(path, tmp_path / "run")
    run_stages(folder, "dataset", "plan", "norm_stats")
    with pytest.raises(CheckpointError, match=f"but {wrong} was expected"):
        execute_stage(folder.path, "train", quiet)


def test_every_file_a_manifest_names_is_listed(
    files: Files, write_manifest: WriteManifest, tmp_path: Path
) -> None:
    path = write_manifest((STEPS, train_part(files.params, files.tokenizer)))
    manifest = load_run(prepare(path, tmp_path / "run").path).manifest
    assert named_files(manifest) == {
        "train.init.checkpoint": files.params,
        "train.tokenizer.path": files.tokenizer,
    }
