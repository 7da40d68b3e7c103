"""One canonical encoding for everything that is sent, hashed or kept: length-prefixed, typed, strict.

    none 0 · false 1 · true 2 · int 3 (8 bytes, two's complement) · float 4 (IEEE 754 double) ·
    text 5 · bytes 6 · array 7 (dtype, dimensions, little-endian data) · list 8 · record 9

Lengths are unsigned 32-bit little-endian; a record is its name and its fields in their declared order.
Equal values have equal bytes and other bytes are refused, so a digest of the bytes is a digest of the
value. The decoder checks every length against what is left before it allocates, allows a depth of 16,
and builds only the frozen dataclasses that are registered for it. NaN and infinities are refused.
"""

from __future__ import annotations

import dataclasses
import hashlib
import math
import struct
import types
import typing
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any, Final, TypeVar, get_args, get_origin, get_type_hints

import numpy as np

from wardround_common.errors import ProtocolError
from wardround_common.typing import DTYPES

_DEPTH: Final = 16
_DTYPES: Final = {1: np.dtype("<f8"), 2: np.dtype("<i8"), 3: np.dtype("<u8")}
_CODES: Final = {dtype: code for code, dtype in _DTYPES.items()}
_U32: Final = struct.Struct("<I")
T = TypeVar("T")


def encode(value: Any) -> bytes:
    """Return the canonical bytes. ProtocolError for a type or number that has none."""
    out = bytearray()
    _encode(value, out, 0)
    return bytes(out)


class Encoded:
    """Base of frozen records that are known by their digest."""

    @cached_property
    def sha256(self) -> str:
        """SHA-256 of the canonical encoding, as hexadecimal digits."""
        return hashlib.sha256(encode(self)).hexdigest()


def _encode(value: Any, out: bytearray, depth: int) -> None:
    if depth > _DEPTH:
        raise ProtocolError("nested too deeply")
    if value is None or isinstance(value, bool):
        out.append(0 if value is None else 2 if value else 1)
    elif isinstance(value, int):
        if not -(2**63) <= value < 2**63:
            raise ProtocolError("an integer needs more than 64 bits")
        out += b"\x03" + value.to_bytes(8, "little", signed=True)
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise ProtocolError("a number is not finite")
        out += b"\x04" + struct.pack("<d", value)
    elif isinstance(value, str):
        try:
            _sized(b"\x05", value.encode(), out)
        except UnicodeEncodeError:
            raise ProtocolError("a text holds half a surrogate pair") from None
    elif isinstance(value, (bytes, bytearray, memoryview)):
        _sized(b"\x06", bytes(value), out)
    elif isinstance(value, np.ndarray):
        _encode_array(value, out)
    elif isinstance(value, (list, tuple)):
        out += b"\x08" + _U32.pack(len(value))
        for item in value:
            _encode(item, out, depth + 1)
    elif dataclasses.is_dataclass(value) and not isinstance(value, type):
        _sized(b"\x09", type(value).__name__.encode(), out)
        fields = dataclasses.fields(value)
        out += _U32.pack(len(fields))
        for field in fields:
            _encode(getattr(value, field.name), out, depth + 1)
    else:
        raise ProtocolError(f"a {type(value).__name__} has no encoding")


def _sized(tag: bytes, data: bytes, out: bytearray) -> None:
    out += tag + _U32.pack(len(data)) + data


def _encode_array(array: np.ndarray[Any, Any], out: bytearray) -> None:
    dtype = array.dtype.newbyteorder("<")
    if dtype not in _CODES:
        raise ProtocolError(f"an array of {array.dtype} has no encoding")
    if dtype.kind == "f" and not np.isfinite(array).all():
        raise ProtocolError("an array holds numbers that are not finite")
    out += bytes((7, _CODES[dtype], array.ndim)) + b"".join(_U32.pack(n) for n in array.shape)
    out += np.ascontiguousarray(array, dtype).tobytes()


