"""The Merkle tree of RFC 9162, section 2.1: its hashes, and proofs that an entry, or an older tree, is in it.

Leaves are numbered from 1. Only each leaf's ``node`` is kept: the hash of the largest complete subtree that
ends there, of 2^t leaves for leaf number s, t being the trailing zeros of s. Everything else follows from
nodes and leaves in a number of steps that is logarithmic in the tree's size.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import Final

HASH_BYTES: Final = 32
EMPTY: Final = hashlib.sha256().digest()  # the root of a tree without leaves
Hashes = Callable[[int], bytes]  # by a leaf's number


def leaf_hash(data: bytes) -> bytes:
    """Return the hash of a leaf (section 2.1.1)."""
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of two subtrees (section 2.1.1)."""
    return hashlib.sha256(b"\1" + left + right).digest()


def new_node(number: int, leaf: bytes, node: Hashes) -> bytes:
    """Return the node of a new leaf from its hash and the nodes before it."""
    width = 1
    while number % (2 * width) == 0:
        leaf = node_hash(node(number - width), leaf)
        width *= 2
    return leaf


def peaks(size: int) -> list[int]:
    """Return the leaves at which the complete subtrees of a tree end, the largest first."""
    ends, end = [], 0
    for bit in reversed(range(size.bit_length())):
        if size >> bit & 1:
            end += 1 << bit
            ends.append(end)
    return ends


def root(subtrees: Sequence[bytes]) -> bytes:
    """Return the root of a tree from the hashes of its complete subtrees, the largest first."""
    if not subtrees:
        return EMPTY
    *rest, found = subtrees
    for left in reversed(rest):
        found = node_hash(left, found)
    return found


class Tree:
    """Proofs over a tree of which nodes and leaves' hashes can be looked up by number."""

    def __init__(self, node: Hashes, leaf: Hashes) -> None:
        self._node, self._leaf = node, leaf

    def _hash(self, begin: int, end: int) -> bytes:
        """Return the hash over the leaves ``begin + 1`` to ``end``, MTH(D[begin:end])."""
        count = end - begin
        if count == 1:
            return self._leaf(end)
        if count & -count == count and end & -end == count:
            return self._node(end)
        middle = begin + _split(count)
        return node_hash(self._hash(begin, middle), self._hash(middle, end))

    def inclusion(self, number: int, size: int) -> list[bytes]:
        """Return the path that proves a leaf to be in the tree of ``size`` (section 2.1.3.1)."""
        begin, end, path = 0, size, list[bytes]()
        while end - begin > 1:
            middle = begin + _split(end - begin)
            if number <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(begin, middle))
                begin = middle
        return path[::-1]

    def consistency(self, first: int, second: int) -> list[bytes]:
        """Return the path that proves the tree of ``first`` to be how that of ``second`` began (2.1.4.1)."""
        begin, end, path = 0, second if first else 0, list[bytes]()
        whole = True  # whether the first tree itself is the subtree that is left, whose root is known
        while end != first:
            middle = begin + _split(end - begin)
            if first <= middle:
                path.append(self._hash(middle, end))
                end = middle
            else:
                path.append(self._hash(begin, middle))
                begin, whole = middle, False
        if not whole:
            path.append(self._hash(begin, end))
        return path[::-1]


def _split(count: int) -> int:
    """Return the largest power of two below ``count``."""
    return 1 << (count - 1).bit_length() - 1


def is_included(leaf: bytes, number: int, size: int, path: Sequence[bytes], top: bytes) -> bool:
    """Tell whether the path proves a leaf's hash to be in the tree with this root (section 2.1.3.2)."""
    if not 1 <= number <= size:
        return False
    at, last, found = number - 1, size - 1, leaf
    for one in path:
        if last == 0:
            return False
        if at & 1 or at == last:
            found = node_hash(one, found)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            found = node_hash(found, one)
        at, last = at >> 1, last >> 1
    return last == 0 and found == top


def is_consistent(first: int, second: int, path: Sequence[bytes], old: bytes, new: bytes) -> bool:
    """Tell whether the path proves the tree with root ``old`` to be how that with ``new`` began (2.1.4.2)."""
    if not 0 < first <= second:
        return first == 0 <= second and not path and old == EMPTY
    if first == second:
        return not path and old == new
    steps = [old, *path] if first & (first - 1) == 0 else list(path)
    if len(steps) < 2:
        return False
    at, last = first - 1, second - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = steps[0]
    for one in steps[1:]:
        if last == 0:
            return False
        if at & 1 or at == last:
            before, after = node_hash(one, before), node_hash(one, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, one)
        at, last = at >> 1, last >> 1
    return last == 0 and before == old and after == new
