"""`appliance train`: its flags are the schema's; it trains, goes on, sets aside, refuses."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from appliance.cli.train_flags import OF_THE_COMMAND, OF_THE_RUNTIME, settings
from appliance.engine.pinned import PINNED
from appliance.errors import StorageError
from appliance.files import set_aside
from appliance.manifest.schema import default_values, schema_at
from appliance.training import processes
from appliance.training.request import TrainRequest
from tests.conftest import DATASET, ROOT, Appliance
from tests.training.small_run import make_norm_stats

CONFIG = "pi0_tiny_aloha_robotwin"
REQUIRED = ("--config", CONFIG, "--dataset-root", str(DATASET), "--exp-name", "e")
STEPS = ("--num-train-steps", "4", "--batch-size", "2", "--num-workers", "0")


class Trainer:
    """Runs the command as a process, on one set of caches and inputs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.norm_stats = make_norm_stats(folder / "stats")
        self.plan = folder / "plan"
        self.call(
            "plan", "build", "--root", str(DATASET), "--repo-id", DATASET.name,
            "--train-config", CONFIG, "--num-episodes-keep", "5", "--out-dir", str(self.plan),
        )  # fmt: skip

    def call(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "appliance", *arguments],
            cwd=ROOT,
            env={**os.environ, "XDG_CACHE_HOME": str(self.folder / "cache")},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def train(self, out: Path, *flags: str) -> dict[str, Any]:
        shown = self.call(
            "train", *REQUIRED, *STEPS, "--out-dir", str(out), "--save-interval", "2", "--json",
            "--norm-stats", str(self.norm_stats), "--sampling-plan-path", str(self.plan), *flags,
        )  # fmt: skip
        value: dict[str, Any] = json.loads(shown)
        return value


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    return Trainer(tmp_path_factory.mktemp("trainer"))


@pytest.fixture(scope="module")
def trained(trainer: Trainer) -> tuple[Path, dict[str, Any]]:
    """The folder of a run of four steps, and what the command printed."""
    shown = trainer.train(trainer.folder / "out", "--seed", "7", "--budget-aware-schedule")
    return trainer.folder / "out" / "checkpoints" / CONFIG / "e", shown


def read_tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_run_leaves_checkpoints_and_its_record_in_the_folder_of_its_name(
    trained: tuple[Path, dict[str, Any]], trainer: Trainer
) -> None:
    folder, shown = trained
    assert (folder / "2" / "params").is_dir()
    assert (folder / "4" / "params").is_dir()
    assert shown["folder"] == str(folder)
    assert shown["checkpoint"] == str(folder / "4")
    content = read_tree(folder / "content")
    assert json.loads(content["run_summary.json"]) == shown["run_summary"]
    assert len(content["curve.jsonl"].splitlines()) == 4
    for name in ("plan_meta.json", "plan_arrays.npz"):
        assert content[f"sampling_plan/{name}"] == (trainer.plan / name).read_bytes()
    settings_in_force = shown["run_summary"]["configuration"]
    assert settings_in_force["exp_name"] == "e"
    assert settings_in_force["repo_id"] == settings_in_force["asset_id"] == DATASET.name
    assert settings_in_force["seed"] == 7
    assert settings_in_force["budget_aware_schedule"] is True
    assert settings_in_force["plan_target_effective_repeat"] == 50.0
    platform = json.loads((folder / "training.json").read_bytes())["platform"]
    runtime = default_values(("runtime",))
    assert platform["cpu_max_isa"] == runtime["cpu_max_isa"]
    assert platform["threads"]["jax"] == runtime["cpu_threads"]


def test_a_resumed_run_ends_with_the_same_bytes(
    trained: tuple[Path, dict[str, Any]], trainer: Trainer, tmp_path: Path
) -> None:
    whole, _ = trained
    half = tmp_path / "checkpoints" / CONFIG / "e"
    shutil.copytree(whole, half)
    shutil.rmtree(half / "4")
    (half / "content" / "run_summary.json").unlink()
    trainer.train(tmp_path, "--seed", "7", "--budget-aware-schedule", "--resume")
    assert read_tree(half / "content") == read_tree(whole / "content")
    sessions = json.loads((half / "observed" / "timing.json").read_bytes())["sessions"]
    assert [each["first_step"] for each in sessions] == [0, 2]


def test_an_overwritten_run_is_kept_beside_the_new_one(
    trained: tuple[Path, dict[str, Any]], trainer: Trainer, tmp_path: Path
) -> None:
    whole, _ = trained
    folder = tmp_path / "checkpoints" / CONFIG / "e"
    shutil.copytree(whole, folder)
    before = read_tree(folder)
    trainer.train(tmp_path, "--overwrite", "--num-train-steps", "0")
    assert read_tree(folder.with_name("e.overwritten-1")) == before
    assert [path.name for path in folder.iterdir() if path.name.isdecimal()] == ["0"]
    assert (folder / "content" / "curve.jsonl").read_bytes() == b""


