"""The shipped heart disease data of four hospitals equals UCI's, and its FLamby split the published one."""

from __future__ import annotations

import csv
import hashlib
import os
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "server" / "wardround_server" / "demo"
HEART = Path(os.environ.get("WARDROUND_SHARED_DATA") or ROOT.parent / "shared" / "data") / "heart"

HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
TEN = ["age", "sex", "cp", "trestbps", "chol", "fbs", "restecg", "thalach", "exang", "oldpeak"]
FOURTEEN = [*TEN, "slope", "ca", "thal", "num"]
UCI_FILES = {
    "cleveland": (
        "processed.cleveland.data",
        "a74b7efa387bc9d108d7d0115d831fe9b414b29ae7124f331b622b4efa0427c8",
    ),
    "hungary": (
        "processed.hungarian.data",
        "d1ad108f785768cd3d7e82dc522e6f5a61eea93cccfb3a46ee8076f73fc3d796",
    ),
    "switzerland": (
        "processed.switzerland.data",
        "834a405ccf5b66ab4056bb77794adc8df0b7125186454c0a1d002d33c6c3b314",
    ),
    "va": (
        "processed.va.data",
        "e7c93d8d0d2acdadfa4c5e8de768e2191e7f618b952e29623f1f0d5949ff6b8f",
    ),
}
needs_uci_files = pytest.mark.skipif(
    not HEART.is_dir(),
    reason=f"UCI's own files are not in {HEART}: set WARDROUND_SHARED_DATA to the folder that holds heart/",
)

Row = dict[str, str]


def read(folder: str, hospital: str) -> list[Row]:
    with (DEMO / folder / f"{hospital}.csv").open(encoding="ascii", newline="") as file:
        return list(csv.DictReader(file, strict=True))


def number(text: str) -> float | None:
    return None if text == "?" else float(text)


def missing(rows: list[Row], column: str) -> int:
    return sum(row[column] == "?" for row in rows)


def below(rows: list[Row], column: str, limit: float) -> int:
    return sum(value is not None and value < limit for value in (number(row[column]) for row in rows))


def repeats(rows: list[Row], columns: list[str]) -> int:
    return len(rows) - len({tuple(row[column] for column in columns) for row in rows})


@needs_uci_files
@pytest.mark.parametrize("hospital", HOSPITALS)
def test_every_value_equals_the_unaltered_uci_file_in_its_row_order(hospital: str) -> None:
    name, sha256 = UCI_FILES[hospital]
    content = (HEART / name).read_bytes()
    assert hashlib.sha256(content).hexdigest() == sha256, f"{name} is not UCI's file: it was altered"
    source = [[number(text) for text in row] for row in csv.reader(content.decode("ascii").splitlines())]
    shipped = [[number(row[column]) for column in FOURTEEN] for row in read("data", hospital)]
    assert len(shipped) == len(source)
    for line, (ours, theirs) in enumerate(zip(shipped, source, strict=True), start=1):
        assert ours == theirs, f"patient {line} of {hospital} differs"


@pytest.mark.parametrize("hospital", HOSPITALS)
@pytest.mark.parametrize(
    ("folder", "columns"), [("data", ["id", *FOURTEEN]), ("flamby", ["id", *TEN, "disease", "fold"])]
)
def test_files_are_plain_csv_with_bare_numbers(folder: str, columns: list[str], hospital: str) -> None:
    text = (DEMO / folder / f"{hospital}.csv").read_bytes().decode("ascii")
    assert "\r" not in text
    assert text.endswith("\n")
    header, *lines = text.removesuffix("\n").split("\n")
    assert header == ",".join(columns)
    cell = re.compile(r"-?(0|[1-9]\d*)(\.\d*[1-9])?")
    allowed = {"data": {"?"}, "flamby": {"train", "test"}}[folder]
    for line in lines:
        cells = line.split(",")
        assert len(cells) == len(columns)
        assert all(entry in allowed or cell.fullmatch(entry) for entry in cells), line


def test_person_numbers_run_from_1_to_920_over_the_four_hospitals() -> None:
    numbers = [int(row["id"]) for hospital in HOSPITALS for row in read("data", hospital)]
    assert numbers == list(range(1, 921))


@pytest.mark.parametrize(
    ("hospital", "num"),
    [
        ("cleveland", [164, 55, 36, 35, 13]),
        ("hungary", [188, 106, 0, 0, 0]),
        ("switzerland", [8, 48, 32, 30, 5]),
        ("va", [51, 56, 41, 42, 10]),
    ],
)
def test_disease_grades_are_0_or_1_in_hungary_and_0_to_4_elsewhere(hospital: str, num: list[int]) -> None:
    grades = [row["num"] for row in read("data", hospital)]
    assert [grades.count(str(grade)) for grade in range(5)] == num
    assert len(grades) == sum(num)


