"""Random forests as scikit-learn estimators; see ``analyses/forest.py``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wardround_common.dictionary import Dictionary
from wardround_common.estimators.base import FederatedModel
from wardround_common.estimators.tasks import FederatedClassifier, FederatedRegressor


class Forest(FederatedModel):
    """The parameters of a forest."""

    kind = "forest"

    def __init__(
        self,
        *,
        trees: int = 100,
        depth: int = 8,
        features: str | int | None = None,
        leaf: int | None = None,
        bins: int = 32,
        seed: int = 0,
        missing: str = "impute",
        predictors: Sequence[str] | None = None,
        outcome: str | None = None,
        dictionary: Dictionary | Mapping[str, Any] | None = None,
        min_cell: int = 1,
    ) -> None:
        super().__init__(missing, predictors, outcome, dictionary, min_cell)
        self.trees = trees
        self.depth = depth
        self.features = features
        self.leaf = leaf
        self.bins = bins
        self.seed = seed


class FederatedForestClassifier(Forest, FederatedClassifier):
    """A random forest of an outcome of two levels: the risk is the mean of its trees' leaves."""


class FederatedForestRegressor(Forest, FederatedRegressor):
    """A random forest of a number: the mean of its trees' leaves, in the outcome's unit."""
