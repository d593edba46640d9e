"""One trial, played: reset, query, execute open loop, until success or the end."""

from __future__ import annotations

import hashlib
import time
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from appliance.evaluation.policy_queries import PolicyQueries, UnusableActionsError
from appliance.evaluation.protocols import HEAD_CAMERA, SimulatorProtocol
from appliance.evaluation.records import Episode
from appliance.evaluation.video import VideoRecorder
from appliance.simulator.faults import TaskRaisedError
from appliance.simulator.values import Observation, StepResult, digest_observation


@dataclass(slots=True, kw_only=True)
class RolloutTimes:
    """Where the seconds of one rollout went; observed only."""

    reset_s: float = 0.0
    policy_s: float = 0.0
    step_s: float = 0.0

    def to_dict(self) -> dict[str, float]:
        """The times in seconds, to the millisecond."""
        return {name: round(value, 3) for name, value in asdict(self).items()}


class Rollout:
    """One trial being played; holds what has happened so far, so that a failure can be recorded."""

    def __init__(
        self,
        simulator: SimulatorProtocol,
        queries: PolicyQueries,
        *,
        episode: int,
        seed: int,
        recorder: VideoRecorder | None,
    ) -> None:
        self.times = RolloutTimes()
        self.error: UnusableActionsError | None = None
        self._simulator = simulator
        self._queries = queries
        self._episode = episode
        self._seed = seed
        self._recorder = recorder
        self._first: Observation | None = None
        self._physics: str | None = None
        self._actions = hashlib.sha256()
        self._steps = 0
        self._query_count = 0

    def play(self, instruction_type: str, action_steps: int) -> Episode:
        """Play to the end and return the record. Raises SimulatorError when the simulator fails."""
        try:
            return self._play(instruction_type, action_steps)
        except UnusableActionsError as error:
            self.error = error
            return self._record("exception", error.failure_class)

    def _play(self, instruction_type: str, action_steps: int) -> Episode:
        began_s = time.monotonic()
        observation = self._simulator.reset(self._seed, instruction_type)
        self._physics = self._simulator.digest_physics()
        self.times.reset_s = time.monotonic() - began_s
        self._first = observation
        if self._recorder is not None and HEAD_CAMERA in observation["images"]:
            self._recorder.add(observation["images"][HEAD_CAMERA])
        while True:
            began_s = time.monotonic()
            query = self._query_count
            self._query_count += 1
            actions_HxA = self._queries.ask(
                observation, trial_number=self._episode, trial_seed=self._seed, query=query
            )
            asked_s = time.monotonic()
            result = self._execute(actions_HxA[:action_steps])
            self.times.policy_s += asked_s - began_s
            self.times.step_s += time.monotonic() - asked_s
            if result.success:
                return self._record("success")
            if result.done and result.at_limit:
                return self._record("timeout")
            if result.done:
                return self._record("other", "ended_early")
            observation = result.observation

    def _execute(self, actions_KxA: NDArray[np.float32]) -> StepResult:
        result = self._simulator.step(actions_KxA, want_frames=self._recorder is not None)
        executed_KxA = actions_KxA[: result.steps_taken]
        self._actions.update(np.ascontiguousarray(executed_KxA, dtype="<f4").tobytes())
        self._steps += result.steps_taken
        if self._recorder is not None:
            for frame_HxWx3 in result.frames_FxHxWx3:
                self._recorder.add(frame_HxWx3)
        if result.steps_taken == 0 and not result.done:
            raise TaskRaisedError(
                f"The simulator executed none of {len(actions_KxA)} actions and did not end the"
                f" trial (seed {self._seed}, step {self._steps})."
            )
        return result

    def _record(self, outcome: str, failure_class: str | None = None) -> Episode:
        first = self._first
        return Episode(
            episode=self._episode,
            seed=self._seed,
            outcome=outcome,
            failure_class=failure_class,
            instruction=None if first is None else first["instruction"],
            steps=self._steps,
            queries=self._query_count,
            first_observation=None if first is None else digest_observation(first),
            first_physics=self._physics,
            actions_sha256=self._actions.hexdigest(),
        )
