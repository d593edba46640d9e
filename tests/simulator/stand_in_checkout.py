"""A RoboTwin checkout to test with: the installed runtime's files in the layout of ``stable_2.0``.

What is real: RoboTwin's task code, settings and texts, an interpreter of its own, and everything
between it and the driver. What is not: the assets (the generated stand-in embodiment is put in
their place), cuRobo and mplib (our planner), ray tracing (our shader). ``install_stand_in`` puts
those parts into a real checkout of ``stable_2.0`` as well; it was run so by hand.
"""

from __future__ import annotations

import shutil
import sysconfig
import venv
from importlib.resources import files
from pathlib import Path
from typing import NamedTuple

import yaml

from appliance.simulator.checkout import check_layout, digest_assets, digest_code
from appliance.simulator.checkout_worker import CHECKOUT
from appliance.simulator.embodiment import make_stand_in
from tests.conftest import ROOT

CAMERA_SIZE = (96, 72)

GLOBAL_CONFIGS = """
from robotwin.envs._GLOBAL_CONFIGS import *  # directions
import os
ROOT_PATH = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/"
ASSETS_PATH = ROOT_PATH + "assets/"
CONFIGS_PATH = ROOT_PATH + "task_config/"
DESCRIPTION_PATH = ROOT_PATH + "description/"
os.environ["ASSETS_PATH"] = os.environ["ROBOTWIN_ASSETS_ROOT"] = ROOT_PATH

def load_task_config(name):
    import yaml
    with open(CONFIGS_PATH + name + ".yml") as file:
        return yaml.safe_load(file)
"""

INSTRUCTIONS = """
import json, os, random
from robotwin.description.instructions import *
FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "../task_instruction")

def generate_episode_descriptions(task_name, episodes, max_descriptions=1000000):
    with open(os.path.join(FOLDER, task_name + ".json")) as file:
        data = json.load(file)
    found = []
    for index, episode in enumerate(episodes):
        texts = {"episode_index": index}
        for kind, fill in (("seen", replace_placeholders), ("unseen", replace_placeholders_unseen)):
            templates = filter_instructions(data[kind], episode)
            count = max_descriptions if templates else 0
            texts[kind] = [fill(templates[i % len(templates)], episode) for i in range(count)]
        found.append(texts)
    return found
"""

PLANNER = """
from appliance.simulator.planner import ActionTiming, ArmPlanner

class ik_toppra(ArmPlanner):
    pass

MplibPlanner = MplibWrapperPlanner = CuroboPlanner = ik_toppra
"""

SET_PLANNER = """
from .planner import ActionTiming as _ActionTiming, ik_toppra as _ik_toppra
from .robot import Robot as _Robot

def _set_planner(robot, scene=None):
    robot.communication_flag = False
    for side in ("left", "right"):
        part = {name: getattr(robot, f"{side}_{name}") for name in
                ("entity", "ee_name", "arm_joints_name", "homestate")}
        setattr(robot, f"{side}_planner", _ik_toppra(*part.values()))
        setattr(robot, f"{side}_mplib_planner", _ActionTiming())

_Robot.set_planner = _set_planner
"""

SHADER = """
from appliance.simulator.adapter import _replace_rendering
from appliance.simulator.shader import make_minimal_shader
_replace_rendering(str(make_minimal_shader()))
"""


def assemble_checkout(root: Path) -> None:
    """Write the installed runtime's files below ``root`` as ``stable_2.0`` lays them out."""
    installed = Path(str(files("robotwin")))
    for path in (installed / "envs").rglob("*.py"):
        target = root / path.relative_to(installed)
        target.parent.mkdir(parents=True, exist_ok=True)
        text = path.read_text("utf-8").replace("robotwin.config ", "envs._GLOBAL_CONFIGS ")
        target.write_text(text.replace("robotwin.envs", "envs"), "utf-8")
    (root / "envs" / "_GLOBAL_CONFIGS.py").write_text(GLOBAL_CONFIGS, "utf-8")
    shutil.copytree(
        installed / "configs" / "task", root / "task_config", ignore=shutil.ignore_patterns("*.py*")
    )
    shutil.copytree(
        installed / "description" / "task_instruction", root / "description" / "task_instruction"
    )
    utils = root / "description" / "utils"
    utils.mkdir()
    (utils / "generate_episode_instructions.py").write_text(INSTRUCTIONS, "utf-8")
    (root / "envs" / "__init__.py").write_text("from ._GLOBAL_CONFIGS import *\n", "utf-8")


def install_stand_in(root: Path) -> None:
    """Put our embodiment, planner and shader into the checkout at ``root``, as parts of it."""
    make_assets(root)
    _install_parts(root / "envs", root / "task_config")
    (root / "open3d.py").write_text("", "utf-8")  # imported, and only needed for point clouds


def make_assets(root: Path) -> None:
    """The stand-in embodiment where RoboTwin's assets would lie below ``root``."""
    stand_in = make_stand_in()
    shutil.copytree(stand_in.assets_root / "assets", root / "assets", dirs_exist_ok=True)


def install_runtime(python: Path) -> None:
    """Give the environment of ``python`` a runtime of its own, with our planner and shader."""
    packages = next((python.parents[1] / "lib").glob("python3*/site-packages"))
    package = packages / "robotwin"
    skipped = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(str(files("robotwin"))), package, ignore=skipped)
    _install_parts(package / "envs", package / "configs" / "task")
    (packages / "open3d.py").write_text("", "utf-8")


def _install_parts(envs: Path, settings: Path) -> None:
    _add_to_yaml(
        settings / "_embodiment_config.yml",
        {"stand_in": {"file_path": "./assets/embodiments/stand_in/"}},
    )
    width_px, height_px = CAMERA_SIZE
    _add_to_yaml(
        settings / "_camera_config.yml", {"small": {"fovy": 37, "w": width_px, "h": height_px}}
    )
    (envs / "robot" / "planner.py").write_text(PLANNER, "utf-8")
    _append(envs / "robot" / "__init__.py", SET_PLANNER)
    _append(envs / "__init__.py", SHADER)


class Digests(NamedTuple):
    """What RoboTwin's results depend on."""

    code: str
    assets: str


def digest_checkout(root: Path, python: Path, layout: str = CHECKOUT) -> Digests:
    check_layout(root, layout)
    return Digests(code=digest_code(root, python, layout), assets=digest_assets(root))


def make_environment(folder: Path) -> Path:
    """An interpreter of its own that finds this environment's packages; its path."""
    venv.create(folder, with_pip=False, symlinks=True)
    packages = sysconfig.get_paths(vars={"base": str(folder), "platbase": str(folder)})["purelib"]
    ours = f"{sysconfig.get_paths()['purelib']}\n{ROOT}\n"
    Path(packages, "ours.pth").write_text(ours, "utf-8")
    return folder / "bin" / "python"


def _append(path: Path, text: str) -> None:
    old = path.read_text("utf-8") if path.exists() else ""
    path.write_text(f"{old}\n{text}", "utf-8")


def _add_to_yaml(path: Path, more: dict[str, object]) -> None:
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text("utf-8")), **more}), "utf-8")
