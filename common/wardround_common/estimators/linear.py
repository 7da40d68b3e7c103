"""Logistic regression as a scikit-learn estimator."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wardround_common.dictionary import Dictionary
from wardround_common.estimators.tasks import LogOddsClassifier


class FederatedLogisticRegression(LogOddsClassifier):
    """Logistic regression by Newton's method; see ``analyses/logistic.py``.

    ``ridge`` is 1, scikit-learn's ``C=1``, where a study's default is 0: with 0 a ValueError says so when
    the classes can be separated perfectly, and no finite estimate exists.
    """

    kind = "logistic"

    def __init__(
        self,
        *,
        ridge: float = 1.0,
        missing: str = "impute",
        predictors: Sequence[str] | None = None,
        outcome: str | None = None,
        dictionary: Dictionary | Mapping[str, Any] | None = None,
        min_cell: int = 1,
    ) -> None:
        super().__init__(missing, predictors, outcome, dictionary, min_cell)
        self.ridge = ridge
