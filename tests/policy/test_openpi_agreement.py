"""The model, its gradients and its training against openpi's own numbers.

float32: velocity and actions within 3e-4, loss within 1e-4 (pi0 spec). bfloat16: no two programs
round alike, so each figure is held to an absolute bound of its own, and is on average no further
from openpi's bfloat16 than that is from openpi's float32.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal
from numpy.typing import NDArray

from appliance.policy.config import ComputeDtype, Pi0Config
from appliance.policy.model import embed_time, make_attention_mask
from appliance.policy.observation import Observation, make_observation
from appliance.policy.parameters import bind_model, nest_params
from appliance.policy.presets import PRESETS, OptimizerConfig, ScheduleConfig
from appliance.training.optimizer import FlatParams, build_optimizer
from appliance.training.schedule import learning_rate, learning_rate_table
from appliance.training.step import Batch, TrainState, build_step, start_state
from tests.policy.conftest import Reference

PREFIX = 816
SAMPLING_STEPS = (1, 5, 10)
TOLERANCE: Mapping[str, Mapping[str, float]] = {
    "float32": {
        "prefix_tokens_every_8th": 3e-5,
        "suffix_tokens": 1e-4,
        "v_t": 3e-4,
        "loss": 1e-4,
        "sample_actions": 3e-4,
    },
    "bfloat16": {
        "prefix_tokens_every_8th": 4e-2,
        "suffix_tokens": 1e-4,  # projected in float32
        "v_t": 6e-2,
        "loss": 3e-2,
        "sample_actions": 6e-2,
    },
}
# openpi's schedule of its three training steps: warm-up 2, then a cosine to step 6.
SMALL = ScheduleConfig(warmup_steps=2, peak_lr=1e-3, decay_steps=6, decay_lr=1e-4)
EMA_DECAY = 0.99
NO_GRADIENT = 1e-5
"""Below this Adam's step is rounding error divided by itself: its sign says nothing."""


@pytest.fixture(scope="module")
def params(reference: Reference) -> FlatParams:
    return {
        name.removeprefix("param:"): jnp.asarray(array)
        for name, array in reference.items()
        if name.startswith("param:")
    }


