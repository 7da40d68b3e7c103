"""What a finished study hands over: estimator files that a doctored one cannot pass for, cards, and ONNX."""

from __future__ import annotations

import io
import json
import pickle
import struct
import sys
import zipfile
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pandas as pd
import pytest
import skops.io

from tests.support import cohort_of, drive, patients, published, study_of
from wardround_common.errors import WardroundError
from wardround_common.estimators import (
    FederatedForestClassifier,
    FederatedForestRegressor,
    FederatedLogisticRegression,
    FederatedMLPClassifier,
    FederatedModel,
    FederatedSGDRegressor,
    dump_estimator,
    load_estimator,
)
from wardround_common.plan import Findings
from wardround_common.study import Study
from wardround_server.export import export_models
from wardround_server.onnx_export.model import onnx_model

CODED: dict[str, Any] = {
    "age": {"kind": "number", "unit": "a", "range": [18, 90], "missing": [33, "?"]},
    "chol": {"kind": "number", "unit": "mg/dL", "range": [80, 620], "label": "serum | cholesterol"},
    "bmi": {"kind": "number", "range": [15, 50]},
    "sex": {"kind": "category", "levels": {"f": ["0"], "m": ["1", "male"]}},
    "cp": {"kind": "category", "levels": ["1", "2", "3"], "missing": ["4"]},
    "disease": {"kind": "category", "levels": {"no": [0], "yes": [1]}},
}


@lru_cache
def finished() -> tuple[Study, Findings, dict[str, Any]]:
    """Return a study of two models that was run over one table, and its results."""
    study = study_of(
        {"kind": "logistic", "ridge": 1.0, "subgroups": {"sex": []}},
        {"kind": "forest", "name": "of chol", "outcome": "chol", "trees": 3, "missing": "drop"},
        {"kind": "summary"},
        variables=CODED,
        cohort={"where": "age >= 20"},
        split={"test": 0.3},
    )
    findings = drive(study, cohort_of(study, patients())).findings
    return study, findings, {**published(study, findings), "hospitals": ["hidden-a", "hidden-b", "hidden-c"]}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    study, findings, results = finished()
    export_models(study, results, findings, tmp_path)
    return tmp_path / "model"


def test_each_model_has_four_files_whose_names_stay_in_their_folder(folder: Path) -> None:
    names = ("logistic", "of chol")
    endings = (".json", ".md", ".onnx", ".skops")
    assert sorted(file.name for file in folder.iterdir()) == [f"{n}{e}" for n in names for e in endings]
    assert [path.name for path in folder.parent.iterdir()] == ["model"]


