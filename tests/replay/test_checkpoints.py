"""Only the original's own checkpoints are evaluated or trained on from."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import ReplayError
from appliance.files import write_json
from appliance.manifest.model import Manifest
from appliance.replay.checkpoints import (
    TrainedFiles,
    describe_other_checkpoint,
    describe_other_start,
)
from appliance.replay.comparison import Outcome, Setting, compare_stage
from appliance.replay.places import Places
from appliance.replay.reference import Reference, Surroundings
from appliance.replay.subject import Subject, open_subject
from appliance.stages.manifest import read_manifest
from appliance.stages.receipt import Receipt, seal_folder
from tests.conftest import DATASET, GOLDEN, Appliance
from tests.replay.conftest import STEPS, sign_bundle

LEAVES = {"w": "cd" * 32, "b": "ab" * 32}
OTHER = {**LEAVES, "b": "ef" * 32}
CHAIN = "12" * 32


@pytest.fixture(scope="module")
def manifest() -> Manifest:
    return read_manifest(GOLDEN / "smoke.yaml")


def lay_out(
    place: Path, manifest: Manifest, leaves: Mapping[str, Any], chain: str = CHAIN
) -> TrainedFiles:
    """The folder of a train stage that kept checkpoints with these ``leaves``, by step."""
    files = TrainedFiles(content=place / "content", artifacts=place / "artifacts")
    write_json(files.content / "checkpoint_leaves.json", dict(leaves))
    write_json(files.content / "run_summary.json", {})
    for step, digests in leaves.items():
        position = {"step": int(step), "chain": chain, "leaves": digests, "state_digest": "0"}
        write_json(files.checkpoints(manifest) / step / "position.json", position)
    return files


def recorded_as(checkpoints: Mapping[str, Any], chain: str = CHAIN) -> Reference:
    nothing = Surroundings(packages={}, platform={}, sources={})
    train = {"checkpoints": checkpoints, "steps": {"9": {"digest": chain}, "19": {"digest": chain}}}
    return Reference(facts={"train": train}, surroundings=nothing, seconds={}, is_recorded=False)


def test_the_originals_own_checkpoints_are_taken(tmp_path: Path, manifest: Manifest) -> None:
    leaves = {"10": LEAVES, "20": OTHER}
    trained, theirs = lay_out(tmp_path, manifest, leaves), recorded_as(leaves)
    assert describe_other_checkpoint(trained, manifest, theirs, is_bundle=True) is None
    for step in (10, 20):
        assert describe_other_start(trained, manifest, theirs, step, is_bundle=True) is None


@pytest.mark.parametrize(
    ("at_hand", "recorded", "text"),
    [
        ({"20": OTHER}, {"20": LEAVES}, "1 of 2 parameters have other digests, first b"),
        ({"20": LEAVES}, {"20": {}}, "the original recorded no checkpoint at step 20"),
        ({"20": LEAVES}, {}, "the original recorded no checkpoint at step 20"),
        ({"20": LEAVES, "30": LEAVES}, {"20": LEAVES}, "no checkpoint at step 30"),
        ({"10": OTHER, "20": LEAVES}, {"10": LEAVES, "20": LEAVES}, "differ at step 10"),
        ({"10": LEAVES, "20": {}}, {"20": LEAVES}, "recorded no checkpoint at step 20"),
    ],
)
def test_another_checkpoint_is_not_evaluated_and_its_step_is_named(
    tmp_path: Path, manifest: Manifest, at_hand: Any, recorded: Any, text: str
) -> None:
    trained = lay_out(tmp_path, manifest, at_hand)
    why = describe_other_checkpoint(trained, manifest, recorded_as(recorded), is_bundle=True)
    assert why is not None
    assert text in why


def test_a_checkpoint_that_training_did_not_record_is_not_evaluated(
    tmp_path: Path, manifest: Manifest
) -> None:
    trained = lay_out(tmp_path, manifest, {"20": LEAVES})
    (trained.checkpoints(manifest) / "99").mkdir()
    for reference in (recorded_as({"20": LEAVES}), None):
        why = describe_other_checkpoint(
            trained, manifest, reference, is_bundle=reference is not None
        )
        assert why is not None
        assert "at step 99" in why


def test_a_manifest_without_recorded_checkpoints_has_nothing_to_compare_with(
    tmp_path: Path, manifest: Manifest
) -> None:
    trained = lay_out(tmp_path, manifest, {"10": LEAVES, "20": LEAVES})
    for reference in (None, recorded_as({})):
        assert describe_other_checkpoint(trained, manifest, reference, is_bundle=False) is None
        assert describe_other_start(trained, manifest, reference, 10, is_bundle=False) is None


def test_training_goes_on_only_from_the_originals_checkpoint(
    tmp_path: Path, manifest: Manifest
) -> None:
    trained = lay_out(tmp_path, manifest, {"10": LEAVES})
    other = describe_other_start(trained, manifest, recorded_as({"10": OTHER}), 10, is_bundle=True)
    assert other is not None
    assert "checkpoint at step 10" in other
    chain = describe_other_start(
        trained, manifest, recorded_as({"10": LEAVES}, "34" * 32), 10, is_bundle=True
    )
    assert chain is not None
    assert "hash chain" in chain
    nowhere = {"9" * 5000: LEAVES}
    for recorded, step in (({"20": LEAVES}, 10), ({"10": LEAVES}, 20), ({}, 10), (nowhere, 10)):
        with pytest.raises(ReplayError, match=f"no checkpoint at step {step}"):
            describe_other_start(trained, manifest, recorded_as(recorded), step, is_bundle=True)


@pytest.mark.parametrize("same_platform", [True, False])
def test_the_digest_of_an_adopted_checkpoint_is_expected_everywhere(*, same_platform: bool) -> None:
    expected, found = (
        {"metrics": {"policy": {"params": f"sha256-tree-v1:{digit * 64}"}}} for digit in "ab"
    )
    adopting = Setting(same_platform=same_platform, trials_bind=False, checkpoint_binds=True)
    compared = compare_stage("evaluate", expected, found, adopting)
    assert [row.path for row in compared.differences] == ["evaluate.metrics.policy.params"]
    elsewhere = compare_stage("evaluate", expected, found, Setting(same_platform=False))
    assert elsewhere.counts == {Outcome.NOT_COMPARABLE: 1}


def make_run_folder(base: Path, manifest: Manifest) -> tuple[Path, dict[str, Receipt]]:
    """A run folder with two trainings, of which the new one is the present one."""
    run = base / "run"
    receipts = {}
    for name, leaves in (("old", {str(STEPS): {"w": "cd" * 32}}), ("new", {str(STEPS): OTHER})):
        place = base / name
        lay_out(place, manifest, leaves)
        times = {"started_utc": "2026-01-01T00:00:00+00:00", "seconds": 1.0}
        receipts[name] = seal_folder(
            place, stage="train", key_parts={"name": name}, times=times, host={}
        )
        shutil.copytree(place, run / "stages" / f"train-{receipts[name].key[:12]}")
    write_json(run / "run.json", {"stages": {"train": f"train-{receipts['new'].key[:12]}"}})
    return run, receipts


@pytest.fixture
def bundle_of_old(original: Path, tmp_path: Path, manifest: Manifest) -> Path:
    """A bundle in a run folder where something else was trained since; it has its receipt."""
    run, receipts = make_run_folder(tmp_path, manifest)
    write_json(tmp_path / "receipt.json", receipts["old"].to_dict())
    signed = sign_bundle(
        tmp_path,
        manifest,
        original / "content",
        observed={"receipts/train.json": tmp_path / "receipt.json"},
    )
    shutil.copytree(signed, run / "bundles" / "aaaa")
    return run / "bundles" / "aaaa"


def open_trained(bundle: Path, places: Places) -> str | None:
    with open_subject(bundle, places) as subject:
        assert isinstance(subject, Subject)
        if subject.trained is None:
            return None
        leaves = json.loads((subject.trained.content / "checkpoint_leaves.json").read_bytes())
        return "old" if leaves == {str(STEPS): {"w": "cd" * 32}} else "new"


def test_of_a_run_folder_the_training_that_the_bundle_names_is_taken(
    bundle_of_old: Path, original: Path, tmp_path: Path
) -> None:
    assert open_trained(bundle_of_old, Places()) == "old"
    run = bundle_of_old.parent.parent
    alone = original / "bundle"  # without receipts, so it names no training
    assert open_trained(alone, Places()) is None
    shutil.copytree(alone, run / "bundles" / "bbbb")
    assert open_trained(run / "bundles" / "bbbb", Places()) is None
    assert open_trained(alone, Places(artifacts=run)) == "new"
    assert open_trained(bundle_of_old, Places(artifacts=run)) == "old"


def test_evaluating_another_trainings_checkpoint_is_invalid_input(
    bundle_of_old: Path, original: Path, tmp_path: Path, appliance: Appliance
) -> None:
    run = bundle_of_old.parent.parent
    outcome = appliance(
        *("replay", original / "bundle", "--level", "R4", "--artifacts", run),
        *("--dataset-root", DATASET, "--work-dir", tmp_path / "work", "--json"),
        *("--key-dir", original / "keys"),
    )
    assert outcome.code == 42, outcome.err
    said = json.loads(outcome.out)
    assert said["verdict"] == "INVALID INPUTS"
    assert f"checkpoint at step {STEPS}" in said["reason"]
    assert "not the original's" in said["reason"]
    assert not (tmp_path / "work" / "run").exists()


@pytest.mark.slow
def test_parameters_that_are_not_those_recorded_are_invalid_input(
    original: Path, manifest: Manifest, tmp_path: Path, appliance: Appliance
) -> None:
    """The records say that it is the original's checkpoint; the files are none at all."""
    _, receipts = make_run_folder(tmp_path, manifest)
    run = tmp_path / "run"
    write_json(run / "run.json", {"stages": {"train": f"train-{receipts['old'].key[:12]}"}})
    outcome = appliance(
        *("replay", original / "bundle", "--level", "R4", "--artifacts", run),
        *("--dataset-root", DATASET, "--work-dir", tmp_path / "work", "--json"),
        *("--key-dir", original / "keys"),
    )
    assert outcome.code == 42, outcome.err
    said = json.loads(outcome.out)
    assert said["verdict"] == "INVALID INPUTS"
    assert "stage evaluate refused the checkpoint" in said["reason"]
    assert said["levels"]["R4"]["status"] == "not tested"
