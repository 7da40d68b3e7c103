"""Pairwise masks: what each hospital adds to its vector so that only the sum can be read.

    k_ij = HKDF-SHA256(X25519(i, j), rc)                    one key per pair and query, RFC 5869
    y_i  = x_i + sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij)       mod 2^64

and likewise, with the keystream's next 16 bytes, for the check lane mod 2^128 (``lane.py``).

``rc`` binds study, roster, epoch, analysis, index and the query's own digest, so no key serves two
queries. PRG is the AES-256-CTR keystream, which is safe from a zero counter because its key is used once
(Bonawitz et al. 2017, "Practical secure aggregation", section 3, without its dropout rounds).
"""

from __future__ import annotations

import hashlib
import hmac
import io
import timeit
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, Final

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR, GCM
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wardround_common.errors import ProtocolError
from wardround_common.typing import Ints, Words
from wardround_common.wire import joined

_SALT: Final = b"wardround pairwise mask v1"
_GROUP: Final = b"wardround group secret v1"
LANE_BYTES: Final = 16
MODULUS: Final = 1 << 8 * LANE_BYTES
_BLOCK: Final = 128 << 10  # bytes; a block of keystream and its target stay in cache
_ZEROS: Final = memoryview(bytes(_BLOCK))
_LONG: Final = 64 << 10  # bytes; a keystream of fewer is made before a second cipher is set up


def query_context(binding: bytes, epoch: bytes, analysis: str, index: int, query: bytes) -> bytes:
    """Return ``rc``, 32 bytes: the digest of all that a mask is for. ``query``: the query's SHA-256."""
    parts = (b"wardround query v2", binding, epoch, analysis.encode(), index.to_bytes(8, "little"), query)
    return hashlib.sha256(joined(*parts)).digest()


def expand(secret: bytes, info: bytes) -> bytes:
    """Return HKDF-Expand of a secret to one key of 32 bytes (RFC 5869, section 2.3)."""
    return hmac.digest(secret, info + b"\x01", "sha256")


class MaskingKey:
    """A hospital's X25519 key for one study, and the secrets it shares with the other members."""

    def __init__(self, key: X25519PrivateKey | None = None) -> None:
        self._key = key or X25519PrivateKey.generate()
        self.public = self._key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)

    def __repr__(self) -> str:
        return "MaskingKey(...)"

    @classmethod
    def from_bytes(cls, raw: bytes) -> MaskingKey:
        """Take up a key that ``to_bytes`` gave, 32 bytes. ProtocolError for another length."""
        try:
            return cls(X25519PrivateKey.from_private_bytes(raw))
        except ValueError:
            raise ProtocolError("a masking key has the wrong length") from None

    def to_bytes(self) -> bytes:
        """Return the private key, 32 bytes: for a file of mode 0600 only."""
        return self._key.private_bytes_raw()

    def group_secret(self, epoch: bytes) -> bytes:
        """Return the secret of the epoch that this key's owner leads, 32 bytes; always the same."""
        extracted = hmac.digest(_GROUP, self._key.private_bytes_raw(), "sha256")
        return expand(extracted, epoch)

    def shared_with(self, public: bytes) -> bytes:
        """Return HKDF-Extract of the shared secret, 32 bytes. ProtocolError for a low-order point."""
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise ProtocolError("a member's masking key is not a usable X25519 point") from None
        return hmac.digest(_SALT, secret, "sha256")


class Keystream:
    """PRG(key), piece by piece: the AES-256-CTR keystream from a counter of zero.

    From its third block on it is GCM's under a nonce of zeros, where ``by_gcm`` takes it from.
    """

    def __init__(self, key: bytes, *, by_gcm: bool = False) -> None:
        self._head = b""
        self._rest = Cipher(AES(key), CTR(bytes(16))).encryptor()
        if by_gcm:
            self._head = self._rest.update(bytes(32))
            self._rest = Cipher(AES(key), GCM(bytes(12))).encryptor()

    def into(self, buffer: memoryview, size: int) -> None:
        """Fill the first ``size`` bytes, 128 KiB at most, of a buffer of 16 more."""
        head, self._head = self._head[:size], self._head[size:]
        if head:
            buffer[: len(head)] = head
            buffer = buffer[len(head) :]
        self._rest.update_into(_ZEROS[: size - len(head)], buffer)


@cache
def gcm_is_faster() -> bool:
    """Tell which of the two ways to one keystream this processor has the faster.

    OpenSSL uses registers of 512 bits for GCM and not for CTR: 2.4 times as fast where there are such.
    """
    buffer = memoryview(bytearray(_LONG + 16))

    def seconds(*, by_gcm: bool) -> float:
        stream = Keystream(bytes(32), by_gcm=by_gcm)
        return min(timeit.repeat(lambda: stream.into(buffer, _LONG), number=1, repeat=4))

    return seconds(by_gcm=True) < seconds(by_gcm=False)


def seal(vector: Ints, lane: int, own: str, secrets: Mapping[str, bytes], context: bytes) -> bytes:
    """Return vector and check lane under the masks shared with every other member: 8 n + 16 bytes.

    ``secrets``: HKDF-Extract of the secret shared with each other member of this query, by name.
    """
    by_gcm = 8 * len(vector) >= _LONG and gcm_is_faster()
    streams = [
        (Keystream(expand(secret, context), by_gcm=by_gcm), np.add if own < name else np.subtract)
        for name, secret in secrets.items()
    ]
    # Made once and filled in place: the system takes as long to hand out memory as several masks take.
    sealed = io.BytesIO(bytes(8 * len(vector) + LANE_BYTES))
    with sealed.getbuffer() as view:
        _fill(view, vector.astype("<i8", copy=False).view(np.uint64), lane, streams)
    return sealed.getvalue()


def _fill(
    target: memoryview, vector: Words, lane: int, streams: Sequence[tuple[Keystream, np.ufunc]]
) -> None:
    """Write vector and lane under their masks, block by block, so that a block stays in cache."""
    buffer = _aligned(min(_BLOCK, len(target)) + 16)
    sealed = np.frombuffer(target, np.uint64, len(vector))
    for start in range(0, len(vector), _BLOCK // 8):
        part = sealed[start : start + _BLOCK // 8]
        part[:] = vector[start : start + len(part)]
        words = buffer[: part.nbytes].view(np.uint64)
        for stream, add in streams:
            stream.into(buffer.data, part.nbytes)
            add(part, words, out=part)
    for stream, add in streams:
        stream.into(buffer.data, LANE_BYTES)
        word = int.from_bytes(buffer[:LANE_BYTES].tobytes(), "little")
        lane += word if add is np.add else -word
    target[-LANE_BYTES:] = (lane % MODULUS).to_bytes(LANE_BYTES, "little")


def unseal(sealed: Sequence[bytes]) -> tuple[Ints, int]:
    """Return the sums of all members' vectors (int64) and lanes, in which the masks cancel.

    ProtocolError where they are not all of one length, or no sealed answers.
    """
    size = len(sealed[0])
    if size < LANE_BYTES or (size - LANE_BYTES) % 8 or any(len(one) != size for one in sealed):
        raise ProtocolError("the sealed answers to one query have other lengths than each other")
    count = (size - LANE_BYTES) // 8
    total = np.frombuffer(sealed[0], "<u8", count).astype(np.uint64)
    for one in sealed[1:]:
        total += np.frombuffer(one, "<u8", count)
    lanes = sum(int.from_bytes(one[-LANE_BYTES:], "little") for one in sealed)
    return total.view(np.int64), lanes % MODULUS


def _aligned(size: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return a buffer that begins at a line of the cache."""
    whole = np.empty(size + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size]
