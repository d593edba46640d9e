"""The training configurations a manifest can name, as plain data (no jax import).

``PRESETS`` maps ``train.config`` of a manifest to a :class:`TrainConfig`. Numbers of the two
``pi0_base`` presets: pi0 spec, "Training" and "Configurations to ship".
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from appliance.policy.config import (
    BYTE_VOCABULARY,
    GEMMA_VARIANTS,
    SIGLIP_VARIANTS,
    Pi0Config,
)

ROBOT_DIMS = 14
"""State and action of the two-arm robot: left arm 6, left gripper, right arm 6, right gripper."""

BASE_CAMERA = "base_0_rgb"


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleConfig:
    """Learning rate over steps; ``timescale`` is read for rsqrt only, ``decay_*`` for cosine."""

    kind: Literal["cosine", "rsqrt"] = "cosine"
    warmup_steps: int = 1000
    peak_lr: float = 2.5e-5
    decay_steps: int = 30_000
    decay_lr: float = 2.5e-6
    timescale: float = 10_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class OptimizerConfig:
    """AdamW (Loshchilov & Hutter 2019) after clipping by global norm."""

    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    weight_decay: float = 1e-10
    clip_norm: float = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class AugmentationConfig:
    """What training does to pictures and states.

    ``crop_fraction``, ``rotate_degrees`` act on the base camera only, the jitter on all cameras
    (0 or 1.0 = off). openpi also asks for a saturation jitter of 0.5, which its library does not
    apply (see ``augment``), and takes the library's own hue jitter of 0.1. ``shift_px`` moves every
    picture by a whole number of pixels, edges repeated. ``state_noise_rad`` is the standard
    deviation of Gaussian noise added to the joints of the state token and subtracted from the
    relative joint targets, so that the absolute targets stay.
    """

    crop_fraction: float = 1.0
    rotate_degrees: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    hue: float = 0.0
    shift_px: int = 0
    state_noise_rad: float = 0.0

    @property
    def is_geometric(self) -> bool:
        """Whether the base camera is cropped or turned."""
        return self.crop_fraction < 1 or self.rotate_degrees > 0

    @property
    def is_jittering(self) -> bool:
        """Whether colours are moved."""
        return bool(self.brightness or self.contrast or self.hue)


@dataclass(frozen=True, slots=True, kw_only=True)
class FreezeConfig:
    """Which parameter paths are not trained: matched by ``frozen`` and not by ``trained``.

    Patterns are regular expressions matched against the whole path ("PaliGemma/llm/...").
    """

    frozen: tuple[str, ...] = ()
    trained: tuple[str, ...] = ()

    def is_frozen(self, path: str) -> bool:
        """Whether the parameter at ``path`` ("/"-separated, without "value") stays as it is."""
        if not any(re.fullmatch(pattern, path) for pattern in self.frozen):
            return False
        return not any(re.fullmatch(pattern, path) for pattern in self.trained)

    def strong(self) -> FreezeConfig:
        """Freeze mode ``strong``: the vision tower is frozen too (Plan-STaR 3, freeze_mode)."""
        return FreezeConfig(frozen=(*self.frozen, STRONG_PATTERN), trained=self.trained)


STRONG_PATTERN = r".*PaliGemma/img.*"


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything a training run takes from its preset.

    ``cameras`` pairs a dataset camera ("cam_high") with a model image key ("base_0_rgb");
    ``delta_mask`` marks the action dimensions that are relative to the current state;
    ``std_floor`` is the smallest standard deviation used to normalize; ``tokenizer`` is what reads
    prompts when no SentencePiece model is given (``sentencepiece``: one must be);
    ``noise_draws_per_sample`` is how many (noise, time) pairs share one pass over a sample's
    pictures and prompt.
    """

    name: str
    model: Pi0Config
    cameras: tuple[tuple[str, str], ...] = (
        ("cam_high", "base_0_rgb"),
        ("cam_left_wrist", "left_wrist_0_rgb"),
        ("cam_right_wrist", "right_wrist_0_rgb"),
    )
    delta_mask: tuple[bool, ...] = (*(True,) * 6, False, *(True,) * 6, False)
    std_floor: float = 0.0
    tokenizer: Literal["byte", "sentencepiece"] = "sentencepiece"
    batch_size: int = 32
    num_train_steps: int = 30_000
    schedule: ScheduleConfig = ScheduleConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    ema_decay: float | None = 0.99
    augmentation: AugmentationConfig = AugmentationConfig()
    noise_draws_per_sample: int = 1
    freeze: FreezeConfig = FreezeConfig()
    fsdp_devices: int = 1
    log_interval: int = 100


OPENPI_AUGMENTATION = AugmentationConfig(
    crop_fraction=0.95,
    rotate_degrees=5.0,
    brightness=0.3,
    contrast=0.4,
    hue=0.1,
)

LORA_FREEZE = FreezeConfig(frozen=(r".*llm.*",), trained=(r".*lora.*",))

_PRESETS = (
    TrainConfig(
        name="pi0_base_aloha_robotwin_lora",
        model=Pi0Config(
            paligemma=GEMMA_VARIANTS["gemma_2b_lora"],
            action_expert=GEMMA_VARIANTS["gemma_300m_lora"],
            vision=SIGLIP_VARIANTS["so400m_14"],
        ),
        augmentation=OPENPI_AUGMENTATION,
        freeze=LORA_FREEZE,
    ),
    TrainConfig(
        name="pi0_base_aloha_robotwin_full",
        model=Pi0Config(
            paligemma=GEMMA_VARIANTS["gemma_2b"],
            action_expert=GEMMA_VARIANTS["gemma_300m"],
            vision=SIGLIP_VARIANTS["so400m_14"],
        ),
        augmentation=OPENPI_AUGMENTATION,
        fsdp_devices=4,
    ),
    TrainConfig(
        name="pi0_tiny_aloha_robotwin",
        model=Pi0Config(
            paligemma=GEMMA_VARIANTS["tiny"],
            action_expert=GEMMA_VARIANTS["tiny_expert"],
            vision=SIGLIP_VARIANTS["tiny"],
            vocabulary=BYTE_VOCABULARY,
            action_dim=16,
            action_horizon=16,
            max_token_len=24,
            image_keys=(BASE_CAMERA,),
            image_size=(72, 96),
            dtype="float32",
            remat=False,
            unroll=True,
        ),
        cameras=(("cam_high", BASE_CAMERA),),
        std_floor=0.08,
        tokenizer="byte",
        batch_size=32,
        num_train_steps=1200,
        schedule=ScheduleConfig(warmup_steps=50, peak_lr=2e-3, decay_steps=1200, decay_lr=2e-5),
        optimizer=OptimizerConfig(weight_decay=1e-4),
        ema_decay=0.99,
        augmentation=AugmentationConfig(shift_px=2, state_noise_rad=0.08),
        noise_draws_per_sample=2,
        log_interval=20,
    ),
)

PRESETS: Mapping[str, TrainConfig] = MappingProxyType({preset.name: preset for preset in _PRESETS})
