from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
import pytest

from appliance.errors import SimulatorError
from appliance.simulator.faults import ActionError
from appliance.simulator.spec import SimulatorSpec
from appliance.simulator.values import digest_observation
from appliance.simulator.worker import SimulatorProcess
from tests.simulator.conftest import SMALL, outlives_its_killed_parent


def test_expert_touches_the_block_on_five_of_five_seeds(touch_block: SimulatorProcess) -> None:
    outcomes = [touch_block.expert_check(seed) for seed in range(100000, 100005)]
    assert [outcome.reason for outcome in outcomes] == [""] * 5
    assert all(outcome.ok for outcome in outcomes)


def test_observation_has_the_pictures_asked_for_and_the_fourteen_joints(
    touch_block: SimulatorProcess,
) -> None:
    observation = touch_block.reset(100000)
    width, height = SMALL
    assert list(observation["images"]) == ["cam_high", "cam_left_wrist", "cam_right_wrist"]
    assert {image.shape for image in observation["images"].values()} == {(height, width, 3)}
    assert {image.dtype for image in observation["images"].values()} == {np.dtype(np.uint8)}
    assert observation["images"]["cam_high"].std() > 10
    home = [0, -0.8, 1.1, 0, 0.7, 0, 1]
    np.testing.assert_allclose(observation["state"], home + home, atol=1e-6)


def test_replayed_demonstration_succeeds_in_steps_of_eight_actions(
    touch_block: SimulatorProcess,
) -> None:
    demonstration = touch_block.demonstrate(100001)
    touch_block.reset(100001)
    taken, frames, done = 0, 0, False
    for start in range(0, len(demonstration.action_TxA), 8):
        result = touch_block.step(demonstration.action_TxA[start : start + 8])
        taken += result.steps_taken
        frames += len(result.frames_FxHxWx3)
        done = result.done
        if done:
            break
    assert done
    assert result.success
    assert taken == frames == result.steps_total <= len(demonstration.action_TxA)


def test_episode_ends_at_the_step_limit_and_takes_no_action_after(
    touch_block: SimulatorProcess,
) -> None:
    still = np.tile(touch_block.reset(100002)["state"], (70, 1))
    result = touch_block.step(still, want_frames=False)
    assert (result.done, result.success, result.steps_taken) == (True, False, 60)
    assert result.frames_FxHxWx3.shape == (0, SMALL[1], SMALL[0], 3)
    assert touch_block.step(still).steps_taken == 0


def test_actions_out_of_reach_hold_the_arm_and_do_not_hang(touch_block: SimulatorProcess) -> None:
    touch_block.reset(100003)
    result = touch_block.step(np.full((2, 14), 1e9), want_frames=False)
    assert result.steps_taken == 2
    assert np.isfinite(result.observation["state"]).all()


@pytest.mark.parametrize("shape", [(14,), (2, 13), (0, 14), (1, 2, 14)])
def test_actions_of_a_wrong_shape_are_refused(
    touch_block: SimulatorProcess, shape: tuple[int, ...]
) -> None:
    with pytest.raises(ActionError, match=r"expected \(K, 14\)"):
        touch_block.step(np.zeros(shape))


