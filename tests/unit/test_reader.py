"""The reader: what each cell means, which rows are in, and that no message holds a cell."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround_client.reader import Reading, read
from wardround_client.sources import Table, of_frame, open_table
from wardround_common.cohort import Cohort
from wardround_common.errors import DataError
from wardround_common.rowkey import chosen, row_keys
from wardround_common.study import Study, parse_study

KEY = b"k" * 32
SECRET = "Xq7SECRET"
AGE = {"kind": "number", "range": [18, 100]}
SEX = {"kind": "category", "levels": ["0", "1"]}


def study_of(variables: dict[str, Any] | None = None, **keys: Any) -> Study:
    study = {
        "wardround": 1,
        "name": "test",
        "variables": variables or {"age": AGE, "sex": SEX},
        "analyses": [{"kind": "summary"}],
    }
    return parse_study(study | keys)


def from_csv(folder: Path, text: str, study: Study) -> Reading:
    (folder / "ward.csv").write_text(text, encoding="utf-8")
    return read(open_table(folder / "ward.csv"), study, "ward", KEY)


def from_frame(columns: dict[str, Any], study: Study) -> Reading:
    return read(of_frame(pd.DataFrame(columns), "ward"), study, "ward", KEY)


def values(cohort: Cohort, name: str) -> list[float | str | None]:
    """Return a variable's numbers or level texts, None where missing."""
    column = cohort.columns[name].tolist()
    if cohort.columns[name].dtype.kind == "f":
        return [None if math.isnan(value) else value for value in column]
    return [None if code < 0 else cohort.dictionary.category(name).levels[code] for code in column]


def errors_of(error: BaseException | None) -> Iterator[str]:
    while error is not None:
        yield f"{error} {error.args}"
        error = error.__cause__ or error.__context__


# Numbers


def test_a_number_cell_is_a_value_empty_a_code_or_out_of_range(tmp_path: Path) -> None:
    study = study_of({"x": {"kind": "number", "range": [0, 10], "missing": ["?", -9, "77", "not done"]}})
    cells = [
        "0",
        "10",
        " 2.5 ",
        "\t3\t",
        "1e1",
        "+4",
        "\u00a05\u3000",
        '""',
        " ",
        "NaN",
        "?",
        "\t?",
        "-9",
        "-9.0",
    ]
    cells += ["77", "77.0", "not done", "10.000001", "-1"]
    reading = from_csv(tmp_path, "x,y\n" + "".join(f"{cell},\n" for cell in cells), study)
    assert values(reading.cohort, "x") == [0, 10, 2.5, 3, 10, 4, 5, *[None] * 12]
    assert reading.cohort.flow.variables == {"x": (7, 3, 7, 2)}
    assert reading.cohort.columns["x"].dtype == np.float64


@pytest.mark.parametrize(
    "cell",
    ["ten", "1,5", "1_000", "0x10", "inf", "-Infinity", "1e999", "5 5", "--5", "True", "٣", "NULL", "1.5.2"],
)
def test_a_cell_that_is_no_number_is_refused_with_count_and_line(tmp_path: Path, cell: str) -> None:
    text = "id;chol\n" + "".join(f"{i};5\n" for i in range(15)) + f"a;{cell}\nb;5\nc;{cell}\n"
    with pytest.raises(DataError) as caught:
        from_csv(tmp_path, text, study_of({"chol": {"kind": "number", "range": [0, 10]}}))
    assert str(caught.value) == (
        f"{tmp_path}/ward.csv: column `chol`: 2 cells are not numbers (first in line 17); "
        "correct them, or declare the code under `variables.chol.missing`"
    )


