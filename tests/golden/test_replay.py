"""`replay` on the golden manifests: an untouched checkout passes, one changed constant does not.

Each case works on a copy of the package in a folder of its own, so that nothing here is changed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.conftest import GOLDEN, ROOT

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
TIMEOUT_S = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What a replay ended with."""

    code: int
    verdict: dict[str, Any]
    text: str
    err: str
    junit: Path
    summary: str
    work_dir: Path

    @property
    def first_difference(self) -> tuple[str, str] | None:
        """Stage and path of the first thing that differs."""
        for stage in self.verdict["stages"]:
            if stage["first_difference"] is not None:
                return stage["stage"], stage["first_difference"]["path"]
        return None


def copy_checkout(folder: Path) -> Path:
    """The package in a folder of its own."""
    folder.mkdir()
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "appliance", folder / "appliance", ignore=ignored)
    return folder


def command(checkout: Path, target: Path, *options: str | Path) -> list[str]:
    """The command that replays ``target`` and leaves everything it writes in ``checkout``."""
    return [
        *(sys.executable, "-m", "appliance", "replay", str(target)),
        *("--work-dir", str(checkout / "work"), "--output", str(checkout / "verdict.json")),
        *("--junit", str(checkout / "junit.xml"), "--summary", str(checkout / "summary.md")),
        *("--key-dir", str(checkout / "keys"), *map(str, options)),
    ]


