"""A small run's files under their bundle paths: a real plan of the golden dataset, made-up results.

Everything that a chain would write is there, in its formats; the plan has gripper events, a stride
and frames at which no window may start, so that every part of a picture has something to show.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from appliance.dataset.columns import STATE, read_columns
from appliance.dataset.info import read_info
from appliance.evaluation.statistics import wilson_interval
from appliance.evaluation.video import VideoRecorder
from appliance.plan.build import build_plan
from appliance.plan.exposure import compute_exposure
from appliance.plan.files import write_plan
from appliance.plan.params import PlanParams
from appliance.report.plan_record import RECORD_FILE, describe_episodes
from appliance.report.report_input import ReportInput
from tests.conftest import DATASET

STEPS, BATCH = 300, 8
OUTCOMES = ("success", "success", "timeout", "success", "exception", "success")
PARAMS = {
    "num_episodes_keep": 5,
    "stride": 2,
    "num_stages": 4,
    "gripper_event_enabled": True,
    "gripper_dims": [0, 7],
    "gripper_reduce": "per_dim",
    "gripper_quantile_q": 0.5,
}
MANIFEST: dict[str, Any] = {
    "version": 1,
    "name": "sample-run",
    "dataset": {
        "repo_id": "touch_block-stand_in-50",
        "fingerprint": "sha256-content-v1:" + "ab" * 32,
    },
    "plan": PARAMS,
    "norm_stats": {"mode": "recompute", "subset": "episodes_valid"},
    "train": {"config": "pi0_tiny_aloha_robotwin", "steps": STEPS, "batch_size": BATCH, "seed": 42},
    "eval": {
        "simulator": "robotwin",
        "task": "touch_block",
        "task_config": "demo_clean",
        "embodiment": "stand_in",
        "planner": "ik_toppra",
        "shader": "minimal",
        "episodes": len(OUTCOMES),
        "seed": 0,
        "instruction_type": "unseen",
        "action_steps": 16,
    },
    "runtime": {"engine": "host", "cpu_threads": 2},
    "expect": {
        "plan_sha256": None,
        "norm_stats_sha256": "12" * 32,
        "content_digest": None,
        "success_rate": {"value": 0.6, "margin": 0.3, "alpha": 0.05},
    },
}


def make_files(folder: Path) -> dict[str, Path]:
    """Write the sample run below ``folder``; its files by bundle path."""
    plan_sha256, plan_facts = _write_plan(folder)
    _write_training(folder, plan_sha256, plan_facts)
    _write_evaluation(folder)
    _write_rest(folder)
    return {
        path.relative_to(folder).as_posix(): path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def make_view(files: Mapping[str, Path], **changes: Any) -> ReportInput:
    """The sample run as a report's input."""
    view = ReportInput(
        files=files,
        name="sample-run",
        manifest=MANIFEST,
        content_digest="sha256-tree-v1:" + "cd" * 32,
        levels=("R0", "R1", "R2", "R3"),
    )
    return replace(view, **changes)


