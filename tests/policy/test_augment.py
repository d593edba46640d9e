from __future__ import annotations

import colorsys
import math
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from appliance.norm_stats.files import NormStats
from appliance.policy.augment import (
    augment_batch,
    bend_contrast,
    build_state_noise,
    crop_and_rotate,
    jitter_colours,
    join_colours,
    shift_image,
    split_colours,
)
from appliance.policy.observation import Observation
from appliance.policy.parameters import make_key
from appliance.policy.presets import OPENPI_AUGMENTATION, PRESETS, AugmentationConfig
from appliance.policy.tokenizer import make_tokenizer
from appliance.policy.transforms import ItemTransform

TINY = PRESETS["pi0_tiny_aloha_robotwin"]
OFF = AugmentationConfig()


def make_image(height: int = 24, width: int = 32) -> jax.Array:
    numbers = np.random.default_rng(0).uniform(-1, 1, (height, width, 3))
    return jnp.asarray(numbers, jnp.float32)


def make_batch(batch: int = 3) -> Observation:
    image = jnp.stack([make_image()] * batch)
    return Observation(
        images={"base_0_rgb": image, "left_wrist_0_rgb": image},
        image_masks={key: jnp.ones(batch, bool) for key in ("base_0_rgb", "left_wrist_0_rgb")},
        state_BxS=jnp.zeros((batch, TINY.model.action_dim)),
        tokenized_prompt_BxL=jnp.ones((batch, 4), jnp.int32),
        tokenized_prompt_mask_BxL=jnp.ones((batch, 4), bool),
    )


def test_without_augmentation_nothing_changes() -> None:
    actions = jnp.ones((3, 16, TINY.model.action_dim))
    observation, same = augment_batch(make_key(0), make_batch(), actions, OFF, None)
    assert_array_equal(same, actions)
    assert_array_equal(observation.images["base_0_rgb"], make_batch().images["base_0_rgb"])


def test_a_shift_moves_the_picture_and_repeats_its_edge() -> None:
    image = make_image()
    seen = set()
    for seed in range(40):
        moved = np.asarray(shift_image(make_key(seed), image, 1))
        padded = np.pad(np.asarray(image), ((1, 1), (1, 1), (0, 0)), mode="edge")
        places = [
            (row, column)
            for row in range(3)
            for column in range(3)
            if (padded[row : row + 24, column : column + 32] == moved).all()
        ]
        assert len(places) == 1
        seen.update(places)
    assert len(seen) == 9


def test_the_same_key_augments_alike_and_each_picture_differently() -> None:
    config = replace(OPENPI_AUGMENTATION, shift_px=2)
    actions = jnp.ones((3, 16, TINY.model.action_dim))
    first, _ = augment_batch(make_key(1), make_batch(), actions, config, None)
    again, _ = augment_batch(make_key(1), make_batch(), actions, config, None)
    for name, images in first.images.items():
        assert_array_equal(images, again.images[name])
        assert np.abs(np.asarray(images[0] - images[1])).max() > 0.01
        assert np.abs(np.asarray(images)).max() <= 1.0 + 1e-5


def test_only_the_base_camera_is_cropped_and_turned() -> None:
    config = replace(OPENPI_AUGMENTATION, brightness=0.0, contrast=0.0, hue=0.0)
    actions = jnp.ones((3, 16, TINY.model.action_dim))
    out, _ = augment_batch(make_key(1), make_batch(), actions, config, None)
    same = make_batch().images["left_wrist_0_rgb"]
    assert_allclose(out.images["left_wrist_0_rgb"], same, atol=1e-6)
    assert np.abs(out.images["base_0_rgb"] - make_batch().images["base_0_rgb"]).max() > 0.01


def test_a_crop_of_everything_without_rotation_is_the_picture_itself() -> None:
    image = make_image()
    assert_allclose(crop_and_rotate(make_key(0), image, 1.0, 0.0), image, atol=1e-5)


def test_a_crop_keeps_its_share_and_stays_inside_where_it_is_not_turned() -> None:
    """The columns of a picture that counts them, after a crop, are crop / size apart."""
    height, width = 20, 40
    columns = jnp.broadcast_to(jnp.arange(width) / width, (height, width))
    image = jnp.stack([columns] * 3, axis=-1)
    for seed in range(10):
        out = np.asarray(crop_and_rotate(make_key(seed), image, 0.9, 0.0))[10, :, 0] * width
        assert_allclose(np.diff(out)[1:-1], 36 / 40, atol=1e-3)
        assert 0 <= out[1] <= out[-2] <= width


