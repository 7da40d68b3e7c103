"""`wardround predict`: a hospital's own table under a study's model, as the command and step by step."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tests.support import VARIABLES, patients
from wardround_client.predict import predict_command
from wardround_common.errors import WardroundError
from wardround_common.estimators import (
    FederatedForestRegressor,
    FederatedLogisticRegression,
    FederatedModel,
    dump_estimator,
)

COMMAND = Path(sys.executable).with_name("wardround")
DICTIONARY: dict[str, Any] = {**VARIABLES, "age": {**VARIABLES["age"], "column": "years", "missing": [999]}}


@lru_cache
def risk_model() -> FederatedModel:
    table = patients()
    return FederatedLogisticRegression(dictionary=DICTIONARY, outcome="disease").fit(table, table["disease"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a model and a hospital's table: other names, codes, an id column with gaps."""
    (tmp_path / "disease.skops").write_bytes(dump_estimator(risk_model()))
    table = patients(50, 9).rename(columns={"age": "years", "id": "ID"}).drop(columns=["disease", "fold"])
    table["ID"] = [f"p{i}" if i % 2 else "" for i in range(50)]
    table.loc[3, "years"] = 999
    table.loc[4, "years"] = 140
    table["sex"] = table["sex"].astype(str).replace({"1": "1.0"})
    table.to_csv(tmp_path / "ours.csv", index=False)
    table.to_parquet(tmp_path / "ours.parquet")
    return tmp_path


def predicted(folder: Path, file: str = "ours.csv", **options: Any) -> pd.DataFrame:
    out = folder / "out.csv"
    arguments = {"identity": None, "as_json": False, **options}
    predict_command(model=folder / "disease.skops", file=folder / file, out=out, **arguments)
    if arguments["as_json"]:
        return pd.DataFrame(json.loads(out.read_text("utf-8"))["rows"])
    return pd.read_csv(out, keep_default_na=False)


def test_each_row_gets_the_estimators_risk_and_its_count_of_missing(folder: Path) -> None:
    found = predicted(folder)
    table = pd.read_csv(folder / "ours.csv").rename(columns={"years": "age"})
    expected = risk_model().predict_proba(table)[:, 1]  # type: ignore[attr-defined]
    assert found.columns.tolist() == ["row", "risk", "missing"]
    assert np.array_equal(found["risk"], expected)
    lacking = table[["chol", "bmi", "sex", "cp"]].isna().sum(axis=1) + table["age"].isin([999, 140])
    assert np.array_equal(found["missing"], lacking)
    assert found["row"].tolist() == list(range(1, 51))


def test_parquet_json_and_ids_say_the_same(folder: Path) -> None:
    plain = predicted(folder)
    assert predicted(folder, "ours.parquet").equals(plain)
    assert predicted(folder, as_json=True).equals(plain)
    named = predicted(folder, identity="ID")
    assert named["id"].tolist() == ["" if i % 2 == 0 else f"p{i}" for i in range(50)]
    assert named["risk"].equals(plain["risk"])


def test_a_regression_gives_predictions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = patients()
    table = table[table["chol"].notna()]
    model = FederatedForestRegressor(
        dictionary=DICTIONARY, outcome="chol", predictors=["age", "sex"], trees=3
    )
    (folder / "chol.skops").write_bytes(dump_estimator(model.fit(table, table["chol"])))
    predict_command(model=folder / "chol.skops", file=folder / "ours.csv", out=None, identity=None)
    printed = capsys.readouterr()
    found = pd.read_csv(io.StringIO(printed.out))
    assert found.columns.tolist() == ["row", "prediction", "missing"]
    assert found["prediction"].between(80, 620).all()
    assert "50 rows, mean prediction of chol" in printed.err


