"""The bytes in which Flower 1.42 stores a ConfigRecord that holds our one field of bytes.

    "ConfigRecord" SP SP length NUL  0a L1  0a 04 "body"  12 L2  32 n  body      (lengths as protobuf varints)

Flower's own code makes these bytes by way of five copies of the body, and reads them by four; here it is
one each. A test holds them to be the same.
"""

from __future__ import annotations

from wardround_common.errors import ProtocolError
from wardround_common.messages import FIELD

_KEY = b"\x0a" + bytes([len(FIELD)]) + FIELD.encode()


def wrapped(body: bytes) -> bytes:
    """Return the object of a body."""
    return b"".join((_before(len(body)), body))


def unwrapped(content: bytes) -> memoryview:
    """Return the body in an object, without a copy. ProtocolError for an object of another form."""
    # what stands before the body tells its length four times over, so it is between these two
    for length in range(len(_before(0)), len(_before(len(content))) + 1):
        size = len(content) - length
        if size >= 0 and len(before := _before(size)) == length and content.startswith(before):
            return memoryview(content)[length:]
    raise ProtocolError("a message of another form than ours")


def _before(size: int) -> bytes:
    value = b"\x32" + _varint(size)
    item = _KEY + b"\x12" + _varint(len(value) + size) + value
    record = b"\x0a" + _varint(len(item) + size) + item
    return b"ConfigRecord  %d\x00" % (len(record) + size) + record


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)
