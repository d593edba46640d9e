"""What crosses the border between a simulator process and its user: plain data, NumPy arrays.

Axes: T frames of a demonstration, K actions of one query, F video frames, H and W pixels,
S = A = 14 joint values [left arm 6 rad, left gripper, right arm 6 rad, right gripper]; a gripper
is 0 closed .. 1 open. Pictures are uint8 RGB, by LeRobot camera name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from appliance.digest import canonical_json

STATE_SIZE = 14


class Observation(TypedDict):
    """What a policy is given: pictures, the robot's state, and the instruction of the trial."""

    images: dict[str, NDArray[np.uint8]]
    state: NDArray[np.float32]
    instruction: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertOutcome:
    """How RoboTwin's expert fared on one seed.

    ``reason`` is empty when it succeeded, otherwise ``unstable``, ``unplanned``, ``unsuccessful``
    or ``raised: <what>``, the four cases in which RoboTwin's evaluation skips a seed.
    """

    seed: int
    reason: str

    @property
    def ok(self) -> bool:
        """Whether the expert solved the task."""
        return not self.reason


@dataclass(frozen=True, slots=True, kw_only=True)
class StepResult:
    """What one chunk of actions led to.

    ``steps_taken`` counts the actions executed by this call, ``steps_total`` those of the episode.
    ``done`` means that no further action is taken: success, the step limit (``at_limit``), or
    whatever else ends a task. ``frames_FxHxWx3`` holds the head camera after each
    executed action (F = steps_taken), or F = 0 when no video was asked for.
    """

    observation: Observation
    done: bool
    at_limit: bool
    success: bool
    steps_taken: int
    steps_total: int
    frames_FxHxWx3: NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Demonstration:
    """One expert episode as training data: one frame every 15 physics steps (1/250 s each).

    ``action_TxA[t]`` is the state of frame t + 1, as RoboTwin defines it. A seed the expert fails
    has its ``reason`` (see :class:`ExpertOutcome`) and no frames.
    """

    seed: int
    reason: str
    instruction: str = ""
    images: Mapping[str, NDArray[np.uint8]] = field(default_factory=dict)
    state_TxS: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, STATE_SIZE), dtype=np.float32)
    )
    action_TxA: NDArray[np.float32] = field(
        default_factory=lambda: np.zeros((0, STATE_SIZE), dtype=np.float32)
    )


def digest_observation(observation: Observation) -> str:
    """``sha256-observation-v1:`` over instruction, state bits and every picture's bits.

    Two runs that saw the same first observation have the same digest; pixels differ between CPUs
    and Mesa versions, so across machines only the physics part may be expected to agree.
    """
    header = {
        "instruction": observation["instruction"],
        "images": {name: list(image.shape) for name, image in observation["images"].items()},
    }
    hasher = hashlib.sha256(canonical_json(header))
    hasher.update(observation["state"].astype("<f4").tobytes())
    for name in sorted(observation["images"]):
        hasher.update(np.ascontiguousarray(observation["images"][name]).tobytes())
    return "sha256-observation-v1:" + hasher.hexdigest()
