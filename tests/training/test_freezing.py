"""What is trained, what stays, and what a checkpoint holds, exactly, for the real variants."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from appliance.policy.observation import make_observation
from appliance.policy.parameters import abstract_params, flatten_params, make_key
from appliance.policy.presets import LORA_FREEZE, PRESETS, AugmentationConfig, TrainConfig
from appliance.training.checkpoints import CheckpointFolder
from appliance.training.objective import STATE_NOISE, build_loss, initial_params
from appliance.training.optimizer import FreezeMode, build_optimizer, freeze_rule, split_frozen
from appliance.training.request import TrainRequest
from appliance.training.run import abstract_state
from appliance.training.step import TrainState, build_step, start_state
from tests.policy.small_models import ADAPTED, PLAIN, random_batch

LORA = PRESETS["pi0_base_aloha_robotwin_lora"]
FULL = PRESETS["pi0_base_aloha_robotwin_full"]
FROZEN_IN_OPENPI = {
    f"PaliGemma/llm/{name}"
    for name in (
        "embedder/input_embedding",
        "final_norm/scale",
        "final_norm_1/scale",
        "layers/attn/attn_vec_einsum/w",
        "layers/attn/attn_vec_einsum_1/w",
        "layers/attn/kv_einsum/w",
        "layers/attn/kv_einsum_1/w",
        "layers/attn/q_einsum/w",
        "layers/attn/q_einsum_1/w",
        "layers/mlp/gating_einsum",
        "layers/mlp/linear",
        "layers/mlp_1/gating_einsum",
        "layers/mlp_1/linear",
        "layers/pre_attention_norm/scale",
        "layers/pre_attention_norm_1/scale",
        "layers/pre_ffw_norm/scale",
        "layers/pre_ffw_norm_1/scale",
    )
}
PROJECTIONS = {
    f"{name}/{leaf}"
    for name in (
        "state_proj",
        "action_in_proj",
        "action_time_mlp_in",
        "action_time_mlp_out",
        "action_out_proj",
    )
    for leaf in ("kernel", "bias")
}
MODES: tuple[FreezeMode, ...] = ("default", "strong")
SMALL = replace(LORA, model=ADAPTED, name="small_lora", batch_size=2)
STEPS = 3


def make_request(config: TrainConfig, mode: FreezeMode) -> TrainRequest:
    nowhere = Path("nowhere")
    return TrainRequest(
        config=config,
        exp_name="a",
        repo_id="a",
        dataset_root=nowhere,
        norm_stats_path=nowhere,
        num_train_steps=1,
        freeze_mode=mode,
    )


@pytest.mark.parametrize(
    ("config", "mode", "trained", "frozen_leaves"),
    [
        (LORA, "default", 468_039_440, 17),
        (LORA, "strong", 53_235_744, 40),
        (FULL, "default", 3_238_048_528, 0),
        (FULL, "strong", 3_238_048_528 - 414_803_696, 23),
    ],
)
def test_the_training_state_of_the_real_variants_by_shapes_alone(
    config: TrainConfig, mode: FreezeMode, trained: int, frozen_leaves: int
) -> None:
    state = abstract_state(make_request(config, mode))
    assert all(isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(state))
    assert sum(leaf.size for leaf in state.trained.values()) == trained
    assert len(state.frozen) == frozen_leaves
    assert {leaf.dtype for leaf in state.trained.values()} == {np.dtype(np.float32)}
    assert all(leaf.dtype == jnp.bfloat16 for leaf in state.frozen.values())
    assert state.average is not None
    assert state.average.keys() == state.trained.keys()
    moments = sum(leaf.size for leaf in jax.tree.leaves(state.optimizer))
    assert moments == 2 * trained + 1
    assert state.served.keys() == flatten_params(abstract_params(config.model)).keys()


def test_the_leaves_each_mode_trains_are_these() -> None:
    paths = flatten_params(abstract_params(LORA.model))
    tower = {path for path in paths if path.startswith("PaliGemma/img/")}
    adapters = {path for path in paths if "lora" in path}
    assert (len(tower), len(adapters)) == (23, 20)
    trained, frozen = split_frozen(paths, freeze_rule(LORA.freeze, "default"))
    assert frozen.keys() == FROZEN_IN_OPENPI
    assert trained.keys() == tower | adapters | PROJECTIONS
    assert sum(paths[path].size for path in tower) == 414_803_696
    trained, frozen = split_frozen(paths, freeze_rule(LORA.freeze, "strong"))
    assert frozen.keys() == FROZEN_IN_OPENPI | tower
    assert trained.keys() == adapters | PROJECTIONS


def start_small(mode: FreezeMode) -> TrainState:
    freeze = freeze_rule(LORA_FREEZE, mode)
    params = initial_params(SMALL, 5, freeze, None)
    optimizer = build_optimizer(SMALL.optimizer)
    return start_state(*split_frozen(params, freeze), optimizer, ema_decay=SMALL.ema_decay)


def train_small(start: TrainState) -> TrainState:
    """Three real steps of the small model with adapters."""
    config = replace(SMALL, augmentation=AugmentationConfig())
    optimizer = build_optimizer(config.optimizer)
    step = jax.jit(build_step(build_loss(config), optimizer, ema_decay=config.ema_decay))
    batch: dict[str, Any] = {**random_batch(ADAPTED, 2), STATE_NOISE: None}
    state = start
    for _ in range(STEPS):
        state, metrics = step(state, batch, make_key(1), np.float32(1e-3))
        assert np.isfinite(metrics["loss"])
    return state


def read_keys(folder: Path) -> set[str]:
    with ocp.PyTreeCheckpointer() as reader:
        return set(flatten_params(reader.restore(folder)))


def save(state: TrainState, folder: Path) -> Path:
    kept = CheckpointFolder(folder, asset_id="a", norm_stats_json=b"{}")
    return kept.save(state, chain="c", kept=True)


@pytest.mark.parametrize("mode", MODES)
def test_the_keys_of_a_checkpoint_are_exactly_these(mode: FreezeMode, tmp_path: Path) -> None:
    saved = save(start_small(mode), tmp_path)
    real = flatten_params(abstract_params(LORA.model))
    assert read_keys(saved / "params") == {f"params/{path}/value" for path in real}
    trained = {path for path in real if not freeze_rule(LORA.freeze, mode).is_frozen(path)}
    assert read_keys(saved / "train_state") == {
        "step",
        "opt_state/1/count",
        *(f"params/{path}" for path in trained),
        *(f"opt_state/1/{moment}/{path}" for moment in ("mu", "nu") for path in trained),
    }


@pytest.mark.slow
def test_frozen_leaves_stay_bit_equal_in_training_and_in_the_checkpoint(tmp_path: Path) -> None:
    start = start_small("strong")
    state = train_small(start)
    saved = save(state, tmp_path)
    trained = start.trained.keys()
    with ocp.PyTreeCheckpointer() as reader:
        leaves = flatten_params(reader.restore(saved / "params")["params"])
    for path in flatten_params(abstract_params(LORA.model)):
        leaf = leaves[f"{path}/value"]
        if path in trained:
            assert leaf.dtype == np.float32
            assert (leaf != np.asarray(start.trained[path])).any(), path
            assert state.average is not None
            np.testing.assert_array_equal(leaf, state.average[path])
        else:
            assert leaf.dtype == jnp.bfloat16
            assert leaf.tobytes() == np.asarray(start.frozen[path]).tobytes(), path


def test_averaging_frozen_leaves_would_round_them_away() -> None:
    """Why the average has no frozen leaf: bfloat16 shrinks under 0.99 a + 0.01 a."""
    leaf = average = jnp.asarray(np.random.default_rng(0).normal(size=4096), jnp.bfloat16)
    for _ in range(100):
        average = 0.99 * average + (1 - 0.99) * leaf
    assert average.dtype == jnp.bfloat16
    assert (jnp.abs(average) < jnp.abs(leaf)).mean() > 0.2


def test_the_small_model_has_the_leaves_of_the_real_one() -> None:
    small, real = (flatten_params(abstract_params(model)) for model in (ADAPTED, LORA.model))
    assert small.keys() == real.keys()
    plain, full = (flatten_params(abstract_params(model)) for model in (PLAIN, FULL.model))
    assert plain.keys() == full.keys()
    assert make_observation(random_batch(PLAIN, 2)).images.keys() == set(LORA.model.image_keys)
