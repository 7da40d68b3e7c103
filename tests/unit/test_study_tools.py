"""`wardround study`: a draft that runs and gives nobody away, a check that tells all, mock tables."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from tests.support import HOSPITALS, WARDS
from tests.unit.test_cli import wardround
from wardround_client.reader import read
from wardround_client.sources import of_frame, open_table
from wardround_client.study_tools.check import StudyCheck, check
from wardround_client.study_tools.cli import study as study_commands
from wardround_client.study_tools.columns import look
from wardround_client.study_tools.draft import draft
from wardround_client.study_tools.mock import mock, write_table
from wardround_client.study_tools.ranges import missing_codes, missing_levels, spike, tidy_range
from wardround_client.study_tools.show import described
from wardround_common.dictionary import CategoryVariable
from wardround_common.errors import DataError, StudyError, WardroundError
from wardround_common.files import write_files
from wardround_common.study import Study, parse_study, read_study
from wardround_server.shipped import study_file, tables
from wardround_server.simulation import simulate

SECRET = "Xq7SECRET"
ROWS = 60


def ward(seed: int = 0, rows: int = ROWS, **columns: Any) -> pd.DataFrame:
    """Return made-up patients, with further columns."""
    rng = np.random.default_rng(seed)
    return pd.DataFrame(
        {
            "id": [f"p{i}" for i in range(rows)],
            "age": rng.integers(18, 90, rows),
            "crp": rng.integers(1, 3000, rows) / 10,
            "sex": rng.choice(["f", "m"], rows),
            "ill": rng.integers(0, 2, rows),
            **columns,
        }
    )


def drafted(folder: Path, *frames: pd.DataFrame, **keys: Any) -> tuple[str, Study]:
    """Draft from frames; return the text, and the study that it is read as."""
    seen = look(of_frame(frame, f"ward{i}") for i, frame in enumerate(frames))
    text = draft(seen, keys.pop("name", "wards"), **keys).text
    (folder / "draft.yaml").write_text(text, encoding="utf-8")
    return text, read_study(folder / "draft.yaml")


def texts(*counts: int, words: str = "abcdefghijklmnop") -> list[str]:
    """Return that many cells of a word of three letters for each count, and of the last one the rest."""
    cells = [word * 3 for word, count in zip(words, counts, strict=False) for _ in range(count)]
    return cells + ["zzz"] * (ROWS - len(cells))


# Draft


@pytest.mark.parametrize(("name", "outcome"), [("heart-disease", "num"), ("flamby-heart", None)])
def test_a_draft_from_the_shipped_tables_runs_on_them_as_it_stands(
    tmp_path: Path, name: str, outcome: str | None
) -> None:
    files = tables(name)
    found = draft(look(map(open_table, files.values())), "heart", outcome)
    (tmp_path / "heart.yaml").write_text(found.text)
    study = read_study(tmp_path / "heart.yaml")
    assert "id" in found.left_out and "id" not in study.variables
    chol, cp = study.dictionary.number("chol"), study.dictionary.category("cp")
    assert 0 in chol.missing and 0 < chol.range[0] < 85 and 603 < chol.range[1] < 700
    assert cp.levels == ("1", "2", "3", "4")
    result = simulate(tmp_path / "heart.yaml", files)
    assert result.results["hospitals"] == sorted(files)
    if outcome is None:
        assert found.outcome == study.outcome == "disease"
        assert '# split: {column: "fold", test: "test"}' in found.text
        assert result["logistic"]["metrics"]["test"]["auc"] > 0.8
    else:
        assert study.outcome == "num" and [spec.kind for spec in study.analyses] == ["summary"]
        assert chol.missing == ("?", 0)
        assert "without a value in `switzerland.csv`" in found.text
        assert "`?` in 30 rows" in found.text and "0 in a few rows" in found.text


def test_nothing_that_tells_of_few_patients_is_copied_into_a_draft(tmp_path: Path) -> None:
    secrets = [f"{SECRET}{i}" for i in range(ROWS)]
    planted = {
        "diary": [f"{secret} slept badly, and more words than a level has" for secret in secrets],
        "ward_of": [*texts(30, 20)[:-1], SECRET],  # one rare text
        "pair": ["aaa"] * 30 + [SECRET] * 10 + ["bbb"] * 20,  # ten rows
        "code": secrets,
        "seen_on": pd.date_range("1931-07-19", periods=ROWS).strftime("%Y-%m-%d"),
        "born": [19310719 + i % 9 for i in range(ROWS)],
        "surname": [SECRET] * 30 + ["Meier"] * 30,
        "lab": [*map(str, range(100, 100 + ROWS - 1)), SECRET],
        "zip": [f"0731{i % 30:02}" for i in range(ROWS)],
        "case_nr": np.arange(73190, 73190 + ROWS),
        "same": [SECRET] * ROWS,
        "long": [SECRET * 5] * 30 + ["b" * 41] * 30,
        "height": [171.5, 173.19, *np.linspace(150, 180, ROWS - 2)],
    }
    text, study = drafted(tmp_path, ward(**planted))
    assert list(study.variables) == ["age", "crp", "sex", "ill", "height"]
    for secret in (SECRET, "1931", "0731", "7319", "Meier", "173.19"):
        assert secret not in text
    assert all(f"`{name}`" in text for name in planted if name != "height"), "what is left out is said"
    assert "it is a category of `aaa`, `bbb`" in text


def test_many_rows_of_one_patient_are_one_patient(tmp_path: Path) -> None:
    visits = ward(rows=ROWS, habit=[SECRET] * 20 + ["reads"] * 20 + ["walks"] * 20)
    visits["id"] = ["a"] * 20 + [f"p{i}" for i in range(20)] + [f"q{i}" for i in range(20)]
    text, study = drafted(tmp_path, visits)
    assert study.rows == "many" and "habit" not in study.variables and SECRET not in text
    visits["id"] = np.arange(ROWS) // 2
    visits["habit"] = ["swims"] * 22 + ["reads"] * 38
    assert drafted(tmp_path, visits)[1].dictionary.category("habit").levels == ("reads", "swims")


def test_codes_and_frequent_texts_become_levels_in_order(tmp_path: Path) -> None:
    columns = {
        "grade": [3, 1, 2, 10] * 14 + [4] * 4,
        "flag": [True, False] * 30,
        "letter": ["b"] * 55 + ["a"] * 5,
        "padded": ["01"] * 30 + ["02"] * 30,
        "unit": ["ICU"] * 30 + ["ward, 2: \"x'"] * 18 + ["NA"] * 12,
        "smoker": [0, 1, 9] * 20,
        "written": ["1.0", "0.0", ""] * 20,
    }
    _, study = drafted(tmp_path, ward(**columns))
    levels = {name: v.levels for name, v in study.variables.items() if isinstance(v, CategoryVariable)}
    assert levels == {
        "sex": ("f", "m"),
        "ill": ("0", "1"),
        "grade": ("1", "2", "3", "4", "10"),
        "flag": ("false", "true"),
        "letter": ("a", "b"),
        "padded": ("01", "02"),
        "unit": ("ICU", "ward, 2: \"x'"),
        "smoker": ("0", "1"),
        "written": ("0", "1"),
    }
    assert study.variables["unit"].missing == ("NA",) and study.variables["smoker"].missing == ("9",)
    cohort = read(of_frame(ward(**columns), "ward"), study, "ward", b"k").cohort
    assert all(cohort.observed(name).sum() >= 40 for name in levels)


@pytest.mark.parametrize(
    ("cells", "missing", "note"),
    [
        ([-9] * 12 + [*range(20, 68)], (-9,), "-9 in 12 rows"),
        ([999] * 3 + [*range(100, 157)], (999,), "999 in a few rows"),
        ([0] * 20 + [*range(80, 120)], (0,), "0 in 20 rows"),
        ([0] * 20 + [*range(1, 41)], (), ""),
        (["?"] * 12 + [*range(20, 116, 2)], ("?",), "`?` in 12 rows"),
        (["n/a", "NA", ".", *range(20, 134, 2)], (".", "NA", "n/a"), "`.` in a few rows"),
        (["clotted"] * 11 + [*range(20, 118, 2)], ("clotted",), "`clotted` in 11 rows"),
        ([99] * 15 + [*range(54, 99)], (), "99 is far more frequent than what is near it"),
    ],
)
def test_codes_for_missing_are_taken_as_such_and_said(
    tmp_path: Path, cells: list[Any], missing: tuple[Any, ...], note: str
) -> None:
    text, study = drafted(tmp_path, ward(x=[str(cell) for cell in cells]))
    variable = study.dictionary.number("x")
    assert variable.missing == missing and note in text
    flow = read(of_frame(ward(x=[str(cell) for cell in cells]), "ward"), study, "ward", b"k").cohort.flow
    assert flow.variables["x"][3] == 0


@given(st.lists(st.floats(-1e9, 1e9), min_size=2, max_size=9, unique=True))
def test_a_range_is_tidy_and_no_patients_value(values: list[float]) -> None:
    low, high = min(values), max(values)
    bounds = tidy_range(low, high)
    assert bounds[0] <= low < high < bounds[1]
    assert bounds[0] not in (low, high) or low == 0
    assert bounds[0] >= 0 or low < 0
    for bound in bounds:
        assert float(f"{bound:.15g}") == bound


def test_ranges_are_those_that_a_person_would_write() -> None:
    assert tidy_range(29, 77) == (25, 80)
    assert tidy_range(0, 6.2) == (0, 7)
    assert tidy_range(0.002, 0.0178) == (0.001, 0.019)
    assert tidy_range(-2.6, 6.2) == (-3.5, 7)


def test_numbers_stand_apart_in_either_direction_and_seldom() -> None:
    assert missing_codes(np.array([-99, -9, 1, 2, 3, 5, 999.0])) == [999, -99, -9]
    assert missing_codes(np.array([-3, -1, 0, 2.0])) == []
    assert missing_codes(np.array([0, 999.0])) == []
    assert missing_levels(np.array([1, 2, 9.0])) == [9]
    assert missing_levels(np.array([7, 8, 9.0])) == []
    assert spike(np.array([1, 2, 3, 4, 99.0]), np.array([1, 1, 1, 1, 10])) is None


@pytest.mark.parametrize(
    "name",
    [
        "a:b",
        " padded ",
        "x\nanalyses: []",
        "ünïcode",
        "null",
        "intercept",
        "7",
        "'",
        "# no",
        "y" * 300,
        "a\u2028b",
        "😀",
        "column=2",
        "ID2",
    ],
)
def test_a_name_that_is_no_variables_is_cleaned_and_keeps_its_column(tmp_path: Path, name: str) -> None:
    frame = ward(**{name: np.arange(ROWS) * 1.5})
    text, study = drafted(tmp_path, frame)
    assert len(study.variables) == 5
    variable = list(study.variables)[-1]
    assert (study.variables[variable].column or variable) == name
    assert read(of_frame(frame, "ward"), study, "ward", b"k").absent == ()
    assert not [line for line in text.splitlines() if line.startswith("analyses: []")]


def test_names_that_clean_to_the_same_are_told_apart(tmp_path: Path) -> None:
    _, study = drafted(tmp_path, ward(**{"a:b": np.arange(ROWS) / 2, "a=b": np.arange(ROWS) / 4}))
    assert list(study.variables)[-2:] == ["a_b", "a_b_2"]


def test_the_outcome_is_guessed_by_name_before_place(tmp_path: Path) -> None:
    rng = np.random.default_rng(2)
    frame = pd.DataFrame({name: rng.integers(0, 2, 80) for name in ("sex", "died_30d", "smoker")})
    for i in range(3):
        frame.to_csv(tmp_path / f"h{i}.csv", index=False)
    found = draft(look(open_table(tmp_path / f"h{i}.csv") for i in range(3)), "x")
    assert "\noutcome: died_30d\n" in found.text
    frame.rename(columns={"died_30d": "diabetes"}).to_csv(tmp_path / "h0.csv", index=False)
    assert "\noutcome: smoker\n" in draft(look([open_table(tmp_path / "h0.csv")] * 3), "x").text


def test_what_differs_between_the_files_is_said(tmp_path: Path) -> None:
    north = ward(1, stage=["I"] * 30 + ["V"] * 30, bmi=np.linspace(18, 40, ROWS))
    south = ward(2, stage=[1, 2] * 30).rename(columns={"age": "Age"})
    east = ward(3, stage=["I"] * 60, bmi=[np.nan] * ROWS)
    text, study = drafted(tmp_path, north, south, east)
    assert "named otherwise in ward1" in text and study.variables["age"].column is None
    assert "no such column in `ward1`" in text and "without a value in `ward2`" in text
    assert "texts in `ward0`, `ward2`, numbers elsewhere" in text
    assert study.predictors == ("age", "crp", "sex", "stage") and "too few files have them: `bmi`" in text


def test_the_outcome_is_that_which_is_named_or_else_a_guess(tmp_path: Path) -> None:
    frame = ward(stage=[1, 2, 3] * 20)
    text, study = drafted(tmp_path, frame)
    assert study.outcome == "ill" and "# A guess" in text
    assert drafted(tmp_path, frame, outcome="sex")[1].outcome == "sex"
    text, study = drafted(tmp_path, frame, outcome="stage")
    assert study.outcome == "stage" and [spec.kind for spec in study.analyses] == ["summary"]
    assert "a level may gather codes" in text
    text, study = drafted(tmp_path, frame[["age", "crp"]])
    assert study.outcome is None and "# outcome: NAME" in text
    with pytest.raises(StudyError, match=r"--outcome il: no file has such a column \(did you mean `ill`\?\)"):
        drafted(tmp_path, frame, outcome="il")
    with pytest.raises(StudyError, match="--outcome id: this column was left out: names the person"):
        drafted(tmp_path, frame, outcome="id")


CELL = st.sampled_from(["", "?", "0", "1", "2", "-9", "1.5", "NaN", "inf", "x", "yes", "2024-01-31", "007"])
COLUMN = st.lists(CELL | st.text(max_size=6).map(lambda text: text + SECRET), min_size=40, max_size=40)


@given(
    names=st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4, unique=True),
    few=st.lists(CELL, min_size=1, max_size=4),
    column=COLUMN,
    seed=st.integers(0, 99),
)
def test_a_draft_of_anything_is_read_back_and_fits_its_table(
    tmp_path_factory: pytest.TempPathFactory, names: list[str], few: list[str], column: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    cells = [column, *([few[i] for i in rng.integers(0, len(few), 40)] for _ in names[1:])]
    frame = pd.DataFrame(dict(zip(names, cells, strict=True)), dtype=object)
    try:
        text, study = drafted(tmp_path_factory.mktemp("draft"), frame)
    except (StudyError, DataError) as error:
        assert SECRET not in str(error)
        return
    assert SECRET not in text
    found = check(study, {"ward": lambda: of_frame(frame, "ward")})
    assert [stop for stop in found.stops if "id" not in stop.casefold()] == []


BAD_FILES: dict[str, tuple[bytes, str]] = {
    "empty.csv": (b"", "is empty"),
    "rowless.csv": (b"age,sex\n", "has a header but no rows"),
    "latin.csv": (b"age,sex\n1,m\xe4nnlich\n", "is not UTF-8 in line 2"),
    "one.csv": (b"note\n" + f"{SECRET}\n".encode() * 3, "`note`"),
    "blank.csv": (b"age,sex\n" + b",\n" * 30, "is empty in every file"),
    "unnamed.csv": (b",\n" + b"1,2\n" * 30, "no column can be a variable of a study: none has a name"),
    "table.xlsx": (b"PK", "of unknown kind"),
}


@pytest.mark.parametrize("file", BAD_FILES)
def test_a_table_that_nothing_can_be_drafted_from_is_an_error_without_its_cells(
    tmp_path: Path, file: str
) -> None:
    content, message = BAD_FILES[file]
    (tmp_path / file).write_bytes(content)
    with pytest.raises(WardroundError) as caught:
        draft(look([open_table(tmp_path / file)]), "wards")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value) and SECRET not in str(caught.value)


def test_one_column_and_ten_thousand_levels(tmp_path: Path) -> None:
    _, study = drafted(tmp_path, pd.DataFrame({"age": [20, 30, 40, 55, 61]}))
    assert list(study.variables) == ["age"]
    many = ward(rows=20_000, drug=[f"drug{i % 10_000}" for i in range(20_000)])
    text, study = drafted(tmp_path, many)
    assert "drug" not in study.variables and "drug1" not in text and "more than 50 different texts" in text


def test_a_bad_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match="--name My Study: use lower-case letters"):
        drafted(tmp_path, ward(), name="My Study")


# Check


Spoil = Callable[[dict[str, pd.DataFrame]], object]


def checked(spoil: Spoil = lambda found: None, study: dict[str, Any] = WARDS) -> StudyCheck:
    frames = {name: ward(seed).astype(object) for seed, name in enumerate(HOSPITALS)}
    spoil(frames)
    opened = {name: (lambda name=name, frame=frame: of_frame(frame, name)) for name, frame in frames.items()}
    return check(parse_study(study), opened)


def everywhere(column: str, value: Any) -> Spoil:
    return lambda found: [frame.__setitem__(column, value) for frame in found.values()]


def at(column: str, cell: Any, *rows: int, hospital: str = "south") -> Spoil:
    return lambda found: found[hospital].__setitem__(
        column, [cell if i in rows else old for i, old in enumerate(found[hospital][column])]
    )


def test_tables_that_fit_are_counted(tmp_path: Path) -> None:
    found = checked(at("crp", "?", *range(12)))
    assert found.stops == () and found.notes == ()
    south = described(found)["hospitals"]["south"]
    assert south["rows"] == south["cohort"] == ROWS
    assert south["variables"]["crp"] == {"observed": 48, "missing": 12, "out_of_range": 0, "wrong": 0}
    assert south["analyses"]["logistic"] == {"train": ROWS, "test": 0}


def test_all_faults_of_all_hospitals_are_told_and_no_cell(tmp_path: Path) -> None:
    def spoil(found: dict[str, pd.DataFrame]) -> None:
        at("age", SECRET, 3, 4)(found)
        at("sex", SECRET, 5)(found)
        at("id", "p0", 7)(found)
        at("ill", SECRET, 9, hospital="east")(found)
        at("crp", 900, 1, 2)(found)
        found["north"].pop("crp")
        found["east"].insert(0, "Age", found["east"].pop("age"))

    found = checked(spoil, {**WARDS, "out_of_range": "refuse"})
    assert [stop.split(": ", 1)[0] for stop in found.stops[:6]] == ["south"] * 4 + ["east"] * 2
    for part in (
        "column `age`: 2 cells are not numbers (first in row 4)",
        "column `sex`: 1 cell is none of the dictionary's levels (first in row 6)",
        "column `crp`: 2 cells are outside 0 to 500 (first in row 2)",
        "column `id`: 1 cell is an id that stood there before (first in row 8)",
        "no column `age`; there is `Age`",
        "column `ill`: 1 cell is none",
        "observed at too few hospitals: `age` at 2, `crp` at 2",
    ):
        assert sum(part in stop for stop in found.stops) == 1
    assert found.notes[0] == "north: no column for `crp`; read as missing"
    shown = described(found)
    assert SECRET not in json.dumps(shown)
    assert shown["hospitals"]["south"]["variables"]["age"] == {
        "observed": None,
        "missing": 0,
        "out_of_range": 0,
        "wrong": None,
    }


@pytest.mark.parametrize(
    ("spoil", "changes", "told"),
    [
        (lambda found: [frame.pop("crp") for frame in found.values()], {}, "no table has a column `crp`"),
        (lambda found: found.pop("east"), {}, None),
        (everywhere("ill", 0), {}, "all training rows have the same outcome `ill`"),
        (everywhere("crp", 7), {}, "the same in all training rows: `crp`"),
        (lambda found: [found[name].pop("crp") for name in HOSPITALS[1:]], {}, "`crp` at 1"),
        (everywhere("age", 17), {"cohort": {"where": "age >= 18"}}, "0 hospitals have 10 usable rows"),
        (everywhere("ill", ""), {}, "analysis `logistic`: 0 hospitals have 10 usable rows"),
        (everywhere("fold", "train"), {"split": {"column": "fold"}}, "no row with all it needs is held out"),
        (lambda found: None, {"split": {"column": "fold"}}, "no column `fold`, which `split.column` names"),
        (everywhere("fold", ""), {"split": {"column": "fold"}}, "column `fold`: 60 cells are empty"),
        (lambda found: None, {"max_rows": 50}, "60 rows, and the study's `max_rows` is 50"),
        (everywhere("id", "p1"), {}, "59 cells are ids that stood there before"),
    ],
)
def test_what_stops_a_simulation_is_told_before(
    spoil: Spoil, changes: dict[str, Any], told: str | None
) -> None:
    study = {**WARDS, **changes}
    frames = {name: ward(seed).astype(object) for seed, name in enumerate(HOSPITALS)}
    spoil(frames)
    with pytest.raises(WardroundError):
        simulate(study, frames)
    found = checked(spoil, study)
    if told is None:
        assert found.stops == () and "2 of at least 3 hospitals are given" in found.notes[0]
    else:
        assert [stop for stop in found.stops if told in stop]


def test_what_a_study_runs_with_is_a_note() -> None:
    def spoil(found: dict[str, pd.DataFrame]) -> None:
        found["west"] = ward(4).assign(ill=0)
        found["tiny"] = ward(5, rows=8)

    wide = {**WARDS, "predictors": ["age", *(f"age:{name}" for name in ("crp", "sex"))]}
    found = checked(spoil, wide)
    assert found.stops == ()
    assert "west: all training rows of `logistic` have the same outcome `ill`" in found.notes
    assert "tiny: fewer than 10 usable rows, no part in `summary`, `logistic`" in found.notes
    small = {name: (lambda frame=ward(i, rows=9): of_frame(frame, "w")) for i, name in enumerate(HOSPITALS)}
    study = parse_study({**wide, "privacy": {"min_rows": 5}})
    assert "3 terms for 27 training rows" in check(study, small).notes[-1]


def test_rows_dropped_for_their_range_still_show_which_variable_it_was() -> None:
    found = checked(everywhere("crp", [900] * 15 + [7, 8, 9] * 15), {**WARDS, "out_of_range": "drop"})
    north = described(found)["hospitals"]["north"]
    assert (north["cohort"], north["dropped"]) == (60, 15)
    assert north["variables"]["crp"]["out_of_range"] == 15
    assert north["analyses"]["summary"]["train"] == 45


# Mock


def made(folder: Path, study: Study, hospitals: int = 5, rows: int = 400, seed: int = 0) -> dict[str, Path]:
    files = {}
    for table in mock(study, hospitals, rows, seed):
        path = files[f"hospital-{table.number}"] = folder / f"hospital-{table.number}.csv"
        write_files({path: lambda file, table=table: write_table(table, lambda: None, file)})
    return files


@pytest.mark.parametrize("name", ["heart-disease", "flamby-heart"])
def test_mock_tables_of_the_shipped_studies_run_and_hold_a_finding(tmp_path: Path, name: str) -> None:
    study = read_study(study_file(name))
    files = made(tmp_path, study, rows=1000)
    logistic = next(spec for spec in study.analyses if spec.kind == "logistic")
    result = simulate(study.model_copy(update={"analyses": (logistic,)}), files)
    assert 0.72 < result["logistic"]["metrics"]["test"]["auc"] < 0.88
    frames = {hospital: pd.read_csv(file, dtype=str) for hospital, file in files.items()}
    assert len({len(frame) for frame in frames.values()}) == 5
    assert sum(map(len, frames.values())) == pytest.approx(5000, abs=5)
    column = study.variables["disease"].column or "disease"
    ill = [(frame[column].dropna() != "0").mean() for frame in frames.values()]
    age = [frame["age"].astype(float).mean() for frame in frames.values()]
    assert max(ill) - min(ill) > 0.03 and max(age) - min(age) > 1
    if name == "heart-disease":
        whole = pd.concat(frames.values())
        assert set(whole["num"].dropna()) == {"0", "1", "2", "3", "4"}
        assert {"?", "0"} <= set(whole["chol"]) and whole["age"].isna().any()
        assert (whole["age"].dropna().astype(float) > 100).any()


def test_mock_tables_are_the_same_for_the_same_seed_only(tmp_path: Path) -> None:
    study = parse_study(WARDS)
    contents = []
    for i, seed in enumerate((3, 3, 4)):
        (tmp_path / str(i)).mkdir()
        contents.append([file.read_bytes() for file in made(tmp_path / str(i), study, seed=seed).values()])
    assert contents[0] == contents[1] != contents[2]


@pytest.mark.parametrize(
    ("changes", "least"),
    [
        ({"cohort": {"where": "age >= 60 AND sex = 'm'"}}, 0.85),
        ({"cohort": {"where": "age < 18.0001 AND crp > 499"}}, 0),
        ({"cohort": {"where": "ill = '1'"}, "rows": "many"}, 0.85),
        ({"out_of_range": "refuse", "missing": "drop", "ids": "shared"}, 1),
        ({"split": {"column": "part", "test": "train"}, "out_of_range": "drop"}, 1),
    ],
)
def test_mock_rows_are_in_the_cohort_where_that_can_be(
    tmp_path: Path, changes: dict[str, Any], least: float
) -> None:
    study = parse_study({**WARDS, **changes})
    for name, file in made(tmp_path, study, hospitals=3, rows=200).items():
        cohort = read(open_table(file), study, name, b"k").cohort
        assert cohort.flow.read > 0 and cohort.rows >= least * cohort.flow.read
        assert cohort.held_out is None or 0 < cohort.held_out.sum() < cohort.rows


VARIABLE = st.one_of(
    st.tuples(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6), st.sampled_from([(), (0,), ("?", -9)])).map(
        lambda drawn: {"kind": "number", "range": [drawn[0], drawn[0] + drawn[1]], "missing": drawn[2]}
    ),
    st.integers(2, 30).map(lambda levels: {"kind": "category", "levels": [f"l{i}" for i in range(levels)]}),
)


@given(variables=st.lists(VARIABLE, min_size=1, max_size=4), rows=st.integers(1, 50), seed=st.integers(0, 9))
def test_mock_tables_of_any_dictionary_fit_it(
    tmp_path_factory: pytest.TempPathFactory, variables: list[Any], rows: int, seed: int
) -> None:
    named = {f"v{i}": variable for i, variable in enumerate(variables)}
    study = parse_study({**WARDS, "variables": named, "outcome": None, "analyses": [{"kind": "summary"}]})
    files = made(tmp_path_factory.mktemp("mock"), study, 2, rows, seed)
    found = check(study, {name: (lambda file=file: open_table(file)) for name, file in files.items()})
    assert found.stops == ()
    for one in found.hospitals:
        assert all(cells.wrong == 0 for cells in one.cells.values())


def test_two_variables_of_one_column_cannot_be_made() -> None:
    study = parse_study(
        {**WARDS, "variables": {**WARDS["variables"], "age2": WARDS["variables"]["age"] | {"column": "age"}}}
    )
    with pytest.raises(StudyError, match="two variables are read from `age`"):
        mock(study, 1, 10)


# The commands


def test_files_are_written_all_or_none(tmp_path: Path) -> None:
    def fails(file: Any) -> None:
        file.write("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_files({tmp_path / "a": lambda file: file.write("a"), tmp_path / "b": fails})
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(
        WardroundError, match=r"file/a: cannot be written \(.*choose another place with `--out`"
    ):
        write_files({tmp_path / "file" / "a": lambda file: file.write("a")})


def run(*arguments: str) -> Result:
    """Run a command of the group in this process."""
    return CliRunner().invoke(study_commands, list(arguments))


def test_the_three_commands_lead_from_tables_to_a_dry_run(tmp_path: Path) -> None:
    for seed, name in enumerate(HOSPITALS):
        ward(seed, 200).to_csv(tmp_path / f"{name}.csv", index=False)
    files = [f"{name}.csv" for name in HOSPITALS]
    done = wardround("study", "draft", *files, "--out", "wards.yaml", cwd=tmp_path)
    assert "wards.yaml: 4 variables, outcome `ill`; left out `id`" in done.stdout
    (tmp_path / "east.csv").write_text(f"id,age,crp,sex,ill\n1,{SECRET},,,0\n")
    command = shlex.split(done.stdout.splitlines()[-1].removeprefix("Read it, then: "))
    done = wardround(*command[1:], "--json", cwd=tmp_path, code=2)
    assert json.loads(done.stdout)["fits"] is False
    assert done.stderr.startswith("error: wards.yaml: ") and done.stderr.count("\n") == 1

    done = wardround("study", "mock", "wards.yaml", "--out", "mock", "--rows", "300", cwd=tmp_path)
    command = shlex.split(done.stdout)
    assert command[:3] == ["wardround", "simulate", "wards.yaml"] and len(command) == 8
    named = [one.removeprefix("--data=").split("=") for one in command[3:]]
    assert simulate(tmp_path / "wards.yaml", {name: tmp_path / file for name, file in named})["logistic"]


def test_a_check_is_one_screen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    (tmp_path / "wards.yaml").write_text(json.dumps(WARDS))
    data = []
    for seed, name in enumerate(HOSPITALS):
        ward(seed, 200).to_csv(tmp_path / f"{name}.csv", index=False)
        data.append(f"--data={name}={tmp_path / name}.csv")
    shown = run("check", str(tmp_path / "wards.yaml"), *data)
    assert shown.exit_code == 0 and "wards: usable rows" in shown.output and "stop" not in shown.output
    assert max(map(len, shown.output.splitlines())) <= 80
    shown = run("check", str(tmp_path / "wards.yaml"), *data[:1], "--data=x=nowhere.csv")
    assert "stop nowhere.csv: there is no such file" in shown.output
    assert "1 thing stops this study" in str(shown.exception)


@pytest.mark.parametrize("command", ["draft", "mock"])
def test_nothing_is_overwritten_unless_it_is_forced(tmp_path: Path, command: str) -> None:
    study, out = tmp_path / "wards.yaml", tmp_path / "out.yaml"
    study.write_text(json.dumps(WARDS))
    ward().to_csv(tmp_path / "ward.csv")
    kept = out
    if command == "mock":
        kept = tmp_path / "out.yaml" / "hospital-2.csv"
        out.mkdir()
    kept.write_text("kept")
    given = str(tmp_path / "ward.csv") if command == "draft" else str(study)
    done = run(command, given, "--out", str(out))
    assert str(done.exception) == f"`{kept}`: exists; choose another place with `--out`, or add `--force`"
    assert kept.read_text() == "kept"
    assert run(command, given, "--out", str(out), "--force").exit_code == 0
    assert kept.read_text() != "kept"


@pytest.mark.parametrize("data", [["x"], ["x="], ["=y"], ["x=y", "x=z"], []])
def test_data_that_names_no_table_is_refused(tmp_path: Path, data: list[str]) -> None:
    (tmp_path / "wards.yaml").write_text(json.dumps(WARDS))
    done = run("check", str(tmp_path / "wards.yaml"), *(f"--data={one}" for one in data))
    assert isinstance(done.exception, StudyError) and "--data" in str(done.exception)


@pytest.mark.parametrize(
    ("command", "said"), [("draft", "FILE is"), ("check", "STUDY is"), ("mock", "STUDY is")]
)
def test_the_help_of_a_command_says_its_argument_and_gives_examples(command: str, said: str) -> None:
    shown = run(command, "--help").output
    assert said in shown and f"wardround study {command} " in shown
