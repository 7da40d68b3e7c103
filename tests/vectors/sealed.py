"""Vectors of numbers under masks, with their check lanes; every key is the SHA-256 of what it is for."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tests.vectors.world import NAMES, secret
from wardround_common.sealing.lane import lane, pad
from wardround_common.sealing.mask import MODULUS, expand, seal, unseal
from wardround_common.typing import Ints

LOW, HIGH = -(2**63), 2**63 - 1
# Sorted by code points; UTF-16 units would put the last before the one ahead of it.
ODD_NAMES = ("Zell", "aue", "\u00f6hringen", "\uff21", "\U00010400")


def numbers(vector: Sequence[int] | Ints) -> str:
    """Return whole numbers as one text."""
    return " ".join(str(int(one)) for one in vector)


def vector_for(what: str, size: int, extreme: bool = False) -> Ints:
    """Return a fixed vector of signed 64-bit integers; small ones, or the most that there are."""
    if extreme:
        return np.resize(np.array([LOW, HIGH, -1, 0, 1, LOW + 1], np.int64), size)
    stream = hashlib.shake_256(what.encode()).digest(4 * size)
    return np.frombuffer(stream, "<i4").astype(np.int64)


# --- masks ---


def masks() -> dict[str, Any]:
    """Return sealed vectors of many lengths and numbers of members."""
    cases = [_sealed(NAMES[:2], size) for size in (0, 1, 2, 3, 255, 300)]
    cases += [_sealed(NAMES, size) for size in (1, 7)]
    cases += [_sealed(NAMES, 12, extreme=True), _sealed(ODD_NAMES, 5)]
    return {
        "about": "Vectors and check lanes under masks, and their sums; PROTOCOL.md, section 4. `secrets` are "
        "s_ij, `lane` is any number here. Names are compared by code points.",
        "cases": cases,
        "long": _sealed_long(),
    }


def _secrets(names: Sequence[str]) -> dict[tuple[str, str], bytes]:
    pairs = [(one, other) for i, one in enumerate(names) for other in names[i + 1 :]]
    return {pair: secret("pair " + " ".join(pair)) for pair in pairs}


def _sealed_by(
    name: str, vector: Ints, own_lane: int, secrets: Mapping[tuple[str, str], bytes], context: bytes
) -> bytes:
    mine = {
        one if name == other else other: key for (one, other), key in secrets.items() if name in (one, other)
    }
    return seal(vector, own_lane, name, mine, context)


def _sealed(names: Sequence[str], size: int, extreme: bool = False) -> dict[str, Any]:
    secrets, context = _secrets(names), secret(f"context of {size} numbers")
    vectors = [vector_for(f"{name} {size}", size, extreme) for name in names]
    lanes = [int.from_bytes(secret(f"lane of {name}")[:16], "little") for name in names]
    sealed = [_sealed_by(*one, secrets, context) for one in zip(names, vectors, lanes, strict=True)]
    total, lane_total = unseal(sealed)
    return {
        "rc": context.hex(),
        "secrets": [{"between": list(pair), "s": key.hex()} for pair, key in secrets.items()],
        "members": [
            {"name": name, "vector": numbers(vector), "lane": str(own), "sealed": one.hex()}
            for name, vector, own, one in zip(names, vectors, lanes, sealed, strict=True)
        ],
        "sum": numbers(total),
        "lane_sum": str(lane_total),
    }


def long_vector(size: int, factor: int) -> Ints:
    """Return x[k] = (factor x (k + 1)^2 mod 2^61) - 2^60."""
    squares = [factor * (k + 1) ** 2 % 2**61 - 2**60 for k in range(size)]
    return np.array(squares, np.int64)


def _sealed_long() -> dict[str, Any]:
    size, context, group = 16_401, secret("context of the long vector"), secret("group of the long vector")
    secrets = _secrets(NAMES[:2])
    members = []
    for name, factor in (("avon", 2_654_435_761), ("brook", 11_400_714_819_323_198_485)):
        vector = long_vector(size, factor)
        own = lane(vector, group, context)
        sealed = _sealed_by(name, vector, own, secrets, context)
        digest = hashlib.sha256(sealed).hexdigest()
        members.append({"name": name, "factor": str(factor), "lane": str(own), "sealed_sha256": digest})
    return {
        "about": "x[k] = (factor (k + 1)^2 mod 2^61) - 2^60 for k = 0 .. size - 1; lanes by the secret g.",
        "size": size,
        "rc": context.hex(),
        "g": group.hex(),
        "s": secrets["avon", "brook"].hex(),
        "members": members,
    }


# --- the check lane ---

ERRORS = {
    "one too many": {0: 1},
    "one too few at the end": {-1: -1},
    "2^61 off, which a check mod 2^64 would miss once in eight times": {1: 2**61},
    "2^63 off, the sign alone": {1: 2**63},
    "2^62 moved from one element to another": {0: 2**62, 2: -(2**62)},
    "two elements off by one against each other": {1: 1, 2: -1},
}

# Of a true sum and the sum of its lanes: they would hold each other but for the pad.
MULTIPLES = {
    "no rows, and a lane of 0": 0,
    "twice the sum, and twice the lane": 2,
    "three times the sum, and three times the lane": 3,
    "the sum and the lane with the other sign": -1,
}


def check_lane() -> dict[str, Any]:
    """Return lanes of vectors, the pad, and true and false sums."""
    group, context = secret("group"), secret("context of a lane")
    vectors = {
        "no numbers": [],
        "nought": [0, 0],
        "one": [1],
        "minus one": [-1],
        "the extremes": [LOW, HIGH, -1, 1],
        "an odd number of any": vector_for("lane", 33).tolist(),
    }
    shares = [vector_for(f"share of {name}", 5) for name in NAMES]
    true = np.sum(shares, axis=0)
    lanes = [lane(one, group, context) for one in shares]
    lanes[0] = (lanes[0] + pad(group, context)) % MODULUS
    return {
        "about": "lane = <r, x> mod 2^128 with x signed, and the pad besides at the first of `shares`; "
        "PROTOCOL.md, section 4. Sums are told with the sum of the lanes; `passes` says whether members "
        "accept them.",
        "g": group.hex(),
        "rc": context.hex(),
        "lane_key": expand(group, context).hex(),
        "pad": str(pad(group, context)),
        "lanes": [
            {"what": what, "vector": numbers(one), "lane": str(lane(np.array(one, np.int64), group, context))}
            for what, one in vectors.items()
        ],
        "shares": [
            {"vector": numbers(share), "lane": str(own)} for share, own in zip(shares, lanes, strict=True)
        ],
        "sums": _told(true, sum(lanes) % MODULUS, pad(group, context)),
    }


def _told(true: Ints, proof: int, t: int) -> list[dict[str, Any]]:
    def told(
        what: str, total: Sequence[int] | Ints, lane_sum: int, *, passes: bool = False
    ) -> dict[str, Any]:
        words = [(int(one) + 2**63) % 2**64 - 2**63 for one in total]
        lane_sum %= MODULUS
        return {"what": what, "sum": numbers(words), "lane_sum": str(lane_sum), "passes": passes}

    found = [told("the true sum", true, proof, passes=True)]
    for what, changes in ERRORS.items():
        false = true.tolist()
        for at, change in changes.items():
            false[at] += change
        found.append(told(what, false, proof))
    for what, factor in MULTIPLES.items():
        found.append(told(what, [factor * one for one in true.tolist()], factor * proof))
    return [
        *found,
        told("the lane one off", true, proof + 1),
        told("the lane without its pad", true, proof - t),
    ]
