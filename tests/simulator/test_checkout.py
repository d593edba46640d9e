"""The backend of a RoboTwin checkout: a real one in layout, interpreter, messages and task code.

``stand_in_checkout`` says which parts are not those of a checkout with assets on a GPU.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from appliance.errors import RuntimeMissingError, SimulatorError
from appliance.simulator.checkout import (
    CheckoutProcess,
    CheckoutSpec,
    check_layout,
    digest_environment,
)
from appliance.simulator.checkout_worker import pack, unpack
from appliance.simulator.faults import SimulatorLostError
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.values import digest_observation
from appliance.simulator.worker import SimulatorProcess
from tests.simulator.conftest import outlives_its_killed_parent
from tests.simulator.stand_in_checkout import (
    CAMERA_SIZE,
    assemble_checkout,
    digest_checkout,
    install_stand_in,
    make_environment,
)

pytestmark = pytest.mark.slow

TASK = "stack_blocks_two"
CAMERAS = ("cam_high", "cam_right_wrist")

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text()
    | arrays(st.sampled_from([np.uint8, np.float32, np.float64, np.int64]), array_shapes()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


def same(first: Any, second: Any) -> bool:
    if isinstance(first, np.ndarray):
        return first.dtype == second.dtype and first.tobytes() == second.tobytes()
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same(first[k], second[k]) for k in first)
    if isinstance(first, list):
        return len(first) == len(second) and all(map(same, first, second))
    return bool(first == second)


@given(json_values)
def test_a_message_comes_back_as_it_was(value: Any) -> None:
    assert same(unpack(pack(value)), value)


@given(st.binary(max_size=60))
def test_bytes_that_are_no_message_are_refused_as_such(data: bytes) -> None:
    for garbage in (data, pack({"actions": np.zeros(3)}) + data + b"x"):
        with pytest.raises((ValueError, KeyError, TypeError)):
            unpack(garbage)


@pytest.fixture(scope="session")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("RoboTwin")
    assemble_checkout(folder)
    install_stand_in(folder)
    return folder


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_environment(tmp_path_factory.mktemp("environment") / "venv")


@pytest.fixture(scope="session")
def spec(root: Path, python: Path) -> CheckoutSpec:
    return CheckoutSpec(
        root=root,
        python=python,
        task=TASK,
        embodiment="stand_in",
        planner="ik_toppra",
        shader="minimal",
        cameras=CAMERAS,
        image_size=CAMERA_SIZE,
    )


@pytest.fixture(scope="module")
def checkout(
    spec: CheckoutSpec, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[CheckoutProcess]:
    log_path = tmp_path_factory.mktemp("checkout") / "checkout.log"
    with CheckoutProcess(spec, log_path=log_path) as simulator:
        yield simulator


def test_the_checkouts_expert_solves_its_trials(checkout: CheckoutProcess) -> None:
    assert [checkout.expert_check(seed).reason for seed in (100000, 100001)] == ["", ""]


def test_a_trial_is_repeated_bit_by_bit_whatever_was_played_between(
    checkout: CheckoutProcess,
) -> None:
    def roll_out() -> list[str]:
        first = checkout.reset(100000)
        physics = checkout.digest_physics()
        actions = first["state"] + np.linspace(0, 0.1, 3)[:, None]
        result = checkout.step(actions)
        assert (result.steps_taken, result.done, result.at_limit) == (3, False, False)
        assert result.frames_FxHxWx3.shape == (3, CAMERA_SIZE[1], CAMERA_SIZE[0], 3)
        assert list(result.observation["images"]) == list(CAMERAS)
        return [digest_observation(first), physics, digest_observation(result.observation)]

    before = roll_out()
    other = {digest_observation(checkout.reset(100001)), checkout.digest_physics()}
    assert roll_out() == before
    assert other.isdisjoint(before)


def test_instructions_depend_on_seed_and_type_only(checkout: CheckoutProcess) -> None:
    first = checkout.reset(100000, "unseen")["instruction"]
    seen = checkout.reset(100000, "seen")["instruction"]
    assert checkout.reset(100000, "unseen")["instruction"] == first != seen
    assert "block" in first


def test_the_checkout_and_the_runtime_show_the_same_scene_to_the_bit(
    checkout: CheckoutProcess, tmp_path: Path
) -> None:
    theirs = checkout.reset(100001)
    physics = checkout.digest_physics()
    spec = SimulatorSpec(task=TASK, cameras=CAMERAS, image_size=CAMERA_SIZE)
    with SimulatorProcess(spec, log_path=tmp_path / "runtime.log") as runtime:
        ours = runtime.reset(100001)
        assert runtime.digest_physics() == physics
    assert ours["state"].tobytes() == theirs["state"].tobytes()
    for camera in CAMERAS:
        np.testing.assert_array_equal(ours["images"][camera], theirs["images"][camera])


def test_the_checkout_says_what_its_results_depend_on(checkout: CheckoutProcess) -> None:
    described = checkout.describe()
    assert (described["planner"], described["shader"]) == ("ik_toppra", "minimal")
    assert described["packages"]["numpy"] == np.__version__
    assert described["packages"]["nvidia-curobo"] is None


def test_what_a_checkout_is_not_asked_for_is_said(checkout: CheckoutProcess) -> None:
    with pytest.raises(SimulatorError, match=r"collect_data\.sh"):
        checkout.demonstrate(100000)


def test_the_worker_runs_in_the_named_environment_without_our_variables(
    checkout: CheckoutProcess, python: Path
) -> None:
    assert checkout.pid is not None
    command = Path(f"/proc/{checkout.pid}/cmdline").read_bytes().split(b"\0")
    assert command[0].decode() == str(python)
    environment = Path(f"/proc/{checkout.pid}/environ").read_bytes()
    assert b"PYTHONPATH=" not in environment


def test_a_killed_checkout_is_lost_and_can_be_started_again(
    spec: CheckoutSpec, tmp_path: Path
) -> None:
    simulator = CheckoutProcess(spec, log_path=tmp_path / "log", call_timeout_s=1)
    with simulator:
        assert simulator.pid is not None
        os.kill(simulator.pid, signal.SIGSTOP)
        with pytest.raises(SimulatorLostError, match=r"expert_check' within 1 s and was ended"):
            simulator.expert_check(100000)
        assert simulator.pid is None
        simulator.start()
        assert simulator.pid is not None
        os.kill(simulator.pid, signal.SIGKILL)
        with pytest.raises(SimulatorLostError, match=r"died in 'reset' \(signal 9\)"):
            simulator.reset(100000)


def test_the_head_camera_films_a_policy_that_does_not_look_through_it(
    spec: CheckoutSpec, tmp_path: Path
) -> None:
    asked = dataclasses.replace(spec, cameras=("cam_left_wrist",))
    with CheckoutProcess(asked, log_path=tmp_path / "log") as simulator:
        first = simulator.reset(100000)
        result = simulator.step(np.tile(first["state"], (2, 1)), want_frames=True)
    assert list(result.observation["images"]) == ["cam_left_wrist"]
    assert result.frames_FxHxWx3.shape == (2, CAMERA_SIZE[1], CAMERA_SIZE[0], 3)


def test_a_hung_checkout_ends_with_its_killed_parent(spec: CheckoutSpec, tmp_path: Path) -> None:
    start = f"""
