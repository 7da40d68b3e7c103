"""The coordinator's half of a forest: bins from histograms, and cuts from the sums of a level.

Everything is elementwise or an exact sum of integers, so the same sums give the same trees everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from wardround_common.dictionary import Dictionary, NumberVariable
from wardround_common.histogram import CELLS, Histogram
from wardround_common.rowkey import draws
from wardround_common.trees import Bins, ForestModel, Trees
from wardround_common.typing import Bools, Floats, Ints, Words

LEAST_GAIN = 1e-15  # of the node's weight x squared mean: below it a cut is rounding (1e-24 at 1e8 rows)


@dataclass(frozen=True)
class Histograms:
    """Sums by (node, variable, bin): distinct rows, weight, weight x outcome; missing is the last bin."""

    rows: Ints
    weight: Ints
    outcome: Ints


def bins_of(
    dictionary: Dictionary,
    names: Sequence[str],
    histograms: Mapping[str, Histogram],
    most: int,
    min_cell: int,
) -> Bins:
    """Return up to ``most`` bins a variable, near equal in rows, each of ``min_cell`` rows at least."""
    edges: list[Floats] = []
    levels = []
    for name in names:
        variable = dictionary[name]
        if isinstance(variable, NumberVariable):
            cut = cuts_of(histograms[name].counts, most, min_cell)
            edges.append(variable.range[0] + variable.span * (cut / CELLS))
            levels.append(0)
        else:
            edges.append(np.zeros(0))
            levels.append(len(variable.levels))
    starts = np.cumsum([0, *map(len, edges)])
    return Bins(tuple(names), np.concatenate(edges), starts.astype(np.int64), np.array(levels, np.int64))


def cuts_of(cells: Ints, most: int, min_cell: int) -> Floats:
    """Return where bins end, in cells: half-way to the next cell that holds a row."""
    occupied = np.flatnonzero(cells)
    wanted, held, left = max(cells.sum() / most, min_cell), 0, int(cells.sum())
    cuts: list[float] = []
    for cell, following in zip(occupied[:-1].tolist(), occupied[1:].tolist(), strict=True):
        held += int(cells[cell])
        left -= int(cells[cell])
        if held >= wanted and left >= min_cell and len(cuts) < most - 1:
            cuts.append((cell + 1 + following) / 2.0)
            held = 0
    return np.array(cuts, np.float64)


@dataclass(frozen=True)
class Part:
    """What one query asks: trees from number ``first`` on, and some of their nodes with their variables."""

    trees: Trees
    first: int
    nodes: Ints
    features: Ints


@dataclass(frozen=True)
class Side:
    """Sums of the rows that go to one side of each node's cut; shape (nodes,)."""

    rows: Ints
    weight: Ints
    outcome: Ints


@dataclass(frozen=True)
class Cuts:
    """Each node's best cut, where one was ``found``: which of its variables, and the bins that go left."""

    found: Bools
    feature: Ints
    goes_left: Words
    left: Side
    right: Side


