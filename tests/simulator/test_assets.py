"""The backend of the installed runtime with assets, in an environment of its own.

``stand_in_checkout`` says which parts are not those of real assets on a GPU.
"""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import RuntimeMissingError, SimulatorError
from appliance.simulator.checkout import (
    CheckoutProcess,
    CheckoutSpec,
    find_runtime,
)
from appliance.simulator.checkout_worker import RUNTIME
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.worker import SimulatorProcess
from tests.simulator.stand_in_checkout import (
    CAMERA_SIZE,
    digest_checkout,
    install_runtime,
    make_assets,
    make_environment,
)

pytestmark = pytest.mark.slow

TASK = "stack_blocks_two"
CAMERAS = ("cam_high", "cam_left_wrist")


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> CheckoutSpec:
    folder = tmp_path_factory.mktemp("robotwin")
    python = make_environment(folder / "venv")
    install_runtime(python)
    make_assets(folder)
    return CheckoutSpec(
        root=folder,
        python=python,
        layout=RUNTIME,
        task=TASK,
        embodiment="stand_in",
        planner="ik_toppra",
        shader="minimal",
        cameras=CAMERAS,
        image_size=CAMERA_SIZE,
    )


@pytest.fixture(scope="module")
def runtime(
    spec: CheckoutSpec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CheckoutProcess]:
    with CheckoutProcess(spec, log_path=tmp_path_factory.mktemp("log") / "log") as simulator:
        yield simulator


def test_the_runtimes_expert_solves_its_trials(runtime: CheckoutProcess) -> None:
    assert [runtime.expert_check(seed).reason for seed in (100000, 100001)] == ["", ""]


def test_it_shows_the_scene_of_the_stand_in_backend_to_the_bit(
    runtime: CheckoutProcess, tmp_path: Path
) -> None:
    theirs = runtime.reset(100001)
    assert "block" in theirs["instruction"]
    spec = SimulatorSpec(task=TASK, cameras=CAMERAS, image_size=CAMERA_SIZE)
    with SimulatorProcess(spec, log_path=tmp_path / "log") as stand_in:
        ours = stand_in.reset(100001)
    assert ours["state"].tobytes() == theirs["state"].tobytes()
    for camera in CAMERAS:
        np.testing.assert_array_equal(ours["images"][camera], theirs["images"][camera])


def test_actions_are_executed_and_the_trial_is_repeated_bit_by_bit(
    runtime: CheckoutProcess,
) -> None:
    def play() -> bytes:
        state = runtime.reset(100000)["state"]
        result = runtime.step(state + np.linspace(0, 0.1, 3)[:, None])
        assert (result.steps_taken, result.done) == (3, False)
        return bytes(result.observation["state"].tobytes())

    assert play() == play()


def test_what_its_results_depend_on_is_its_own_code_and_its_own_assets(
    spec: CheckoutSpec, runtime: CheckoutProcess
) -> None:
    code = find_runtime(spec.python)
    assert code.is_relative_to(spec.python.parents[1])
    before = digest_checkout(spec.root, spec.python, RUNTIME)
    template = Path("description", "task_instruction", "handover_block.json")
    for name in (template, Path("config.py"), Path("assets.py")):
        text = (code / name).read_text("utf-8")
        (code / name).write_text(text + " ", "utf-8")
        changed = digest_checkout(spec.root, spec.python, RUNTIME)
        (code / name).write_text(text, "utf-8")
        assert changed.code != before.code
        assert changed.assets == before.assets
    (code / "assets").mkdir()
    (code / "assets" / "texture.png").write_bytes(b"digested where a manifest names its folder")
    assert digest_checkout(spec.root, spec.python, RUNTIME) == before
    shutil.rmtree(code / "assets")
    (code / "assets").symlink_to(spec.root / "assets")  # as who has them on another disk
    assert digest_checkout(spec.root, spec.python, RUNTIME) == before
    (code / "assets").unlink()
    (spec.root / "assets" / "objects" / "more.json").write_text("{}", "utf-8")
    assert digest_checkout(spec.root, spec.python, RUNTIME).assets != before.assets


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"planner": "curobo"}, "eval.planner is curobo, but the runtime uses ik_toppra"),
        ({"embodiment": "piper-arm"}, r"the runtime has no embodiment piper-arm"),
        ({"task": "open_laptops"}, "task_instruction/open_laptops.json cannot be read"),
    ],
)
def test_what_the_runtime_does_not_have_is_refused_when_it_is_started(
    spec: CheckoutSpec, tmp_path: Path, changes: dict[str, str], text: str
) -> None:
    asked = dataclasses.replace(spec, **changes)
    with pytest.raises(SimulatorError, match=text):
        CheckoutProcess(asked, log_path=tmp_path / "log").start()


def test_a_folder_without_assets_and_an_interpreter_without_runtime_are_named(
    spec: CheckoutSpec, tmp_path: Path
) -> None:
    with pytest.raises(SimulatorError, match=r"no assets/embodiments.*robotwin-download-assets"):
        digest_checkout(tmp_path, spec.python, RUNTIME)
    bare = tmp_path / "python"
    bare.write_text("#!/bin/sh\necho\n", "utf-8")
    bare.chmod(0o755)
    with pytest.raises(RuntimeMissingError, match=r"no RoboTwin runtime.*eval\.checkout\.python"):
        find_runtime(bare)