from pathlib import PosixPath
from appliance.simulator.checkout import CheckoutProcess, CheckoutSpec
simulator = CheckoutProcess({spec!r}, log_path={tmp_path / "log"!r})
simulator.start()
"""
    assert not outlives_its_killed_parent(start)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"planner": "curobo"}, "eval.planner is curobo, but the checkout uses ik_toppra"),
        ({"embodiment": "piper-arm"}, r"no embodiment piper-arm \(has .*aloha-agilex, .*stand_in"),
        ({"image_size": (64, 48)}, "no camera type of 64x48 pixels and 37 degrees"),
        ({"task": "open_laptops"}, "task_instruction/open_laptops.json cannot be read"),
        ({"task_config": "demo_messy"}, "demo_messy.yml cannot be read"),
    ],
)
def test_what_the_checkout_does_not_have_is_refused_when_it_is_started(
    spec: CheckoutSpec, tmp_path: Path, changes: dict[str, Any], text: str
) -> None:
    asked = dataclasses.replace(spec, **changes)
    with pytest.raises(SimulatorError, match=text):
        CheckoutProcess(asked, log_path=tmp_path / "log").start()


def test_a_missing_instruction_file_is_named_before_the_first_trial(
    spec: CheckoutSpec, root: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "RoboTwin"
    shutil.copytree(root, copy)
    (copy / "description" / "task_instruction" / f"{TASK}.json").unlink()
    asked = dataclasses.replace(spec, root=copy)
    with pytest.raises(SimulatorError, match=rf"instruction file .*{TASK}\.json cannot"):
        CheckoutProcess(asked, log_path=tmp_path / "log").start()


def test_a_folder_that_is_no_checkout_and_an_interpreter_that_is_none_are_named(
    spec: CheckoutSpec, tmp_path: Path
) -> None:
    with pytest.raises(SimulatorError, match=r"not a RoboTwin checkout.*no envs/_base_task\.py"):
        check_layout(tmp_path)
    missing = tmp_path / "bin" / "python"
    with pytest.raises(RuntimeMissingError, match="cannot be run as RoboTwin's interpreter"):
        CheckoutProcess(dataclasses.replace(spec, python=missing), log_path=tmp_path / "l").start()
    with pytest.raises(RuntimeMissingError, match=r"eval\.checkout\.python"):
        digest_environment(missing)


def test_the_tree_digest_moves_with_code_texts_and_assets_and_with_nothing_else(
    root: Path, python: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "elsewhere"
    shutil.copytree(root, copy)
    before = digest_checkout(root, python)
    (copy / "eval_result").mkdir()
    (copy / "eval_result" / "old.txt").write_text("of an earlier run")
    (copy / "envs" / "__pycache__").mkdir(exist_ok=True)
    (copy / "envs" / "__pycache__" / "x.pyc").write_bytes(b"compiled")
    assert digest_checkout(copy, python) == before
    for name in ("envs/stack_blocks_two.py", "description/task_instruction/handover_block.json"):
        (copy / name).write_text((copy / name).read_text() + "\n")
        after = digest_checkout(copy, python)
        assert after.code != before.code
        assert after.assets == before.assets
        before = after
    (copy / "assets" / "objects" / "same.json").write_text("{} ")
    assert digest_checkout(copy, python).assets != before.assets
