"""Processes that cannot meet say so, and what to do; in a container's settings they meet."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

UNKNOWN_NAME = "4f2a9c1b7d3e"
"""As a container engine names a machine; without a network no name service knows it."""

KNOWN = 77
"""Exit code of a shell in which the name leads somewhere all the same (nss-myhostname)."""

ALONE = ["unshare", "--net", "--uts", "sh", "-ec"]


def can_unshare() -> bool:
    if shutil.which("unshare") is None or shutil.which("ip") is None:
        return False
    probe = [*ALONE, "ip link set lo up && hostname localhost"]
    return subprocess.run(probe, check=False, capture_output=True).returncode == 0


def train_alone(
    assets: Path, out: Path, environment: dict[str, str], name: str, probe: str
) -> subprocess.CompletedProcess[str]:
    """A step by two processes on a machine called ``name``, with no network but itself."""
    begin = f"ip link set lo up; hostname {name}; {probe}"
    command = [sys.executable, "-m", "tests.training.small_run", assets, out, 1, "--processes", 2]
    return subprocess.run(
        [*ALONE, f'{begin}; exec "$@"', "sh", *map(str, command)],
        check=False,
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )


pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not can_unshare(), reason="this machine allows no network of its own"),
]


def test_processes_that_cannot_meet_end_with_the_cause_and_the_cure(
    assets: Path, child_environment: dict[str, str], tmp_path: Path
) -> None:
    probe = f"! getent hosts {UNKNOWN_NAME} || exit {KNOWN}"
    done = train_alone(assets, tmp_path, child_environment, UNKNOWN_NAME, probe)
    if done.returncode == KNOWN:
        pytest.skip("this machine knows its name whatever it is")
    *_, last = done.stderr.splitlines()
    assert "StageFailedError: training-" in last
    assert "Unable to initialize backend 'cpu'" in last
    assert f"`127.0.0.1 {UNKNOWN_NAME}` to /etc/hosts" in last
    assert "xla_bridge.py" not in done.stderr


def test_processes_meet_without_a_network_on_a_machine_called_localhost(
    assets: Path, child_environment: dict[str, str], tmp_path: Path
) -> None:
    """The name that ``container_settings`` gives a container."""
    done = train_alone(assets, tmp_path, child_environment, "localhost", "true")
    assert done.returncode == 0, done.stderr[-2000:]
