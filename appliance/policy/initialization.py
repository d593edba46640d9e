"""Random parameters to start from, leaf by leaf, in NumPy.

Each leaf has a random stream of its own, named by its path, so that the numbers are the same on
every platform and do not depend on which other leaves there are. Kernels are normal with variance
1 / fan_in (LeCun) in the language model and the projections, uniform with limit
sqrt(6 / (fan_in + fan_out)) (Glorot & Bengio 2010) in the vision transformer; biases and RMSNorm
scales are zero, LayerNorm scales one, adapters and the token table normal with 0.01.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from appliance.policy.config import LoraConfig, Pi0Config
from appliance.policy.parameters import Params, abstract_params, flatten_params, nest_params
from appliance.streams import stream

FloatArray = NDArray[np.float32]
Rule = Callable[[np.random.Generator, tuple[int, ...]], FloatArray]

EMBEDDING_STD = 0.01


def init_params(config: Pi0Config, seed: int) -> Params:
    """Random parameters (float32, NumPy), a function of ``config`` and ``seed`` only."""
    shapes = flatten_params(abstract_params(config))
    return nest_params({path: init_leaf(config, seed, path) for path in shapes})


def init_leaf(config: Pi0Config, seed: int, path: str) -> FloatArray:
    """The leaf at ``path`` of :func:`init_params`, alone. Raises KeyError for an unknown path."""
    shape = tuple(flatten_params(abstract_params(config))[path].shape)
    rule = next(rule for pattern, rule in _rules(config) if re.fullmatch(pattern, path))
    return rule(stream(seed, "init", path), shape)


def _rules(config: Pi0Config) -> tuple[tuple[str, Rule], ...]:
    """(pattern, rule), the first full match decides."""
    vision = config.vision
    lora = (
        config.paligemma.attention_lora or config.paligemma.mlp_lora or LoraConfig(rank=1, alpha=1)
    )
    return (
        (r".*(LayerNorm_\d|encoder_norm)/scale", _constant(1.0)),
        (r".*(bias|scale)", _constant(0.0)),
        (r".*lora_[ab]", _normal(lora.init_std)),
        (r".*/input_embedding", _normal(EMBEDDING_STD)),
        (r".*/pos_embedding", _normal(vision.width**-0.5)),
        (r".*/attn_vec_einsum(_\d+)?/w", _lecun(-3, -2)),
        (r".*/img/Transformer/.*/(query|key|value)/kernel", _glorot((-3,), (-2, -1))),
        (r".*/img/Transformer/.*/out/kernel", _glorot((-3, -2), (-1,))),
        (r".*/img/Transformer/.*/kernel", _glorot((-2,), (-1,))),
        (r".*/img/head/kernel", _constant(0.0) if vision.zero_head else _lecun(-2)),
        (r".*/img/(embedding|stem_\d+)/kernel", _lecun(-4, -3, -2)),
        (r".*", _lecun(-2)),
    )


def _constant(value: float) -> Rule:
    return lambda _, shape: np.full(shape, value, dtype=np.float32)


def _normal(std: float) -> Rule:
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        numbers = generator.standard_normal(shape, dtype=np.float32)
        numbers *= np.float32(std)
        return numbers

    return draw


def _lecun(*fan_in_axes: int) -> Rule:
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        fan_in = math.prod(shape[axis] for axis in fan_in_axes)
        return _normal(fan_in**-0.5)(generator, shape)

    return draw


def _glorot(fan_in_axes: tuple[int, ...], fan_out_axes: tuple[int, ...]) -> Rule:
    def draw(generator: np.random.Generator, shape: tuple[int, ...]) -> FloatArray:
        fan_in = math.prod(shape[axis] for axis in fan_in_axes)
        fan_out = math.prod(shape[axis] for axis in fan_out_axes)
        limit = np.float32(math.sqrt(6.0 / (fan_in + fan_out)))
        numbers = generator.random(shape, dtype=np.float32)
        numbers *= 2 * limit
        numbers -= limit
        return numbers

    return draw
