"""What training does to pictures and states on the device, each function pure in its key.

Full size, as openpi: the base camera is cropped, resized and turned, with one sampling; then the
colours of all cameras are jittered in half of the samples. Formulas, draws and their keys are those
of openpi's augmentation library (augmax), so that a key gives openpi's own pictures. In that
library the jitter acts on hue and value; a saturation jitter is drawn and dropped. Small models:
whole-pixel shifts and noise on the state.

Axes: B batch, Y rows, X columns, C colours, S state, H horizon, A action dims.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import jax
import jax.numpy as jnp
import numpy as np

from appliance.norm_stats.files import NormStats, Stats, take_dims
from appliance.policy.observation import Observation
from appliance.policy.presets import AugmentationConfig, TrainConfig
from appliance.policy.transforms import effective_std

WRIST_MARK = "wrist"
JITTER_PROBABILITY = 0.5
JITTER_KEYS = 5  # brightness, contrast, hue, the saturation that is dropped, and one unused


@jax.tree_util.register_dataclass
@dataclass(frozen=True, slots=True, kw_only=True)
class StateNoise:
    """Standard deviations of the joint noise in normalized units, float32 [A], 0 = no noise."""

    state_A: jax.Array
    action_A: jax.Array


def build_state_noise(config: TrainConfig, norm_stats: NormStats) -> StateNoise | None:
    """The preset's ``state_noise_rad`` in normalized units; None when it is 0."""
    noise_rad = config.augmentation.state_noise_rad
    if noise_rad == 0:
        return None
    mask = np.asarray(config.delta_mask, dtype=bool)

    def scale(stats: Stats) -> jax.Array:
        std = effective_std(take_dims(stats, len(mask)).std, config.std_floor)
        padded = np.zeros(config.model.action_dim, dtype=np.float32)
        padded[: len(mask)] = np.where(mask, noise_rad / std, 0.0)
        return jnp.asarray(padded)

    return StateNoise(state_A=scale(norm_stats.state), action_A=scale(norm_stats.actions))


def augment_batch(
    key: jax.Array,
    observation: Observation,
    actions_BxHxA: jax.Array,
    config: AugmentationConfig,
    state_noise: StateNoise | None,
) -> tuple[Observation, jax.Array]:
    """A training batch, augmented; the same key gives the same batch."""
    image_key, state_key = jax.random.split(key)
    images = observation.images
    if config.shift_px:
        images = shift_images(image_key, images, config.shift_px)
    if config.is_geometric or config.is_jittering:
        images = augment_images(image_key, images, config)
    state = observation.state_BxS
    if state_noise is not None:
        noise = jax.random.normal(state_key, state.shape, jnp.float32)
        state = state + noise * state_noise.state_A
        actions_BxHxA = actions_BxHxA - (noise * state_noise.action_A)[:, None, :]
    return replace(observation, images=images, state_BxS=state), actions_BxHxA


def shift_images(
    key: jax.Array, images: Mapping[str, jax.Array], shift_px: int
) -> dict[str, jax.Array]:
    """Every picture of every camera moved by a shift of its own."""
    shifted = {}
    for index, (name, image) in enumerate(images.items()):
        keys = jax.random.split(jax.random.fold_in(key, index), image.shape[0])

        def shift(key: jax.Array, image: jax.Array) -> jax.Array:
            return shift_image(jax.random.split(key, 3)[0], image, shift_px)

        shifted[name] = jax.vmap(shift)(keys, image)
    return shifted


def augment_images(
    key: jax.Array, images: Mapping[str, jax.Array], config: AugmentationConfig
) -> dict[str, jax.Array]:
    """Openpi's augmentation of pictures in [-1, 1]: the cameras of a sample share their draws."""
    augmented = {}
    for name, image_BxYxXxC in images.items():
        keys = jax.random.split(key, image_BxYxXxC.shape[0])
        is_base = WRIST_MARK not in name

        def augment(key: jax.Array, image: jax.Array, is_base: bool = is_base) -> jax.Array:
            image = image / 2.0 + 0.5
            if is_base and config.is_geometric:
                warp_key, key = jax.random.split(key)
                image = crop_and_rotate(
                    warp_key, image, config.crop_fraction, config.rotate_degrees
                )
            else:
                (key,) = jax.random.split(key, 1)
            if config.is_jittering:
                image = jitter_colours(jax.random.split(key, 1)[0], image, config)
            return image * 2.0 - 1.0

        augmented[name] = jax.vmap(augment)(keys, image_BxYxXxC)
    return augmented


def shift_image(key: jax.Array, image_YxXxC: jax.Array, shift_px: int) -> jax.Array:
    """Move the picture by up to ``shift_px`` whole pixels each way, repeating its edges."""
    margin = ((shift_px, shift_px), (shift_px, shift_px), (0, 0))
    padded = jnp.pad(image_YxXxC, margin, mode="edge")
    row, column = jax.random.randint(key, (2,), 0, 2 * shift_px + 1)
    return jax.lax.dynamic_slice(padded, (row, column, 0), image_YxXxC.shape)


