"""Fitted models as arrays: what an evaluation query carries, and what a study hands over.

A model is a frozen record without code. ``output`` is what is worth keeping of a row, the linear predictor
or the trees' mean; ``risk`` and ``log_odds`` follow from it elementwise. A regression's output is its
prediction in the outcome's own unit, within the declared range.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar

import numpy as np

from wardround_common.cohort import Block, Cohort
from wardround_common.design import Design
from wardround_common.elementary import logistic, tanh
from wardround_common.trees import ForestModel
from wardround_common.typing import Floats
from wardround_common.wire import Encoded

MOST_LOG_ODDS = 40.0  # where a network's certainty is cut off: 1 - risk is 4e-18 there


@dataclass(frozen=True)
class LogisticModel(Encoded):
    """P(outcome) = 1 / (1 + exp(-(beta . columns))), ``beta`` over the design's centred columns."""

    kind: ClassVar[str] = "logistic"
    classifies: ClassVar[bool] = True
    design: Design
    beta: Floats  # (1 + terms,), intercept first

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that it reads."""
        return self.design.variables

    @property
    def log_odds_bound(self) -> float:
        """The most that |linear predictor| can be for any row within the declared ranges."""
        return max(float(np.cumsum(np.abs(self.beta))[-1]), 2.0**-20)

    def output(self, block: Block) -> Floats:
        """Return beta . columns, added column by column so that a row's bits depend on the row alone."""
        return linear_predictor(self.design.columns(block), self.beta)

    def risk(self, output: Floats) -> Floats:
        """Return P(outcome = second level); shape (rows,)."""
        return logistic(output)

    def log_odds(self, output: Floats) -> Floats:
        """Return the linear predictor, within its bound."""
        return np.clip(output, -self.log_odds_bound, self.log_odds_bound)

    def described(self) -> dict[str, Any]:
        """Return JSON; the predictor is intercept + sum of coefficient x (value - centre) x scale."""
        return {"kind": self.kind, **_linear(self.design, self.beta)}


@dataclass(frozen=True)
class LinearModel(Encoded):
    """Prediction = beta . columns in the outcome's unit, cut off at its range ``low`` to ``high``."""

    kind: ClassVar[str] = "linear"
    classifies: ClassVar[bool] = False
    design: Design
    beta: Floats  # (1 + terms,), intercept first
    low: float
    high: float

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that it reads."""
        return self.design.variables

    def output(self, block: Block) -> Floats:
        """Return the prediction; shape (rows,)."""
        return np.clip(linear_predictor(self.design.columns(block), self.beta), self.low, self.high)

    def described(self) -> dict[str, Any]:
        """Return JSON; the prediction is intercept + sum of coefficient x (value - centre) x scale."""
        return {"kind": self.kind, **_linear(self.design, self.beta), "range": [self.low, self.high]}


@dataclass(frozen=True)
class NetworkModel(Encoded):
    """A multilayer perceptron over the design's columns (without intercept); the last layer is one log-odds.

    ``weights[i]`` has shape (inputs, outputs), ``biases[i]`` (outputs,); ``activation`` is that of the
    hidden layers.
    """

    kind: ClassVar[str] = "network"
    classifies: ClassVar[bool] = True
    log_odds_bound: ClassVar[float] = MOST_LOG_ODDS
    design: Design
    weights: tuple[Floats, ...]
    biases: tuple[Floats, ...]
    activation: str

    def __post_init__(self) -> None:
        sizes = [len(self.design.terms), *(len(bias) for bias in self.biases)]
        shapes = [weight.shape for weight in self.weights]
        if self.activation not in _ACTIVATIONS or shapes != list(pairwise(sizes)):
            raise ValueError("a network whose layers don't fit each other")

    @property
    def variables(self) -> tuple[str, ...]:
        """The variables that it reads."""
        return self.design.variables

    def output(self, block: Block) -> Floats:
        """Return the log-odds; each unit is added up input by input, not by BLAS."""
        layer: Floats = self.design.columns(block)[1:]
        for i, (weight, bias) in enumerate(zip(self.weights, self.biases, strict=True)):
            if i:
                layer = _ACTIVATIONS[self.activation](layer)
            following: Floats = np.repeat(bias[:, None], block.rows, axis=1)
            for column, own in zip(layer, weight, strict=True):
                following += own[:, None] * column
            layer = following
        log_odds: Floats = np.clip(layer[0], -MOST_LOG_ODDS, MOST_LOG_ODDS)
        return log_odds

    def risk(self, output: Floats) -> Floats:
        """Return P(outcome = second level); shape (rows,)."""
        return logistic(output)

    def log_odds(self, output: Floats) -> Floats:
        """Return the output."""
        return output

    def described(self) -> dict[str, Any]:
        """Return JSON: the columns, and each layer's weights (inputs, outputs) and biases."""
        return {
            "kind": self.kind,
            "activation": self.activation,
            **_columns(self.design),
            "layers": [
                {"weights": weight.tolist(), "biases": bias.tolist()}
                for weight, bias in zip(self.weights, self.biases, strict=True)
            ],
        }


def _relu(x: Floats) -> Floats:
    return np.maximum(x, 0.0)


def _identity(x: Floats) -> Floats:
    return x


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {
    "relu": _relu,
    "tanh": tanh,
    "logistic": logistic,
    "identity": _identity,
}

Classifier = LogisticModel | NetworkModel | ForestModel
Model = LogisticModel | LinearModel | NetworkModel | ForestModel


def output_of(model: Model, cohort: Cohort, block: Block) -> Floats:
    """Return a model's output for rows of a cohort, for all of which it is computed once."""
    return block.of(cohort.remembered(model.sha256, model.output))


def linear_predictor(columns: Floats, beta: Floats) -> Floats:
    """Return sum_j beta[j] x columns[j]; ``columns`` (p, rows). Not BLAS, whose bits depend on neighbours."""
    total: Floats = columns[0] * beta[0]
    work = np.empty_like(total)
    for column, b in zip(columns[1:], beta[1:], strict=True):
        np.multiply(column, b, out=work)
        total += work
    return total


def _columns(design: Design, extra: Sequence[dict[str, Any]] | None = None) -> dict[str, Any]:
    more = extra or [{} for _ in design.terms]
    terms = zip(design.terms, design.centres.tolist(), design.scales.tolist(), more, strict=True)
    return {
        "terms": [{"name": term.name, **own, "centre": c, "scale": s} for term, c, s, own in terms],
        "missing_values": dict(zip(design.fill_names, design.fill_values.tolist(), strict=True)),
    }


def _linear(design: Design, beta: Floats) -> dict[str, Any]:
    coefficients = [{"coefficient": b} for b in beta[1:].tolist()]
    return {"intercept": float(beta[0]), **_columns(design, coefficients)}
