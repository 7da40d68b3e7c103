"""Importance keeps the contract, and equals redrawing by hand with pandas and scikit-learn's metrics."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from scipy.stats import chisquare, kstest
from sklearn.metrics import r2_score, roc_auc_score

from tests.analyses.contract import AnalysisContract, cohorts, driven, pooled
from tests.support import (
    VARIABLES,
    cohort_of,
    drive,
    federate,
    patients,
    published,
    spread,
    study_of,
)
from wardround_common.analyses.importance import Importance, codes_of, numbers_of
from wardround_common.errors import StudyError
from wardround_common.rowkey import draws
from wardround_common.study import Study

PREDICTORS = ["age", "chol", "bmi", "sex", "cp"]
LOGISTIC = {"kind": "logistic", "predictors": PREDICTORS}
FOREST = {"kind": "forest", "trees": 5, "depth": 3, "bins": 8}
CHOL = {"outcome": "chol", "predictors": ["age", "bmi", "sex", "cp", "disease"]}
HELD_OUT = {"column": "fold", "test": "0"}
CELLS = 4096


def of_model(model: str, **changes: Any) -> dict[str, Any]:
    return {"kind": "importance", "model": model, "repeats": 3, **changes}


class TestImportance(AnalysisContract):
    studies: ClassVar = {
        "logistic": study_of(LOGISTIC, of_model("logistic"), split=HELD_OUT),
        "interaction, dropped, training rows": study_of(
            {"kind": "logistic", "predictors": ["age", "chol", "cp", "age:chol"]},
            of_model("logistic", part="train", seed=8, repeats=2),
            missing="drop",
            privacy={"min_rows": 1},
        ),
        "forest": study_of(FOREST, of_model("forest", part="train", repeats=2)),
        "forest of a number": study_of({**FOREST, **CHOL}, of_model("forest"), split=HELD_OUT),
    }

    def test_equals_redrawing_the_pooled_table_by_hand(self, study: Study) -> None:
        model, spec = study.analyses
        fitted = driven(study).findings.analyses[model.label].result.model
        shown = published(study, driven(study).findings)["analyses"]["importance"]
        frame, keys = rows_of(study)
        number = VARIABLES[model.outcome]["kind"] == "number"
        y = frame[model.outcome]

        def figure(changed: pd.DataFrame) -> float:
            (block,) = cohort_of(study, changed).blocks()
            found = fitted.output(block)
            return r2_score(y, found) if number else roc_auc_score(y, found)

        within = 1e-9 if number else 1e-3
        assert (shown["metric"], shown["n"]) == ("r2" if number else "auc", len(frame))
        assert shown["baseline"] == pytest.approx(figure(frame), abs=within)
        names = sorted({name for term in model.predictors for name in term.split(":")})
        assert sorted(shown["variables"]) == names
        for name, found in shown["variables"].items():
            drops = []
            for repeat in range(spec.repeats):
                drawn = [int(one) for one in draws(keys, f"redraw {name}", spec.seed + repeat)]
                changed = frame.assign(**{name: redrawn(frame[name], name, drawn)})
                drops.append(figure(frame) - figure(changed))
            assert found["drop"] == pytest.approx(np.mean(drops), abs=within), name
            assert found["sd"] == pytest.approx(np.std(drops, ddof=1), abs=within), name


def rows_of(study: Study) -> tuple[pd.DataFrame, np.ndarray]:
    """Return the rows that the figure is about, with their keys."""
    model, spec = study.analyses
    frame, whole = patients(), pooled(study)
    needed = [model.outcome] if model.missing == "impute" else list(model.required())
    kept = frame[needed].notna().all(axis=1)
    if study.split is not None:
        assert spec.part == "test"
        kept &= frame["fold"] == 0
    kept = kept.to_numpy()
    return frame[kept], whole.keys.values[kept]


def redrawn(values: pd.Series, name: str, drawn: list[int]) -> list[Any]:
    """Return for each draw the value at its rank among all, spread over its cell; None for missing."""
    variable = VARIABLES[name]
    if variable["kind"] == "category":
        observed = values.dropna()
        line = sorted(observed.astype(int)) + [None] * (len(values) - len(observed))
        return [line[(one >> 32) * len(line) >> 32] for one in drawn]
    low, high = variable["range"]
    cells = [min(int((v - low) / (high - low) * CELLS), CELLS - 1) for v in values.dropna()]
    line = []
    for cell in sorted(set(cells)):
        size = cells.count(cell)
        line += [low + (high - low) * ((cell + (rank + 0.5) / size) / CELLS) for rank in range(size)]
    line += [None] * (len(values) - len(cells))
    return [line[(one >> 32) * len(line) >> 32] for one in drawn]


KEYS = draws(np.arange(40_000, dtype=np.uint64), "keys")


def test_redrawn_numbers_have_the_distribution_of_the_table_and_its_share_without_a_value() -> None:
    values = patients()["chol"]
    lacking, (low, high) = int(values.isna().sum()), VARIABLES["chol"]["range"]
    cells = np.histogram(values.dropna(), CELLS, (low, high))[0]
    found = numbers_of(draws(KEYS, "redraw chol"), np.append(cells, lacking), low, high)
    share = lacking / len(values)
    assert np.isnan(found).mean() == pytest.approx(share, abs=4 * np.sqrt(share / len(KEYS)))
    known = found[~np.isnan(found)]
    assert low <= known.min() and known.max() <= high
    line = np.sort(values.dropna())
    width = (high - low) / CELLS
    steps = np.searchsorted(line, known + width, side="right") / len(line)
    behind = np.searchsorted(line, known - width) / len(line)
    u = behind + (steps - behind) * (draws(KEYS[: len(known)], "between") / 2.0**64)
    assert kstest(u, "uniform").statistic < 2 / np.sqrt(len(known)) + 2 / len(line)
    assert set(np.floor((known - low) / width).astype(int)) <= set(np.flatnonzero(cells))


def test_redrawn_values_are_those_at_their_rank_in_the_table() -> None:
    drawn = draws(KEYS[:500], "redraw chol")
    values, (low, high) = patients()["chol"], VARIABLES["chol"]["range"]
    cells = np.bincount(((values.dropna() - low) / (high - low) * CELLS).astype(int), minlength=CELLS)
    found = numbers_of(drawn, np.append(cells, values.isna().sum()), low, high)
    expected = np.array(redrawn(values, "chol", drawn.tolist()), float)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_redrawn_codes_have_the_frequencies_of_the_table() -> None:
    counts = np.array([100, 0, 250, 1, 49])  # missing is the last
    found = codes_of(draws(KEYS, "redraw cp"), counts)
    assert set(found.tolist()) <= {0, 2, 3, -1}
    seen = np.array([(found == code).sum() for code in (0, 2, 3, -1)])
    assert chisquare(seen, counts[[0, 2, 3, 4]] * len(KEYS) / 400).pvalue > 1e-3


def test_the_ends_of_the_draws_are_the_ends_of_the_distribution() -> None:
    ends = np.array([0, 2**64 - 1], np.uint64)
    assert codes_of(ends, np.array([0, 3, 0, 0])).tolist() == [1, 1]
    assert codes_of(ends, np.array([0, 3, 0, 2])).tolist() == [1, -1]
    cells = np.zeros(CELLS + 1, np.int64)
    cells[[0, CELLS - 1]] = 1
    found = numbers_of(ends, cells, -1.0, 1.0)
    assert -1 < found[0] < -0.999 and 0.999 < found[1] < 1
    cells[0], cells[CELLS] = 2**31, 1
    assert np.isnan(numbers_of(ends, cells, -1.0, 1.0)).tolist() == [False, True]


def test_noise_is_of_no_importance_and_what_drives_the_outcome_is() -> None:
    study = study_of(
        {**LOGISTIC, "ridge": 1}, of_model("logistic", part="train", repeats=10), privacy={"min_rows": 1}
    )
    frame = patients(4000, 5)
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["importance"]
    drop = {name: found["drop"] for name, found in shown["variables"].items()}
    assert abs(drop["bmi"]) < 0.003
    assert min(drop["age"], drop["chol"], drop["sex"]) > 0.01
    assert max(drop, key=drop.__getitem__) in ("age", "chol")
    assert all(0 <= found["sd"] < 0.02 for found in shown["variables"].values())


def test_a_variable_that_the_model_does_not_use_costs_nothing_at_all() -> None:
    frame = patients().assign(bmi=20.0)
    study = study_of({**FOREST, "features": "all"}, of_model("forest", part="train"), privacy={"min_rows": 1})
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["importance"]
    assert shown["variables"]["bmi"] == {"drop": 0.0, "sd": 0.0}


def test_more_repeats_begin_with_the_same_ones() -> None:
    def result(**changes: Any) -> Importance:
        study = study_of(LOGISTIC, of_model("logistic", **changes), split=HELD_OUT)
        return driven(study).findings.analyses["importance"].result

    few, more, other = result(), result(repeats=5), result(seed=50)
    for name in PREDICTORS:
        assert more.redrawn[name][:3].tolist() == few.redrawn[name].tolist()
        assert len(set(more.redrawn[name].tolist())) > 1
    assert few.baseline == more.baseline == other.baseline
    assert few.redrawn["age"].tolist() != other.redrawn["age"].tolist()


@pytest.mark.parametrize(("events", "refused"), [(10, True), (11, False)])
def test_few_rows_of_an_outcome_are_refused(events: int, refused: bool) -> None:
    frame = patients().copy()
    ill = np.flatnonzero((frame["disease"] == 1) & (frame["fold"] == 0))
    frame = frame.drop(index=ill[events:])
    study = study_of({**LOGISTIC, "ridge": 1}, of_model("logistic"), split=HELD_OUT)
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["importance"]
    assert ("variables" in shown) is not refused
    if refused:
        assert shown["state"] == "refused" and shown["n"] is None and "baseline" not in shown


def test_rows_of_one_outcome_ask_no_further() -> None:
    frame = patients()
    frame = frame[(frame["fold"] > 0) | (frame["disease"] == 0)]
    study = study_of({**LOGISTIC, "ridge": 1}, of_model("logistic"), split=HELD_OUT)
    found = drive(study, cohort_of(study, frame))
    assert published(study, found.findings)["analyses"]["importance"]["state"] == "refused"
    assert "importance.redrawn" not in [one.query.kind for one in found.asked]


@pytest.mark.parametrize("study", ["logistic", "forest of a number"])
@pytest.mark.parametrize("alone", [False, True])
def test_rows_of_a_single_hospital_are_refused(study: str, alone: bool) -> None:
    """Held-out rows of one hospital would be its own figures; so would an outcome that only one has."""
    checked = TestImportance.studies[study]
    tables = {name: patients().iloc[rows].copy() for name, rows in spread(3).items()}
    for name in ("h00", "h01"):
        if alone:
            tables[name]["fold"] = 1
    found = federate(checked, {name: cohort_of(checked, one, name) for name, one in tables.items()})
    shown = published(checked, found)["analyses"]["importance"]
    assert (shown.get("state") == "refused") is alone


def test_a_model_that_is_none_is_named_with_the_one_meant() -> None:
    with pytest.raises(
        StudyError, match=r"analyses\[1\].model: `logistc` is no model.*did you mean `logistic`"
    ):
        study_of(LOGISTIC, of_model("logistc"))
    with pytest.raises(StudyError, match=r"analyses\[1\].model: `summary` is no model"):
        study_of(LOGISTIC, of_model("summary"), {"kind": "summary"})
    for key, value in (("repeats", 1), ("repeats", 101), ("seed", -1), ("part", "all")):
        with pytest.raises(StudyError, match=rf"analyses\[1\].{key}"):
            study_of(LOGISTIC, of_model("logistic", **{key: value}))


def test_a_study_without_held_out_rows_has_none_to_judge_by() -> None:
    study = study_of(LOGISTIC, of_model("logistic"))
    with pytest.raises(StudyError, match="analysis `importance`: there are no test rows; the study has no"):
        drive(study, pooled(study))


def test_an_outcome_that_does_not_vary_explains_nothing() -> None:
    frame = patients()
    frame = frame.assign(chol=frame["chol"].where(frame["fold"] > 0, 300.0))
    study = TestImportance.studies["forest of a number"]
    shown = published(study, drive(study, cohort_of(study, frame)).findings)["analyses"]["importance"]
    assert (shown["state"], shown["why"]) == ("refused", "the outcome does not vary on these rows")
    assert "baseline" not in shown


def test_hospitals_that_lack_the_variable_redraw_it_too() -> None:
    study = TestImportance.studies["logistic"]
    assert patients().iloc[spread(3)["h00"]]["chol"].isna().all()
    alone = federate(study, cohorts(study, 3)).analyses["importance"].result
    assert (
        alone.redrawn["chol"].tolist()
        == driven(study).findings.analyses["importance"].result.redrawn["chol"].tolist()
    )
