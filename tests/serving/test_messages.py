from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from appliance.errors import PolicyServerError
from appliance.serving.messages import (
    ObservationError,
    read_description,
    read_noise,
    read_observation,
    read_picture,
    write_picture,
)
from tests.serving.fakes import DESCRIPTION, make_observation

CAMERAS = DESCRIPTION.cameras


def test_a_description_survives_its_way_through_metadata() -> None:
    assert read_description(DESCRIPTION.to_metadata()) == DESCRIPTION


def test_metadata_of_somebody_elses_server_has_no_description() -> None:
    assert read_description({}) is None
    assert read_description({"reset_pose": [0, 1, 2]}) is None


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ("hello", "is a str, not a map"),
        (None, "is a NoneType"),
        ({"appliance": None}, "cannot be understood"),
        ({"appliance": {"protocol": 2}}, "speaks version 2"),
        ({"appliance": {"protocol": 1}}, "cannot be understood"),
    ],
)
def test_metadata_that_cannot_be_understood_is_a_clear_error(metadata: Any, text: str) -> None:
    with pytest.raises(PolicyServerError, match=text):
        read_description(metadata)


@pytest.mark.parametrize(
    "part",
    [
        {"noise_shape": [5]},
        {"noise_shape": [5, 0]},
        {"noise_shape": [5.0, 32]},
        {"noise_shape": [10**9, 10**9]},
        {"max_batch": 0},
        {"image_size": "large"},
        {"cameras": 3},
        {"policy": None},
    ],
)
def test_a_damaged_description_is_refused(part: dict[str, Any]) -> None:
    metadata = DESCRIPTION.to_metadata()
    metadata["appliance"] |= part
    with pytest.raises(PolicyServerError, match="cannot be understood"):
        read_description(metadata)


@given(st.integers(1, 9), st.integers(1, 9))
def test_a_picture_is_read_from_both_forms(rows: int, columns: int) -> None:
    picture = np.arange(rows * columns * 3, dtype=np.uint8).reshape(rows, columns, 3)
    sent = write_picture(picture)
    assert sent.shape == (3, rows, columns)
    assert_array_equal(read_picture("x", sent), picture)
    if rows != 3:  # else it is taken as [3, rows, columns], openpi's form
        assert_array_equal(read_picture("x", picture), picture)


def test_a_picture_of_floats_is_scaled_as_openpi_does() -> None:
    values = np.linspace(0, 1, 24, dtype=np.float32).reshape(3, 2, 4)
    read = read_picture("x", values)
    assert_array_equal(read, np.moveaxis((255 * values).astype(np.uint8), 0, -1))


def test_an_observation_in_openpis_form_is_read() -> None:
    sent = {
        "state": np.ones(14),
        "images": {
            name: np.full((3, 224, 224), 9, np.uint8)
            for name in ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
        },
        "prompt": "do something",
        "anything": [1, 2],
    }
    read = read_observation(sent, cameras=CAMERAS)
    assert set(read) == {"images", "state", "prompt"}
    assert read["images"]["cam_high"].shape == (224, 224, 3)
    assert read["state"].dtype == np.float32


def test_a_missing_prompt_takes_the_servers_own() -> None:
    sent = {key: value for key, value in make_observation().items() if key != "prompt"}
    assert read_observation(sent, cameras=CAMERAS, default_prompt="stack")["prompt"] == "stack"
    with pytest.raises(ObservationError, match="prompt: text, not a nothing"):
        read_observation(sent, cameras=CAMERAS)


def with_images(**images: Any) -> dict[str, Any]:
    return {**make_observation(), "images": images}


GOOD = np.zeros((3, 4, 5), np.uint8)


@pytest.mark.parametrize("cameras", [CAMERAS, ("cam_left_wrist",)])
def test_one_camera_that_the_policy_reads_is_enough(cameras: tuple[str, ...]) -> None:
    read = read_observation(with_images(cam_left_wrist=GOOD), cameras=cameras)
    assert read["images"].keys() == {"cam_left_wrist"}


@pytest.mark.parametrize(
    ("sent", "text"),
    [
        ([1], "not a list"),
        ({}, "images: a map"),
        ({**make_observation(), "images": [GOOD]}, "images: a map"),
        (with_images(), "no picture of a camera .*: cam_high, cam_left_wrist"),
        (with_images(cam_low=GOOD), "no picture of a camera .*: cam_high, cam_left_wrist"),
        (with_images(cam_high=GOOD, cam_tail=GOOD), "no such camera: cam_tail"),
        (with_images(cam_high=GOOD[0]), r"images.cam_high: .* not uint8 \[4, 5\]"),
        (with_images(cam_high=np.zeros((4, 5, 4), np.uint8)), "images.cam_high"),
        (with_images(cam_high=GOOD.tolist()), "not a list"),
        (with_images(cam_high=np.zeros((3, 0, 5), np.uint8)), "1 to 4096 pixels"),
        (with_images(cam_high=np.zeros((3, 4097, 1), np.uint8)), "1 to 4096 pixels"),
        (with_images(cam_high=GOOD.astype(np.int64)), "uint8, not int64"),
        (with_images(cam_high=GOOD + np.float32(1.5)), "values in 0 to 1"),
        (with_images(cam_high=GOOD * np.float32(np.nan)), "values in 0 to 1"),
        ({**make_observation(), "state": None}, "state: 14 numbers, not a nothing"),
        ({**make_observation(), "state": np.zeros(13)}, r"not float64 \[13\]"),
        ({**make_observation(), "state": np.zeros((1, 14))}, "state"),
        ({**make_observation(), "state": ["a"] * 14}, "state"),
        ({**make_observation(), "state": [[1], [2, 3]]}, "state"),
        ({**make_observation(), "state": np.full(14, np.inf)}, "not finite"),
        ({**make_observation(), "state": np.full(14, 1e300)}, "not finite"),
        ({**make_observation(), "prompt": 3}, "prompt: text, not a int"),
    ],
)
def test_an_observation_that_is_none_is_refused_by_the_key_at_fault(sent: Any, text: str) -> None:
    with pytest.raises(ObservationError, match=text):
        read_observation(sent, cameras=CAMERAS)


@pytest.mark.parametrize(
    "value", [None, 1.0, np.zeros((5, 31)), np.zeros((5, 32), np.int64), np.full((5, 32), np.nan)]
)
def test_noise_of_another_form_is_refused(value: Any) -> None:
    with pytest.raises(ObservationError, match="noise"):
        read_noise(value, (5, 32))
