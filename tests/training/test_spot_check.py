"""Some steps taken again are the run's own steps, bit for bit, from any kept checkpoint."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from appliance.digest import digest_files
from appliance.errors import CheckpointError, TrainingError
from appliance.plan.files import read_plan
from appliance.training.configuration import resolve_configuration
from appliance.training.loop import ignore_progress
from appliance.training.request import TrainRequest
from appliance.training.spot_check import Passage, replay_steps
from tests.training.small_run import CONFIG, make_request, run

pytestmark = pytest.mark.usefixtures("compiled_dir")
RECORDS = ("curve.jsonl", "hash_chain.jsonl")


@pytest.fixture(scope="module")
def planned(assets: Path) -> TrainRequest:
    return make_request(
        assets,
        sampling_plan_path=assets / "plan",
        save_interval=2,
        budget_aware_schedule=True,
        plan_aware_lr_scale=True,
    )


@pytest.fixture(scope="module")
def original(
    planned: TrainRequest, compiled_dir: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A finished run of 6 steps that kept the checkpoints 2, 4 and 6."""
    out = tmp_path_factory.mktemp("original")
    run(planned, out)
    return out


def checkpoints_of(out: Path) -> Path:
    return out / "artifacts" / "checkpoints" / CONFIG.name / "test"


def lines_of(folder: Path, name: str) -> list[str]:
    return (folder / name).read_text("ascii").splitlines()


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 3), (2, 2), (4, 2)])
def test_the_steps_are_those_of_the_run(
    planned: TrainRequest, original: Path, tmp_path: Path, first: int, count: int
) -> None:
    before = digest_files(original)
    passage = Passage(
        first_step=first,
        num_steps=count,
        checkpoints=checkpoints_of(original) if first else None,
    )
    replay_steps(planned, passage, tmp_path, ignore_progress)
    for name in RECORDS:
        expected = lines_of(original / "content", name)[first : first + count]
        assert lines_of(tmp_path, name) == expected
    assert digest_files(original) == before


def test_another_seed_is_found_at_the_first_step(
    planned: TrainRequest, original: Path, tmp_path: Path
) -> None:
    passage = Passage(first_step=0, num_steps=1, checkpoints=None)
    replay_steps(replace(planned, seed=43), passage, tmp_path, ignore_progress)
    assert lines_of(tmp_path, RECORDS[1]) != lines_of(original / "content", RECORDS[1])[:1]


def test_a_changed_checkpoint_is_refused(
    planned: TrainRequest, original: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints_of(original), copy)
    position = copy / "2" / "position.json"
    value = json.loads(position.read_bytes())
    position.write_text(json.dumps({**value, "state_digest": "0" * 64}))
    passage = Passage(first_step=2, num_steps=1, checkpoints=copy)
    with pytest.raises(CheckpointError, match="not what was saved"):
        replay_steps(planned, passage, tmp_path / "out", ignore_progress)


def test_parameters_that_are_not_those_named_beside_them_are_refused(
    planned: TrainRequest, original: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkpoints_of(original), copy)
    position = copy / "2" / "position.json"
    value = json.loads(position.read_bytes())
    claimed = json.loads((copy / "4" / "position.json").read_bytes())["leaves"]
    position.write_text(json.dumps({**value, "leaves": claimed}))
    passage = Passage(first_step=2, num_steps=1, checkpoints=copy)
    with pytest.raises(
        CheckpointError, match=r"not what was saved \(parameters or their digests\)"
    ):
        replay_steps(planned, passage, tmp_path / "out", ignore_progress)


@pytest.mark.parametrize(
    ("first", "count", "error", "text"),
    [
        (5, 2, TrainingError, "steps 0 to 5"),
        (0, 7, TrainingError, "steps 0 to 5"),
        (2, 1, TrainingError, "--artifacts"),
    ],
)
def test_steps_outside_the_run_are_refused(
    planned: TrainRequest,
    tmp_path: Path,
    first: int,
    count: int,
    error: type[Exception],
    text: str,
) -> None:
    passage = Passage(first_step=first, num_steps=count, checkpoints=None)
    with pytest.raises(error, match=text):
        replay_steps(planned, passage, tmp_path, ignore_progress)


def test_a_step_without_a_checkpoint_names_those_there_are(
    planned: TrainRequest, original: Path, tmp_path: Path
) -> None:
    passage = Passage(first_step=3, num_steps=1, checkpoints=checkpoints_of(original))
    with pytest.raises(CheckpointError, match="There are: 2, 4, 6"):
        replay_steps(planned, passage, tmp_path, ignore_progress)


def test_the_configuration_resolved_beforehand_is_the_one_in_force(
    planned: TrainRequest, original: Path
) -> None:
    summary = json.loads((original / "content" / "run_summary.json").read_bytes())
    assert planned.sampling_plan_path is not None
    resolved = resolve_configuration(planned, read_plan(planned.sampling_plan_path))
    assert json.loads(json.dumps(resolved)) == summary["configuration"]