def test_a_model_without_a_dictionary_knows_no_range(folder: Path) -> None:
    rng = np.random.default_rng(0)
    x = pd.DataFrame(rng.normal(size=(60, 2)), columns=["a", "b"])
    model = FederatedLogisticRegression().fit(x, x["a"] + rng.normal(size=60) > 0)
    (folder / "disease.skops").write_bytes(dump_estimator(model))
    far = pd.DataFrame({"a": [-90.0, 90.0], "b": [0.0, np.nan]})
    far.to_csv(folder / "far.csv", index=False)
    found = predicted(folder, "far.csv")
    assert np.array_equal(found["risk"], model.predict_proba(far)[:, 1])
    assert found["missing"].tolist() == [0, 1]


def test_an_absent_column_is_named_and_read_as_missing(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pd.read_csv(folder / "ours.csv").drop(columns=["chol", "cp"])
    table.to_csv(folder / "less.csv", index=False)
    found = predicted(folder, "less.csv")
    assert found["missing"].min() == 2
    assert "has no column for `chol`, `cp`: read as missing" in capsys.readouterr().err


def test_the_command_writes_a_file_and_a_summary(folder: Path) -> None:
    done = run("disease.skops", "ours.csv", "--out", "risks.csv", cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr.startswith("50 rows, mean risk of disease = yes 0.")
    assert done.stderr.count("\n") == 1
    assert len(pd.read_csv(folder / "risks.csv")) == 50
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def run(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COLUMNS": "160"}
    return subprocess.run(
        [COMMAND, "predict", *arguments], cwd=cwd, env=env, capture_output=True, text=True, timeout=60
    )


def test_a_wrong_file_is_one_line_and_exit_code_2(folder: Path) -> None:
    (folder / "random.skops").write_bytes(os.urandom(500))
    done = run("random.skops", "ours.csv", cwd=folder)
    assert done.returncode == 2
    assert done.stderr == (
        "error: random.skops: is not a .skops file, or is not whole; give the one beside the card\n"
    )


def _write_bad_level(folder: Path) -> None:
    table = pd.read_csv(folder / "ours.csv")
    table.assign(cp="typical").to_csv(folder / "bad.csv", index=False)


@pytest.mark.parametrize(
    ("model", "file", "options", "said"),
    [
        ("disease.onnx", "ours.csv", {}, "disease.onnx: is for ONNX; give the .skops file beside it"),
        ("disease.json", "ours.csv", {}, "disease.json: is to be read; give the .skops"),
        ("nothing.skops", "ours.csv", {}, "nothing.skops: there is no such file"),
        (".", "ours.csv", {}, "cannot be read"),
        ("empty.skops", "ours.csv", {}, "empty.skops: is not a .skops file"),
        ("ours.csv", "ours.csv", {}, "ours.csv: is not a .skops file"),
        ("disease.skops", "nothing.csv", {}, "nothing.csv: there is no such file"),
        ("disease.skops", "disease.skops", {}, "of unknown kind"),
        ("disease.skops", "bad.csv", {}, "column `cp`: 50 cells are none of the dictionary's levels"),
        ("disease.skops", "other.csv", {}, "has no column of the model's, which reads `age`"),
        ("disease.skops", "ours.csv", {"identity": "Id"}, "no column `Id` (did you mean `ID`?); see `--id`"),
        ("disease.skops", "ours.csv", {"out": "ours.csv"}, "ours.csv: would be overwritten"),
        ("disease.skops", "ours.csv", {"out": "disease.skops"}, "disease.skops: would be overwritten"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_written(
    folder: Path, model: str, file: str, options: dict[str, Any], said: str
) -> None:
    (folder / "empty.skops").touch()
    (folder / "other.csv").write_text("a,b\n1,2\n3,4\n")
    _write_bad_level(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    out = folder / options.pop("out", "out.csv")
    with pytest.raises(WardroundError) as caught:
        predict_command(model=folder / model, file=folder / file, out=out, **{"identity": None, **options})
    assert said in str(caught.value)
    assert "typical" not in str(caught.value)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
