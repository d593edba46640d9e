from __future__ import annotations

from pathlib import Path

import pytest

from appliance.errors import SimulatorError
from appliance.simulator import renderer
from appliance.simulator.renderer import Device, find_renderer
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.worker import SimulatorProcess


def test_renderer_is_found_with_its_version() -> None:
    found = find_renderer()
    assert found.device.good_enough
    assert found.device.driver_info


def test_a_missing_driver_is_an_error_that_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    with (
        pytest.raises(SimulatorError, match="`unset VK_DRIVER_FILES`"),
        SimulatorProcess(SimulatorSpec(task="touch_block")),
    ):
        pass


@pytest.mark.parametrize(
    ("kind", "driver_info", "good"),
    [
        ("cpu", "Mesa 22.3.6 (LLVM 15.0.6)", False),
        ("cpu", "Mesa 24.2.9 (LLVM 18.1.8)", False),
        ("cpu", "Mesa 24.3.0 (LLVM 19.1.4)", True),
        ("cpu", "Mesa 25.0.7-2~bpo12+1 (LLVM 15.0.6)", True),
        ("cpu", "", False),
        ("discrete", "570.86.15", True),
        ("other", "", False),
    ],
)
def test_lavapipe_needs_24_3_and_a_gpu_is_taken(kind: str, driver_info: str, good: bool) -> None:
    device = Device(kind=kind, name="device", driver="driver", driver_info=driver_info)
    assert device.good_enough is good


def test_a_driver_that_hangs_and_one_that_was_named_are_advised_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in renderer.DRIVER_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(renderer, "_PROBE_TIMEOUT_S", 0.01)
    renderer.forget_renderers()
    with pytest.raises(SimulatorError, match=r"system drivers: hung, no answer within 0\.01 s"):
        renderer.find_renderer()
    monkeypatch.setenv("VK_DRIVER_FILES", str(tmp_path / "none.json"))
    with pytest.raises(SimulatorError, match=r"`unset VK_DRIVER_FILES`, or name") as caught:
        renderer.find_renderer()
    assert "simulator.mesa" not in str(caught.value)
    renderer.forget_renderers()
