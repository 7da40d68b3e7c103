"""Which estimator is a study's model: the catalogue, and the way from an analysis to its estimator."""

from __future__ import annotations

from wardround_common.analysis import ModelSpec
from wardround_common.dictionary import Dictionary
from wardround_common.errors import WardroundError
from wardround_common.estimators.base import SHARED, FederatedModel
from wardround_common.estimators.descent import (
    FederatedMLPClassifier,
    FederatedSGDClassifier,
    FederatedSGDRegressor,
)
from wardround_common.estimators.forest import FederatedForestClassifier, FederatedForestRegressor
from wardround_common.estimators.linear import FederatedLogisticRegression
from wardround_common.models import Model

ESTIMATORS: tuple[type[FederatedModel], ...] = (
    FederatedLogisticRegression,
    FederatedSGDClassifier,
    FederatedSGDRegressor,
    FederatedMLPClassifier,
    FederatedForestClassifier,
    FederatedForestRegressor,
)


def estimator_of(spec: ModelSpec, model: Model, dictionary: Dictionary, min_cell: int) -> FederatedModel:
    """Return the fitted estimator of a study's ``model``, with the parameters of its analysis.

    WardroundError for a kind of analysis that has none.
    """
    outcome = str(spec.outcome)
    for estimator in ESTIMATORS:
        fixed = all(getattr(spec, key, None) == value for key, value in estimator.fixed.items())
        if estimator.kind == spec.kind and fixed and estimator.classifies == model.classifies:
            names = set(estimator.parameters()) - set(SHARED)
            own = {name: getattr(spec, name) for name in sorted(names)}
            return estimator.from_model(
                *(model, dictionary, outcome),
                **{"predictors": spec.predictors, "missing": spec.missing, "min_cell": min_cell, **own},
            )
    raise WardroundError(f"analysis `{spec.label}`: a model of kind `{spec.kind}` has no estimator")
