from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from appliance.errors import SimulatorError
from appliance.simulator.checkout import CheckoutSpec
from appliance.simulator.spec import SimulatorSpec


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"task": "stack_block_two"}, "Did you mean stack_blocks_two"),
        ({"task": "open_laptop"}, "task 'open_laptop' is not one"),
        ({"task": "touch_block", "cameras": ("cam_hihg",)}, "Did you mean cam_high"),
        ({"task": "touch_block", "cameras": ("cam_high", "cam_high")}, "named twice"),
        ({"task": "touch_block", "image_size": (0, 72)}, "image size"),
        ({"task": "touch_block", "shader": "rt"}, "shader 'rt'"),
    ],
)
def test_wrong_name_or_size_is_refused(settings: dict[str, Any], text: str) -> None:
    with pytest.raises(SimulatorError, match=text):
        SimulatorSpec(**settings)


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"cameras": ("cam_low",)}, "camera 'cam_low' is not one"),
        ({"cameras": ("cam_high", "cam_high")}, "named twice"),
        ({"image_size": (320, 5000)}, "image size"),
    ],
)
def test_what_a_policy_server_says_it_sees_is_checked_for_a_checkout_too(
    settings: dict[str, Any], text: str
) -> None:
    with pytest.raises(SimulatorError, match=text):
        CheckoutSpec(root=Path("RoboTwin"), python=Path("python"), task="open_laptop", **settings)


def test_record_rebuilds_the_specification() -> None:
    spec = SimulatorSpec(task="handover_block", cameras=("cam_high",), image_size=(224, 168))
    record: dict[str, Any] = spec.as_record()
    rebuilt = {name: tuple(v) if isinstance(v, list) else v for name, v in record.items()}
    assert SimulatorSpec(**rebuilt) == spec
