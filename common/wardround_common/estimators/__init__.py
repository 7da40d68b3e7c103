"""Fitted models as scikit-learn estimators on the raw variables; nothing here reads or writes a file."""

from __future__ import annotations

from wardround_common.estimators.base import FederatedModel
from wardround_common.estimators.catalogue import ESTIMATORS, estimator_of
from wardround_common.estimators.descent import (
    FederatedMLPClassifier,
    FederatedSGDClassifier,
    FederatedSGDRegressor,
)
from wardround_common.estimators.forest import FederatedForestClassifier, FederatedForestRegressor
from wardround_common.estimators.linear import FederatedLogisticRegression
from wardround_common.estimators.saving import dump_estimator, load_estimator
from wardround_common.estimators.tasks import FederatedClassifier, FederatedRegressor

__all__ = [
    "ESTIMATORS",
    "FederatedClassifier",
    "FederatedForestClassifier",
    "FederatedForestRegressor",
    "FederatedLogisticRegression",
    "FederatedMLPClassifier",
    "FederatedModel",
    "FederatedRegressor",
    "FederatedSGDClassifier",
    "FederatedSGDRegressor",
    "dump_estimator",
    "estimator_of",
    "load_estimator",
]
