"""What an evaluation asks of a policy and of a simulator; the real ones live in their own rooms.

Axes: B queries, H actions of a horizon, A dimensions of the policy's noise, K executed actions, D
the robot's 14 dimensions (left arm 6, left gripper, right arm 6, right gripper).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from appliance.simulator.values import ExpertOutcome, Observation, StepResult

HEAD_CAMERA = "cam_high"


class PolicyProtocol(Protocol):
    """A policy that turns observations into actions; equal calls give equal actions.

    A driver that asks in batches (``query_batch`` = B > 1) always passes exactly B observations, so
    that one compiled program serves every query, and gives a trial the same place in every batch. A
    place nobody asks for repeats another one (the very same object), so that a policy which answers
    them one by one may leave it out and return anything there. What a policy must keep: the answer
    at a place is a function of the observation and the noise at that place alone.
    """

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(H, A): the shape of the noise one query starts from."""

    def infer(
        self, observations: Sequence[Mapping[str, Any]], noise_BxHxA: NDArray[np.float32], /
    ) -> NDArray[np.float32]:
        """Absolute joint targets BxHxD for ``{"images", "state", "prompt"}`` items.

        Called by one thread at a time, though not always the same one. Raises PolicyServerError
        when the policy is gone: the evaluation ends, and goes on from there when it is run again.
        Raises PolicyRaisedError when the policy itself raised: a batch is then asked again one by
        one, and the episode at fault ends as an exception.
        """


@runtime_checkable
class ClosablePolicy(Protocol):
    """A policy that waits for something outside this process, such as a server."""

    def close(self) -> None:
        """Give up for good; what is being waited for fails at once.

        May be called from another thread, and twice.
        """


class SimulatorProtocol(Protocol):
    """One simulator in a process of its own; trials in it do not depend on each other."""

    def start(self) -> None:
        """Start the process. Raises SimulatorError."""

    def close(self) -> None:
        """End the process, whatever it is doing; may be called from another thread, and twice."""

    def describe(self) -> Mapping[str, Any]:
        """Names and versions of what its results depend on, once it is started."""

    def expert_check(self, seed: int) -> ExpertOutcome:
        """Play the expert on a trial."""

    def reset(self, seed: int, instruction_type: str) -> Observation:
        """Begin a trial; the instruction is drawn from a stream of the trial's own."""

    def digest_physics(self) -> str:
        """A digest of every pose and joint value of the trial as it stands, no pixels."""

    def step(self, actions_KxA: NDArray[np.float32], /, *, want_frames: bool) -> StepResult:
        """Execute actions (A = D here) until they are used up or the trial is over."""


SimulatorFactory = Callable[[int], SimulatorProtocol]
"""Makes the simulator of worker 0, 1, ...; it is started by the driver."""

ProgressCallback = Callable[[int, int, str], None]
"""Called with (episodes done, episodes in all, one line of text)."""
