"""What hospitals would reach alone is their own fit, judged on the same rows as the federation's."""

from __future__ import annotations

import pytest
from sklearn.metrics import accuracy_score, roc_auc_score

from tests.support import cohort_of, patients, study_of, tables_of
from wardround_common.study import Study
from wardround_server.local import compared
from wardround_server.simulation import simulate

LOGISTIC = {"kind": "logistic", "predictors": ["age", "sex"], "ridge": 1}
FOREST = {"kind": "forest", "trees": 3, "depth": 2}


@pytest.mark.parametrize("analysis", [LOGISTIC, FOREST])
@pytest.mark.parametrize("split", [None, {"column": "fold", "test": "0"}])
def test_each_hospital_alone_is_the_study_of_its_rows_alone(analysis: dict, split: dict | None) -> None:
    study = study_of(analysis, split=split)
    tables = tables_of(4)
    result = simulate(study, tables, local=True)
    found = result.comparison
    assert found is not None
    assert found["model"] == analysis["kind"]
    held_out = patients() if split is None else patients()[patients()["fold"] == 0]
    assert found["test_rows"] == len(held_out)
    part = "train" if split is None else "test"
    metrics = result[analysis["kind"]]["metrics"][part]
    assert found["scores"]["federated"]["auc"] == pytest.approx(metrics["auc"], abs=1e-9)
    assert found["scores"]["federated"]["accuracy"] == pytest.approx(metrics["accuracy"], abs=1e-9)
    rows = sum(found["scores"][f"{name} alone"]["rows"] for name in tables)
    assert rows == found["scores"]["federated"]["rows"]
    alone = {name: found["scores"][f"{name} alone"] for name in tables}
    assert alone["h01"]["auc"] is None and alone["h02"]["auc"] is None, "they have one outcome only"
    model = fitted_alone(study, "h03")
    y = held_out["disease"].to_numpy()
    (block,) = cohort_of(study, held_out, "h03").blocks()
    p = model.risk(model.output(block))
    assert alone["h03"]["auc"] == pytest.approx(roc_auc_score(y, p), abs=1e-12)
    assert alone["h03"]["accuracy"] == pytest.approx(accuracy_score(y, p >= 0.5), abs=1e-12)


def fitted_alone(study: Study, name: str):
    """Return the model that the hospital's own training rows give."""
    from wardround_common.alone import alone
    from wardround_common.analyses.fedavg import plain_mean
    from wardround_common.analysis import Plan, Usable
    from wardround_common.study import KINDS

    cohort = cohort_of(study, tables_of(4)[name], name)
    rows = cohort.part("train")
    counts = Usable(cohort.rows if rows is None else int(rows.sum()), 0, 0)
    plan = Plan("x", study.dictionary, 1, 11, counts, plain_mean, ten_rows_a_term=False)
    return alone(KINDS[study.analyses[0].kind].program(plan, study.analyses[0]), cohort).model


def test_a_study_without_a_classifier_is_not_compared() -> None:
    study = study_of({"kind": "summary"}, {"kind": "forest", "outcome": "bmi", "trees": 1, "depth": 1})
    cohorts = {name: cohort_of(study, table, name) for name, table in tables_of(3).items()}
    findings = simulate(study, tables_of(3)).findings
    assert compared(study, findings, cohorts) is None
    assert simulate(study, tables_of(3)).comparison is None
