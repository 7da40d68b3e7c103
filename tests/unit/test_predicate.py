"""`cohort.where`: what is accepted means what DuckDB means by it; all else is refused in one line."""

from __future__ import annotations

import logging

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wardround_common.dictionary import CategoryVariable, Dictionary, NumberVariable
from wardround_common.errors import StudyError
from wardround_common.predicate import MOST_CHARACTERS, MOST_DEPTH, check_predicate, variables_of

NUMBER = NumberVariable(kind="number", range=(0, 100))
DICTIONARY = Dictionary(
    {
        "age": NUMBER,
        "blood pressure": NUMBER,
        "date": NUMBER,
        "Größe": NUMBER,
        "sex": CategoryVariable.model_validate({"kind": "category", "levels": ["0", "1"]}),
        "site": CategoryVariable.model_validate({"kind": "category", "levels": ["north", "it's"]}),
    }
)


def check(text: str) -> str:
    return check_predicate(text, DICTIONARY)


@pytest.mark.parametrize(
    ("text", "sql"),
    [
        ("age >= 18", '"age" >= 18e0'),
        ("age>=.5 -- a comment", '"age" >= 0.5e0'),
        ("18 <= age", '18e0 <= "age"'),
        ("age != 1e22", '"age" <> 1e+22'),
        ('"blood pressure" < 140', '"blood pressure" < 140e0'),
        ("date > 1", '"date" > 1e0'),
        ("Größe > 1", '"Größe" > 1e0'),
        ("sex = '1'", "\"sex\" = '1'"),
        ("'1' <> sex", "'1' <> \"sex\""),
        ("site = 'it''s'", "\"site\" = 'it''s'"),
        ("sex IN ('0', '1')", "\"sex\" IN ('0', '1')"),
        ("age NOT IN (-1, 2)", 'NOT ("age" IN (-1e0, 2e0))'),
        ("age BETWEEN 18 AND 20 + 5", '"age" BETWEEN 18e0 AND (20e0 + 5e0)'),
        ("age IS NOT NULL", 'NOT ("age" IS NULL)'),
        ("sex IS NULL", '"sex" IS NULL'),
        ("TRUE", "TRUE"),
        ("age > 1 OR age < 0 AND NOT sex = '1'", None),
        ("age > 1 AND age > 2 AND age > 3", '("age" > 1e0) AND ("age" > 2e0) AND ("age" > 3e0)'),
        ("-age * 2 / (age - 3) < 4", '(((-"age") * 2e0) / ("age" - 3e0)) < 4e0'),
    ],
)
def test_the_subset_is_written_anew_with_quoted_names_and_double_literals(text: str, sql: str | None) -> None:
    normalised = check(text)
    assert sql is None or normalised == sql
    assert check(normalised) == normalised


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("abs(age) > 1", "the function `abs`"),
        ("count(*) > 1", "the function `count`"),
        ("read_csv('/etc/passwd') = 1", "the function `read_csv`"),
        ("current_date > 1", "the function `current_date`"),
        ("age::int = 1", "a cast"),
        ("TRY_CAST(age AS int) = 1", "a cast"),
        ("age = (SELECT 1)", "a subquery"),
        ("age IN (SELECT 1)", "no subquery"),
        ("EXISTS (SELECT 1)", "a subquery"),
        ("*", "`*`"),
        ("? = 1", "a parameter"),
        ("$1 = age", "a parameter"),
        (":x = age", "a parameter"),
        ("age = 1; DROP TABLE x", "a second statement"),
        ("age = 1;", "a second statement"),
        ("SELECT 1", "not readable as SQL"),
        ("sex LIKE '1'", "LIKE"),
        ("sex ~ '1'", "a regular expression"),
        ("CASE WHEN age > 1 THEN TRUE END", "CASE"),
        ("age % 2 = 1", "`%`"),
        ("age[1] = 2", "BRACKET"),
        ("(age, 1) = (1, 2)", "a list outside of IN"),
        ("{'a': 1} = 1", "not allowed"),
        ("age IN (age, 1)", "the list of IN"),
        ("age IN ()", "IN takes a list"),
        ("age IN 5", "IN takes a list"),
        ("age BETWEEN SYMMETRIC 1 AND 2", "BETWEEN SYMMETRIC"),
        ("x.age = 1", "name alone"),
        ("age.* = 1", "name alone"),
        ("age = NULL", "NULL outside of IS NULL"),
        ("age IS TRUE", "IS stands only before NULL"),
        ("age IS DISTINCT FROM 1", "IS DISTINCT FROM"),
        ("age", "the predicate is a number"),
        ("'1'", "the predicate is a text"),
        ("sex", "the predicate is a category"),
        ("1 < age < 5", "compares a boolean"),
        ("age AND sex = '1'", "`AND` takes a boolean"),
        ("NOT age", "`NOT` takes a boolean"),
        ("-sex = 1", "`-` takes a number, and the category `sex`"),
        ("age = '5'", "compares a number with the text"),
        ("'a' = 'a'", "compares the text"),
        ("sex = 1", "`sex` is a category; compare it with a level in single quotes, not with a number"),
        ("sex = sex", "`sex` is a category"),
        ("sex < '1'", "which has no order"),
        ("sex = '2'", "'2' is no level of `sex`; there are `0`, `1`"),
        ("site = 'nort'", "did you mean `north`?"),
        ("site IN ('north', 'south')", "'south' is no level of `site`"),
        ('sex = "1"', "a level is written in single quotes: '1'"),
        ("AGE > 1", "`AGE` is not in `variables` (did you mean `age`?)"),
        ("agee > 1", "`agee` is not in `variables` (did you mean `age`?)"),
        ("zebra > 1", "`zebra` is not in `variables`"),
        ("age > 1e999", "too large"),
        ("age > ", "not readable as SQL"),
        ("age > 'open", "not readable as SQL"),
        ('"open', "not readable as SQL"),
        ("age > 1\x00", "control character"),
        ("  \n", "empty"),
        ("age = E'x'", "not allowed"),
    ],
)
def test_all_else_is_refused_by_its_name(text: str, reason: str) -> None:
    with pytest.raises(StudyError) as caught:
        check(text)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_hundred_conditions_in_a_row_are_no_nesting() -> None:
    text = " OR ".join(f"age = {i}" for i in range(700))
    assert len(text) < MOST_CHARACTERS
    query = f"SELECT count(*) FROM (SELECT 3e0 AS age) WHERE {check(text)}"
    assert duckdb.connect().execute(query).fetchall() == [(1,)]


