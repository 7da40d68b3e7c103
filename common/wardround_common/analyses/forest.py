"""Random forest over the federation (Breiman 2001): all trees grow together, one round a level.

The first round asks fine histograms over the declared ranges, from which the bins come. Each further round
asks, for the nodes of all trees at one level, integer histograms over the bins of the variables that the
node may use: distinct rows, bootstrap weight, and weight x outcome. The coordinator picks the cuts, so a
hospital need only know the trees so far. A level of more than 64 MiB takes a round for each of them.
Bootstrap and choice of variables follow from row and tree keys. Splits lower the weighted squared error,
which for an outcome of two levels is the Gini impurity (Breiman et al. 1984, section 4.2); levels are
ordered by their mean, which finds the best subset (theorem 4.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Key

from wardround_common.analysis import Analysis, ModelSpec, Plan, Rows, SmallCells, nothing_to_learn
from wardround_common.bootstrap import MOST_WEIGHT, weights
from wardround_common.cohort import Block, Cohort
from wardround_common.dictionary import CategoryVariable, Dictionary, NumberVariable
from wardround_common.growing import Growing, Histograms, bins_of
from wardround_common.histogram import CELLS, Histogram, HistogramQuery
from wardround_common.program import Program, ask, together
from wardround_common.query import Contribution, Field, Frame, Layout, Sum, counts
from wardround_common.trees import MOST_BINS, MOST_DEPTH, Bins, ForestModel, Trees
from wardround_common.typing import Array, Ints

OUTCOME_BITS = 20  # a number's outcome is taken in 2^-20 of its declared range
MOST_CELLS = (16 << 20) // (3 * 8)  # of one query: 16 MiB
MOST_PARTS = 4  # queries of one step: a level of a very large forest takes several


class ForestSpec(ModelSpec):
    """``features``: variables that a node may use; `sqrt` of their number, a `third`, `all`, or a number.

    None is `sqrt` for two levels and `all` for a number, as in scikit-learn. ``leaf``: distinct rows that a
    leaf has at least, never below ``min_cell``; None is ``min_cell``.
    """

    kind: Literal["forest"] = "forest"
    trees: Annotated[int, Key(ge=1, le=2000)] = 100
    depth: Annotated[int, Key(ge=1, le=MOST_DEPTH)] = 8
    features: Literal["sqrt", "third", "all"] | Annotated[int, Key(ge=1)] | None = None
    leaf: Annotated[int, Key(ge=1)] | None = None
    bins: Annotated[int, Key(ge=2, le=MOST_BINS)] = 32
    seed: Annotated[int, Key(ge=0, lt=2**53)] = 0

    @property
    def steps(self) -> int:
        """A level a step, its bins before, an evaluation after."""
        return self.depth + 9

    def sentence(self) -> str:
        """As for any analysis."""
        return (
            f"A forest of {self.trees} decision trees, {self.depth} questions deep at most, that predicts "
            f"{self.predicting()}; it holds at which values it divides the rows, and how those of each part "
            "fared."
        )

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError where outcome or predictors don't suit trees."""
        self.check_outcome(dictionary, ("category", "number"))
        predictors = self.predictors or ()
        for i, name in enumerate(predictors):
            if ":" in name:
                raise ValueError(
                    f"predictors[{i}]: `{name}` is an interaction; trees find those by themselves, "
                    "so give the forest `predictors` of its own, without it"
                )
            variable = dictionary[name]
            if isinstance(variable, CategoryVariable) and len(variable.levels) > MOST_BINS:
                raise ValueError(f"predictors[{i}]: `{name}` has more than {MOST_BINS} levels; gather some")
        if isinstance(self.features, int) and self.features > len(predictors):
            raise ValueError(f"features: there are {len(predictors)} predictors only")

    def resolved(self, dictionary: Dictionary) -> Self:
        """Write down which `features`, too."""
        spec = super().resolved(dictionary)
        if spec.features is not None:
            return spec
        two = isinstance(dictionary[str(self.outcome)], CategoryVariable)
        return spec.model_copy(update={"features": "sqrt" if two else "all"})

    @property
    def tried(self) -> int:
        """How many variables a node may use."""
        size, features = len(self.predictors or ()), self.features
        if isinstance(features, int):
            return features
        return {"sqrt": max(int(size**0.5), 1), "third": max(size // 3, 1)}.get(str(features), size)


@dataclass(frozen=True)
class SplitsQuery:
    """Histograms of some nodes at the lower end of ``trees``, the forest's trees from number ``first`` on.

    ``nodes`` (asked,) are in the order of their trees; ``features`` (asked, tried) the variables of each.
    """

    kind: ClassVar[str] = "forest.splits"
    rows: Rows
    outcome: str
    bins: Bins
    trees: Trees
    first: int
    seed: int
    nodes: Ints
    features: Ints

    def layout(self, frame: Frame) -> Layout:
        """``rows``, ``weight`` and ``outcome``, each (asked, tried, bins with missing)."""
        shape = (*self.features.shape, self.bins.missing + 1)
        units = 1 if isinstance(frame.dictionary[self.outcome], CategoryVariable) else 1 << OUTCOME_BITS
        fields = (
            counts("rows", *shape),
            Field("weight", shape, True, np.full(shape, float(MOST_WEIGHT))),
            Field("outcome", shape, True, np.full(shape, float(MOST_WEIGHT * units))),
        )
        return Layout(fields, frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A row counts, in each tree, in the node that it has reached, once for each of its variables."""
        shape = layout.fields[0].shape
        if self.nodes.shape != shape[:1] or np.any(np.diff(self.trees.tree[self.nodes]) < 0):
            raise ValueError("nodes out of order")
        found = [np.zeros(field.size, np.int64) for field in layout.fields]
        binned = cohort.remembered(self.bins.sha256, self.bins.of)
        rows = 0
        for block in self.rows.of(cohort):
            rows += block.rows
            own, y = np.ascontiguousarray(block.of(binned)), _outcome(block, cohort.dictionary, self.outcome)
            for tree in range(self.trees.count):
                self._add(found, tree, own, block, y)
        arrays = [array.reshape(shape) for array in found]
        return Contribution(rows, dict(zip(("rows", "weight", "outcome"), arrays, strict=True)))

    def _add(self, found: list[Ints], tree: int, binned: Array, block: Block, y: Ints) -> None:
        """Add one tree's histograms of one block; each tree's nodes lie together in the arrays."""
        asked = np.flatnonzero(self.trees.tree[self.nodes] == tree)
        if not len(asked):
            return
        weight = weights(block.keys, self.first + tree, self.seed)
        (at,) = self.trees.leaves(np.array([tree]), binned)
        slots = np.full(len(self.trees.tree), -1)
        slots[self.nodes[asked]] = np.arange(len(asked))
        slot = slots[at]
        inside = np.flatnonzero((slot >= 0) & (weight > 0))
        slot, weight, y = slot[inside], weight[inside], y[inside]
        tried, width = self.features.shape[1], self.bins.missing + 1
        variable = self.features[asked[0] : asked[-1] + 1][slot]
        cells = binned[variable, inside[:, None]] + (slot[:, None] * tried + np.arange(tried)) * width
        size = len(asked) * tried * width
        # Two counts in one float: exact, since a block has fewer than 2^15 rows and weights sum below 2^18
        packed = np.repeat(1.0 + weight * 2.0**20, tried)
        both = np.bincount(cells.ravel(), packed, size).astype(np.int64)
        of_outcome = np.bincount(cells.ravel(), np.repeat((weight * y).astype(np.float64), tried), size)
        where = slice(int(asked[0]) * tried * width, (int(asked[-1]) + 1) * tried * width)
        found[0][where] += both & ((1 << 20) - 1)
        found[1][where] += both >> 20
        found[2][where] += of_outcome.astype(np.int64)

    def read(self, total: Sum) -> Histograms:
        """Return the three histograms."""
        return Histograms(total.arrays["rows"], total.arrays["weight"], total.arrays["outcome"])


def _outcome(block: Block, dictionary: Dictionary, name: str) -> Ints:
    """Return the outcome in whole units: 0 and 1, or 2^-20 of the declared range."""
    if isinstance(dictionary[name], CategoryVariable):
        return block.codes(name).astype(np.int64)
    return np.rint(block.mapped(name) * (1 << OUTCOME_BITS)).astype(np.int64)


@dataclass(frozen=True)
class ForestFit:
    """A grown forest; ``leaf`` is the least number of distinct rows in a leaf."""

    n: int
    n_missing: int
    outcome_mean: float
    depth: int
    leaf: int
    tried: int
    model: ForestModel

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return its size; the trees themselves are the model."""
        nodes = self.model.trees
        return {
            "n": self.n,
            "n_missing": small.count(self.n_missing),
            "trees": nodes.count,
            "depth": self.depth,
            "leaf": self.leaf,
            "features": self.tried,
            "leaves": int(np.count_nonzero(nodes.variable < 0)),
            "model_sha256": self.model.sha256,
        }


def grow(plan: Plan, spec: ForestSpec) -> Program[ForestFit]:
    """Grow the forest. FitError where all rows have one outcome, StudyError for too few rows."""
    outcome, names = str(spec.outcome), spec.predictors or ()
    rows = Rows("train", spec.needed())
    histograms = yield from ask(HistogramQuery(rows, (*names, outcome)))
    n, classifies = histograms[outcome].observed, isinstance(plan.dictionary[outcome], CategoryVariable)
    plan.check_size(len(names), "predictor", n)
    if np.count_nonzero(histograms[outcome].counts) < 2:
        raise nothing_to_learn(plan, n, outcome, "" if classifies else f", to a {CELLS}th of its range")
    bins = bins_of(plan.dictionary, names, histograms, spec.bins, plan.min_cell)
    leaf, tried = max(spec.leaf or 0, plan.min_cell), spec.tried
    growing = Growing(bins, spec.trees, tried, leaf, spec.seed)
    depth = 0
    while depth < spec.depth and len(growing.active):
        depth += 1
        queries = [
            SplitsQuery(rows, outcome, bins, part.trees, part.first, spec.seed, part.nodes, part.features)
            for part in growing.parts(MOST_CELLS)
        ]
        found: list[Histograms] = []
        for first in range(0, len(queries), MOST_PARTS):
            step = queries[first : first + MOST_PARTS]
            found += yield from together([ask(query) for query in step])
        growing.split(found)
    model = growing.model(*_unit(plan, outcome), classifies)
    return ForestFit(
        n,
        plan.usable.dropped,
        _mean(plan, outcome, histograms[outcome]),
        spec.depth,
        leaf,
        tried,
        model,
    )


def _mean(plan: Plan, outcome: str, histogram: Histogram) -> float:
    """Return the share of the second level, or the mean of the middles of a number's cells."""
    variable = plan.dictionary[outcome]
    mean = float(histogram.counts @ np.arange(len(histogram.counts))) / histogram.observed
    if isinstance(variable, CategoryVariable):
        return mean
    return variable.range[0] + variable.span * (mean + 0.5) / CELLS


def _unit(plan: Plan, outcome: str) -> tuple[float, float]:
    """Return offset and size of one unit of the outcome in the histograms."""
    variable = plan.dictionary[outcome]
    if isinstance(variable, NumberVariable):
        return variable.range[0], variable.span / (1 << OUTCOME_BITS)
    return 0.0, 1.0


ANALYSIS = Analysis("forest", ForestSpec, (HistogramQuery, SplitsQuery), grow, is_model=True)
