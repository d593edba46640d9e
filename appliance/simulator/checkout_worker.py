"""Plays trials in RoboTwin with its assets, unmodified, in an environment of its own.

RoboTwin is a checkout (branch ``stable_2.0``) or the installed runtime (rlinf-robotwin-runtime):
the same code in two layouts. This file is run as a script by that environment's interpreter and
needs nothing but Python 3.8, NumPy and what RoboTwin itself needs; the appliance is not installed
there. It does what ``script/eval_policy.py`` does, in its order and with its settings, one call at
a time, with three differences that upstream leaves open: Python's ``random`` is seeded for each
trial (so that an instruction belongs to its trial), only the cameras that are asked for take
pictures, and what the planner and the shader really are is reported and held against what was asked
for.

Messages: ``pack`` and ``unpack`` below; JSON with arrays behind it, no pickle, so that two NumPy
versions can talk.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import importlib
import importlib.util
import json
import os
import random
import select
import signal
import struct
import sys
import traceback
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

CHECKOUT, RUNTIME = "checkout", "runtime"
FIELD_OF_VIEW_DEG = 37
INSTRUCTION_CHOICES = 100
_PLANNERS = {"CuroboPlanner": "curobo", "MplibPlanner": "mplib"}
_PACKAGES = ("numpy", "sapien", "torch", "mplib", "toppra", "nvidia-curobo", "warp-lang")


class RefusedError(Exception):
    """RoboTwin or its environment is not what was asked for."""


class UnplayableError(Exception):
    """The trial cannot be begun."""


def pack(value: Any) -> bytes:
    """``value`` (JSON values, arrays anywhere in it) as one message: ``unpack(pack(x)) == x``."""
    arrays: list[np.ndarray[Any, Any]] = []

    def strip(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            array = np.ascontiguousarray(item)
            arrays.append(array)
            return {"__array__": [array.dtype.str, list(array.shape)]}
        if isinstance(item, np.generic):
            return item.item()
        if isinstance(item, dict):
            return {str(key): strip(each) for key, each in item.items()}
        if isinstance(item, (list, tuple)):
            return [strip(each) for each in item]
        return item

    header = json.dumps(strip(value)).encode("utf-8")
    return b"".join([struct.pack(">I", len(header)), header, *(a.tobytes() for a in arrays)])


def unpack(data: bytes) -> Any:
    """The value of a message. Raises ValueError when it is not one."""
    if len(data) < 4:
        raise ValueError("the message has no header")
    end = 4 + int(struct.unpack(">I", data[:4])[0])
    at = end

    def fill(item: Any) -> Any:
        nonlocal at
        if isinstance(item, dict) and set(item) == {"__array__"}:
            dtype, shape = np.dtype(item["__array__"][0]), item["__array__"][1]
            if dtype.kind not in "biuf":
                raise ValueError(f"the message holds an array of {dtype}")
            count = int(np.prod(shape, dtype=np.int64))
            array = np.frombuffer(data, dtype=dtype, count=count, offset=at)
            at += array.nbytes
            return array.reshape(shape).copy()
        if isinstance(item, dict):
            return {key: fill(each) for key, each in item.items()}
        if isinstance(item, list):
            return [fill(each) for each in item]
        return item

    value = fill(json.loads(data[4:end].decode("utf-8")))
    if at != len(data):
        raise ValueError("the message has another length than its header says")
    return value


class Layout:
    """Where RoboTwin's code, settings and texts lie, and what its modules are called.

    ``name`` is how it is called in messages, ``tasks`` the package of the tasks, ``language`` the
    module that fills instructions; the assets are below the working folder in both layouts.
    """

    def __init__(self, name: str, code: Path, tasks: str, language: str) -> None:
        self.name = name
        self.code = code
        self.tasks = tasks
        self.language = language
        self.settings = code / ("task_config" if name == CHECKOUT else "configs/task")
        self.instructions = code / "description" / "task_instruction"

    def has_task(self, task: str) -> bool:
        """Whether there is a file for the task."""
        return (self.code / "envs" / (task + ".py")).is_file()


def find_layout(name: str) -> Layout:
    """Let this process import RoboTwin from where it lies. Raises RefusedError."""
    if name == CHECKOUT:
        root = Path.cwd()
        sys.path[:0] = [str(root), str(root / "description" / "utils")]
        return Layout(name, root, "envs", "generate_episode_instructions")
    found = importlib.util.find_spec("robotwin")
    if found is None or found.origin is None:
        raise RefusedError(f"{sys.executable} has no RoboTwin (rlinf-robotwin-runtime) installed")
    # The runtime looks for its assets by these names alone.
    os.environ["ROBOTWIN_ASSETS_ROOT"] = os.environ["ASSETS_PATH"] = str(Path.cwd())
    code = Path(found.origin).parent
    return Layout(name, code, "robotwin.envs", "robotwin.description.instructions")


def digest_scene(scene: Any) -> str:
    """``sha256-physics-v1:`` over a SAPIEN scene, without a picture of it.

    Over every body's pose (position, then quaternion), then every articulation's joint positions,
    each with its name and place in the scene, as little-endian float32.
    """
    hasher = hashlib.sha256()
    actors, articulations = scene.get_all_actors(), scene.get_all_articulations()
    poses = [(actor.name, np.concatenate([actor.pose.p, actor.pose.q])) for actor in actors]
    joints = [("joints", articulation.get_qpos()) for articulation in articulations]
    for index, (name, values) in [*enumerate(poses), *enumerate(joints)]:
        hasher.update(f"{index}:{name}".encode() + b"\0" + values.astype("<f4").tobytes())
    return "sha256-physics-v1:" + hasher.hexdigest()


def end_with_parent(lifeline: int) -> None:
    """Let Linux kill this process, with the group if it leads one, when its parent is gone.

    ``lifeline`` is the reading end of a pipe whose other end the parent alone holds and never
    writes to. The kernel does it (fcntl(2), O_ASYNC): a thread of ours would wait for a call into
    SAPIEN that hangs with the interpreter's lock, and PR_SET_PDEATHSIG (prctl(2)) would fire when
    the thread ends that started this process.
    """
    leads_group = os.getpgrp() == os.getpid()
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpid() if leads_group else os.getpid())
    fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:
        os._exit(1)  # it died before the kernel was asked


class Evaluation:
    """RoboTwin's task, prepared as its own evaluation prepares it."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._cameras: dict[str, str] = settings["cameras"]
        self._layout = layout = find_layout(settings["layout"])
        self._arguments = self._load_arguments(layout.settings)
        self._check_instructions()
        task = settings["task"]
        if not layout.has_task(task):
            raise RefusedError(f"the {layout.name} has no task {task} (no envs/{task}.py)")
        creation = importlib.import_module(f"{layout.tasks}.utils.create_actor")
        self._unstable = creation.UnStableError
        language = importlib.import_module(layout.language)
        self._describe_episodes = language.generate_episode_descriptions
        # One object for all trials, as upstream: its robot keeps the planners, which start slowly.
        self._task = getattr(importlib.import_module(f"{layout.tasks}.{task}"), task)()
        self._is_open = False
        self._experts: dict[int, tuple[str, dict[str, Any] | None]] = {}
        self._episodes = 0
        self._instruction = ""

    def describe(self) -> dict[str, Any]:
        """Names and versions, after one scene was built to see which parts are really used."""
        with contextlib.suppress(self._unstable):
            self._set_up(0)
        planner = getattr(self._task.robot, "left_planner", None)
        name = "CuroboPlanner" if planner is None else type(planner).__name__
        found = {
            "embodiment": self._settings["embodiment"],
            "planner": _PLANNERS.get(name, name),
            "shader": _shader_name(),
        }
        self._close()
        for key, value in found.items():
            if value != self._settings[key]:
                raise RefusedError(
                    f"eval.{key} is {self._settings[key]}, but the {self._layout.name} uses {value}"
                )
        packages = {name: _version(name) for name in _PACKAGES}
        return {**found, "python": sys.version.split()[0], "packages": packages}

    def expert_check(self, seed: int) -> dict[str, Any]:
        """Let the expert play ``seed``; the reason it is skipped, empty when it solved it."""
        if seed not in self._experts:
            self._experts[seed] = self._play_expert(seed)
        return {"seed": seed, "reason": self._experts[seed][0]}

    def reset(self, seed: int, instruction_type: str, instruction_seed: int) -> dict[str, Any]:
        """Begin a trial: its scene, then its instruction, as upstream orders them."""
        self.expert_check(seed)
        reason, info = self._experts[seed]
        if info is None:
            raise UnplayableError(f"the expert cannot play seed {seed} ({reason})")
        self._set_up(seed)
        random.seed(instruction_seed)
        described = self._describe_episodes(self._settings["task"], [info], INSTRUCTION_CHOICES)
        choices = described[0][instruction_type] if described else []
        if not choices:
            raise UnplayableError(f"no {instruction_type} instruction fits seed {seed}: {info}")
        self._instruction = str(np.random.choice(choices))
        self._task.set_instruction(instruction=self._instruction)
        return self._observe()

    def step(self, actions: np.ndarray[Any, Any], want_frames: bool) -> dict[str, Any]:
        """Execute the actions one after the other until success, the step limit, or the last."""
        task = self._task
        frames: list[Any] = []
        before = task.take_action_cnt
        for action in actions:
            if task.eval_success or task.take_action_cnt >= task.step_lim:
                break
            task.take_action(action, action_type="qpos")
            if want_frames:
                frames += self._take_pictures({"": self._settings["video_camera"]}).values()
        success = bool(task.eval_success)
        at_limit = bool(task.take_action_cnt >= task.step_lim)
        return {
            "observation": self._observe(),
            "done": success or at_limit,
            "at_limit": at_limit,
            "success": success,
            "steps_taken": task.take_action_cnt - before,
            "steps_total": task.take_action_cnt,
            "frames": np.stack(frames) if frames else None,
        }

    def digest_physics(self) -> str:
        """A digest of every pose and joint value of the trial."""
        if not self._is_open:
            raise RuntimeError("there is no trial to digest")
        return digest_scene(self._task.scene)

    def _load_arguments(self, configs: Path) -> dict[str, Any]:
        """The arguments of ``setup_demo``, as script/eval_policy.py puts them together."""
        settings = self._settings
        arguments = _load_yaml(configs / (settings["task_config"] + ".yml"))
        types = _load_yaml(configs / "_embodiment_config.yml")
        name, where = settings["embodiment"], self._layout.name
        if name not in types:
            raise RefusedError(f"the {where} has no embodiment {name} (has {', '.join(types)})")
        folder = types[name]["file_path"]
        camera = _find_camera_type(
            _load_yaml(configs / "_camera_config.yml"), settings["image_size"], where
        )
        arguments["camera"].update(head_camera_type=camera, wrist_camera_type=camera)
        width_px, height_px = settings["image_size"]
        arguments.update(
            task_name=settings["task"],
            task_config=settings["task_config"],
            embodiment=[name],
            left_robot_file=folder,
            right_robot_file=folder,
            dual_arm_embodied=True,
            left_embodiment_config=_load_yaml(Path(folder, "config.yml")),
            right_embodiment_config=_load_yaml(Path(folder, "config.yml")),
            head_camera_h=height_px,
            head_camera_w=width_px,
            render_freq=0,
            eval_mode=True,
        )
        return arguments

    def _check_instructions(self) -> None:
        path = self._layout.instructions / (self._settings["task"] + ".json")
        try:
            templates = json.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            raise RefusedError(f"the instruction file {path} cannot be read ({error})") from error
        missing = [name for name in ("seen", "unseen") if not templates.get(name)]
        if missing:
            raise RefusedError(f"the instruction file {path} has no {' and no '.join(missing)}")

    def _set_up(self, seed: int) -> None:
        self._close()
        self._is_open = True
        random.seed(seed)
        self._task.setup_demo(now_ep_num=0, seed=seed, is_test=True, **self._arguments)

    def _close(self) -> None:
        if self._is_open:
            self._is_open = False
            self._episodes += 1
            every = int(self._arguments.get("clear_cache_freq", 5))
            self._task.close_env(clear_cache=self._episodes % every == 0)

    def _play_expert(self, seed: int) -> tuple[str, dict[str, Any] | None]:
        """The four reasons for which upstream skips a seed, and what fills the instruction."""
        info = None
        try:
            self._set_up(seed)
            info = dict(self._task.play_once()["info"])
            if not self._task.plan_success:
                return "unplanned", info
            return ("" if self._task.check_success() else "unsuccessful"), info
        except self._unstable:
            return "unstable", None
        except Exception as error:  # noqa: BLE001 (upstream skips a seed for any error)
            traceback.print_exc()
            return f"raised: {type(error).__name__}: {error}", info
        finally:
            self._close()

    def _observe(self) -> dict[str, Any]:
        robot = self._task.robot
        state = robot.get_left_arm_jointState() + robot.get_right_arm_jointState()
        return {
            "images": self._take_pictures(self._cameras),
            "state": np.array(state, dtype=np.float32),
            "instruction": self._instruction,
        }

    def _take_pictures(self, cameras: dict[str, str]) -> dict[str, np.ndarray[Any, Any]]:
        """Pictures by LeRobot name, of these cameras only."""
        self._task._update_render()
        pictures = {}
        for name, theirs in cameras.items():
            camera = _find_camera(self._task.cameras, theirs)
            camera.take_picture()
            color = camera.get_picture("Color")
            pictures[name] = (color * 255).clip(0, 255).astype(np.uint8)[:, :, :3].copy()
        return pictures


