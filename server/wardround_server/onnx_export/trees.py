"""A forest as ONNX's TreeEnsemble: numbers are compared with edges, subsets of levels looked up beforehand.

A node sends a row left where the row's column is below a threshold. A number is its own column; for a
category each subset of levels that some node sends left has a column that is 0 for them, 1 for all others.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import numpy_helper

from wardround_common.trees import Bins, ForestModel, Trees
from wardround_common.typing import Array, Bools
from wardround_server.onnx_export.graph import ML, Graph

_BELOW = 1  # BRANCH_LT
_ALL = np.finfo(np.float64).max


def tree_ensemble(graph: Graph, model: ForestModel) -> str:
    """Add the forest; return the mean over its trees, shape (rows, 1)."""
    columns = _Columns(model)
    attributes = _nodes(model.trees, columns)
    parts = [graph.variable(model.bins.names[i]) for i in columns.numbers]
    parts += [_looked_up(graph, model.bins, i, list(masks)) for i, masks in columns.masks.items()]
    together = graph.add("Concat", parts, axis=1)
    total = graph.add("TreeEnsemble", [together], domain=ML, **attributes)
    return graph.add("Div", [total, graph.constant(float(model.trees.count))])


class _Columns:
    """The ensemble's columns: of the numbers in order, then for each category one for each subset."""

    def __init__(self, model: ForestModel) -> None:
        self.bins = model.bins
        is_number = (self.bins.levels == 0).tolist()
        self.numbers = [i for i, number in enumerate(is_number) if number]
        self.masks: dict[int, dict[int, int]] = {}  # of each category, with their places among its columns
        for i, number in enumerate(is_number):
            if not number:
                self.masks[i] = {0: 0}  # no level: a column for a category that no node asks for
        for variable, bits in zip(model.trees.variable.tolist(), model.trees.goes_left.tolist(), strict=True):
            if variable >= 0 and not is_number[variable]:
                self.masks[variable].setdefault(bits, len(self.masks[variable]))
        starts = np.cumsum([len(self.numbers), *map(len, self.masks.values())]).tolist()
        self._starts = dict(zip(self.masks, starts, strict=False))

    def of(self, variable: int, bits: int) -> tuple[int, float, bool]:
        """Return a node's column, its threshold, and whether missing values go left."""
        if self.bins.levels[variable]:
            return self._starts[variable] + self.masks[variable][bits], 0.5, False
        edges = self.bins.edges_of(variable)
        left = _bits(bits, len(edges) + 1)
        below = int(left.sum())
        if not left[:below].all():
            raise ValueError("a node that does not cut a number's bins in their order")
        threshold = -_ALL if not below else _ALL if below > len(edges) else float(edges[below - 1])
        return self.numbers.index(variable), threshold, bool(bits >> self.bins.missing & 1)


def _bits(bits: int, count: int) -> Bools:
    return np.array([bits >> i & 1 for i in range(count)], bool)


def _looked_up(graph: Graph, bins: Bins, variable: int, masks: list[int]) -> str:
    """Return a category's columns, shape (rows, masks), from a table with a row a level, missing last."""
    levels = int(bins.levels[variable])
    held = [*range(levels), bins.missing]
    table = np.array([[float(not mask >> i & 1) for mask in masks] for i in held])
    code = graph.variable(bins.names[variable])
    lacking = graph.add("Less", [code, graph.constant(np.int64(0))])
    row = graph.add("Where", [lacking, graph.constant(np.int64(levels)), code])
    flat = graph.add("Reshape", [row, graph.constant(np.array([-1], np.int64))])
    return graph.add("Gather", [graph.constant(table), flat], axis=0)


def _nodes(trees: Trees, columns: _Columns) -> dict[str, Any]:
    """Return the operator's attributes. A tree of one leaf is a node that leads to it on both sides."""
    lone = (np.arange(len(trees.tree)) < trees.count) & (trees.variable < 0)
    inner, leaf = (trees.variable >= 0) | lone, trees.variable < 0
    node, end = np.cumsum(inner) - 1, np.cumsum(leaf) - 1  # a node's place among those of its sort
    at = np.flatnonzero(inner)
    left = np.where(lone, np.arange(len(lone)), trees.left)[at]
    right = np.where(lone[at], left, left + 1)
    cuts = [
        (0, 0.0, False) if lone[i] else columns.of(int(trees.variable[i]), int(trees.goes_left[i]))
        for i in at.tolist()
    ]

    def target(child: Array) -> list[int]:
        found: list[int] = np.where(leaf[child], end[child], node[child]).tolist()
        return found

    return {
        "n_targets": 1,
        "nodes_featureids": [column for column, _, _ in cuts],
        "nodes_splits": numpy_helper.from_array(np.array([threshold for _, threshold, _ in cuts])),
        "nodes_modes": numpy_helper.from_array(np.full(len(at), _BELOW, np.uint8)),
        "nodes_missing_value_tracks_true": [int(goes_left) for _, _, goes_left in cuts],
        "nodes_truenodeids": target(left),
        "nodes_trueleafs": leaf[left].astype(int).tolist(),
        "nodes_falsenodeids": target(right),
        "nodes_falseleafs": leaf[right].astype(int).tolist(),
        "tree_roots": node[: trees.count].tolist(),
        "leaf_targetids": [0] * int(leaf.sum()),
        "leaf_weights": numpy_helper.from_array(trees.value[leaf]),
    }
