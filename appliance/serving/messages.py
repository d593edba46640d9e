"""What the messages of the policy protocol hold: observations, answers, a server's description.

An observation is openpi's for its Aloha robots, which is RoboTwin's too: ``images`` (camera ->
uint8 [C, Y, X], or [Y, X, C], or floats in 0..1), ``state`` [14] and ``prompt``. An answer holds
``actions`` [H, 14]. Two things are added, which a client of openpi does not send and a server of
openpi does not announce: ``noise`` [H, A], the noise the actions start from, and a batch of
``observations`` in one message. A server announces both in its metadata under ``appliance``.

Axes: B batch, H horizon, A model action dims, S = D = 14 robot dims, Y rows, X columns, C colours.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from appliance.errors import PolicyServerError

PROTOCOL = 1
STATE_DIMS = 14
CAMERAS = ("cam_high", "cam_low", "cam_left_wrist", "cam_right_wrist")
"""The cameras openpi's Aloha policies know; a policy may read fewer."""
MAX_SIDE_PX = 4096
MAX_BATCH = 256

_KEY = "appliance"
_COLOURS = 3


class ObservationError(PolicyServerError):
    """A client's observation is not one the policy can be asked with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerDescription:
    """What a server of this project says of itself on connecting.

    ``noise_shape`` is (H, A); ``cameras`` are those the policy reads, at ``image_size`` (rows,
    columns); ``policy`` names what is served (configuration, checkpoint, digest of its parameters,
    sampling steps), so that a record can.
    """

    noise_shape: tuple[int, int]
    cameras: tuple[str, ...]
    image_size: tuple[int, int]
    max_batch: int = MAX_BATCH
    policy: Mapping[str, Any] = field(default_factory=dict)

    def to_metadata(self) -> dict[str, Any]:
        """The message a server sends first; ``read_description`` is the inverse."""
        return {
            "action_horizon": self.noise_shape[0],
            "action_dim": STATE_DIMS,
            _KEY: {
                "protocol": PROTOCOL,
                "noise_shape": list(self.noise_shape),
                "cameras": list(self.cameras),
                "image_size": list(self.image_size),
                "max_batch": self.max_batch,
                "policy": dict(self.policy),
            },
        }


def read_description(metadata: object) -> ServerDescription | None:
    """The description in a server's first message; None for a server of somebody else's.

    Raises PolicyServerError when the message is no map, or announces what cannot be understood.
    """
    if not isinstance(metadata, Mapping):
        raise PolicyServerError(
            f"The server's first message is a {type(metadata).__name__}, not a map of metadata."
            " It is no policy server of openpi's protocol; check the address."
        )
    if _KEY not in metadata:
        return None
    try:
        part = metadata[_KEY]
        protocol = part["protocol"]
        if protocol == PROTOCOL:
            horizon, dims = (_positive(side) for side in part["noise_shape"])
            rows, columns = (_positive(side) for side in part["image_size"])
            return ServerDescription(
                noise_shape=(horizon, dims),
                cameras=tuple(str(camera) for camera in part["cameras"]),
                image_size=(rows, columns),
                max_batch=_positive(part["max_batch"]),
                policy=dict(part["policy"]),
            )
    except (KeyError, TypeError, ValueError) as error:
        raise PolicyServerError(
            f"The server's metadata cannot be understood ({error!r}). Use the same version of this"
            " program on both sides."
        ) from error
    raise PolicyServerError(
        f"The server speaks version {protocol!r:.40} of this project's protocol, this program"
        f" version {PROTOCOL}. Use the same version on both sides."
    )


def _positive(value: object) -> int:
    if type(value) is not int or not 1 <= value <= MAX_SIDE_PX:
        raise ValueError(f"{value!r:.40} is not a whole number from 1 to {MAX_SIDE_PX}")
    return value


def read_observation(
    message: object, *, cameras: Sequence[str], default_prompt: str | None = None
) -> dict[str, Any]:
    """One observation as the policy takes it: images uint8 [Y, X, 3], state float32 [14], prompt.

    A picture of one of ``cameras``, those the policy reads, is there; it masks the others. Keys the
    policy has no use for are passed over, as openpi's server does. Raises ObservationError naming
    the key, what it holds and what it should.
    """
    if not isinstance(message, Mapping):
        raise ObservationError(
            f"An observation is a map with images, state and prompt, not a {_name(message)}."
        )
    images = message.get("images")
    if not isinstance(images, Mapping):
        raise ObservationError(f"images: a map from camera to picture, not a {_name(images)}.")
    unknown = sorted(str(camera) for camera in images if camera not in CAMERAS)
    if unknown:
        raise ObservationError(
            f"images: no such camera: {', '.join(unknown)[:200]}. There are {', '.join(CAMERAS)}."
        )
    if not any(camera in images for camera in cameras):
        raise ObservationError(
            f"images: no picture of a camera that the policy reads: {', '.join(cameras)}."
        )
    prompt = message.get("prompt", default_prompt)
    if isinstance(prompt, np.str_):
        prompt = str(prompt)
    if not isinstance(prompt, str):
        raise ObservationError(
            f"prompt: text, not a {_name(prompt)}. Send one, or serve with a default prompt."
        )
    return {
        "images": {
            str(camera): read_picture(f"images.{camera}", picture)
            for camera, picture in images.items()
        },
        "state": _read_state(message.get("state")),
        "prompt": prompt,
    }


def read_picture(name: str, value: object) -> NDArray[np.uint8]:
    """A picture as uint8 [Y, X, 3], from [3, Y, X] (openpi's form) or [Y, X, 3].

    A picture that could be either is taken in openpi's form. Floats are in 0..1 and are scaled as
    openpi does. Raises ObservationError.
    """
    if not isinstance(value, np.ndarray) or value.ndim != 3 or _COLOURS not in _ends(value):
        raise ObservationError(
            f"{name}: a picture of shape [3, rows, columns] or [rows, columns, 3], not"
            f" {_shape(value)}."
        )
    picture_YxXxC = np.moveaxis(value, 0, -1) if value.shape[0] == _COLOURS else value
    if not all(1 <= side <= MAX_SIDE_PX for side in picture_YxXxC.shape[:2]):
        raise ObservationError(f"{name}: {_shape(value)}: sides are 1 to {MAX_SIDE_PX} pixels.")
    if picture_YxXxC.dtype.kind == "f":
        if not (np.isfinite(picture_YxXxC).all() and _within_unit(picture_YxXxC)):
            raise ObservationError(f"{name}: a picture of floats has values in 0 to 1.")
        picture_YxXxC = (255 * picture_YxXxC).astype(np.uint8)
    if picture_YxXxC.dtype != np.uint8:
        raise ObservationError(f"{name}: pixels are uint8, not {picture_YxXxC.dtype}.")
    return np.ascontiguousarray(picture_YxXxC)


def _ends(value: NDArray[Any]) -> tuple[int, int]:
    return value.shape[0], value.shape[-1]


def _within_unit(picture: NDArray[Any]) -> bool:
    return bool(picture.min() >= 0 and picture.max() <= 1)


def _read_state(value: object) -> NDArray[np.float32]:
    state = value
    if isinstance(value, list) and all(isinstance(each, int | float) for each in value):
        state = np.asarray(value, dtype=np.float64)
    if not isinstance(state, np.ndarray) or state.shape != (STATE_DIMS,):
        raise ObservationError(f"state: {STATE_DIMS} numbers, not {_shape(state)}.")
    if state.dtype.kind not in "fiu":
        raise ObservationError(f"state: {STATE_DIMS} numbers, not {_shape(state)}.")
    with np.errstate(over="ignore"):
        state_S: NDArray[np.float32] = state.astype(np.float32)
    if not np.isfinite(state_S).all():
        raise ObservationError("state: holds values that are not finite.")
    return state_S


def read_noise(value: object, shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Noise as float32 of ``shape``. Raises ObservationError."""
    if not isinstance(value, np.ndarray) or value.shape != shape or value.dtype.kind != "f":
        raise ObservationError(f"noise: floats of shape {list(shape)}, not {_shape(value)}.")
    noise: NDArray[np.float32] = value.astype(np.float32)
    if not np.isfinite(noise).all():
        raise ObservationError("noise: holds values that are not finite.")
    return noise


def write_picture(picture_YxXxC: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A picture in openpi's form, uint8 [3, Y, X]; ``read_picture`` is the inverse."""
    return np.ascontiguousarray(np.moveaxis(picture_YxXxC, -1, 0))


def _shape(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {list(value.shape)}"
    return f"a {_name(value)}"


def _name(value: object) -> str:
    return "nothing" if value is None else type(value).__name__
