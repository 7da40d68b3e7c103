"""The real command `wardround`, run as a user runs it: what it prints, writes, and exits with."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from tests.support import HOSPITALS, WARDS
from wardround_common.study import parse_study

COMMAND = Path(sys.executable).with_name("wardround")


def wardround(*arguments: str | Path, cwd: Path, code: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command in a folder, and check its exit code."""
    env = {**os.environ, "COLUMNS": "160"}
    done = subprocess.run(
        [COMMAND, *map(str, arguments)], cwd=cwd, env=env, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == code, done.stderr
    return done


def table(seed: int) -> pd.DataFrame:
    """Return sixty made-up patients, some without CRP."""
    rng = np.random.default_rng(seed)
    age, crp = rng.integers(18, 101, 60), rng.integers(0, 5000, 60) / 10
    ill = rng.random(60) < 1 / (1 + np.exp(-(age - 60) / 20 - crp / 300))
    return pd.DataFrame(
        {
            "age": age,
            "crp": np.where(np.arange(60) % 7 == 0, np.nan, crp),
            "sex": np.where(rng.integers(0, 2, 60) == 1, "m", "f"),
            "ill": ill.astype(int),
        }
    )


def without_seconds(results: dict[str, Any]) -> dict[str, Any]:
    analyses = {label: {**found, "seconds": None} for label, found in results["analyses"].items()}
    return {**results, "analyses": analyses}


def mode_of(file: Path) -> int:
    return stat.S_IMODE(file.stat().st_mode)


def test_help_names_the_commands_and_that_of_simulate_gives_examples(tmp_path: Path) -> None:
    shown = wardround("--help", cwd=tmp_path).stdout
    assert all(name in shown for name in ("demo", "simulate", "coordinator", "wardround demo"))
    shown = wardround("simulate", "--help", cwd=tmp_path).stdout
    for example in ("wardround simulate flamby-heart", "--data north=north.csv"):
        assert example in shown
    for option in ("--data", "--out", "--transcript", "--json", "--quiet"):
        assert option in shown


def test_version_is_that_of_the_package(tmp_path: Path) -> None:
    assert wardround("--version", cwd=tmp_path).stdout == f"wardround {version('wardround')}\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [(["simulat"], "simulat"), (["simulate", "--jsn"], "--jsn"), (["coordinator", "replay"], "TRANSCRIPT")],
)
def test_a_mistake_in_the_arguments_is_one_line_and_exit_code_2(
    tmp_path: Path, arguments: list[str], named: str
) -> None:
    done = wardround(*arguments, cwd=tmp_path, code=2)
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert named in done.stderr
    assert "--help" in done.stderr


def test_json_is_the_results_file_and_parquet_beside_csv_gives_the_same(tmp_path: Path) -> None:
    (tmp_path / "wards.json").write_text(json.dumps(WARDS))
    for seed, name in enumerate(HOSPITALS):
        table(seed).to_csv(tmp_path / f"{name}.csv", index=False)
        table(seed).to_parquet(tmp_path / f"{name}.parquet")
    found = {}
    for kinds in (("csv", "csv", "csv"), ("csv", "parquet", "parquet")):
        out = tmp_path / "".join(kinds)
        data = [
            f"--data={name}={tmp_path / f'{name}.{kind}'}"
            for name, kind in zip(HOSPITALS, kinds, strict=True)
        ]
        done = wardround("simulate", "wards.json", *data, "--json", "--out", out, cwd=tmp_path)
        assert done.stderr == ""
        assert done.stdout == (out / "results.json").read_text("utf-8")
        assert sorted(file.name for file in out.rglob("*") if file.is_file()) == [
            "logistic.json",
            "logistic.md",
            "logistic.onnx",
            "logistic.skops",
            "report.html",
            "results.json",
        ]
        found[kinds] = json.loads(done.stdout)
    of_csv, mixed = (without_seconds(results) for results in found.values())
    assert of_csv == mixed
    assert of_csv["hospitals"] == sorted(HOSPITALS)
    assert of_csv["rows"] == 180