class Registry:
    """The record types that a decoder may build, by name."""

    def __init__(self, records: Iterable[type[Any]]) -> None:
        self._records: dict[str, type[Any]] = {}
        for record in records:
            if self._records.setdefault(record.__name__, record) is not record:
                raise ValueError(f"two records are named {record.__name__}")
        self._fields: dict[str, tuple[tuple[str, Callable[[Any], bool]], ...]] = {}

    def decode(self, data: bytes, expected: type[T]) -> T:
        """Return the value that ``data`` encodes. ProtocolError unless it is canonical and as expected."""
        value, end = self._decode(memoryview(data), 0, 0)
        if end != len(data):
            raise ProtocolError(f"{len(data) - end} bytes too many")
        if not _check(typing.cast("Any", expected))(value):
            raise ProtocolError(f"expected {getattr(expected, '__name__', expected)}")
        return typing.cast("T", value)

    def _decode(self, data: memoryview, at: int, depth: int) -> tuple[Any, int]:
        if depth > _DEPTH:
            raise ProtocolError("nested too deeply")
        tag = _take(data, at, 1)[0]
        at += 1
        if tag <= 2:
            return (None, False, True)[tag], at
        if tag == 3:
            return int.from_bytes(_take(data, at, 8), "little", signed=True), at + 8
        if tag == 4:
            number = struct.unpack("<d", _take(data, at, 8))[0]
            if not math.isfinite(number):
                raise ProtocolError("a number is not finite")
            return number, at + 8
        if tag == 7:
            return _decode_array(data, at)
        size = _U32.unpack(_take(data, at, 4))[0]
        at += 4
        if tag == 5:
            return _text(_take(data, at, size)), at + size
        if tag == 6:
            return bytes(_take(data, at, size)), at + size
        if tag == 8:
            return self._items(data, at, size, depth)
        if tag == 9:
            return self._record(data, at, size, depth)
        raise ProtocolError(f"unknown type {tag}")

    def _items(self, data: memoryview, at: int, count: int, depth: int) -> tuple[tuple[Any, ...], int]:
        if count > len(data) - at:  # an item takes a byte at least
            raise ProtocolError("a list announces more than there is")
        items = []
        for _ in range(count):
            item, at = self._decode(data, at, depth + 1)
            items.append(item)
        return tuple(items), at

    def _record(self, data: memoryview, at: int, size: int, depth: int) -> tuple[Any, int]:
        name = _text(_take(data, at, size))
        at += size
        record = self._records.get(name)
        if record is None:
            raise ProtocolError("a record of an unknown type")
        fields = self._fields.get(name)
        if fields is None:
            hints = get_type_hints(record)
            fields = tuple((field.name, _check(hints[field.name])) for field in dataclasses.fields(record))
            self._fields[name] = fields
        count = _U32.unpack(_take(data, at, 4))[0]
        if count != len(fields):
            raise ProtocolError(f"{name}: a record of another version")
        values, at = self._items(data, at + 4, count, depth)
        for (field, fits), value in zip(fields, values, strict=True):
            if not fits(value):
                raise ProtocolError(f"{name}.{field}: wrong type")
        try:
            return record(*values), at
        except ProtocolError:
            raise
        except (ValueError, TypeError, IndexError, OverflowError):
            raise ProtocolError(f"{name}: its fields contradict each other") from None


def _take(data: memoryview, at: int, size: int) -> memoryview:
    if size > len(data) - at:
        raise ProtocolError("truncated")
    return data[at : at + size]


def _text(data: memoryview) -> str:
    try:
        return str(data, "utf-8")
    except UnicodeDecodeError:
        raise ProtocolError("a text is not UTF-8") from None


def _decode_array(data: memoryview, at: int) -> tuple[Any, int]:
    code, dimensions = _take(data, at, 2)
    at += 2
    if code not in _DTYPES or dimensions > 4:
        raise ProtocolError("an array of an unknown kind")
    shape = tuple(_U32.unpack(_take(data, at + 4 * i, 4))[0] for i in range(dimensions))
    at += 4 * dimensions
    if 0 in shape and math.prod(filter(None, shape)) >= 1 << 60:  # beyond what numpy can index
        raise ProtocolError("an array of impossible sides")
    size = math.prod(shape) * 8
    array = np.frombuffer(_take(data, at, size), _DTYPES[code]).reshape(shape)
    if code == 1 and not np.isfinite(array).all():
        raise ProtocolError("an array holds numbers that are not finite")
    return array, at + size


@cache
def _check(hint: Any) -> Callable[[Any], bool]:
    """Return what tells whether a decoded value is what a field's annotation says."""
    if hint is Any:
        return lambda value: True
    if hint in DTYPES:
        dtype = DTYPES[hint]
        return lambda value: isinstance(value, np.ndarray) and value.dtype == dtype
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is types.UnionType or origin is typing.Union:
        choices = [_check(one) for one in arguments]
        return lambda value: any(fits(value) for fits in choices)
    if origin is typing.Literal:
        return lambda value: any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        return _check_tuple(arguments)
    if getattr(hint, "_is_protocol", False):
        return dataclasses.is_dataclass
    if hint is int or hint is float:
        return lambda value: type(value) is hint
    return lambda value: isinstance(hint, type) and isinstance(value, hint)


def _check_tuple(arguments: tuple[Any, ...]) -> Callable[[Any], bool]:
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        each = _check(arguments[0])
        return lambda value: isinstance(value, tuple) and all(map(each, value))
    every = [_check(one) for one in arguments]
    return lambda value: (
        isinstance(value, tuple)
        and len(value) == len(every)
        and all(fits(item) for fits, item in zip(every, value, strict=True))
    )


def joined(*parts: bytes) -> bytes:
    """Return the parts, each behind its length: what is hashed when several things are bound together."""
    return b"".join(_U32.pack(len(part)) + part for part in parts)
