"""The demo's own comparison: the pooled scikit-learn fit, and each hospital on its own.

The demo may pool, since it holds all four files; a real study never does. Nothing here is used by one.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from sklearn.ensemble import RandomForestClassifier
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, roc_auc_score

from wardround_common.analyses.forest import ForestSpec
from wardround_common.cohort import Cohort
from wardround_common.dictionary import Dictionary, NumberVariable
from wardround_common.typing import Bools, Floats


@dataclass(frozen=True)
class Score:
    """A model's figures on the pooled held-out rows; None where a hospital cannot fit one."""

    rows: int
    auc: float | None
    accuracy: float | None


@dataclass(frozen=True)
class Comparison:
    """``furthest``: the largest difference of a pooled coefficient from the federated one, own units."""

    pooled: Score
    forest: Score
    local: dict[str, Score]
    furthest: float


def compare(
    cohorts: dict[str, Cohort],
    outcome: str,
    ridge: float,
    forest: ForestSpec,
    min_cell: int,
    federated: dict[str, float],
) -> Comparison:
    """Fit by scikit-learn on all training rows and on each hospital's, and score on all held-out rows."""
    frames = {name: _frame(cohort) for name, cohort in cohorts.items()}
    whole = pd.concat(frames.values(), ignore_index=True)
    test = np.concatenate([_held_out(cohort) for cohort in cohorts.values()])
    dictionary = next(iter(cohorts.values())).dictionary
    pooled = _Pipeline(dictionary, outcome, min_cell, whole[~test])
    score = pooled.fit(whole[~test], ridge, whole[test])
    own = pooled.coefficients()
    furthest = max(abs(own[term] - value) for term, value in federated.items())
    local = {}
    for name, frame in frames.items():
        rows = frame[~_held_out(cohorts[name])]
        local[name] = _Pipeline(dictionary, outcome, min_cell, rows).fit(rows, ridge, whole[test])
    trees = RandomForestClassifier(  # type: ignore[no-untyped-call]
        forest.trees, max_depth=forest.depth, min_samples_leaf=min_cell, random_state=forest.seed
    )
    return Comparison(score, pooled.judged(trees, whole[~test], whole[test]), local, furthest)


def _held_out(cohort: Cohort) -> Bools:
    return np.zeros(cohort.rows, bool) if cohort.held_out is None else cohort.held_out


def _frame(cohort: Cohort) -> pd.DataFrame:
    columns = {}
    for name, variable in cohort.dictionary.items():
        values = cohort.columns[name]
        if isinstance(variable, NumberVariable):
            columns[name] = pd.Series(values)
        else:
            levels = np.array([*variable.levels, None], dtype=object)  # -1, missing, is the last
            columns[name] = pd.Series(pd.Categorical(levels[values], categories=list(variable.levels)))
    return pd.DataFrame(columns)


class _Pipeline:
    """Imputation, one-hot coding and scaling as anyone would write them, learned on ``train``."""

    def __init__(self, dictionary: Dictionary, outcome: str, min_cell: int, train: pd.DataFrame) -> None:
        self._outcome, self._positive = outcome, dictionary.category(outcome).levels[1]
        self._names = [name for name in dictionary if name != outcome]
        self._numbers = {n for n in self._names if isinstance(dictionary[n], NumberVariable)}
        self._fill = {
            name: train[name].mean() if name in self._numbers else train[name].mode().get(0)
            for name in self._names
        }
        lacking = train[self._names].isna().sum()
        self._indicators = {n for n in self._names if min_cell <= lacking[n] <= len(train) - min_cell}

    def _columns(self, rows: pd.DataFrame) -> pd.DataFrame:
        parts: list[pd.DataFrame] = []
        for name in self._names:
            filled = rows[name].fillna(self._fill[name]) if self._fill[name] is not None else rows[name]
            if name in self._numbers:
                parts.append(filled.fillna(0.0).to_frame())
            else:
                parts.append(pd.get_dummies(filled, prefix=name, prefix_sep="=", dtype=float).iloc[:, 1:])
            if name in self._indicators:
                parts.append(rows[name].isna().astype(float).to_frame(f"{name}=missing"))
        return pd.concat(parts, axis=1)

    def fit(self, train: pd.DataFrame, ridge: float, test: pd.DataFrame) -> Score:
        """Fit on ``train`` and score on ``test``."""
        x, y = self._columns(train), (train[self._outcome] == self._positive).to_numpy(float)
        if len(set(y)) < 2:
            return Score(len(train), None, None)
        self._mean, self._sd = x.mean(), x.std(ddof=0).replace(0.0, 1.0)
        model: Any = LogisticRegression(  # type: ignore[no-untyped-call]
            C=1.0 / ridge if ridge else np.inf, solver="newton-cholesky", tol=1e-12, max_iter=1000
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            self._model = model.fit(self._scaled(x), y)
        return self._score(len(train), model, test)

    def judged(self, model: Any, train: pd.DataFrame, test: pd.DataFrame) -> Score:
        """Fit another classifier on the scaled columns of ``train``, and score it on ``test``."""
        y = (train[self._outcome] == self._positive).to_numpy(float)
        return self._score(len(train), model.fit(self._scaled(self._columns(train)), y), test)

    def _score(self, rows: int, model: Any, test: pd.DataFrame) -> Score:
        truth = (test[self._outcome] == self._positive).to_numpy(float)
        p = model.predict_proba(self._scaled(self._columns(test)))[:, 1]
        auc, accuracy = roc_auc_score(truth, p), accuracy_score(truth, p >= 0.5)
        return Score(rows, float(auc), float(accuracy))

    def _scaled(self, x: pd.DataFrame) -> Floats:
        scaled: Floats = ((x - self._mean) / self._sd).to_numpy(float)
        return scaled

    def coefficients(self) -> dict[str, float]:
        """Return the coefficients in the variables' own units, by term."""
        found = self._model.coef_[0] / self._sd
        intercept = float(self._model.intercept_[0] - (found * self._mean).sum())
        return {"intercept": intercept, **{str(term): float(value) for term, value in found.items()}}
