"""Tables are opened whole or not at all, and what goes wrong is said without a cell."""

from __future__ import annotations

import gzip
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wardround_client.sources import Table, of_frame, open_csv, open_parquet, open_table
from wardround_client.sources.table import private_connection
from wardround_common.errors import DataError

SECRET = "Xq7SECRET"


def cells(table: Table) -> list[list[str | None]]:
    """Return the table's columns as texts."""
    columns = [table.texts(i, "cell", "cell AS c")["c"] for i in range(len(table.columns))]
    return [column.tolist() for column in columns]


def opened(folder: Path, content: bytes, name: str = "ward.csv") -> Table:
    (folder / name).write_bytes(content)
    return open_table(folder / name)


def errors_of(error: BaseException | None) -> Iterator[str]:
    """Yield the texts of an error and of all that it was raised from."""
    while error is not None:
        yield f"{error} {error.args}"
        error = error.__cause__ or error.__context__


# CSV


@pytest.mark.parametrize(
    ("content", "columns", "expected"),
    [
        (b"a,b\n1,2\n", ("a", "b"), [["1"], ["2"]]),
        (b"a,b\n1,2", ("a", "b"), [["1"], ["2"]]),
        (b"a;b\n1,5;2\n", ("a", "b"), [["1,5"], ["2"]]),
        (b"a\tb c\n1\t2\n", ("a", "b c"), [["1"], ["2"]]),
        (b"a|b\n1|2\n", ("a", "b"), [["1"], ["2"]]),
        (b"a\n1\n2\n", ("a",), [["1", "2"]]),
        (b"\xef\xbb\xbfa,b\r\n1,2\r\n", ("a", "b"), [["1"], ["2"]]),
        (b"a,b\r1,2\r3,4\r", ("a", "b"), [["1", "3"], ["2", "4"]]),
        (b"a,b\n1,2\r\n3,4\n", ("a", "b"), [["1", "3"], ["2", "4"]]),
        (b'"a","b"\n"1,5","x""y"\n', ("a", "b"), [["1,5"], ['x"y']]),
        (b'a,b\n1,"two\nlines"\n', ("a", "b"), [["1"], ["two\nlines"]]),
        (b'a,b\n,""\n 1 ,\n', ("a", "b"), [[None, " 1 "], [None, None]]),
        (b"a,b\n1,NULL\nNA,\\N\n", ("a", "b"), [["1", "NA"], ["NULL", "\\N"]]),
        (b"a,b\n1,2\n\n3,4\n\n", ("a", "b"), [["1", "3"], ["2", "4"]]),
        (b"a,b\n# 1,2\n", ("a", "b"), [["# 1"], ["2"]]),
        (b"a,,\n1,2,3\n", ("a", "", ""), [["1"], ["2"], ["3"]]),
        (b"Age,age,AGE\n1,2,3\n", ("Age", "age", "AGE"), [["1"], ["2"], ["3"]]),
        ("größe,b\n1,é\n".encode(), ("größe", "b"), [["1"], ["é"]]),
    ],
)
def test_a_csv_file_is_read_as_texts(
    tmp_path: Path, content: bytes, columns: tuple[str, ...], expected: list[list[str | None]]
) -> None:
    table = opened(tmp_path, content)
    assert (table.columns, table.rows, cells(table)) == (columns, len(expected[0]), expected)
    (tmp_path / "ward.csv.gz").write_bytes(gzip.compress(content))
    assert cells(open_table(tmp_path / "ward.csv.gz")) == expected


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\n", "is empty"),
        (b"a,b\n", "has a header but no rows"),
        (b"a,b", "has a header but no rows"),
        (b"\na,b\n1,2\n", "the first line must be a header"),
        (b"63,1\n64,2\n", "the first line holds numbers"),
        (b"63.0,1.0,?\n64,2,3\n", "the first line holds numbers"),
        (b"a,b,a\n1,2,3\n", "columns 1 and 3 of the header have the same name"),
        (b"a,b\n1,2\n1\n", "line 3 has 1 cell, the header has 2"),
        (b"a,b\n1,2,3\n", "line 2 has 3 cells, the header has 2"),
        (b"a,b\n1,2\n3,4,\n", "line 3 has 3 cells, the header has 2"),
        (b"a,b\n,1,\n3,4\n", "line 2 has 3 cells, the header has 2"),
        (b"a,b\n1,2\r\n3,4,5\n", "line 3 has 3 cells, the header has 2"),
        (b"a,b\n" + b"1,2\n" * 50_000 + b"1\n", "line 50002 has 1 cell"),
        (b'a,b\n1,"2\n3,4\n', "a quote in line 2 is not closed"),
        (b'a,b\n1,"2"x\n3,4\n', "a quote in line 2 is not closed or not doubled"),
        (b"a,b\n1,2\n3,\xe9\n", "is not UTF-8 in line 3"),
        (b"a,b\n" + b"1,2\n" * 400_000 + b"3,\xe9\n", "is not UTF-8 in line 400002"),
        (b"a,b\n1,2\n3,\xc3", "is not UTF-8 in line 3"),
        ("a,b\n1,2\n".encode("utf-16"), "is not UTF-8 in line 1"),
        ("a,b\n1,2\n".encode("utf-16-le"), "holds NUL bytes"),
    ],
)
def test_a_faulty_csv_file_is_refused_with_its_line(tmp_path: Path, content: bytes, reason: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, content)
    assert str(caught.value).startswith(f"{tmp_path}/ward.csv: ")
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        f"a,b\n1,{SECRET},{SECRET}\n",
        f"a,b\n{SECRET}\n",
        f'a,b\n1,"{SECRET}\n3,4\n',
        f'a,b\n1,"{SECRET}"{SECRET}\n',
        f"{SECRET},{SECRET}\n1,2\n",
        f"a,b\n{SECRET},\x00\n",
        f"a,b\n{SECRET},{'x' * 3_000_000}\n",
        f'a\n1\r\n"{SECRET}"\n',
        f"a,b\n1,2,3\n\ud800{SECRET}",
    ],
)
def test_the_error_of_a_faulty_file_holds_no_cell_not_even_in_its_context(
    tmp_path: Path, content: str
) -> None:
    with pytest.raises(DataError) as caught:
        opened(tmp_path, content.encode("utf-8", "surrogatepass"))
    assert not [text for text in errors_of(caught.value) if SECRET in text]