def test_infinite_and_boolean_cells_of_a_frame_are_no_numbers() -> None:
    study = study_of({"x": {"kind": "number", "range": [0, 10]}})
    with pytest.raises(DataError, match=r"^ward: column `x`: 1 cell is not a number \(first in row 2\)"):
        from_frame({"x": [1.0, np.inf]}, study)
    with pytest.raises(DataError, match=r"column `x` holds true and false, no numbers"):
        from_frame({"x": [True, False]}, study)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([1.0, 0.0, np.nan, 20.0]),
        pd.Series([1, 0, None, 20], dtype="Int64"),
        pd.Series([1, 0, None, 20], dtype="Float32"),
        pd.Series([1, "0.0", None, 20.0], dtype=object),
        pd.Series(["1", "0", None, "20"]),
        pd.Series([1.0, 0.0, None, 20.0], dtype="category"),
        pd.Series([1.0, 0.0, None, 20.0], dtype=pd.SparseDtype(float)),
        pd.Series([1, 0, None, 20], dtype="int64[pyarrow]"),
    ],
)
def test_numbers_are_read_alike_from_every_dtype(column: Any) -> None:
    reading = from_frame({"x": column}, study_of({"x": {"kind": "number", "range": [0, 10], "missing": [0]}}))
    assert values(reading.cohort, "x") == [1, None, None, None]
    assert reading.cohort.flow.variables == {"x": (1, 1, 1, 1)}


def test_a_complete_float_column_is_shared_and_one_with_gaps_is_not() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1.0, np.nan], "c": [1.0, 99.0]})
    before = frame.copy()
    study = study_of({name: {"kind": "number", "range": [0, 10]} for name in "abc"})
    columns = read(of_frame(frame, "ward"), study, "ward", KEY).cohort.columns
    assert [np.shares_memory(columns[n], frame[n].to_numpy()) for n in "abc"] == [True, False, False]
    assert not any(column.flags.writeable for column in columns.values())
    pd.testing.assert_frame_equal(frame, before)


# Categories


def test_a_category_cell_is_a_level_by_any_of_its_codes(tmp_path: Path) -> None:
    study = study_of(
        {"d": {"kind": "category", "levels": {"no": ["0"], "yes": ["1", "2", "y"]}, "missing": ["9", "?"]}}
    )
    cells = ["0", "1", "2", " y ", "1.0", "\u00a02.000", "0.0", "9", "9.0", "?", '""', " ", "\t"]
    reading = from_csv(tmp_path, "d,e\n" + "".join(f"{cell},\n" for cell in cells), study)
    assert values(reading.cohort, "d") == ["no", "yes", "yes", "yes", "yes", "yes", "no", *[None] * 6]
    assert reading.cohort.flow.variables == {"d": (7, 3, 3, 0)}
    assert reading.cohort.columns["d"].dtype == np.int16


@pytest.mark.parametrize("cell", ["2", "1.5", "01", "one", "-1", "1e0", "true", "nan", "NULL", "1\n"])
@pytest.mark.parametrize("rule", ["missing", "drop", "refuse"])
def test_a_cell_that_is_no_level_is_refused_whatever_out_of_range_says(
    tmp_path: Path, cell: str, rule: str
) -> None:
    text = 'age,sex\n20,0\n20,1\n20,"' + cell + '"\n'
    if cell.strip() == "1":
        assert values(from_csv(tmp_path, text, study_of()).cohort, "sex") == ["0", "1", "1"]
        return
    with pytest.raises(DataError) as caught:
        from_csv(tmp_path, text, study_of(out_of_range=rule))
    assert "column `sex`: 1 cell is none of the dictionary's levels (first in line 4); " in str(caught.value)


@pytest.mark.parametrize(
    "column",
    [
        pd.Series([0.0, 1.0, np.nan, 9.0]),
        pd.Series([0, 1, None, 9], dtype="Int64"),
        pd.Series([0, "1.0", None, 9.0], dtype=object),
        pd.Series(["0", "1", None, "9"], dtype="category"),
        pd.Series([0, 1, None, 9], dtype="category"),
        pd.Series(["0", " 1 ", "", "9"]),
    ],
)
def test_levels_are_read_alike_from_every_dtype(column: Any) -> None:
    reading = from_frame({"sex": column}, study_of({"sex": SEX | {"missing": ["9"]}}))
    assert values(reading.cohort, "sex") == ["0", "1", None, None]
    assert reading.cohort.flow.variables == {"sex": (2, 1, 1, 0)}


