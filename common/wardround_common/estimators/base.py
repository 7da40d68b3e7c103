"""What all estimators share: raw variables become a cohort, over which the study's program runs alone.

Errors that a person can put right are ValueErrors here, since that is what scikit-learn's users expect.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from inspect import signature
from typing import Any, ClassVar, Self, cast

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.utils import check_array, column_or_1d
from sklearn.utils.validation import check_consistent_length, check_is_fitted, validate_data

from wardround_common.alone import alone
from wardround_common.analyses.fedavg import plain_mean
from wardround_common.analysis import ModelResult, ModelSpec, Plan, Usable
from wardround_common.cohort import Cohort, Flow, RowKeys
from wardround_common.dictionary import CategoryVariable, Dictionary, Variable
from wardround_common.errors import WardroundError, did_you_mean, listed
from wardround_common.estimators.cells import converted
from wardround_common.estimators.inferred import unused_name, variables
from wardround_common.estimators.state import Saved, from_state, to_state
from wardround_common.estimators.targets import labels_of, two_classes
from wardround_common.models import Classifier, Model
from wardround_common.program import Program
from wardround_common.study import KINDS, Study, parse_study
from wardround_common.typing import Array, Floats, Words

SHARED = ("missing", "predictors", "outcome", "dictionary", "min_cell")


class FederatedModel(BaseEstimator):
    """A study's model over raw variables, or the same program fitted to one table.

    With a ``dictionary`` (a study's, or what stands under ``variables`` in its file) columns are found by
    name, whatever their order, and ``outcome`` names the variable that ``y`` is; numbers are in the declared
    unit, categories are levels or codes, and what is missing, coded so or out of range is missing. An array
    holds the predictors' columns in their order. Without a dictionary every column is a number, and its
    range is taken from the rows of ``fit``.

    ``min_cell`` is 1, since one's own table has nothing to hide from oneself; and a model may have more than
    one term per ten rows. A study is stricter, in both.
    """

    kind: ClassVar[str]
    classifies: ClassVar[bool]
    fixed: ClassVar[Mapping[str, Any]] = {}  # what the analysis is told besides the parameters

    def __init__(
        self,
        missing: str,
        predictors: Sequence[str] | None,
        outcome: str | None,
        dictionary: Dictionary | Mapping[str, Any] | None,
        min_cell: int,
    ) -> None:
        self.missing = missing
        self.predictors = predictors
        self.outcome = outcome
        self.dictionary = dictionary
        self.min_cell = min_cell

    def fit(self, X: Any, y: Any, row_keys: Words | None = None) -> Self:  # noqa: N803
        """Fit to one table, exactly as a study fits to the rows of all its hospitals.

        ``row_keys``: one uint64 a row, from which all follows that is random about a row. With the keys of
        a study's ids (``rowkey.row_keys``), its dictionary and its rows, the model has the bits of the
        study's. By default the key is the row's number.
        """
        try:
            return self._fit(X, y, row_keys)
        except WardroundError as error:
            raise ValueError(str(error)) from None

    def _fit(self, x: Any, y: Any, row_keys: Words | None) -> Self:
        study, columns, labels = self._inferred(x, y) if self.dictionary is None else self._declared(x, y)
        spec, dictionary = cast("ModelSpec", study.analyses[0]), study.dictionary
        rows = len(columns[str(spec.outcome)])
        keys = RowKeys(b"", "", rows) if row_keys is None else RowKeys.known(_checked_keys(row_keys, rows))
        cohort = Cohort(dictionary, columns, rows, keys, None, Flow(rows, 0, 0, {}))
        train = cohort.count("train", spec.needed())
        if not train:
            raise ValueError(f"no row has all of {listed(spec.needed())}")
        counts, least = Usable(train, 0, rows - train), study.privacy.min_cell
        plan = Plan(spec.label, dictionary, 1, least, counts, plain_mean, ten_rows_a_term=False)
        program = cast("Callable[[Plan, Any], Program[ModelResult]]", KINDS[spec.kind].program)
        model = alone(program(plan, spec), cohort).model
        self._take(model, dictionary, str(spec.outcome), labels)
        return self

    def _inferred(self, x: Any, y: Any) -> tuple[Study, dict[str, Array], Array | None]:
        """Return study, columns and class labels of a plain table."""
        regression = not self.classifies
        rules = {"dtype": np.float64, "ensure_all_finite": "allow-nan", "ensure_min_samples": 2}
        x, y = validate_data(self, x, y, y_numeric=regression, **rules)
        names = self._column_names()
        outcome = self.outcome or unused_name(names)
        if outcome in names:
            raise ValueError(f"outcome: `{outcome}` is a column of X; leave it out of X")
        labels = None if regression else two_classes(y)
        found = variables(x, names, outcome, y.astype(np.float64) if regression else None)
        study = self._study(found, outcome)
        columns: dict[str, Array] = {name: x[:, i] for i, name in enumerate(names)}
        columns[outcome] = (
            y.astype(np.float64) if labels is None else np.searchsorted(labels, y).astype(np.int16)
        )
        return study, columns, labels

    def _declared(self, x: Any, y: Any) -> tuple[Study, dict[str, Array], Array | None]:
        """Return study, columns and class labels of a table that a dictionary describes."""
        if self.outcome is None:
            raise ValueError("outcome: say which of the dictionary's variables `y` is")
        study = self._study(cast("Mapping[str, Variable]", self.dictionary), self.outcome)
        spec, variable = cast("ModelSpec", study.analyses[0]), study.variables[self.outcome]
        if self.classifies != isinstance(variable, CategoryVariable):
            wanted = "a category of two levels" if self.classifies else "a number"
            raise ValueError(f"outcome: `{self.outcome}` must be {wanted}")
        features = [name for name in spec.required() if name != self.outcome]
        self._set_features(features)
        columns = self._columns(x, features, study.dictionary)
        y = column_or_1d(y, warn=True)
        check_consistent_length(next(iter(columns.values())), y)
        columns[self.outcome] = converted(y, self.outcome, variable)
        if not isinstance(variable, CategoryVariable):
            return study, columns, None
        return study, columns, labels_of(y, columns[self.outcome], variable)

    def _study(self, found: Mapping[str, Variable], outcome: str) -> Study:
        """Return a study of this one analysis, which checks all parameters."""
        own = {key: _plain(value) for key, value in self.get_params(deep=False).items() if key not in SHARED}
        data = {
            "wardround": 1,
            "name": "alone",
            "variables": dict(found),
            "outcome": outcome,
            "missing": self.missing,
            "analyses": [{"kind": self.kind, **self.fixed, **own}],
            "privacy": {"min_cell": _plain(self.min_cell)},
        }
        if self.predictors is not None:
            data["predictors"] = self.predictors
        return parse_study(data, type(self).__name__)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        """Return the names of the constructor's parameters."""
        return tuple(signature(cls).parameters)

    @classmethod
    def from_model(cls, model: Model, dictionary: Dictionary, outcome: str, **parameters: Any) -> Self:
        """Return a fitted estimator of a study's model; ``parameters`` are those that it was fitted with.

        ValueError if the model is not of this kind.
        """
        chosen = {"predictors": model.variables, **parameters}
        estimator: Self = cast("Any", cls)(dictionary=dictionary, outcome=outcome, **chosen)
        if model.classifies != cls.classifies:
            raise ValueError(f"a {cls.__name__} cannot hold this model of kind `{model.kind}`")
        names = [name for term in chosen["predictors"] for name in term.split(":")]
        estimator._set_features(list(dict.fromkeys(names)))
        variable = dictionary[outcome]
        labels = np.array(variable.levels) if isinstance(variable, CategoryVariable) else None
        estimator._take(model, dictionary, outcome, labels)
        return estimator

    def _take(self, model: Model, dictionary: Dictionary, outcome: str, labels: Array | None) -> None:
        self.model_, self.dictionary_, self.outcome_ = model, dictionary, outcome
        self.inferred_ = self.dictionary is None
        if labels is not None:
            self.classes_ = labels

    def _set_features(self, features: list[str]) -> None:
        self.n_features_in_ = len(features)
        self.feature_names_in_ = np.array(features, object)

    def _column_names(self) -> list[str]:
        if hasattr(self, "feature_names_in_"):
            return [str(name) for name in self.feature_names_in_]
        return [f"x{i}" for i in range(self.n_features_in_)]

    def _columns(self, x: Any, features: list[str], dictionary: Dictionary) -> dict[str, Array]:
        """Return the features' columns as a cohort holds them, by name of a table or by place of an array."""
        if hasattr(x, "columns") and hasattr(x, "__getitem__"):
            there = {str(name): name for name in x.columns}
            for name in features:
                if name not in there:
                    raise ValueError(f"X has no column `{name}`{did_you_mean(name, there)}")
            cells: Iterable[Any] = (x[there[name]] for name in features)
        else:
            array = check_array(x, dtype=None, ensure_all_finite=False)
            if array.shape[1] != len(features):
                raise ValueError(f"X has {array.shape[1]} features; expected are {listed(features)}")
            cells = array.T
        return {
            name: converted(column, name, dictionary[name])
            for name, column in zip(features, cells, strict=True)
        }

    def _cohort(self, x: Any) -> Cohort:
        """Return rows of raw variables as a cohort of what the model reads."""
        check_is_fitted(self)
        names = self._column_names()
        if self.inferred_:
            x = validate_data(self, x, reset=False, dtype=np.float64, ensure_all_finite="allow-nan")
            columns: dict[str, Array] = {name: x[:, i] for i, name in enumerate(names)}
        else:
            read = list(self.model_.variables) if hasattr(x, "columns") else names
            columns = self._columns(x, read, self.dictionary_)
        rows = len(next(iter(columns.values())))
        return Cohort(self.dictionary_, columns, rows, RowKeys(b"", "", rows), None, Flow(rows, 0, 0, {}))

    def output_of(self, cohort: Cohort) -> Floats:
        """Return the model's output for each row of a cohort that holds its variables; shape (rows,)."""
        return np.concatenate([self.model_.output(block) for block in cohort.blocks()] or [np.zeros(0)])

    def values_of(self, cohort: Cohort) -> Floats:
        """Return each row's risk of the outcome's second level, or its prediction; shape (rows,)."""
        output = self.output_of(cohort)
        return cast("Classifier", self.model_).risk(output) if self.classifies else output

    def __getstate__(self) -> dict[str, Any]:
        """Return two texts and the model's canonical bytes; see ``state``."""
        return to_state(self.get_params(deep=False), self._saved())

    def _saved(self) -> Saved | None:
        if not hasattr(self, "model_"):
            return None
        named = [str(name) for name in self.feature_names_in_] if hasattr(self, "feature_names_in_") else None
        return Saved(
            self.model_,
            self.dictionary_,
            self.outcome_,
            self.inferred_,
            self.n_features_in_,
            named,
            getattr(self, "classes_", None),
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take what ``__getstate__`` returned. WardroundError for anything else."""
        parameters, saved = from_state(state, frozenset(self.parameters()), self.classifies)
        self.__dict__.update(parameters)
        if saved is not None:
            self.n_features_in_ = saved.features
            if saved.names is not None:
                self._set_features(saved.names)
            self._take(saved.model, saved.dictionary, saved.outcome, saved.classes)
            self.inferred_ = saved.inferred

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        return tags


def _checked_keys(row_keys: Words, rows: int) -> Words:
    keys = np.asarray(row_keys)
    if keys.dtype != np.uint64 or keys.shape != (rows,):
        raise ValueError("row_keys: give one uint64 for each row, as `rowkey.row_keys` returns them")
    return keys


def _plain(value: Any) -> Any:
    return value.item() if isinstance(value, np.generic) else value
