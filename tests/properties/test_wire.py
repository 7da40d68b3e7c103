"""The wire: a value has one encoding, and bytes that no encoder writes are refused, quickly and calmly."""

from __future__ import annotations

import dataclasses
import struct
import tracemalloc
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from wardround_common.errors import ProtocolError
from wardround_common.messages import MESSAGES
from wardround_common.plan import QUERY_RECORDS
from wardround_common.typing import Floats
from wardround_common.wire import Registry, encode, joined


@dataclass(frozen=True)
class Leaf:
    name: str
    part: Literal["train", "test"]
    weights: Floats


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    pair: tuple[int, float]
    note: bytes | None

    def __post_init__(self) -> None:
        if self.pair[0] < 0:
            raise ValueError("negative")


RECORDS = Registry((Leaf, Tree))
FINITE = st.floats(allow_nan=False, allow_infinity=False)
ARRAYS = st.one_of(
    arrays(np.float64, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3), elements=FINITE),
    arrays(np.int64, array_shapes(min_dims=0, max_dims=2, min_side=0)),
    arrays(np.uint64, array_shapes(min_dims=0, max_dims=2, min_side=0)),
)
LEAVES = st.builds(
    Leaf, st.text(), st.sampled_from(["train", "test"]), arrays(np.float64, 3, elements=FINITE)
)
TREES = st.builds(
    Tree,
    st.lists(LEAVES, max_size=3).map(tuple),
    st.tuples(st.integers(0, 2**63 - 1), FINITE),
    st.none() | st.binary(),
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | FINITE | st.text() | st.binary()
VALUES = st.recursive(
    PLAIN | ARRAYS | TREES, lambda inner: st.lists(inner, max_size=4).map(tuple), max_leaves=8
)


def same(left: Any, right: Any) -> bool:
    """Equality of values, arrays by type, shape and elements."""
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and left.shape == right.shape and bool((left == right).all())
    if isinstance(left, tuple):
        return len(left) == len(right) and all(map(same, left, right))
    if dataclasses.is_dataclass(left):
        names = [field.name for field in dataclasses.fields(left)]
        return type(left) is type(right) and all(same(getattr(left, n), getattr(right, n)) for n in names)
    return type(left) is type(right) and bool(left == right)


@given(VALUES)
def test_what_was_encoded_decodes_to_the_same_value_and_the_same_bytes(value: Any) -> None:
    data = encode(value)
    found = RECORDS.decode(data, object)
    assert same(value, found)
    assert encode(found) == data


@given(VALUES, st.data())
def test_every_truncation_and_extension_is_refused(value: Any, data: st.DataObject) -> None:
    whole = encode(value)
    end = data.draw(st.integers(0, len(whole) - 1))
    with pytest.raises(ProtocolError):
        RECORDS.decode(whole[:end], object)
    with pytest.raises(ProtocolError):
        RECORDS.decode(whole + data.draw(st.binary(min_size=1, max_size=3)), object)


@given(VALUES, st.data())
def test_changed_bytes_are_refused_or_mean_another_value_whose_bytes_they_are(
    value: Any, data: st.DataObject
) -> None:
    changed = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    refused_or_canonical(RECORDS, bytes(changed))


@given(st.binary(max_size=200))
def test_random_bytes_never_raise_anything_but_a_protocol_error(data: bytes) -> None:
    for registry in (RECORDS, MESSAGES, QUERY_RECORDS):
        refused_or_canonical(registry, data)
        for tag in (b"\x07", b"\x08\x01\x00\x00\x00", b"\x09\x04\x00\x00\x00Leaf"):
            refused_or_canonical(registry, tag + data)


def refused_or_canonical(registry: Registry, data: bytes) -> None:
    try:
        value = registry.decode(data, object)
    except ProtocolError:
        return
    assert encode(value) == data


def array_of(dtype: int, *shape: int, data: bytes = b"") -> bytes:
    return bytes((7, dtype, len(shape))) + b"".join(struct.pack("<I", n) for n in shape) + data


def record(name: bytes, fields: int, data: bytes) -> bytes:
    return b"\x09" + struct.pack("<I", len(name)) + name + struct.pack("<I", fields) + data


MOST = 2**32 - 1
REFUSED = {
    "nothing": b"",
    "an unknown tag": b"\x0a\x00\x00\x00\x00",
    "a text that announces 4 GiB": b"\x05" + struct.pack("<I", MOST),
    "bytes that announce 4 GiB": b"\x06" + struct.pack("<I", MOST) + b"x",
    "a list that announces 4 billion items": b"\x08" + struct.pack("<I", MOST),
    "a list of lists that announce more": b"\x08\x01\x00\x00\x00\x08" + struct.pack("<I", MOST),
    "an array that announces 2^64 numbers": array_of(1, MOST, MOST),
    "an array of 2^128 numbers": array_of(2, MOST, MOST, MOST, MOST),
    "an empty array with impossible sides": array_of(2, 0, MOST, MOST, MOST),
    "an array of five dimensions": array_of(1, 1, 1, 1, 1, 1, data=bytes(8)),
    "an array of an unknown type": array_of(4, 1, data=bytes(8)),
    "an array that holds NaN": array_of(1, 1, data=struct.pack("<d", float("nan"))),
    "an array that holds infinity": array_of(1, 1, data=struct.pack("<d", float("-inf"))),
    "NaN": b"\x04" + struct.pack("<d", float("nan")),
    "infinity": b"\x04" + struct.pack("<d", float("inf")),
    "a text that is not UTF-8": b"\x05\x02\x00\x00\x00\xff\xfe",
    "a text with a lone surrogate": b"\x05\x03\x00\x00\x00\xed\xa0\x80",
    "an overlong zero": b"\x05\x02\x00\x00\x00\xc0\x80",
    "a record of an unknown type": record(b"Loft", 0, b""),
    "a record with a field too few": record(b"Leaf", 2, encode("a") + encode("train")),
    "a record with a wrong type": record(b"Leaf", 3, encode("a") + encode("train") + encode(1.0)),
    "a record with another literal": record(b"Leaf", 3, encode("a") + encode("all") + encode(np.ones(1))),
    "a record whose fields contradict": record(b"Tree", 3, encode(()) + encode((-1, 1.0)) + encode(None)),
    "a bool where an int belongs": record(b"Tree", 3, encode(()) + encode((True, 1.0)) + encode(None)),
    "an int where a float belongs": record(b"Tree", 3, encode(()) + encode((1, 1)) + encode(None)),
    "an array of another dtype": record(
        b"Leaf", 3, encode("a") + encode("train") + encode(np.ones(1, np.int64))
    ),
    "lists in lists without end": b"\x08\x01\x00\x00\x00" * 100_000,
    "seventeen lists in lists": b"\x08\x01\x00\x00\x00" * 17 + b"\x00",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_is_refused(data: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError):
            RECORDS.decode(data, object)
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_another_type_than_expected_is_refused() -> None:
    for value, expected in ((1, bool), (True, int), (1, float), ("a", bytes), (None, Tree)):
        with pytest.raises(ProtocolError, match="expected"):
            RECORDS.decode(encode(value), expected)


@pytest.mark.parametrize(
    "value",
    [2**63, -(2**63) - 1, float("nan"), float("inf"), np.array([np.nan]), np.ones(1, np.float32),
     np.ones(1, bool), {"a": 1}, {1}, object(), Tree, "\ud800"],
)  # fmt: skip
def test_a_value_without_an_encoding_is_refused(value: Any) -> None:
    with pytest.raises(ProtocolError):
        encode(value)


def test_the_byte_order_of_an_array_in_memory_does_not_show() -> None:
    values = np.arange(6.0).reshape(2, 3)
    assert encode(values.astype(">f8")) == encode(values) == encode(np.asfortranarray(values))


def test_parts_are_joined_so_that_no_two_lists_of_parts_are_alike() -> None:
    assert joined(b"ab", b"c") != joined(b"a", b"bc") != joined(b"abc")
    assert joined() != joined(b"")


def test_two_records_of_one_name_cannot_share_a_registry() -> None:
    with pytest.raises(ValueError, match="two records are named Leaf"):
        Registry((Leaf, dataclasses.make_dataclass("Leaf", [], frozen=True)))
