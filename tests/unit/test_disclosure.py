"""The rules of publication, one by one, and over whole results."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

import wardround_server
from tests.support import patients, study_of, tables_of
from wardround_common.disclosure import Rules, check_freedom, disclosed, may_show_quantile, refused
from wardround_common.errors import StudyError
from wardround_server.simulation import simulate

LEAST = 5
ROWS = st.lists(st.integers(0, 30), min_size=1, max_size=6)


@given(ROWS)
def test_what_is_hidden_in_a_row_cannot_be_told_from_its_total(counts: list[int]) -> None:
    """Two counts at least are hidden, which together are no small one."""
    shown = Rules(LEAST).counts(counts)
    assert all(one is None or one == 0 or one >= LEAST for one in shown)
    assert all(one in (None, count) for one, count in zip(shown, counts, strict=True))
    hidden = [count for one, count in zip(shown, counts, strict=True) if one is None]
    if any(hidden) and len(hidden) < len(counts):
        assert len(hidden) > 1 and sum(hidden) >= LEAST


def test_a_count_of_one_hospital_alone_is_hidden_however_large() -> None:
    assert Rules(LEAST).counts([40, 50, 60], [1, 3, 3])[0] is None


@pytest.mark.parametrize(
    ("share", "rows", "shown"), [(0.5, 22, True), (0.5, 21, False), (0.25, 44, True), (0.75, 43, False)]
)
def test_a_quantile_has_enough_rows_on_either_side(share: float, rows: int, shown: bool) -> None:
    assert may_show_quantile(share, rows, 11) is shown


def test_a_saturated_model_is_refused() -> None:
    assert check_freedom(3, 14, 11) is None
    assert "degrees of freedom" in str(check_freedom(3, 13, 11))


def test_a_study_whose_model_is_near_to_saturated_ends_with_a_reason() -> None:
    study = study_of(
        {"kind": "logistic", "predictors": ["age"]},
        privacy={"min_hospitals": 2, "min_rows": 1, "min_cell": 40},
    )
    few = {name: table.head(20) for name, table in tables_of(2).items()}
    with pytest.raises(StudyError, match="degrees of freedom"):
        simulate(study, few)


def test_the_third_state_holds_no_figure() -> None:
    assert refused() == {"state": "refused", "why": "too few rows, or rows of too few hospitals"}


# --- rounding ---


@given(st.integers(0, 10_000), st.sampled_from([1, 5, 10]))
def test_counts_become_the_nearest_multiple(count: int, to: int) -> None:
    shown = disclosed({"rows": count}, Rules(8, to))["rows"]
    assert shown % to == 0 and abs(shown - count) * 2 <= to


ANALYSES = (
    {"kind": "summary"},
    {"kind": "logistic", "predictors": ["age", "sex"], "subgroups": {"sex": []}},
    {"kind": "forest", "predictors": ["age", "sex"], "trees": 5, "depth": 3},
)
COUNTS = {"n", "n_missing", "rows", "read", "missing", "observed", "empty", "events", "df"}


def walked(value: Any, key: str = "") -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [one for name, part in value.items() for one in walked(part, "n" if key == "levels" else name)]
    if isinstance(value, list):
        return [one for part in value for one in walked(part, key)]
    return [(key, value)]


@pytest.fixture(scope="module")
def results() -> dict[int, dict[str, Any]]:
    found = {}
    for to in (1, 5):
        privacy = {"min_hospitals": 3, "min_cell": 8, "round_to": to}
        study = study_of(*ANALYSES, privacy=privacy, split={"test": 0.3, "seed": 1})
        found[to] = json.loads(json.dumps(simulate(study, tables_of(4)).results))
    return found


def test_a_whole_studys_counts_are_rounded_and_nothing_else_changes(
    results: dict[int, dict[str, Any]],
) -> None:
    told = {"flow", "analyses", "rows"}
    whole, rounded = ({key: one[key] for key in told} for one in (results[1], results[5]))
    pairs = list(zip(walked(whole), walked(rounded), strict=True))
    counts = [(was, now) for (key, was), (_, now) in pairs if key in COUNTS and isinstance(was, int)]
    assert len(counts) > 30 and any(was % 5 for was, _ in counts)
    assert all(now % 5 == 0 and abs(now - was) <= 2 for was, now in counts)
    rates = [
        now
        for (key, _), (_, now) in pairs
        if key in ("accuracy", "prevalence", "tpr", "observed") and isinstance(now, float)
    ]
    assert rates and all(round(one, 2) == one for one in rates)
    kept = [(was, now) for (key, was), (_, now) in pairs if key in ("value", "se", "mean", "sd")]
    assert kept and all(was == now for was, now in kept)
    areas = [now for (key, _), (_, now) in pairs if key == "auc" and isinstance(now, float)]
    assert areas and all(round(one, 3) == one for one in areas)


def shares(whole: dict[str, Any], rounded: dict[str, Any]) -> list[tuple[float, float, float]]:
    """Return rates as they are and as they are shown, with the rows of which they are."""
    n, positives = whole["n"], whole["n"] * whole["prevalence"]
    found = [(whole[key], rounded[key], n) for key in ("prevalence", "accuracy")]
    found += [
        (one["observed"], other["observed"], one["n"])
        for one, other in zip(whole["calibration"], rounded["calibration"], strict=True)
    ]
    curves, shown = whole["curves"], rounded["curves"]
    found += [(one, other, positives) for one, other in zip(curves["tpr"], shown["tpr"], strict=True)]
    for tpr, fpr, one, other in zip(
        *(curves[key] for key in ("tpr", "fpr", "precision")), shown["precision"], strict=True
    ):
        found.append((one, other, tpr * positives + fpr * (n - positives)))
    return found


def test_a_rounded_rate_leaves_as_many_counts_open_as_a_rounded_count(
    results: dict[int, dict[str, Any]],
) -> None:
    """Its steps are ``round_to`` rows wide at least, or as wide as a rate's can be."""
    checked = 0
    for label in ("logistic", "forest"):
        for part in ("train", "test"):
            whole, rounded = (results[to]["analyses"][label]["metrics"][part] for to in (1, 5))
            for was, now, rows in shares(whole, rounded):
                steps = [step for step in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if step * rows >= 5] or [0.5]
                assert now == pytest.approx(round(now / steps[0]) * steps[0], abs=1e-9)
                assert abs(was - now) <= steps[0] / 2 + 1e-9
                checked += 1
    assert checked > 50


