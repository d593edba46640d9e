"""A dataset that lacks one of the model's cameras: trained and evaluated with that one masked."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import DatasetError
from appliance.policy.presets import TrainConfig
from appliance.stages.simulators import cameras_of
from appliance.stages.trained_policy import find_in_checkpoint
from appliance.training.inputs import read_inputs
from tests.training.small_run import CONFIG, make_request, read_content, run

HEAD, BACK = ("cam_high", "base_0_rgb"), ("cam_back", "left_wrist_0_rgb")


def looking_at(*cameras: tuple[str, str]) -> TrainConfig:
    """The small configuration with these cameras; the shipped data has no cam_back."""
    model = replace(CONFIG.model, image_keys=tuple(key for _, key in cameras))
    return replace(CONFIG, model=model, cameras=cameras)


def test_a_camera_the_dataset_lacks_is_masked_told_and_not_asked_for_in_evaluation(
    assets: Path, compiled_dir: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = looking_at(HEAD, BACK)
    request = make_request(assets, config=config, num_train_steps=1)
    with caplog.at_level(logging.WARNING, logger="appliance.training.inputs"):
        item = read_inputs(request).items[(0, 0, 0)]
    assert "the dataset has no cam_back" in caplog.text
    assert item["image_mask"] == {"base_0_rgb": True, "left_wrist_0_rgb": False}
    assert not np.any(item["image"]["left_wrist_0_rgb"])
    assert np.any(item["image"]["base_0_rgb"])
    run(request, tmp_path)
    summary = json.loads(read_content(tmp_path)["run_summary.json"])
    assert summary["masked_cameras"] == ["cam_back"]
    assert summary["frames_sha256"].keys() == {"cam_high"}
    files = find_in_checkpoint(tmp_path / "artifacts" / "checkpoints" / "small" / "test", config)
    assert cameras_of(files.config) == ("cam_high",)
    assert replace(files.config, cameras=config.cameras) == config


def test_a_run_with_all_its_cameras_says_nothing_of_masks(assets: Path) -> None:
    inputs = read_inputs(make_request(assets))
    assert inputs.masked_cameras == ()
    assert "masked_cameras" not in inputs.describe()


def test_a_dataset_with_none_of_the_cameras_is_refused(assets: Path) -> None:
    with pytest.raises(
        DatasetError,
        match=r"none of the cameras that small looks at \(cam_back\); it has"
        r" observation\.images\.cam_high, .*\. Use",
    ):
        read_inputs(make_request(assets, config=looking_at(BACK)))