@pytest.fixture(scope="module")
def observation(reference: Reference, reference_config: Pi0Config) -> Observation:
    keys = reference_config.image_keys
    return make_observation(
        {
            "image": {key: reference[f"in:image/{key}"] for key in keys},
            "image_mask": {key: reference[f"in:image_mask/{key}"] for key in keys},
            "state": reference["in:state"],
            "tokenized_prompt": reference["in:tokenized_prompt"],
            "tokenized_prompt_mask": reference["in:tokenized_prompt_mask"],
        }
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluated:
    """What the model computes for the reference's inputs; ``figures`` by openpi's names."""

    dtype: str
    figures: dict[str, NDArray[Any]]
    valid_BxT: NDArray[Any]
    keys_LxBxSxKxH: NDArray[Any]


@pytest.fixture(scope="module", params=["float32", "bfloat16"])
def evaluated(
    request: pytest.FixtureRequest,
    reference: Reference,
    reference_config: Pi0Config,
    params: FlatParams,
    observation: Observation,
) -> Evaluated:
    dtype: ComputeDtype = request.param
    config = replace(reference_config, dtype=dtype)
    noisy, time, sample_noise = (
        jnp.asarray(reference[name]) for name in ("ref:x_t", "in:time", "in:sample_noise")
    )
    actions, noise = jnp.asarray(reference["in:actions"]), jnp.asarray(reference["in:noise"])

    @jax.jit
    def run(params: FlatParams, seen: Observation) -> tuple[dict[str, jax.Array], ...]:
        model = bind_model(config, nest_params(params))
        tokens, _ = model.embed_prefix(seen)
        cache, valid = model.run_prefix(seen)
        figures = {
            "prefix_tokens_every_8th": tokens[:, ::8],
            "suffix_tokens": model.embed_suffix(seen.state_BxS, noisy, time),
            "v_t": model.predict_velocity(cache, valid, seen.state_BxS, noisy, time),
            "loss": model.flow_loss(seen, actions, noise[None], time[None]),
        }
        for steps in SAMPLING_STEPS:
            sampled = model.sample_actions(None, seen, num_steps=steps, noise=sample_noise)
            figures[f"sample_actions_{steps}"] = sampled
        return figures, {"valid": valid, "keys": cache.keys_LxBxSxKxH}

    figures, prefix = run(params, observation)
    return Evaluated(
        dtype=dtype,
        figures={name: np.asarray(value, np.float64) for name, value in figures.items()},
        valid_BxT=np.asarray(prefix["valid"]),
        keys_LxBxSxKxH=np.asarray(prefix["keys"], np.float64),
    )


def test_tokens_velocity_loss_and_sampled_actions_agree(
    evaluated: Evaluated, reference: Reference
) -> None:
    assert {f"ref:{evaluated.dtype}/{name}" for name in evaluated.figures} <= reference.keys()
    for name, value in evaluated.figures.items():
        tolerance = TOLERANCE[evaluated.dtype][
            "sample_actions" if name.startswith("sample_actions") else name
        ]
        stored = reference[f"ref:{evaluated.dtype}/{name}"]
        assert_allclose(value, stored, atol=tolerance, rtol=0, err_msg=name)


def test_bfloat16_is_as_near_to_openpis_as_that_is_to_float32(
    evaluated: Evaluated, reference: Reference
) -> None:
    for name, value in evaluated.figures.items():
        if evaluated.dtype == "float32" or name == "suffix_tokens":
            continue
        stored = reference[f"ref:bfloat16/{name}"].astype(np.float64)
        rounding = root_mean_square(stored - reference[f"ref:float32/{name}"])
        assert 0 < root_mean_square(value - stored) < rounding, name


def root_mean_square(x: NDArray[Any]) -> float:
    return float(np.sqrt(np.mean(np.square(x))))


def test_the_prefix_agrees_in_validity_and_cached_keys(
    evaluated: Evaluated, reference: Reference
) -> None:
    assert_array_equal(evaluated.valid_BxT, reference["ref:float32/input_mask"][:, :PREFIX])
    # Padding is never looked at; openpi's joint pass leaves other numbers there.
    seen = evaluated.valid_BxT[:, ::8]
    stored = reference["ref:float32/kv_cache_k_every_8th"][:, :, : seen.shape[1]]
    atol = 3e-4 if evaluated.dtype == "float32" else 1e-1
    kept = evaluated.keys_LxBxSxKxH[:, :, ::8]
    assert_allclose(kept[:, seen], stored[:, seen], atol=atol, rtol=0)


def test_positions_and_mask_agree(reference: Reference) -> None:
    valid = jnp.asarray(reference["ref:float32/input_mask"])
    starts = jnp.asarray(reference["ref:float32/ar_mask"])
    mask = np.asarray(make_attention_mask(valid, starts))
    packed = reference["ref:float32/attn_mask_packed"]
    assert_array_equal(np.packbits(mask.reshape(-1)), packed)
    assert_array_equal(np.cumsum(valid, axis=1) - 1, reference["ref:float32/positions"])
    assert_array_equal(np.flatnonzero(starts), [PREFIX, PREFIX + 1])


def test_time_embedding_agrees(reference: Reference) -> None:
    times = jnp.array([0.001, 0.1, 0.5, 0.9, 1.0], jnp.float32)
    assert_allclose(embed_time(times, 64), reference["ref:posemb_sincos"], atol=2e-4, rtol=0)


def test_noisy_actions_and_their_target_agree(reference: Reference) -> None:
    """x_t = t noise + (1 - t) a; the target is noise - a."""
    actions, noise = reference["in:actions"], reference["in:noise"]
    time = reference["in:time"][:, None, None]
    assert_allclose(time * noise + (1 - time) * actions, reference["ref:x_t"], atol=1e-6)
    assert_allclose(noise - actions, reference["ref:u_t"], atol=1e-6)


def build_reference_loss(config: Pi0Config) -> Any:
    """The loss of a batch that brings its noise and times, as openpi drew them."""

    def loss(params: FlatParams, key: jax.Array, batch: Batch) -> jax.Array:
        model = bind_model(config, nest_params(params))
        losses = model.flow_loss(
            batch["observation"], batch["actions"], batch["noise"][None], batch["time"][None]
        )
        return jnp.mean(losses)

    return loss


def make_batch(reference: Reference, observation: Observation, step: int) -> Batch:
    return {
        "observation": observation,
        "actions": jnp.asarray(reference["in:actions"]),
        "noise": jnp.asarray(reference[f"ref:train/{step}/noise"]),
        "time": jnp.asarray(reference[f"ref:train/{step}/time"]),
    }


def thin(leaf: NDArray[Any], like: NDArray[Any]) -> NDArray[Any]:
    """The entries of ``leaf`` that the reference kept."""
    return leaf if leaf.size == like.size else leaf.reshape(-1)[::8]


@pytest.mark.slow
def test_the_gradient_of_every_leaf_agrees(
    reference: Reference, reference_config: Pi0Config, params: FlatParams, observation: Observation
) -> None:
    config = replace(reference_config, remat=False)
    run = jax.jit(jax.value_and_grad(build_reference_loss(config)))
    loss, gradients = run(params, jax.random.key(0), make_batch(reference, observation, 0))
    assert_allclose(loss, reference["ref:train/0/loss"], atol=1e-4, rtol=0)
    assert {f"ref:grad0/{path}" for path in gradients} == {
        name for name in reference if name.startswith("ref:grad0/")
    }
    for path, leaf in gradients.items():
        gradient = np.asarray(leaf, np.float64)
        stored = reference[f"ref:grad0/{path}"]
        scale = max(float(np.abs(stored).max()), 1e-4)  # a key bias has no gradient in theory
        kept = thin(gradient, stored)
        assert_allclose(kept, stored, atol=2e-4 * scale, rtol=0, err_msg=path)
        norm = float(reference[f"ref:grad_norm0/{path}"])
        assert np.linalg.norm(gradient) == pytest.approx(norm, rel=1e-4, abs=1e-6), path


@pytest.fixture(scope="module")
def trained(
    reference: Reference, reference_config: Pi0Config, params: FlatParams, observation: Observation
) -> tuple[TrainState, list[dict[str, float]]]:
    """The state after openpi's three steps, by the training room's own step and optimizer."""
    optimizer = build_optimizer(OptimizerConfig())
    loss = build_reference_loss(reference_config)
    step = jax.jit(build_step(loss, optimizer, ema_decay=EMA_DECAY))
    state = start_state(params, {}, optimizer, ema_decay=EMA_DECAY)
    shown = []
    for index, rate in enumerate(learning_rate_table(SMALL, 3)):
        batch = make_batch(reference, observation, index)
        state, metrics = step(state, batch, jax.random.key(0), rate)
        shown.append({name: float(value) for name, value in metrics.items()})
    return state, shown


@pytest.mark.slow
def test_three_training_steps_agree_in_loss_and_gradient_norm(
    trained: tuple[TrainState, list[dict[str, float]]], reference: Reference
) -> None:
    for index, shown in enumerate(trained[1]):
        stored = reference[f"ref:train/{index}/loss"]
        assert shown["loss"] == pytest.approx(float(stored), abs=1e-4)
        stored = reference[f"ref:train/{index}/grad_norm"]
        assert shown["grad_norm"] == pytest.approx(float(stored), rel=1e-4)


@pytest.mark.slow
def test_parameters_after_three_steps_agree(
    trained: tuple[TrainState, list[dict[str, float]]], reference: Reference, params: FlatParams
) -> None:
    """Within 3 % of what three steps can move a number, where there is a gradient to follow."""
    reach = float(learning_rate_table(SMALL, 3).sum())
    followed = 0
    for path, leaf in trained[0].trained.items():
        after, before = np.asarray(leaf, np.float64), np.asarray(params[path], np.float64)
        stored = reference[f"ref:param_after/{path}"]
        has_gradient = np.abs(reference[f"ref:grad0/{path}"]) > NO_GRADIENT
        error = np.abs(thin(after, stored) - stored)
        assert error.max() < 2 * reach, path
        assert np.max(error, where=has_gradient, initial=0.0) < 0.03 * reach, path
        followed += int(has_gradient.sum())
        if has_gradient.mean() > 0.99:
            change = np.linalg.norm(after - before)
            assert change == pytest.approx(float(reference[f"ref:update_norm/{path}"]), rel=1e-3)
    assert followed > 60_000


@pytest.mark.slow
def test_the_running_average_agrees(
    trained: tuple[TrainState, list[dict[str, float]]], reference: Reference
) -> None:
    average = trained[0].average
    assert average is not None
    assert {f"ref:ema_norm/{path}" for path in average} == {
        name for name in reference if name.startswith("ref:ema_norm/")
    }
    for path, leaf in average.items():
        norm = np.linalg.norm(np.asarray(leaf, np.float64))
        stored = float(reference[f"ref:ema_norm/{path}"])
        assert norm == pytest.approx(stored, rel=1e-5, abs=1e-7), path
        live = np.linalg.norm(np.asarray(trained[0].trained[path], np.float64))
        if abs(live - stored) > 1e-4:  # the norm tells the average from the live parameters
            assert abs(norm - stored) < 0.05 * abs(live - stored), path


def test_learning_rates_agree(reference: Reference) -> None:
    steps = [int(step) for step in reference["ref:lr_default_steps"]]
    cosine = PRESETS["pi0_base_aloha_robotwin_lora"].schedule
    rsqrt = ScheduleConfig(kind="rsqrt", warmup_steps=1000, peak_lr=5e-5, timescale=10_000.0)
    for schedule, name in ((cosine, "ref:lr_default"), (rsqrt, "ref:lr_rsqrt_default")):
        rates = [learning_rate(schedule, step) for step in steps]
        # openpi interpolates in float32, so its first rates are off by that of the peak.
        assert_allclose(rates, reference[name], rtol=1e-6, atol=1e-7 * schedule.peak_lr)
    small = learning_rate_table(SMALL, len(reference["ref:lr_small"]))
    assert_allclose(small, reference["ref:lr_small"], rtol=2e-6)
