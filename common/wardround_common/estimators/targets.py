"""The two classes of a classifier's outcome, as its user writes them."""

from __future__ import annotations

import numpy as np
from sklearn.utils.multiclass import check_classification_targets, type_of_target

from wardround_common.dictionary import CategoryVariable
from wardround_common.typing import Array


def two_classes(y: Array) -> Array:
    """Return the two values of ``y`` in rising order. ValueError if there are more, or fewer."""
    check_classification_targets(y)
    kind = type_of_target(y, input_name="y")
    labels: Array = np.unique(y)
    if len(labels) > 2:
        raise ValueError(f"Only binary classification is supported. The type of the target is {kind}.")
    if len(labels) < 2:
        raise ValueError("y has one class only; there is nothing to learn")
    return labels


def labels_of(y: Array, levels: Array, variable: CategoryVariable) -> Array:
    """Return what ``y`` calls the two levels, so that predictions compare with it; else the levels' names.

    ``levels`` holds each row's position in the variable's levels.
    """
    own = [np.unique(y[levels == level]) for level in (0, 1)]
    if all(len(one) == 1 for one in own):
        both: Array = np.concatenate(own)
        return both
    return np.array(variable.levels)