def test_rows_are_named_by_line_where_lines_and_rows_go_together(tmp_path: Path) -> None:
    assert opened(tmp_path, b"a,b\n1,2\n3,4\n").place(1) == "line 3"
    assert opened(tmp_path, b'a,b\n1,"x\ny"\n3,4\n').place(1) == "row 2"
    assert opened(tmp_path, b"a,b\n1,2\n\n3,4\n\n").place(1) == "row 2"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.lists(
            st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6),
            min_size=3,
            max_size=3,
        ),
        min_size=1,
        max_size=8,
    ),
    delimiter=st.sampled_from(",;\t|"),
    ending=st.sampled_from(["\n", "\r\n"]),
)
def test_any_quoted_text_comes_back(
    tmp_path: Path, rows: list[list[str]], delimiter: str, ending: str
) -> None:
    lines = [["one", "two", "three"], *rows]
    content = ending.join(
        delimiter.join('"' + cell.replace('"', '""') + '"' for cell in line) for line in lines
    )
    table = opened(tmp_path, content.encode())
    assert table.columns == ("one", "two", "three")
    assert cells(table) == [[row[i] or None for row in rows] for i in range(3)]


# Files


@pytest.mark.parametrize("name", ["w[1]*?.csv", "it's.CSV", "a b;c.tsv", "ü.txt", "-.csv", "a=b.csv"])
def test_a_file_is_opened_by_its_own_name_and_never_as_a_pattern(tmp_path: Path, name: str) -> None:
    (tmp_path / "w1xy.csv").write_bytes(b"z\n9\n")
    assert opened(tmp_path, b"a,b\n1,2\n", name).columns == ("a", "b")


def test_a_parquet_file_is_opened_by_its_own_name_and_never_as_a_pattern(tmp_path: Path) -> None:
    folder = tmp_path / "year=2020"
    folder.mkdir()
    pq.write_table(pa.table({"z": [9]}), folder / "w1x.parquet")
    pq.write_table(pa.table({"year": [1999]}), folder / "w[1]*.parquet")
    table = open_parquet(folder / "w[1]*.parquet")
    assert (table.columns, cells(table)) == (("year",), [["1999"]])


def test_files_that_cannot_be_opened_are_named_as_they_were_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "ward.xlsx").write_bytes(b"x")
    os.mkfifo(tmp_path / "pipe.csv")
    for name, reason in {
        "none.csv": "there is no such file",
        "none.parquet": "there is no such file",
        "https://example.org/x.csv": "there is no such file",
        "folder.csv": "is a folder",
        "pipe.csv": "is not a regular file",
        "x" * 300 + ".csv": "cannot be read",
        "nul\0.csv": "cannot be read",
        "ward.xlsx": "of unknown kind; a table's name ends in .csv",
        "ward": "of unknown kind",
    }.items():
        with pytest.raises(DataError, match=f"^{name}: {reason}"):
            open_table(name)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_a_file_without_permission_is_refused(tmp_path: Path) -> None:
    (tmp_path / "ward.csv").write_bytes(b"a\n1\n")
    (tmp_path / "ward.csv").chmod(0)
    with pytest.raises(DataError, match="no permission"):
        open_csv(tmp_path / "ward.csv")


