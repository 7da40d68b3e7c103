"""Row keys: what is random about a person follows the person, not the hospital's row order.

A row key is blake2b(study key, namespace, id). Folds, bootstrap weights and redraws are functions of it,
so they don't depend on how rows are split over hospitals or in which order they lie. ``draws`` spreads a
key into independent uniform words with the finaliser of SplitMix64 (Steele, Lea and Flood 2014,
"Fast splittable pseudorandom number generators", figure 17).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b

import numpy as np

from wardround_common.typing import Bools, Words

_GOLDEN = 0x9E3779B97F4A7C15
_MASK = (1 << 64) - 1


def row_keys(study_key: bytes, namespace: str, ids: Iterable[str]) -> Words:
    """Return one uint64 per id. ``namespace`` is the hospital's name, or empty where ids are shared.

    ``ids`` are texts as the hospital writes them; equal texts in one namespace give equal keys.
    """
    name = namespace.encode()
    base = blake2b(len(name).to_bytes(4, "little") + name, digest_size=8, key=study_key[:64])

    def digests() -> Iterable[int]:
        for one in ids:
            row = base.copy()
            row.update(one.encode())
            yield int.from_bytes(row.digest(), "little")

    return np.fromiter(digests(), np.uint64)


def draws(keys: Words, purpose: str, seed: int = 0) -> Words:
    """Return one uniform uint64 per key, independent for every ``(purpose, seed)``; shape of ``keys``."""
    word = blake2b(purpose.encode(), digest_size=8, salt=(seed & _MASK).to_bytes(8, "little")).digest()
    start = (int.from_bytes(word, "little") | 1) * _GOLDEN & _MASK
    z = keys ^ np.uint64(start)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        z = (z ^ (z >> np.uint64(shift))) * np.uint64(factor)
    return z ^ (z >> np.uint64(31))


def chosen(keys: Words, purpose: str, seed: int, share: float) -> Bools:
    """Return True for a share of the keys, at 0 < share < 1, the same whichever rows stand beside them."""
    return draws(keys, purpose, seed) < np.uint64(int(share * 2.0**64))
