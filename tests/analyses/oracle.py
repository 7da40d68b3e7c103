"""The pooled fit by other people's code: a design matrix in pandas, statsmodels and scikit-learn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product

import numpy as np
import pandas as pd
import statsmodels.api as sm
from sklearn.linear_model import LogisticRegression

from tests.support import VARIABLES

MIN_CELL = 11


@dataclass(frozen=True)
class Fit:
    """Coefficients and standard errors by term, in the variables' own units."""

    value: pd.Series
    se: pd.Series
    deviance: float

    def probability(self, columns: pd.DataFrame) -> pd.Series:
        """Return the predicted risk."""
        return 1 / (1 + np.exp(-self.linear_predictor(columns)))

    def linear_predictor(self, columns: pd.DataFrame) -> pd.Series:
        """Return intercept + columns x coefficients."""
        return self.value["intercept"] + columns @ self.value[columns.columns]


def outcome(frame: pd.DataFrame) -> pd.Series:
    """Return 1 where the patient has the disease."""
    return frame["disease"].astype(float)


def columns(frame: pd.DataFrame, train: pd.DataFrame, predictors: Sequence[str]) -> pd.DataFrame:
    """Return the terms of ``frame``, imputed from ``train``: numbers by mean, categories by mode."""
    names = dict.fromkeys(name for term in predictors for name in term.split(":"))
    singles = {name: _single(frame[name], train[name], name) for name in names}
    found: dict[str, pd.Series] = {}
    for term in predictors:
        parts = [singles[name] for name in term.split(":")]
        for combination in product(*(part.items() for part in parts)):
            terms, values = zip(*combination, strict=True)
            found[":".join(terms)] = reduce(lambda a, b: a * b, values)
        lacking = int(train[term].isna().sum()) if ":" not in term else 0
        if min(lacking, len(train) - lacking) >= MIN_CELL:
            found[f"{term}=missing"] = frame[term].isna().astype(float)
    return pd.DataFrame(found)


def _single(values: pd.Series, train: pd.Series, name: str) -> dict[str, pd.Series]:
    if VARIABLES[name]["kind"] == "number":
        return {name: values.fillna(train.mean())}
    filled = values.fillna(train.mode()[0])
    return {
        f"{name}={level}": (filled == int(level)).astype(float) for level in VARIABLES[name]["levels"][1:]
    }


def maximum_likelihood(terms: pd.DataFrame, y: pd.Series) -> Fit:
    """Fit by statsmodels."""
    mean, sd = terms.mean(), terms.std(ddof=0)
    found = sm.GLM(y, sm.add_constant((terms - mean) / sd), family=sm.families.Binomial()).fit(
        tol=1e-15, tol_criterion="params", maxiter=100
    )
    return _own_units(terms, found.params.to_numpy(), found.cov_params().to_numpy(), found.deviance)


def penalised(terms: pd.DataFrame, y: pd.Series, ridge: float) -> Fit:
    """Fit by scikit-learn, C = 1 / ridge on standardised columns; errors from the penalised information."""
    Z = ((terms - terms.mean()) / terms.std(ddof=0)).to_numpy()
    found = LogisticRegression(C=1 / ridge, solver="newton-cholesky", tol=1e-12, max_iter=200).fit(Z, y)
    beta = np.concatenate([found.intercept_, found.coef_[0]])
    one = np.column_stack([np.ones(len(Z)), Z])
    p = 1 / (1 + np.exp(-one @ beta))
    information = (one * (p * (1 - p))[:, None]).T @ one + np.diag([0.0] + [ridge] * Z.shape[1])
    deviance = -2 * float(np.sum(np.where(y > 0, np.log(p), np.log1p(-p))))
    return _own_units(terms, beta, np.linalg.inv(information), deviance)


def _own_units(terms: pd.DataFrame, beta: np.ndarray, covariance: np.ndarray, deviance: float) -> Fit:
    mean, sd = terms.mean().to_numpy(), terms.std(ddof=0).to_numpy()
    back = np.diag(np.concatenate([[1.0], 1 / sd]))
    back[0, 1:] = -mean / sd
    names = ["intercept", *terms.columns]
    se = np.sqrt(np.diag(back @ covariance @ back.T))
    return Fit(pd.Series(back @ beta, names), pd.Series(se, names), float(deviance))
