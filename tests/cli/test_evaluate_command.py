"""Which checkpoint `evaluate` takes, and that what it prints says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from appliance.cli.evaluations import describe_metrics, find_policy
from appliance.cli.policies import PolicyPlace
from appliance.errors import CheckpointError
from appliance.stages.manifest import read_manifest
from appliance.stages.trained_policy import PolicyFiles
from tests.evaluation.fakes import run_evaluation

Find = Callable[..., PolicyFiles]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Path:
    """A folder of the checkpoints 10 and 20, with all of their files that are looked for."""
    for step in (10, 20):
        folder = tmp_path / "checkpoints" / str(step)
        (folder / "params").mkdir(parents=True)
        (folder / "assets" / "arm").mkdir(parents=True)
        (folder / "assets" / "arm" / "norm_stats.json").write_text("{}")
    return tmp_path / "checkpoints"


@pytest.fixture
def find(write_manifest: Callable[..., Path]) -> Find:
    def find_files(folder: Path, *, says: str, step: str | None = None) -> PolicyFiles:
        manifest = write_manifest(
            ("checkpoint: latest", f"checkpoint: {says}"),
            ("  steps: 20\n", "  steps: 20\n  save_interval: 5\n"),
        )
        place = PolicyPlace(
            run_dir=None, checkpoint=folder, step=step, norm_stats=None, tokenizer=None
        )
        return find_policy(read_manifest(manifest), place)

    return find_files


def test_of_several_checkpoints_the_manifests_is_taken_unless_step_names_another(
    find: Find, checkpoints: Path
) -> None:
    assert find(checkpoints, says="10").step == 10
    assert find(checkpoints, says="latest").step == 20
    taken = find(checkpoints, says="10", step="20")
    assert (taken.step, taken.params_dir) == (20, checkpoints / "20" / "params")
    with pytest.raises(CheckpointError, match=r"no checkpoint 15\. There are: 10, 20"):
        find(checkpoints, says="15")


def test_the_folder_of_one_checkpoint_is_that_one_whatever_the_manifest_says(
    find: Find, checkpoints: Path
) -> None:
    assert find(checkpoints / "20", says="10").step == 20


def test_the_printed_score_names_the_checkpoint(tmp_path: Path) -> None:
    content = run_evaluation(tmp_path, episodes=1)
    metrics = json.loads((content / "metrics.json").read_text())
    metrics["policy"] = {"config": "pi0_tiny_aloha_robotwin", "checkpoint": 10}
    said = describe_metrics(metrics, tmp_path)
    assert "Policy: pi0_tiny_aloha_robotwin, checkpoint 10\n" in said
    metrics["policy"] = {"server_metadata": {}}
    assert "Policy:" not in describe_metrics(metrics, tmp_path)
