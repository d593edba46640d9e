"""A training run small enough for tests, on the shipped demonstrations; also run as a process.

``python -m tests.training.small_run ASSETS OUT STEPS [--plan DIR] [--workers N] [...]``, or
``serve``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.dataset.columns import read_columns
from appliance.dataset.fingerprint import fingerprint_columns
from appliance.norm_stats.files import NormStats, Stats, write_norm_stats
from appliance.plan.build import build_plan
from appliance.plan.files import write_plan
from appliance.plan.params import PlanParams
from appliance.policy.config import BYTE_VOCABULARY, GemmaConfig, Pi0Config, SiglipConfig
from appliance.policy.presets import PRESETS, FreezeConfig, TrainConfig
from appliance.training.request import TrainRequest
from tests.conftest import DATASET

REPO_ID = "touch_block-stand_in-50"
HORIZON = 4
BATCH = 4

EXPERT = GemmaConfig(width=16, depth=1, mlp_dim=32, num_heads=2, num_kv_heads=1, head_dim=8)

CONFIG: TrainConfig = replace(
    PRESETS["pi0_tiny_aloha_robotwin"],
    name="small",
    model=Pi0Config(
        paligemma=EXPERT,
        action_expert=EXPERT,
        vision=SiglipConfig(width=16, depth=1, mlp_dim=32, num_heads=2, patch_size=12),
        vocabulary=BYTE_VOCABULARY,
        action_dim=16,
        action_horizon=HORIZON,
        max_token_len=8,
        image_keys=("base_0_rgb",),
        image_size=(24, 36),
        dtype="float32",
        remat=False,
    ),
    batch_size=BATCH,
    ema_decay=0.9,
    freeze=FreezeConfig(frozen=(".*final_norm.*", ".*input_embedding")),
)


WIDE_EXPERT = replace(EXPERT, mlp_dim=1 << 16)
WIDE_CONFIG: TrainConfig = replace(
    CONFIG,
    name="wide",
    model=replace(CONFIG.model, paligemma=WIDE_EXPERT, action_expert=WIDE_EXPERT),
)
"""With MLP leaves of 4 and 8 MiB."""


def make_norm_stats(folder: Path) -> Path:
    """Statistics of the shipped data, roughly: mean and spread of the columns."""
    columns = read_columns(DATASET)

    def describe(values: NDArray[np.float64]) -> Stats:
        low, high = np.quantile(values, (0.01, 0.99), axis=0)
        return Stats(mean=values.mean(axis=0), std=values.std(axis=0), q01=low, q99=high)

    state = columns.state_NxS.astype(np.float64)
    action = columns.action_NxA.astype(np.float64)
    return write_norm_stats(
        NormStats(state=describe(state), actions=describe(action - state)), folder
    )


def make_plan(folder: Path, **params: Any) -> Path:
    """A plan of five episodes of the shipped data."""
    columns = read_columns(DATASET)
    plan = build_plan(
        columns.to_plan_columns(),
        PlanParams(**{"num_episodes_keep": 5, **params}),
        repo_id=REPO_ID,
        train_config_name=CONFIG.name,
        action_horizon=HORIZON,
        batch_size=BATCH,
        dataset_fingerprint=fingerprint_columns(columns).value,
        created_at_utc="1970-01-01T00:00:00Z",
    )
    return write_plan(plan, folder)


def make_request(assets: Path, **changes: Any) -> TrainRequest:
    """A run of 6 steps; ``assets`` holds norm_stats/ and receives the frame cache."""
    request = TrainRequest(
        config=CONFIG,
        exp_name="test",
        repo_id=REPO_ID,
        dataset_root=DATASET,
        norm_stats_path=assets / "norm_stats",
        num_train_steps=6,
        num_workers=0,
        resume=True,
        cache_dir=assets / "cache",
        parameter_root_interval=4,
    )
    return replace(request, **changes)


def run(request: TrainRequest, out: Path, **options: Any) -> None:
    """Train into ``out/content``, ``out/observed``, ``out/artifacts``."""
    from appliance.training.loop import train

    train(request, out / "content", out / "observed", out / "artifacts", **options)


def read_content(out: Path) -> dict[str, bytes]:
    """All content files by relative path."""
    content = out / "content"
    return {
        path.relative_to(content).as_posix(): path.read_bytes()
        for path in sorted(content.rglob("*"))
        if path.is_file()
    }


def serve() -> None:
    """Fork a process for each line of arguments (JSON) that comes in, to be killed from outside.

    The libraries are imported once; nothing of jax is started before a fork. Prints the process's
    ``pid``, what it prints itself, and ``ended`` with its exit code.
    """
    from appliance.training import loop, processes

    assert loop.PROGRESS_INTERVAL_S >= 0
    assert processes.GRACE_S > 0
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            main(json.loads(line))
            os._exit(0)
        print("pid", pid, flush=True)
        print("ended", os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def main(words: list[str] | None = None) -> None:
    """Run as a process of its own."""
    parser = argparse.ArgumentParser()
    parser.add_argument("assets", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("steps", type=int)
    parser.add_argument("--plan", type=Path)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--interval", type=float, default=0.0)
    parser.add_argument("--sampler", choices=["torch", "counter"], default="torch")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--cpu-devices", type=int, default=1)
    parser.add_argument("--fsdp", type=int)
    parser.add_argument("--wide", action="store_true", help="with leaves large enough to be cut")
    arguments = parser.parse_args(words)
    request = make_request(
        arguments.assets,
        num_train_steps=arguments.steps,
        sampling_plan_path=arguments.plan,
        num_workers=arguments.workers,
        resume_interval_s=arguments.interval,
        save_interval=10,
        sampler=arguments.sampler,
        fsdp_devices=arguments.fsdp,
        config=WIDE_CONFIG if arguments.wide else CONFIG,
    )
    from appliance.training import loop
    from appliance.training.processes import Folders, Layout, train_by_layout

    loop.PROGRESS_INTERVAL_S = 0.0
    train_by_layout(
        request,
        Folders(
            content=arguments.out / "content",
            observed=arguments.out / "observed",
            artifacts=arguments.out / "artifacts",
        ),
        Layout(processes=arguments.processes, cpu_devices=arguments.cpu_devices),
        lambda done, total, text: print(done, flush=True),
    )


if __name__ == "__main__":
    serve() if sys.argv[1:] == ["serve"] else main()