def test_resume_and_overwrite_together_are_refused(appliance: Appliance, tmp_path: Path) -> None:
    done = appliance("train", *REQUIRED, "--out-dir", tmp_path, "--resume", "--overwrite")
    assert done.code == 15
    assert done.err.startswith("error: Cannot resume and overwrite at the same time.")
    assert not any(tmp_path.iterdir())


def test_an_earlier_run_is_neither_continued_nor_replaced_unasked(
    appliance: Appliance, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / CONFIG / "e"
    folder.mkdir(parents=True)
    done = appliance("train", *REQUIRED, "--out-dir", tmp_path)
    assert done.code == 15
    assert done.err.startswith(f"error: {folder}: an earlier run of this name is here.")
    assert "--resume" in done.err
    assert "--overwrite" in done.err
    assert not any(folder.iterdir())


@pytest.mark.parametrize(
    ("flags", "text"),
    [
        (("--exp-name", "a/b"), "--exp-name 'a/b': not a plain name"),
        (("--exp-name", ".."), "--exp-name '..': not a plain name"),
        (("--asset-id", "../../evil"), "--asset-id '../../evil': must be letters, digits"),
        (("--repo-id", "/evil"), "--repo-id '/evil': must be a LeRobot repo_id"),
        (("--repo-id", ""), "--repo-id '': must be a LeRobot repo_id"),
        (("--init", "weights"), "--init and --init-sha256 go together"),
        (("--plan-lr-min-scale", "0"), "--plan-lr-min-scale: 0.0 is not more than 0"),
        (("--budget-warmup-ratio", "nan"), "Invalid value for '--budget-warmup-ratio'"),
        (("--seed", "-1"), "--seed"),
        (("--config", "pi0_huge"), "pi0_huge"),
    ],
)
def test_flags_that_cannot_be_meant_are_refused(
    appliance: Appliance, tmp_path: Path, flags: tuple[str, str], text: str
) -> None:
    done = appliance("train", *REQUIRED, "--out-dir", tmp_path, *flags)
    assert done.code == 2
    assert text in " ".join(done.err.split())
    assert not any(tmp_path.iterdir())


FULL = StorageError("The disk is full. Free some space and run the same command again.")


@pytest.mark.parametrize(
    ("there", "flags", "advice"),
    [
        (False, (), "give the same command with --resume."),
        (True, ("--overwrite",), "give the same command with --resume in place of --overwrite."),
        (True, ("--resume",), None),
    ],
)
@pytest.mark.parametrize("ending", [FULL, KeyboardInterrupt()])
def test_a_run_that_stopped_says_which_command_goes_on(
    appliance: Appliance,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    there: bool,
    flags: tuple[str, ...],
    advice: str | None,
    ending: BaseException,
) -> None:
    folder = tmp_path / "checkpoints" / CONFIG / "e"
    if there:
        folder.mkdir(parents=True)

    def begin_and_stop(request: TrainRequest, *_: object) -> None:
        if request.overwrite:
            set_aside(folder, "overwritten")
        (folder / "2").mkdir(parents=True)
        raise copy.copy(ending)

    monkeypatch.setattr(processes, "train_by_layout", begin_and_stop)
    monkeypatch.setenv(PINNED, str(os.getpid()))
    monkeypatch.setattr(signal, "signal", lambda *_: None)  # this process goes on after main
    done = appliance("train", *REQUIRED, "--out-dir", tmp_path, *flags)
    again = "Run the same command again to go on from here."
    if isinstance(ending, KeyboardInterrupt):
        text = again if advice is None else f"To go on from what was saved, {advice}"
        assert (done.code, done.err) == (130, f"\nInterrupted. {text}\n")
    else:
        text = "" if advice is None else f"To go on from what was saved, {advice}\n"
        assert (done.code, done.err) == (30, f"error: {ending}\n{text}")


def test_a_run_that_failed_before_it_began_says_nothing_of_resuming(
    appliance: Appliance, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "checkpoints" / CONFIG / "e" / "2").mkdir(parents=True)

    def stop(*_: object) -> None:
        raise FULL

    monkeypatch.setattr(processes, "train_by_layout", stop)
    monkeypatch.setenv(PINNED, str(os.getpid()))
    done = appliance("train", *REQUIRED, "--out-dir", tmp_path, "--overwrite")
    assert (done.code, done.err) == (30, f"error: {FULL}\n")


def test_every_setting_of_a_manifest_has_a_flag_and_the_requests_defaults_are_the_schemas() -> None:
    train = schema_at(("train",))["properties"]
    assert {*settings(), *OF_THE_COMMAND} == {*train, *OF_THE_RUNTIME}
    defaults = default_values(("train",))
    fields = {field.name: field.default for field in dataclasses.fields(TrainRequest)}
    shared = defaults.keys() & fields.keys()
    assert {"num_workers", "seed", "sampler", "freeze_mode", "save_interval"} <= shared
    assert {name: fields[name] for name in shared} == {name: defaults[name] for name in shared}
