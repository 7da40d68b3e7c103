"""Which few persons sums over several row sets would tell of, by all that can be computed from them.

Sums over sets tell every linear combination of them, so persons are exposed if some combination of the sets'
indicators is zero but on rows of fewer than ``least`` persons: two sets that differ by one patient, and every
tracker (Denning, Denning and Schwartz 1979, "The tracker: a threat to statistical database security"). Rows
that lie in the same sets are one class (``rowclasses``).

The combinations are searched as a code's words of low weight. Persons are dealt to layers, each to the first
in which a row of theirs is no combination of those there; a word that is not zero on somebody who is left
over is not zero on somebody of each layer either. So what tells of fewer than ``least`` is zero on all whom
``least`` - 1 layers leave over: most of it falls to that, and few rows remain to be searched. Arithmetic is
modulo a prime that nobody knows before, so that nobody can choose sets that depend on each other by it.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Final

import numpy as np

from wardround_client.rowclasses import Classes
from wardround_common.errors import Refused
from wardround_common.typing import Array, Bools, Ints

MOST_LOOKS: Final = 2_000  # a few milliseconds each, for one comparison
MOST_FOUND: Final = 200
_CHUNK: Final = 1 << 14  # classes at a time, so that they stay in the processor's cache


@dataclass(frozen=True)
class Exposure:
    """Classes of rows that are told together, of how many persons, and by which of the sets together.

    ``ways``: how many independent sums over these rows are told; 1 unless a person has rows in several
    classes. ``is_correction``: all of them are combinations of the ``corrections``.
    """

    classes: frozenset[int]
    ways: int
    persons: int
    sets: tuple[int, ...]
    is_correction: bool = False


def exposures(found: Classes, least: int, corrections: Sequence[tuple[int, int]] = ()) -> list[Exposure]:
    """Return the smallest groups of fewer than ``least`` persons that combinations of the sets tell of.

    ``corrections``: pairs of sets whose difference is no one's choice. Where no more is told of a group than
    these tell, it is marked. Refused where more would have to be looked at than can be.
    """
    prime = _prime()
    total = len(found.members)
    none = _vanishing(found, np.eye(total, dtype=np.int64), 0, prime)
    last = {total - 1 - pivot for pivot in _reduced(none[:, ::-1], prime)[1]}
    basis = [i for i in range(total) if i not in last]  # of earlier sets rather than later ones
    code = np.zeros((len(basis), total), np.int64)
    code[np.arange(len(basis)), basis] = 1
    code = _vanishing(found, code, least - 1, prime)
    if not len(code):
        return []
    allowed = np.zeros((len(corrections), total), np.int64)
    for row, (one, other) in zip(allowed, corrections, strict=True):
        row[one], row[other] = 1, prime - 1
    search = _Search(found, code, least, prime)
    free = np.concatenate([none, allowed])
    rank = len(_reduced(free, prime)[1])
    return [
        Exposure(
            one.classes,
            one.ways,
            one.persons,
            one.sets,
            bool(corrections) and len(_reduced(np.concatenate([free, over]), prime)[1]) == rank,
        )
        for one, over in search.all()
    ]


@cache
def _prime() -> int:
    """Return a prime below 2^31, so that products fit; another in every process."""
    odd = np.arange(3, 1 << 16, 2)
    while True:
        number = secrets.randbelow(1 << 30) + (1 << 30) | 1
        if (number % odd).all():
            return number


def _vanishing(found: Classes, code: Ints, budget: int, prime: int) -> Ints:
    """Return the combinations of sets (d, sets) to which all that tell of ``budget`` persons at most belong.

    They are zero on all but few classes.
    """
    chance = np.random.default_rng(secrets.randbits(128))
    live = np.arange(len(found.persons))
    while len(code):
        most = 4 * (budget + 1) * len(code)
        whole = len(live) <= most
        if not whole:  # the more persons of a kind, the more layers it is in
            live = live[np.argpartition(-found.persons[live], most)[:most]]
        part = _Part.of(found, live, code, prime)
        left = part.left_over(budget)
        if whole and not left.any():
            break
        code = part.zero_on(left).code
        if not len(code):
            break
        # two random mixtures are zero where all are, but for a chance of one in the prime's square
        mixed = _product(chance.integers(1, prime, (2, len(code))), code, prime)
        live = np.flatnonzero(found.kinds(_used(_values(found.members, mixed, prime))))
    return code


@dataclass(frozen=True, repr=False)
class _Part:
    """Combinations of sets with their values (d, columns) on the rows of some kinds of persons.

    Kind k has ``persons[k]`` persons; column c is of kind ``owner[c]``. ``code`` (d, sets).
    """

    code: Ints
    values: Ints
    owner: Ints
    persons: Ints
    prime: int
    columns: Ints = field(default_factory=lambda: np.zeros(0, np.int64))

    @classmethod
    def of(cls, found: Classes, kinds: Ints, code: Ints, prime: int) -> _Part:
        """Return the values of ``code`` on the rows of these kinds, those of most persons first."""
        kinds = kinds[np.argsort(-found.persons[kinds], kind="stable")]
        sizes = found.starts[kinds + 1] - found.starts[kinds]
        begins = np.cumsum(sizes) - sizes
        columns = found.columns[np.repeat(found.starts[kinds] - begins, sizes) + np.arange(int(sizes.sum()))]
        values = _values(found.members[:, columns], code, prime)
        owner = np.repeat(np.arange(len(kinds)), sizes)
        return cls(code, values, owner, found.persons[kinds], prime, columns)

    def hit(self, values: Ints) -> Bools:
        """Return on which kinds some of these combinations are not zero."""
        found = np.zeros(len(self.persons), bool)
        found[self.owner[_used(values)]] = True
        return found

    def left_over(self, layers: int) -> Bools:
        """Return the columns of those whom ``layers`` layers leave over."""
        persons = np.where(self.hit(self.values), self.persons, 0)
        for _ in range(layers):
            at = np.flatnonzero(persons[self.owner] > 0)
            taken = np.unique(self.owner[at[_reduced(self.values[:, at], self.prime)[1]]])
            if not len(taken):
                break
            persons[taken] -= 1
        return persons[self.owner] > 0

    def zero_on(self, columns: Bools) -> _Part:
        """Return the combinations of these that are zero on some columns."""
        null = _null(self.values[:, columns], self.prime)
        code, values = (_product(null, one, self.prime) for one in (self.code, self.values))
        return _Part(code, values, self.owner, self.persons, self.prime, self.columns)

    def without(self, kind: int) -> _Part:
        """Return the same combinations, one kind of whom is paid for."""
        persons = self.persons.copy()
        persons[kind] = 0
        return _Part(self.code, self.values, self.owner, persons, self.prime, self.columns)


class _Search:
    """The search for the smallest groups of fewer than ``least`` persons that a code tells of."""

    def __init__(self, found: Classes, code: Ints, least: int, prime: int) -> None:
        words = _values(found.members, code, prime)
        live = np.flatnonzero(found.kinds(_used(words)))
        self._whole = _Part.of(found, live, code, prime)
        self._budget, self._looks = least - 1, 0

    def all(self) -> Iterator[tuple[Exposure, Ints]]:
        """Yield each group once, with the combinations of sets that tell of it."""
        waiting, seen, groups = [self._whole], set[bytes](), set[bytes]()
        while waiting:
            part = waiting.pop()
            # a space has one reduced echelon form
            key = _reduced(part.code, part.prime)[0].tobytes()
            if not len(part.code) or key in seen:
                continue
            seen.add(key)
            at = self._find(part, self._budget)
            if at is None:
                continue
            group = self._smallest(part, at)
            hit = group.hit(group.values)
            for kind in np.flatnonzero(hit):
                waiting.append(part.zero_on(part.owner == kind))
            if hit.tobytes() not in groups:
                groups.add(hit.tobytes())
                if len(groups) > MOST_FOUND:
                    raise _too_many()
                yield self._exposure(group, hit), group.code

    def _exposure(self, group: _Part, hit: Bools) -> Exposure:
        classes = frozenset(map(int, group.columns[_used(group.values)]))
        sets = tuple(map(int, np.flatnonzero(_used(group.code))))
        return Exposure(classes, len(group.code), int(self._whole.persons[hit].sum()), sets)

    def _smallest(self, part: _Part, hit: Bools) -> _Part:
        """Return the combinations that tell of some of these kinds, and of no fewer."""
        group = part.zero_on(~hit[part.owner])
        smaller = True
        while smaller:
            smaller = False
            for kind in np.flatnonzero(group.hit(group.values)):
                fewer = group.zero_on(group.owner == kind)
                if len(fewer.code):
                    group, smaller = fewer, True
                    break
        return group

    def _find(self, part: _Part, budget: int) -> Bools | None:
        """Return the kinds on which one combination that costs ``budget`` persons at most is not zero."""
        self._looks += 1
        if self._looks > MOST_LOOKS:
            raise _too_many()
        left = part.left_over(budget)
        while left.any() and len(part.code):
            part = part.zero_on(left)
            left = part.left_over(budget)
        if not len(part.code):
            return None
        reduced, _ = _reduced(part.values, part.prime)
        for row in reduced:
            hit = part.hit(row[None])
            if part.persons[hit].sum() <= budget:
                return hit
        if len(reduced) == 1:
            return None
        costs = np.where(part.hit(part.values), part.persons, 0)
        kind = int(costs.argmax())
        if costs[kind] <= budget:
            paid = self._find(part.without(kind), budget - int(costs[kind]))
            if paid is not None:
                return paid
        return self._find(part.zero_on(part.owner == kind), budget)


def _too_many() -> Refused:
    return Refused(
        "differencing",
        "its row sets and those of earlier studies tell of few rows in more ways than can be compared; ask "
        "for fewer analyses or splits, or close the cohort by a date (`cohort.closed`)",
    )


def _used(matrix: Ints) -> Bools:
    """Return the columns that are not all zero."""
    used: Bools = np.logical_or.reduce(matrix, axis=0)
    return used


def _values(members: Bools, code: Ints, prime: int) -> Ints:
    """Return the combinations' values (d, classes) modulo the prime."""
    total = np.zeros((len(code), members.shape[1]), np.int64)
    words = code.astype(np.float64)  # fewer than 2^22 sets of words below 2^31: exact
    for begin in range(0, members.shape[1], _CHUNK):
        part = slice(begin, begin + _CHUNK)
        total[:, part] = words @ members[:, part].astype(np.float64)
    total %= prime
    return total


