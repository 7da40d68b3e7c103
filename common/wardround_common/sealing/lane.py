"""The check lane: 16 bytes beside each sealed vector, by which members know a true sum from a false one.

    lane_i = <r, x_i> mod 2^128,    r = PRG(HKDF-Expand(group secret, rc)), 128 bits an element

Lanes are masked and added as the vectors are. The first hospital of an analysis adds a pad t, so that their
sum C is <r, S> + t, and members accept a sum S only if it is (a Carter-Wegman check over the ring of integers
mod 2^128; PROTOCOL.md, section 4). Without the pad, (k S, k C) would pass too. 128 bits, since an error of
2^61 in one element would pass a check mod 2^64 once in eight times.

The product is exact: both sides are cut into digits of 16 bits, whose products are below 2^32, so that a
block's sums of products stay below 2^53 and floating-point matrix multiplication, in whatever order, adds
them up without rounding.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR

from wardround_common.errors import ProtocolError
from wardround_common.sealing.mask import LANE_BYTES, MODULUS, expand
from wardround_common.typing import Ints
from wardround_common.wire import joined

_BLOCK: Final = 8 << 10  # elements: a block of r is 128 KiB of keystream, and the digits stay in cache
_ZEROS: Final = bytes(LANE_BYTES * _BLOCK)
_WRAP: Final = b"wardround group key v1"
_PAD: Final = b"wardround lane pad v1"
_NONCE: Final = bytes(12)


def lane(vector: Ints, group: bytes, context: bytes) -> int:
    """Return <r, vector> mod 2^128 for the query of this context; ``group`` is the epoch's group secret.

    See ``pad`` for what the first hospital of the analysis adds.
    """
    encryptor = Cipher(AES(expand(group, context)), CTR(bytes(16))).encryptor()
    stream = np.empty(len(_ZEROS) + 16, np.uint8)
    words = np.ascontiguousarray(vector, np.int64)
    digits = np.empty((4, _BLOCK))
    factors = np.empty((8, _BLOCK))
    total = np.zeros((4, 8), np.int64)
    for start in range(0, len(words), _BLOCK):
        part = words[start : start + _BLOCK]
        n = len(part)
        size = LANE_BYTES * n
        encryptor.update_into(memoryview(_ZEROS)[:size], stream.data)
        digits[:3, :n] = part.view(np.uint16).reshape(n, 4)[:, :3].T
        digits[3, :n] = part.view(np.int16)[3::4]  # the highest digit carries the sign
        factors[:, :n] = stream[:size].view(np.uint16).reshape(n, 8).T
        total += (digits[:, :n] @ factors[:, :n].T).astype(np.int64)
    whole = sum(int(total[i, j]) << 16 * (i + j) for i in range(4) for j in range(8))
    return whole % MODULUS


def pad(group: bytes, context: bytes) -> int:
    """Return t, the secret that the sum of a query's lanes has besides <r, S>."""
    return int.from_bytes(expand(group, context + _PAD)[:LANE_BYTES], "little")


def wrap(secret: bytes, shared: bytes, epoch: bytes) -> bytes:
    """Return an epoch's group secret for one member, 48 bytes; ``shared`` is the pair's secret."""
    return AESGCM(_wrapping(shared, epoch)).encrypt(_NONCE, secret, epoch)


def unwrap(wrapped: bytes, shared: bytes, epoch: bytes) -> bytes:
    """Return the group secret that the leader wrapped. ProtocolError for any other bytes."""
    try:
        return AESGCM(_wrapping(shared, epoch)).decrypt(_NONCE, wrapped, epoch)
    except (InvalidTag, ValueError):
        raise ProtocolError("the epoch's group secret was not wrapped for this hospital") from None


def _wrapping(shared: bytes, epoch: bytes) -> bytes:
    return expand(shared, joined(_WRAP, epoch))
