"""The counted operations against those XLA finds in the traced program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from appliance.policy.observation import make_observation
from appliance.policy.parameters import abstract_params, bind_model, flatten_params, nest_params
from appliance.policy.presets import PRESETS, AugmentationConfig, FreezeConfig, TrainConfig
from tests.benchmarks.full_size import make_batches, make_config
from tests.benchmarks.model_flops import count_step

TINY = PRESETS["pi0_tiny_aloha_robotwin"]
LORA = PRESETS["pi0_base_aloha_robotwin_lora"]


def unroll(config: TrainConfig) -> TrainConfig:
    """Without loops, whose bodies XLA's analysis counts once, and without recomputation."""
    model = replace(config.model, unroll=True, remat=False, dtype="float32")
    return replace(config, model=model, augmentation=AugmentationConfig())


def count_traced(config: TrainConfig, freeze: FreezeConfig, *, gradient: bool) -> float:
    """Operations a sample in the lowered, not yet optimized program."""
    batch = make_batches(config, 2)[0]
    shape = (config.noise_draws_per_sample, *batch["actions"].shape)
    noise, time = jnp.zeros(shape), jnp.full(shape[:2], 0.5)
    shapes = flatten_params(abstract_params(config.model))
    trained = {path: leaf for path, leaf in shapes.items() if not freeze.is_frozen(path)}
    frozen = {path: leaf for path, leaf in shapes.items() if freeze.is_frozen(path)}

    def loss(trained: Any, frozen: Any, batch: Any) -> jax.Array:
        model = bind_model(config.model, nest_params({**trained, **frozen}))
        actions = jnp.asarray(batch["actions"])
        return jnp.mean(model.flow_loss(make_observation(batch), actions, noise, time))

    function = jax.grad(loss) if gradient else loss
    cost = jax.jit(function).lower(trained, frozen, batch).cost_analysis()
    return float(cost["flops"]) / 2


@pytest.mark.parametrize("name", ["dummy", "pi0_tiny_aloha_robotwin"])
def test_counted_operations_are_those_of_the_traced_program(name: str) -> None:
    """Up to elementwise work, which is not counted and weighs more in a small model."""
    config = unroll(make_config(name))
    counted = count_step(config, config.freeze)
    assert 1.0 < count_traced(config, config.freeze, gradient=False) / counted.forward < 1.2
    assert 0.95 < count_traced(config, config.freeze, gradient=True) / counted.step < 1.25


def test_a_frozen_weight_saves_a_product() -> None:
    everything = count_step(LORA, FreezeConfig())
    usual, strong = count_step(LORA, LORA.freeze), count_step(LORA, LORA.freeze.strong())
    assert everything.forward == usual.forward == strong.forward
    assert everything.step == pytest.approx(3 * everything.forward)
    assert 2 * usual.forward < strong.step < usual.step < everything.step
    assert usual.forward == pytest.approx(4.08e12, rel=0.01)
