"""A trained policy as a function from observations to robot actions.

The result depends on the observations, the parameters and the noise given, and on nothing else; the
noise is the caller's, so that an evaluation is a function of its seeds.

Axes: B batch, H horizon, A model action dims, R robot action dims.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from appliance.norm_stats.files import NormStats
from appliance.policy.checkpoint import load_params
from appliance.policy.config import Pi0Config
from appliance.policy.observation import make_observation
from appliance.policy.parameters import Params, abstract_params, bind_model
from appliance.policy.presets import TrainConfig
from appliance.policy.tokenizer import Tokenizer, make_tokenizer
from appliance.policy.transforms import ItemTransform, stack_items


@functools.partial(jax.jit, static_argnames=("config", "sampling_steps"))
def sample(
    params: Params,
    batch: Mapping[str, Any],
    noise_BxHxA: jax.Array,
    *,
    config: Pi0Config,
    sampling_steps: int,
) -> jax.Array:
    """Model-space actions [B, H, A] of a stacked batch; compiled once per shape."""
    model = bind_model(config, params)
    return model.sample_actions(
        None, make_observation(batch), num_steps=sampling_steps, noise=noise_BxHxA
    )


class Policy:
    """Parameters with everything around them that turns observations into robot actions."""

    def __init__(
        self,
        params: Params,
        config: TrainConfig,
        norm_stats: NormStats,
        *,
        sampling_steps: int = 10,
        tokenizer: Tokenizer | None = None,
    ) -> None:
        self.config = config
        self.sampling_steps = sampling_steps
        self._params = jax.tree.map(jnp.asarray, params)
        self._transform = ItemTransform(
            config=config,
            norm_stats=norm_stats,
            tokenizer=tokenizer if tokenizer is not None else make_tokenizer(config),
        )

    @property
    def tokenizer_name(self) -> str:
        """What reads the prompts (``Tokenizer.name``)."""
        return self._transform.tokenizer.name

    @property
    def noise_shape(self) -> tuple[int, int]:
        """(H, A): the shape of one observation's noise."""
        return self.config.model.action_horizon, self.config.model.action_dim

    def infer(
        self, observations: Sequence[Mapping[str, Any]], noise_BxHxA: NDArray[np.float32]
    ) -> NDArray[np.float32]:
        """Absolute robot actions, float32 [B, H, 14].

        An observation has ``images`` (dataset camera -> uint8 [Y, X, 3]), ``state`` float32 [14]
        and ``prompt``. Noise is standard normal, float32 [B, H, A] (:attr:`noise_shape`).
        """
        expected = (len(observations), *self.noise_shape)
        if noise_BxHxA.shape != expected:
            raise ValueError(f"noise of shape {noise_BxHxA.shape} instead of {expected}")
        batch = stack_items([self._transform(observation) for observation in observations])
        output = sample(
            self._params,
            batch,
            jnp.asarray(noise_BxHxA, jnp.float32),
            config=self.config.model,
            sampling_steps=self.sampling_steps,
        )
        states = np.stack([np.asarray(item["state"], np.float32) for item in observations])
        return self._transform.restore_actions(np.asarray(output), states)


def load_policy(
    params_dir: Path,
    config: TrainConfig,
    norm_stats: NormStats,
    *,
    sampling_steps: int = 10,
    tokenizer: Tokenizer | None = None,
) -> Policy:
    """The policy whose parameters lie in ``params_dir``. Raises CheckpointError."""
    params = load_params(params_dir, abstract_params(config.model))
    return Policy(params, config, norm_stats, sampling_steps=sampling_steps, tokenizer=tokenizer)
