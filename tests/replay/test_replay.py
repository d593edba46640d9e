"""`replay` of a bundle: what it computes again, what it says, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jsonschema
import pytest

from appliance.bundle.archive import pack_bundle
from appliance.bundle.keys import PUBLIC_KEY_FILE, create_key
from appliance.digest import digest_files
from appliance.errors import StorageError
from appliance.replay.document import read_schema
from appliance.replay.reference import expectations_path
from tests.conftest import DATASET, GOLDEN, Appliance

Change = Callable[[Callable[[Path], None]], Path]
ReplayBundle = Callable[..., dict[str, Any]]


@pytest.fixture
def replay(appliance: Appliance, original: Path, tmp_path: Path) -> ReplayBundle:
    """Replay a target; the verdict document, checked against its schema, with the exit code."""

    def run(target: Path, *options: str | Path, data: Path | None = DATASET) -> dict[str, Any]:
        place = ("--dataset-root", data) if data else ()
        outcome = appliance(
            *("replay", target, "--work-dir", tmp_path / "work", "--json"),
            *("--key-dir", original / "keys", *place, *options),
        )
        value: dict[str, Any] = json.loads(outcome.out)
        jsonschema.Draft202012Validator(read_schema()).validate(value)
        return {**value, "code": outcome.code, "err": outcome.err}

    return run


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(read_schema())


def test_r1_of_an_intact_bundle_is_reproduced(original: Path, replay: ReplayBundle) -> None:
    said = replay(original / "bundle", "--level", "R1")
    assert (said["code"], said["verdict"], said["level"]) == (0, "REPRODUCED", "R1")
    assert said["levels"]["R0"]["status"] == "shown"
    assert {stage["stage"] for stage in said["stages"]} >= {"dataset", "plan", "norm_stats"}
    assert all(stage["different"] == 0 for stage in said["stages"])
    assert sum(stage["equal"] for stage in said["stages"]) > 300
    assert said["platform"]["same"]


def test_an_archive_replays_like_its_folder(
    original: Path, tmp_path: Path, replay: ReplayBundle
) -> None:
    archive = tmp_path / "bundle.tar.gz"
    pack_bundle(original / "bundle", archive)
    said = replay(archive, "--level", "R1")
    assert (said["verdict"], said["subject"]["kind"]) == ("REPRODUCED", "archive")


def test_nothing_of_the_original_is_touched(original: Path, replay: ReplayBundle) -> None:
    def state() -> dict[str, Any]:
        times = {path: path.stat().st_mtime_ns for path in sorted(original.rglob("*"))}
        return {"digests": digest_files(original / "bundle"), "times": times}

    before = state()
    replay(original / "bundle", "--level", "R1")
    assert state() == before


def test_without_the_dataset_only_the_bundle_is_checked_and_that_is_said(
    original: Path, tmp_path: Path, replay: ReplayBundle
) -> None:
    said = replay(original / "bundle", data=tmp_path / "nowhere")
    assert (said["code"], said["verdict"], said["level"]) == (41, "INCONCLUSIVE", "R0")
    assert "--dataset-root" in said["reason"]


def test_other_data_are_invalid_inputs(
    original: Path, tmp_path: Path, replay: ReplayBundle
) -> None:
    other = GOLDEN / "data" / "stack_blocks_two-stand_in-10"
    said = replay(original / "bundle", data=other)
    assert (said["code"], said["verdict"]) == (42, "INVALID INPUTS")
    assert "dataset.fingerprint" in said["reason"]


def test_a_bundle_that_is_not_intact_is_invalid_input_and_nothing_is_computed(
    original: Path, tmp_path: Path, replay: ReplayBundle
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(original / "bundle", copy)
    path = copy / "content" / "plan" / "exposure.json"
    path.write_bytes(path.read_bytes() + b" ")
    said = replay(copy)
    assert (said["code"], said["verdict"], said["stages"]) == (42, "INVALID INPUTS", [])
    assert "content/plan/exposure.json" in said["reason"]


@pytest.mark.parametrize(
    ("file", "path", "change", "stage", "difference"),
    [
        (
            *("plan/exposure.json", ["exposure_expected_unique"], lambda value: value * 1.01),
            *("plan", "plan.exposure.exposure_expected_unique"),
        ),
        (
            *("norm_stats/norm_stats.json", ["norm_stats", "state", "mean", 5]),
            *(lambda value: value + 1e-12, "norm_stats", "norm_stats.norm_stats.state.mean[5]"),
        ),
        (
            *("train/run_summary.json", ["configuration", "train_config", "model", "action_dim"]),
            *(
                lambda value: value + 1,
                "train",
                "train.configuration.train_config.model.action_dim",
            ),
        ),
    ],
)
def test_a_bundle_that_says_something_else_is_not_reproduced(
    changed_bundle: Change,
    replay: ReplayBundle,
    file: str,
    path: list[Any],
    change: Callable[[Any], Any],
    stage: str,
    difference: str,
) -> None:
    def edit(content: Path) -> None:
        value = json.loads((content / file).read_bytes())
        place = value
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = change(place[path[-1]])
        (content / file).write_text(json.dumps(value))

    said = replay(changed_bundle(edit), "--level", "R1", "--key-dir", DATASET)
    assert (said["code"], said["verdict"]) == (40, "NOT REPRODUCED")
    first = next(each for each in said["stages"] if each["first_difference"])
    assert (first["stage"], first["first_difference"]["path"]) == (stage, difference)
    assert f"stage {stage}, {difference}" in said["reason"]
    assert said["levels"]["R2"]["reason"] == "an earlier stage came out differently"


def test_an_unknown_signer_is_named_but_does_not_stop_a_replay(
    original: Path, tmp_path: Path, replay: ReplayBundle
) -> None:
    said = replay(original / "bundle", "--level", "R1", "--key-dir", tmp_path / "no-keys")
    assert said["verdict"] == "REPRODUCED"
    assert "do not trust" in said["levels"]["R0"]["reason"]


def test_r4_needs_the_originals_checkpoint(original: Path, appliance: Appliance) -> None:
    outcome = appliance("replay", original / "bundle", "--level", "R4")
    assert outcome.code == 44
    assert "--artifacts" in outcome.err


@pytest.mark.parametrize(
    "options", [("--level", "R0"), ("--level", "7"), ("--spot-check", "3"), ("--spot-check", "0:0")]
)
def test_what_cannot_be_asked_is_refused(
    original: Path, appliance: Appliance, options: tuple[str, str]
) -> None:
    outcome = appliance("replay", original / "bundle", *options)
    assert outcome.code == 44
    assert options[0] in outcome.err


def test_a_folder_with_other_things_is_not_worked_in(
    original: Path, tmp_path: Path, appliance: Appliance
) -> None:
    (tmp_path / "thesis.txt").write_text("precious")
    outcome = appliance("replay", original / "bundle", "--work-dir", tmp_path, "--level", "R1")
    assert outcome.code == 30
    assert (tmp_path / "thesis.txt").read_text() == "precious"


def test_a_countersignature_carries_the_verdict_and_verify_shows_it(
    original: Path, tmp_path: Path, replay: ReplayBundle, appliance: Appliance
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(original / "bundle", copy)
    before = digest_files(copy)
    replay(copy, "--level", "R1", "--sign")
    assert digest_files(copy) == before
    outcome = appliance("verify", copy, "--key-dir", original / "keys", "--json")
    signed = json.loads(outcome.out)["countersignatures"]
    assert [each["replay"]["verdict"] for each in signed] == ["REPRODUCED"]


@pytest.mark.parametrize("passphrase", [None, "wrong"])
def test_what_cannot_be_signed_is_refused_before_anything_is_computed(
    original: Path, tmp_path: Path, appliance: Appliance, passphrase: str | None
) -> None:
    keys = tmp_path / "keys"
    options: tuple[str | Path, ...] = ("--dataset-root", DATASET, "--sign", "--level", "R1")
    if passphrase is not None:
        (tmp_path / "words").write_text(passphrase)
        (tmp_path / "words").chmod(0o600)
        create_key(keys, passphrase=b"right")
        key = original / "keys" / PUBLIC_KEY_FILE
        options += ("--passphrase-file", tmp_path / "words", "--key", key)
    for target in (original / "bundle", GOLDEN / "smoke.yaml"):  # of unknown origin; no bundle
        work = tmp_path / "work"
        outcome = appliance("replay", target, "--key-dir", keys, "--work-dir", work, *options)
        is_key = passphrase is not None and target.name == "bundle"
        assert outcome.code == (23 if is_key else 44), outcome.out
        assert ("passphrase" if is_key else "countersign") in outcome.err
        assert not work.exists()
    assert not list(original.glob("*.vsa.*"))


@pytest.mark.parametrize("damaged", [False, True])
def test_a_verdict_that_cannot_be_signed_is_given_out_with_its_own_code(
    original: Path, tmp_path: Path, appliance: Appliance, *, damaged: bool
) -> None:
    bundle = shutil.copytree(original / "bundle", tmp_path / "bundle")
    if damaged:
        (bundle / "VERIFY.md").unlink()
    outcome = appliance(
        *("replay", bundle, "--key-dir", original / "keys", "--level", "R1", "--sign"),
        *("--dataset-root", tmp_path / "nowhere", "--output", tmp_path / "verdict.json"),
        *("--work-dir", tmp_path / "work", "--junit", tmp_path / "junit.xml"),
    )
    said = json.loads((tmp_path / "verdict.json").read_bytes())
    verdict = "INVALID INPUTS" if damaged else "INCONCLUSIVE"
    assert (outcome.code, said["verdict"]) == (42 if damaged else 41, verdict)
    assert f"not countersigned, because the verdict is {verdict}" in outcome.err
    assert verdict in outcome.out
    assert (tmp_path / "junit.xml").is_file()
    assert not list(tmp_path.glob("*.vsa.*"))


def test_a_verdict_whose_signature_cannot_be_written_is_given_out_all_the_same(
    original: Path, tmp_path: Path, appliance: Appliance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> Path:
        raise StorageError("the folder of the bundle cannot be written to")

    monkeypatch.setattr("appliance.cli.replays.countersign", fail)
    options = ("--key-dir", original / "keys", "--level", "R1", "--sign", "--json")
    outcome = appliance(
        *("replay", original / "bundle", "--dataset-root", DATASET, *options),
        *("--work-dir", tmp_path / "work"),
    )
    assert outcome.code == StorageError.exit_code
    assert json.loads(outcome.out)["verdict"] == "REPRODUCED"
    assert "cannot be written to" in outcome.err


def golden_folder(folder: Path) -> Path:
    """The smoke golden alone, with its data where it looks for them."""
    folder.mkdir()
    (folder / "data").symlink_to(GOLDEN / "data")
    for path in (GOLDEN / "smoke.yaml", expectations_path(GOLDEN / "smoke.yaml")):
        shutil.copy(path, folder)
    return folder


def test_a_folder_of_goldens_is_replayed_one_by_one(tmp_path: Path, appliance: Appliance) -> None:
    folder = golden_folder(tmp_path / "golden")
    text = (folder / "smoke.yaml").read_text("utf-8")
    (folder / "wrong.yaml").write_text(text.replace("plan_seed: 0", "plan_sed: 0"), "utf-8")
    outcome = appliance(
        *("replay", folder, "--level", "R1", "--work-dir", tmp_path / "work"),
        *("--junit", tmp_path / "junit.xml", "--summary", tmp_path / "summary.md"),
    )
    assert outcome.code == 10  # the broken manifest's own code
    assert "REPRODUCED" in outcome.out
    assert "plan_sed" in outcome.err
    suites = ElementTree.parse(tmp_path / "junit.xml").getroot()
    assert (suites.get("errors"), suites.get("failures")) == ("1", "0")
    summary = (tmp_path / "summary.md").read_text("utf-8")
    assert "smoke.yaml` | ✅ REPRODUCED | R1 |" in summary
    assert "wrong.yaml` | 🛑 ERROR" in summary


def test_every_golden_is_what_its_expectations_say_up_to_r1(
    tmp_path: Path, appliance: Appliance
) -> None:
    """If this fails after a change that is meant: appliance replay manifests/golden --record."""
    outcome = appliance(
        *("replay", GOLDEN, "--level", "R1", "--work-dir", tmp_path / "work", "--json"),
        *("--key-dir", tmp_path / "keys"),
    )
    said = {each["subject"]["name"]: each for each in json.loads(outcome.out)}
    assert len(said) == len(list(GOLDEN.glob("*.yaml"))) == 3
    assert {name: each["verdict"] for name, each in said.items()} == dict.fromkeys(
        said, "REPRODUCED"
    ), outcome.err
    assert {each["levels"]["R1"]["status"] for each in said.values()} == {"shown"}
    assert outcome.code == 0
    assert all(expectations_path(path).is_file() for path in GOLDEN.glob("*.yaml"))


def test_a_golden_whose_manifest_moved_on_says_which_field(
    tmp_path: Path, appliance: Appliance
) -> None:
    folder = golden_folder(tmp_path / "golden")
    path = folder / "smoke.yaml"
    path.write_text(path.read_text("utf-8").replace("plan_seed: 0", "plan_seed: 4"), "utf-8")
    outcome = appliance("replay", path, "--level", "R1", "--work-dir", tmp_path / "work")
    assert outcome.code == 40
    assert "manifest.manifest.plan.plan_seed: expected 0, found 4" in outcome.out


def test_a_golden_without_expectations_is_compared_with_its_own_pins(
    tmp_path: Path, appliance: Appliance
) -> None:
    folder = golden_folder(tmp_path / "golden")
    expectations_path(folder / "smoke.yaml").unlink()
    options = ("--level", "R1", "--work-dir", tmp_path / "work")
    assert appliance("replay", folder / "smoke.yaml", *options).code == 0
    path = folder / "smoke.yaml"
    text = path.read_text("utf-8")
    pin = text.partition("norm_stats_sha256: ")[2].split()[0]
    path.write_text(text.replace(pin, "ab" * 32), "utf-8")
    outcome = appliance("replay", path, *options)
    assert outcome.code == 40
    assert "expect.pins.norm_stats_sha256" in outcome.out


def test_an_empty_folder_is_no_target(tmp_path: Path, appliance: Appliance) -> None:
    outcome = appliance("replay", tmp_path)
    assert outcome.code == 10
    assert "holds no manifest" in outcome.err


def test_recorded_expectations_are_met_at_once(tmp_path: Path, appliance: Appliance) -> None:
    folder = golden_folder(tmp_path / "golden")
    expected = expectations_path(folder / "smoke.yaml")
    before = json.loads(expected.read_bytes())
    options = ("--level", "R1", "--work-dir", tmp_path / "work")
    assert appliance("replay", folder / "smoke.yaml", "--record", *options).code == 0
    after = json.loads(expected.read_bytes())
    for stage in ("dataset", "plan", "norm_stats"):  # a manifest may have gained keys
        assert after["facts"][stage] == before["facts"][stage]
    assert after["recorded"]["seconds"]["train"] == before["recorded"]["seconds"]["train"]
    assert appliance("replay", folder / "smoke.yaml", *options).code == 0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "plan-star-expectations-v2"}',
        '{"format": "plan-star-expectations-v1", "facts": [], "recorded": {}}',
        '{"format": "plan-star-expectations-v1", "facts": {"train": []}, "recorded": {}}',
        '{"format": "plan-star-expectations-v1", "facts": {"train": {"steps": 1}}, "recorded": {}}',
        (
            '{"format": "plan-star-expectations-v1", "facts": {"evaluate": {"episodes": {"0": 1}}},'
            ' "recorded": {}}'
        ),
    ],
)
def test_damaged_expectations_are_refused(tmp_path: Path, appliance: Appliance, text: str) -> None:
    folder = golden_folder(tmp_path / "golden")
    expectations_path(folder / "smoke.yaml").write_text(text)
    outcome = appliance("replay", folder / "smoke.yaml", "--work-dir", tmp_path / "work")
    assert outcome.code in (10, 30)
    assert "expected.json" in outcome.err
