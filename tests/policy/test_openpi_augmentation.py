"""Augmented pictures and the training loss of one key against openpi's own."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
from numpy.testing import assert_allclose

from appliance.policy.augment import augment_images
from appliance.policy.config import Pi0Config
from appliance.policy.observation import make_observation
from appliance.policy.parameters import bind_model, nest_params
from appliance.policy.presets import OPENPI_AUGMENTATION
from tests.policy.conftest import Reference

HALF_PRECISION = 3e-4  # the reference keeps augmented pictures in float16


def test_augmented_pictures_and_their_loss_agree(
    reference: Reference, reference_config: Pi0Config
) -> None:
    """openpi splits a step's key in three: pictures, noise, time."""
    keys = reference_config.image_keys
    observation = make_observation(
        {
            "image": {key: reference[f"in:image/{key}"] for key in keys},
            "image_mask": {key: reference[f"in:image_mask/{key}"] for key in keys},
            "state": reference["in:state"],
            "tokenized_prompt": reference["in:tokenized_prompt"],
            "tokenized_prompt_mask": reference["in:tokenized_prompt_mask"],
        }
    )
    run_key = jax.random.wrap_key_data(jnp.asarray(reference["rng:key_data"]))
    picture_key, noise_key, time_key = jax.random.split(run_key, 3)
    images = augment_images(picture_key, observation.images, OPENPI_AUGMENTATION)
    for name, image in images.items():
        stored = reference[f"ref:augmented/{name}_every_4th"].astype(np.float32)
        assert_allclose(np.asarray(image)[:, ::4, ::4], stored, atol=HALF_PRECISION, rtol=0)
        plain = np.asarray(observation.images[name])[:, ::4, ::4]
        assert np.abs(plain - stored).max() > 0.1
    actions = jnp.asarray(reference["in:actions"])
    noise = jax.random.normal(noise_key, actions.shape)
    time = jax.random.beta(time_key, 1.5, 1, actions.shape[:1]) * 0.999 + 0.001
    params = nest_params(
        {
            name.removeprefix("param:"): jnp.asarray(array)
            for name, array in reference.items()
            if name.startswith("param:")
        }
    )
    run = jax.jit(
        lambda params, observation: bind_model(reference_config, params).flow_loss(
            observation, actions, noise[None], time[None]
        )
    )
    loss = run(params, replace(observation, images=images))
    assert_allclose(loss, reference["ref:float32/loss_train_true"], atol=1e-4, rtol=0)
