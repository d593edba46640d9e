"""What a simulator is told: task, embodiment, planner, shader, cameras. Nothing else configures it.

The stand-in embodiment, planner and shader are ours. Results made with them carry their names;
they are not RoboTwin scores.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass

from appliance.errors import SimulatorError

OWN_TASKS = ("touch_block",)
"""Tasks of ours on RoboTwin's task base class (``appliance.simulator.tasks``)."""

ASSET_FREE_TASKS = (
    "blocks_ranking_rgb",
    "blocks_ranking_size",
    "handover_block",
    "stack_blocks_three",
    "stack_blocks_two",
)
"""RoboTwin's tasks whose objects are primitives, so that no asset is needed."""

TASKS = tuple(sorted(OWN_TASKS + ASSET_FREE_TASKS))
TASK_CONFIGS = ("demo_clean",)
EMBODIMENTS = ("stand_in",)
PLANNERS = ("ik_toppra",)
SHADERS = ("minimal",)

CAMERAS = {
    "cam_high": "head_camera",
    "cam_left_wrist": "left_camera",
    "cam_right_wrist": "right_camera",
}
"""LeRobot's camera name -> RoboTwin's."""

ROBOTWIN_IMAGE_SIZE = (320, 240)
"""(width, height) of the cameras RoboTwin's data and evaluations use (its D435)."""

MAX_IMAGE_SIDE_PX = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneSpec:
    """What every simulator is told, whichever backend plays.

    ``image_size`` is (width, height) in pixels, ``cameras`` are LeRobot names; only these are
    rendered for the policy. Raises SimulatorError for a camera or a size that no simulator has.
    """

    task: str
    task_config: str = "demo_clean"
    embodiment: str
    planner: str
    shader: str
    cameras: tuple[str, ...] = tuple(CAMERAS)
    image_size: tuple[int, int] = ROBOTWIN_IMAGE_SIZE

    def __post_init__(self) -> None:
        for camera in self.cameras:
            check_name("camera", camera, CAMERAS)
        if len(set(self.cameras)) != len(self.cameras):
            raise SimulatorError(f"cameras {list(self.cameras)}: a camera is named twice.")
        if not all(1 <= side_px <= MAX_IMAGE_SIDE_PX for side_px in self.image_size):
            raise SimulatorError(
                f"image size {self.image_size}: width and height must be 1 to"
                f" {MAX_IMAGE_SIDE_PX} pixels."
            )

    def as_record(self) -> dict[str, str | list[str] | list[int]]:
        """The specification as JSON-able data, for records; without paths of this machine."""
        return {
            "task": self.task,
            "task_config": self.task_config,
            "embodiment": self.embodiment,
            "planner": self.planner,
            "shader": self.shader,
            "cameras": list(self.cameras),
            "image_size": list(self.image_size),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSpec(SceneSpec):
    """The whole configuration of a simulator of RoboTwin's PyPI runtime.

    Raises SimulatorError for a name that is not known, with the nearest known one.
    """

    embodiment: str = "stand_in"
    planner: str = "ik_toppra"
    shader: str = "minimal"
    image_size: tuple[int, int] = (96, 72)

    def __post_init__(self) -> None:
        check_name("task", self.task, TASKS)
        check_name("task configuration", self.task_config, TASK_CONFIGS)
        check_name("embodiment", self.embodiment, EMBODIMENTS)
        check_name("planner", self.planner, PLANNERS)
        check_name("shader", self.shader, SHADERS)
        SceneSpec.__post_init__(self)  # a class with slots is made anew: super() has lost it


def check_name(what: str, name: str, known: Iterable[str]) -> None:
    """Raise SimulatorError unless ``name`` is one of ``known``, suggesting the nearest one."""
    names = sorted(known)
    if name in names:
        return
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]}?" if near else ""
    raise SimulatorError(
        f"{what} {name!r} is not one this simulator has ({', '.join(names)}).{hint}"
    )
