"""Decision trees over binned variables: the forest's model, and the way of a row through it.

A number's values are told apart by its edges (bin b holds edges[b-1] <= value < edges[b]), a category's by
its levels; missing is the last bin. A node keeps one bit a bin, set where the bin's rows go left, so a cut
of a number, a subset of levels and the way of missing values are one and the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from wardround_common.cohort import Block
from wardround_common.elementary import log
from wardround_common.typing import Array, Floats, Ints, Words
from wardround_common.wire import Encoded

MOST_BINS = 63  # and one for missing: a node's bits fit 64
MOST_DEPTH = 32
_AT_ONCE = 1 << 16  # rows x trees that are walked together: few calls, and all in cache
LEAST_RISK = 2.0**-10  # log-odds of a forest are cut off here: a tree's leaf of one outcome says 0


@dataclass(frozen=True)
class Bins(Encoded):
    """How each variable's values are told apart.

    ``edges`` holds all variables' rising edges one behind the other, those of variable i from
    ``starts[i]`` to ``starts[i + 1]``; a category has none and ``levels[i]`` levels, a number 0.
    """

    names: tuple[str, ...]
    edges: Floats
    starts: Ints  # (names + 1,)
    levels: Ints  # (names,)

    def __post_init__(self) -> None:
        size = len(self.names)
        if self.starts.shape != (size + 1,) or self.levels.shape != (size,) or not size:
            raise ValueError("bins of another number of variables")
        cuts = np.diff(self.starts)
        if self.starts[0] != 0 or self.starts[-1] != len(self.edges) or cuts.min() < 0:
            raise ValueError("bins whose edges don't belong to their variables")
        if int(self.counts.max()) > MOST_BINS or int(self.levels.min()) < 0:
            raise ValueError(f"more than {MOST_BINS} bins")

    @property
    def counts(self) -> Ints:
        """Bins of each variable, missing not counted; shape (names,)."""
        return np.where(self.levels > 0, self.levels, np.diff(self.starts) + 1)

    @property
    def missing(self) -> int:
        """The bin of missing values, the same for all variables."""
        return int(self.counts.max())

    def edges_of(self, variable: int) -> Floats:
        """Return the rising edges of a number variable."""
        return self.edges[int(self.starts[variable]) : int(self.starts[variable + 1])]

    def of(self, block: Block) -> Array:
        """Return each row's bin of each variable; uint8, shape (names, rows)."""
        out = np.empty((len(self.names), block.rows), np.uint8)
        for i, name in enumerate(self.names):
            if self.levels[i]:
                codes = block.codes(name)
                out[i] = np.where(codes < 0, self.missing, codes)
            else:
                values = block.numbers(name)
                found = np.searchsorted(self.edges_of(i), values, side="right")
                out[i] = np.where(np.isnan(values), self.missing, found)
        return out


@dataclass(frozen=True)
class Trees:
    """The nodes of some trees, roots first, children always behind their parent.

    ``tree`` is a node's tree, ``variable`` -1 at a leaf, ``goes_left`` the bins that go to node ``left``;
    all others go to ``left + 1``. All have shape (nodes,).
    """

    tree: Ints
    variable: Ints
    goes_left: Words
    left: Ints
    value: Floats

    def __post_init__(self) -> None:
        nodes = len(self.tree)
        shapes = {array.shape for array in (self.tree, self.variable, self.goes_left, self.left, self.value)}
        if shapes != {(nodes,)} or not nodes:
            raise ValueError("trees whose nodes don't belong together")
        inner = np.flatnonzero(self.variable >= 0)
        left = self.left[inner]
        if np.any(left <= inner) or np.any(left >= nodes - 1):
            raise ValueError("trees whose nodes don't belong together")
        if not 0 < self.count <= nodes or np.any(self.tree[: self.count] != np.arange(self.count)):
            raise ValueError("trees without their roots in front")

    @property
    def count(self) -> int:
        """Number of trees."""
        return int(self.tree.max()) + 1

    @cached_property
    def _ways(self) -> tuple[Array, Words, Ints]:
        """Each node's variable, bins that go left, and left child, so that a leaf's rows stay there."""
        leaf = self.variable < 0
        variable = np.where(leaf, 0, self.variable)
        return variable, np.where(leaf, ~np.uint64(0), self.goes_left), np.where(leaf, self._every, self.left)

    @cached_property
    def _every(self) -> Ints:
        return np.arange(len(self.tree))

    def leaves(self, roots: Ints, binned: Array) -> Ints:
        """Return the node at which each row ends, from each of the ``roots``; shape (roots, rows).

        ``binned`` is (names, rows). IndexError where a node asks for a variable that there is not.
        """
        variable, goes_left, left = self._ways
        rows = np.arange(binned.shape[1])
        at = np.repeat(roots[:, None], binned.shape[1], axis=1)
        for _ in range(MOST_DEPTH):
            bins = binned[variable[at], rows].astype(np.uint64)
            following = left[at] + ((goes_left[at] >> bins) & np.uint64(1) == 0)
            if np.array_equal(following, at):
                break
            at = following
        return at


@dataclass(frozen=True)
class ForestModel(Encoded):
    """The mean of its trees' leaves: a risk where it ``classifies``, else in the outcome's own unit."""

    kind: ClassVar[str] = "forest"
    bins: Bins
    trees: Trees
    classifies: bool

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that it reads."""
        return self.bins.names

    @property
    def log_odds_bound(self) -> float:
        """The most that |log-odds| can be."""
        return 7.0

    def output(self, block: Block) -> Floats:
        """Return the mean over the trees, added tree by tree; shape (rows,)."""
        binned, total = self.bins.of(block), np.zeros(block.rows)
        at_once = max(_AT_ONCE // max(block.rows, 1), 1)
        for first in range(0, self.trees.count, at_once):
            roots = np.arange(first, min(first + at_once, self.trees.count))
            for values in self.trees.value[self.trees.leaves(roots, binned)]:
                total += values
        mean: Floats = total / self.trees.count
        return mean

    def risk(self, output: Floats) -> Floats:
        """Return P(outcome = second level); shape (rows,)."""
        return np.clip(output, 0.0, 1.0)

    def log_odds(self, output: Floats) -> Floats:
        """Return the risk's log-odds, cut off at LEAST_RISK."""
        p = np.clip(output, LEAST_RISK, 1.0 - LEAST_RISK)
        return log(p / (1.0 - p))

    def described(self) -> dict[str, Any]:
        """Return JSON: the bins of each variable, and the nodes, a bin of ``goes_left`` a bit."""
        trees, bins = self.trees, self.bins
        return {
            "kind": self.kind,
            "classifies": self.classifies,
            "missing_bin": bins.missing,
            "bins": {
                name: {"levels": int(bins.levels[i])}
                if bins.levels[i]
                else {"edges": bins.edges_of(i).tolist()}
                for i, name in enumerate(bins.names)
            },
            "nodes": {
                "tree": trees.tree.tolist(),
                "variable": trees.variable.tolist(),
                "goes_left": trees.goes_left.tolist(),
                "left": trees.left.tolist(),
                "value": trees.value.tolist(),
            },
        }
