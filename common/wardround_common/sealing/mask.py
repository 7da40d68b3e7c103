"""Pairwise masks: what each hospital adds to its vector so that only the sum can be read.

    k_ij = HKDF-SHA256(X25519(i, j), rc)                    one key per pair and query, RFC 5869
    y_i  = x_i + sum over j > i of PRG(k_ij) - sum over j < i of PRG(k_ij)       mod 2^64

``rc`` binds study, roster, epoch, analysis, index and the query's own bytes, so no key serves two
queries. PRG is the AES-256-CTR keystream, which is safe from a zero counter because its key is used once
(Bonawitz et al. 2017, "Practical secure aggregation", section 3, without its dropout rounds).
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from wardround_common.errors import ProtocolError
from wardround_common.typing import Ints, Words
from wardround_common.wire import joined

_SALT = b"wardround pairwise mask v1"
_BLOCK = 128 << 10  # bytes; a block of keystream and its target stay in cache
_ZEROS = bytes(_BLOCK)


def query_context(binding: bytes, epoch: bytes, analysis: str, index: int, query: bytes) -> bytes:
    """Return ``rc``, 32 bytes: the digest of all that a mask is for."""
    parts = (b"wardround query v1", binding, epoch, analysis.encode(), index.to_bytes(8, "little"), query)
    return hashlib.sha256(joined(*parts)).digest()


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

    def shared_with(self, public: bytes) -> bytes:
        """Return HKDF-Extract of the shared secret, 32 bytes. ProtocolError for a low-order point."""
        try:
            secret = self._key.exchange(X25519PublicKey.from_public_bytes(public))
        except ValueError:
            raise ProtocolError("a member's masking key is not a usable X25519 point") from None
        return hmac.digest(_SALT, secret, "sha256")


def add_masks(vector: Ints, own: str, secrets: Mapping[str, bytes], context: bytes) -> Words:
    """Return ``vector`` plus the masks shared with every other member; a new uint64 array.

    ``secrets``: HKDF-Extract of the secret shared with each other member of this query, by name.
    """
    sealed = vector.astype(np.int64).view(np.uint64).copy()
    stream = np.empty(min(_BLOCK, max(sealed.nbytes, 8) + 16), np.uint8)
    for name, secret in secrets.items():
        key = hmac.digest(secret, context + b"\x01", "sha256")  # HKDF-Expand to 32 bytes
        encryptor = Cipher(AES(key), CTR(bytes(16))).encryptor()
        add = np.add if own < name else np.subtract
        for start in range(0, sealed.nbytes, _BLOCK):
            part = sealed[start // 8 : (start + _BLOCK) // 8]
            encryptor.update_into(memoryview(_ZEROS)[: part.nbytes], stream.data)
            add(part, stream[: part.nbytes].view(np.uint64), out=part)
    return sealed


def open_masks(sealed: list[Words]) -> Ints:
    """Return the sum of all members' sealed vectors, in which the masks cancel; int64."""
    total = sealed[0].copy()
    for vector in sealed[1:]:
        total += vector
    return total.view(np.int64)
