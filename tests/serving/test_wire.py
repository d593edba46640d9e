from __future__ import annotations

import contextlib
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.testing import assert_array_equal
from openpi_client import msgpack_numpy

from appliance.serving.wire import WireError, decode, encode

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="="),
    hnp.floating_dtypes(endianness="="),
    hnp.unicode_string_dtypes(endianness="=", max_len=5),
    hnp.byte_string_dtypes(max_len=5),
)
ARRAYS = hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
NUMBERS = st.one_of(
    hnp.from_dtype(np.dtype(np.float32)), hnp.from_dtype(np.dtype(np.int64)), st.just(np.True_)
)
PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), st.text(), st.binary()
)
MESSAGES = st.recursive(
    st.one_of(PLAIN, ARRAYS, NUMBERS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def assert_same(first: Any, second: Any) -> None:
    assert type(first) is type(second)
    if isinstance(first, dict):
        assert list(first) == list(second)
        for key, value in first.items():
            assert_same(value, second[key])
    elif isinstance(first, list):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert_same(one, other)
    elif isinstance(first, np.ndarray):
        assert first.dtype == second.dtype
        assert first.shape == second.shape
        assert first.tobytes() == second.tobytes()
    elif first != second:
        assert first != first
        assert second != second


@given(MESSAGES)
def test_decoding_an_encoded_message_gives_it_back(message: Any) -> None:
    assert_same(decode(encode(message)), message)


@given(MESSAGES)
def test_openpis_client_reads_our_bytes_and_we_read_its(message: Any) -> None:
    assert encode(message) == msgpack_numpy.packb(message)
    assert_same(decode(msgpack_numpy.packb(message)), message)
    assert_same(msgpack_numpy.unpackb(encode(message)), message)


def test_arrays_in_any_memory_order_arrive_the_same() -> None:
    image = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    for array in (image.T, image[:, ::2], np.asfortranarray(image)):
        assert_array_equal(decode(encode({"x": array}))["x"], array)


@pytest.mark.parametrize(
    "value",
    [
        np.array([1j]),
        np.array([object()]),
        np.zeros(2, dtype=[("a", "f4")]),
        np.datetime64("2026-01-01"),
        object(),
        {1, 2},
        2**70,
    ],
)
def test_what_has_no_place_in_a_message_is_refused_when_sending(value: Any) -> None:
    with pytest.raises(WireError, match="cannot be sent"):
        encode({"x": value})


def array_map(**changes: Any) -> bytes:
    value: dict[str, Any] = {"data": bytes(8), "dtype": "<f4", "shape": [2], "__ndarray__": True}
    parts = {key.encode(): item for key, item in {**value, **changes}.items() if item is not ...}
    packed = msgpack.packb({"x": parts})
    assert isinstance(packed, bytes)
    return packed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xc1",
        b"\x81",
        encode({"x": 1})[:-1],
        encode({"x": 1}) + b"\x00",
        b"\x91" * 3000,
        msgpack.packb({1: 2}),
        msgpack.packb({"x": msgpack.ExtType(5, b"abc")})[:-1],
        array_map(shape=[3]),
        array_map(shape=[-1, -2]),
        array_map(shape=[2.0]),
        array_map(shape=[True, 2]),
        array_map(shape=2),
        array_map(shape=[1] * 40 + [2]),
        array_map(shape=[0, 2**63], data=b""),
        array_map(shape=...),
        array_map(data="text"),
        array_map(data=...),
        array_map(dtype="|O"),
        array_map(dtype="|V8"),
        array_map(dtype="f4,f4"),
        array_map(dtype="<f3"),
        array_map(dtype="<M8[s]"),
        array_map(dtype=4),
        array_map(dtype=...),
        array_map(dtype="<U0", shape=[2**62, 2**62], data=b""),
        array_map(dtype="|S0", shape=[2**31 - 1], data=b""),
        array_map(shape=[2**31 - 1, 0], data=b""),
        array_map(shape=[2**10, 2**10, 0], data=b""),
    ],
)
def test_hostile_bytes_are_refused_with_a_clear_error(data: bytes) -> None:
    with pytest.raises(WireError):
        decode(data)


@pytest.mark.parametrize(
    ("dtype", "data"),
    [
        ("|S4", 10**9),  # NumPy's own answer is that many zeros
        ("|S4", 3),
        ("|S4", "text"),
        ("|S4", b"12345"),
        ("|S4", [1, 2]),
        ("<U4", 10**9),
        ("<U4", b"text"),
        ("<U4", "12345"),
        ("<f4", [1, 2, 3]),
        ("<f4", "1.5"),
        ("<f4", 1),
        ("<f4", None),
        ("<i4", "many"),
        ("<i4", 1.0),
        ("<i4", True),
        ("<i1", 1000),
        ("<u1", -1),
        ("|b1", 1),
        ("|b1", "yes"),
        ("|O", 1),
        ("<f4", ...),
    ],
)
def test_a_scalar_of_another_type_or_length_is_refused(dtype: str, data: Any) -> None:
    with pytest.raises(WireError, match=r"is not taken|cannot be"):
        decode(array_map(__ndarray__=..., __npgeneric__=True, shape=..., dtype=dtype, data=data))


@pytest.mark.parametrize(("dtype", "data"), [("|S4", b"ab"), ("<U4", "1234"), ("|b1", False)])
def test_a_scalar_of_its_type_and_length_is_taken(dtype: str, data: Any) -> None:
    message = array_map(__ndarray__=..., __npgeneric__=True, shape=..., dtype=dtype, data=data)
    assert decode(message)["x"] == data


@given(st.binary(max_size=200))
def test_random_bytes_decode_or_are_refused(data: bytes) -> None:
    with contextlib.suppress(WireError):
        decode(data)


@given(MESSAGES, st.data())
def test_changed_bytes_decode_or_are_refused(message: Any, data: st.DataObject) -> None:
    whole = bytearray(encode(message))
    at = data.draw(st.integers(0, len(whole) - 1))
    whole[at] = data.draw(st.integers(0, 255))
    with contextlib.suppress(WireError):
        decode(bytes(whole))
