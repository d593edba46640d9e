"""The record of one episode, as it stands in ``episodes.jsonl``.

Outcomes (Plan-STaR 4): ``success``; ``timeout``: the step limit was reached; ``exception``: raised
in the rollout; ``other``: ended without success before the limit. Failure classes say what stopped
an episode that neither succeeded nor ran into the limit:

``action_shape``, ``action_not_finite``: the policy gave nothing that can be executed (exception).
``policy``: the policy raised (exception).
``simulator``: its process was lost in two attempts, killed or over its time (exception).
``task``: RoboTwin's code raised in two attempts, each in a fresh process (exception).
``unplayable``: the pinned trial cannot be begun on this machine (other).
``ended_early``: the task ended itself before its limit (other).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

OUTCOMES = ("success", "timeout", "exception", "other")
FAILURES = OUTCOMES[1:]
FAILURE_CLASSES = (
    "action_shape",
    "action_not_finite",
    "policy",
    "simulator",
    "task",
    "unplayable",
    "ended_early",
)
NOT_PLAYED = ("simulator", "task", "unplayable")
"""Classes of trials of which no rollout could be finished, and none is recorded."""
NOT_THE_ACTIONS = ("action_shape", "policy", *NOT_PLAYED)
"""Classes of trials that no action ended: there were none for this robot, or nowhere to act."""

RECORDS_VERSION = 2
"""1 held ``first_state_sha256``, over the robot's commanded pose: the same for every trial."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """The deterministic record of one episode: a row of ``episodes.jsonl``.

    ``actions_sha256`` is over the executed actions, little-endian float32, 14 an action, in order.
    ``first_physics`` is over every pose and joint value of the scene after reset (no pixels), so
    that it may agree where pictures do not. Of a trial stopped by ``simulator``, ``task`` or
    ``unplayable`` nothing of a rollout is recorded: how far a lost process came is a matter of
    luck.
    """

    episode: int
    seed: int
    outcome: str
    failure_class: str | None = None
    instruction: str | None = None
    steps: int = 0
    queries: int = 0
    first_observation: str | None = None
    first_physics: str | None = None
    actions_sha256: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """The row as JSON-able data; ``Episode(**episode.to_dict()) == episode``."""
        return asdict(self)


def unplayed_episode(*, episode: int, seed: int, failure_class: str) -> Episode:
    """The record of a trial of which no rollout could be finished."""
    outcome = "other" if failure_class == "unplayable" else "exception"
    return Episode(episode=episode, seed=seed, outcome=outcome, failure_class=failure_class)
