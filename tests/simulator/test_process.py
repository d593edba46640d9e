"""The parent's side of a simulator, with a child in memory."""

from __future__ import annotations

from multiprocessing import Pipe
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from appliance.errors import SimulatorError
from appliance.simulator.process import Child, SimulatorClient
from appliance.simulator.spec import SimulatorSpec


class MemoryChild:
    pid = None

    def __init__(self) -> None:
        self.ends = 0

    def end(self, patience_s: float) -> int | None:
        self.ends += 1
        return 0


class MemorySimulator(SimulatorClient[SimulatorSpec]):
    """Its child describes itself at once; ``close_in_launch`` closes it while it is started."""

    close_in_launch = False

    def _launch(self, log_path: Path) -> tuple[Child, Connection]:
        if self.close_in_launch:
            self.close()
        self.child = MemoryChild()
        ours, self.theirs = Pipe()
        self.theirs.send({"runtime": "in memory"})
        return self.child, ours

    def _write(self, connection: Connection, name: str, arguments: tuple[object, ...]) -> None:
        connection.send(name)

    def _read(self, connection: Connection) -> Any:
        return connection.recv()


def make_simulator(tmp_path: Path) -> MemorySimulator:
    return MemorySimulator(SimulatorSpec(task="touch_block"), log_path=tmp_path / "log")


def test_a_simulator_closed_while_it_is_started_leaves_no_child(tmp_path: Path) -> None:
    simulator = make_simulator(tmp_path)
    simulator.close_in_launch = True
    with pytest.raises(SimulatorError, match="was closed"):
        simulator.start()
    assert (simulator.child.ends, simulator.pid) == (1, None)


def test_a_closed_simulator_is_closed_for_good_and_its_child_ended_once(tmp_path: Path) -> None:
    with make_simulator(tmp_path) as simulator:
        assert simulator.describe() == {"runtime": "in memory"}
    simulator.close()
    assert simulator.child.ends == 1
    with pytest.raises(SimulatorError, match="not running"):
        simulator.digest_physics()
    with pytest.raises(SimulatorError, match=r"was closed\. Make another"):
        simulator.start()