@pytest.mark.parametrize(
    ("hospital", "chol_zero", "trestbps_zero", "oldpeak_negative", "repeated"),
    [("cleveland", 0, 0, 0, 0), ("hungary", 0, 0, 0, 1), ("switzerland", 123, 0, 11, 0), ("va", 49, 1, 1, 1)],
)
def test_impossible_values_and_repeated_rows_are_kept(
    hospital: str, chol_zero: int, trestbps_zero: int, oldpeak_negative: int, repeated: int
) -> None:
    rows = read("data", hospital)
    assert sum(row["chol"] == "0" for row in rows) == chol_zero
    assert sum(row["trestbps"] == "0" for row in rows) == trestbps_zero
    assert below(rows, "oldpeak", 0) == oldpeak_negative
    assert repeats(rows, FOURTEEN) == repeated


@pytest.mark.parametrize(
    ("hospital", "absent", "complete"),
    [
        ("cleveland", {"ca": 4, "thal": 2}, 297),
        (
            "hungary",
            {
                "trestbps": 1,
                "chol": 23,
                "fbs": 8,
                "restecg": 1,
                "thalach": 1,
                "exang": 1,
                "slope": 190,
                "ca": 291,
                "thal": 266,
            },
            1,
        ),
        (
            "switzerland",
            {
                "trestbps": 2,
                "fbs": 75,
                "restecg": 1,
                "thalach": 1,
                "exang": 1,
                "oldpeak": 6,
                "slope": 17,
                "ca": 118,
                "thal": 52,
            },
            0,
        ),
        (
            "va",
            {
                "trestbps": 56,
                "chol": 7,
                "fbs": 7,
                "thalach": 53,
                "exang": 53,
                "oldpeak": 56,
                "slope": 102,
                "ca": 198,
                "thal": 166,
            },
            1,
        ),
    ],
)
def test_missing_values_are_where_uci_has_them(hospital: str, absent: dict[str, int], complete: int) -> None:
    rows = read("data", hospital)
    assert {column: count for column in FOURTEEN if (count := missing(rows, column))} == absent
    assert sum("?" not in row.values() for row in rows) == complete


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_flamby_rows_are_the_shipped_rows_complete_on_ten_columns(hospital: str) -> None:
    expected = [
        {"id": row["id"], **{column: row[column] for column in TEN}, "disease": str(int(row["num"] != "0"))}
        for row in read("data", hospital)
        if all(row[column] != "?" for column in TEN)
    ]
    rows = read("flamby", hospital)
    assert [{name: text for name, text in row.items() if name != "fold"} for row in rows] == expected


@pytest.mark.parametrize(
    ("hospital", "patients", "positives"),
    [
        ("cleveland", (199, 104), (91, 48)),
        ("hungary", (172, 89), (65, 33)),
        ("switzerland", (30, 16), (30, 15)),
        ("va", (85, 45), (66, 35)),
    ],
)
def test_flamby_folds_hold_the_published_patients_and_positives(
    hospital: str, patients: tuple[int, int], positives: tuple[int, int]
) -> None:
    rows = read("flamby", hospital)
    folds = [row["fold"] for row in rows]
    sick = [row["fold"] for row in rows if row["disease"] == "1"]
    assert (folds.count("train"), folds.count("test")) == patients
    assert (sick.count("train"), sick.count("test")) == positives
    assert len(rows) == sum(patients)


@pytest.mark.parametrize("hospital", HOSPITALS)
def test_flamby_folds_are_those_the_protocol_draws(hospital: str) -> None:
    selection = pytest.importorskip(
        "sklearn.model_selection", reason="scikit-learn draws the protocol's folds"
    )
    rows = read("flamby", hospital)
    disease = [row["disease"] for row in rows]
    stratify = disease if min(disease.count("0"), disease.count("1")) > 2 else None
    train, _ = selection.train_test_split(
        list(range(len(rows))),
        train_size=0.66,
        test_size=0.34,
        random_state=43,
        shuffle=True,
        stratify=stratify,
    )
    assert [index for index, row in enumerate(rows) if row["fold"] == "train"] == sorted(train)


def test_flamby_keeps_zero_and_negative_values_as_values() -> None:
    rows = [row for hospital in HOSPITALS for row in read("flamby", hospital)]
    assert len(rows) == 740
    assert sum(row["chol"] == "0" for row in rows) == 79
    assert sum(row["trestbps"] == "0" for row in rows) == 1
    assert below(rows, "oldpeak", 0) == 2
    assert repeats(rows, [*TEN, "disease"]) == 1
