"""Paths, shapes and counts of all variants, by shape evaluation: nothing large is allocated."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest

from appliance.policy.config import GEMMA_VARIANTS, SIGLIP_VARIANTS, Pi0Config
from appliance.policy.initialization import init_leaf, init_params
from appliance.policy.parameters import (
    abstract_params,
    bind_model,
    count_params,
    flatten_params,
    make_key,
    nest_params,
)
from appliance.policy.presets import PRESETS
from tests.policy.conftest import Reference
from tests.policy.small_models import ADAPTED

LORA = PRESETS["pi0_base_aloha_robotwin_lora"]
FULL = PRESETS["pi0_base_aloha_robotwin_full"]
TINY = PRESETS["pi0_tiny_aloha_robotwin"]

OPENPI_LEAVES = """
PaliGemma/img/Transformer/encoder_norm/bias 1152
PaliGemma/img/Transformer/encoder_norm/scale 1152
PaliGemma/img/Transformer/encoderblock/LayerNorm_0/bias 27 1152
PaliGemma/img/Transformer/encoderblock/LayerNorm_0/scale 27 1152
PaliGemma/img/Transformer/encoderblock/LayerNorm_1/bias 27 1152
PaliGemma/img/Transformer/encoderblock/LayerNorm_1/scale 27 1152
PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_0/bias 27 4304
PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_0/kernel 27 1152 4304
PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_1/bias 27 1152
PaliGemma/img/Transformer/encoderblock/MlpBlock_0/Dense_1/kernel 27 4304 1152
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/bias 27 16 72
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/key/kernel 27 1152 16 72
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/bias 27 1152
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/out/kernel 27 16 72 1152
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/bias 27 16 72
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/query/kernel 27 1152 16 72
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/value/bias 27 16 72
PaliGemma/img/Transformer/encoderblock/MultiHeadDotProductAttention_0/value/kernel 27 1152 16 72
PaliGemma/img/embedding/bias 1152
PaliGemma/img/embedding/kernel 14 14 3 1152
PaliGemma/img/head/bias 2048
PaliGemma/img/head/kernel 1152 2048
PaliGemma/img/pos_embedding 1 256 1152
PaliGemma/llm/embedder/input_embedding 257152 2048
PaliGemma/llm/final_norm/scale 2048
PaliGemma/llm/final_norm_1/scale 1024
PaliGemma/llm/layers/attn/attn_vec_einsum/w 18 8 256 2048
PaliGemma/llm/layers/attn/attn_vec_einsum_1/w 18 8 256 1024
PaliGemma/llm/layers/attn/kv_einsum/w 18 2 1 2048 256
PaliGemma/llm/layers/attn/kv_einsum_1/w 18 2 1 1024 256
PaliGemma/llm/layers/attn/q_einsum/w 18 8 2048 256
PaliGemma/llm/layers/attn/q_einsum_1/w 18 8 1024 256
PaliGemma/llm/layers/mlp/gating_einsum 18 2 2048 16384
PaliGemma/llm/layers/mlp/linear 18 16384 2048
PaliGemma/llm/layers/mlp_1/gating_einsum 18 2 1024 4096
PaliGemma/llm/layers/mlp_1/linear 18 4096 1024
PaliGemma/llm/layers/pre_attention_norm/scale 18 2048
PaliGemma/llm/layers/pre_attention_norm_1/scale 18 1024
PaliGemma/llm/layers/pre_ffw_norm/scale 18 2048
PaliGemma/llm/layers/pre_ffw_norm_1/scale 18 1024
action_in_proj/bias 1024
action_in_proj/kernel 32 1024
action_out_proj/bias 32
action_out_proj/kernel 1024 32
action_time_mlp_in/bias 1024
action_time_mlp_in/kernel 2048 1024
action_time_mlp_out/bias 1024
action_time_mlp_out/kernel 1024 1024
state_proj/bias 1024
state_proj/kernel 32 1024
"""

OPENPI_ADAPTERS = """
PaliGemma/llm/layers/attn/attn_vec_einsum/lora_a 18 8 256 16
PaliGemma/llm/layers/attn/attn_vec_einsum/lora_b 18 8 16 2048
PaliGemma/llm/layers/attn/attn_vec_einsum_1/lora_a 18 8 256 32
PaliGemma/llm/layers/attn/attn_vec_einsum_1/lora_b 18 8 32 1024
PaliGemma/llm/layers/attn/kv_einsum/lora_a 18 2 1 2048 16
PaliGemma/llm/layers/attn/kv_einsum/lora_b 18 2 1 16 256
PaliGemma/llm/layers/attn/kv_einsum_1/lora_a 18 2 1 1024 32
PaliGemma/llm/layers/attn/kv_einsum_1/lora_b 18 2 1 32 256
PaliGemma/llm/layers/attn/q_einsum/lora_a 18 8 2048 16
PaliGemma/llm/layers/attn/q_einsum/lora_b 18 8 16 256
PaliGemma/llm/layers/attn/q_einsum_1/lora_a 18 8 1024 32
PaliGemma/llm/layers/attn/q_einsum_1/lora_b 18 8 32 256
PaliGemma/llm/layers/mlp/gating_einsum_lora_a 18 2 2048 16
PaliGemma/llm/layers/mlp/gating_einsum_lora_b 18 2 16 16384
PaliGemma/llm/layers/mlp/linear_lora_a 18 16384 16
PaliGemma/llm/layers/mlp/linear_lora_b 18 16 2048
PaliGemma/llm/layers/mlp_1/gating_einsum_lora_a 18 2 1024 32
PaliGemma/llm/layers/mlp_1/gating_einsum_lora_b 18 2 32 4096
PaliGemma/llm/layers/mlp_1/linear_lora_a 18 4096 32
PaliGemma/llm/layers/mlp_1/linear_lora_b 18 32 1024
"""


def read_shapes(text: str) -> dict[str, tuple[int, ...]]:
    rows = [line.split() for line in text.split("\n") if line]
    return {path: tuple(int(size) for size in sizes) for path, *sizes in rows}


def shapes(config: Pi0Config) -> dict[str, tuple[int, ...]]:
    return {path: leaf.shape for path, leaf in flatten_params(abstract_params(config)).items()}


def test_the_full_model_has_openpis_leaves_and_3238048528_parameters() -> None:
    assert shapes(FULL.model) == read_shapes(OPENPI_LEAVES)
    assert count_params(abstract_params(FULL.model)) == 3_238_048_528


def test_the_lora_model_has_openpis_leaves_and_3288036112_parameters() -> None:
    assert shapes(LORA.model) == read_shapes(OPENPI_LEAVES) | read_shapes(OPENPI_ADAPTERS)
    assert count_params(abstract_params(LORA.model)) == 3_288_036_112


def test_the_dummy_model_differs_in_width_and_depth_only() -> None:
    dummy = GEMMA_VARIANTS["dummy"]
    config = Pi0Config(paligemma=dummy, action_expert=dummy, vision=SIGLIP_VARIANTS["so400m_14"])
    found = shapes(config)
    assert found.keys() == read_shapes(OPENPI_LEAVES).keys()
    assert found["PaliGemma/llm/layers/mlp/gating_einsum"] == (4, 2, 64, 128)
    assert found["PaliGemma/llm/layers/attn/kv_einsum_1/w"] == (4, 2, 1, 64, 16)
    assert count_params(abstract_params(config)) == 429_337_808


def test_the_reference_model_has_the_paths_and_shapes_of_the_reference_file(
    reference: Reference, reference_config: Pi0Config
) -> None:
    stored = {
        name.removeprefix("param:"): array.shape
        for name, array in reference.items()
        if name.startswith("param:")
    }
    assert shapes(reference_config) == stored


def test_the_tiny_model_is_about_a_million_parameters() -> None:
    assert 0.4e6 < count_params(abstract_params(TINY.model)) < 1.2e6


@pytest.mark.parametrize(
    ("mode", "leaves_frozen", "trained"),
    [("default", 17, 468_039_440), ("strong", 17 + 23, 53_235_744)],
)
def test_freezing_the_lora_model_leaves_the_known_number_trainable(
    mode: str, leaves_frozen: int, trained: int
) -> None:
    freeze = LORA.freeze if mode == "default" else LORA.freeze.strong()
    leaves = flatten_params(abstract_params(LORA.model))
    frozen = {path for path in leaves if freeze.is_frozen(path)}
    assert len(frozen) == leaves_frozen
    assert not any("lora" in path or path.startswith("action_") for path in frozen)
    assert sum(leaf.size for path, leaf in leaves.items() if path not in frozen) == trained


def test_the_other_presets_train_everything() -> None:
    for path in flatten_params(abstract_params(FULL.model)):
        assert not FULL.freeze.is_frozen(path)
        assert not TINY.freeze.is_frozen(path)


def test_nesting_undoes_flattening() -> None:
    tree = {"b": {"x": 1, "y": {"z": 2}}, "a": 3}
    assert nest_params(flatten_params(tree)) == tree
    assert list(flatten_params(tree)) == ["a", "b/x", "b/y/z"]


def test_initial_parameters_depend_on_the_seed_and_nothing_else() -> None:
    first, again = flatten_params(init_params(TINY.model, 3)), init_params(TINY.model, 3)
    other = flatten_params(init_params(TINY.model, 4))
    assert all((leaf == flatten_params(again)[path]).all() for path, leaf in first.items())
    random_leaves = [path for path, leaf in first.items() if np.unique(leaf).size > 1]
    assert all((first[path] != other[path]).any() for path in random_leaves)
    assert all(leaf.dtype == np.float32 for leaf in first.values())


def test_initial_kernels_have_variance_one_over_fan_in() -> None:
    leaves = flatten_params(init_params(TINY.model, 0))
    for path, fan_in in {
        "action_time_mlp_in/kernel": 2 * TINY.model.action_expert.width,
        "PaliGemma/llm/layers/mlp/linear": TINY.model.paligemma.mlp_dim,
        "PaliGemma/llm/layers/attn/q_einsum/w": TINY.model.paligemma.width,
    }.items():
        assert np.var(leaves[path]) == pytest.approx(1 / fan_in, rel=0.05)
    for path, leaf in leaves.items():
        if re.search(r"LayerNorm_\d/scale|encoder_norm/scale", path):
            assert (leaf == 1).all()
        elif re.search(r"bias$|scale$", path):
            assert (leaf == 0).all()


def test_adapters_start_small_and_openpis_vision_head_at_zero() -> None:
    shapes = flatten_params(abstract_params(ADAPTED))
    adapters = [path for path in shapes if "lora" in path]
    numbers = np.concatenate([init_leaf(ADAPTED, 0, path).reshape(-1) for path in adapters])
    assert np.std(numbers) == pytest.approx(0.01, rel=0.02)
    assert abs(np.mean(numbers)) < 1e-4
    openpi = replace(ADAPTED, vision=replace(ADAPTED.vision, zero_head=LORA.model.vision.zero_head))
    assert (init_leaf(openpi, 0, "PaliGemma/img/head/kernel") == 0).all()


def test_a_bound_model_carries_the_parameters_it_was_given() -> None:
    params = init_params(TINY.model, 0)
    model = bind_model(TINY.model, params)
    assert (model.state_proj.kernel[...] == params["state_proj"]["kernel"]).all()


def test_keys_use_all_63_bits_of_a_seed() -> None:
    import jax

    small = jax.random.key_data(make_key(7))
    assert (small == jax.random.key_data(jax.random.key(7, impl="threefry2x32"))).all()
    assert (jax.random.key_data(make_key(7 + (1 << 40))) != small).any()
