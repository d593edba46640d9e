"""Messages of the policy protocol: msgpack with NumPy arrays, byte-compatible with openpi-client.

An array is a map with the byte keys ``__ndarray__``, ``data`` (C order), ``dtype`` (NumPy's type
string) and ``shape``; a NumPy scalar one with ``__npgeneric__``, ``data``, ``dtype``. Nothing else
is added to msgpack, so a message cannot hold code. What comes in is checked before an array is made
of it: booleans, integers, floats and fixed-length text, of the size its shape says, so that no
short message becomes a large value.

Law: ``decode(encode(x)) == x`` for maps with text keys of such values (tuples come back as lists).
"""

from __future__ import annotations

import math
import re
from typing import Any, TypeGuard

import msgpack
import numpy as np
from numpy.typing import NDArray

from appliance.errors import PolicyServerError

MAX_MESSAGE_BYTES = 64 * 2**20
"""Default bound of one message: a hundred observations with three pictures of 224 x 224."""

_SCALAR_TYPES = {"b": bool, "i": int, "u": int, "f": float, "S": bytes, "U": str}
"""What a NumPy scalar of each kind is sent as (``item()``)."""

_PLAIN_KINDS = "".join(_SCALAR_TYPES)
_DTYPE = re.compile(rf"[<>|=]?[{_PLAIN_KINDS}][0-9]{{1,6}}")
_MAX_DIMS = 32
_MAX_SIDE = 2**31 - 1
_MOST_WITHOUT_BYTES = 2**16
"""Sides of an array that holds no bytes, multiplied (0 as 1): they become that many objects."""


class WireError(PolicyServerError):
    """A message is not one of this protocol."""


def encode(message: Any) -> bytes:
    """The bytes of ``message``. Raises WireError for a value that has no place in a message."""
    try:
        packed: bytes = msgpack.packb(message, default=_to_map)
    except (TypeError, ValueError, OverflowError) as error:
        raise WireError(f"This cannot be sent as a message: {error}.") from error
    return packed


def decode(data: bytes) -> Any:
    """The value of ``data``; its arrays are read-only views of it. Raises WireError."""
    try:
        return msgpack.unpackb(data, object_hook=_from_map)
    except WireError:
        raise
    except (ValueError, TypeError, msgpack.UnpackException) as error:
        raise WireError(
            f"A message of {len(data)} bytes is not msgpack ({error or type(error).__name__})."
        ) from error


def _to_map(value: object) -> dict[bytes, Any]:
    if isinstance(value, np.ndarray | np.generic):
        if value.dtype.kind not in _PLAIN_KINDS:
            raise TypeError(f"an array of type {value.dtype}")
        if isinstance(value, np.ndarray):
            return {
                b"__ndarray__": True,
                b"data": value.tobytes(),
                b"dtype": value.dtype.str,
                b"shape": value.shape,
            }
        return {b"__npgeneric__": True, b"data": value.item(), b"dtype": value.dtype.str}
    raise TypeError(f"a {type(value).__name__}")


def _from_map(value: dict[Any, Any]) -> Any:
    if b"__ndarray__" in value:
        return _read_array(value)
    if b"__npgeneric__" in value:
        return _read_scalar(value)
    return value


def _read_array(value: dict[Any, Any]) -> NDArray[Any]:
    dtype, data, shape = _read_dtype(value), value.get(b"data"), value.get(b"shape")
    if not isinstance(data, bytes) or not _is_shape(shape):
        raise WireError(
            f"An array of type {dtype.str} needs bytes and a shape, not {shape!r:.100}."
        )
    if math.prod(shape) * dtype.itemsize != len(data):
        raise WireError(
            f"An array of type {dtype.str} and shape {shape!r:.100} holds {len(data)} bytes."
        )
    if not data and math.prod(max(side, 1) for side in shape) > _MOST_WITHOUT_BYTES:
        raise WireError(f"An array of shape {shape!r:.100} is too large to hold no bytes.")
    try:
        return np.ndarray(buffer=data, dtype=dtype, shape=tuple(shape))
    except ValueError as error:
        raise WireError(f"An array of shape {shape!r:.100}: {error}.") from error


def _is_shape(value: object) -> TypeGuard[list[int]]:
    return (
        isinstance(value, list)
        and len(value) <= _MAX_DIMS
        and all(type(side) is int and 0 <= side <= _MAX_SIDE for side in value)
        and math.prod(value) <= _MAX_SIDE
    )


def _read_scalar(value: dict[Any, Any]) -> Any:
    dtype, data = _read_dtype(value), value.get(b"data")
    try:
        # NumPy makes zeros of a length, an array of a list and a number of a text.
        if type(data) is _SCALAR_TYPES[dtype.kind] and _size_bytes(data) <= dtype.itemsize:
            return dtype.type(data)
    except (TypeError, ValueError, OverflowError):
        pass
    shown = repr(data) if isinstance(data, bool | int | float) else f"a {type(data).__name__}"
    raise WireError(f"A value of type {dtype.str} cannot be {shown}.")


def _size_bytes(data: object) -> int:
    """What a text of a fixed-length type takes; 0 for a number, whose type bounds it."""
    if isinstance(data, str):
        return len(data) * np.dtype("U1").itemsize
    return len(data) if isinstance(data, bytes) else 0


def _read_dtype(value: dict[Any, Any]) -> np.dtype[Any]:
    name = value.get(b"dtype")
    try:
        if isinstance(name, str) and _DTYPE.fullmatch(name):
            return np.dtype(name)
    except TypeError:
        pass
    raise WireError(f"An array of type {name!r:.100} is not taken: numbers and text only.")