def _find_camera(cameras: Any, name: str) -> Any:
    if name in ("left_camera", "right_camera"):
        return getattr(cameras, name)
    return cameras.static_camera_list[cameras.static_camera_name.index(name)]


def _find_camera_type(types: dict[str, Any], image_size: list[int], where: str) -> str:
    """RoboTwin's camera type of this size and the field of view of its D435."""
    for name, camera in types.items():
        if [camera["w"], camera["h"]] == image_size and camera["fovy"] == FIELD_OF_VIEW_DEG:
            return name
    known = ", ".join(f"{name} {camera['w']}x{camera['h']}" for name, camera in types.items())
    size = "x".join(map(str, image_size))
    raise RefusedError(
        f"the {where} has no camera type of {size} pixels and {FIELD_OF_VIEW_DEG} degrees (has"
        f" {known})"
    )


def _shader_name() -> str:
    import sapien

    return Path(str(sapien.render.get_camera_shader_dir())).name


def _version(name: str) -> str | None:
    from importlib import metadata

    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _load_yaml(path: Path) -> dict[str, Any]:
    import yaml

    try:
        value = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise RefusedError(f"{path} cannot be read ({error})") from error
    if not isinstance(value, dict):
        raise RefusedError(f"{path} holds no settings")
    return value