@pytest.mark.parametrize("levels", [["0", "1"], ["false", "true"], ["FALSE", "TRUE"], ["1", "0"]])
@pytest.mark.parametrize("dtype", [bool, "boolean", object])
def test_a_boolean_column_is_read_by_the_levels_that_mean_true_and_false(
    levels: list[str], dtype: Any
) -> None:
    study = study_of({"sex": {"kind": "category", "levels": levels}})
    cells = [True, False] if dtype is bool else [True, False, None]
    yes = next(level for level in levels if level.lower() in ("1", "true"))
    no = next(level for level in levels if level != yes)
    reading = from_frame({"sex": pd.Series(cells, dtype=dtype)}, study)
    assert values(reading.cohort, "sex")[:2] == [yes, no]
    assert reading.cohort.flow.variables["sex"] == (2, len(cells) - 2, 0, 0)


def test_a_boolean_column_without_a_level_for_false_is_refused() -> None:
    study = study_of({"sex": {"kind": "category", "levels": ["true", "no"]}})
    with pytest.raises(DataError, match=r"1 cell is none of the dictionary's levels \(first in row 2\)"):
        from_frame({"sex": [True, False]}, study)


def test_long_codes_keep_every_digit() -> None:
    codes = ["900000000000207008", "900000000000207009"]
    study = study_of({"code": {"kind": "category", "levels": codes}})
    assert values(from_frame({"code": [int(c) for c in codes]}, study).cohort, "code") == codes
    with pytest.raises(DataError, match="2 cells are none of the dictionary's levels"):
        from_frame({"code": [float(c) for c in codes]}, study)


def test_an_exact_code_comes_before_the_same_number_written_otherwise(tmp_path: Path) -> None:
    study = study_of({"c": {"kind": "category", "levels": {"a": ["1.0"], "b": ["1"], "it's": ["it's"]}}})
    assert values(from_csv(tmp_path, "c\n1\n1.0\n1.00\nit's\n", study).cohort, "c") == ["b", "a", "b", "it's"]
    assert values(from_frame({"c": [1, 1]}, study).cohort, "c") == ["b", "b"]
    assert values(from_frame({"c": [1.0, 1.0]}, study).cohort, "c") == ["b", "b"]


def test_a_thousand_levels_are_read(tmp_path: Path) -> None:
    levels = [f"l{i}" for i in range(1000)]
    study = study_of({"c": {"kind": "category", "levels": levels}})
    assert values(from_csv(tmp_path, "c\n" + "\n".join(levels[::-1]), study).cohort, "c") == levels[::-1]


# Columns


def test_a_variable_is_found_by_its_column_and_an_absent_one_is_all_missing(tmp_path: Path) -> None:
    study = study_of({"age": AGE | {"column": "Alter"}, "sex": SEX, "chol": AGE})
    reading = from_csv(tmp_path, "Alter,extra,,\n20,x,,\n30,y,,\n", study)
    assert reading.absent == ("sex", "chol")
    assert list(reading.cohort.columns) == ["age", "sex", "chol"]
    assert [values(reading.cohort, name) for name in reading.cohort.columns] == [
        [20, 30],
        [None] * 2,
        [None] * 2,
    ]
    assert reading.cohort.flow.variables["sex"] == (0, 2, 0, 0)


@pytest.mark.parametrize(("header", "there"), [("Age", "Age"), (" age ", " age "), ("AGE ", "AGE ")])
def test_a_column_of_almost_the_right_name_is_pointed_out(tmp_path: Path, header: str, there: str) -> None:
    with pytest.raises(DataError) as caught:
        from_csv(tmp_path, f"{header},sex\n20,0\n", study_of())
    assert str(caught.value) == (
        f"{tmp_path}/ward.csv: no column `age`; there is `{there}`; "
        f"rename it or set `column: {there}` under `variables.age`"
    )


def test_columns_that_differ_by_case_are_two_columns(tmp_path: Path) -> None:
    reading = from_csv(tmp_path, "AGE,age,sex\n1,20,0\n", study_of())
    assert values(reading.cohort, "age") == [20]


# Rows


