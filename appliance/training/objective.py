"""The policy as training sees it: initial parameters and a scalar loss over flat parameters."""

from __future__ import annotations

import logging
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from appliance.digest import digest_files, sha256_file, tree_digest
from appliance.errors import CheckpointError
from appliance.policy.augment import augment_batch
from appliance.policy.initialization import init_leaf
from appliance.policy.observation import make_observation
from appliance.policy.parameters import (
    abstract_params,
    bind_model,
    flatten_params,
    nest_params,
)
from appliance.policy.presets import FreezeConfig, TrainConfig
from appliance.policy.weights import load_weights
from appliance.training.optimizer import FlatParams
from appliance.training.request import InitialWeights
from appliance.training.step import Batch, LossFunction

logger = logging.getLogger(__name__)

STATE_NOISE = "state_noise"
"""Key of a batch under which the scaled state noise (or None) travels beside the items."""


def stored_type(path: str, freeze: FreezeConfig) -> Any:
    """How the leaf at ``path`` is kept while training: trained float32, frozen bfloat16."""
    return jnp.bfloat16 if freeze.is_frozen(path) else jnp.float32


def initial_params(
    config: TrainConfig, seed: int, freeze: FreezeConfig, init: InitialWeights | None
) -> FlatParams:
    """Random parameters of ``seed``, or given weights with only what they lack drawn.

    NumPy arrays, so that no device need hold all of them. Leaves are converted one by one: the
    loaded and the stored form of large weights are never whole at the same time. Raises
    CheckpointError when the weights are not the ones named or do not fit.
    """
    loaded: dict[str, Any] = {}
    if init is not None:
        check_weights_digest(init)
        loaded = load_weights(init.checkpoint, config.model)
    params: dict[str, Any] = {}
    drawn = 0
    for path in flatten_params(abstract_params(config.model)):
        leaf = loaded.pop(path, None)
        if leaf is None:
            leaf = init_leaf(config.model, seed, path)
            drawn += 1
        params[path] = np.array(leaf, dtype=stored_type(path, freeze))
    if init is not None:
        logger.info(
            "%s: %d parameters start from it, %d at random",
            init.checkpoint,
            len(params) - drawn,
            drawn,
        )
    return params


def check_weights_digest(init: InitialWeights) -> None:
    """Compare a checkpoint with its recorded digest. Raises CheckpointError."""
    path = init.checkpoint
    if not path.exists():
        raise CheckpointError(f"{path}: the checkpoint to start from is missing. Check the path.")
    found = tree_digest(digest_files(path)) if path.is_dir() else sha256_file(path)
    if found != init.sha256:
        raise CheckpointError(
            f"{path}: the checkpoint to start from has digest {found}, but {init.sha256} was"
            " expected. Supply the checkpoint the manifest names, or correct its digest."
        )


def build_loss(config: TrainConfig) -> LossFunction:
    """The pi0 loss of a batch of stacked items, augmentation included, averaged to a scalar."""

    def loss(params: FlatParams, key: jax.Array, batch: Batch) -> jax.Array:
        model = bind_model(config.model, nest_params(params))
        augment_key, flow_key = jax.random.split(key)
        observation, actions = augment_batch(
            augment_key,
            make_observation(batch),
            batch["actions"],
            config.augmentation,
            batch[STATE_NOISE],
        )
        draws = config.noise_draws_per_sample
        return jnp.mean(model.compute_loss(flow_key, observation, actions, noise_draws=draws))

    return loss