def test_actions_that_are_not_finite_are_refused_as_value_errors(
    touch_block: SimulatorProcess,
) -> None:
    actions = np.zeros((2, 14))
    actions[1, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        touch_block.step(actions)


def test_seed_that_numpy_cannot_take_is_refused(touch_block: SimulatorProcess) -> None:
    with pytest.raises(SimulatorError, match="seed -1"):
        touch_block.reset(-1)


def test_instruction_depends_on_seed_and_type_only(touch_block: SimulatorProcess) -> None:
    first = [touch_block.reset(seed, "unseen")["instruction"] for seed in (7, 8, 9)]
    seen = touch_block.reset(7, "seen")["instruction"]
    again = [touch_block.reset(seed, "unseen")["instruction"] for seed in (9, 8, 7)]
    assert first == again[::-1]
    assert seen not in first


def test_unknown_instruction_type_is_refused_with_a_suggestion(
    touch_block: SimulatorProcess,
) -> None:
    with pytest.raises(SimulatorError, match="Did you mean unseen"):
        touch_block.reset(7, "unsen")


def test_simulator_says_what_its_results_depend_on(touch_block: SimulatorProcess) -> None:
    described = touch_block.describe()
    assert described["runtime"] == "rlinf-robotwin-runtime 0.1.3"
    assert {"embodiment", "planner", "shader", "sapien", "renderer"} <= set(described)
    assert "not RoboTwin scores" in described["note"]


def test_robotwin_chatter_goes_to_the_log_file(
    touch_block: SimulatorProcess, capfd: pytest.CaptureFixture[str]
) -> None:
    touch_block.step(np.tile(touch_block.reset(5)["state"], (1, 1)))
    assert capfd.readouterr() == ("", "")
    assert touch_block.log_path is not None
    assert "step limit" in touch_block.log_path.read_text("utf-8")


def test_fresh_process_repeats_a_trial_bit_by_bit_and_its_death_is_an_error(
    touch_block: SimulatorProcess, log_path: Path
) -> None:
    def roll_out(simulator: SimulatorProcess) -> list[str]:
        observation = simulator.reset(100000)
        before = simulator.digest_physics()
        actions = observation["state"] + np.linspace(0, 0.2, 5)[:, None]
        after = simulator.step(actions).observation
        return [
            digest_observation(observation),
            before,
            digest_observation(after),
            simulator.digest_physics(),
        ]

    used = roll_out(touch_block)
    spec = SimulatorSpec(task="touch_block", image_size=SMALL)
    with SimulatorProcess(spec, log_path=log_path) as fresh:
        assert roll_out(fresh) == used
        assert fresh.pid is not None
        os.kill(fresh.pid, signal.SIGKILL)
        with pytest.raises(SimulatorError, match=r"died in 'reset' \(signal 9\)"):
            fresh.reset(100000)
        with pytest.raises(SimulatorError, match="not running"):
            fresh.reset(100000)


def test_hung_simulator_ends_with_its_killed_parent_not_with_the_thread_that_started_it(
    log_path: Path,
) -> None:
    start = f"""
import threading
from pathlib import PosixPath
from appliance.simulator.worker import SimulatorProcess, SimulatorSpec
simulator = SimulatorProcess(
    {SimulatorSpec(task="touch_block", image_size=SMALL)!r}, log_path={log_path!r}
)
starter = threading.Thread(target=simulator.start)
starter.start()
starter.join()
assert simulator.expert_check(100000).ok
"""
    assert not outlives_its_killed_parent(start)


def test_the_physics_of_two_seeds_differ_and_those_of_one_agree(
    touch_block: SimulatorProcess,
) -> None:
    digests, states = [], []
    for seed in (100000, 100001, 100000):
        states.append(touch_block.reset(seed)["state"].tobytes())
        digests.append(touch_block.digest_physics())
    assert digests[0] == digests[2] != digests[1]
    assert digests[0].startswith("sha256-physics-v1:")
    assert len(set(states)) == 1, "the commanded pose alone says nothing of the scene"


def test_call_that_takes_too_long_ends_the_child(log_path: Path) -> None:
    spec = SimulatorSpec(task="touch_block", image_size=SMALL)
    with SimulatorProcess(spec, log_path=log_path, call_timeout_s=0.01) as simulator:
        with pytest.raises(SimulatorError, match=r"did not answer 'expert_check' within 0\.01 s"):
            simulator.expert_check(0)
        assert simulator.pid is None


def test_expert_of_robotwin_stacks_two_blocks(log_path: Path) -> None:
    spec = SimulatorSpec(task="stack_blocks_two", cameras=("cam_high",), image_size=SMALL)
    with SimulatorProcess(spec, log_path=log_path) as simulator:
        assert [simulator.expert_check(seed).reason for seed in (100000, 100001)] == ["", ""]
        observation = simulator.reset(100001, "seen")
        assert list(observation["images"]) == ["cam_high"]
        assert "red block" in observation["instruction"]