def replay(checkout: Path, target: Path, *options: str | Path) -> Replayed:
    """Replay ``target`` with the package in ``checkout``."""
    done = subprocess.run(
        command(checkout, target, *options),
        cwd=checkout,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    verdict = checkout / "verdict.json"
    assert verdict.is_file(), done.stderr
    return Replayed(
        code=done.returncode,
        verdict=json.loads(verdict.read_bytes()),
        text=done.stdout,
        err=done.stderr,
        junit=checkout / "junit.xml",
        summary=(checkout / "summary.md").read_text("utf-8"),
        work_dir=checkout / "work",
    )


def environment() -> dict[str, str]:
    """This process's, without what would lead away from the copy."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}


def kill_in_training(checkout: Path, target: Path, *options: str) -> None:
    """Begin a replay and kill it, and all it started, some seconds into training."""
    running = subprocess.Popen(
        command(checkout, target, *options),
        cwd=checkout,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert running.stderr is not None
    for line in running.stderr:
        if line.strip() == "train: run":
            break
    time.sleep(4)
    os.killpg(running.pid, signal.SIGKILL)
    running.wait()
    running.stderr.close()


@pytest.fixture(scope="module")
def untouched(tmp_path_factory: pytest.TempPathFactory) -> Replayed:
    """The smoke golden, replayed whole by an untouched copy, killed once on the way."""
    checkout = copy_checkout(tmp_path_factory.mktemp("replay") / "untouched")
    kill_in_training(checkout, GOLDEN / "smoke.yaml", "--budget", "60")
    return replay(checkout, GOLDEN / "smoke.yaml", "--budget", "60")


@pytest.fixture
def changed_checkout(tmp_path: Path) -> Callable[[str, str, str], Path]:
    """A copy of the package in which ``old``, found once in ``file``, is ``new``."""

    def change(file: str, old: str, new: str) -> Path:
        checkout = copy_checkout(tmp_path / "changed")
        path = checkout / "appliance" / file
        text = path.read_text("utf-8")
        assert text.count(old) == 1, f"{old!r} is not once in {file}"
        path.write_text(text.replace(old, new), "utf-8")
        return checkout

    return change


def test_an_untouched_checkout_passes(untouched: Replayed) -> None:
    """If this fails after a change that is meant: appliance replay manifests/golden --record."""
    assert untouched.code == 0, untouched.text
    assert untouched.verdict["verdict"] == "REPRODUCED"
    by_stage = {stage["stage"]: stage for stage in untouched.verdict["stages"]}
    assert {"dataset", "plan", "norm_stats", "train", "evaluate"} <= by_stage.keys()
    assert all(stage["different"] == 0 for stage in by_stage.values())
    levels = {level: each["status"] for level, each in untouched.verdict["levels"].items()}
    assert levels["R1"] == "shown"
    same = untouched.verdict["platform"]["same"]
    assert {levels["R2"], levels["R3"]} <= ({"shown"} if same else {"shown", "consistent"})
    assert levels["R5"] == "shown"
    assert untouched.verdict["claim"]["outcome"] == "confirmed"


def test_a_killed_replay_goes_on_where_it_stopped(untouched: Replayed) -> None:
    assert "train: continue" in untouched.err
    assert "plan: done" in untouched.err


def test_its_reports_say_so_in_the_forms_of_ci(untouched: Replayed) -> None:
    root = ElementTree.parse(untouched.junit).getroot()
    assert (root.get("failures"), root.get("errors")) == ("0", "0")
    names = {case.get("name") for case in root.iter("testcase")}
    assert {"verdict", "level R1", "stage plan", "stage train", "stage evaluate"} <= names
    assert "REPRODUCED" in untouched.summary
    assert "| R1 | shown |" in untouched.summary


@pytest.mark.parametrize(
    ("file", "old", "new", "options", "stage", "path"),
    [
        pytest.param(
            *("plan/balance.py", "power = 1.0 if params", "power = 0.5 if params"),
            ("--level", "R1"),
            *("plan", "plan.meta.summary.ESS_reference"),
            id="plan",
        ),
        pytest.param(
            *("norm_stats/compute.py", "Fraction(99, 100)", "Fraction(98, 100)"),
            ("--level", "R1"),
            *("norm_stats", "norm_stats.norm_stats.actions.q99[0]"),
            id="norm_stats",
        ),
        pytest.param(
            *("policy/gemma.py", "ROPE_WAVELENGTH = 10_000.0", "ROPE_WAVELENGTH = 9_000.0"),
            ("--spot-check", "0:1"),
            *("train", "train.steps.0.loss"),
            id="model",
        ),
    ],
)
def test_one_changed_constant_fails_and_is_named(
    changed_checkout: Callable[[str, str, str], Path],
    file: str,
    old: str,
    new: str,
    options: tuple[str, ...],
    stage: str,
    path: str,
) -> None:
    replayed = replay(changed_checkout(file, old, new), GOLDEN / "smoke.yaml", *options)
    assert replayed.code == 40, replayed.text
    assert replayed.verdict["verdict"] == "NOT REPRODUCED"
    assert replayed.first_difference == (stage, path)
    assert f"stage {stage}, {path}" in replayed.verdict["reason"]
    assert path in replayed.text
    assert path in replayed.summary
    failures = [each.get("message") for each in ElementTree.parse(replayed.junit).iter("failure")]
    assert any(path in str(message) for message in failures)


def test_a_changed_constant_of_the_evaluation_fails_and_is_named(
    untouched: Replayed, changed_checkout: Callable[[str, str, str], Path]
) -> None:
    """On the golden's platform the untouched replay's checkpoint is evaluated: nothing is trained.

    On another one that checkpoint is not the one that was recorded, so it is trained again.
    """
    checkout = changed_checkout(
        "evaluation/request.py", "SEEDS_PER_BLOCK = 100_000", "SEEDS_PER_BLOCK = 100_007"
    )
    run = untouched.work_dir / "run"
    assert (run / "run.json").is_file()
    before = {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*"))}
    is_same = untouched.verdict["platform"]["same"]
    extent = ("--level", "R3", "--artifacts", run) if is_same else ("--level", "R5")
    replayed = replay(checkout, GOLDEN / "smoke.yaml", *extent)
    assert replayed.code == 40, replayed.text
    assert replayed.first_difference == ("evaluate", "evaluate.trials.seeds[0]")
    assert "expected 100000, found 100007" in replayed.verdict["reason"]
    assert {path: path.stat().st_mtime_ns for path in sorted(run.rglob("*"))} == before
