"""Backends ``robotwin-checkout`` and ``robotwin-assets``: RoboTwin and its assets, untouched.

A checkout holds code and assets; the installed runtime holds code, and its assets lie in a folder
of their own. Either is played by the interpreter of its own environment, which runs
:mod:`.checkout_worker` as a script and needs nothing of ours; messages go over a socket pair. Which
files its results depend on is one figure, the tree digest, which the lock records and a manifest
may pin.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, cast

import numpy as np

from appliance.digest import list_files, sha256_bytes, sha256_file, tree_digest
from appliance.errors import RuntimeMissingError, SimulatorError
from appliance.files import storage_errors
from appliance.simulator import checkout_worker
from appliance.simulator.checkout_worker import CHECKOUT, RUNTIME, pack, unpack
from appliance.simulator.faults import UnplayableTrialError
from appliance.simulator.process import Child, Failure, SimulatorClient
from appliance.simulator.renderer import DRIVER_VARIABLES, find_renderer, private_libraries
from appliance.simulator.spec import CAMERAS, SceneSpec
from appliance.simulator.values import Demonstration, ExpertOutcome, Observation, StepResult
from appliance.streams import stream_seed

CODE_FOLDERS = ("envs", "description", "task_config", "script")
ASSETS_FOLDER = "assets"
VIDEO_CAMERA = "cam_high"
START_TIMEOUT_S = 900.0
"""cuRobo compiles its kernels when a planner is first made."""

_IGNORED_SUFFIXES = (".pyc", ".pyo")
_OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PYTHONSTARTUP")


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckoutSpec(SceneSpec):
    """RoboTwin with assets and what is played in it; names are RoboTwin's own.

    ``root`` is the folder that holds ``assets``: with the layout ``checkout`` the checkout's, with
    ``runtime`` any. ``python`` is the interpreter of its environment. ``embodiment`` is a name of
    its ``_embodiment_config.yml``. ``planner`` and ``shader`` say what it must turn out to use
    (``curobo``, ``rt``): they choose nothing. ``image_size`` is that of one of its camera types.
    """

    root: Path
    python: Path
    layout: str = CHECKOUT
    embodiment: str = "aloha-agilex"
    planner: str = "curobo"
    shader: str = "rt"


def digest_assets(root: Path) -> str:
    """The tree digest of the assets below ``root``: gigabytes are read. Raises StorageError."""
    place = root / ASSETS_FOLDER
    return tree_digest({name: sha256_file(place / name) for name in list_files(place)})


def digest_code(root: Path, python: Path, layout: str = CHECKOUT) -> str:
    """The tree digest of RoboTwin's code, settings and texts; compiled Python is left out.

    Of the runtime that is the whole package: its tasks use modules beside ``envs``. Raises
    StorageError, RuntimeMissingError.
    """
    place = find_runtime(python) if layout == RUNTIME else root
    code = {
        name: sha256_file(place / name)
        for name in _list_code(place, layout)
        if not name.endswith(_IGNORED_SUFFIXES)
    }
    return tree_digest(code)


def _list_code(place: Path, layout: str) -> list[str]:
    parts = list(CODE_FOLDERS)
    if layout == RUNTIME:  # all of the package; assets put or linked there have their own digest
        with storage_errors(place, "listing RoboTwin's runtime"):
            parts = sorted({path.name for path in place.iterdir()} - {ASSETS_FOLDER})
    folders = [part for part in parts if (place / part).is_dir()]
    files = [part for part in parts if (place / part).is_file()]
    return files + [f"{folder}/{name}" for folder in folders for name in list_files(place / folder)]


def find_runtime(python: Path) -> Path:
    """The folder of the runtime that ``python`` would import. Raises RuntimeMissingError."""
    script = (
        "import importlib.util as u; s = u.find_spec('robotwin');"
        "print('' if s is None or s.origin is None else s.origin)"
    )
    origin = _ask(python, script).decode("utf-8", errors="replace").strip()
    if not origin:
        raise RuntimeMissingError(
            f"{python}: has no RoboTwin runtime (rlinf-robotwin-runtime). Install it there, or name"
            " another interpreter in eval.checkout.python."
        )
    return Path(origin).parent


def digest_environment(python: Path) -> str:
    """SHA-256 over the names and versions of what is installed for ``python``, and its version.

    Raises RuntimeMissingError when the interpreter cannot be run.
    """
    script = (
        "import sys, importlib.metadata as m; print(sys.version); print(*sorted({str("
        "d.metadata['Name']).lower() + '==' + d.version for d in m.distributions()}), sep='\\n')"
    )
    return sha256_bytes(_ask(python, script))


def _ask(python: Path, script: str) -> bytes:
    """What the interpreter prints. Raises RuntimeMissingError when it cannot be run."""
    try:
        done = subprocess.run(
            [str(python), "-c", script],
            env=_foreign_environment(),
            capture_output=True,
            check=True,
            timeout=120,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise RuntimeMissingError(
            f"{python}: cannot be run as RoboTwin's interpreter ({error}). Make the environment"
            " that RoboTwin's own instructions describe, and name its python in"
            " eval.checkout.python."
        ) from error
    return done.stdout


def check_layout(root: Path, layout: str = CHECKOUT) -> None:
    """Raise SimulatorError unless ``root`` looks like what ``layout`` needs."""
    wanted = _WANTED[layout]
    with storage_errors(root, "looking at RoboTwin's folder"):
        missing = [name for name in wanted if not (root / name).exists()]
    if not missing:
        return
    lacks = f"(no {', no '.join(missing)}). Check eval.checkout.path;"
    if layout == RUNTIME:
        raise SimulatorError(
            f"{root}: not a folder with RoboTwin's assets {lacks} the runtime's"
            " `robotwin-download-assets --output FOLDER` fetches them."
        )
    raise SimulatorError(
        f"{root}: not a RoboTwin checkout of branch stable_2.0 with its assets {lacks} the"
        " checkout's script/_download_assets.sh fetches assets."
    )


_WANTED = {
    CHECKOUT: (
        "envs/_base_task.py",
        "task_config/_embodiment_config.yml",
        "task_config/_camera_config.yml",
        "description/utils/generate_episode_instructions.py",
        "assets/embodiments",
    ),
    RUNTIME: ("assets/embodiments", "assets/objects"),
}


class CheckoutProcess(SimulatorClient[CheckoutSpec]):
    """One simulator of RoboTwin with its assets."""

    default_start_timeout_s = START_TIMEOUT_S

    def demonstrate(self, seed: int, instruction_type: str = "seen") -> Demonstration:
        """Refused: demonstrations are recorded with a checkout's own collect_data.sh."""
        raise SimulatorError(
            f"seed {seed}: RoboTwin with its assets is evaluated here, not recorded. Use a"
            " checkout's own collect_data.sh, or simulator robotwin."
        )

    def _launch(self, log_path: Path) -> tuple[Child, Connection]:
        settings = pack(self._settings())
        check_layout(self._spec.root, self._spec.layout)
        environment = _foreign_environment()
        _point_to_renderer(environment)
        ours, theirs = socket.socketpair()
        with theirs, ours, storage_errors(log_path, "writing the simulator's log"):
            command = [
                str(self._spec.python),
                "-u",
                checkout_worker.__file__,
                str(theirs.fileno()),
            ]
            with log_path.open("ab") as log:
                try:
                    process = subprocess.Popen(
                        command,
                        cwd=self._spec.root,
                        env=environment,
                        stdin=subprocess.PIPE,
                        stdout=log,
                        stderr=log,
                        pass_fds=(theirs.fileno(),),
                        start_new_session=True,
                    )
                except OSError as error:
                    raise RuntimeMissingError(
                        f"{self._spec.python}: cannot be run as RoboTwin's interpreter"
                        f" ({error}). Check eval.checkout.python."
                    ) from error
            connection = Connection(ours.detach())
        child = _ForeignChild(process)
        # If it is gone already, waiting for its description says how.
        with contextlib.suppress(OSError):
            connection.send_bytes(settings)
        return child, connection

    def _settings(self) -> dict[str, Any]:
        cameras = {name: CAMERAS[name] for name in self._spec.cameras}
        return {
            **self._spec.as_record(),
            "layout": self._spec.layout,
            "cameras": cameras,
            "video_camera": CAMERAS[VIDEO_CAMERA],
        }

    def _write(self, connection: Connection, name: str, arguments: tuple[object, ...]) -> None:
        if name == "reset":
            seed, kind = cast(tuple[int, str], arguments)
            arguments = (seed, kind, _instruction_seed(seed, self._spec.task, kind))
        connection.send_bytes(pack([name, list(arguments)]))

    def _read(self, connection: Connection) -> Any:
        try:
            message = unpack(connection.recv_bytes())
        except ValueError as error:
            raise EOFError(f"RoboTwin's answer is not a message: {error}") from error
        if "failure" in message:
            return self._failure(str(message["failure"]), str(message["text"]))
        return _as_value(message["result"])

    def _failure(self, kind: str, text: str) -> Failure:
        where = f"{self._spec.root}, task {self._spec.task}"
        if kind == "refused":
            return Failure(SimulatorError(f"{where}: {text}. Make them agree."), text)
        if kind == "unplayable":
            return Failure(UnplayableTrialError(f"{where}: {text}. Leave the seed out."), text)
        return Failure(None, text)


