"""Training killed with SIGKILL at random points ends with the same bytes as if it never stopped."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from appliance.training.sampler import SamplerName
from tests.conftest import ROOT
from tests.training.small_run import make_request, read_content, run

STEPS = 40
KILLS = {"0": 3, "2": 2}
"""Kills of one run, by its number of data workers: 10 with both samplers."""
LONGEST_WAIT_S = 0.3


@pytest.fixture
def runs(child_environment: dict[str, str]) -> Iterator[subprocess.Popen[str]]:
    """A process that forks a run for every line of arguments it is given."""
    command = [sys.executable, "-W", "ignore", "-m", "tests.training.small_run", "serve"]
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env=child_environment,
    ) as process:
        yield process
        process.kill()


def kill_a_run(
    runs: subprocess.Popen[str], arguments: Sequence[str | Path], step: int, wait_s: float
) -> int:
    """Start a run and kill it some time after it has shown ``step``: in a step, or in a save.

    Returns its exit code.
    """
    assert runs.stdin is not None
    assert runs.stdout is not None
    runs.stdin.write(json.dumps([str(each) for each in arguments]) + "\n")
    runs.stdin.flush()
    pid, reached = 0, False
    for line in runs.stdout:
        words = line.split()
        if words[0] == "ended":
            return int(words[1])
        if words[0] == "pid":
            pid = int(words[1])
        elif int(words[0]) >= step and not reached:
            reached = True
            time.sleep(wait_s)
            os.kill(pid, signal.SIGKILL)
    raise AssertionError("the process that starts runs is gone")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sampler", ["torch", "counter"])
def test_a_run_killed_at_random_ends_the_same_with_0_and_2_workers(
    sampler: SamplerName, assets: Path, runs: subprocess.Popen[str], tmp_path: Path
) -> None:
    request = make_request(
        assets,
        num_train_steps=STEPS,
        sampling_plan_path=assets / "plan",
        save_interval=10,
        sampler=sampler,
    )
    run(request, tmp_path / "whole")
    seed = os.urandom(8).hex()
    chance = random.Random(seed)
    for workers, kills in KILLS.items():
        out = tmp_path / workers
        arguments = [assets, out, str(STEPS), "--plan", assets / "plan"]
        arguments += ["--sampler", sampler, "--workers", workers]
        points = sorted(chance.sample(range(STEPS - 16), kills))
        for step in points:
            code = kill_a_run(runs, arguments, step, chance.uniform(0, LONGEST_WAIT_S))
            assert code == -9, f"seed {seed}: {workers} workers, kill at {step}"
        run(request, out)
        assert read_content(out) == read_content(tmp_path / "whole"), f"seed {seed}: {points}"
