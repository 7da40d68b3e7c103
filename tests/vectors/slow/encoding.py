"""The canonical encoding and J() of PROTOCOL.md, section 1. Arrays are tuples of numbers with their shape."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

MOST_DEPTH = 16
MOST_SIDES = 2**60  # what the other sides of an empty array multiply to is below
_ARRAYS = {1: "d", 2: "q", 3: "Q"}

# The fields of each record, in order.
FIELDS = {
    "Member": "name runtime identity masking signature",
    "Roster": "study members",
    "Membership": "analysis abstaining",
    "Epoch": "binding number hospitals analyses previous steps head audits",
    "Opening": "signatures leaves audits",
    "EpochRecord": "epoch opening",
    "Opened": "analysis index question vector proof",
    "StepRecord": "epoch sums",
    "Invitation": "manifest",
    "Entry": "member",
    "RosterProposal": "roster",
    "Seen": "hospital audit epoch leave signature",
    "Approval": "signature analyses number records audit seen",
    "EpochProposal": "epoch audits",
    "EpochSignature": "signature leave audit wrapped",
    "Question": "analysis index kind digest asked",
    "Step": "binding epoch first course wrapped questions",
    "Answer": "analysis index sealed",
    "Answers": "answers",
    "Behind": "records",
    "StatementRequest": "binding epoch analysis",
    "Statement": "analysis rows auc",
    "Refusal": "code",
}


class Malformed(Exception):
    """Bytes that encode nothing."""


@dataclass(frozen=True)
class Record:
    """A record of any kind: ``record["field"]`` for the kinds above."""

    name: str
    values: tuple[Any, ...]

    def __getitem__(self, field: str) -> Any:
        return self.values[FIELDS[self.name].split().index(field)]


@dataclass(frozen=True)
class Array:
    """``kind``: 1 float64, 2 int64, 3 uint64."""

    kind: int
    shape: tuple[int, ...]
    values: tuple[Any, ...]


def record(name: str, /, **values: Any) -> Record:
    """Return a record of one of the kinds above."""
    assert list(values) == FIELDS[name].split(), name
    return Record(name, tuple(values.values()))


def u32(number: int) -> bytes:
    """Return 4 bytes, little-endian."""
    return struct.pack("<I", number)


def u64(number: int) -> bytes:
    """Return 8 bytes, little-endian."""
    return struct.pack("<Q", number)


def joined(*parts: bytes | str) -> bytes:
    """Return J(...)."""
    data = [part.encode() if isinstance(part, str) else part for part in parts]
    return b"".join(u32(len(part)) + part for part in data)


def encode(value: Any) -> bytes:
    """Return E(value)."""
    if value is None or value is False or value is True:
        return {None: b"\0", False: b"\1", True: b"\2"}[value]
    if isinstance(value, int):
        return b"\x03" + struct.pack("<q", value)
    if isinstance(value, float):
        if not math.isfinite(value):
            raise Malformed("not finite")
        return b"\x04" + struct.pack("<d", value)
    if isinstance(value, str):
        return b"\x05" + joined(value)
    if isinstance(value, bytes):
        return b"\x06" + joined(value)
    if isinstance(value, Array):
        sides = b"".join(map(u32, value.shape))
        data = struct.pack(f"<{len(value.values)}{_ARRAYS[value.kind]}", *value.values)
        return bytes((7, value.kind, len(value.shape))) + sides + data
    if isinstance(value, tuple):
        return b"\x08" + u32(len(value)) + b"".join(map(encode, value))
    if isinstance(value, Record):
        return b"\x09" + joined(value.name) + u32(len(value.values)) + b"".join(map(encode, value.values))
    raise TypeError(type(value))


def decode(data: bytes) -> Any:
    """Return the value of canonical bytes. Malformed for all others."""
    value, rest = _decode(data, 0)
    if rest:
        raise Malformed("bytes behind the value")
    return value


def _cut(data: bytes, size: int) -> tuple[bytes, bytes]:
    if size > len(data):
        raise Malformed("truncated")
    return data[:size], data[size:]


def _number(data: bytes, form: str) -> tuple[Any, bytes]:
    head, rest = _cut(data, struct.calcsize(form))
    return struct.unpack(form, head)[0], rest


def _text(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        raise Malformed("no UTF-8") from None


def _decode(data: bytes, depth: int) -> tuple[Any, bytes]:
    if depth > MOST_DEPTH:
        raise Malformed("nested too deeply")
    tag, rest = _number(data, "B")
    if tag <= 2:
        return (None, False, True)[tag], rest
    if tag == 3:
        return _number(rest, "<q")
    if tag == 4:
        number, rest = _number(rest, "<d")
        if not math.isfinite(number):
            raise Malformed("not finite")
        return number, rest
    if tag == 7:
        return _array(rest)
    size, rest = _number(rest, "<I")
    if tag == 8:
        return _items(rest, size, depth)
    if tag not in (5, 6, 9):
        raise Malformed("an unknown tag")
    head, rest = _cut(rest, size)
    if tag == 6:
        return head, rest
    if tag == 5:
        return _text(head), rest
    name = _text(head)
    count, rest = _number(rest, "<I")
    values, rest = _items(rest, count, depth)
    if name not in FIELDS or len(values) != len(FIELDS[name].split()):
        raise Malformed("an unknown record")
    return Record(name, values), rest


def _items(data: bytes, count: int, depth: int) -> tuple[tuple[Any, ...], bytes]:
    if count > len(data):
        raise Malformed("truncated")
    items = []
    for _ in range(count):
        item, data = _decode(data, depth + 1)
        items.append(item)
    return tuple(items), data


def _array(data: bytes) -> tuple[Array, bytes]:
    kind, rest = _number(data, "B")
    dimensions, rest = _number(rest, "B")
    if kind not in _ARRAYS or dimensions > 4:
        raise Malformed("an unknown array")
    sides, rest = _cut(rest, 4 * dimensions)
    shape = struct.unpack(f"<{dimensions}I", sides)
    if 0 in shape and math.prod(side for side in shape if side) >= MOST_SIDES:
        raise Malformed("impossible sides")
    body, rest = _cut(rest, 8 * math.prod(shape))
    values = struct.unpack(f"<{math.prod(shape)}{_ARRAYS[kind]}", body)
    if kind == 1 and not all(map(math.isfinite, values)):
        raise Malformed("not finite")
    return Array(kind, shape, values), rest