def test_out_of_range_cells_are_made_missing_dropped_or_refused(tmp_path: Path) -> None:
    text = "age,sex\n20,0\n17,1\n100,1\n101,\n,0\n"
    flow = from_csv(tmp_path, text, study_of()).cohort.flow
    assert (flow.read, flow.out_of_range, flow.variables) == (
        5,
        0,
        {"age": (2, 1, 0, 2), "sex": (4, 1, 0, 0)},
    )
    dropped = from_csv(tmp_path, text, study_of(out_of_range="drop")).cohort
    assert values(dropped, "age") == [20, 100, None] and values(dropped, "sex") == ["0", "1", "0"]
    assert dropped.flow.out_of_range == 2 and dropped.rows == 3
    assert dropped.flow.variables == {"age": (2, 1, 0, 0), "sex": (3, 0, 0, 0)}
    with pytest.raises(DataError) as caught:
        from_csv(tmp_path, text, study_of(out_of_range="refuse"))
    assert str(caught.value) == (
        f"{tmp_path}/ward.csv: column `age`: 2 cells are outside 18 to 100 (first in line 3); "
        "correct them, or see `variables.age.range` and `out_of_range`"
    )


def test_the_predicate_selects_before_rows_are_dropped_and_missing_is_not_selected(tmp_path: Path) -> None:
    text = "age,sex,id\n20,0,a\n17,1,b\n30,1,c\n150,1,d\n,1,e\n40,,f\n50,1,g\n"
    study = study_of(cohort={"where": "sex = '1' AND age > 25"}, out_of_range="drop")
    cohort = from_csv(tmp_path, text, study).cohort
    assert values(cohort, "age") == [30, 50]
    assert (cohort.flow.read, cohort.flow.not_in_cohort, cohort.flow.out_of_range) == (7, 4, 1)
    assert cohort.keys.values.tolist() == row_keys(KEY, "ward", ["c", "g"]).tolist()


def test_a_row_outside_of_the_cohort_is_not_refused_for_its_range(tmp_path: Path) -> None:
    study = study_of(cohort={"where": "age >= 18"}, out_of_range="refuse")
    assert values(from_csv(tmp_path, "age,sex\n12,0\n20,0\n", study).cohort, "age") == [20]
    with pytest.raises(DataError, match=r"1 cell is outside 18 to 100 \(first in line 4\)"):
        from_csv(tmp_path, "age,sex\n12,0\n20,0\n120,1\n", study)


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("1 = 1", [20, 30, 40]),
        ("FALSE", []),
        ("age / (age - 30) > 0", [40]),
        ("sex IS NULL", [40]),
        ("sex = '0' OR sex = '1'", [20, 30]),
        ("NOT sex = '0'", [30]),
        ("site = 'it''s'", [20]),
        ('"blood pressure" > 1', [20, 30]),
    ],
)
def test_a_predicate_is_evaluated_over_values_and_level_texts(
    tmp_path: Path, where: str, kept: list[float]
) -> None:
    variables = {"age": AGE, "sex": SEX, "blood pressure": {"kind": "number", "range": [0, 9]}}
    variables |= {"site": {"kind": "category", "levels": {"it's": ["1"], 'a"b': ["2"]}}}
    text = "age,sex,blood pressure,site\n20,0,2,1\n30,1,3,2\n40,,1,2\n"
    cohort = from_csv(tmp_path, text, study_of(variables, cohort={"where": where})).cohort
    assert values(cohort, "age") == kept and cohort.rows == len(kept)


def test_rows_keep_their_order_through_a_predicate_over_many_of_them() -> None:
    rng = np.random.default_rng(1)
    x = rng.uniform(0, 1, 600_000)
    study = study_of({"x": {"kind": "number", "range": [0, 1]}}, cohort={"where": "x < 0.5"})
    assert np.array_equal(from_frame({"x": x}, study).cohort.columns["x"], x[x < 0.5])


def test_a_table_larger_than_max_rows_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"3 rows, and the study's `max_rows` is 2"):
        from_csv(tmp_path, "age\n20\n30\n40\n", study_of(max_rows=2))


# Ids and folds


