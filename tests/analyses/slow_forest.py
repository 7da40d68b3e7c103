"""A forest as one writes it down for a handful of rows: plain Python, exact fractions, one row at a time.

The reference for ``test_forest``. It shares the bins and the row keys' draws with the forest under test, and
nothing else: weights come from fractions, gains are differences of exact squared errors, levels are tried in
all subsets.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache
from itertools import combinations

import numpy as np

from wardround_common.rowkey import draws

TERMS = 40  # of the series for 1/e: 1/40! is below 2^-158
MOST_LEVELS = 6  # up to so many, all subsets are tried


@dataclass(frozen=True)
class Row:
    """One person: the row key, the bin of each variable, and the outcome in whole units."""

    key: int
    bins: dict[str, int]
    outcome: int


@dataclass(frozen=True)
class Settings:
    """``categories`` are those of the ``names`` whose bins have no order; ``missing`` is the last bin."""

    names: tuple[str, ...]
    categories: frozenset[str]
    missing: int
    tried: int
    leaf: int
    depth: int
    seed: int


@dataclass
class Node:
    """``variable`` None at a leaf; ``left`` holds the bins that go left. ``rows``: distinct, in the sample.

    ``ties`` are other cuts that are exactly as good; between those, a forest in floats may choose.
    """

    value: Fraction
    rows: int
    variable: str | None = None
    left: frozenset[int] = frozenset()
    children: tuple[Node, ...] = ()
    ties: list[Cut] = field(default_factory=list)


@dataclass(frozen=True)
class Cut:
    """Which of the bins ``seen`` go left, and by how much that lowers the squared error."""

    variable: str
    left: frozenset[int]
    seen: frozenset[int]
    gain: Fraction


@dataclass(frozen=True)
class Sums:
    """Distinct rows, their weight, and weight x outcome."""

    rows: int = 0
    weight: int = 0
    outcome: int = 0

    @property
    def explained(self) -> Fraction:
        """The squared error is the sum of squares, which no cut changes, minus this."""
        return Fraction(self.outcome**2, self.weight)


def draw(key: int, purpose: str, seed: int) -> int:
    """Return the draw of one key."""
    return int(draws(np.array([key], np.uint64), purpose, seed)[0])


@cache
def thresholds() -> tuple[int, ...]:
    """Return P(Poisson(1) <= k) for k = 0 ... 6 in units of 2^-64, rounded down."""
    found = []
    for ends in (TERMS, TERMS + 1):  # the alternating series lies between its partial sums
        inverse_e = sum(Fraction((-1) ** i, math.factorial(i)) for i in range(ends))
        sums = [sum(inverse_e / math.factorial(i) for i in range(k + 1)) for k in range(7)]
        found.append(tuple(math.floor(one * 2**64) for one in sums))
    assert found[0] == found[1]
    return found[0]


def weight(key: int, tree: int, seed: int) -> int:
    """Return how often a row stands in a tree's sample."""
    drawn = draw(key, f"bootstrap {tree}", seed)
    return sum(drawn >= threshold for threshold in thresholds())


def grow(rows: Sequence[Row], tree: int, settings: Settings) -> Node:
    """Return one tree."""
    sample = [(row, weight(row.key, tree, settings.seed)) for row in rows]
    return _grow([one for one in sample if one[1]], draw(tree, "tree", settings.seed), 0, settings)


def predict(root: Node, bins: dict[str, int]) -> Fraction:
    """Walk one row to its leaf."""
    node = root
    while node.variable is not None:
        node = node.children[0 if bins[node.variable] in node.left else 1]
    return node.value


def leaves(node: Node) -> Iterator[Node]:
    """Yield a tree's leaves."""
    if node.variable is None:
        yield node
    for child in node.children:
        yield from leaves(child)


def _grow(sample: list[tuple[Row, int]], key: int, depth: int, settings: Settings) -> Node:
    weights = sum(w for _, w in sample)
    node = Node(Fraction(sum(w * row.outcome for row, w in sample), weights), len(sample))
    if depth == settings.depth:
        return node
    drawn = {name: draw(key, f"feature {name}", settings.seed) for name in settings.names}
    chosen = sorted(settings.names, key=lambda name: drawn[name])[: settings.tried]
    cuts = [cut for name in chosen for cut in _cuts(sample, name, settings)]
    most = max((cut.gain for cut in cuts), default=0)
    if not most:
        return node
    best, *node.ties = (cut for cut in cuts if cut.gain == most)
    sides: tuple[list[tuple[Row, int]], ...] = ([], [])
    for row, w in sample:
        sides[0 if row.bins[best.variable] in best.left else 1].append((row, w))
    node.variable = best.variable
    node.left = best.left | _unseen_left(sample, sides[0], best, settings)
    node.children = tuple(
        _grow(side, draw(key, name, settings.seed), depth + 1, settings)
        for side, name in zip(sides, ("left", "right"), strict=True)
    )
    return node


def _cuts(sample: list[tuple[Row, int]], name: str, settings: Settings) -> Iterator[Cut]:
    """Yield the cuts of one variable that leave enough rows on both sides, in order."""
    found: dict[int, Sums] = {}
    for row, w in sample:
        found[row.bins[name]] = _added([found.get(row.bins[name], Sums()), Sums(1, w, w * row.outcome)])
    ways: list[frozenset[int]] = []
    if name in settings.categories:
        order = sorted(found, key=lambda b: (Fraction(found[b].outcome, found[b].weight), b))
        ways = [frozenset(order[:k]) for k in range(1, len(order))]
        if 1 < len(found) <= MOST_LEVELS:
            subsets = [frozenset(one) for k in range(1, len(found)) for one in combinations(found, k)]
            best = max(_gain(found, one) for one in subsets)
            assert best == max(_gain(found, one) for one in ways), "not in the order of the means"
    else:
        observed = sorted(set(found) - {settings.missing})
        for highest in observed[:-1]:
            below = frozenset(range(highest + 1))
            ways += [below, below | {settings.missing}] if settings.missing in found else [below]
        ways.append(frozenset(range(settings.missing)))  # missing values alone, if there are any
    for left in ways:
        rows = sum(one.rows for b, one in found.items() if b in left)
        if min(rows, len(sample) - rows) >= settings.leaf:
            yield Cut(name, left, frozenset(found), _gain(found, left))


def _gain(found: dict[int, Sums], left: frozenset[int]) -> Fraction:
    """Return how much lower the squared error is with the two sides' means than with one."""
    sides = [_added([one for b, one in found.items() if (b in left) is side]) for side in (True, False)]
    if not all(side.rows for side in sides):
        return Fraction(0)
    return sum((side.explained for side in sides), -_added(sides).explained)


def _added(parts: Sequence[Sums]) -> Sums:
    return Sums(
        sum(one.rows for one in parts), sum(one.weight for one in parts), sum(one.outcome for one in parts)
    )


def _unseen_left(
    sample: list[tuple[Row, int]], left: list[tuple[Row, int]], cut: Cut, settings: Settings
) -> frozenset[int]:
    """Return the bins without rows here that follow the greater weight to the left.

    Those of a number lie on their side of the cut, missing excepted.
    """
    seen = {row.bins[cut.variable] for row, _ in sample}
    bins = range(settings.missing + 1) if cut.variable in settings.categories else [settings.missing]
    to_left = 2 * sum(w for _, w in left) >= sum(w for _, w in sample)
    return frozenset(b for b in bins if b not in seen and to_left)
