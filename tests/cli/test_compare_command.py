from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from appliance.bundle.archive import pack_bundle
from appliance.files import write_json
from tests.conftest import Appliance
from tests.evaluation.fakes import NoisePolicy, run_evaluation


@pytest.fixture
def evaluations(tmp_path: Path) -> tuple[Path, Path]:
    """Two evaluations of six common trials: one fails the first, the other none."""
    for name, fails in (("ours", []), ("theirs", [100000])):
        run_evaluation(tmp_path / name, policy=NoisePolicy(fails=fails), episodes=6)
    return tmp_path / "ours", tmp_path / "theirs"


def test_the_sentence_names_both_folders(
    appliance: Appliance, evaluations: tuple[Path, Path]
) -> None:
    outcome = appliance("compare", *evaluations)
    assert outcome.code == 0, outcome.err
    assert outcome.out.startswith("On the same 6 trials ours succeeded in 6 of 6 (100.0 %")
    assert "Not decided" in outcome.out


def test_json_holds_every_figure(appliance: Appliance, evaluations: tuple[Path, Path]) -> None:
    outcome = appliance(
        *("compare", *evaluations, "--margin", "0.3", "--first-label", "A", "--json")
    )
    value = json.loads(outcome.out)
    assert value["paired"] is True
    assert value["pairs"] == {"both": 5, "only_first": 1, "only_second": 0, "neither": 0}
    assert value["mcnemar_p"] == 1.0
    assert value["first"]["label"] == "A"
    assert set(value["equivalence"]) >= {"p", "is_equivalent", "margin", "interval"}


def test_run_folders_stage_folders_and_bundles_are_taken_too(
    appliance: Appliance, evaluations: tuple[Path, Path], tmp_path: Path
) -> None:
    content = evaluations[0] / "content"
    bundle = tmp_path / "bundle"
    (bundle / "content").mkdir(parents=True)
    (bundle / "content" / "evaluate").symlink_to(content)
    run = tmp_path / "run"
    (run / "stages").mkdir(parents=True)
    (run / "stages" / "evaluate-123").symlink_to(evaluations[0])
    write_json(run / "run.json", {"stages": {"evaluate": "evaluate-123"}})
    for place in (content, bundle, run, run / "stages" / "evaluate-123"):
        outcome = appliance("compare", place, evaluations[1], "--json")
        assert outcome.code == 0, outcome.err
        assert json.loads(outcome.out)["first"]["successes"] == 6


def test_a_bundles_archive_is_taken_as_its_folder_is(
    appliance: Appliance, evaluations: tuple[Path, Path], tmp_path: Path
) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(evaluations[0] / "content", bundle / "content" / "evaluate")
    archive = tmp_path / "packed.tar.gz"
    pack_bundle(bundle, archive)
    packed = appliance("compare", archive, evaluations[1], "--first-label", "ours", "--json")
    assert packed.code == 0, packed.err
    folder = appliance("compare", bundle, evaluations[1], "--first-label", "ours", "--json")
    assert json.loads(packed.out) == json.loads(folder.out)
    data = archive.read_bytes()
    archive.write_bytes(data[: len(data) // 2])
    assert appliance("compare", archive, evaluations[1]).code == 20


def test_what_cannot_be_compared_is_a_clear_error(
    appliance: Appliance, evaluations: tuple[Path, Path], tmp_path: Path
) -> None:
    other = run_evaluation(tmp_path / "other", task="stack_blocks_two").parent
    for arguments, text in (
        ((evaluations[0], tmp_path / "nowhere"), "no finished evaluation there"),
        ((evaluations[0], other), "differ in task: 'touch_block' and 'stack_blocks_two'"),
    ):
        outcome = appliance("compare", *arguments)
        assert outcome.code == 17, outcome.err
        assert text in outcome.err
        assert "Traceback" not in outcome.err


def test_a_margin_or_a_level_that_cannot_be_tested_is_a_wrong_command_line(
    appliance: Appliance, evaluations: tuple[Path, Path]
) -> None:
    for options, text in (
        (("--margin", "1.5"), "margin: 1.5 is not between 0 and 1"),
        (("--margin", "0.1", "--alpha", "0"), "alpha: 0.0 is not between"),
        (("--alpha", "5"), "alpha: 5.0 is not between"),
        (("--alpha", "-1"), "alpha: -1.0 is not between"),
        (("--alpha", "nan"), "alpha: nan is not between"),
    ):
        outcome = appliance("compare", *evaluations, *options)
        assert outcome.code == 2, outcome.err
        assert text in outcome.err
        assert "Traceback" not in outcome.err


def test_other_trials_are_asked_for_by_side(appliance: Appliance, tmp_path: Path) -> None:
    for name, fails, seed in (("ours", [], 0), ("theirs", [200000, 200001], 1)):
        run_evaluation(tmp_path / name, policy=NoisePolicy(fails=fails), episodes=9, seed=seed)
    outcome = appliance("compare", tmp_path / "ours", tmp_path / "theirs")
    assert outcome.code == 0, outcome.err
    assert "trials a side would tell them apart" in outcome.out


def test_records_that_are_damaged_are_a_clear_error(
    appliance: Appliance, evaluations: tuple[Path, Path]
) -> None:
    path = evaluations[0] / "content" / "metrics.json"
    for text, code in (("[]", 17), ("{", 30), ('{"policy": {}}', 17), ('{"policy": 3}', 17)):
        path.write_text(text)
        outcome = appliance("compare", *evaluations)
        assert outcome.code == code, outcome.err
        assert "Traceback" not in outcome.err


def test_comparing_needs_the_core_install_alone() -> None:
    code = (
        "import sys, appliance.cli.comparisons;"
        "sys.exit(bool({'av','jax','torch','sapien','scipy','websockets','msgpack'}"
        " & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