def test_ids_are_the_same_text_from_every_source(tmp_path: Path) -> None:
    expected = row_keys(KEY, "ward", ["1", "20", "3"]).tolist()
    ids: list[Any] = [
        [1, 20, 3],
        [1.0, 20.0, 3.0],
        ["1", " 20 ", "3.0"],
        pd.Series([1, 20, 3], dtype="Int64"),
    ]
    for column in ids:
        reading = from_frame({"age": [20, 30, 40], "id": column}, study_of())
        assert reading.cohort.keys.values.tolist() == expected
    assert (
        from_csv(tmp_path, "age,id\n20,1\n30,20.0\n40,3\n", study_of()).cohort.keys.values.tolist()
        == expected
    )


def test_ids_belong_to_the_hospital_unless_the_study_says_shared(tmp_path: Path) -> None:
    text = "age,sex,id\n20,0,a\n"
    assert from_csv(tmp_path, text, study_of()).cohort.keys.values == row_keys(KEY, "ward", ["a"])
    assert from_csv(tmp_path, text, study_of(ids="shared")).cohort.keys.values == row_keys(KEY, "", ["a"])


def test_without_ids_the_row_number_serves_and_stays_with_the_hospital(tmp_path: Path) -> None:
    text = "age,sex\n20,0\n30,1\n40,1\n"
    everyone = from_csv(tmp_path, text, study_of(ids="shared")).cohort.keys.values.tolist()
    assert everyone == row_keys(KEY, "ward", ["0", "1", "2"]).tolist()
    older = from_csv(tmp_path, text, study_of(cohort={"where": "age > 20"})).cohort.keys.values.tolist()
    assert older == everyone[1:]


def test_a_repeated_id_is_refused_unless_rows_are_many(tmp_path: Path) -> None:
    text = f"age,id\n20,{SECRET}\n30,b\n40,{SECRET}\n50,b\n60,{SECRET}\n"
    with pytest.raises(DataError) as caught:
        from_csv(tmp_path, text, study_of())
    message = str(caught.value)
    assert "column `id`: 3 cells are ids that stood there before (first in line 4)" in message
    assert "`rows: many`" in message and SECRET not in message
    assert from_csv(tmp_path, text, study_of(rows="many")).cohort.rows == 5
    assert from_csv(tmp_path, text, study_of(cohort={"where": "age < 35"})).cohort.rows == 2


@pytest.mark.parametrize("rows", ["one_per_person", "many"])
def test_an_empty_id_is_refused(tmp_path: Path, rows: str) -> None:
    with pytest.raises(DataError, match=r"column `id`: 1 cell is empty \(first in line 3\)"):
        from_csv(tmp_path, "age,id\n20,a\n30, \n40,c\n", study_of(rows=rows))
    with pytest.raises(DataError, match=r"column `id`: 1 cell is empty \(first in row 2\)"):
        from_frame({"age": [20, 30], "id": [1, np.nan]}, study_of(rows=rows))
    with pytest.raises(DataError, match=r"column `id`: 1 cell is empty \(first in row 3\)"):
        from_frame(
            {"age": [20, 30, 40], "id": pd.Series([None, 2, None], dtype="Int64")},
            study_of(rows=rows, cohort={"where": "age > 20"}),
        )


def test_ids_that_lost_digits_and_ids_of_another_case_are_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="column `id` holds floating-point numbers above 2"):
        from_frame({"age": [20, 30], "id": [1.0, 2.0**60]}, study_of())
    with pytest.raises(DataError, match="no column `id`; there is `ID`; rename it"):
        from_csv(tmp_path, "age,ID\n20,a\n", study_of())


def test_the_split_is_drawn_by_row_key_or_read_from_a_column(tmp_path: Path) -> None:
    text = "age,id,fold\n" + "".join(f"{20 + i},p{i},{'test ' if i % 3 else 1.0}\n" for i in range(30))
    assert from_csv(tmp_path, text, study_of()).cohort.held_out is None
    drawn = from_csv(tmp_path, text, study_of(split={"test": 0.4, "seed": 7})).cohort
    assert drawn.held_out is not None
    assert drawn.held_out.tolist() == chosen(drawn.keys.values, "fold", 7, 0.4).tolist()
    named = from_csv(tmp_path, text, study_of(split={"column": "fold"}, cohort={"where": "age > 20"})).cohort
    assert named.held_out is not None and named.held_out.tolist() == [bool(i % 3) for i in range(1, 30)]
    numbered = from_csv(tmp_path, text, study_of(split={"column": "fold", "test": 1})).cohort
    assert numbered.held_out is not None and numbered.held_out.tolist() == [i % 3 == 0 for i in range(30)]


