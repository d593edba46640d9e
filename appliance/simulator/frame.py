"""Renders one picture with SAPIEN in a process of its own, to see whether rendering works at all.

``python -m appliance.simulator.frame`` draws a red box and prints a JSON line about the picture. A
driver that hangs or crashes takes that process with it, and no other.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

from appliance.errors import ApplianceError, SimulatorError
from appliance.simulator.renderer import RendererHungError, find_renderer
from appliance.simulator.shader import make_minimal_shader

FRAME_TIMEOUT_S = 120.0
SIDE_PX = 64
_LEAST_CONTRAST = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Frame:
    """A rendered picture: the device, whether it is no processor, and the seconds it all took."""

    device: str
    is_gpu: bool
    seconds: float


def render_frame(timeout_s: float = FRAME_TIMEOUT_S) -> Frame:
    """Render one picture in a child process.

    Raises SimulatorError that says what went wrong, RendererHungError when nothing came in time.
    """
    began_s = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, "-m", "appliance.simulator.frame"],
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout_s,
        )
    except subprocess.TimeoutExpired as error:
        raise RendererHungError(
            f"Rendering hung: no picture within {timeout_s:g} s. A renderer that hangs is known of"
            " very new GPUs with older SAPIEN; try another driver by VK_DRIVER_FILES."
        ) from error
    try:
        told = json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise SimulatorError(
            f"The renderer's process ended with code {done.returncode} and no picture"
            f" ({_last_line(done.stderr)})."
        ) from error
    if "error" in told:
        raise SimulatorError(str(told["error"]))
    return Frame(
        device=told["device"],
        is_gpu=told["is_gpu"],
        seconds=round(time.monotonic() - began_s, 1),
    )


def _last_line(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1][:200] if lines else "it said nothing"


def _draw_box() -> dict[str, Any]:
    """Draw; returns what is printed. Raises ApplianceError, RuntimeError."""
    renderer = find_renderer()
    renderer.prepare_process()
    import sapien

    sapien.render.set_camera_shader_dir(str(make_minimal_shader()))
    scene = sapien.Scene()
    scene.set_ambient_light([0.5, 0.5, 0.5])
    scene.add_directional_light([1, 0, -1], [1, 1, 1])
    builder = scene.create_actor_builder()
    material = sapien.render.RenderMaterial(base_color=[1, 0, 0, 1])
    builder.add_box_visual(half_size=[0.2, 0.2, 0.2], material=material)
    builder.build_kinematic(name="box").set_pose(sapien.Pose([1, 0, 0]))
    camera = scene.add_camera("frame", SIDE_PX, SIDE_PX, 1.0, 0.1, 10.0)
    scene.update_render()
    camera.take_picture()
    red_YxX, green_YxX = (camera.get_picture("Color")[..., channel] for channel in (0, 1))
    contrast = 255 * float((red_YxX - green_YxX)[SIDE_PX // 2, SIDE_PX // 2])
    if contrast < _LEAST_CONTRAST:
        return {"error": f"{renderer.device} draws a red box that is not red ({contrast:.0f})."}
    return {"device": str(renderer.device), "is_gpu": renderer.device.kind != "cpu"}


def main() -> int:
    """Print one JSON line: the device, or the error."""
    try:
        told = _draw_box()
    except (ApplianceError, RuntimeError, OSError, ImportError) as error:
        told = {"error": str(error) or type(error).__name__}
    sys.stdout.write(json.dumps(told) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
