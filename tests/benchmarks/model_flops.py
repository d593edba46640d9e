"""Floating-point operations of a pi0 by its matrix products (two a multiply-add).

Recomputed layers (remat), elementwise work and the optimizer are not counted: this is what the
model asks for, the numerator of model FLOP utilization (Chowdhery et al. 2022, appendix B). Back
through a product costs one product for its input and one for its weight where that is trained;
attention's two products have two inputs each.

Letters: T tokens of a stream, S tokens attended to, D width, F mlp width, N heads, H head_dim.
"""

from __future__ import annotations

from dataclasses import dataclass

from appliance.policy.config import GemmaConfig, Pi0Config, SiglipConfig
from appliance.policy.presets import FreezeConfig, TrainConfig

PROBE = "w"
"""A path part that stands for the weights of a stack."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFlops:
    """Operations of one sample.

    ``forward`` in all; of them ``trained`` with trained weights, ``attention`` without weights.
    """

    forward: float = 0.0
    trained: float = 0.0
    attention: float = 0.0

    @property
    def step(self) -> float:
        """Forward and backward of one sample."""
        return 2 * self.forward + self.trained + self.attention

    def __add__(self, other: ModelFlops) -> ModelFlops:
        return ModelFlops(
            forward=self.forward + other.forward,
            trained=self.trained + other.trained,
            attention=self.attention + other.attention,
        )

    def __mul__(self, times: float) -> ModelFlops:
        return ModelFlops(
            forward=self.forward * times,
            trained=self.trained * times,
            attention=self.attention * times,
        )


def weights(multiply_adds: float, *, trained: bool) -> ModelFlops:
    """Products with a weight."""
    return ModelFlops(forward=2 * multiply_adds, trained=2 * multiply_adds if trained else 0.0)


def attend(queries: int, keys: int, width: int) -> ModelFlops:
    """Logits and weighted sum of all heads together."""
    return ModelFlops(forward=4.0 * queries * keys * width, attention=4.0 * queries * keys * width)


def count_step(config: TrainConfig, freeze: FreezeConfig) -> ModelFlops:
    """One training sample of ``config``, its noise draws included."""
    model, draws = config.model, config.noise_draws_per_sample
    return count_prefix(model, freeze) + count_suffix(model, freeze) * draws


def count_prefix(model: Pi0Config, freeze: FreezeConfig) -> ModelFlops:
    """Pictures and prompt through the tower and expert 0."""
    tower = count_tower(model, trained=not freeze.is_frozen(f"PaliGemma/img/{PROBE}"))
    layers = count_layer(model.paligemma, freeze, model.prefix_tokens, model.prefix_tokens)
    return tower * len(model.image_keys) + layers * model.paligemma.depth


def count_suffix(model: Pi0Config, freeze: FreezeConfig) -> ModelFlops:
    """State and noisy actions through their projections and expert 1."""
    tokens, width = 1 + model.action_horizon, model.action_expert.width
    per_action = 2 * model.action_dim * width + 3 * width * width
    ends = weights(
        model.action_horizon * per_action + model.action_dim * width,
        trained=not freeze.is_frozen("action_in_proj/kernel"),
    )
    seen = model.prefix_tokens + tokens
    layers = count_layer(model.action_expert, freeze, tokens, seen)
    return ends + layers * model.action_expert.depth


def count_layer(expert: GemmaConfig, freeze: FreezeConfig, tokens: int, seen: int) -> ModelFlops:
    """One layer of one stream; adapters are always trained."""
    width, heads = expert.width, expert.num_heads * expert.head_dim
    kv = 2 * expert.num_kv_heads * expert.head_dim
    base = width * heads + width * kv + heads * width + 3 * width * expert.mlp_dim
    is_trained = not freeze.is_frozen(f"PaliGemma/llm/layers/{PROBE}")
    adapters = count_adapters(expert, kv) if _has_adapters(expert) else 0.0
    return (
        weights(float(tokens) * base, trained=is_trained)
        + weights(tokens * adapters, trained=True)
        + attend(tokens, seen, heads)
    )


def _has_adapters(expert: GemmaConfig) -> bool:
    return expert.attention_lora is not None or expert.mlp_lora is not None


def count_adapters(expert: GemmaConfig, kv: int) -> float:
    """Multiply-adds of a token's adapters; the attention ones have a rank for every head."""
    width, heads, head_dim = expert.width, expert.num_heads, expert.head_dim
    found = 0.0
    if expert.attention_lora is not None:
        rank = expert.attention_lora.rank
        found += heads * rank * (width + head_dim)  # q
        found += kv // head_dim * rank * (width + head_dim)  # k, v
        found += heads * rank * (head_dim + width)  # output
    if expert.mlp_lora is not None:
        rank = expert.mlp_lora.rank
        found += 3 * rank * (width + expert.mlp_dim)
    return found


def count_tower(model: Pi0Config, *, trained: bool) -> ModelFlops:
    """One picture through the vision tower and its projection."""
    tower, tokens = model.vision, model.image_tokens
    layer = 4 * tower.width**2 + 2 * tower.width * tower.mlp_dim
    ends = count_stem(tower, model.image_size) + tokens * tower.width * model.paligemma.width
    products = weights(ends + tower.depth * tokens * layer, trained=trained)
    return products + attend(tokens, tokens, tower.width) * tower.depth


def count_stem(tower: SiglipConfig, image_size: tuple[int, int]) -> float:
    """Multiply-adds from pixels to tokens."""
    (height, width), channels, found = image_size, 3, 0.0
    for layer in tower.conv_layers if tower.stem == "conv" else ():
        height, width = height // layer.stride, width // layer.stride
        found += height * width * layer.kernel**2 * channels * layer.channels
        channels = layer.channels
    return found + height * width * channels * tower.width
