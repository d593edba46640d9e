"""What an evaluation's time is spent on, and what a second simulator gains.

A control step is one action: physics (with the action's timing), pictures for the policy, and its
share of a query. Physics and pictures are measured inside a simulator's process, in processor time
of all its threads, because other programs change that little. The speed-up is of wall-clock times,
one run after the other; it means something on a machine with nothing else to do.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from tests.benchmarks.figure import Figure

TASK = "touch_block"
ACTIONS = 60
QUERY_EVERY = 16
EPISODES = 8
SMALL = ("cam_high",), (96, 72)
EVERYTHING = ("cam_high", "cam_left_wrist", "cam_right_wrist"), (320, 240)


def measure_steps(
    cameras: list[str], image_size: list[int], num_actions: int, *, video: bool = False
) -> dict[str, Any]:
    """Play one trial of small random motions; processor milliseconds an action, and every picture.

    ``pictures`` counts what was rendered, by ``camera WxH``; run in a process of its own.
    """
    from appliance.simulator.renderer import find_renderer
    from appliance.simulator.spec import SimulatorSpec

    renderer = find_renderer()
    renderer.prepare_process()
    from sapien.render import RenderCameraComponent

    from appliance.simulator import session as session_module

    pictures: Counter[str] = Counter()
    take_picture = RenderCameraComponent.take_picture

    def count_picture(camera: Any) -> None:
        pictures[f"{camera.name} {camera.width}x{camera.height}"] += 1
        take_picture(camera)

    RenderCameraComponent.take_picture = count_picture
    spec = SimulatorSpec(task=TASK, cameras=tuple(cameras), image_size=tuple(image_size))
    session = session_module.Session(spec, str(renderer.device))
    pictures.clear()
    spent_s = {"render": 0.0}
    session_module.take_pictures = _timed(session_module.take_pictures, spent_s, "render")  # type: ignore[assignment]
    observation = session.reset(100000, "unseen")
    spent_s["render"] = 0.0
    generator = np.random.default_rng(0)
    began_s, done = time.process_time(), 0
    while done < num_actions:
        count = min(QUERY_EVERY, num_actions - done)
        walk = np.cumsum(generator.standard_normal((count, 14)) * 0.01, axis=0)
        result = session.step(observation["state"] + walk, want_frames=video)
        observation = result.observation
        done += result.steps_taken
        if result.done:
            break
    total_s = time.process_time() - began_s
    return {
        "actions": done,
        "physics_ms": 1000 * (total_s - spent_s["render"]) / done,
        "render_ms": 1000 * spent_s["render"] / done,
        "pictures": dict(pictures),
    }


def measure_policy(queries: int) -> dict[str, float]:
    """Processor milliseconds of one query of the tiny preset."""
    from appliance.norm_stats.files import NormStats, Stats
    from appliance.policy.inference import Policy
    from appliance.policy.initialization import init_params
    from appliance.policy.presets import PRESETS

    config = PRESETS["pi0_tiny_aloha_robotwin"]
    ones = np.ones(14)
    stats = Stats(mean=0 * ones, std=ones, q01=-ones, q99=ones)
    policy = Policy(init_params(config.model, 0), config, NormStats(state=stats, actions=stats))
    item = {
        "images": {"cam_high": np.zeros((72, 96, 3), np.uint8)},
        "state": np.zeros(14, np.float32),
        "prompt": "touch the block",
    }
    noise = np.zeros((1, *policy.noise_shape), np.float32)
    policy.infer([item], noise)
    began_s = time.process_time()
    for _ in range(queries):
        policy.infer([item], noise)
    return {"query_ms": 1000 * (time.process_time() - began_s) / queries}


def measure_workers(workers: int, episodes: int) -> dict[str, float]:
    """Wall-clock seconds from the last simulator's start to the end of the last episode."""
    from appliance.simulator.spec import SimulatorSpec
    from appliance.simulator.worker import SimulatorProcess
    from tests.evaluation.expert_replay import ExpertReplay, evaluate_replay

    spec = SimulatorSpec(task=TASK, cameras=SMALL[0], image_size=SMALL[1])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        evaluate_replay(
            folder,
            ExpertReplay({}),
            lambda number: SimulatorProcess(spec, log_path=folder / f"{number}.log"),
            episodes=episodes,
            trials=tuple(range(100000, 100000 + episodes)),
            workers=workers,
        )
        lines = (folder / "observed" / "journal.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    started_s = max(row["at_s"] for row in rows if row["kind"] == "started")
    ended_s = max(row["at_s"] for row in rows if row["kind"] == "episode")
    counted = sum(row["kind"] == "episode" and row["at_s"] > started_s for row in rows)
    return {"seconds": ended_s - started_s, "episodes": counted}


def _timed(
    function: Callable[..., Any], spent_s: dict[str, float], name: str
) -> Callable[..., Any]:
    def timed(*arguments: Any) -> Any:
        began_s = time.process_time()
        try:
            return function(*arguments)
        finally:
            spent_s[name] += time.process_time() - began_s

    return timed


MEASURES: dict[str, Callable[..., dict[str, Any]]] = {
    "steps": measure_steps,
    "policy": measure_policy,
    "workers": measure_workers,
}


def run_alone(name: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    """Measure in a fresh process."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.benchmarks.evaluation_speed", name),
            *(json.dumps(arguments), json.dumps(options)),
        ],
        capture_output=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stderr.decode(errors="replace"))
    # RoboTwin prints its own lines before ours.
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> list[Figure]:
    """The figures of an evaluation's promises."""
    ours = run_alone("steps", *SMALL, ACTIONS)
    theirs = run_alone("steps", *EVERYTHING, ACTIONS)
    query_ms = run_alone("policy", 50)["query_ms"] / QUERY_EVERY
    one, two = (run_alone("workers", workers, EPISODES) for workers in (1, 2))
    speed_up = (two["episodes"] / two["seconds"]) / (one["episodes"] / one["seconds"])
    return [
        Figure(name="control step: physics and timing", value=ours["physics_ms"], unit="ms"),
        Figure(
            name="control step: pictures (1 camera 96x72, one in 16 actions)",
            value=ours["render_ms"],
            unit="ms",
        ),
        Figure(
            name="control step: policy (tiny, one query in 16 actions)", value=query_ms, unit="ms"
        ),
        Figure(
            name="pictures the policy reads against 3 cameras of 320x240",
            value=ours["render_ms"] / theirs["render_ms"],
            unit="x",
            limit=1,
        ),
        Figure(
            name="episodes an hour, two simulators against one",
            value=speed_up,
            unit="x",
            note=f"{3600 * two['episodes'] / two['seconds']:.0f} an hour with two",
        ),
    ]


if __name__ == "__main__":
    measured = MEASURES[sys.argv[1]](*json.loads(sys.argv[2]), **json.loads(sys.argv[3]))
    print("\n" + json.dumps(measured))
