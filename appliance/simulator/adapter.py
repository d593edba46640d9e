"""The only module that knows RoboTwin's inside: which attributes are replaced, and by what.

The installed package stays as it is; the replacements live in a simulator process of their own.
Replaced are: the planner (:mod:`.planner`), the ray-tracing shader and shadows, the camera types,
and an import nobody here uses but which costs seconds. RoboTwin's evaluation redraws the scene at
every physics step; here it is redrawn only when a picture is taken.
"""

from __future__ import annotations

import importlib
import os
import random
import sys
import types
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import SimulatorError
from appliance.simulator.embodiment import EmbodimentFiles, make_stand_in
from appliance.simulator.shader import make_minimal_shader
from appliance.simulator.spec import CAMERAS, OWN_TASKS, SimulatorSpec

CAMERA_TYPE = "appliance"
FIELD_OF_VIEW_DEG = 37  # RoboTwin's D435
FRAME_EVERY_STEPS = 15

_SHADER_ROBOTWIN_ASKS_FOR = "rt"
_UNUSED_IMPORTS = ("open3d",)


class RoboTwin:
    """RoboTwin's task code, prepared for one specification; makes tasks ready to be set up."""

    def __init__(self, spec: SimulatorSpec) -> None:
        """Import RoboTwin and put our parts in place. Raises SimulatorError."""
        self._spec = spec
        self._embodiment = make_stand_in()
        os.environ["ROBOTWIN_ASSETS_ROOT"] = str(self._embodiment.assets_root)
        os.environ["ASSETS_PATH"] = str(self._embodiment.assets_root)
        _leave_out_unused_imports()
        _replace_rendering(str(make_minimal_shader()))
        _replace_planner()
        _add_camera_type(spec.image_size)
        self._task_class = _task_class(spec.task)

    def set_up(self, seed: int, *, on_frame: Callable[[Any], None] | None = None) -> Any:
        """A task with its scene built from ``seed``; ``on_frame`` sees it every 15 physics steps.

        Every generator RoboTwin draws from is seeded, Python's too (RoboTwin leaves it out).
        Raises whatever RoboTwin raises, ``UnStableError`` among it.
        """
        task = self._task_class()
        task.on_frame = on_frame
        random.seed(seed)
        settings = _task_settings(self._spec, self._embodiment)
        if on_frame is None:
            settings["save_freq"] = None
        task.setup_demo(now_ep_num=0, seed=seed, is_test=True, **settings)
        return task


def check_rendering() -> None:
    """Render one picture of an empty scene; raises SimulatorError when the driver cannot."""
    import sapien

    try:
        sapien.render.set_camera_shader_dir(_SHADER_ROBOTWIN_ASKS_FOR)
        scene = sapien.Scene()
        camera = scene.add_camera("check", 8, 8, 1.0, 0.1, 10.0)
        scene.update_render()
        camera.take_picture()
        camera.get_picture("Color")
    except RuntimeError as error:
        raise SimulatorError(
            f"SAPIEN cannot render with this machine's Vulkan driver ({error}). See"
            " `appliance doctor` for which it is, and name another one's ICD file in"
            " VK_DRIVER_FILES."
        ) from error


def read_state(task: Any) -> NDArray[np.float32]:
    """The 14 joint values: drive targets and gripper openings, as RoboTwin observes them."""
    robot = task.robot
    values = robot.get_left_arm_jointState() + robot.get_right_arm_jointState()
    return np.array(values, dtype=np.float32)


def take_pictures(task: Any, cameras: tuple[str, ...]) -> dict[str, NDArray[np.uint8]]:
    """Render ``cameras`` (LeRobot names) of the task's scene; uint8 RGB, HxWx3 each."""
    task.redraw()
    pictures = {}
    for name in cameras:
        camera = _find_camera(task, CAMERAS[name])
        camera.take_picture()
        color_HxWx4 = camera.get_picture("Color")
        pictures[name] = np.ascontiguousarray(
            (color_HxWx4 * 255).clip(0, 255).astype(np.uint8)[:, :, :3]
        )
    return pictures


def unstable_error() -> type[Exception]:
    """The exception RoboTwin raises when a scene's objects do not rest."""
    module = importlib.import_module("robotwin.envs.utils.create_actor")
    error: type[Exception] = module.UnStableError
    return error


def _find_camera(task: Any, name: str) -> Any:
    """RoboTwin's camera called ``name``."""
    cameras = task.cameras
    if name in ("left_camera", "right_camera"):
        return getattr(cameras, name)
    return cameras.static_camera_list[cameras.static_camera_name.index(name)]


def _leave_out_unused_imports() -> None:
    """Stand empty modules in for libraries that no picture and no joint value needs."""
    for name in _UNUSED_IMPORTS:
        sys.modules.setdefault(name, types.ModuleType(name))