def answer_calls(connection: Connection) -> None:
    """The child's life: settings in, description out, then calls until the parent is gone."""
    try:
        evaluation = Evaluation(unpack(connection.recv_bytes()))
        connection.send_bytes(pack({"result": evaluation.describe()}))
    except (EOFError, OSError):
        return
    except Exception as error:  # noqa: BLE001 (the process's edge: the parent makes it an error)
        traceback.print_exc()
        connection.send_bytes(pack(_failure(error)))
        return
    while True:
        try:
            name, arguments = unpack(connection.recv_bytes())
        except (EOFError, OSError):
            return
        try:
            answer = {"result": getattr(evaluation, name)(*arguments)}
        except Exception as error:  # noqa: BLE001 (the process's edge: the parent makes it an error)
            traceback.print_exc()
            answer = _failure(error)
        connection.send_bytes(pack(answer))


def _failure(error: Exception) -> dict[str, Any]:
    kinds = {RefusedError: "refused", UnplayableError: "unplayable"}
    text = str(error) if type(error) in kinds else f"{type(error).__name__}: {error}"
    return {"failure": kinds.get(type(error), "raised"), "text": text}


def main() -> None:
    """``checkout_worker.py DESCRIPTOR``, started where the assets lie; stdin is its lifeline."""
    end_with_parent(os.dup(0))
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    # Modules are never looked for in the folder this file lies in.
    own = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != own]
    answer_calls(Connection(int(sys.argv[1])))


if __name__ == "__main__":
    main()
