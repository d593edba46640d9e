"""Asking a policy server: one observation at a time against batches, and what the wire costs.

The server is a process of its own with the tiny preset, untrained (the weights change no time).
One and many are asked in turn, so that a busy machine disturbs both alike; figures are medians of
wall times, and the shares of one run.
"""

from __future__ import annotations

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from websockets.sync.client import connect

from appliance.norm_stats.files import NormStats, Stats, write_norm_stats
from appliance.policy.presets import PRESETS
from appliance.serving.messages import write_picture
from appliance.serving.wire import decode, encode
from tests.benchmarks.figure import Figure

CONFIG = PRESETS["pi0_tiny_aloha_robotwin"]
BATCH = 8
ROUNDS = 30
CAMERAS = ("cam_high", "cam_left_wrist", "cam_right_wrist")
CODING_LIMIT_MS = 5.0


@contextlib.contextmanager
def serving() -> Iterator[str]:
    """Serve an untrained policy in another process; yields its address."""
    from appliance.policy.checkpoint import save_params
    from appliance.policy.initialization import init_params

    zeros, ones = np.zeros(14), np.ones(14)
    stats = Stats(mean=zeros, std=ones, q01=-ones, q99=ones)
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "1")
        save_params(checkpoint / "params", init_params(CONFIG.model, 0))
        write_norm_stats(NormStats(state=stats, actions=stats), checkpoint / "assets" / "none")
        command = [sys.executable, "-m", "appliance", "serve", "--json", "--port", "0"]
        with subprocess.Popen(
            [*command, "--checkpoint", str(checkpoint), "--config", CONFIG.name],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                yield str(json.loads(process.stdout.readline())["url"])
            finally:
                process.terminate()


def make_observation(size: tuple[int, int], cameras: tuple[str, ...]) -> dict[str, Any]:
    """Noise as pictures, which nothing can compress."""
    generator = np.random.default_rng(0)
    return {
        "images": {name: generator.integers(0, 256, (*size, 3), np.uint8) for name in cameras},
        "state": np.zeros(14, dtype=np.float32),
        "prompt": "touch the block",
    }


def measure_queries(url: str, rounds: int) -> dict[str, float]:
    """Median milliseconds: a query alone, its part in the policy, an observation in a batch."""
    image = make_observation(CONFIG.model.image_size, ("cam_high",))
    message = {**image, "images": {"cam_high": write_picture(image["images"]["cam_high"])}}
    shape = (CONFIG.model.action_horizon, CONFIG.model.action_dim)
    noise = np.random.default_rng(1).standard_normal((BATCH, *shape), dtype=np.float32)
    one = {**message, "noise": noise[0]}
    many = {"observations": [message] * BATCH, "noise": noise}
    alone, policy, together = [], [], []
    with connect(url, compression=None, max_size=None, proxy=None) as connection:
        connection.recv()

        def ask(query: dict[str, Any]) -> tuple[float, float]:
            began_s = time.perf_counter()
            connection.send(encode(query))
            answer = decode(bytes(connection.recv(decode=False)))
            return 1000 * (time.perf_counter() - began_s), answer["policy_timing"]["infer_ms"]

        ask(many)  # compiles this batch
        for _ in range(rounds):
            whole_ms, policy_ms = ask(one)
            alone.append(whole_ms)
            policy.append(policy_ms)
            together.append(ask(many)[0] / BATCH)
    return {
        "alone_ms": statistics.median(alone),
        "policy_ms": statistics.median(policy),
        "together_ms": statistics.median(together),
    }


def measure_coding(rounds: int) -> float:
    """Processor milliseconds to code and decode an observation of three 224 x 224 pictures."""
    message = make_observation((224, 224), CAMERAS)
    began_s = time.process_time()
    for _ in range(rounds):
        decode(encode(message))
    return 1000 * (time.process_time() - began_s) / rounds


def main() -> list[Figure]:
    """Batches against single queries over the wire, and the wire's own part."""
    with serving() as url:
        found = measure_queries(url, ROUNDS)
    return [
        Figure(
            name="coding an observation of three 224x224 pictures, both ways",
            value=measure_coding(ROUNDS),
            unit="ms",
            limit=CODING_LIMIT_MS,
        ),
        Figure(name="one query at a time over the wire", value=found["alone_ms"], unit="ms"),
        Figure(
            name="outside the policy (coding, sockets, checks), of that",
            value=1 - found["policy_ms"] / found["alone_ms"],
            unit="share",
        ),
        Figure(
            name=f"an observation in a batch of {BATCH}, relative to one at a time",
            value=found["together_ms"] / found["alone_ms"],
            unit="ratio",
            limit=1.0,
        ),
    ]