def _replace_rendering(shader_folder: str) -> None:
    """RoboTwin asks for ray tracing and shadows; a CPU gets a rasterizing shader and none."""
    import sapien

    set_shader = sapien.render.set_camera_shader_dir
    add_point = sapien.Scene.add_point_light
    add_directional = sapien.Scene.add_directional_light

    def set_rasterizing_shader(folder: str) -> None:
        set_shader(shader_folder if folder == _SHADER_ROBOTWIN_ASKS_FOR else folder)

    def ignore(*_: object) -> None:
        return None

    def add_plain_point(scene: Any, place: Any, color: Any, **_: object) -> Any:
        return add_point(scene, place, color, shadow=False)

    def add_plain_directional(scene: Any, direction: Any, color: Any, **_: object) -> Any:
        return add_directional(scene, direction, color, shadow=False)

    sapien.render.set_camera_shader_dir = set_rasterizing_shader
    sapien.render.set_ray_tracing_samples_per_pixel = ignore
    sapien.render.set_ray_tracing_path_depth = ignore
    sapien.render.set_ray_tracing_denoiser = ignore
    sapien.Scene.add_point_light = add_plain_point
    sapien.Scene.add_directional_light = add_plain_directional


def _replace_planner() -> None:
    """Give RoboTwin's robot our planners instead of cuRobo's and mplib's."""
    from robotwin.envs.robot.robot import Robot

    from appliance.simulator.planner import ActionTiming, ArmPlanner

    def set_planner(robot: Any, scene: Any = None) -> None:
        robot.communication_flag = False
        robot.left_planner = ArmPlanner(
            robot.left_entity, robot.left_ee_name, robot.left_arm_joints_name, robot.left_homestate
        )
        robot.right_planner = ArmPlanner(
            robot.right_entity,
            robot.right_ee_name,
            robot.right_arm_joints_name,
            robot.right_homestate,
        )
        robot.left_mplib_planner = ActionTiming()
        robot.right_mplib_planner = ActionTiming()

    Robot.set_planner = set_planner


def _add_camera_type(image_size: tuple[int, int]) -> None:
    """Add one camera type of the wanted size to the configuration RoboTwin's cameras read."""
    module: Any = importlib.import_module("robotwin.envs.camera.camera")
    load = module.load_task_config
    width_px, height_px = image_size

    def load_with_camera(name: str) -> Any:
        config = load(name)
        if name == "_camera_config":
            config[CAMERA_TYPE] = {"fovy": FIELD_OF_VIEW_DEG, "w": width_px, "h": height_px}
        return config

    module.load_task_config = load_with_camera


def _task_settings(spec: SimulatorSpec, embodiment: EmbodimentFiles) -> dict[str, Any]:
    """The arguments RoboTwin's ``setup_demo`` takes, for this specification."""
    from robotwin.config import load_task_config

    settings: dict[str, Any] = load_task_config(spec.task_config)
    settings["camera"].update(
        head_camera_type=CAMERA_TYPE,
        wrist_camera_type=CAMERA_TYPE,
        collect_wrist_camera=bool({"cam_left_wrist", "cam_right_wrist"} & set(spec.cameras)),
    )
    folder = str(embodiment.robot_folder)
    settings.update(
        task_name=spec.task,
        left_robot_file=folder,
        right_robot_file=folder,
        left_embodiment_config=_fresh(embodiment.config),
        right_embodiment_config=_fresh(embodiment.config),
        dual_arm_embodied=True,
        render_freq=0,
        save_freq=FRAME_EVERY_STEPS,
        eval_mode=True,
    )
    return settings


def _fresh(config: Mapping[str, Any]) -> dict[str, Any]:
    """A deep copy: RoboTwin writes into the configuration it is given."""
    import copy

    return copy.deepcopy(dict(config))


def _task_class(task: str) -> type[Any]:
    """The task's class with drawing and recording put under our control."""
    owner = "appliance.simulator.tasks" if task in OWN_TASKS else "robotwin.envs"
    try:
        base: Any = getattr(importlib.import_module(f"{owner}.{task}"), task)
    except (ImportError, AttributeError) as error:
        raise SimulatorError(
            f"task {task}: RoboTwin's code for it cannot be imported ({error}). Run `make setup`."
        ) from error

    class Task(base):  # type: ignore[misc]
        """Draws only when asked to, and shows frames to ``on_frame`` instead of saving them."""

        on_frame: Callable[[Any], None] | None = None

        def redraw(self) -> None:
            """Bring the renderer's scene up to the physics."""
            super()._update_render()

        def _update_render(self) -> None:
            return None

        def _take_picture(self, *_: object) -> None:
            if self.on_frame is not None:
                self.on_frame(self)

        def get_obs(self) -> dict[str, Any]:
            """Nothing: pictures are taken by :func:`take_pictures`."""
            return {}

    return Task