class Growing:
    """A forest as far as it has grown. ``active`` are the nodes that may still be split."""

    def __init__(self, bins: Bins, trees: int, tried: int, leaf: int, seed: int) -> None:
        self._bins, self._tried, self._leaf, self._seed = bins, tried, leaf, seed
        self._nodes = Trees(
            np.arange(trees),
            np.full(trees, -1),
            np.zeros(trees, np.uint64),
            np.zeros(trees, np.int64),
            np.zeros(trees),
        )
        self._keys = draws(np.arange(trees, dtype=np.uint64), "tree", seed)
        self._parts: list[tuple[Ints, Part]] = []
        self.active: Ints = np.arange(trees)

    def parts(self, most_cells: int) -> list[Part]:
        """Return the next level's nodes in parts of up to ``most_cells`` histogram cells, tree by tree."""
        each = self._tried * (self._bins.missing + 1)
        size = max(most_cells // each, 1)
        active = self.active[np.argsort(self._nodes.tree[self.active], kind="stable")]
        pieces = [active[i : i + size] for i in range(0, len(active), size)]
        self._parts = [(piece, self._part(piece)) for piece in pieces]
        return [part for _, part in self._parts]

    def _part(self, nodes: Ints) -> Part:
        all_ = self._nodes
        first, last = int(all_.tree[nodes[0]]), int(all_.tree[nodes[-1]])
        held = np.flatnonzero((all_.tree >= first) & (all_.tree <= last))
        position = np.zeros(len(all_.tree), np.int64)
        position[held] = np.arange(len(held))
        left = np.where(all_.variable[held] >= 0, position[all_.left[held]], 0)
        trees = Trees(
            all_.tree[held] - first, all_.variable[held], all_.goes_left[held], left, np.zeros(len(held))
        )
        return Part(trees, first, position[nodes], self._features(self._keys[nodes]))

    def _features(self, keys: Words) -> Ints:
        """Return each node's variables, in the order of their draws; shape (nodes, tried)."""
        drawn = np.stack([draws(keys, f"feature {name}", self._seed) for name in self._bins.names], axis=1)
        return np.argsort(drawn, axis=1, kind="stable")[:, : self._tried]

    def split(self, found: Sequence[Histograms]) -> None:
        """Split the nodes asked where a cut lowers the error and leaves ``leaf`` rows on both sides."""
        following = []
        for (nodes, part), histograms in zip(self._parts, found, strict=True):
            at_root = nodes < self._nodes.count
            weight, outcome = histograms.weight[:, 0].sum(axis=1), histograms.outcome[:, 0].sum(axis=1)
            self._nodes.value[nodes[at_root]] = (outcome / np.maximum(weight, 1))[at_root]
            cuts = best_cuts(histograms, self._bins.levels[part.features] > 0, self._leaf)
            following.append(self._with_children(nodes, part.features, cuts))
        self.active = np.concatenate(following)

    def _with_children(self, nodes: Ints, features: Ints, cuts: Cuts) -> Ints:
        """Append the children of the nodes that are split; return those that may be split again."""
        split = np.flatnonzero(cuts.found)
        parents, before = nodes[split], self._nodes
        children = len(before.tree) + np.arange(2 * len(split))
        before.variable[parents] = features[split, cuts.feature[split]]
        before.goes_left[parents] = cuts.goes_left[split]
        before.left[parents] = children[::2]
        rows, weight, outcome = (
            np.stack([left[split], right[split]], axis=1).ravel()
            for left, right in (
                (cuts.left.rows, cuts.right.rows),
                (cuts.left.weight, cuts.right.weight),
                (cuts.left.outcome, cuts.right.outcome),
            )
        )
        keys = [draws(self._keys[parents], side, self._seed) for side in ("left", "right")]
        self._keys = np.append(self._keys, np.stack(keys, axis=1).ravel())
        self._nodes = Trees(
            np.append(before.tree, np.repeat(before.tree[parents], 2)),
            np.append(before.variable, np.full(len(children), -1)),
            np.append(before.goes_left, np.zeros(len(children), np.uint64)),
            np.append(before.left, np.zeros(len(children), np.int64)),
            np.append(before.value, outcome / weight),
        )
        return children[rows >= 2 * self._leaf]

    def model(self, offset: float, unit: float, classifies: bool) -> ForestModel:
        """Return the forest, its values as offset + unit x mean outcome."""
        nodes = self._nodes
        value = offset + unit * nodes.value
        return ForestModel(
            self._bins, Trees(nodes.tree, nodes.variable, nodes.goes_left, nodes.left, value), classifies
        )


def best_cuts(histograms: Histograms, is_category: Bools, leaf: int) -> Cuts:
    """Return each node's cut with the least squared error; ``is_category`` has shape (nodes, tried).

    A number's bins are cut in their order, missing values on either side; a category's in the order of
    their mean outcome, missing being a level among others. Bins without rows go where more weight goes.
    """
    order = _order(histograms, is_category)
    sums = [np.take_along_axis(one, order, axis=2).cumsum(axis=2) for one in _arrays(histograms)]
    whole = [one[:, :, -1:] for one in sums]
    lacking = [np.where(is_category[:, :, None], 0, one[:, :, -1:]) for one in _arrays(histograms)]
    gains = [_gains(sums, whole, leaf)]
    if lacking[0].any():
        with_missing = [one + more for one, more in zip(sums, lacking, strict=True)]
        gain = _gains(with_missing, whole, leaf)
        gain[:, :, -1] = -1.0
        gain[sums[0] == 0] = -1.0  # missing values alone on the left: the same as alone on the right
        gain[is_category] = -1.0
        gains.append(gain)
    gain = np.stack(gains, axis=3)  # (nodes, tried, bins, missing right or left)
    nodes, choices = len(gain), gain.shape[2] * gain.shape[3]
    best = gain.reshape(nodes, -1).argmax(axis=1)
    feature, at, missing_left = best // choices, best % choices // len(gains), best % len(gains)
    every = np.arange(nodes)
    found = gain.reshape(nodes, -1)[every, best] > LEAST_GAIN
    left = [
        one[every, feature, at] + missing_left * more[every, feature, 0]
        for one, more in zip(sums, lacking, strict=True)
    ]
    right = [one[every, feature, 0] - mine for one, mine in zip(whole, left, strict=True)]
    chosen = order[every, feature]  # (nodes, bins)
    goes = np.zeros(chosen.shape, bool)
    np.put_along_axis(goes, chosen, np.arange(chosen.shape[1]) <= at[:, None], axis=1)
    goes[:, -1] |= missing_left > 0
    is_number = ~is_category[every, feature]
    alone = is_number & (missing_left == 0) & (right[0] == lacking[0][every, feature, 0])
    goes[alone, :-1] = True  # missing values against all others, those not seen here included
    empty = histograms.rows[every, feature] == 0
    empty[is_number, :-1] = False  # a number's empty bins lie on their side of the cut
    goes = np.where(empty, (left[1] >= right[1])[:, None], goes)
    bits = np.zeros(nodes, np.uint64)
    for b in range(goes.shape[1]):
        bits |= goes[:, b].astype(np.uint64) << np.uint64(b)
    return Cuts(found, feature, bits, Side(*left), Side(*right))


def _arrays(histograms: Histograms) -> tuple[Ints, Ints, Ints]:
    return histograms.rows, histograms.weight, histograms.outcome


def _order(histograms: Histograms, is_category: Bools) -> Ints:
    """Return the order of the bins in which they are cut; empty levels come last."""
    bins = np.broadcast_to(np.arange(histograms.rows.shape[2], dtype=np.float64), histograms.rows.shape)
    if not is_category.any():
        return bins.astype(np.int64)
    mean = histograms.outcome / np.maximum(histograms.weight, 1)
    mean = np.where(histograms.rows > 0, mean, np.inf)
    return np.argsort(np.where(is_category[:, :, None], mean, bins), axis=2, kind="stable")


def _gains(left: Sequence[Ints], whole: Sequence[Ints], leaf: int) -> Floats:
    """Return how much of the node's squared outcome each cut explains; -1 where a side is too small."""
    rows, weight, outcome = left
    all_rows, all_weight, all_outcome = whole
    other = all_weight - weight
    allowed = (rows >= leaf) & (all_rows - rows >= leaf)
    mean = all_outcome / np.maximum(all_weight, 1)
    off = outcome - weight * mean  # how far the left side's outcome is from the node's mean, in all
    explained = off * off * all_weight / (np.maximum(weight, 1) * np.maximum(other, 1).astype(np.float64))
    scale = np.maximum(np.abs(all_outcome) * mean, 1.0)
    return np.where(allowed, explained / scale, -1.0)
