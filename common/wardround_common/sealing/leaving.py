"""Which sets of hospitals may compute, given those that did: so that no few of them are told from the rest.

Sums over two sets tell what those sum up to in whom the sets differ; sums over several tell every linear
combination. This module says which hospitals a collection of sets exposes, and holds their own terms
(`allow`, `group`, `never`) against it. PROTOCOL.md, section 7.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final

from wardround_common.errors import Refused

MOST_COMBINATIONS: Final = 50_000
_PRIME: Final = (1 << 61) - 1  # ranks of these small matrices of 0 and 1 are the same modulo it


@dataclass(frozen=True)
class Group:
    """The hospitals of an epoch, by identity, with each one's terms of leaving.

    ``study`` is the binding under which they computed; ``sets`` those of its analyses, each once.
    """

    study: bytes
    leaves: Mapping[bytes, str]
    sets: tuple[frozenset[bytes], ...]


def close(one: Group, other: Group, min_hospitals: int) -> bool:
    """Tell whether sums over both would tell sums over fewer than ``min_hospitals`` hospitals."""
    return 0 < len(one.leaves.keys() ^ other.leaves.keys()) < min_hospitals


def exposed(groups: Iterable[Collection[bytes]], min_hospitals: int) -> list[frozenset[bytes]]:
    """Return the sets of fewer than ``min_hospitals`` hospitals that sums over these groups tell of.

    Sums over groups tell all their linear combinations, so a set of hospitals is exposed if some combination
    of the groups' indicators is zero outside of it: if its columns of a basis of the null space of the
    groups are linearly dependent (the groups span a code, the null space its parity checks). Minimal sets
    only. Refused where there are more candidates than can be looked at.
    """
    sets = sorted({frozenset(one) for one in groups}, key=sorted)
    patterns: dict[tuple[bool, ...], list[bytes]] = {}
    for who in sorted(frozenset().union(*sets)):
        patterns.setdefault(tuple(who in one for one in sets), []).append(who)
    # hospitals that were always together have equal columns, so count as one column of their number
    columns, classes = list(patterns), list(patterns.values())
    matrix = [[int(column[i]) for column in columns] for i in range(len(sets))]
    checks = _squeezed(_null_space(matrix), min_hospitals)
    light = [i for i, who in enumerate(classes) if len(who) < min_hospitals]
    found: dict[tuple[int, ...], None] = {}  # in order
    looked = 0
    for size in range(1, min_hospitals):
        for chosen in combinations(light, size):
            looked += 1
            if looked > MOST_COMBINATIONS:
                raise Refused("leave", "more sets of hospitals than can be compared with each other")
            small = sum(len(classes[i]) for i in chosen) < min_hospitals
            parts = (part for fewer in range(1, size) for part in combinations(chosen, fewer))
            if not small or any(part in found for part in parts):
                continue
            if _rank([[row[i] for row in checks] for i in chosen]) < size:
                found[chosen] = None
    return [frozenset(who for i in chosen for who in classes[i]) for chosen in found]


def unwilling(groups: Sequence[Group], min_hospitals: int) -> list[frozenset[bytes]]:
    """Return whom these groups, oldest first, expose though not all of them last said `allow`."""
    terms = {who: said for group in groups for who, said in group.leaves.items()}
    few = exposed([one for group in groups for one in group.sets], min_hospitals)
    return [small for small in few if any(terms[who] != "allow" for who in small)]


def left_for_good(before: Group, after: Group) -> set[bytes]:
    """Return the hospitals of an earlier group that said `never` to being left out, and are."""
    return {who for who in before.leaves.keys() - after.leaves.keys() if before.leaves[who] == "never"}


def check_leaving(before: Sequence[Group], after: Group, min_hospitals: int, max_epochs: int) -> None:
    """Refuse a set over which sums, with those over earlier sets, would expose hospitals that don't allow it.

    ``before``: oldest first. Of the same study, who said `never` is in every later set. Of whatever study,
    fewer than ``min_hospitals`` hospitals that are exposed must all `allow` it, and at most ``max_epochs``
    sets may be close to one before them. A set that was there before is no new one.
    """
    if any(one.study == after.study and left_for_good(one, after) for one in before):
        raise Refused("leave", "an epoch without a hospital that is never to be left out")
    if unwilling([*before, after], min_hospitals):
        raise Refused(
            "leave",
            f"sums over these hospitals and over others before would tell of fewer than {min_hospitals}, "
            "not all of whom allow it (`leave`)",
        )
    sets = list({frozenset(one.leaves): one for one in (*before, after)}.values())
    near = sum(any(close(one, other, min_hospitals) for other in sets[:i]) for i, one in enumerate(sets))
    if near > max_epochs and frozenset(after.leaves) not in {frozenset(one.leaves) for one in before}:
        raise Refused("max_epochs", f"more than {max_epochs} sets of hospitals that are close to one before")


def _reduced(rows: list[list[int]]) -> tuple[list[list[int]], list[int]]:
    """Return the reduced row echelon form modulo the prime, without zero rows, and its pivots' columns."""
    left, pivots, done = [row[:] for row in rows], [], 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((i for i in range(done, len(left)) if left[i][column]), None)
        if pivot is None:
            continue
        left[done], left[pivot] = left[pivot], left[done]
        inverse = pow(left[done][column], -1, _PRIME)
        left[done] = [value * inverse % _PRIME for value in left[done]]
        for i, row in enumerate(left):
            if i != done and row[column]:
                factor = row[column]
                left[i] = [(a - factor * b) % _PRIME for a, b in zip(row, left[done], strict=True)]
        pivots.append(column)
        done += 1
    return left[:done], pivots


def _squeezed(rows: list[list[int]], size: int) -> list[list[int]]:
    """Return ``size`` fixed random combinations of the rows, in which few columns depend as in all of them.

    But for a chance of about one in the prime.
    """
    if len(rows) <= size:
        return rows
    mixed = [[0] * len(rows[0]) for _ in range(size)]
    for i, row in enumerate(rows):
        for j in range(size):
            word = hashlib.sha256(
                b"wardround mix" + j.to_bytes(4, "little") + i.to_bytes(4, "little")
            ).digest()
            factor = int.from_bytes(word[:8], "little") % _PRIME
            mixed[j] = [(a + factor * b) % _PRIME for a, b in zip(mixed[j], row, strict=True)]
    return mixed


def _rank(rows: list[list[int]]) -> int:
    return len(_reduced(rows)[1])


def _null_space(rows: list[list[int]]) -> list[list[int]]:
    """Return a basis of the vectors that are orthogonal to all rows, modulo the prime."""
    reduced, pivots = _reduced(rows)
    basis = []
    for free in (i for i in range(len(rows[0])) if i not in pivots):
        vector = [0] * len(rows[0])
        vector[free] = 1
        for row, pivot in zip(reduced, pivots, strict=True):
            vector[pivot] = -row[free] % _PRIME
        basis.append(vector)
    return basis