def write_value(folder: Path, name: str, value: Any) -> None:
    """Write a JSON value, or rows of them for a ``.jsonl`` file."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = value if name.endswith(".jsonl") else [value]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


def _write_plan(folder: Path) -> tuple[str, dict[str, Any]]:
    columns = read_columns(DATASET)
    plan = build_plan(
        columns.to_plan_columns(),
        PlanParams.from_mapping(PARAMS),
        repo_id="touch_block-stand_in-50",
        train_config_name="pi0_tiny_aloha_robotwin",
        action_horizon=16,
        batch_size=BATCH,
        dataset_fingerprint="sha256-content-v1:" + "ab" * 32,
        created_at_utc="1970-01-01T00:00:00Z",
        episode_digests=None,
    )
    write_plan(plan, folder / "content/plan")
    exposure = compute_exposure(plan.weights, plan.stage_ids, STEPS * BATCH, True)
    write_value(folder, "content/plan/exposure.json", dict(exposure.to_mapping()))
    names = read_info(DATASET).features[STATE].names
    record = describe_episodes(plan, columns.to_plan_columns(), names)
    write_value(folder, f"observed/plan/{RECORD_FILE}", record)
    draws = [round(STEPS * BATCH * mass) for mass in exposure.stage_mass]
    draws[0] += STEPS * BATCH - sum(draws) + 40
    draws[1] -= 40
    facts = {**exposure.to_mapping(), "realized_draws_per_stage": draws}
    return str(plan.meta["plan_sha256"]), facts


def _write_training(folder: Path, plan_sha256: str, facts: Mapping[str, Any]) -> None:
    rows = [
        {
            "step": step,
            "loss": 3.0 * math.exp(-step / 60) + 0.05 + 0.01 * math.sin(step),
            "grad_norm": 10.0 / (1 + step / 20) + 0.1 * math.cos(step),
            "learning_rate": 1e-3 * min(1.0, (step + 1) / 50),
        }
        for step in range(STEPS)
    ]
    write_value(folder, "content/train/curve.jsonl", rows)
    write_value(
        folder,
        "content/train/run_summary.json",
        {
            "configuration": {
                "num_train_steps": STEPS,
                "batch_size": BATCH,
                "seed": 42,
                "sampler_replacement": True,
                "schedule_in_force": {
                    "kind": "cosine",
                    "peak_lr": 1e-3,
                    "decay_lr": 1e-5,
                    "decay_steps": STEPS,
                    "warmup_steps": 50,
                },
            },
            "plan_sha256": plan_sha256,
            "plan_lr_scale": 0.5,
            "plan_effective_repeat": 55.25,
            "realized_n": STEPS * BATCH,
            "realized_unique": 38,
            "realized_coverage": 0.97,
            "realized_avg_repeat": 60.0,
            "trained_parameters": 773488,
            "frozen_parameters": 0,
            "hash_chain": "58" * 32,
            "index_stream_sha256": "69" * 32,
            **facts,
        },
    )
    leaves = {"300": {"PaliGemma/img/kernel": "11" * 32, "action_out_proj/bias": "22" * 32}}
    write_value(folder, "content/train/checkpoint_leaves.json", leaves)
    session = {"total_s": 72.5, "steps_per_s": 4.2, "device_wait_fraction_at_most": 0.001}
    write_value(folder, "observed/train/timing.json", {"sessions": [session, session]})


def _write_evaluation(folder: Path) -> None:
    successes = OUTCOMES.count("success")
    interval = wilson_interval(successes, len(OUTCOMES))
    rows = [
        {
            "episode": number,
            "seed": 100000 + number,
            "outcome": outcome,
            "failure_class": "action_shape" if outcome == "exception" else None,
            "instruction": f"Touch block {number}.",
            "steps": 60 if outcome == "timeout" else 20 + number,
            "queries": 4,
            "actions_sha256": f"{number:02d}" * 32,
        }
        for number, outcome in enumerate(OUTCOMES)
    ]
    figures = {"episodes": len(OUTCOMES), "successes": successes}
    metrics = {
        **figures,
        "success_rate": successes / len(OUTCOMES),
        "confidence": 0.95,
        "wilson_interval": {"low": interval.low, "high": interval.high},
        "avg_steps_success": 22.25,
        "task": "touch_block",
        "note": "Measured with the embodiment stand_in: not a RoboTwin score.",
        "policy": {
            "config": "pi0_tiny_aloha_robotwin",
            "checkpoint": 300,
            "params": "33" * 32,
            "sampling_steps": 10,
        },
        "simulator": {"embodiment": "stand_in", "planner": "ik_toppra", "shader": "minimal"},
        "trials": {"mode": "expert_checked", "skipped": [100009]},
    }
    write_value(folder, "content/evaluate/metrics.json", metrics)
    write_value(folder, "content/evaluate/episodes.jsonl", rows)
    seen = []
    for row in rows:
        video = f"videos/episode_{row['episode']}.mp4"
        _write_video(folder / "observed/evaluate" / video)
        seen.append({**row, "video": video, "seconds": 5.5})
    observed = {
        **figures,
        "eval_time_sec": 33.0,
        "simulator_failures": 0,
        "simulator_versions": {"sapien": "3.0.3", "renderer": "llvmpipe"},
        "episode_rows": seen,
    }
    write_value(folder, "observed/evaluate/_metrics.json", observed)


def _write_video(path: Path) -> None:
    with VideoRecorder() as recorder:
        for shade in range(0, 250, 25):
            recorder.add(np.full((72, 96, 3), shade, dtype=np.uint8))
        recorder.write(path)


def _write_rest(folder: Path) -> None:
    write_value(folder, "content/manifest.json", MANIFEST)
    write_value(
        folder,
        "content/norm_stats/norm_stats_provenance.json",
        {"norm_stats_sha256": "12" * 32, "num_frames": 60},
    )
    write_value(
        folder,
        "observed/lock.json",
        {
            "manifest_sha256": "f3" * 32,
            "dataset": {"fingerprint": "sha256-content-v1:" + "ab" * 32, "num_episodes": 50},
            "packages": {"numpy": "2.2.6", "jax": "0.10.2"},
            "platform": {
                "appliance": "0.1.0",
                "cpu_model": "A",
                "cpu_features": ["avx2"],
                "gpus": ["NVIDIA H100"],
            },
            "sources": {"plan": "sha256-tree-v1:" + "34" * 32},
        },
    )
    (folder / "observed/manifest.yaml").write_text("# written by a person\nversion: 1\n", "utf-8")
    for number, stage in enumerate(("dataset", "plan", "norm_stats", "train", "evaluate")):
        receipt = {
            "stage": stage,
            "content_digest": "sha256-tree-v1:" + f"{number}a" * 32,
            "times": {"started_utc": "2026-01-02T03:04:05+00:00", "seconds": 0.5 + 40.0 * number},
            "host": {
                "os": "Debian",
                "kernel": "6",
                "cpu_count": 2,
                "memory_bytes": 1 << 34,
                "gpu_driver": "570.86.15",
            },
        }
        write_value(folder, f"observed/receipts/{stage}.json", receipt)