def test_a_shipped_study_runs_by_name_and_its_transcript_gives_its_results_again(tmp_path: Path) -> None:
    study = ("simulate", "flamby-heart", "--transcript", "study.transcript")
    first = wardround(*study, cwd=tmp_path)
    file = tmp_path / "wardround-flamby-heart" / "results.json"
    results = json.loads(file.read_text("utf-8"))
    assert "logistic: coefficients" in first.stdout
    assert "0.8812" in first.stdout
    assert "Results: wardround-flamby-heart/results.json" in first.stdout
    assert results["analyses"]["logistic"]["metrics"]["test"]["auc"] == pytest.approx(0.8812, abs=5e-5)

    transcript = tmp_path / "study.transcript"
    kept = transcript.read_bytes()
    assert mode_of(transcript) == 0o600
    replayed = wardround("coordinator", "replay", transcript, cwd=tmp_path)
    assert without_seconds(json.loads(replayed.stdout)) == without_seconds(results)
    wardround("coordinator", "replay", transcript, "--out", "again/results.json", cwd=tmp_path)
    assert (tmp_path / "again" / "results.json").read_text("utf-8") == replayed.stdout
    assert transcript.read_bytes() == kept

    wardround(*study, "--quiet", cwd=tmp_path)
    assert without_seconds(json.loads(file.read_text("utf-8"))) == without_seconds(results)
    assert transcript.read_bytes().startswith(kept)


def test_the_demo_makes_four_homes_and_finds_the_same_when_it_is_run_again(tmp_path: Path) -> None:
    done = wardround("demo", "--json", cwd=tmp_path)
    assert done.stderr == ""
    shown, out = json.loads(done.stdout), tmp_path / "wardround-demo"
    comparison = shown.pop("comparison")
    assert json.loads((out / "results.json").read_text("utf-8")) == shown
    assert json.loads((out / "comparison.json").read_text("utf-8")) == comparison
    assert comparison["furthest_coefficient"] < 1e-8
    homes = sorted((out / "hospitals").iterdir())
    assert [home.name for home in homes] == ["cleveland", "hungary", "switzerland", "va"]
    for home in homes:
        assert sorted(path.name for path in home.iterdir()) == ["keys", "node.db", "policy.toml", "table.csv"]
        assert mode_of(home / "node.db") == 0o600
        assert mode_of(home / "keys") == 0o700
        assert mode_of(home / "keys" / "identity.pem") == 0o600
    keys = [(home / "keys" / "identity.pem").read_bytes() for home in homes]
    assert len(set(keys)) == 4

    again = wardround("demo", "--out", out, cwd=tmp_path)
    assert "federated" in again.stdout
    assert f"Results: {out / 'results.json'}" in again.stdout
    assert without_seconds(json.loads((out / "results.json").read_text("utf-8"))) == without_seconds(shown)
    assert [(home / "keys" / "identity.pem").read_bytes() for home in homes] == keys
    assert f"Report: {out / 'report.html'}" in again.stdout
    report = (out / "report.html").read_text("utf-8")
    assert "cleveland alone" in report and "pooled forest (scikit-learn)" in report
    assert {one.suffix for one in (out / "model").iterdir()} == {".json", ".md", ".onnx", ".skops"}


def test_the_familiar_script_and_its_federated_twin_stand_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "heart-disease").write_text("a file of that name is not the demo's study")
    done = wardround("demo", "classic", "--out", "classic", cwd=tmp_path)
    wardround("simulate", "classic", "--quiet", cwd=tmp_path)  # nor is the folder that is there by now
    assert "RandomForestClassifier" in done.stdout and "kind: forest" in done.stdout
    compared = json.loads((tmp_path / "classic" / "comparison.json").read_text("utf-8"))
    patients = pd.read_csv(tmp_path / "classic" / "patients.csv")
    assert (len(patients), patients["held_out"].sum()) == (740, compared["test_rows"])
    for one in ("familiar_accuracy", "federated_accuracy"):
        assert f"accuracy {compared[one]:.3f}" in done.stdout
        assert compared[one] * compared["test_rows"] == pytest.approx(
            round(compared[one] * compared["test_rows"]), abs=1e-9
        )
    study = parse_study(yaml.safe_load((tmp_path / "classic" / "study.yaml").read_text("utf-8")))
    assert study.name == "classic" and study.split is not None


def test_a_demonstration_that_there_is_not_is_an_error(tmp_path: Path) -> None:
    done = wardround("demo", "clasic", cwd=tmp_path, code=2)
    assert done.stderr == (
        "error: clasic: no demonstration (did you mean `classic`?); there are `heart-disease`, `classic`\n"
    )


def test_a_simulation_tells_what_each_hospital_would_reach_alone(tmp_path: Path) -> None:
    done = wardround("simulate", "flamby-heart", "--local", "--out", tmp_path / "out", cwd=tmp_path)
    assert "On the same 254 held-out rows of all hospitals" in done.stdout
    assert "cleveland alone" in done.stdout and "no fit" in done.stdout, "Switzerland has one outcome only"
    report = (tmp_path / "out" / "report.html").read_text("utf-8")
    assert "cleveland alone" in report and "wardround simulate flamby-heart --out" in report
    assert "--local" in report