def test_a_boolean_fold_is_read_by_what_means_true() -> None:
    study = study_of(split={"column": "fold", "test": "True"})
    held_out = from_frame({"age": [20, 30], "fold": [True, False]}, study).cohort.held_out
    assert held_out is not None and held_out.tolist() == [True, False]


def test_a_split_column_that_is_absent_or_empty_is_refused(tmp_path: Path) -> None:
    study = study_of(split={"column": "fold"})
    with pytest.raises(DataError, match=r"no column `fold`, which `split.column` names"):
        from_csv(tmp_path, "age\n20\n", study)
    with pytest.raises(DataError, match="no column `fold`; there is `Fold`"):
        from_csv(tmp_path, "age,Fold\n20,test\n", study)
    with pytest.raises(DataError, match=r"column `fold`: 2 cells are empty \(first in line 3\)"):
        from_csv(tmp_path, "age,fold\n20,test\n30,\n40,\n", study)


# Cohorts closed by a day, and whose each row is


CLOSED = {"closed": {"column": "seen", "by": "2025-06-30"}}


def test_rows_that_came_later_or_have_no_date_are_not_in_a_closed_cohort(tmp_path: Path) -> None:
    days = [
        "2025-06-30",
        " 2025-06-30T23:59:59.999 ",
        "2025-06-30 24:00",
        "2025-07-01",
        "",
        "1999-12-31 00:00",
    ]
    text = "age,sex,seen\n" + "".join(f"{20 + i},0,{day}\n" for i, day in enumerate(days))
    reading = from_csv(tmp_path, text, study_of(cohort=CLOSED))
    assert values(reading.cohort, "age") == [20, 21, 25] and reading.cohort.flow.not_in_cohort == 3
    assert reading.kept is not None and reading.kept.tolist() == [True, True, False, False, False, True]


def test_the_predicate_and_the_last_day_hold_together(tmp_path: Path) -> None:
    text = "age,sex,seen\n20,0,2025-01-01\n30,1,2025-01-01\n40,1,2025-07-01\n150,1,2025-01-01\n"
    study = study_of(cohort=CLOSED | {"where": "sex = '1'"}, out_of_range="drop")
    reading = from_csv(tmp_path, text, study)
    assert values(reading.cohort, "age") == [30]
    assert (reading.cohort.flow.not_in_cohort, reading.cohort.flow.out_of_range) == (2, 1)
    assert reading.kept is not None and reading.kept.tolist() == [False, True, False, False]


@pytest.mark.parametrize("kind", ["day", "moment", "text"])
def test_a_closed_cohort_is_read_alike_from_csv_parquet_and_frames(tmp_path: Path, kind: str) -> None:
    seen = pd.Series(["2025-06-30 23:59:59", "2025-07-01 00:00:00", None])
    if kind != "text":
        seen = pd.to_datetime(seen)
    if kind == "day":
        seen = seen.dt.date
    frame = pd.DataFrame({"age": [20.0, 30.0, 40.0], "seen": seen})
    frame.to_csv(tmp_path / "ward.csv", index=False)
    frame.to_parquet(tmp_path / "ward.parquet", index=False)
    for table in (
        of_frame(frame, "ward"),
        open_table(tmp_path / "ward.csv"),
        open_table(tmp_path / "ward.parquet"),
    ):
        assert values(read(table, study_of(cohort=CLOSED), "ward", KEY).cohort, "age") == [20]


