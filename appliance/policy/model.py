"""pi0: flow matching over action chunks with a vision-language prefix (Black et al. 2024).

One code path for all sizes. The prefix (pictures, prompt) never looks at the suffix (state,
actions), so it is run once and its keys and values serve every suffix pass: all Euler steps of
sampling and all noise draws of training.

Axes: B batch, T tokens, S state, A action dims, H horizon, D width.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from appliance.policy.config import Pi0Config
from appliance.policy.gemma import Gemma, KeyValueCache
from appliance.policy.layers import Linear
from appliance.policy.observation import Observation
from appliance.policy.siglip import Siglip

TIME_PERIODS = (4e-3, 4.0)
TIME_ALPHA = 1.5
DTYPES: dict[str, Any] = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def make_attention_mask(valid_BxT: jax.Array, starts_T: jax.Array) -> jax.Array:
    """Boolean [B, T, T]: token i sees j iff j's block is not later than i's and both are valid.

    ``starts_T`` is True where a new block of mutually visible tokens starts.
    """
    blocks = jnp.cumsum(starts_T.astype(jnp.int32))
    visible = blocks[None, :] <= blocks[:, None]
    return visible[None] & valid_BxT[:, None, :] & valid_BxT[:, :, None]


def embed_time(time_B: jax.Array, width: int) -> jax.Array:
    """Sine then cosine of 2 pi t over geometric periods from 4e-3 to 4; float32 [B, width]."""
    shortest, longest = TIME_PERIODS
    fraction = jnp.linspace(0.0, 1.0, width // 2, dtype=jnp.float32)
    period = shortest * (longest / shortest) ** fraction
    angles = time_B.astype(jnp.float32)[:, None] * (2.0 * jnp.pi / period)[None, :]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)


def draw_times(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Times ~ Beta(1.5, 1) * .999 + .001, float32; U^(1/a) is Beta(a, 1) for uniform U."""
    uniform = jax.random.uniform(key, shape, jnp.float32)
    return uniform ** (1.0 / TIME_ALPHA) * 0.999 + 0.001


class PaliGemma(nnx.Module):
    """The vision tower and the Gemma mixture, under the names of the checkpoints."""

    def __init__(self, config: Pi0Config) -> None:
        dtype = DTYPES[config.dtype]
        self.llm = Gemma(
            (config.paligemma, config.action_expert),
            config.vocabulary,
            dtype=dtype,
            remat=config.remat,
            unroll=config.unroll,
        )
        self.img = Siglip(
            config.vision,
            config.image_size,
            config.paligemma.width,
            dtype=dtype,
            remat=config.remat,
            unroll=config.unroll,
        )