def crop_and_rotate(
    key: jax.Array, image_YxXxC: jax.Array, crop_fraction: float, rotate_degrees: float
) -> jax.Array:
    """A random crop of a picture in [0, 1], resized to the full size and turned about its middle.

    Sampled once, bilinear; black where the turned crop reaches past the picture.
    """
    corner_key, _, angle_key = jax.random.split(key, 3)
    height, width = image_YxXxC.shape[:2]
    crop = np.array([int(height * crop_fraction), int(width * crop_fraction)], np.float32)
    size = np.array([height, width], np.float32)
    room = (size - crop) / 2
    middle = jax.random.uniform(corner_key, (2,), minval=-room, maxval=room)
    limit = math.radians(rotate_degrees)
    angle = jax.random.uniform(angle_key, (), minval=-limit, maxval=limit)
    y, x = jnp.mgrid[0:height, 0:width] - ((size - 1) / 2)[:, None, None]
    scale = crop / size
    rows = (jnp.cos(angle) * y + jnp.sin(angle) * x) * scale[0] + middle[0] + (height - 1) / 2
    columns = (jnp.cos(angle) * x - jnp.sin(angle) * y) * scale[1] + middle[1] + (width - 1) / 2

    def sample(channel_YxX: jax.Array) -> jax.Array:
        sampled: jax.Array = jax.scipy.ndimage.map_coordinates(
            channel_YxX, [rows, columns], order=1, mode="constant", cval=0.0
        )
        return sampled

    return jax.vmap(sample, in_axes=-1, out_axes=-1)(image_YxXxC)


def jitter_colours(key: jax.Array, image_YxXxC: jax.Array, config: AugmentationConfig) -> jax.Array:
    """Brightness, contrast and hue of a picture in [0, 1] moved or, half the time, left alone.

    In hue, saturation, value: brightness b maps a value v to v (1 + b) below 0 and to
    v (1 - b) + b above; contrast bends the value (:func:`bend_contrast`); hue h turns the hue by h
    of the circle. Each amount is uniform within its limit on both sides of 0.
    """
    keys = jax.random.split(key, JITTER_KEYS)
    hue, saturation, value = split_colours(image_YxXxC)
    if config.brightness:
        amount = draw_amount(keys[0], config.brightness)
        value = jnp.where(amount < 0, value * (1 + amount), value * (1 - amount) + amount)
    if config.contrast:
        value = bend_contrast(value, draw_amount(keys[1], config.contrast))
    if config.hue:
        hue = hue + draw_amount(keys[2], config.hue)
    applied = jax.random.bernoulli(key, JITTER_PROBABILITY)
    return jnp.where(applied, join_colours(hue, saturation, value), image_YxXxC)


def draw_amount(key: jax.Array, limit: float) -> jax.Array:
    """Uniform in [-limit, limit)."""
    return jax.random.uniform(key, (), minval=-limit, maxval=limit)


def bend_contrast(value: jax.Array, contrast: jax.Array) -> jax.Array:
    """A broken line about (0.5, 0.5) from (0, 0) to (1, 1).

    Its slope is s = tan((c + 1) pi / 4) in the middle and 1 / s outside; the pieces meet at
    s / (2 (1 + s)) and its mirror image.
    """
    slope = jnp.tan((contrast + 1.0) * (jnp.pi / 4))
    knee = slope / (2 * (1 + slope))
    middle = slope * (value - 0.5) + 0.5
    upper = jnp.where(value > 1 - knee, value / slope + 1 - 1 / slope, middle)
    return jnp.where(value < knee, value / slope, upper)


def split_colours(image_YxXxC: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Hue (1 = the circle), saturation and value [Y, X] of red, green and blue in [0, 1]."""
    value = jnp.max(image_YxXxC, axis=-1)
    spread = value - jnp.min(image_YxXxC, axis=-1)
    largest = jnp.argmax(image_YxXxC, axis=-1)
    others = [
        jnp.take_along_axis(image_YxXxC, ((largest + step) % 3)[..., None], axis=-1)[..., 0]
        for step in (1, 2)
    ]
    is_grey = spread == 0
    offset = (others[0] - others[1]) / jnp.where(is_grey, 1.0, spread)
    hue = jnp.where(is_grey, 0.0, (2 * largest + offset) / 6)
    saturation = jnp.where(value == 0, 0.0, spread / jnp.where(value == 0, 1.0, value))
    return hue, saturation, value


def join_colours(hue: jax.Array, saturation: jax.Array, value: jax.Array) -> jax.Array:
    """The inverse of :func:`split_colours`; [Y, X, 3]."""
    sector = jnp.mod(jnp.array([5.0, 3.0, 1.0]) + hue[..., None] * 6, 6)
    share = jnp.clip(jnp.minimum(sector, 4 - sector), 0, 1)
    return value[..., None] * (1 - saturation[..., None] * share)