@pytest.mark.parametrize(
    "cell",
    [
        "30.06.2025",
        "20250630",
        "2025-6-30",
        "2025-02-30",
        "2025-06-30T10",
        "2025-06-30T25:00",
        "2025-06-30Z",
        "2025-06-30T10:00Z",
        "2025-06-30 10:00+02",
        "2025-06-30T10:00:00 Europe/Berlin",
        "infinity",
        f"2025-06-30 {SECRET}",
        SECRET,
    ],
)
def test_a_cell_that_is_no_date_is_refused_and_not_quoted(tmp_path: Path, cell: str) -> None:
    with pytest.raises(DataError) as caught:
        from_csv(tmp_path, f"age,seen\n20,2025-01-01\n30,{cell}\n", study_of(cohort=CLOSED))
    assert str(caught.value) == (
        f"{tmp_path}/ward.csv: column `seen`: 1 cell is not a date (first in line 3); write days as in "
        "2026-01-31, or times as in 2026-01-31T12:00:00 without a time zone"
    )
    assert not [text for text in errors_of(caught.value) if cell in text]


def test_moments_with_a_time_zone_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [20.0], "seen": pd.to_datetime(["2025-06-30 23:30"]).tz_localize("UTC")})
    frame.to_parquet(tmp_path / "ward.parquet", index=False)
    for table in (of_frame(frame, "ward"), open_table(tmp_path / "ward.parquet")):
        with pytest.raises(DataError, match=r"column `seen`: 1 cell is not a date .* without a time zone"):
            read(table, study_of(cohort=CLOSED), "ward", KEY)


def test_a_closed_cohort_without_its_column_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"no column `seen`, which `cohort\.closed` names"):
        from_csv(tmp_path, "age\n20\n", study_of(cohort=CLOSED))
    with pytest.raises(DataError, match="no column `seen`; there is `Seen`"):
        from_csv(tmp_path, "age,Seen\n20,2025-01-01\n", study_of(cohort=CLOSED))


def people(frame: pd.DataFrame, name: str = "test", key: bytes = b"h" * 32) -> list[int]:
    """Return whose each row is, as a study of this name reads them."""
    study = study_of(name=name, rows="many", cohort={"where": "age > 20"})
    return read(of_frame(frame, "ward"), study, "ward", KEY, row_key=key).people.tolist()


def test_persons_are_known_by_their_id_under_the_hospitals_key_in_every_study(tmp_path: Path) -> None:
    frame = pd.DataFrame({"age": [20.0, 30.0, 40.0], "id": ["a", "b", "a"]})
    first = people(frame)
    assert len(first) == 3 and first[0] == first[2] != first[1]
    assert people(frame.assign(age=[50.0, 60.0, 70.0]), name="other") == first
    assert people(frame, key=b"i" * 32)[0] not in first
    frame.to_csv(tmp_path / "ward.csv", index=False)
    read_back = read(open_table(tmp_path / "ward.csv"), study_of(rows="many"), "w", KEY, row_key=b"h" * 32)
    assert read_back.people.tolist() == first


def test_without_ids_a_row_is_known_by_all_its_cells_and_how_often_it_came() -> None:
    content: dict[str, list[Any]] = {
        "age": [20.0, 30.0, np.nan, 20.0, 20.0],
        "sex": ["0", "1", None, "0", "0"],
        "ward": ["x", "x", "x", "x", "y"],
    }
    frame = pd.DataFrame(content)
    first = people(frame)
    assert len(set(first)) == 5
    assert sorted(people(frame[::-1].reset_index(drop=True))) == sorted(first)
    assert people(frame[1:].reset_index(drop=True))[:2] == first[1:3]
    assert people(frame.assign(ward=["z", "x", "x", "x", "y"]))[1:3] == first[1:3]
    assert people(frame.assign(ward=["z", "x", "x", "x", "y"]))[0] not in first


def test_without_a_key_no_row_is_hashed(tmp_path: Path) -> None:
    reading = from_csv(tmp_path, "age,id\n20,a\n30,b\n", study_of())
    assert len(reading.people) == 0 and reading.kept is None


# All sources alike, and nothing said


NUMBER_CELLS = st.none() | st.sampled_from([0.0, -9.0, 1e300]) | st.floats(-50, 150) | st.integers(-5, 120)
CATEGORY_CELLS = st.sampled_from([None, "0", "1", "2", "9"])


