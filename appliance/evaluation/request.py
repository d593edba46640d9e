"""What is evaluated: a manifest's ``eval`` part, resolved, and the checks before the long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from appliance.errors import EvaluationError
from appliance.evaluation.protocols import PolicyProtocol
from appliance.evaluation.records import RECORDS_VERSION

INSTRUCTION_TYPES = ("unseen", "seen")
SEEDS_PER_BLOCK = 100_000


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalRequest:
    """One evaluation: which trials, how the policy is asked, and what the records must name.

    Attributes:
        task: RoboTwin task name.
        task_config: RoboTwin task configuration, such as ``demo_clean``.
        simulator: what the results depend on beside the task: ``name``, ``embodiment``,
            ``planner``, ``shader``, ``image_size``.
        policy: what was evaluated: ``checkpoint`` (step), the digest of its parameters,
            ``sampling_steps`` and whatever else changes its actions; copied into the results.
        episodes: trials to score.
        seed: trials are searched from ``100000 * (1 + seed)`` upwards.
        policy_seed: root of the policy's noise.
        instruction_type: ``unseen`` or ``seen``.
        action_steps: actions executed open loop for each query.
        query_batch: queries computed in one call of the policy; a batch that is not full is filled
            up, so that its shape, and with it every bit of an answer, never depends on how many
            trials are played at a time.
        trials: a pinned list of simulator seeds, scored as they are without an expert check, or
            None to search.
        video: whether each episode's head camera is recorded.
        workers: simulator processes; changes no result.
        max_consecutive_skips: so many unusable seeds in a row end the search.
    """

    task: str
    task_config: str
    simulator: Mapping[str, Any]
    policy: Mapping[str, Any]
    episodes: int
    seed: int
    policy_seed: int
    instruction_type: str
    action_steps: int
    trials: tuple[int, ...] | None
    video: bool
    query_batch: int = 1
    workers: int = 1
    max_consecutive_skips: int = 100

    @property
    def first_seed(self) -> int:
        """The first simulator seed of the search."""
        return SEEDS_PER_BLOCK * (1 + self.seed)

    def identity(self) -> dict[str, Any]:
        """Every field that a result depends on; two requests with the same one share a journal."""
        return {
            "records": RECORDS_VERSION,
            "task": self.task,
            "task_config": self.task_config,
            "simulator": dict(self.simulator),
            "policy": dict(self.policy),
            "episodes": self.episodes,
            "seed": self.seed,
            "policy_seed": self.policy_seed,
            "instruction_type": self.instruction_type,
            "action_steps": self.action_steps,
            "query_batch": self.query_batch,
            "trials": None if self.trials is None else list(self.trials),
            "video": self.video,
        }


def check_request(request: EvalRequest, policy: PolicyProtocol) -> None:
    """Fail before the long work; raises EvaluationError naming the field and its value."""
    _check_positive("eval.episodes", request.episodes)
    _check_positive("eval.action_steps", request.action_steps)
    _check_positive("eval.query_batch", request.query_batch)
    _check_positive("workers", request.workers)
    _check_positive("max_consecutive_skips", request.max_consecutive_skips)
    if request.seed < 0 or request.policy_seed < 0:
        raise EvaluationError(
            f"eval.seed: {request.seed}, eval.policy_seed: {request.policy_seed}: a seed is not"
            " negative. Use 0 or more."
        )
    if request.instruction_type not in INSTRUCTION_TYPES:
        raise EvaluationError(
            f"eval.instruction_type: {request.instruction_type!r} is unknown. Use unseen or seen."
        )
    horizon = policy.noise_shape[0]
    if request.action_steps > horizon:
        raise EvaluationError(
            f"eval.action_steps: {request.action_steps} is more than the {horizon} actions the"
            f" policy gives for a query. Use {horizon} or less."
        )
    if request.trials is not None:
        _check_trials(request.trials, request.episodes)


def _check_positive(name: str, value: int) -> None:
    if value < 1:
        raise EvaluationError(f"{name}: {value} is not positive. Use 1 or more.")


def _check_trials(trials: tuple[int, ...], episodes: int) -> None:
    twice = sorted({seed for seed in trials if trials.count(seed) > 1})
    if twice:
        raise EvaluationError(
            f"eval.trials: {', '.join(map(str, twice))} stands there more than once. The same trial"
            " twice is no further evidence: pin each seed once."
        )
    if len(trials) != episodes:
        raise EvaluationError(
            f"eval.episodes: {episodes}, but eval.trials pins {len(trials)} seeds. Make them agree."
        )
