"""One simulator inside its own process: expert checks, trials, demonstrations, one at a time.

A trial depends on its seed alone, never on what this process did before.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import SimulatorError
from appliance.simulator.adapter import (
    RoboTwin,
    check_rendering,
    read_state,
    take_pictures,
    unstable_error,
)
from appliance.simulator.checkout_worker import digest_scene
from appliance.simulator.faults import UnplayableTrialError
from appliance.simulator.instructions import check_instructions, draw_instruction
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.values import Demonstration, ExpertOutcome, Observation, StepResult

VIDEO_CAMERA = "cam_high"
DISCLAIMER = "Stand-in embodiment, planner and shader: not RoboTwin scores."


@dataclass(slots=True, kw_only=True)
class _Expert:
    """What the expert's run on a seed left: the outcome and what fills the instruction."""

    outcome: ExpertOutcome
    gaps: dict[str, object] | None


class Session:
    """A simulator for one specification; lives in a process of its own (:mod:`.worker`)."""

    def __init__(self, spec: SimulatorSpec, renderer: str) -> None:
        self._spec = spec
        self._renderer = renderer
        check_instructions(spec.task)
        self._robotwin = RoboTwin(spec)
        check_rendering()
        self._unstable = unstable_error()
        self._experts: dict[int, _Expert] = {}
        self._task: Any = None
        self._instruction = ""

    def describe(self) -> dict[str, Any]:
        """Names and versions of everything a result of this simulator depends on."""
        return {
            **self._spec.as_record(),
            "runtime": f"rlinf-robotwin-runtime {version('rlinf-robotwin-runtime')}",
            "sapien": version("sapien"),
            "toppra": version("toppra"),
            "renderer": self._renderer,
            "note": DISCLAIMER,
        }

    def expert_check(self, seed: int) -> ExpertOutcome:
        """Let the expert play ``seed``, without a picture taken."""
        if seed not in self._experts:
            self._experts[seed] = self._play_expert(seed)
        return self._experts[seed].outcome

    def reset(self, seed: int, instruction_type: str) -> Observation:
        """Begin the trial ``seed`` and return its first observation.

        The expert plays the seed first (unless it did before), because its run fills the
        instruction. Raises UnplayableTrialError when the expert left nothing to fill it with.
        """
        outcome = self.expert_check(seed)
        gaps = self._experts[seed].gaps
        if gaps is None:
            raise UnplayableTrialError(
                f"task {self._spec.task}, seed {seed}: the expert cannot play this seed"
                f" ({outcome.reason}), so there is no instruction for it. Leave the seed out."
            )
        self._close_task()
        self._instruction = draw_instruction(self._spec.task, instruction_type, seed, gaps)
        self._task = self._robotwin.set_up(seed)
        self._task.set_instruction(self._instruction)
        return self._observe()

    def step(self, actions_KxA: NDArray[np.float64], want_frames: bool) -> StepResult:
        """Execute the actions one after the other until success, the step limit, or the last."""
        task = self._task
        if task is None:
            raise SimulatorError("step was asked for before reset. Begin a trial first.")
        frames: list[NDArray[np.uint8]] = []
        before = task.take_action_cnt
        for action in actions_KxA:
            if _has_ended(task):
                break
            task.take_action(action, "qpos")
            if want_frames:
                frames.append(take_pictures(task, (VIDEO_CAMERA,))[VIDEO_CAMERA])
        width_px, height_px = self._spec.image_size
        return StepResult(
            observation=self._observe(),
            done=_has_ended(task),
            at_limit=task.take_action_cnt >= task.step_lim,
            success=bool(task.eval_success),
            steps_taken=task.take_action_cnt - before,
            steps_total=task.take_action_cnt,
            frames_FxHxWx3=np.array(frames, dtype=np.uint8).reshape(-1, height_px, width_px, 3),
        )

    def demonstrate(self, seed: int, instruction_type: str) -> Demonstration:
        """Let the expert play ``seed`` and record it, one frame every 15 physics steps."""
        images: dict[str, list[NDArray[np.uint8]]] = {name: [] for name in self._spec.cameras}
        states: list[NDArray[np.float32]] = []

        def record(task: Any) -> None:
            states.append(read_state(task))
            for name, picture in take_pictures(task, self._spec.cameras).items():
                images[name].append(picture)

        expert = self._play_expert(seed, on_frame=record)
        self._experts[seed] = expert
        if not expert.outcome.ok or expert.gaps is None or len(states) < 2:
            return Demonstration(seed=seed, reason=expert.outcome.reason or "nothing recorded")
        return Demonstration(
            seed=seed,
            reason="",
            instruction=draw_instruction(self._spec.task, instruction_type, seed, expert.gaps),
            images={name: np.stack(pictures[:-1]) for name, pictures in images.items()},
            state_TxS=np.stack(states[:-1]),
            action_TxA=np.stack(states[1:]),
        )

    def digest_physics(self) -> str:
        """A digest of every pose and joint value of the trial (:func:`.digest_scene`)."""
        if self._task is None:
            raise SimulatorError("there is no trial to digest. Begin one with reset.")
        return digest_scene(self._task.scene)

    def _play_expert(self, seed: int, on_frame: Any = None) -> _Expert:
        """Set the scene up and let RoboTwin's expert play, as its evaluation does."""
        self._close_task()
        gaps: dict[str, object] | None = None
        try:
            self._task = self._robotwin.set_up(seed, on_frame=on_frame)
            gaps = dict(self._task.play_once()["info"])
            if not self._task.plan_success:
                reason = "unplanned"
            elif not self._task.check_success():
                reason = "unsuccessful"
            else:
                reason = ""
        except self._unstable:
            reason = "unstable"
        except Exception as error:  # noqa: BLE001
            # RoboTwin's experts raise all kinds of errors where a seed cannot be solved; its
            # evaluation skips such a seed, and so must we. The reason is recorded.
            reason = f"raised: {type(error).__name__}: {error}"
        finally:
            self._close_task()
        return _Expert(outcome=ExpertOutcome(seed=seed, reason=reason), gaps=gaps)

    def _observe(self) -> Observation:
        """The present observation of the trial."""
        return Observation(
            images=take_pictures(self._task, self._spec.cameras),
            state=read_state(self._task),
            instruction=self._instruction,
        )

    def _close_task(self) -> None:
        """Let go of the present scene."""
        task, self._task = self._task, None
        if task is not None:
            task.close_env()


def _has_ended(task: Any) -> bool:
    """Whether RoboTwin takes no further action in this episode."""
    return bool(task.eval_success) or task.take_action_cnt >= task.step_lim
