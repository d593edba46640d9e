"""One running simulator of each tested task, shared by the tests of a session."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.worker import SimulatorProcess
from tests.conftest import ROOT

SMALL = (32, 24)


@pytest.fixture(scope="session")
def touch_block(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SimulatorProcess]:
    log_path = tmp_path_factory.mktemp("simulator") / "touch_block.log"
    with SimulatorProcess(
        SimulatorSpec(task="touch_block", image_size=SMALL), log_path=log_path
    ) as simulator:
        yield simulator


@pytest.fixture
def log_path(tmp_path: Path) -> Path:
    return tmp_path / "simulator.log"


def outlives_its_killed_parent(start: str) -> bool:
    """Whether a simulator that hangs is still there after its parent was killed.

    ``start`` are lines of Python that leave a started simulator in ``simulator``. It is hung by
    stopping it: nothing in it can run any more, as in a call into C++ that keeps Python's lock.
    """
    text = f"{start}\nimport time\nprint(simulator.pid, flush=True)\ntime.sleep(600)\n"
    # A session of its own: else Linux would hang up the stopped process by itself (setpgid(2)).
    parent = subprocess.Popen(
        [sys.executable, "-c", text],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )
    with parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        os.kill(child, signal.SIGSTOP)
        parent.kill()
    for _ in range(50):
        if _has_ended(child):
            return False
        time.sleep(0.1)
    os.kill(child, signal.SIGKILL)
    return True


def _has_ended(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
    except FileNotFoundError:
        return True
    return stat.rpartition(")")[2].split()[0] == "Z"
