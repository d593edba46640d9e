"""openpi's dummy experts around a small tower, with and without adapters; every leaf is used."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.policy.config import GEMMA_VARIANTS, LoraConfig, Pi0Config, SiglipConfig
from appliance.policy.parameters import abstract_params, flatten_params

LORA = LoraConfig(rank=4, alpha=12.0)  # alpha is not rank, so that the scale shows
DUMMY = GEMMA_VARIANTS["dummy"]
EXPERT = replace(DUMMY, width=32, mlp_dim=48)
PLAIN = Pi0Config(
    paligemma=DUMMY,
    action_expert=EXPERT,
    vision=SiglipConfig(width=32, depth=2, mlp_dim=48, num_heads=2, patch_size=14, zero_head=False),
    vocabulary=64,
    image_size=(28, 28),
    action_horizon=4,
    max_token_len=8,
    dtype="float32",
    remat=False,
)
ADAPTED = replace(
    PLAIN,
    paligemma=replace(DUMMY, attention_lora=LORA, mlp_lora=LORA),
    action_expert=replace(EXPERT, attention_lora=LORA, mlp_lora=LORA),
)


def random_leaves(model: Pi0Config, seed: int, std: float = 1.0) -> dict[str, NDArray[Any]]:
    """Non-zero numbers everywhere, so that no leaf can be taken for another."""
    generator = np.random.default_rng(seed)
    return {
        path: (std * generator.normal(size=leaf.shape)).astype(np.float32)
        for path, leaf in flatten_params(abstract_params(model)).items()
    }


def random_batch(model: Pi0Config, size: int, seed: int = 0) -> dict[str, Any]:
    """A batch of stacked items; the last sample's last camera is missing."""
    generator = np.random.default_rng(seed)
    shape = (size, *model.image_size, 3)
    masks = {key: np.ones(size, bool) for key in model.image_keys}
    masks[model.image_keys[-1]][-1] = False
    length = np.arange(model.max_token_len) < model.max_token_len - 2
    return {
        "image": {key: generator.integers(0, 256, shape, np.uint8) for key in model.image_keys},
        "image_mask": masks,
        "state": generator.normal(size=(size, model.action_dim)).astype(np.float32),
        "actions": generator.normal(size=(size, model.action_horizon, model.action_dim)).astype(
            np.float32
        ),
        "tokenized_prompt": generator.integers(
            1, model.vocabulary, (size, model.max_token_len)
        ).astype(np.int32),
        "tokenized_prompt_mask": np.broadcast_to(length, (size, model.max_token_len)).copy(),
    }
