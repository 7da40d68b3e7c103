"""Edits of valid encodings, chosen by bytes: what a fuzzer changes is then what a decoder cares about.

A ``Script`` turns an input into choices. Used up, it chooses 0, which edits nothing more, so the empty
script leaves a message as it is, and a script means the same whatever keys a federation has.
"""

from __future__ import annotations

import dataclasses
import json
import struct
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from wardround_common.errors import ProtocolError
from wardround_common.wire import Registry, encode

Path = tuple[Any, ...]
_INTEGERS = (0, 1, -1, 2, 2**31, 2**53, 2**62, 2**63 - 1, -(2**63), 255, 1000)
_FLOATS = (0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, 1e-12, 0.5, 2.0**63)
_TEXTS = (
    "",
    "x",
    "\0",
    "a" * 2000,
    "'",
    "h00",
    "h99",
    "\N{GRINNING FACE}",
    "logistic",
    "flow",
    "train",
    "test",
)
_LENGTHS = (0, 1, 2, 16, 127, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1)


class Script:
    """Choices that bytes stand for."""

    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 0

    @property
    def is_over(self) -> bool:
        """Whether every further choice is 0."""
        return self._at >= len(self._data)

    def below(self, n: int) -> int:
        """Choose a number below ``n``."""
        size = 1 if n <= 256 else 2 if n <= 1 << 16 else 4
        return int.from_bytes(self.take(size), "little") % n if n else 0

    def take(self, size: int) -> bytes:
        """Choose up to ``size`` bytes."""
        found = self._data[self._at : self._at + size]
        self._at += size
        return found

    def of(self, choices: Sequence[Any]) -> Any:
        """Choose one of several."""
        return choices[self.below(len(choices))]


def edited_bytes(data: bytes, script: Script) -> bytes:
    """Flip, cut, lengthen, repeat, or change what may be a length, at most eight times."""
    out = bytearray(data)
    for _ in range(8):
        if script.is_over:
            break
        way, at = script.below(7), script.below(len(out) + 1)
        if way == 0:
            out[at : at + 1] = script.take(1)
        elif way == 1:
            del out[at:]
        elif way == 2:
            del out[at : at + 1 + script.below(64)]
        elif way == 3:
            out[at:at] = script.take(1 + script.below(16))
        elif way == 4:
            out[at : at + 4] = struct.pack("<I", script.of(_LENGTHS))
        elif way == 5:
            other = script.below(len(out) + 1)
            out[at:at] = out[other : other + 1 + script.below(64)]
        elif at < len(out):
            out[at] ^= 1 << script.below(8)
    return bytes(out)


def edited_record(data: bytes, script: Script, registry: Registry, inner: Sequence[Registry] = ()) -> bytes:
    """Edit a valid encoding by its meaning, then perhaps its bytes.

    ``inner``: of records that stand encoded in fields of bytes.
    """
    value: Any = registry.decode(data, object)
    for _ in range(6):
        if script.is_over:
            break
        if script.below(8) == 7:
            return edited_bytes(data, script)
        value = edited_value(value, script, inner)
        try:
            data = encode(value)
        except ProtocolError:  # such as an integer of more than 64 bits
            break
    return data


def edited_json(data: bytes, script: Script) -> bytes:
    """Edit a JSON text by its meaning, then perhaps its bytes."""
    try:
        value = json.loads(data)
    except ValueError:
        return edited_bytes(data, script)
    for _ in range(6):
        if script.is_over or script.below(8) == 7:
            break
        value = edited_value(value, script)
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=str)
    return edited_bytes(text.encode(errors="replace"), script)


def edited_value(value: Any, script: Script, inner: Sequence[Registry] = ()) -> Any:
    """Return the value with one part of it changed."""
    paths = [path for path, _ in nodes(value)]
    path = script.of(paths)
    if script.below(6) == 5:  # another part of the same message in its place
        return put(value, path, at(value, script.of(paths)))
    return put(value, path, _changed(at(value, path), script, inner))


