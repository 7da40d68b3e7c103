"""Values with their canonical bytes, and bytes that encode nothing."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np

from wardround_common.messages import Behind, Refusal, Seen
from wardround_common.wire import encode

_INT = encode(1)
_DEEP = b"\x08\1\0\0\0"  # a list of one item


def _empty(*sides: int) -> bytes:
    return bytes((7, 1, len(sides))) + struct.pack(f"<{len(sides)}I", *sides)


VALUES: dict[str, Any] = {
    "nothing": None,
    "false": False,
    "true": True,
    "the integer 1, which is not true": 1,
    "the least integer": -(2**63),
    "the greatest integer": 2**63 - 1,
    "a float that is whole": 1.0,
    "minus nought, whose bytes are not those of nought": -0.0,
    "the least float above nought": 5e-324,
    "a text, in UTF-8": "caf\u00e9 \U00010400",
    "bytes": b"\0\xff",
    "an empty list": (),
    "a list of lists": ((1, "a"), (), None),
    "an array of floats": np.array([[1.5, -2.0, 0.0]]),
    "an array of integers": np.array([-(2**63), 2**63 - 1]),
    "an array of words": np.array([[2**64 - 1], [0]], np.uint64),
    "an array of no dimension": np.array(7),
    "an array without numbers": np.zeros((2, 0)),
    "an array without numbers whose other sides multiply to 2^59": np.zeros((2**30, 0, 2**29), np.int64),
    "a record": Behind(3),
    "a record with records": (Seen("avon", b"\1", b"\2", "allow", b"\3"), Refusal("protocol")),
    "lists that are nested 16 deep": (((((((((((((((((),),),),),),),),),),),),),),),),),
}
REFUSED: dict[str, bytes] = {
    "no byte": b"",
    "an unknown tag": b"\x0a",
    "an integer cut off": _INT[:-1],
    "a byte behind the value": _INT + b"\0",
    "a float that is not a number": b"\x04" + struct.pack("<d", float("nan")),
    "an infinite float": b"\x04" + struct.pack("<d", float("inf")),
    "a text that is not UTF-8": b"\x05\1\0\0\0\xff",
    "a text with half a surrogate pair": b"\x05\3\0\0\0\xed\xa0\x80",
    "a text longer than there is": b"\x05\2\0\0\0a",
    "a list that announces more than there is": b"\x08\xff\xff\xff\xff" + _INT,
    "an array of an unknown kind": b"\x07\4\1\0\0\0\0",
    "an array of five dimensions": b"\x07\1\5" + bytes(20),
    "an array of infinite floats": b"\x07\1\1\1\0\0\0" + struct.pack("<d", float("-inf")),
    "an array without numbers whose other sides multiply to 2^60": _empty(2**30, 2**30, 0),
    "an array without numbers whose other sides multiply to 2^64": _empty(0, 2**31, 2**31, 4),
    "an array longer than there is": b"\x07\2\1\2\0\0\0" + bytes(8),
    "a record with a field too few": b"\x09\6\0\0\0Behind\0\0\0\0",
    "a record with a field too many": b"\x09\6\0\0\0Behind\2\0\0\0" + 2 * _INT,
    "a record that there is not": b"\x09\7\0\0\0Nothing\1\0\0\0" + _INT,
    "lists that are nested 17 deep": 17 * _DEEP + b"\x08\0\0\0\0",
}


def shown(value: Any) -> Any:
    """Return a value as JSON that names each type; floats as C writes them in hexadecimal."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return {"int": str(value)}
    if isinstance(value, float):
        return {"float": value.hex()}
    if isinstance(value, str):
        return {"text": value}
    if isinstance(value, bytes):
        return {"bytes": value.hex()}
    if isinstance(value, tuple):
        return {"list": [shown(one) for one in value]}
    if isinstance(value, np.ndarray):
        kind = {"f": 1, "i": 2, "u": 3}[value.dtype.kind]
        each = [one.hex() if kind == 1 else str(one) for one in value.reshape(-1).tolist()]
        return {"array": kind, "shape": list(value.shape), "values": " ".join(each)}
    return {"record": type(value).__name__, "fields": [shown(one) for one in vars(value).values()]}


def encodings() -> dict[str, Any]:
    """Return all of them."""
    return {
        "about": "The canonical encoding; PROTOCOL.md, section 1. An array: 1 float64, 2 int64, 3 uint64.",
        "values": [
            {"what": what, "value": shown(one), "bytes": encode(one).hex()} for what, one in VALUES.items()
        ],
        "refused": [{"what": what, "bytes": one.hex()} for what, one in REFUSED.items()],
    }