@dataclass(slots=True)
class _ForeignChild:
    """A child started by its own interpreter, leader of a process group of its own."""

    _process: subprocess.Popen[bytes] = field(repr=False)

    @property
    def pid(self) -> int | None:
        return self._process.pid

    def end(self, patience_s: float) -> int | None:
        """Wait, then kill the group: cuRobo's planners may be processes of their own."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(patience_s)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        code = self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        return code


def _as_value(result: Mapping[str, Any] | str) -> Any:
    """The value of ours that an answer stands for."""
    if isinstance(result, str):
        return result
    if "steps_taken" in result:
        observation = _as_observation(result["observation"])
        frames = result["frames"]
        none = np.zeros((0, 0, 0, 3), dtype=np.uint8)
        return StepResult(
            observation=observation,
            done=bool(result["done"]),
            at_limit=bool(result["at_limit"]),
            success=bool(result["success"]),
            steps_taken=int(result["steps_taken"]),
            steps_total=int(result["steps_total"]),
            frames_FxHxWx3=none if frames is None else frames,
        )
    if "reason" in result:
        return ExpertOutcome(seed=int(result["seed"]), reason=str(result["reason"]))
    if "images" in result:
        return _as_observation(result)
    return dict(result)


def _as_observation(value: Mapping[str, Any]) -> Observation:
    return Observation(
        images=dict(value["images"]),
        state=np.asarray(value["state"], dtype=np.float32),
        instruction=str(value["instruction"]),
    )


def _instruction_seed(seed: int, task: str, instruction_type: str) -> int:
    return stream_seed(seed, "simulator", "instruction", task, instruction_type)


def _foreign_environment() -> dict[str, str]:
    """This process's environment without what belongs to our own Python."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


def _point_to_renderer(environment: dict[str, str]) -> None:
    """Let the child render with the driver we found. Raises SimulatorError when there is none."""
    renderer = find_renderer()
    if renderer.icd is None:
        return
    environment.update(dict.fromkeys(DRIVER_VARIABLES, renderer.icd))
    libraries = private_libraries(renderer.icd)
    if libraries is not None:
        paths = [str(libraries), environment.get("LD_LIBRARY_PATH", "")]
        environment["LD_LIBRARY_PATH"] = os.pathsep.join(filter(None, paths))