def test_a_broken_gzip_file_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(b"a,b\n" + b"1,2\n" * 1000)
    for content in (b"a,b\n1,2\n", whole[:-9], whole[:40]):
        with pytest.raises(DataError, match="cannot be read as gzip"):
            opened(tmp_path, content, "ward.csv.gz")


# Parquet


def test_a_parquet_file_keeps_numbers_as_numbers_and_the_rest_as_texts(tmp_path: Path) -> None:
    content = pa.table(
        {
            "i": pa.array([1, None], pa.int32()),
            "u": pa.array([2**64 - 1, 0], pa.uint64()),
            "f": pa.array([0.5, None], pa.float32()),
            "d": pa.array([float("nan"), 2.5]),
            "b": pa.array([True, None]),
            "s": ["x", None],
            "c": pa.array(["y", "z"]).dictionary_encode(),
            "nested": [{"p": 1, "q": {"r": 2}}] * 2,
            "last": [1, 2],
        }
    )
    pq.write_table(content, tmp_path / "ward.parquet")
    table = open_table(tmp_path / "ward.parquet")
    assert table.columns == tuple(content.column_names)
    assert table.place(0) == "row 1"
    kinds = [table.numbers(i) for i in range(len(table.columns))]
    assert [None if k is None else k.values.dtype.name for k in kinds] == [
        "int64", "uint64", "float64", "float64", "bool", None, None, None, "int64",
    ]  # fmt: skip
    assert kinds[0] is not None and kinds[0].empty is not None and kinds[0].empty.tolist() == [False, True]
    assert kinds[1] is not None and kinds[1].values.tolist() == [2**64 - 1, 0]
    assert cells(table)[5:7] == [["x", None], ["y", "z"]]


def test_parquet_columns_that_differ_by_case_stay_apart_and_equal_ones_are_refused(tmp_path: Path) -> None:
    arrays = [pa.array([i]) for i in range(3)]
    pq.write_table(pa.Table.from_arrays(arrays, ["age", "Age", "AGE"]), tmp_path / "ward.parquet")
    table = open_parquet(tmp_path / "ward.parquet")
    assert table.columns == ("age", "Age", "AGE") and cells(table) == [["0"], ["1"], ["2"]]
    pq.write_table(pa.Table.from_arrays(arrays, ["age", "b", "age"]), tmp_path / "ward.parquet")
    with pytest.raises(DataError, match="columns 1 and 3 have the same name"):
        open_parquet(tmp_path / "ward.parquet")


def test_what_is_no_parquet_file_with_rows_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": ["x"] * 1000}), tmp_path / "whole.parquet")
    whole = (tmp_path / "whole.parquet").read_bytes()
    footer = int.from_bytes(whole[-8:-4], "little")
    for content, reason in (
        (b"", "is empty"),
        (b"a,b\n1,2\n", "is not a Parquet file"),
        (b"PAR", "is not a Parquet file"),
        (whole[:-30], "is not a Parquet file, or is not whole"),
        (b"PAR1PAR1", "cannot be read as Parquet"),
        (whole[: -8 - footer] + b"\0" * footer + whole[-8:], "cannot be read as Parquet"),
    ):
        with pytest.raises(DataError, match=reason):
            opened(tmp_path, content, "ward.parquet")
    pq.write_table(pa.table({"a": pa.array([], pa.int64())}), tmp_path / "none.parquet")
    with pytest.raises(DataError, match="has no rows"):
        open_parquet(tmp_path / "none.parquet")


def test_a_file_that_changes_while_it_is_read_is_refused(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [1.0, 2.0]}), tmp_path / "ward.parquet")
    table = open_parquet(tmp_path / "ward.parquet")
    pq.write_table(pa.table({"a": [1.0, 2.0, 3.0]}), tmp_path / "ward.parquet")
    with pytest.raises(DataError, match=r"changed while it was read|cannot be read"):
        table.numbers(0)


def test_a_column_whose_pages_are_damaged_is_refused_when_it_is_read(tmp_path: Path) -> None:
    pq.write_table(pa.table({"a": [f"{SECRET}{i}" for i in range(5000)]}), tmp_path / "whole.parquet")
    content = bytearray((tmp_path / "whole.parquet").read_bytes())
    content[4:2000] = bytes(1996)
    table = opened(tmp_path, bytes(content), "ward.parquet")
    with pytest.raises(DataError, match="column `a` cannot be read") as caught:
        table.texts(0, "cell", "cell AS c")
    assert not [text for text in errors_of(caught.value) if SECRET in text]


