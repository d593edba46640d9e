from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest

from appliance.manifest.rules import SMALL_PRESETS
from appliance.policy.config import GEMMA_VARIANTS, SIGLIP_VARIANTS, Pi0Config
from appliance.policy.presets import (
    PRESETS,
    ROBOT_DIMS,
    AugmentationConfig,
    FreezeConfig,
    OptimizerConfig,
    ScheduleConfig,
)


def test_configurations_import_without_jax() -> None:
    code = (
        "import sys, appliance.policy.presets; print('jax' in sys.modules, 'flax' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]


def test_every_preset_is_found_under_its_own_name() -> None:
    assert {name: preset.name for name, preset in PRESETS.items()} == {
        name: name for name in PRESETS
    }
    assert set(PRESETS) == {
        "pi0_base_aloha_robotwin_lora",
        "pi0_base_aloha_robotwin_full",
        "pi0_tiny_aloha_robotwin",
    }


@pytest.mark.parametrize("name", PRESETS)
def test_presets_fit_the_robot_and_their_cameras_exist_in_the_model(name: str) -> None:
    preset = PRESETS[name]
    assert len(preset.delta_mask) == ROBOT_DIMS <= preset.model.action_dim
    assert [i for i, relative in enumerate(preset.delta_mask) if not relative] == [6, 13]
    assert tuple(key for _, key in preset.cameras) == preset.model.image_keys


def test_validation_asks_for_a_tokenizer_where_a_preset_needs_one() -> None:
    small = {name for name, preset in PRESETS.items() if preset.tokenizer == "byte"}
    assert set(SMALL_PRESETS) == small


def test_the_real_sizes_have_867_tokens() -> None:
    model = PRESETS["pi0_base_aloha_robotwin_lora"].model
    assert model.prefix_tokens + 1 + model.action_horizon == 867


def test_the_methods_own_preset_has_the_numbers_of_the_spec() -> None:
    preset = PRESETS["pi0_base_aloha_robotwin_lora"]
    model = preset.model
    assert (model.paligemma, model.action_expert) == (
        GEMMA_VARIANTS["gemma_2b_lora"],
        GEMMA_VARIANTS["gemma_300m_lora"],
    )
    assert model.vision == SIGLIP_VARIANTS["so400m_14"]
    assert (model.action_dim, model.action_horizon, model.max_token_len) == (32, 50, 48)
    assert (model.vocabulary, model.image_size, model.dtype) == (257_152, (224, 224), "bfloat16")
    assert (preset.batch_size, preset.num_train_steps, preset.ema_decay) == (32, 30_000, 0.99)
    assert (preset.std_floor, preset.noise_draws_per_sample) == (0.0, 1)
    assert preset.schedule == ScheduleConfig(
        kind="cosine", warmup_steps=1000, peak_lr=2.5e-5, decay_steps=30_000, decay_lr=2.5e-6
    )
    assert preset.optimizer == OptimizerConfig(
        b1=0.9, b2=0.95, eps=1e-8, weight_decay=1e-10, clip_norm=1.0
    )
    assert preset.augmentation == AugmentationConfig(
        crop_fraction=0.95, rotate_degrees=5.0, brightness=0.3, contrast=0.4, hue=0.1
    )
    assert preset.cameras == (
        ("cam_high", "base_0_rgb"),
        ("cam_left_wrist", "left_wrist_0_rgb"),
        ("cam_right_wrist", "right_wrist_0_rgb"),
    )


def test_the_full_preset_differs_in_its_experts_freezing_and_mesh_only() -> None:
    lora = PRESETS["pi0_base_aloha_robotwin_lora"]
    model = replace(
        lora.model,
        paligemma=GEMMA_VARIANTS["gemma_2b"],
        action_expert=GEMMA_VARIANTS["gemma_300m"],
    )
    assert PRESETS["pi0_base_aloha_robotwin_full"] == replace(
        lora,
        name="pi0_base_aloha_robotwin_full",
        model=model,
        freeze=FreezeConfig(),
        fsdp_devices=4,
    )


def test_experts_of_one_mixture_must_share_their_heads() -> None:
    with pytest.raises(ValueError, match="must share depth"):
        Pi0Config(
            paligemma=GEMMA_VARIANTS["gemma_2b"],
            action_expert=GEMMA_VARIANTS["dummy"],
            vision=SIGLIP_VARIANTS["so400m_14"],
        )