def test_a_turned_picture_is_black_where_nothing_is() -> None:
    keys = jax.random.split(make_key(0), 8)
    turn = jax.vmap(lambda key: crop_and_rotate(key, jnp.ones((20, 20, 3)), 1.0, 45.0))
    out = np.asarray(turn(keys))
    assert_allclose(out[:, 10, 10], 1)
    assert out.min() == 0


def test_no_jitter_is_the_picture_itself_and_grey_stays_grey() -> None:
    image = make_image() / 2 + 0.5
    assert_allclose(jitter_colours(make_key(0), image, OFF), image, atol=1e-6)
    grey = jnp.full((4, 4, 3), 0.2)
    outs = [np.asarray(jitter_colours(make_key(s), grey, OPENPI_AUGMENTATION)) for s in range(8)]
    for out in outs:
        assert_allclose(out, np.broadcast_to(out[..., :1], out.shape), atol=1e-6)
    changed = [bool(np.abs(out - 0.2).max() > 1e-4) for out in outs]
    assert 0 < sum(changed) < 8


def test_colours_split_and_join_again() -> None:
    image = jnp.asarray(np.random.default_rng(3).uniform(0, 1, (30, 30, 3)), jnp.float32)
    image = image.at[0].set(0.0).at[1].set(0.4)
    hue, saturation, value = split_colours(image)
    assert_allclose(join_colours(hue, saturation, value), image, atol=1e-6)
    for red, green, blue in ((9, 4, 1), (0, 9, 3), (7, 5, 9), (9, 1, 4)):
        pixel = (red / 9, green / 9, blue / 9)
        found = [float(part[0, 0]) for part in split_colours(jnp.array([[pixel]]))]
        assert_allclose([found[0] % 1, *found[1:]], colorsys.rgb_to_hsv(*pixel), atol=1e-6)


def test_contrast_bends_about_the_middle_and_keeps_the_ends() -> None:
    values = jnp.linspace(0, 1, 101)
    for contrast in (-0.4, -0.1, 1e-4, 0.4):
        bent = np.asarray(bend_contrast(values, jnp.float32(contrast)))
        assert_allclose(bent[[0, 50, 100]], [0, 0.5, 1], atol=1e-6)
        assert_allclose(bent + bent[::-1], 1, atol=1e-5)
        assert (np.diff(bent) > 0).all()
        slope = (bent[51] - bent[49]) / 0.02
        assert slope == pytest.approx(math.tan((contrast + 1) * math.pi / 4), rel=1e-3)


def test_state_noise_leaves_the_absolute_joint_targets_where_they_were(
    norm_stats: NormStats,
) -> None:
    generator = np.random.default_rng(2)
    transform = ItemTransform(config=TINY, norm_stats=norm_stats, tokenizer=make_tokenizer(TINY))
    item = {
        "images": {},
        "state": generator.normal(size=14).astype(np.float32),
        "actions": generator.normal(size=(16, 14)).astype(np.float32),
        "prompt": "",
    }
    out = transform(item)
    observation = replace(make_batch(1), state_BxS=jnp.asarray(out["state"])[None])
    noise = build_state_noise(TINY, norm_stats)
    assert noise is not None
    config = replace(OFF, state_noise_rad=TINY.augmentation.state_noise_rad)
    noisy, actions = augment_batch(
        make_key(0), observation, jnp.asarray(out["actions"])[None], config, noise
    )
    moved = np.asarray(noisy.state_BxS)[0, :14] - out["state"][:14]
    scale = np.maximum(norm_stats.state.std, TINY.std_floor) + 1e-6
    state = (item["state"] + moved * scale).astype(np.float32)
    restored = transform.restore_actions(np.asarray(actions)[0], state)
    assert_allclose(restored, item["actions"], atol=1e-4)
    assert (moved[[6, 13]] == 0).all()
    assert np.abs(moved * scale)[:6].max() > 0.01
    assert (np.asarray(noisy.state_BxS)[0, 14:] == 0).all()


def test_no_state_noise_in_the_preset_means_none(norm_stats: NormStats) -> None:
    assert build_state_noise(replace(TINY, augmentation=OFF), norm_stats) is None