def test_console_and_report_know_of_results_json_alone() -> None:
    """They can't reach what is not published: no sum, no program and no analysis is imported there."""
    package = Path(wardround_server.__file__).parent
    files = [package / "show.py", *(package / "report").glob("*.py")]
    assert len(files) > 5
    barred = {
        *("analyses", "analysis", "evaluation", "plan", "program", "query", "moments", "newton", "replay"),
        *("cohort", "transcript", "publish", "federation", "gathering", "grid", "simulation", "studies"),
    }
    for file in files:
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wardround"):
                names = {node.module or "", *(f"{node.module}.{one.name}" for one in node.names)}
                assert not barred & {name.split(".")[1] for name in names if "." in name}, (file.name, names)
            if isinstance(node, ast.Import):
                assert not any(one.name.startswith("wardround") for one in node.names), file.name


def test_no_extreme_of_the_data_stands_in_the_results(results: dict[int, dict[str, Any]]) -> None:
    table = patients()
    shown = [value for key, value in walked(results[1]["analyses"]) if isinstance(value, float)]
    keys = {key for key, _ in walked(results[1]["analyses"])}
    assert not keys & {"min", "max", "minimum", "maximum", "range", "0", "1"}
    for name in ("age", "chol", "bmi"):
        column = pd.to_numeric(table[name]).dropna()
        assert not np.isin([column.min(), column.max()], shown).any(), name
