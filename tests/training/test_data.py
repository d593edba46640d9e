"""Items and batches: what lerobot gives, whatever the number of workers."""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from appliance.dataset.columns import read_columns
from appliance.dataset.frames import FrameStore, offline_dataset, open_frames
from appliance.training.data import EpisodeRows, SeededItems, WindowDataset, build_loader
from appliance.training.inputs import episode_rows
from appliance.training.sampler import AddressedBatches
from appliance.training.torch_sampler import TorchStream
from tests.conftest import DATASET
from tests.training.small_run import REPO_ID

HORIZON = 5


def keep(item: dict[str, Any]) -> dict[str, Any]:
    """A transform that leaves the prompt out, which is no array."""
    return {key: value for key, value in item.items() if key != "prompt"}


def draw(item: dict[str, Any]) -> dict[str, Any]:
    """A transform that uses all three global generators."""
    noise = [random.random(), np.random.random(), torch.rand(()).item()]
    return {"state": item["state"], "noise": np.array(noise)}


def synthetic_rows() -> EpisodeRows:
    ends = np.array([4, 4, 4, 4, 9, 9, 9, 9, 9])
    values = np.arange(18, dtype=np.float32).reshape(9, 2)
    return EpisodeRows(
        state_NxS=values,
        action_NxA=values + 100,
        episode_end_N=ends,
        prompt_N=np.zeros(9, dtype=np.int64),
        prompts={0: "go"},
    )


@pytest.fixture(scope="module")
def dataset(assets: Path) -> Iterator[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with offline_dataset(DATASET, REPO_ID, assets / "lerobot") as opened:
            yield opened


def test_items_equal_those_of_lerobot(dataset: Any, assets: Path) -> None:
    from lerobot.datasets.lerobot_dataset import LeRobotDataset

    steps = [index / dataset.fps for index in range(HORIZON)]
    lerobot = LeRobotDataset(
        REPO_ID, DATASET, delta_timestamps={"action": steps}, video_backend="pyav"
    )
    columns = read_columns(DATASET)
    frames = open_frames(DATASET, REPO_ID, ["cam_high"], cache_dir=assets / "cache")
    ours = WindowDataset(episode_rows(columns), frames, horizon=HORIZON, transform=dict)
    assert len(ours) == len(lerobot)
    last_rows = np.flatnonzero(np.diff(columns.episode_index))
    for row in [0, 1, *last_rows[:3], *(last_rows[:3] - 2), len(ours) - 1]:
        expected, found = lerobot[int(row)], ours[int(row)]
        picture = (expected["observation.images.cam_high"].numpy() * 255).round().astype(np.uint8)
        np.testing.assert_array_equal(found["images"]["cam_high"], picture.transpose(1, 2, 0))
        np.testing.assert_array_equal(found["state"], expected["observation.state"].numpy())
        np.testing.assert_array_equal(found["actions"], expected["action"].numpy())
        np.testing.assert_array_equal(found["action_is_pad"], expected["action_is_pad"].numpy())
        assert found["prompt"] == expected["task"]
        assert found["row"] == row


def test_windows_end_with_their_episode() -> None:
    items = WindowDataset(synthetic_rows(), FrameStore({}), horizon=3, transform=dict)
    item = items[2]
    assert item["actions"].tolist() == [[104, 105], [106, 107], [106, 107]]
    assert item["action_is_pad"].tolist() == [False, False, True]
    assert items[8]["action_is_pad"].tolist() == [False, True, True]


def batches_of(num_workers: int, start_step: int = 0) -> list[dict[str, Any]]:
    items = WindowDataset(synthetic_rows(), FrameStore({}), horizon=3, transform=draw)
    stream = TorchStream(num_items=9, batch_size=4, seed=3)
    batches = AddressedBatches(stream, start_step=start_step, stop_step=5)
    return list(build_loader(SeededItems(items, seed=11), batches, num_workers=num_workers))


def assert_same_batches(found: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert one.keys() == other.keys()
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])


def test_batches_are_the_same_with_workers_and_after_a_resume() -> None:
    expected = batches_of(0)
    assert expected[0]["noise"].shape == (4, 3)
    assert len(np.unique([batch["noise"] for batch in expected])) == 5 * 4 * 3
    assert_same_batches(batches_of(2), expected)
    assert_same_batches(batches_of(0, start_step=3), expected[3:])


def test_transforms_draw_from_the_address_not_from_what_was_drawn_before() -> None:
    items = WindowDataset(synthetic_rows(), FrameStore({}), horizon=3, transform=draw)
    seeded = SeededItems(items, seed=11)
    first = seeded[(7, 2, 0)]["noise"]
    seeded[(7, 3, 0)]
    np.testing.assert_array_equal(seeded[(7, 2, 5)]["noise"], first)
    assert (SeededItems(items, seed=12)[(7, 2, 0)]["noise"] != first).all()
