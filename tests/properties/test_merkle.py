"""The audit log's tree against pymerkle's, an independent one, and against RFC 6962's known vectors.

pymerkle's consistency paths have another layout than the RFC's, so those are compared with its definition.
"""

from __future__ import annotations

import hashlib
import sqlite3
from functools import lru_cache

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymerkle import InmemoryTree

from wardround_common.audit.entry import Entry
from wardround_common.audit.log import SCHEMA, AuditLog
from wardround_common.audit.merkle import (
    EMPTY,
    Tree,
    is_consistent,
    is_included,
    leaf_hash,
    new_node,
    node_hash,
    peaks,
    root,
)

MOST = 70  # more than a complete tree of 64


class Grown:
    """A tree of leaves as the log grows it, of which only nodes and leaves' hashes are kept."""

    def __init__(self, leaves: list[bytes]) -> None:
        self.leaves, self.nodes = list(map(leaf_hash, leaves)), [b""]
        for number, leaf in enumerate(self.leaves, 1):
            self.nodes.append(new_node(number, leaf, self.nodes.__getitem__))
        self.tree = Tree(self.nodes.__getitem__, lambda number: self.leaves[number - 1])

    def root(self, size: int) -> bytes:
        return root([self.nodes[end] for end in peaks(size)])


def theirs(leaves: list[bytes]) -> InmemoryTree:
    tree = InmemoryTree(algorithm="sha256")
    for leaf in leaves:
        tree.append_entry(leaf)
    return tree


@lru_cache
def numbered() -> tuple[Grown, InmemoryTree]:
    leaves = [str(number).encode() for number in range(MOST)]
    return Grown(leaves), theirs(leaves)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=MOST))
def test_roots_of_all_sizes_are_those_of_pymerkle(leaves: list[bytes]) -> None:
    ours, other = Grown(leaves), theirs(leaves)
    assert [ours.root(size) for size in range(1, len(leaves) + 1)] == [
        other.get_root(size) for size in range(1, len(leaves) + 1)
    ]


def test_all_inclusion_paths_are_those_of_pymerkle() -> None:
    ours, other = numbered()
    for size in range(1, MOST + 1):
        for number in range(1, size + 1):
            begins, *path = other.prove_inclusion(number, size).path
            assert (begins, path) == (ours.leaves[number - 1], ours.tree.inclusion(number, size))


def subproof(first: int, leaves: list[bytes], whole: bool) -> list[bytes]:
    """SUBPROOF of RFC 9162, section 2.1.4.1, word for word."""
    if first == len(leaves):
        return [] if whole else [theirs(leaves).get_root()]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    if first <= k:
        return [*subproof(first, leaves[:k], whole), theirs(leaves[k:]).get_root()]
    return [*subproof(first - k, leaves[k:], False), theirs(leaves[:k]).get_root()]


def test_all_consistency_paths_are_those_of_the_rfc_and_hold_for_pymerkle() -> None:
    leaves = [str(number).encode() for number in range(20)]
    ours, other = Grown(leaves), theirs(leaves)
    for second in range(1, len(leaves) + 1):
        for first in range(1, second + 1):
            assert ours.tree.consistency(first, second) == subproof(first, leaves[:second], True)
            other.prove_consistency(first, second).verify(ours.root(first), ours.root(second))


def test_all_paths_prove_what_they_should() -> None:
    ours, _ = numbered()
    for size in range(1, MOST + 1):
        for number in range(1, size + 1):
            path = ours.tree.inclusion(number, size)
            assert is_included(ours.leaves[number - 1], number, size, path, ours.root(size))
            path = ours.tree.consistency(number, size)
            assert is_consistent(number, size, path, ours.root(number), ours.root(size))


def forged(path: list[bytes], how: str, at: int) -> list[bytes]:
    at = at % (len(path) + (how == "longer")) if path or how == "longer" else 0
    if how == "shorter":
        return path[:at] + path[at + 1 :]
    if how == "longer":
        return [*path[:at], hashlib.sha256(b"?").digest(), *path[at:]]
    if how == "flipped":
        return [*path[:at], bytes([path[at][0] ^ 1]) + path[at][1:], *path[at + 1 :]]
    return path[::-1]


@given(
    st.integers(2, MOST),
    st.data(),
    st.sampled_from(["shorter", "longer", "flipped", "reversed"]),
    st.integers(0),
)
def test_no_other_path_proves_it(size: int, data: st.DataObject, how: str, at: int) -> None:
    ours, _ = numbered()
    number = data.draw(st.integers(1, size - 1))
    path = ours.tree.inclusion(number, size)
    other = forged(path, how, at)
    if other != path:
        assert not is_included(ours.leaves[number - 1], number, size, other, ours.root(size))
    path = ours.tree.consistency(number, size)
    other = forged(path, how, at)
    if other != path:
        assert not is_consistent(number, size, other, ours.root(number), ours.root(size))


