"""Demonstrations of the real simulator through the real LeRobotDataset and back."""

from __future__ import annotations

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from appliance.dataset.columns import read_columns, read_info
from appliance.dataset.record import JOINT_NAMES, VIDEO, record_dataset
from appliance.digest import digest_files
from appliance.errors import DatasetError
from appliance.simulator.process import play_demonstrations
from appliance.simulator.values import Demonstration
from appliance.simulator.worker import SimulatorProcess

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning")


@pytest.fixture(scope="module")
def demonstrations(touch_block: SimulatorProcess) -> list[Demonstration]:
    return list(itertools.islice(play_demonstrations(touch_block, 40), 2))


def failed(seed: int) -> Demonstration:
    return Demonstration(seed=seed, reason="unplanned")


def record(demonstrations: list[Demonstration], root: Path, episodes: int = 2) -> None:
    record_dataset(
        iter(demonstrations),
        episodes=episodes,
        root=root,
        repo_id="touch_block-test-2",
        source={"first_seed": 39},
    )


def test_recorded_dataset_gives_back_states_actions_texts_and_pictures(
    demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    import av

    root = tmp_path / "dataset"
    record([failed(39), *demonstrations], root)
    info, columns = read_info(root), read_columns(root)
    assert (info.num_episodes, info.fps, info.codebase_version) == (2, 50, "v3.0")
    lengths = [len(demonstration.state_TxS) for demonstration in demonstrations]
    np.testing.assert_array_equal(columns.episode_index, np.repeat([0, 1], lengths))
    np.testing.assert_array_equal(
        columns.state_NxS, np.concatenate([demo.state_TxS for demo in demonstrations])
    )
    np.testing.assert_array_equal(
        columns.action_NxA, np.concatenate([demo.action_TxA for demo in demonstrations])
    )
    texts = [columns.tasks[columns.task_index[row]] for row in (0, -1)]
    assert texts == [demonstration.instruction for demonstration in demonstrations]
    for camera in ("cam_high", "cam_left_wrist", "cam_right_wrist"):
        path = root / f"videos/observation.images.{camera}/chunk-000/file-000.mp4"
        with av.open(str(path)) as video:
            decoded = np.stack(
                [frame.to_ndarray(format="rgb24") for frame in video.decode(video=0)]
            )
        pictures = np.concatenate([demo.images[camera] for demo in demonstrations])
        assert np.abs(decoded.astype(int) - pictures.astype(int)).max() <= 2


def test_recording_says_seeds_instructions_and_what_was_skipped(
    demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    root = tmp_path / "dataset"
    record([failed(39), *demonstrations], root)
    recording = json.loads((root / "meta/recording.json").read_text("utf-8"))
    assert recording["skipped"] == [{"seed": 39, "reason": "unplanned"}]
    assert [episode["seed"] for episode in recording["episodes"]] == [40, 41]
    assert [episode["instruction"] for episode in recording["episodes"]] == [
        demonstration.instruction for demonstration in demonstrations
    ]
    assert recording["source"] == {"first_seed": 39}
    assert recording["video"] == VIDEO
    features = json.loads((root / "meta/info.json").read_text("utf-8"))["features"]
    assert features["action"]["names"] == list(JOINT_NAMES)


def test_action_is_the_state_of_the_next_frame(demonstrations: list[Demonstration]) -> None:
    for demonstration in demonstrations:
        np.testing.assert_array_equal(demonstration.action_TxA[:-1], demonstration.state_TxS[1:])


def test_same_demonstrations_are_recorded_to_the_same_bytes(
    demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    record(demonstrations, tmp_path / "first")
    record(demonstrations, tmp_path / "second")
    assert digest_files(tmp_path / "first") == digest_files(tmp_path / "second")


def test_existing_dataset_is_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "dataset").mkdir()
    with pytest.raises(DatasetError, match="already exists"):
        record([], tmp_path / "dataset")


def test_recording_that_cannot_be_finished_leaves_nothing(
    demonstrations: list[Demonstration], tmp_path: Path
) -> None:
    with pytest.raises(DatasetError, match="only 2 of 3"):
        record([*demonstrations, failed(42)], tmp_path / "dataset", episodes=3)
    assert list(tmp_path.iterdir()) == []


def test_expert_that_never_succeeds_is_given_up(tmp_path: Path) -> None:
    endless = (failed(seed) for seed in itertools.count())
    with pytest.raises(DatasetError, match="cannot play this task"):
        record_dataset(endless, episodes=1, root=tmp_path / "dataset", repo_id="never", source={})