def test_without_the_extra_there_is_no_onnx(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnx", None)
    study, findings, results = finished()
    export_models(study, results, findings, tmp_path)
    assert {file.suffix for file in (tmp_path / "model").iterdir()} == {".json", ".md", ".skops"}
    assert "onnx" not in (tmp_path / "model" / "logistic.md").read_text("utf-8").lower().split("## use")[1]


def test_a_saved_estimator_is_plain_data_and_predicts_the_same(folder: Path) -> None:
    _, findings, _ = finished()
    data = (folder / "logistic.skops").read_bytes()
    with zipfile.ZipFile(io.BytesIO(data)) as packed:
        assert {Path(name).suffix for name in packed.namelist()} == {".json", ".bin"}
    estimator = load_estimator(data)
    model = findings.analyses["logistic"].result.model  # type: ignore[union-attr]
    assert estimator.model_.sha256 == model.sha256
    assert estimator.get_params()["ridge"] == 1.0
    cohort = cohort_of(finished()[0], patients())
    assert np.array_equal(estimator.output_of(cohort), model.output(next(cohort.blocks())))


def test_the_card_says_what_results_say_and_names_no_hospital(folder: Path) -> None:
    study, _, results = finished()
    card = (folder / "logistic.md").read_text("utf-8")
    found = results["analyses"]["logistic"]
    assert f"{found['n']} rows of 3 hospitals" in card
    assert f"{found['metrics']['test']['auc']:.3f}" in card
    assert "the probability that `disease` is `yes`" in card
    for text in (
        "On held-out rows",
        "By `sex`:",
        "age >= 20",
        "`ridge: 1.0`",
        "serum \\| cholesterol",
        "33, ?",
    ):
        assert text in card
    for text in (
        found["model_sha256"],
        study.digest.hex(),
        "wardround predict logistic.skops",
        "load_estimator",
    ):
        assert text in card
    assert "hidden" not in card
    other = (folder / "of chol.md").read_text("utf-8")
    for text in ("`chol` (serum \\| cholesterol), in mg/dL", "had no part in the training", "R squared"):
        assert text in other
    assert "wardround predict 'of chol.skops'" in other


def test_the_card_says_where_figures_are_not_shown() -> None:
    study = study_of({"kind": "logistic", "predictors": ["age"]})
    findings = drive(study, cohort_of(study, patients())).findings
    results = {**published(study, findings), "hospitals": ["a"]}
    from wardround_server.model_card import model_card

    spec, model = study.analyses[0], findings.analyses["logistic"].result.model  # type: ignore[union-attr]
    train = results["analyses"]["logistic"]["metrics"]["train"]
    train["sensitivity"] = None
    card = model_card(study, results, spec, model, "logistic", ())  # type: ignore[arg-type]
    assert "| sensitivity | not shown |" in card
    assert "No rows were held out" in card
    results["analyses"]["logistic"]["metrics"]["train"] = {
        "n": None,
        "state": "refused",
        "why": "too few rows",
    }
    card = model_card(study, results, spec, model, "logistic", ())  # type: ignore[arg-type]
    assert "They are not published: too few rows." in card


def saved() -> bytes:
    table = patients()
    estimator = FederatedLogisticRegression(dictionary=CODED, outcome="disease")
    return dump_estimator(estimator.fit(table, table["disease"]))


def rewritten(change: Callable[[dict[str, Any]], Any], parts: Mapping[str, bytes] | None = None) -> bytes:
    """Return the saved file with another schema, and other bytes under its parts' names where given."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(saved())) as before, zipfile.ZipFile(out, "w") as after:
        schema = json.loads(before.read("schema.json"))
        schema = change(schema) or schema
        after.writestr("schema.json", json.dumps(schema))
        for name in before.namelist():
            if name != "schema.json":
                after.writestr(name, (parts or {}).get("model", before.read(name)))
        for name, content in (parts or {}).items():
            after.writestr(name, content)
    return out.getvalue()


def state_of(schema: dict[str, Any]) -> dict[str, Any]:
    state: dict[str, Any] = schema["content"]["content"]
    return state


def said_otherwise(key: str, **changes: Any) -> Callable[[dict[str, Any]], None]:
    """Return a change of the JSON text under a key of the state."""

    def change(schema: dict[str, Any]) -> None:
        node = state_of(schema)[key]
        node["content"] = json.dumps(json.dumps({**json.loads(json.loads(node["content"])), **changes}))

    return change


def with_node(**node: Any) -> Callable[[dict[str, Any]], None]:
    return lambda schema: state_of(schema).update(parameters=node)


class Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("touched"),))


def announced_bomb() -> bytes:
    """Return a small zip whose directory says that it holds 600 MiB."""
    data = bytearray(rewritten(lambda schema: None, {"more.bin": b"0"}))
    at = data.rfind(b"PK\x01\x02")
    data[at + 24 : at + 28] = struct.pack("<I", 600 << 20)
    return bytes(data)


def real_bomb() -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as packed, packed.open("schema.json", "w") as file:
        for _ in range(32):
            file.write(b" " * (1 << 20))
    return out.getvalue()


DOCTORED: dict[str, Callable[[], bytes]] = {
    "empty": lambda: b"",
    "random": lambda: bytes(range(256)) * 40,
    "a pickle": lambda: pickle.dumps(Evil()),
    "truncated": lambda: saved()[:-40],
    "half": lambda: saved()[: len(saved()) // 2],
    "changed model": lambda: rewritten(lambda schema: None, {"model": b"\x09" * 90}),
    "announced bomb": announced_bomb,
    "real bomb": real_bomb,
    "too many parts": lambda: rewritten(lambda schema: None, {f"{i}.bin": b"" for i in range(20)}),
    "no schema": lambda: _zip({"a.bin": b""}),
    "schema is no JSON": lambda: _zip({"schema.json": b"{"}),
    "schema is deep": lambda: _zip({"schema.json": b"[" * 100_000}),
    "schema is a list": lambda: _zip({"schema.json": b"[]"}),
    "another estimator": lambda: skops.io.dumps(_other()),
    "a plain object": lambda: skops.io.dumps({"a": np.zeros(3)}),
    "an unfitted one": lambda: dump_estimator(FederatedLogisticRegression()),
    "a function": lambda: rewritten(
        with_node(__class__="system", __module__="os", __loader__="FunctionNode", content="os")
    ),
    "a method": lambda: rewritten(
        with_node(__class__="Path", __module__="pathlib", __loader__="MethodNode", content={})
    ),
    "a reduced object": lambda: rewritten(
        with_node(__class__="Path", __module__="pathlib", __loader__="ConstructorFromReduceNode", content={})
    ),
    "numpy objects": lambda: rewritten(
        with_node(
            __class__="ndarray", __module__="numpy", __loader__="NdArrayNode", type="numpy", file="a.npy"
        ),
        {"a.npy": pickle.dumps(Evil())},
    ),
    "an inner estimator": lambda: rewritten(
        with_node(
            __class__="FederatedLogisticRegression",
            __module__="wardround_common.estimators.linear",
            __loader__="ObjectNode",
        )
    ),
    "a missing key": lambda: rewritten(lambda schema: state_of(schema).pop("model") and None),
    "another key": lambda: rewritten(lambda schema: state_of(schema).update(more=state_of(schema)["format"])),
    "another version": lambda: rewritten(lambda schema: state_of(schema)["format"].update(content="2")),
    "another parameter": lambda: rewritten(said_otherwise("parameters", evil=1)),
    "another class": lambda: rewritten(
        lambda schema: schema.update(
            __class__="FederatedForestRegressor", __module__="wardround_common.estimators.forest"
        )
    ),
    "another outcome": lambda: rewritten(said_otherwise("fitted", outcome="nothing")),
    "other columns": lambda: rewritten(said_otherwise("fitted", names=["age"], features=1)),
    "many columns": lambda: rewritten(said_otherwise("fitted", names=None, features=10**15)),
    "three classes": lambda: rewritten(said_otherwise("fitted", classes=[0, 1, 2])),
    "no classes": lambda: rewritten(said_otherwise("fitted", classes=None)),
    "odd classes": lambda: rewritten(said_otherwise("fitted", dtype="V1000000000000")),
    "other variables": lambda: rewritten(
        said_otherwise("fitted", dictionary={**CODED, "age": {"kind": "category", "levels": ["a"]}})
    ),
    "a number for a category": lambda: rewritten(
        said_otherwise("fitted", dictionary={"disease": CODED["disease"], "age": CODED["age"]})
    ),
}


def _zip(contents: Mapping[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as packed:
        for name, content in contents.items():
            packed.writestr(name, content)
    return out.getvalue()


def _other() -> Any:
    from sklearn.linear_model import LinearRegression

    return LinearRegression().fit([[0.0], [1.0]], [0.0, 1.0])


@pytest.mark.parametrize("kind", DOCTORED)
def test_a_doctored_file_is_refused_in_one_line(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = DOCTORED[kind]()
    with pytest.raises(WardroundError, match=r"^model\.skops: .+") as caught:
        load_estimator(data, "model.skops")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_file_that_the_doctored_ones_are_made_of_is_good() -> None:
    assert load_estimator(rewritten(lambda schema: None)).predict(patients()).shape == (len(patients()),)


MODELS: dict[str, tuple[type[FederatedModel], str, dict[str, Any]]] = {
    "logistic": (
        FederatedLogisticRegression,
        "disease",
        {"predictors": ["age", "chol", "bmi", "sex", "cp", "age:sex", "cp:chol"]},
    ),
    "logistic on complete rows": (FederatedLogisticRegression, "disease", {"missing": "drop"}),
    "linear": (FederatedSGDRegressor, "chol", {"predictors": ["age", "sex", "cp"], "rounds": 5}),
    **{
        f"network, {activation}": (
            FederatedMLPClassifier,
            "disease",
            {"rounds": 3, "hidden": (6, 3), "activation": activation},
        )
        for activation in ("relu", "tanh", "logistic", "identity")
    },
    "forest": (FederatedForestClassifier, "disease", {"trees": 20}),
    "forest of stumps": (FederatedForestClassifier, "disease", {"trees": 3, "leaf": 1900}),
    "forest of stumps of a category": (
        FederatedForestClassifier,
        "disease",
        {"predictors": ["cp"], "trees": 2, "leaf": 1900},
    ),
    "forest of one category": (FederatedForestRegressor, "chol", {"predictors": ["cp"], "trees": 5}),
    "forest of a number": (
        FederatedForestRegressor,
        "chol",
        {"predictors": ["age", "cp", "disease"], "trees": 20},
    ),
}


def messy() -> pd.DataFrame:
    """Return 2,000 rows with values missing, coded so and out of range, and codes in other spellings."""
    table, row = patients(2000, 3), np.arange(2000)
    sex = np.where(row % 7 == 0, "male", table["sex"].astype(str))
    return table.assign(
        age=np.where(row % 50 == 0, 200.0, table["age"]), sex=np.where(row % 9 == 0, None, sex)
    )


def texts_of(column: pd.Series) -> Any:
    cells = ["" if pd.isna(c) else c if isinstance(c, str) else str(int(c)) for c in column]
    return np.array(cells, object)[:, None]


@pytest.mark.parametrize("kind", MODELS)
def test_onnx_gives_what_the_estimator_gives(kind: str) -> None:
    estimator_type, outcome, parameters = MODELS[kind]
    table = patients(2000, 5)
    table = table[table[outcome].notna()]
    estimator = estimator_type(dictionary=CODED, outcome=outcome, **parameters).fit(table, table[outcome])
    data = onnx_model(estimator.model_, estimator.dictionary_, outcome, {})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert sorted(one.name for one in session.get_inputs()) == sorted(estimator.model_.variables)
    rows = messy()
    fed = {
        one.name: rows[one.name].to_numpy(float)[:, None]
        if one.type == "tensor(double)"
        else texts_of(rows[one.name])
        for one in session.get_inputs()
    }
    (found,) = session.run(None, fed)
    if estimator.classifies:
        expected = estimator.predict_proba(rows)
        assert session.get_outputs()[0].name == "probability"
    else:
        expected = estimator.predict(rows)[:, None]
        assert session.get_outputs()[0].name == "prediction"
    assert found.dtype == np.float64
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-6
    assert kind.startswith("forest of stumps") or expected.std() > 1e-3


def test_onnx_carries_where_it_comes_from(folder: Path) -> None:
    study, _, results = finished()
    model = onnx.load(folder / "logistic.onnx")
    properties = {one.key: one.value for one in model.metadata_props}
    assert properties["study_sha256"] == study.digest.hex()
    assert properties["model_sha256"] == results["analyses"]["logistic"]["model_sha256"]
    assert json.loads(properties["levels"]) == ["no", "yes"]
    assert properties["outcome"] == "disease"


def test_a_variable_may_have_the_outputs_name() -> None:
    table = patients().rename(columns={"bmi": "probability"})
    dictionary = {("probability" if name == "bmi" else name): one for name, one in CODED.items()}
    estimator = FederatedLogisticRegression(dictionary=dictionary, outcome="disease")
    estimator.fit(table, table["disease"])
    data = onnx_model(estimator.model_, estimator.dictionary_, "disease", {})
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "probability_"
