from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from numpy.testing import assert_allclose, assert_array_equal

from appliance.errors import CheckpointError
from appliance.norm_stats.files import NormStats
from appliance.policy.checkpoint import save_params
from appliance.policy.inference import Policy, load_policy
from appliance.policy.initialization import init_params
from appliance.policy.model import Pi0, draw_times
from appliance.policy.observation import make_observation
from appliance.policy.parameters import bind_model, make_key
from appliance.policy.presets import PRESETS
from appliance.policy.tokenizer import make_tokenizer
from appliance.policy.transforms import ItemTransform, stack_items

TINY = PRESETS["pi0_tiny_aloha_robotwin"]


def make_observations(count: int) -> list[dict[str, Any]]:
    generator = np.random.default_rng(5)
    return [
        {
            "images": {"cam_high": generator.integers(0, 256, (72, 96, 3), np.uint8)},
            "state": generator.normal(size=14).astype(np.float32),
            "prompt": f"touch block {index}",
        }
        for index in range(count)
    ]


def make_noise(count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    shape = (count, TINY.model.action_horizon, TINY.model.action_dim)
    return np.random.default_rng(6).standard_normal(shape, dtype=np.float32)


@pytest.fixture
def policy(norm_stats: NormStats) -> Policy:
    return Policy(init_params(TINY.model, 0), TINY, norm_stats)


def test_actions_are_a_function_of_observations_and_noise(policy: Policy) -> None:
    observations, noise = make_observations(2), make_noise(2)
    first = policy.infer(observations, noise)
    assert first.shape == (2, 16, 14)
    assert first.dtype == np.float32
    assert_array_equal(policy.infer(observations, noise), first)
    assert np.abs(policy.infer(observations, -noise) - first).max() > 1e-3
    alone = policy.infer(observations[1:], noise[1:])
    assert_allclose(alone[0], first[1], atol=1e-4)


def test_every_input_matters(policy: Policy) -> None:
    observation, noise = make_observations(1)[0], make_noise(1)
    first = policy.infer([observation], noise)
    dark = {**observation, "images": {"cam_high": np.zeros((72, 96, 3), np.uint8)}}
    for changed in (
        dark,
        {**observation, "images": {}},
        {**observation, "prompt": "something else"},
    ):
        assert np.abs(policy.infer([changed], noise) - first).max() > 1e-5


def test_noise_of_another_shape_is_refused(policy: Policy) -> None:
    with pytest.raises(ValueError, match="noise of shape"):
        policy.infer(make_observations(2), make_noise(1))


def test_a_saved_policy_acts_like_the_one_in_memory(
    policy: Policy, norm_stats: NormStats, tmp_path: Path
) -> None:
    save_params(tmp_path / "params", init_params(TINY.model, 0))
    loaded = load_policy(tmp_path / "params", TINY, norm_stats)
    observations, noise = make_observations(1), make_noise(1)
    assert_array_equal(loaded.infer(observations, noise), policy.infer(observations, noise))


def test_a_policy_of_another_size_is_refused(norm_stats: NormStats, tmp_path: Path) -> None:
    params = init_params(TINY.model, 0)
    del params["state_proj"]
    save_params(tmp_path / "params", params)
    with pytest.raises(CheckpointError, match="missing: state_proj/bias"):
        load_policy(tmp_path / "params", TINY, norm_stats)


def make_training_batch(norm_stats: NormStats, count: int) -> Mapping[str, Any]:
    generator = np.random.default_rng(8)
    transform = ItemTransform(config=TINY, norm_stats=norm_stats, tokenizer=make_tokenizer(TINY))
    items = [
        {**item, "actions": generator.normal(size=(16, 14)).astype(np.float32)}
        for item in make_observations(count)
    ]
    return stack_items([transform(item) for item in items])


def test_the_loss_of_two_draws_is_the_mean_of_each_alone(norm_stats: NormStats) -> None:
    params = jax.tree.map(jnp.asarray, init_params(TINY.model, 1))
    batch = make_training_batch(norm_stats, 2)
    actions = jnp.asarray(batch["actions"])
    noise = jax.random.normal(make_key(0), (2, *actions.shape))
    time = jnp.array([[0.2, 0.9], [0.5, 0.01]], jnp.float32)

    @jax.jit
    def loss(noise: jax.Array, time: jax.Array) -> jax.Array:
        model: Pi0 = bind_model(TINY.model, params)
        return model.flow_loss(make_observation(batch), actions, noise, time)

    both = loss(noise, time)
    alone = [loss(noise[i : i + 1], time[i : i + 1]) for i in range(2)]
    assert both.shape == (2, 16)
    assert_allclose(both, (alone[0] + alone[1]) / 2, rtol=1e-4)


def test_times_are_drawn_from_the_beta_distribution_of_the_spec() -> None:
    times = np.asarray(draw_times(make_key(3), (4, 5000)), np.float64).reshape(-1)
    assert 0.001 <= times.min() < 0.01
    assert 0.999 < times.max() <= 1.0
    test = scipy.stats.kstest((times - 0.001) / 0.999, scipy.stats.beta(1.5, 1).cdf)
    assert test.pvalue > 0.01


def test_the_loss_is_a_function_of_its_key(norm_stats: NormStats) -> None:
    params = jax.tree.map(jnp.asarray, init_params(TINY.model, 1))
    batch = make_training_batch(norm_stats, 2)

    @jax.jit
    def loss(key: jax.Array) -> jax.Array:
        model = bind_model(TINY.model, params)
        return model.compute_loss(
            key, make_observation(batch), jnp.asarray(batch["actions"]), noise_draws=2
        )

    assert_array_equal(loss(make_key(1)), loss(make_key(1)))
    assert (loss(make_key(1)) != loss(make_key(2))).any()