def tables(folder: Path, frame: pd.DataFrame) -> list[Table]:
    frame.to_csv(folder / "ward.csv", index=False)
    frame.to_parquet(folder / "ward.parquet", index=False)
    texts = frame.astype({"x": object}).map(
        lambda cell: cell if cell is None or isinstance(cell, str) else repr(cell)
    )
    return [
        of_frame(frame, "ward"),
        of_frame(texts.where(frame.notna(), None), "ward"),
        open_table(folder / "ward.csv"),
        open_table(folder / "ward.parquet"),
    ]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(st.tuples(NUMBER_CELLS, CATEGORY_CELLS), min_size=1, max_size=12),
    rule=st.sampled_from(["missing", "drop"]),
    where=st.sampled_from([None, "x >= 1", "d = 'yes' OR x IS NULL"]),
    as_number=st.booleans(),
)
def test_csv_parquet_and_frames_of_the_same_content_give_the_same_bits(
    tmp_path: Path, rows: list[tuple[Any, Any]], rule: str, where: str | None, as_number: bool
) -> None:
    frame = pd.DataFrame({"id": range(len(rows)), "x": [x for x, _ in rows], "d": [d for _, d in rows]})
    frame["x"] = frame["x"].astype(float)
    if as_number:
        frame["d"] = frame["d"].astype(float)
    study = study_of(
        {
            "x": {"kind": "number", "range": [-20, 100], "missing": [0, "-9"]},
            "d": {"kind": "category", "levels": {"no": ["0"], "yes": ["1", "2"]}, "missing": ["9"]},
        },
        out_of_range=rule,
        cohort={"where": where},
        split={"test": 0.5},
    )
    first, *others = [read(table, study, "ward", KEY) for table in tables(tmp_path, frame)]
    for other in others:
        assert other.cohort.flow == first.cohort.flow
        assert other.cohort.keys.values.tobytes() == first.cohort.keys.values.tobytes()
        assert other.cohort.held_out is not None and first.cohort.held_out is not None
        assert other.cohort.held_out.tobytes() == first.cohort.held_out.tobytes()
        for name, column in first.cohort.columns.items():
            assert other.cohort.columns[name].dtype == column.dtype
            assert other.cohort.columns[name].tobytes() == column.tobytes()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cell=st.text(st.characters(codec="utf-8", exclude_characters='\0\r\n",;\t|'), max_size=8),
    column=st.sampled_from(["age", "sex", "id", "fold"]),
    source=st.sampled_from(["csv", "frame", "objects"]),
)
def test_no_message_holds_a_cell(tmp_path: Path, cell: str, column: str, source: str) -> None:
    planted = SECRET + cell
    content: dict[str, list[Any]] = {
        "age": ["20"] * 4,
        "sex": ["0"] * 4,
        "id": list("abcd"),
        "fold": ["test"] * 4,
    }
    content[column] = ["", planted, planted, ""] if column in ("id", "fold") else ["x", planted, planted, ""]
    frame = pd.DataFrame(content, dtype=object if source == "objects" else None)
    study = study_of(split={"column": "fold"})
    with pytest.raises(DataError) as caught:
        if source == "csv":
            from_csv(tmp_path, frame.to_csv(index=False), study)
        else:
            read(of_frame(frame, "ward"), study, "ward", KEY)
    assert not [text for text in errors_of(caught.value) if SECRET in text]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=5))
def test_a_number_written_as_text_is_read_to_the_last_bit(numbers: list[float]) -> None:
    study = study_of({"x": {"kind": "number", "range": [-1e12, 1e12]}})
    texts = from_frame({"x": pd.Series(list(map(repr, numbers)), dtype=object)}, study).cohort.columns["x"]
    assert texts.tobytes() == np.array(numbers).tobytes()


def test_a_reading_prints_no_cell(tmp_path: Path) -> None:
    reading = from_csv(tmp_path, "age,id\n77,a\n", study_of())
    assert repr(reading) == "Reading(cohort=Cohort(...), absent=('sex',))"
