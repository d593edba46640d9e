"""A small policy on disk, and the commands that serve and evaluate it, as processes."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.norm_stats.files import NormStats, Stats, write_norm_stats
from appliance.policy.checkpoint import save_params
from appliance.policy.initialization import init_params
from appliance.policy.presets import PRESETS
from tests.conftest import ROOT

CONFIG = PRESETS["pi0_tiny_aloha_robotwin"]


def make_norm_stats() -> NormStats:
    def stats(mean: float, std: float) -> Stats:
        means, stds = np.full(14, mean), np.full(14, std)
        return Stats(mean=means, std=stds, q01=means - stds, q99=means + stds)

    return NormStats(state=stats(0.1, 0.5), actions=stats(0.0, 0.05))


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in openpi's layout, untrained, step 7."""
    folder = tmp_path_factory.mktemp("checkpoints") / "7"
    save_params(folder / "params", init_params(CONFIG.model, 0))
    write_norm_stats(make_norm_stats(), folder / "assets" / "some_dataset")
    return folder


@dataclass(frozen=True, slots=True)
class ServerProcess:
    """A running ``appliance serve``."""

    process: subprocess.Popen[str]
    url: str
    policy: dict[str, Any]


@contextlib.contextmanager
def serving(checkpoint: Path, *options: str) -> Iterator[ServerProcess]:
    """Run ``appliance serve`` on a free port until the block ends."""
    command = [
        *(sys.executable, "-m", "appliance", "serve", "--json"),
        *("--checkpoint", str(checkpoint), "--config", CONFIG.name),
        *(options or ("--port", "0")),
    ]
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.stderr.read() if process.stderr else ""
        said = json.loads(line)
        yield ServerProcess(process, said["url"], said["policy"])
    finally:
        process.kill()
        process.communicate(timeout=120)


@pytest.fixture(scope="session")
def server(checkpoint: Path) -> Iterator[ServerProcess]:
    """One server for the tests that do not stop it."""
    with serving(checkpoint) as running:
        yield running