class Pi0(nnx.Module):
    """The policy. Parameter paths and shapes are those of openpi for openpi's variants.

    The constructor only declares parameters (all zero); use it under ``nnx.eval_shape`` or through
    ``parameters.bind_model``.
    """

    def __init__(self, config: Pi0Config) -> None:
        self.config = config
        width = config.action_expert.width
        self.PaliGemma = PaliGemma(config)
        self.state_proj = Linear(config.action_dim, width)
        self.action_in_proj = Linear(config.action_dim, width)
        self.action_time_mlp_in = Linear(2 * width, width)
        self.action_time_mlp_out = Linear(width, width)
        self.action_out_proj = Linear(width, config.action_dim)

    def embed_prefix(self, observation: Observation) -> tuple[jax.Array, jax.Array]:
        """Tokens [B, T, D] of pictures and prompt, in the compute type, and which are valid."""
        tokens, valid = [], []
        for key in self.config.image_keys:
            image_tokens = self.PaliGemma.img(observation.images[key])
            mask_B = observation.image_masks[key]
            tokens.append(image_tokens)
            valid.append(jnp.broadcast_to(mask_B[:, None], image_tokens.shape[:2]))
        tokens.append(self.PaliGemma.llm.embed(observation.tokenized_prompt_BxL))
        valid.append(observation.tokenized_prompt_mask_BxL)
        return jnp.concatenate(tokens, axis=1), jnp.concatenate(valid, axis=1)

    def embed_suffix(
        self, state_BxS: jax.Array, noisy_BxHxA: jax.Array, time_B: jax.Array
    ) -> jax.Array:
        """Tokens [B, 1 + H, D] of the state and the noisy actions, in float32."""
        state = self.state_proj(state_BxS)[:, None, :]
        actions = self.action_in_proj(noisy_BxHxA)
        time = embed_time(time_B, actions.shape[-1])
        time = jnp.broadcast_to(time[:, None, :], actions.shape)
        mixed = self.action_time_mlp_in(jnp.concatenate([actions, time], axis=-1))
        mixed = self.action_time_mlp_out(nnx.swish(mixed))
        return jnp.concatenate([state, mixed], axis=1)

    def run_prefix(self, observation: Observation) -> tuple[KeyValueCache, jax.Array]:
        """Keys and values of the prefix in every layer, and which of its tokens are valid."""
        tokens, valid_BxT = self.embed_prefix(observation)
        mask = make_attention_mask(valid_BxT, jnp.zeros(valid_BxT.shape[1], bool))
        positions = jnp.cumsum(valid_BxT, axis=1) - 1
        _, cache = self.PaliGemma.llm((tokens, None), positions, mask, keep_cache=True)
        assert cache is not None
        return cache, valid_BxT

    def predict_velocity(
        self,
        cache: KeyValueCache,
        prefix_valid_BxT: jax.Array,
        state_BxS: jax.Array,
        noisy_BxHxA: jax.Array,
        time_B: jax.Array,
    ) -> jax.Array:
        """The velocity field at ``noisy`` actions and ``time``; float32 [B, H, A]."""
        tokens = self.embed_suffix(state_BxS, noisy_BxHxA, time_B)
        batch, length = tokens.shape[:2]
        starts = jnp.arange(length) < 2  # state, then all actions as one block
        own = make_attention_mask(jnp.ones((batch, length), bool), starts)
        past = jnp.broadcast_to(
            prefix_valid_BxT[:, None, :], (batch, length, prefix_valid_BxT.shape[1])
        )
        seen = jnp.sum(prefix_valid_BxT, axis=1, keepdims=True)
        positions = seen + jnp.arange(length)[None, :]
        mask = jnp.concatenate([past, own], axis=-1)
        outputs, _ = self.PaliGemma.llm((None, tokens), positions, mask, cache)
        suffix = outputs[1]
        assert suffix is not None
        return self.action_out_proj(suffix[:, -self.config.action_horizon :])

    def flow_loss(
        self,
        observation: Observation,
        actions_BxHxA: jax.Array,
        noise_KxBxHxA: jax.Array,
        time_KxB: jax.Array,
    ) -> jax.Array:
        """Squared velocity error [B, H], averaged over action dims and the K draws given.

        x_t = t * noise + (1 - t) * actions, target = noise - actions (Black et al. 2024, eq. 1;
        time runs from 1 = noise to 0 = actions here, as in openpi).
        """
        draws, batch = time_KxB.shape
        cache, valid = self.run_prefix(observation)
        if draws > 1:
            cache = KeyValueCache(*(jnp.tile(x, (1, draws, 1, 1, 1)) for x in cache))
            valid = jnp.tile(valid, (draws, 1))
        state = jnp.tile(observation.state_BxS, (draws, 1))
        time = time_KxB[:, :, None, None]
        noisy = time * noise_KxBxHxA + (1.0 - time) * actions_BxHxA
        target = noise_KxBxHxA - actions_BxHxA
        velocity = self.predict_velocity(
            cache,
            valid,
            state,
            noisy.reshape(draws * batch, *noisy.shape[2:]),
            time_KxB.reshape(-1),
        )
        error = velocity.reshape(target.shape) - target
        return jnp.mean(jnp.square(error), axis=(0, -1))

    def compute_loss(
        self,
        key: jax.Array,
        observation: Observation,
        actions_BxHxA: jax.Array,
        *,
        noise_draws: int = 1,
    ) -> jax.Array:
        """The flow-matching loss [B, H] with noise ~ N(0, 1) and t ~ Beta(1.5, 1) * .999 + .001.

        ``noise_draws`` pairs of noise and time are drawn for each sample and averaged.
        """
        noise_key, time_key = jax.random.split(key)
        shape = (noise_draws, *actions_BxHxA.shape)
        noise = jax.random.normal(noise_key, shape, jnp.float32)
        return self.flow_loss(observation, actions_BxHxA, noise, draw_times(time_key, shape[:2]))

    def sample_actions(
        self,
        key: jax.Array | None,
        observation: Observation,
        *,
        num_steps: int = 10,
        noise: jax.Array | None = None,
    ) -> jax.Array:
        """Actions [B, H, A] by Euler steps from noise (t = 1) to actions (t = 0).

        ``noise`` is drawn from ``key`` when not given; the prefix is computed once.
        """
        config = self.config
        if noise is None:
            assert key is not None, "sample_actions needs a key or the noise itself"
            shape = (observation.state_BxS.shape[0], config.action_horizon, config.action_dim)
            noise = jax.random.normal(key, shape, jnp.float32)
        cache, valid = self.run_prefix(observation)
        step = 1.0 / num_steps

        def euler(actions: jax.Array, index: jax.Array) -> tuple[jax.Array, None]:
            time = jnp.full(actions.shape[:1], 1.0 - index * step, jnp.float32)
            velocity = self.predict_velocity(cache, valid, observation.state_BxS, actions, time)
            return actions - step * velocity, None

        actions, _ = jax.lax.scan(euler, noise, jnp.arange(num_steps, dtype=jnp.float32))
        return actions
