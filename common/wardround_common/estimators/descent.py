"""Models trained by stochastic gradient descent as scikit-learn estimators; see ``analyses/fedavg.py``.

Alone, a round's mean is that of one hospital, so the strategy is FedAvg.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from wardround_common.dictionary import Dictionary
from wardround_common.estimators.base import FederatedModel
from wardround_common.estimators.tasks import FederatedRegressor, LogOddsClassifier


class Descent(FederatedModel):
    """The parameters of the training."""

    kind = "fedavg"

    def __init__(
        self,
        *,
        rounds: int = 50,
        epochs: int = 1,
        batch: int = 32,
        learning_rate: float = 0.01,
        alpha: float = 1e-4,
        proximal: float = 0.0,
        clip: float = 10.0,
        seed: int = 0,
        missing: str = "impute",
        predictors: Sequence[str] | None = None,
        outcome: str | None = None,
        dictionary: Dictionary | Mapping[str, Any] | None = None,
        min_cell: int = 1,
    ) -> None:
        super().__init__(missing, predictors, outcome, dictionary, min_cell)
        self.rounds = rounds
        self.epochs = epochs
        self.batch = batch
        self.learning_rate = learning_rate
        self.alpha = alpha
        self.proximal = proximal
        self.clip = clip
        self.seed = seed


class FederatedSGDClassifier(Descent, LogOddsClassifier):
    """A logistic model."""

    fixed: ClassVar[Mapping[str, Any]] = {"estimator": "SGDClassifier"}


class FederatedSGDRegressor(Descent, FederatedRegressor):
    """A linear model of a number."""

    fixed: ClassVar[Mapping[str, Any]] = {"estimator": "SGDRegressor"}


class FederatedMLPClassifier(Descent, LogOddsClassifier):
    """A multilayer perceptron; ``hidden`` are the sizes of its hidden layers."""

    fixed: ClassVar[Mapping[str, Any]] = {"estimator": "MLPClassifier"}

    def __init__(
        self,
        *,
        hidden: Sequence[int] = (16,),
        activation: str = "relu",
        rounds: int = 50,
        epochs: int = 1,
        batch: int = 32,
        learning_rate: float = 0.01,
        alpha: float = 1e-4,
        proximal: float = 0.0,
        clip: float = 10.0,
        seed: int = 0,
        missing: str = "impute",
        predictors: Sequence[str] | None = None,
        outcome: str | None = None,
        dictionary: Dictionary | Mapping[str, Any] | None = None,
        min_cell: int = 1,
    ) -> None:
        super().__init__(
            rounds=rounds,
            epochs=epochs,
            batch=batch,
            learning_rate=learning_rate,
            alpha=alpha,
            proximal=proximal,
            clip=clip,
            seed=seed,
            missing=missing,
            predictors=predictors,
            outcome=outcome,
            dictionary=dictionary,
            min_cell=min_cell,
        )
        self.hidden = hidden
        self.activation = activation
