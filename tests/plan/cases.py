"""Random datasets and parameters for the plan's tests, the odd ones included on purpose."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.episodes import FrameColumns
from appliance.plan.build import build_plan
from appliance.plan.params import PlanParams
from appliance.plan.plan import Plan


@dataclass
class Case:
    episode_index: NDArray[np.int64]
    frame_index: NDArray[np.int64]
    state: NDArray[np.float32]
    params: PlanParams
    horizon: int
    batch_size: int

    @property
    def columns(self) -> FrameColumns:
        return FrameColumns(
            episode_index=self.episode_index,
            frame_index=self.frame_index,
            index=np.arange(len(self.episode_index), dtype=np.int64),
            state_NxS=self.state,
        )

    @property
    def parameters(self) -> dict[str, Any]:
        return asdict(self.params)

    def build(self, **changes: Any) -> Plan:
        arguments: dict[str, Any] = {
            "repo_id": "touch_block-demo_clean-50",
            "train_config_name": "pi0_tiny_aloha_robotwin",
            "action_horizon": self.horizon,
            "batch_size": self.batch_size,
            "dataset_fingerprint": "sha256-content-v1:" + "0" * 64,
            "created_at_utc": "2026-01-01T00:00:00Z",
        }
        return build_plan(self.columns, self.params, **{**arguments, **changes})


def make_case(seed: int, **changes: Any) -> Case:
    """A random case; ``changes`` override its parameters."""
    rng = np.random.default_rng(seed)
    horizon = int(rng.integers(1, 12))
    num_episodes = int(rng.integers(1, 9))
    lengths = rng.integers(1, 60, size=num_episodes)
    lengths[rng.integers(num_episodes)] = max(1, horizon + int(rng.integers(-2, 2)))
    ids = np.arange(num_episodes)
    if rng.random() < 0.5:  # sparse ids, in any order
        ids = rng.choice(1000, size=num_episodes, replace=False)
    state = np.concatenate([_make_state(rng, int(length)) for length in lengths])
    params: dict[str, Any] = {
        "num_episodes_keep": [None, int(rng.integers(1, num_episodes + 1))][rng.integers(2)],
        "episode_selection_seed": int(rng.integers(5)),
        "valid_start_tail_keep": int(rng.choice([0, 0, 1, 5, 100])),
        "stride": int(rng.integers(1, 9)),
        "plan_seed": int(rng.integers(5)),
        "min_anchors": [None, 1, int(rng.integers(1, 30))][rng.integers(3)],
        "stage_strategy": str(rng.choice(["time_quantile", "change_point_state"])),
        "num_stages": int(rng.choice([1, 2, 4, 6, 40])),
        "change_point_delta": int(rng.integers(1, 5)),
        "change_point_min_gap": int(rng.integers(1, 12)),
        "stage_balance": str(rng.choice(["uniform_over_stage", "inv_freq"])),
        "inv_freq_power": float(rng.choice([0.0, 0.5, 1.0, 2.0])),
        "clip_ratio": float(rng.choice([1.0, 1.5, 5.0, 1e6])),
        "epsilon_mix": float(rng.choice([0.0, 0.01, 1.0])),
        "gripper_event_enabled": bool(rng.integers(2)),
        "gripper_dims": (2, 5),
        "gripper_smooth_window": int(rng.choice([1, 3, 5, 9])),
        "gripper_delta1": int(rng.integers(1, 4)),
        "gripper_delta2": int(rng.integers(1, 8)),
        "gripper_quantile_q": float(rng.choice([0.0, 0.5, 0.9, 0.95, 1.0])),
        "gripper_min_gap": int(rng.integers(1, 12)),
        "gripper_event_mode": str(rng.choice(["soft_exp", "hard"])),
        "gripper_sigma": float(rng.choice([0.5, 10.0])),
        "gripper_window_w": int(rng.integers(0, 8)),
        "gripper_gamma": float(rng.choice([0.0, 2.0])),
        "gripper_reduce": str(rng.choice(["max_abs", "per_dim"])),
        "sampler_seed": int(rng.integers(5)),
        "replacement": bool(rng.integers(2)),
    }
    return Case(
        episode_index=np.repeat(ids, lengths).astype(np.int64),
        frame_index=np.concatenate([np.arange(length) for length in lengths]).astype(np.int64),
        state=state,
        params=PlanParams(**{**params, **changes}),
        horizon=horizon,
        batch_size=int(rng.integers(1, 9)),
    )


def _make_state(rng: np.random.Generator, length: int) -> NDArray[np.float32]:
    kind = rng.integers(4)
    state = rng.normal(size=(length, 6)).cumsum(axis=0) * 0.05
    if kind == 0:  # coarse values, so that scores tie
        state = np.round(state * 4) / 4
    if kind < 3:  # grippers that jump; kind 3: grippers that move at every frame
        steps = (rng.random(length) < 0.1).cumsum() % 2
        state[:, 2] = steps
        state[:, 5] = 1.0 if kind == 1 else 1 - steps  # kind 1: an idle gripper, always open
    if kind == 2:  # nothing moves at all
        state[:] = 0.5
    return state.astype(np.float32)
