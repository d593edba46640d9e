"""Play the expert's own actions back through the driver: every task, five seeds; write the table.

``make expert-replay`` records each task's expert (its joint targets, a frame every 15 physics
steps) and lets the driver evaluate a policy that answers with them: queries, simulator processes,
RoboTwin's own ``take_action``, step limits and success checks. What the expert can do must come out
at 100 %; anything less is a fault of the plumbing. Evaluations that were interrupted go on where
they stopped. Writes tests/benchmarks/EXPERT_REPLAY.md. (Minutes a task on two cores.)
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from appliance.files import write_atomic
from appliance.simulator.spec import TASKS, SimulatorSpec
from appliance.simulator.worker import SimulatorProcess
from tests.evaluation.expert_replay import ExpertReplay, evaluate_replay, record_expert

ROOT = Path(__file__).resolve().parents[2]
RESULTS = Path(__file__).with_name("EXPERT_REPLAY.md")
RUNS = ROOT / "runs" / "expert_replay"
EPISODES = 5
WORKERS = 2


def replay_task(task: str, folder: Path, episodes: int = EPISODES) -> dict[str, Any]:
    """Evaluate the expert's replay on one task; the metrics, with the trials' seeds."""
    spec = SimulatorSpec(task=task, cameras=("cam_high",), image_size=(48, 36))
    actions = _recorded_actions(spec, folder, episodes)
    evaluate_replay(
        folder,
        ExpertReplay(actions),
        lambda number: SimulatorProcess(spec, log_path=folder / f"simulator-{number}.log"),
        lambda done, total, text: print(f"{task} {done}/{total} {text}", flush=True),
        task=task,
        simulator={"name": "robotwin", **spec.as_record()},
        policy={"name": "expert replay"},
        episodes=episodes,
        workers=min(WORKERS, episodes),
    )
    metrics: dict[str, Any] = json.loads((folder / "content" / "metrics.json").read_text("utf-8"))
    return metrics


def _recorded_actions(
    spec: SimulatorSpec, folder: Path, episodes: int
) -> dict[int, np.ndarray[Any, Any]]:
    path = folder / "actions.npz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        with SimulatorProcess(spec, log_path=folder / "recording.log") as simulator:
            found = record_expert(simulator, episodes)
        np.savez(folder / "unfinished.npz", **{str(seed): each for seed, each in found.items()})
        (folder / "unfinished.npz").rename(path)
    with np.load(path) as file:
        return {int(seed): file[seed] for seed in file.files}


def describe_table(results: dict[str, dict[str, Any]]) -> str:
    """The Markdown page."""
    first = next(iter(results.values()))
    lines = [
        "# The expert's actions, played back through the evaluation driver",
        "",
        "Written by `make expert-replay`: the proof that driver, simulator processes and",
        f"RoboTwin's step path lose nothing. {first['note']}",
        "",
        "| task | solved | trials (seeds skipped by the expert check) | mean actions |",
        "| --- | --- | --- | --- |",
    ]
    for task, metrics in results.items():
        seeds = ", ".join(map(str, metrics["trials"]["seeds"]))
        skipped = len(metrics["trials"]["skipped"])
        steps = metrics["avg_steps_success"]
        mean = "" if steps is None else f"{steps:.0f}"
        lines.append(
            f"| {task} | {metrics['successes']} of {metrics['episodes']} | {seeds} ({skipped}) |"
            f" {mean} |"
        )
    return "\n".join([*lines, ""])


def main(tasks: Iterable[str]) -> bool:
    """Run the tasks and write the table; whether every trial was solved."""
    results: dict[str, dict[str, Any]] = {}
    for task in tasks:
        results[task] = replay_task(task, RUNS / task)
        write_atomic(RESULTS, describe_table(results).encode())
    print(RESULTS.read_text("utf-8"))
    return all(each["successes"] == each["episodes"] for each in results.values())


if __name__ == "__main__":
    sys.exit(0 if main(sys.argv[1:] or TASKS) else 1)
