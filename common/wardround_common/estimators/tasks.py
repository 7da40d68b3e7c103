"""The estimators by what they predict: one of two classes, or a number."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from sklearn.base import ClassifierMixin, RegressorMixin

from wardround_common.estimators.base import FederatedModel
from wardround_common.typing import Array, Floats


class FederatedClassifier(ClassifierMixin, FederatedModel):
    """A model of an outcome of two levels. ``classes_[1]`` is the level that the risk is of."""

    classifies: ClassVar[bool] = True

    def predict_proba(self, X: Any) -> Floats:  # noqa: N803
        """Return the probabilities of both classes; shape (rows, 2)."""
        risk = self.values_of(self._cohort(X))
        return np.stack([1.0 - risk, risk], axis=1)

    def predict(self, X: Any) -> Array:  # noqa: N803
        """Return the likelier class of each row; the first where both are equally likely."""
        likelier = self.predict_proba(X).argmax(axis=1)
        classes: Array = self.classes_[likelier]
        return classes

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_class = False
        return tags


class LogOddsClassifier(FederatedClassifier):
    """A classifier whose output is the log-odds."""

    def decision_function(self, X: Any) -> Floats:  # noqa: N803
        """Return the log-odds of ``classes_[1]``; shape (rows,)."""
        return self.output_of(self._cohort(X))


class FederatedRegressor(RegressorMixin, FederatedModel):
    """A model of a number, in its own unit; predictions lie within its range."""

    classifies: ClassVar[bool] = False

    def predict(self, X: Any) -> Floats:  # noqa: N803
        """Return the prediction for each row; shape (rows,)."""
        return self.values_of(self._cohort(X))
