from __future__ import annotations

import subprocess
import sys

import pytest

from appliance.manifest.rules import SMALL_PRESETS
from appliance.policy.config import GEMMA_VARIANTS, SIGLIP_VARIANTS, Pi0Config
from appliance.policy.presets import PRESETS, ROBOT_DIMS


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


def test_experts_of_one_mixture_must_share_their_heads() -> None:
    with pytest.raises(ValueError, match="must share depth"):
        Pi0Config(
            paligemma=GEMMA_VARIANTS["gemma_2b"],
            action_expert=GEMMA_VARIANTS["dummy"],
            vision=SIGLIP_VARIANTS["so400m_14"],
        )
