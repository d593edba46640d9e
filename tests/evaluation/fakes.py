"""A simulator and a policy in memory: a trial is a seed, and is solved after ``seed % 7 + 3`` steps
if every executed action has a positive first value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from appliance.errors import SimulatorError
from appliance.evaluation.driver import evaluate
from appliance.evaluation.request import EvalRequest
from appliance.simulator.faults import SimulatorLostError
from appliance.simulator.values import ExpertOutcome, Observation, StepResult

HORIZON = 4
STEP_LIMIT = 12


@dataclass
class World:
    """What all simulators of a test share: reasons of skips, planned faults, and a log of calls."""

    skips: Mapping[int, str] = field(default_factory=dict)
    gives_up: Sequence[int] = ()
    before_call: Callable[[str, int], None] = lambda name, seed: None
    calls: list[tuple[str, int]] = field(default_factory=list)
    started: int = 0
    closed: int = 0


class FakeSimulator:
    def __init__(self, world: World) -> None:
        self._world = world
        self._seed = -1
        self._steps = 0
        self._solved = False
        self._is_running = False

    def start(self) -> None:
        self._is_running = True
        self._world.started += 1

    def close(self) -> None:
        self._world.closed += self._is_running
        self._is_running = False

    def describe(self) -> Mapping[str, Any]:
        return {"runtime": "in memory"}

    def expert_check(self, seed: int) -> ExpertOutcome:
        self._called("expert_check", seed)
        return ExpertOutcome(seed=seed, reason=self._world.skips.get(seed, ""))

    def reset(self, seed: int, instruction_type: str) -> Observation:
        self._called("reset", seed)
        self._seed, self._steps, self._solved = seed, 0, False
        self._gives_up = seed in self._world.gives_up
        self._instruction = f"{instruction_type} instruction {seed % 3}"
        return self._observe()

    def digest_physics(self) -> str:
        return f"sha256-physics-v1:{self._seed:064x}"

    def step(self, actions_KxA: np.ndarray, *, want_frames: bool) -> StepResult:
        self._called("step", self._seed)
        frames = []
        before = self._steps
        for action_A in actions_KxA:
            if self._ended():
                break
            self._steps += 1
            self._solved = action_A[0] > 0 and self._steps >= self._seed % 7 + 3
            if want_frames:
                frames.append(self._observe()["images"]["cam_high"])
        return StepResult(
            observation=self._observe(),
            done=self._ended(),
            at_limit=self._steps >= STEP_LIMIT,
            success=self._solved,
            steps_taken=self._steps - before,
            steps_total=self._steps,
            frames_FxHxWx3=np.array(frames, dtype=np.uint8).reshape(-1, 15, 21, 3),
        )

    def _ended(self) -> bool:
        return self._solved or self._steps >= STEP_LIMIT or (self._gives_up and self._steps > 1)

    def _called(self, name: str, seed: int) -> None:
        self._world.calls.append((name, seed))
        self._world.before_call(name, seed)

    def _observe(self) -> Observation:
        picture = np.full((15, 21, 3), (self._seed + 9 * self._steps) % 256, dtype=np.uint8)
        state = np.full(14, self._seed % 1000 + self._steps / 64, dtype=np.float32)
        return Observation(images={"cam_high": picture}, state=state, instruction=self._instruction)


class NoisePolicy:
    """Its actions are its noise, made positive except for the seeds it is told to fail."""

    noise_shape = (HORIZON, 32)

    def __init__(self, fails: Sequence[int] = ()) -> None:
        self._fails = [seed % 1000 for seed in fails]
        self.queries: list[tuple[Mapping[str, Any], np.ndarray]] = []

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        self.queries.append((observations[0], noise))
        actions = np.abs(noise[:, :, :14]) + np.float32(0.125)
        return -actions if int(observations[0]["state"][0]) in self._fails else actions


def make_request(**changes: Any) -> EvalRequest:
    values: dict[str, Any] = {
        "task": "touch_block",
        "task_config": "demo_clean",
        "simulator": {"embodiment": "stand_in", "planner": "ik_toppra", "shader": "minimal"},
        "policy": {"checkpoint": 7, "params_sha256": "ab" * 32},
        "episodes": 4,
        "seed": 0,
        "policy_seed": 0,
        "instruction_type": "unseen",
        "action_steps": 3,
        "trials": None,
        "video": False,
    }
    return EvalRequest(**(values | changes))


def run_evaluation(
    folder: Path,
    *,
    world: World | None = None,
    policy: Any = None,
    **changes: Any,
) -> Path:
    """Evaluate in ``folder`` and return its content folder."""
    there = world or World()
    evaluate(
        make_request(**changes),
        policy or NoisePolicy(),
        lambda number: FakeSimulator(there),
        content_dir=folder / "content",
        observed_dir=folder / "observed",
        artifacts_dir=folder / "artifacts",
        on_progress=lambda done, total, text: None,
    )
    return folder / "content"


def read_content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "content").iterdir())}


class Crash:
    """Raises ``error`` the first ``times`` times ``name`` is called for ``seed``."""

    def __init__(
        self,
        name: str,
        seed: int,
        times: int,
        error: type[SimulatorError] = SimulatorLostError,
    ) -> None:
        self._where = (name, seed)
        self._left = times
        self._error = error

    def __call__(self, name: str, seed: int) -> None:
        if (name, seed) == self._where and self._left:
            self._left -= 1
            raise self._error(f"the simulator failed in {name!r}")
