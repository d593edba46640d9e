"""Plans, normalization statistics and fingerprints at the sizes that were promised.

Each measurement runs in a fresh process on one core; times are processor seconds of the work alone
(data are made before), memory is the process's peak, the data in it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from tests.benchmarks.figure import Figure
from tests.benchmarks.memory import peak_memory_kib

NUM_DIMS = 14
GRIPPERS = (6, 13)
FRAMES_AN_EPISODE = 200
SIZES = (100_000, 1_000_000, 10_000_000)
EVERYTHING: dict[str, Any] = {
    "stage_strategy": "change_point_state",
    "num_stages": 6,
    "gripper_event_enabled": True,
    "gripper_reduce": "per_dim",
}


def make_table(num_frames: int) -> pa.Table:
    """Episodes of 150 to 250 frames: joints that wander, grippers that close and open once."""
    rng = np.random.default_rng(0)
    num_episodes = num_frames // FRAMES_AN_EPISODE
    half = rng.integers(-50, 51, size=num_episodes // 2)
    lengths = FRAMES_AN_EPISODE + np.concatenate([half, -half]).astype(np.int64)
    bounds = np.concatenate([[0], np.cumsum(lengths)])
    episode_index = np.repeat(np.arange(num_episodes, dtype=np.int64), lengths)
    index = np.arange(num_frames, dtype=np.int64)
    frame_index = index - np.repeat(bounds[:-1], lengths)
    state = np.empty((num_frames, NUM_DIMS), dtype=np.float32)
    for first in range(0, num_frames, 1 << 17):
        last = min(first + (1 << 17), num_frames)
        steps = rng.standard_normal((last - first, NUM_DIMS), dtype=np.float32) * np.float32(0.01)
        np.cumsum(steps, axis=0, out=state[first:last])
        share = frame_index[first:last] / np.repeat(lengths, lengths)[first:last]
        for dim in GRIPPERS:
            state[first:last, dim] = np.clip(np.abs(share - 0.5) * 20 - 4, 0, 1)
    return pa.table(
        {
            "episode_index": episode_index,
            "frame_index": frame_index,
            "index": index,
            "observation.state": pa.FixedSizeListArray.from_arrays(
                pa.array(state.reshape(-1)), NUM_DIMS
            ),
        }
    )


def measure(work: Callable[[], Any]) -> dict[str, float]:
    """Processor seconds of ``work`` and the peak memory of the process until now."""
    begun = time.process_time()
    work()
    spent = time.process_time() - begun
    peak_kib = peak_memory_kib()
    return {"seconds": spent, "peak_gb": peak_kib * 1024 / 1e9}


def measure_plan(num_frames: int, parameters: dict[str, Any]) -> dict[str, float]:
    from appliance.dataset.columns import plan_columns_from_arrow
    from appliance.plan.build import build_plan
    from appliance.plan.params import PlanParams

    table = make_table(num_frames)
    params = PlanParams(num_episodes_keep=num_frames // FRAMES_AN_EPISODE, **parameters)

    def work() -> None:
        build_plan(
            plan_columns_from_arrow(table),
            params,
            repo_id="benchmark",
            train_config_name="benchmark",
            action_horizon=50,
            batch_size=32,
            dataset_fingerprint=None,
            created_at_utc="",
        )

    return measure(work)


def measure_norm_stats(num_frames: int) -> dict[str, float]:
    from appliance.norm_stats.compute import compute_norm_stats

    table = make_table(num_frames)
    flat = table["observation.state"].chunk(0).flatten().to_numpy()
    state = flat.reshape(num_frames, NUM_DIMS)
    action = np.roll(state, -1, axis=0)
    mask = [dim not in GRIPPERS for dim in range(NUM_DIMS)]
    episodes = table["episode_index"].to_numpy()
    rows = np.arange(num_frames, dtype=np.int64)
    return measure(
        lambda: compute_norm_stats(state, action, episodes, rows=rows, horizon=50, delta_mask=mask)
    )


def measure_fingerprint(num_frames: int) -> dict[str, float]:
    """The best of five of each: the fingerprint, and SHA-256 over the same bytes in one piece."""
    import hashlib

    from appliance.dataset.columns import Columns
    from appliance.dataset.fingerprint import fingerprint_columns

    table = make_table(num_frames)
    state = table["observation.state"].chunk(0).flatten().to_numpy()
    state = state.reshape(num_frames, NUM_DIMS)
    columns = Columns(
        episode_index=table["episode_index"].to_numpy(),
        frame_index=table["frame_index"].to_numpy(),
        index=table["index"].to_numpy(),
        timestamp=(table["frame_index"].to_numpy() / 50).astype(np.float32),
        task_index=table["episode_index"].to_numpy() % 7,
        tasks={task: f"task {task}" for task in range(7)},
        state_NxS=state,
        action_NxA=np.roll(state, -1, axis=0),
    )
    hashed = (columns.episode_index, columns.frame_index, columns.timestamp, state)
    data = b"".join(each.tobytes() for each in (*hashed, columns.action_NxA))
    ours = min(measure(lambda: fingerprint_columns(columns))["seconds"] for _ in range(5))
    plain = min(measure(lambda: hashlib.sha256(data))["seconds"] for _ in range(5))
    return {"seconds": ours, "plain_seconds": plain, "megabytes": len(data) / 1e6}


TASKS: dict[str, Callable[..., dict[str, float]]] = {
    "plan": measure_plan,
    "norm_stats": measure_norm_stats,
    "fingerprint": measure_fingerprint,
}


def run_alone(task: str, *arguments: Any) -> dict[str, float]:
    """Measure in a fresh process on one core."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.plan_speed", task, json.dumps(arguments)],
        stdout=subprocess.PIPE,
        check=True,
    )
    return dict(json.loads(done.stdout))


def main() -> list[Figure]:
    """The figures of Plan-STaR's promises."""
    figures: list[Figure] = []
    for name, parameters in (("defaults", {}), ("change points and events", EVERYTHING)):
        runs = {size: run_alone("plan", size, parameters) for size in SIZES}
        largest = runs[SIZES[-1]]
        title = f"plan of 10 million frames, 50,000 episodes ({name})"
        figures += [
            Figure(name=title, value=largest["seconds"], unit="s", limit=10),
            Figure(name="  peak memory", value=largest["peak_gb"], unit="GB", limit=2),
        ]
        figures += [
            Figure(
                name=f"  time from {small:,} to {large:,} frames",
                value=runs[large]["seconds"] / runs[small]["seconds"],
                unit="x",
                limit=15,  # 10 is linear, caches grow short; quadratic is 100
            )
            for small, large in pairwise(SIZES)
        ]
    norm_stats = run_alone("norm_stats", 1_000_000)
    fingerprint = run_alone("fingerprint", 1_000_000)
    return [
        *figures,
        Figure(
            name="norm stats of 1 million frames, H = 50, 14 dimensions",
            value=norm_stats["seconds"],
            unit="s",
            limit=30,
        ),
        Figure(name="  peak memory", value=norm_stats["peak_gb"], unit="GB"),
        Figure(
            name="fingerprint of 1 million frames, against SHA-256 of its bytes",
            value=fingerprint["seconds"] / fingerprint["plain_seconds"],
            unit="x",
            limit=2,
            note=f"{fingerprint['megabytes'] / fingerprint['seconds']:.0f} MB/s",
        ),
    ]


if __name__ == "__main__":
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    print(json.dumps(TASKS[sys.argv[1]](*json.loads(sys.argv[2]))))
