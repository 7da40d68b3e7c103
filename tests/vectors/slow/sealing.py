"""Keys, masks and check lanes: PROTOCOL.md, sections 2 to 4."""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping, Sequence
from typing import Any

from tests.vectors.slow.ciphers import aes_ctr, expand, extract, gcm_open, gcm_seal
from tests.vectors.slow.curves import ed25519_sign, ed25519_verify, x25519
from tests.vectors.slow.encoding import Record, encode, joined, u64

WORD, LANE = 2**64, 2**128


def digest(data: bytes) -> bytes:
    """Return H(data)."""
    return hashlib.sha256(data).digest()


def sign(private: bytes, label: str, *parts: bytes | str) -> bytes:
    """Return Sign(key, label, parts ...)."""
    return ed25519_sign(private, joined(label, *parts))


def is_signed(public: bytes, signature: bytes, label: str, *parts: bytes | str) -> bool:
    """Tell whether a signature is the key's own over label and parts."""
    return ed25519_verify(public, signature, joined(label, *parts))


# --- section 2: who is who ---


def fingerprint(name: str, identity: bytes) -> bytes:
    """Return what stands for a hospital."""
    return digest(joined("wardround hospital v1", name, identity))


def words(data: bytes, known: Sequence[str]) -> str:
    """Return what is read out of a digest: ten words of the list."""
    return " ".join(known[byte] for byte in data[:10])


def member_parts(study: bytes, name: str, runtime: str, masking: bytes) -> tuple[Any, ...]:
    """Return label and parts that a member's entry is signed over."""
    return "wardround member v1", study, name, runtime, masking


def binding(roster: Record) -> bytes:
    """Return what everything in a study is bound to."""
    return digest(joined("wardround study and roster v1", roster["study"], encode(roster)))


def epoch_digest(epoch: Record) -> bytes:
    """Return what an epoch is known by."""
    return digest(joined("wardround epoch v1", encode(epoch)))


def audits_digest(audits: Sequence[bytes]) -> bytes:
    """Return by what an epoch knows its hospitals' audit heads."""
    return digest(joined("wardround audits v1", *audits))


def epoch_parts(epoch: bytes, leave: str, audit: bytes) -> tuple[Any, ...]:
    """Return label and parts that an epoch's member signs."""
    return "wardround epoch v1", epoch, leave, audit


def unsealed_parts(context: bytes, vector: Sequence[int]) -> tuple[Any, ...]:
    """Return label and parts that an unsealed answer is signed over."""
    return "wardround unsealed answer v1", context, b"".join(u64(x % WORD) for x in vector)


def first_head(bound: bytes) -> bytes:
    """Return the head of a course without sums."""
    return digest(joined("wardround transcript v1", bound))


def next_head(head: bytes, epoch: bytes, step: Record) -> bytes:
    """Return the head after a step."""
    return digest(joined("wardround step v1", head, epoch, encode(step)))


# --- section 3: keys ---


def pair_secret(private: bytes, public: bytes) -> bytes | None:
    """Return s_ij, or None where the other's point is of low order."""
    shared = x25519(private, public)
    return extract(b"wardround pairwise mask v1", shared) if any(shared) else None


def query_context(bound: bytes, epoch: bytes, analysis: str, index: int, query: bytes) -> bytes:
    """Return rc; ``query`` is H(query)."""
    return digest(joined("wardround query v2", bound, epoch, analysis, u64(index), query))


def group_secret(private: bytes, epoch: bytes) -> bytes:
    """Return g, by the leader's masking key."""
    return expand(extract(b"wardround group secret v1", private), epoch)


def wrap_key(secret: bytes, epoch: bytes) -> bytes:
    """Return w_j."""
    return expand(secret, joined("wardround group key v1", epoch))


def wrap(group: bytes, secret: bytes, epoch: bytes) -> bytes:
    """Return g for one member."""
    return gcm_seal(wrap_key(secret, epoch), bytes(12), group, epoch)


def unwrap(wrapped: bytes, secret: bytes, epoch: bytes) -> bytes | None:
    """Return g, or None where it was wrapped for another."""
    return gcm_open(wrap_key(secret, epoch), bytes(12), wrapped, epoch)


# --- section 4: a sealed answer ---


def coefficients(group: bytes, context: bytes, size: int) -> list[int]:
    """Return r."""
    stream = aes_ctr(expand(group, context), 16 * size)
    return [int.from_bytes(stream[16 * k : 16 * k + 16], "little") for k in range(size)]


def lane(vector: Sequence[int], group: bytes, context: bytes) -> int:
    """Return <r, vector> mod 2^128."""
    r = coefficients(group, context, len(vector))
    return sum(one * x for one, x in zip(r, vector, strict=True)) % LANE


def pad(group: bytes, context: bytes) -> int:
    """Return t, which the first hospital of the analysis adds to its lane."""
    return int.from_bytes(expand(group, context + b"wardround lane pad v1")[:16], "little")


def is_true(vector: Sequence[int], proof: int, group: bytes, context: bytes) -> bool:
    """Tell whether members accept a sum S with the sum C of the lanes."""
    return (lane(vector, group, context) + pad(group, context)) % LANE == proof


def seal(
    vector: Sequence[int], own_lane: int, own: str, secrets: Mapping[str, bytes], context: bytes
) -> bytes:
    """Return y_i and z_i; ``secrets`` are s_ij by the other hospitals' names."""
    y, z, size = list(vector), own_lane, 8 * len(vector)
    for name, secret in secrets.items():
        stream = aes_ctr(expand(secret, context), size + 16)
        sign_of = 1 if name > own else -1
        for k, word in enumerate(struct.unpack(f"<{len(y)}Q", stream[:size])):
            y[k] += sign_of * word
        z += sign_of * int.from_bytes(stream[size:], "little")
    return b"".join(u64(word % WORD) for word in y) + (z % LANE).to_bytes(16, "little")


def unseal(sealed: Sequence[bytes]) -> tuple[list[int], int]:
    """Return S, as signed integers, and C."""
    count = len(sealed[0]) // 8 - 2
    columns = zip(*(struct.unpack(f"<{count}Q", one[:-16]) for one in sealed), strict=True)
    total = [sum(column) % WORD for column in columns]
    lanes = sum(int.from_bytes(one[-16:], "little") for one in sealed) % LANE
    return [word - WORD if word >= WORD // 2 else word for word in total], lanes
