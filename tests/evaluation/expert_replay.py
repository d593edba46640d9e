"""The plumbing's proof: a policy that plays the expert's own recorded actions back.

Its answers go the way of every policy's: queries with noise, chunks of actions, the driver, a
simulator's process, RoboTwin's ``take_action``. ``python -m tests.evaluation.expert_replay`` runs
an evaluation of it in a process that can be killed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from appliance.evaluation.driver import evaluate
from appliance.evaluation.protocols import SimulatorFactory
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.worker import SimulatorProcess
from appliance.streams import stream
from tests.evaluation.fakes import make_request

HORIZON = 16
NOISE_SHAPE = (HORIZON, 14)
POLICY_SEED = 3
LONGEST_EPISODE = 1200

Progress = Callable[[int, int, str], None]


class ExpertReplay:
    """Plays demonstrations back; the noise of a query tells which trial it is for.

    On a trial it has no demonstration of it walks at random, and so runs into the step limit.
    """

    noise_shape = NOISE_SHAPE

    def __init__(self, actions_by_seed: Mapping[int, np.ndarray]) -> None:
        self._answers: dict[bytes, np.ndarray] = {}
        self.image_shapes: set[tuple[int, ...]] = set()
        self.prompts: set[str] = set()
        for seed, actions_TxA in actions_by_seed.items():
            for query in range(LONGEST_EPISODE // HORIZON):
                rows = np.arange(query * HORIZON, (query + 1) * HORIZON)
                chunk = actions_TxA[np.minimum(rows, len(actions_TxA) - 1)]
                self._answers[query_noise(seed, query).tobytes()] = chunk

    def infer(self, observations: Sequence[Mapping[str, Any]], noise: np.ndarray) -> np.ndarray:
        rows = []
        for observation, noise_HxA in zip(observations, noise, strict=True):
            self.image_shapes |= {image.shape for image in observation["images"].values()}
            self.prompts.add(observation["prompt"])
            walk = observation["state"] + np.cumsum(noise_HxA * 0.01, axis=0)
            rows.append(self._answers.get(noise_HxA.tobytes(), walk))
        return np.stack(rows).astype(np.float32)


def query_noise(seed: int, query: int) -> np.ndarray:
    """The noise the driver gives a query."""
    generator = stream(POLICY_SEED, "policy_noise", seed, query)
    return generator.standard_normal(NOISE_SHAPE, dtype=np.float32)


def record_expert(simulator: SimulatorProcess, count: int) -> dict[int, np.ndarray]:
    """The actions of the first ``count`` seeds the expert solves, from seed 100000 upwards."""
    found: dict[int, np.ndarray] = {}
    seed = 100000
    while len(found) < count:
        demonstration = simulator.demonstrate(seed)
        if not demonstration.reason:
            found[seed] = demonstration.action_TxA
        seed += 1
    return found


def evaluate_replay(
    folder: Path,
    policy: Any,
    make_simulator: SimulatorFactory,
    /,
    on_progress: Progress = lambda done, total, text: None,
    **changes: Any,
) -> None:
    """Evaluate in ``folder`` with the driver."""
    evaluate(
        make_request(**{"policy_seed": POLICY_SEED, "action_steps": HORIZON} | changes),
        policy,
        make_simulator,
        content_dir=folder / "content",
        observed_dir=folder / "observed",
        artifacts_dir=folder / "artifacts",
        on_progress=on_progress,
    )


def main(folder: Path, actions_path: Path, workers: int, episodes: int) -> None:
    """Evaluate touch_block on what ``actions_path`` holds; a line for everything finished."""
    with np.load(actions_path) as file:
        policy = ExpertReplay({int(seed): file[seed] for seed in file.files})
    spec = SimulatorSpec(task="touch_block", cameras=("cam_high",), image_size=(96, 72))
    evaluate_replay(
        folder,
        policy,
        lambda number: SimulatorProcess(spec, log_path=folder / f"simulator-{number}.log"),
        lambda done, total, text: print(done, text, flush=True),
        episodes=episodes,
        workers=workers,
        video=True,
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]))
