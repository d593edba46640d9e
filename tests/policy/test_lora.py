"""Adapters: what they add is what weights with the adapters merged into them compute."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose
from numpy.typing import NDArray

from appliance.policy.config import GEMMA_VARIANTS
from appliance.policy.lora import adapter_equations, adapter_shapes
from appliance.policy.observation import make_observation
from appliance.policy.parameters import bind_model, nest_params
from tests.policy.small_models import ADAPTED, LORA, PLAIN, random_batch, random_leaves


def merge(leaves: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Each weight plus its adapters' product, by the spec's words.

    q, kv and MLP: a then b over the last axes, per head; attention output: heads and head_dim into
    the rank, then summed over heads. Attention is scaled by alpha / rank, the MLP is not.
    """
    merged = {path: leaf for path, leaf in leaves.items() if "lora" not in path}
    for path, weight in merged.items():
        if "/attn/" in path:
            stem = path.removesuffix("w")
            a, b = leaves[f"{stem}lora_a"], leaves[f"{stem}lora_b"]
            product = np.einsum("znhl,zmld->znhd", a, b) if "attn_vec" in path else a @ b
            merged[path] = weight + LORA.alpha / LORA.rank * product
        elif "/mlp" in path:
            merged[path] = weight + leaves[f"{path}_lora_a"] @ leaves[f"{path}_lora_b"]
    return merged


def test_adapters_compute_what_merged_weights_do() -> None:
    adapted = random_leaves(ADAPTED, 0, std=0.2)
    merged = merge(adapted)
    assert sum((merged[path] != adapted[path]).any() for path in merged) == 10
    batch = random_batch(PLAIN, 2)
    noise = np.random.default_rng(1).normal(size=batch["actions"].shape).astype(np.float32)

    def velocity(config: Any, leaves: dict[str, NDArray[Any]]) -> NDArray[Any]:
        @jax.jit
        def run(params: Any) -> jax.Array:
            model = bind_model(config, params)
            seen = make_observation(batch)
            cache, valid = model.run_prefix(seen)
            time = jnp.array([0.3, 0.8], jnp.float32)
            return model.predict_velocity(cache, valid, seen.state_BxS, jnp.asarray(noise), time)

        return np.asarray(run(jax.tree.map(jnp.asarray, nest_params(leaves))))

    with_adapters = velocity(ADAPTED, adapted)
    without = velocity(PLAIN, {path: adapted[path] for path in merged})
    assert np.abs(with_adapters - without).max() > 0.1
    assert_allclose(velocity(PLAIN, merged), with_adapters, atol=2e-4, rtol=1e-4)


def test_equations_and_shapes_of_the_attention_output() -> None:
    assert adapter_equations("BTNH,NHD->BTD") == ("BTNH,NHL->BTL", "BTL,NLD->BTD")
    assert adapter_shapes((8, 256, 2048), 16) == ((8, 256, 16), (8, 16, 2048))


@pytest.mark.parametrize(("name", "rank"), [("gemma_2b_lora", 16), ("gemma_300m_lora", 32)])
def test_the_shipped_adapters_have_rank_and_alpha_of_openpi(name: str, rank: int) -> None:
    config = GEMMA_VARIANTS[name]
    assert config.attention_lora == config.mlp_lora
    assert config.attention_lora is not None
    assert (config.attention_lora.rank, config.attention_lora.alpha) == (rank, rank)
    assert config.attention_lora.init_std == 0.01