@pytest.mark.parametrize(
    "text",
    [
        "(" * 4000 + "age = 1" + ")" * 4000,
        "(" * 9000,
        "NOT " * 2400 + "TRUE",
        "- " * 4000 + "age = 1",
        "NOT (age = 1 AND " * 500,
        "CASE WHEN " * 900,
        "[" * 9000,
        "{'a': " * 1500,
        "SELECT (" * 1000,
        "+".join(["age"] * 2400) + " > 1",
        "x(" * 4000,
        "age::int" + "::int" * 1900,
        "(" * MOST_DEPTH + "age = 1" + ")" * MOST_DEPTH,
    ],
)
def test_deep_nesting_is_refused_without_deep_recursion(text: str) -> None:
    with pytest.raises(StudyError):
        check(text)


def test_moderate_nesting_is_allowed() -> None:
    assert check("(" * 30 + "age = 1" + ")" * 30) == '"age" = 1e0'


def test_a_long_text_is_refused() -> None:
    with pytest.raises(StudyError, match=f"longer than {MOST_CHARACTERS} characters"):
        check("age = 1" + " " * MOST_CHARACTERS)


def test_names_that_differ_by_case_only_are_refused_because_sql_takes_them_for_one() -> None:
    twins = Dictionary({"age": NUMBER, "Age": NUMBER, "chol": NUMBER})
    with pytest.raises(StudyError, match="cannot tell `age`, `Age` apart"):
        check_predicate("Age > 1", twins)
    assert check_predicate("chol > 1", twins) == '"chol" > 1e0'


