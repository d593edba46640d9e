"""Training killed with SIGKILL at random points ends with the same bytes as if it never stopped."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from appliance.training.sampler import SamplerName
from tests.conftest import ROOT
from tests.training.small_run import make_request, read_content, run

STEPS = 40
KILLS = {"0": 3, "2": 2}
"""Kills of one run, by its number of data workers: 10 with both samplers."""
LONGEST_WAIT_S = 0.3


def start(
    arguments: Sequence[str | Path], child_environment: dict[str, str]
) -> subprocess.Popen[str]:
    """A small run in a process of its own that saves a resume point after every step."""
    command = [sys.executable, "-m", "tests.training.small_run", *map(str, arguments)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=child_environment
    )


def kill_after(process: subprocess.Popen[str], step: int, wait_s: float) -> None:
    """Kill the process some time after it has shown ``step``: in a step, or in a save."""
    with process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) >= step:
                time.sleep(wait_s)
                process.kill()
                break


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("sampler", ["torch", "counter"])
def test_a_run_killed_at_random_ends_the_same_with_0_and_2_workers(
    sampler: SamplerName, assets: Path, child_environment: dict[str, str], tmp_path: Path
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
            process = start(arguments, child_environment)
            kill_after(process, step, chance.uniform(0, LONGEST_WAIT_S))
            assert process.returncode == -9, f"seed {seed}: {workers} workers, kill at {step}"
        run(request, out)
        assert read_content(out) == read_content(tmp_path / "whole"), f"seed {seed}: {points}"