@given(st.integers(1, MOST), st.data())
def test_a_path_proves_no_other_leaf_number_size_or_root(size: int, data: st.DataObject) -> None:
    ours, _ = numbered()
    number = data.draw(st.integers(1, size))
    path, top = ours.tree.inclusion(number, size), ours.root(size)
    leaf = ours.leaves[number - 1]
    for other in range(-1, MOST + 2):
        assert is_included(leaf, other, size, path, top) is (other == number)
        if other > 0:
            assert is_included(ours.leaves[(other - 1) % MOST], number, size, path, top) is (
                (other - 1) % MOST == number - 1
            )
    assert not is_included(leaf, number, size, path, EMPTY)
    path, old = ours.tree.consistency(number, size), ours.root(number)
    for other in range(1, MOST + 1):
        assert is_consistent(number, size, path, ours.root(other), top) is (other == number)
        assert is_consistent(number, size, path, old, ours.root(other)) is (other == size)
    assert not is_consistent(size + 1, size, path, old, top)
    if number < size:  # a tree of more leaves has more levels
        assert not is_consistent(number, 2 << size.bit_length(), path, old, top)


def test_the_empty_tree_is_how_every_tree_began_and_proves_no_leaf() -> None:
    ours, _ = numbered()
    assert root([]) == EMPTY == hashlib.sha256().digest()
    assert ours.tree.consistency(0, 5) == []
    assert is_consistent(0, 5, [], EMPTY, ours.root(5))
    assert not is_consistent(0, 5, [], ours.root(1), ours.root(5))
    assert not is_consistent(0, 5, [EMPTY], EMPTY, ours.root(5))
    assert not is_consistent(-1, 5, [], EMPTY, ours.root(5))
    assert not is_included(EMPTY, 1, 0, [], EMPTY)
    assert not is_included(EMPTY, 0, 0, [], EMPTY)


def test_a_leaf_is_no_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


@given(st.lists(st.text(max_size=20), min_size=1, max_size=MOST))
def test_the_log_in_sqlite_has_the_same_heads(details: list[str]) -> None:
    db = sqlite3.connect(":memory:")
    for statement in SCHEMA:
        db.execute(statement)
    log, other = AuditLog(db), InmemoryTree(algorithm="sha256")
    for number, detail in enumerate(details, 1):
        entry = Entry(number, "node", "release", "heart", detail)
        assert log.append(entry) == number
        other.append_entry(entry.encoded())
        assert log.head().head == other.get_root()
    for size in range(1, len(details) + 1):
        head = log.head_at(size)
        assert head is not None and head.head == other.get_root(size)
        assert log.inclusion(1, size) == other.prove_inclusion(1, size).path[1:]
    db.close()


# leaves, roots and paths of the reference implementation of Certificate Transparency (RFC 6962)

LEAVES = [
    *("", "00", "10", "2021", "3031", "40414243", "5051525354555657"),
    "606162636465666768696a6b6c6d6e6f",
]
ROOTS = [
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]
INCLUDED = {
    (1, 8): [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7",
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "6b47aaf29ee3c2af9af889bc1fb9254dabd31177f16232dd6aab035ca39bf6e4",
    ],
    (6, 8): [
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (3, 3): ["fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125"],
}
CONSISTENT = {
    (1, 1): [],
    (1, 8): INCLUDED[1, 8],
    (6, 8): [
        "0ebc5d3437fbe2db158b9f126a1d118e308181031d0a949f8dededebc558ef6a",
        "ca854ea128ed050b41b35ffc1b87b8eb2bde461e9e3b5596ece6b9d5975a0ae0",
        "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    ],
    (2, 5): [
        "5f083f0a1a33ca076a95279832580db3e0ef4584bdff1f54c8a360f50de3031e",
        "bc1a0643b12e4d2d7c77918f44e0f4f79a838b6cf9ec5b5c283e1f4d88599e6b",
    ],
}


@pytest.fixture(scope="module")
def known() -> Grown:
    return Grown([bytes.fromhex(leaf) for leaf in LEAVES])


def test_known_roots(known: Grown) -> None:
    assert [known.root(size).hex() for size in range(1, 9)] == ROOTS


@pytest.mark.parametrize(("number", "size"), INCLUDED)
def test_known_inclusion_paths(known: Grown, number: int, size: int) -> None:
    assert [one.hex() for one in known.tree.inclusion(number, size)] == INCLUDED[number, size]


@pytest.mark.parametrize(("first", "second"), CONSISTENT)
def test_known_consistency_paths(known: Grown, first: int, second: int) -> None:
    assert [one.hex() for one in known.tree.consistency(first, second)] == CONSISTENT[first, second]
