"""What each hospital of a simulation would reach alone, beside the federation, on the same held-out rows.

A simulation holds all tables and may look; a federation never does. The same program fits each hospital's
training rows by themselves.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

import numpy as np

from wardround_common.alone import alone
from wardround_common.analysis import DEFAULT_THRESHOLD, ModelResult, ModelSpec, Part, Plan, Usable
from wardround_common.cohort import Cohort
from wardround_common.errors import FitError, StudyError
from wardround_common.evaluation.scores import area_under_curve
from wardround_common.models import Classifier
from wardround_common.plan import Findings
from wardround_common.program import Program
from wardround_common.study import KINDS, Study
from wardround_server.strategies import flower


def compared(study: Study, findings: Findings, cohorts: Mapping[str, Cohort]) -> dict[str, Any] | None:
    """Return AUC and accuracy of the study's first classifier, federated and of each hospital alone.

    On all hospitals' held-out rows, or on the training rows where none are held out. A hospital whose rows
    admit no fit has nulls. None where the study has no classifier.
    """
    specs = [spec for spec in study.analyses if isinstance(spec, ModelSpec)]
    fitted = [(spec, cast("ModelResult", findings.analyses[spec.label].result).model) for spec in specs]
    classifiers = [(spec, cast("Classifier", model)) for spec, model in fitted if model.classifies]
    if not classifiers:
        return None
    spec, federated = classifiers[0]
    part: Part = "train" if study.split is None else "test"
    trained = {name: cohort.count("train", spec.needed()) for name, cohort in cohorts.items()}
    scores = {"federated": _score(sum(trained.values()), federated, spec, part, cohorts)}
    for name, cohort in cohorts.items():
        model = _alone(study, spec, cohort, trained[name])
        scores[f"{name} alone"] = _score(trained[name], model, spec, part, cohorts)
    tested = sum(cohort.count(part, spec.needed()) for cohort in cohorts.values())
    return {"model": spec.label, "part": part, "test_rows": tested, "scores": scores}


def _alone(study: Study, spec: ModelSpec, cohort: Cohort, rows: int) -> Classifier | None:
    """Fit one hospital's training rows; None where they admit no fit."""
    if not rows:
        return None
    counts, privacy = Usable(rows, 0, 0), study.privacy
    plan = Plan(spec.label, study.dictionary, 1, privacy.min_cell, counts, flower, ten_rows_a_term=False)
    program = cast("Callable[[Plan, Any], Program[ModelResult]]", KINDS[spec.kind].program)
    try:
        return cast("Classifier", alone(program(plan, spec), cohort).model)
    except (FitError, StudyError):
        return None


def _score(
    rows: int, model: Classifier | None, spec: ModelSpec, part: Part, cohorts: Mapping[str, Cohort]
) -> dict[str, Any]:
    if model is None:
        return {"rows": rows, "auc": None, "accuracy": None}
    blocks = [
        (model.risk(model.output(block)), block.codes(str(spec.outcome)) == 1)
        for cohort in cohorts.values()
        for block in cohort.blocks(cohort.usable(part, spec.needed()))
    ]
    risk, has = (np.concatenate(parts) for parts in zip(*blocks, strict=True))
    values, cell = np.unique(risk, return_inverse=True)
    without, with_outcome = (np.bincount(cell[one], minlength=len(values)) for one in (~has, has))
    both = 0 < int(has.sum()) < len(has)
    called = risk >= (DEFAULT_THRESHOLD if spec.threshold is None else spec.threshold)
    return {
        "rows": rows,
        "auc": area_under_curve(without, with_outcome) if both else None,
        "accuracy": float(np.mean(called == has)),
    }
