"""Which sets of hospitals may compute, given those that did: PROTOCOL.md, section 7, in fractions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import combinations
from math import comb

MOST_COMBINATIONS = 50_000


@dataclass(frozen=True)
class Group:
    """An epoch's hospitals with their terms, and the sets of its analyses; ``study`` is the binding."""

    study: bytes
    leaves: Mapping[str, str]
    sets: Sequence[Collection[str]]


def _rank(rows: Sequence[Sequence[int]]) -> int:
    left, found = [[Fraction(one) for one in row] for row in rows], 0
    for column in range(len(rows[0]) if rows else 0):
        pivot = next((row for row in left if row[column]), None)
        if pivot is None:
            continue
        left.remove(pivot)
        factors = [row[column] / pivot[column] for row in left]
        left = [
            [a - factor * b for a, b in zip(row, pivot, strict=True)]
            for row, factor in zip(left, factors, strict=True)
        ]
        found += 1
    return found


def exposed(sets: Sequence[Collection[str]], min_hospitals: int) -> list[frozenset[str]]:
    """Return the smallest sets of hospitals, fewer than so many each, that sums over ``sets`` tell of.

    Some combination of the sets is zero outside of them, and not zero: so outside of them the sets have a
    lower rank than they have.
    """
    every = sorted(set().union(*sets))

    def rank(names: Sequence[str]) -> int:
        return _rank([[int(name in one) for name in names] for one in sets])

    found: list[frozenset[str]] = []
    for size in range(1, min_hospitals):
        for names in map(frozenset, combinations(every, size)):
            outside = [name for name in every if name not in names]
            if not any(one <= names for one in found) and rank(outside) < rank(every):
                found.append(names)
    return found


def too_many(sets: Sequence[Collection[str]], min_hospitals: int) -> bool:
    """Tell whether there are more sets of fewer than so many hospitals than a rule looks at.

    Hospitals that are in the same of ``sets`` are looked at as one, and not at all if they are too many.
    """
    every = sorted(set().union(*sets))
    together = Counter(tuple(name in one for one in sets) for name in every)
    few = sum(count < min_hospitals for count in together.values())
    return sum(comb(few, size) for size in range(1, min_hospitals)) > MOST_COMBINATIONS


def refused(before: Sequence[Group], after: Group, min_hospitals: int, max_epochs: int) -> str | None:
    """Return the code with which a set is refused, or None. ``before``: in the order in which they came."""
    every = [*before, after]
    terms = {name: leave for one in every for name, leave in one.leaves.items()}  # as each said last
    for one in before:
        never = {name for name, leave in one.leaves.items() if leave == "never"}
        if one.study == after.study and not never <= set(after.leaves):
            return "leave"
    sums = [names for one in every for names in one.sets]
    if too_many(sums, min_hospitals):
        return "leave"
    for names in exposed(sums, min_hospitals):
        if {terms[name] for name in names} != {"allow"}:
            return "leave"
    sets = list(dict.fromkeys(frozenset(one.leaves) for one in every))
    near = [one for i, one in enumerate(sets) if any(len(one ^ other) < min_hospitals for other in sets[:i])]
    is_new = frozenset(after.leaves) not in [frozenset(one.leaves) for one in before]
    return "max_epochs" if is_new and len(near) > max_epochs else None
