"""What workers do when the evaluation ends early, and which failures end it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from appliance.errors import SimulatorError
from appliance.evaluation.driver import evaluate
from tests.evaluation.fakes import FakeSimulator, NoisePolicy, World, make_request

LONG_S = 30.0


@pytest.fixture(autouse=True)
def hear_ctrl_c() -> Iterator[None]:
    """Tests that run side by side are started by a process that ignores it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def run_with(
    folder: Path, make_simulator: Callable[[int], Any], *, policy: Any = None, **changes: Any
) -> None:
    evaluate(
        make_request(**changes),
        policy or NoisePolicy(),
        make_simulator,
        content_dir=folder / "content",
        observed_dir=folder / "observed",
        artifacts_dir=folder / "artifacts",
        on_progress=lambda done, total, text: None,
    )


def press_ctrl_c() -> None:
    main = threading.main_thread().ident
    assert main is not None
    signal.pthread_kill(main, signal.SIGINT)


class Watched(FakeSimulator):
    """Says when it is closed, so that a fake can be busy until then."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self.was_closed = threading.Event()

    def close(self) -> None:
        super().close()
        self.was_closed.set()


def test_a_worker_that_is_starting_its_simulator_when_another_fails_does_no_job(
    tmp_path: Path,
) -> None:
    world = World()

    class Starting(Watched):
        def start(self) -> None:
            failed.set()
            assert self.was_closed.wait(LONG_S)
            super().start()

    class NoDevice(FakeSimulator):
        def start(self) -> None:
            assert failed.wait(LONG_S)
            raise SimulatorError("no rendering device")

    failed = threading.Event()
    kinds: list[Callable[[World], FakeSimulator]] = [NoDevice, Starting]
    with pytest.raises(SimulatorError, match="no rendering device"):
        run_with(tmp_path, lambda number: kinds[number](world), episodes=30, workers=2)
    assert world.calls == []
    assert (world.started, world.closed) == (1, 1)
    assert '"kind": "started"' not in (tmp_path / "observed" / "journal.jsonl").read_text()


def test_ctrl_c_lets_no_worker_begin_another_job(tmp_path: Path) -> None:
    world = World()
    both_play = threading.Barrier(2, action=press_ctrl_c)

    class Playing(Watched):
        def reset(self, seed: int, instruction_type: str) -> Any:
            both_play.wait(LONG_S)
            assert self.was_closed.wait(LONG_S)
            return super().reset(seed, instruction_type)

    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path, lambda number: Playing(world), episodes=40, workers=2)
    assert [name for name, _ in world.calls].count("reset") == 2
    assert (world.started, world.closed) == (2, 2)


def test_a_simulator_that_dies_of_the_end_is_neither_replaced_nor_noted(tmp_path: Path) -> None:
    world = World()
    both_play = threading.Barrier(2, action=press_ctrl_c)

    class Dying(Watched):
        def reset(self, seed: int, instruction_type: str) -> Any:
            both_play.wait(LONG_S)
            assert self.was_closed.wait(LONG_S)
            raise SimulatorError("the simulator process died")

    with pytest.raises(KeyboardInterrupt):
        run_with(tmp_path, lambda number: Dying(world), episodes=40, workers=2)
    assert world.started == 2
    assert '"kind": "failed"' not in (tmp_path / "observed" / "journal.jsonl").read_text()


class WaitingPolicy(NoisePolicy):
    """Waits for an answer that never comes, until it is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = threading.Event()
        self.was_closed = threading.Event()

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        answer = super().infer(observations, noise)
        self.is_asked.set()
        assert self.was_closed.wait(LONG_S)
        return answer

    def close(self) -> None:
        self.was_closed.set()


def test_a_policy_that_waits_for_somebody_is_closed_and_not_asked_again(tmp_path: Path) -> None:
    policy = WaitingPolicy()

    def interrupt(name: str, seed: int) -> None:
        if (name, seed) == ("reset", 100002):
            assert policy.is_asked.wait(LONG_S)
            press_ctrl_c()

    world = World(before_call=interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_with(
            tmp_path, lambda number: FakeSimulator(world), policy=policy, episodes=9, workers=3
        )
    assert len(policy.queries) == 1
    assert {seed for name, seed in world.calls if name == "reset"} == {100000, 100001, 100002}
