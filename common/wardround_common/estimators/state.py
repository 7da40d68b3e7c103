"""An estimator's saved state: two JSON texts and the model's canonical bytes, so that no file can say more.

``parameters`` are the constructor's; ``fitted`` is what ``fit`` adds to them, but for ``model``. What does
not belong together is refused, the model by trying it on a row without any value.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from wardround_common.cohort import Block, Cohort, Flow, RowKeys
from wardround_common.design import Design, Factor, Term
from wardround_common.dictionary import Dictionary, NumberVariable, Variable
from wardround_common.errors import WardroundError
from wardround_common.models import LinearModel, LogisticModel, Model, NetworkModel
from wardround_common.trees import Bins, ForestModel, Trees
from wardround_common.typing import Array
from wardround_common.wire import Registry, encode

FORMAT = 1
KINDS: Mapping[str, type] = {"format": int, "parameters": str, "fitted": str, "model": bytes}
RECORDS = Registry((LogisticModel, LinearModel, NetworkModel, ForestModel, Design, Term, Factor, Bins, Trees))
_MODELS = LogisticModel | LinearModel | NetworkModel | ForestModel
_VARIABLES = TypeAdapter(dict[str, Variable])


@dataclass(frozen=True)
class Saved:
    """What fitting adds. ``names``: of the columns, where they had names; ``classes``: of a classifier."""

    model: Model
    dictionary: Dictionary
    outcome: str
    inferred: bool
    features: int
    names: list[str] | None
    classes: Array | None


class _Fitted(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    dictionary: dict[str, Any]
    outcome: str
    inferred: bool
    features: int
    names: list[str] | None
    classes: list[str | int | float | bool] | None
    dtype: str | None


def to_state(parameters: Mapping[str, Any], saved: Saved | None) -> dict[str, Any]:
    """Return the state as plain values; TypeError for a parameter that JSON cannot hold."""
    state = {"format": FORMAT, "parameters": json.dumps(dict(parameters), default=_plain)}
    if saved is None:
        return {**state, "fitted": "", "model": b""}
    fitted = _Fitted(
        dictionary=_plain(saved.dictionary),
        outcome=saved.outcome,
        inferred=saved.inferred,
        features=saved.features,
        names=saved.names,
        classes=None if saved.classes is None else saved.classes.tolist(),
        dtype=None if saved.classes is None else saved.classes.dtype.str,
    )
    return {**state, "fitted": fitted.model_dump_json(), "model": encode(saved.model)}


def from_state(state: Any, known: frozenset[str], classifies: bool) -> tuple[dict[str, Any], Saved | None]:
    """Return parameters and what was fitted. WardroundError for a state that ``to_state`` did not make.

    ``known`` are the constructor's parameters; ``classifies`` tells whether the model must.
    """
    if not isinstance(state, dict) or {key: type(value) for key, value in state.items()} != KINDS:
        raise WardroundError("it is not the state of an estimator")
    if state["format"] != FORMAT:
        raise WardroundError("it was written by another version; install that of the model card")
    try:
        parameters = json.loads(state["parameters"])
        if not isinstance(parameters, dict) or set(parameters) != known:
            raise WardroundError("its parameters are not those of its estimator")
        if parameters["dictionary"] is not None:
            parameters["dictionary"] = _dictionary(parameters["dictionary"])
        parameters = {key: tuple(v) if isinstance(v, list) else v for key, v in parameters.items()}
        saved = _saved(state["fitted"], state["model"]) if state["fitted"] else None
        if saved is not None and {saved.model.classifies, saved.classes is not None} != {classifies}:
            raise WardroundError("its model is not of its estimator's kind")
        return parameters, saved
    except (ValidationError, ValueError, TypeError, KeyError, IndexError, OverflowError, RecursionError):
        raise WardroundError("its parts contradict each other") from None


def _saved(fitted: str, model: bytes) -> Saved:
    found = _Fitted.model_validate_json(fitted)
    dictionary = _dictionary(found.dictionary)
    decoded: Model = RECORDS.decode(model, _MODELS)  # type: ignore[arg-type]
    names = [f"x{i}" for i in range(len(dictionary) - 1)] if found.names is None else found.names
    if len(names) != found.features or not set(decoded.variables) <= set(names) & set(dictionary):
        raise ValueError("columns that are not the model's")
    if found.outcome not in dictionary:
        raise ValueError("an outcome that is no variable")
    _try(decoded, dictionary)
    classes = None if found.classes is None else _classes(found.classes, str(found.dtype))
    return Saved(decoded, dictionary, found.outcome, found.inferred, found.features, found.names, classes)


def _classes(classes: list[Any], dtype: str) -> Array:
    if len(classes) != 2 or np.dtype(dtype).kind not in "biufUO":
        raise ValueError("classes of another kind")
    return np.array(classes) if np.dtype(dtype).kind == "U" else np.array(classes, dtype)


def _try(model: Model, dictionary: Dictionary) -> None:
    """Run the model on a row without any value; ValueError, KeyError or IndexError if it doesn't fit."""
    columns = {
        name: np.full(1, np.nan) if isinstance(dictionary[name], NumberVariable) else np.full(1, -1, np.int16)
        for name in model.variables
    }
    cohort = Cohort(dictionary, columns, 1, RowKeys(b"", "", 1), None, Flow(1, 0, 0, {}))
    if model.output(Block(cohort, slice(0, 1), None)).shape != (1,):
        raise ValueError("an output of another shape")


def _dictionary(data: Any) -> Dictionary:
    return Dictionary(_VARIABLES.validate_python(data))


def _plain(value: Any) -> Any:
    """Return what JSON has no word for: a dictionary of variables, or a number of numpy's."""
    if isinstance(value, Dictionary):
        return {name: variable.model_dump(mode="json") for name, variable in value.items()}
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"a {type(value).__name__} cannot be saved")