def test_the_variables_of_a_predicate_come_in_the_dictionarys_order() -> None:
    assert variables_of("sex = '1' AND (date > age OR age IS NULL)", DICTIONARY) == ("age", "date", "sex")
    assert variables_of("1 = 1", DICTIONARY) == ()


def test_the_parser_prints_and_logs_nothing(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.DEBUG):
        for text in (
            "CALL x",
            "EXPLAIN age",
            "SHOW TABLES",
            "age = 1 b",
            "ANALYZE",
            "age ->> 'x'",
            "SET a = 1",
        ):
            with pytest.raises(StudyError):
                check(text)
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


TOKENS = """age sex date "blood pressure" x ( ) ( ) , . = <> < <= + - * / % AND OR NOT IN BETWEEN IS NULL TRUE
    LIKE CASE WHEN THEN END SELECT FROM EXISTS CAST AS :: [ ] { } ? $1 ; -- /* */ '1' '2' 1 0.5 1e3 E'x' $$
    ' " abs INTERVAL DATE LAMBDA : -> ->> || ! ~ @ # ^ & | ANY ALL OVER \\ é"""


@settings(max_examples=400, deadline=None)
@given(st.lists(st.sampled_from(TOKENS.split()), max_size=14).map(" ".join) | st.text(max_size=40))
def test_any_text_is_either_normalised_or_a_one_line_study_error(text: str) -> None:
    try:
        normalised = check(text)
    except StudyError as error:
        assert str(error) and "\n" not in str(error)
    else:
        assert check(normalised) == normalised


NUMBERS = st.recursive(
    st.sampled_from(["age", "date", '"blood pressure"', "0", "1", "2.5", "-1"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from([" + ", " - ", " * ", " / "]), inner).map("".join)
        | inner.map("({})".format)
    ),
    max_leaves=5,
)
BOOLEANS = st.recursive(
    st.tuples(NUMBERS, st.sampled_from([" = ", " <> ", " < ", " <= ", " > ", " >= "]), NUMBERS).map("".join)
    | NUMBERS.map("({}) IS NULL".format)
    | NUMBERS.map("{} NOT BETWEEN 0 AND 2".format)
    | NUMBERS.map("{} IN (0, 1, 2.5)".format)
    | st.sampled_from(["sex = '1'", "sex <> '1'", "sex NOT IN ('0')", "sex IS NOT NULL", "TRUE", "false"]),
    lambda inner: (
        st.tuples(inner, st.sampled_from([" AND ", " OR "]), inner).map("".join)
        | inner.map("({})".format)
        | inner.map("NOT ({})".format)
        | inner.map("NOT {}".format)
    ),
    max_leaves=6,
)
ROWS = """(VALUES (1e0, 0e0, 2.5e0, '1'), (NULL, 1e0, 1e0, '0'), (2e0, NULL, 0e0, NULL),
    (0e0, 0e0, -1e0, '1'), (2.5e0, 2e0, NULL, '0'), (NULL, NULL, NULL, NULL))
    AS t(age, date, "blood pressure", sex)"""


@settings(max_examples=200, deadline=None)
@given(BOOLEANS)
def test_the_normalised_predicate_selects_what_the_text_as_written_selects_in_duckdb(text: str) -> None:
    connection = duckdb.connect(config={"ieee_floating_point_ops": False, "error_on_division_by_zero": False})
    written, normalised = (
        connection.execute(f"SELECT {sql} FROM {ROWS}").fetchall() for sql in (text, check(text))
    )
    assert normalised == written