def _product(left: Ints, right: Ints, prime: int) -> Ints:
    """Return ``left @ right`` modulo the prime."""
    total = np.zeros((len(left), right.shape[1]), np.int64)
    for i, row in enumerate(right):
        total = (total + left[:, i, None] * row) % prime
    return total


def _reduced(matrix: Array, prime: int) -> tuple[Ints, list[int]]:
    """Return the reduced row echelon form modulo the prime, without zero rows, and its pivots' columns."""
    left, pivots = np.array(matrix, np.int64), list[int]()
    column = 0
    while len(pivots) < len(left):
        done = len(pivots)
        ahead = _used(left[done:, column:])
        if not ahead.any():
            break
        column += int(ahead.argmax())
        pivot = done + int(np.flatnonzero(left[done:, column])[0])
        left[[done, pivot]] = left[[pivot, done]]
        left[done] = left[done] * pow(int(left[done, column]), -1, prime) % prime
        others = np.flatnonzero(left[:, column])
        others = others[others != done]
        left[others] = (left[others] - left[others, column, None] * left[done]) % prime
        pivots.append(column)
    return left[: len(pivots)], pivots


def _null(matrix: Ints, prime: int) -> Ints:
    """Return a basis (k, rows) of the combinations of rows that are zero modulo the prime."""
    rows = len(matrix)
    reduced, pivots = _reduced(matrix.T, prime)
    free = [i for i in range(rows) if i not in set(pivots)]
    basis = np.zeros((len(free), rows), np.int64)
    basis[np.arange(len(free)), free] = 1
    basis[:, pivots] = (-reduced[:, free].T) % prime
    return basis