# Frames


def test_a_frames_float_column_is_not_copied() -> None:
    frame = pd.DataFrame({"a": [1.0, 2.0], "b": [1, 2]})
    numbers = of_frame(frame, "ward").numbers(0)
    assert numbers is not None and np.shares_memory(numbers.values, frame["a"].to_numpy())


@pytest.mark.parametrize(
    ("column", "kind", "empty"),
    [
        (pd.Series([1, None], dtype="Int64"), "int64", [False, True]),
        (pd.Series([1.5, None], dtype="Float32"), "float64", [False, True]),
        (pd.Series([True, None], dtype="boolean"), "bool", [False, True]),
        (pd.Series([True, None, False], dtype=object), "bool", [False, True, False]),
        (pd.Series([2**64 - 1, 0], dtype="uint64"), "uint64", None),
        (pd.Series([1, 2], dtype="int8"), "int64", None),
        (pd.Series([1, None], dtype="int64[pyarrow]"), "int64", [False, True]),
        (pd.Series(["a", None]), None, None),
        (pd.Series([None, None], dtype=object), None, None),
        (pd.Series(pd.to_datetime(["2020-01-01"])), None, None),
    ],
)
def test_a_frames_dtypes_are_read_as_what_they_hold(
    column: Any, kind: str | None, empty: list[bool] | None
) -> None:
    numbers = of_frame(pd.DataFrame({"a": column}), "ward").numbers(0)
    assert (None if numbers is None else numbers.values.dtype.name) == kind
    if numbers is not None:
        assert (None if numbers.empty is None else numbers.empty.tolist()) == empty


def test_objects_of_all_kinds_become_texts() -> None:
    column = [1, 1.0, 1.5, "x", None, float("nan"), pd.NA, pd.NaT, np.float32(0.5), np.int8(3), True]
    table = of_frame(pd.DataFrame({"a": pd.Series(column, dtype=object)}), "ward")
    assert cells(table) == [["1", "1", "1.5", "x", None, None, None, None, "0.5", "3", "True"]]
    categorical = pd.DataFrame({"a": pd.Series(["x", None, "y"], dtype="category")})
    assert cells(of_frame(categorical, "ward")) == [["x", None, "y"]]


def test_what_is_no_frame_with_rows_is_refused() -> None:
    for frame, reason in (
        ([1, 2], "expected a pandas DataFrame"),
        (pd.DataFrame({"a": []}), "has no rows"),
        (pd.DataFrame([[1, 2, 3]], columns=["a", "b", "a"]), "columns 1 and 3 have the same name"),
        (pd.DataFrame([[1, 2]], columns=[1, "1"]), "columns 1 and 2 have the same name"),
    ):
        with pytest.raises(DataError, match=f"^ward: {reason}"):
            of_frame(frame, "ward")


def test_a_text_that_is_no_unicode_is_refused_without_being_quoted() -> None:
    table = of_frame(pd.DataFrame({"a": pd.Series([f"{SECRET}\ud800"], dtype=object)}), "ward")
    with pytest.raises(DataError, match="column `a` cannot be read") as caught:
        table.texts(0, "cell", "cell AS c")
    assert not [text for text in errors_of(caught.value) if SECRET in text]


# Seclusion


def test_a_table_prints_as_its_name_only(tmp_path: Path) -> None:
    table = opened(tmp_path, f"a,b\n{SECRET},2\n".encode())
    assert repr(table) == str(table) == f"Table({tmp_path}/ward.csv)"
    assert SECRET not in repr(table.source)


def test_the_private_connection_reaches_no_other_file_and_cannot_be_opened_again(tmp_path: Path) -> None:
    (tmp_path / "other.csv").write_bytes(b"a\n1\n")
    (tmp_path / "ward.csv").write_bytes(b"a\n1\n")
    connection = private_connection(tmp_path / "ward.csv")
    secret = pd.DataFrame({"a": [1]})  # noqa: F841 (a Python variable that DuckDB would find by name)
    for query in (
        f"SELECT * FROM read_csv('{tmp_path}/other.csv')",
        f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
        f"ATTACH '{tmp_path}/out.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET temp_directory = '/tmp'",
        "SET memory_limit = '1GB'",
        "SELECT * FROM secret",
    ):
        with pytest.raises(Exception, match=r"(?i)permission|disabled|locked|cannot|not exist|error"):
            connection.execute(query)
    assert connection.execute("SELECT current_setting('temp_directory')").fetchall() == [("",)]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["other.csv", "ward.csv"]
