"""Local training of a scikit-learn estimator between two rounds of federated averaging.

Parameters are a list of arrays: ``[coefficients (p,), intercept (1,)]`` of the linear estimators, and
``[weights, biases, weights, biases ...]`` of the perceptron. Rows are visited in an order that follows from
their keys, so it does not depend on how the table is sorted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from wardround_common.rowkey import draws
from wardround_common.typing import Array, Floats, Words


@dataclass(frozen=True)
class Training:
    """``epochs`` passes over the rows in batches, by stochastic gradient descent at a constant rate.

    ``proximal`` is FedProx's mu (Li et al. 2020, equation 2): after each batch the parameters are drawn
    back towards those that the round began with. ``alpha`` is the L2 penalty.
    """

    estimator: str
    epochs: int
    batch: int
    learning_rate: float
    alpha: float
    proximal: float
    hidden: tuple[int, ...]
    activation: str
    seed: int


def start(training: Training, inputs: int) -> list[Floats]:
    """Return the first parameters: zeros, or Glorot and Bengio's (2010) uniform weights of a perceptron."""
    if training.estimator != "MLPClassifier":
        return [np.zeros(inputs), np.zeros(1)]
    generator = np.random.RandomState(training.seed % 2**32)
    sizes = (inputs, *training.hidden, 1)
    found = []
    for before, after in pairwise(sizes):
        bound = (2.0 if training.activation == "logistic" else 6.0) ** 0.5 / (before + after) ** 0.5
        found += [generator.uniform(-bound, bound, (before, after)), np.zeros(after)]
    return found


def train(
    training: Training, parameters: Sequence[Floats], x: Floats, y: Array, keys: Words, number: int
) -> list[Floats]:
    """Return the parameters after one round's local training; ``x`` (rows, p), ``y`` (rows,).

    ``number`` is the round's, from 1. A class that no row here has does no harm.
    """
    estimator = _with(training, parameters, x, y)
    own = _parameters(estimator)
    pieces, perceptron = training.proximal > 0, training.estimator == "MLPClassifier"
    for epoch in range(training.epochs):
        seed = (number - 1) * training.epochs + epoch
        order = np.argsort(draws(keys, "order", training.seed + seed), kind="stable")
        size = training.batch if pieces else max(len(order), 1)
        for at in range(0, len(order), size):
            rows = order[at : at + size]
            if perceptron:
                estimator.batch_size = min(training.batch, len(rows))
            estimator.partial_fit(x[rows], y[rows])
            if pieces:
                _draw_back(own, parameters, training, 1 if perceptron else len(rows))
    return [array.reshape(old.shape).copy() for array, old in zip(own, parameters, strict=True)]


def _with(training: Training, parameters: Sequence[Floats], x: Floats, y: Array) -> Any:
    """Return the estimator with the round's parameters in its place."""
    # scikit-learn is slow to import, and only these studies need it
    from sklearn.linear_model import SGDClassifier, SGDRegressor
    from sklearn.neural_network import MLPClassifier

    estimator: Any
    rate: dict[str, Any] = {
        "learning_rate": "constant",
        "eta0": training.learning_rate,
        "alpha": training.alpha,
    }
    if training.estimator == "SGDClassifier":
        estimator = SGDClassifier(  # type: ignore[no-untyped-call]
            loss="log_loss", shuffle=False, **rate
        )
    elif training.estimator == "SGDRegressor":
        estimator = SGDRegressor(shuffle=False, **rate)  # type: ignore[no-untyped-call]
    else:
        estimator = MLPClassifier(  # type: ignore[no-untyped-call]
            training.hidden,
            activation=training.activation,
            solver="sgd",
            momentum=0.0,
            nesterovs_momentum=False,
            learning_rate_init=training.learning_rate,
            alpha=training.alpha,
            batch_size=1,
            shuffle=False,
        )
    first = {} if training.estimator == "SGDRegressor" else {"classes": np.array([0, 1])}
    estimator.partial_fit(x[:1], y[:1], **first)  # lays out its arrays
    for array, value in zip(_parameters(estimator), parameters, strict=True):
        array.reshape(-1)[:] = value.reshape(-1)
    return estimator


def _parameters(estimator: Any) -> list[Floats]:
    """Return the estimator's own arrays, in the order of the parameters."""
    if not hasattr(estimator, "coefs_"):
        return [estimator.coef_, estimator.intercept_]
    return [array for pair in zip(estimator.coefs_, estimator.intercepts_, strict=True) for array in pair]


def _draw_back(own: Sequence[Floats], begun: Sequence[Floats], training: Training, steps: int) -> None:
    """Take the proximal step of mu / 2 x |w - begun|^2 for so many gradient steps, in place."""
    keep = (1.0 + training.learning_rate * training.proximal) ** -steps
    for array, first in zip(own, begun, strict=True):
        flat = array.reshape(-1)
        flat[:] = first.reshape(-1) + keep * (flat - first.reshape(-1))