def nodes(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Yield each part of a value, with the way to it, the whole first."""
    yield path, value
    for key, child in children(value):
        yield from nodes(child, (*path, key))


def children(value: Any) -> list[tuple[Any, Any]]:
    """Return the direct parts of a record, a list or a mapping."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    if isinstance(value, (tuple, list)):
        return list(enumerate(value))
    return list(value.items()) if isinstance(value, dict) else []


def at(value: Any, path: Path) -> Any:
    """Return the part at the end of a way."""
    for key in path:
        value = dict(children(value))[key]
    return value


def put(value: Any, path: Path, part: Any) -> Any:
    """Return the value with another part at the end of a way."""
    if not path:
        return part
    key, child = path[0], put(dict(children(value))[path[0]], path[1:], part)
    if isinstance(value, dict):
        return {**value, key: child}
    if isinstance(value, (tuple, list)):
        return type(value)(child if i == key else one for i, one in enumerate(value))
    # past __post_init__, which is the decoder's to run
    made = object.__new__(type(value))
    for name, one in children(value):
        object.__setattr__(made, name, child if name == key else one)
    return made


def _changed(part: Any, script: Script, inner: Sequence[Registry]) -> Any:
    for kind, change in _CHANGES:
        if isinstance(part, kind):
            return change(part, script)
    if isinstance(part, bytes):
        return _bytes(part, script, inner)
    return script.of((None, 0, "", b"", ()))  # a whole record, or none


def _bytes(part: bytes, script: Script, inner: Sequence[Registry]) -> bytes:
    for registry in inner:
        try:
            registry.decode(part, object)
        except ProtocolError:
            continue
        return edited_record(part, script, registry)
    if part[:1] == b"{" and script.below(4):
        return edited_json(part, script)
    return script.of((edited_bytes(part, script), b"", b"\xff" * len(part), bytes(len(part)), part + part))


def _integer(part: int, script: Script) -> int:
    return script.of((part + 1, part - 1, *_INTEGERS))


def _float(part: float, script: Script) -> float:
    return script.of((part * 2, -part, *_FLOATS))


def _text(part: str, script: Script) -> str:
    if part[:1] == "{" and script.below(4):  # JSON in JSON
        return edited_json(part.encode(), script).decode(errors="replace")
    return script.of((part + "x", part[:-1], part[::-1], *_TEXTS))


def _items(part: Any, script: Script) -> Any:
    i, j = script.below(len(part)), script.below(len(part))
    kind: Callable[[Any], Any] = type(part)
    rest = list(part)
    if not rest:
        return kind([0])
    swapped = rest.copy()
    swapped[i], swapped[j] = rest[j], rest[i]
    ways = (rest[:i] + rest[i + 1 :], [*rest, rest[i]], swapped, [], rest[::-1], rest * 40, rest[: i + 1])
    return kind(script.of(ways))


def _mapping(part: dict[str, Any], script: Script) -> dict[str, Any]:
    key = script.of([*part, ""])
    without = {name: one for name, one in part.items() if name != key}
    return script.of((without, {**part, "x": part.get(key)}, {**without, f"{key}x": part.get(key)}, {}))


def _array(part: np.ndarray[Any, Any], script: Script) -> Any:
    flat = part.reshape(-1).copy()
    i = script.below(max(1, len(flat)))
    if part.dtype.kind == "f":
        most: Any = script.of(_FLOATS)
    else:
        most = np.int64(script.of(_INTEGERS)).astype(part.dtype)
    if script.below(2) and len(flat):
        flat[i] = most
        return flat.reshape(part.shape)
    ways = (
        np.full_like(part, most),
        part[:i] if part.ndim else part,
        part.reshape(-1),
        np.zeros((0, 2**31, 2), part.dtype),
        np.concatenate([flat, flat]),
        flat.view(np.int64 if part.dtype.kind == "f" else np.uint64),
        part[..., None] if part.ndim < 4 else flat,
    )
    return script.of(ways)


_CHANGES: tuple[tuple[Any, Callable[[Any, Script], Any]], ...] = (
    (bool, lambda part, script: not part),
    (int, _integer),
    (float, _float),
    (str, _text),
    ((tuple, list), _items),
    (dict, _mapping),
    (np.ndarray, _array),
)
