"""What a plan refuses, in the words of Plan-STaR sections 1 and 5."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from appliance.episodes import FrameColumns
from appliance.errors import PlanError
from appliance.plan.build import build_plan
from appliance.plan.params import PlanParams
from appliance.plan.plan import Plan


def build(columns: FrameColumns, horizon: int = 5, batch_size: int = 4, **params: Any) -> Plan:
    return build_plan(
        columns,
        PlanParams(**params),
        repo_id="a",
        train_config_name="c",
        action_horizon=horizon,
        batch_size=batch_size,
        dataset_fingerprint=None,
        created_at_utc="",
    )


def columns(*lengths: int, **changes: Any) -> FrameColumns:
    values = {
        "episode_index": np.repeat(np.arange(len(lengths)), lengths),
        "frame_index": np.concatenate([np.arange(length) for length in lengths]),
        "index": np.arange(sum(lengths)),
        "state_NxS": np.zeros((sum(lengths), 14), dtype=np.float32),
    }
    return FrameColumns(**{**values, **changes})


def test_more_episodes_than_there_are_cannot_be_kept() -> None:
    text = r"^Requested num_episodes_keep=4 but dataset has 3 episodes\."
    with pytest.raises(PlanError, match=text):
        build(columns(20, 20, 20), num_episodes_keep=4)


@pytest.mark.parametrize("keep", [0, -1])
def test_num_episodes_keep_must_be_positive(keep: int) -> None:
    with pytest.raises(PlanError, match="is not positive"):
        PlanParams(num_episodes_keep=keep)


def test_too_few_anchors_name_both_counts() -> None:
    text = (
        r"^Not enough anchors for one batch: anchors=16, required>=17\."
        r" Try smaller stride or more demos\.$"
    )
    with pytest.raises(PlanError, match=text):
        build(columns(20), batch_size=17)


def test_the_stride_is_halved_until_there_are_enough_anchors() -> None:
    plan = build(columns(20), batch_size=16, stride=8)
    assert plan.meta["anchor_strategy"]["stride_requested"] == 8
    assert plan.meta["anchor_strategy"]["stride_S"] == 1


@pytest.mark.parametrize("missing", ["episode_index", "frame_index"])
def test_a_dataset_without_episode_columns_is_one_episode(missing: str) -> None:
    data = columns(10, 10, **{missing: None})
    text = "^Dataset missing episode_index/frame_index; episode subset sampling is unavailable\\. "
    with pytest.raises(PlanError, match=text):
        build(data, num_episodes_keep=2)
    plan = build(data, num_episodes_keep=1, stride=1)
    assert plan.meta["has_episode_fields"] is False
    assert plan.meta["episodes_keep"] == [0]
    assert len(plan.anchor_indices) == 16


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"frame_index": [0, 1, 2, 4, 5, 0, 1]}, "Episode 0 lacks frame 3: row 3 holds 4"),
        (
            {"frame_index": [0, 1, 1, 2, 3, 0, 1]},
            "Episode 0 has frame 1 more than once: rows 1 and 2",
        ),
        ({"frame_index": [0, 1, 2, 3, 4, 1, 0]}, "Episode 1 is out of order: row 5 holds frame 1"),
        ({"frame_index": [1, 2, 3, 4, 5, 0, 1]}, "Episode 0 lacks frame 0: row 0 holds 1"),
        ({"index": [0, 1, 2, 3, 4, 5, 7]}, "Row 6 has index 7"),
        ({"episode_index": [0, 0, 1, 1, 1, 0, 0]}, "rows of episode 0 are not consecutive"),
    ],
)
def test_damaged_episodes_are_named(change: dict[str, list[int]], text: str) -> None:
    arrays = {name: np.array(value) for name, value in change.items()}
    with pytest.raises(PlanError, match=text):
        build(columns(5, 2, **arrays), horizon=1, batch_size=1)


def test_gripper_dims_are_checked_against_the_state() -> None:
    data = columns(20, state_NxS=np.zeros((20, 7), dtype=np.float32))
    with pytest.raises(PlanError, match=r"gripper_dims: 13 is outside .* 7 dimensions"):
        build(data, gripper_event_enabled=True)


@pytest.mark.parametrize(
    "params", [{"gripper_event_enabled": True}, {"stage_strategy": "change_point_state"}]
)
def test_a_missing_or_damaged_state_is_an_error_where_it_is_needed(params: dict[str, Any]) -> None:
    with pytest.raises(PlanError, match=r"observation\.state"):
        build(columns(20, state_NxS=None), **params)
    state = np.zeros((20, 14), dtype=np.float32)
    state[3, 6] = np.nan
    with pytest.raises(PlanError, match=r"not finite in episode 0"):
        build(columns(20, state_NxS=state), **params)


def test_columns_of_different_lengths_and_empty_datasets_are_errors() -> None:
    with pytest.raises(PlanError, match="columns of one length"):
        build(columns(20, index=np.arange(19)))
    with pytest.raises(PlanError, match="columns of one length"):
        build(FrameColumns())
    empty = np.zeros(0, dtype=np.int64)
    with pytest.raises(PlanError, match="no frame"):
        build(FrameColumns(episode_index=empty, frame_index=empty, index=empty))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("stride", 0),
        ("stride", 1.5),
        ("stride", True),
        ("num_stages", 0),
        ("num_stages", 1001),
        ("clip_ratio", 0.5),
        ("clip_ratio", float("nan")),
        ("clip_ratio", "5"),
        ("epsilon_mix", 1.5),
        ("gripper_sigma", 0),
        ("gripper_smooth_window", 4),
        ("gripper_dims", ()),
        ("gripper_dims", (-1,)),
        ("gripper_dims", "6,13"),
        ("gripper_quantile_q", -0.1),
        ("stage_strategy", "time"),
        ("replacement", 1),
        ("min_anchors", 0),
        ("plan_seed", -1),
        ("plan_seed", 2**53),
        ("num_episodes_keep", 2.0),
    ],
)
def test_a_parameter_outside_its_range_is_named(name: str, value: object) -> None:
    with pytest.raises(PlanError, match=rf"^plan\.{name}: "):
        PlanParams.from_mapping({name: value})


def test_an_unknown_parameter_is_named() -> None:
    with pytest.raises(PlanError, match=r"^plan\.strid: no such parameter"):
        PlanParams.from_mapping({"strid": 2})


def test_integers_and_floats_of_one_value_are_one_parameter() -> None:
    assert PlanParams.from_mapping({"clip_ratio": 5, "gripper_dims": [6, 13]}) == PlanParams()
