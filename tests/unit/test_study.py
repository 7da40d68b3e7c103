"""A study file is read whole or refused in one line that names the file and the key at fault."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tests.support import study_data, study_of
from wardround_common.errors import StudyError
from wardround_common.study import Study, parse_study, read_study

LOGISTIC = {"kind": "logistic"}
GOOD = study_data([LOGISTIC, {"kind": "summary"}], split={"test": 0.3, "seed": 1})


def changed(path: str, value: Any) -> dict[str, Any]:
    """Return the good study with one key set; ``path`` is written as ``analyses.0.ridge``."""
    data = copy.deepcopy(GOOD)
    *way, last = path.split(".")
    at: Any = data
    for key in way:
        at = at[int(key)] if isinstance(at, list) else at[key]
    at[int(last) if isinstance(at, list) else last] = value
    return data


FAULTS: list[tuple[str, Any, str]] = [
    ("variabels", {}, "variabels: unknown key (did you mean `variables`?)"),
    ("privacy.min_hospital", 3, "privacy.min_hospital: unknown key (did you mean `min_hospitals`?)"),
    ("analyses.0.rigde", 1, "analyses[0].rigde: unknown key (did you mean `ridge`?)"),
    ("analyses.0.trees", 100, "analyses[0].trees: unknown key"),
    ("analyses.0.kind", "logistik", "analyses[0].kind: `logistik` is no analysis (did you mean `logistic`?)"),
    ("analyses.0.ridge", -1, "analyses[0].ridge: "),
    ("analyses.0.ridge", "much", "analyses[0].ridge: "),
    ("analyses.0.ridge", float("nan"), "analyses[0].ridge: "),
    ("analyses.0.threshold", 1, "analyses[0].threshold: "),
    ("analyses.0.outcome", "cp", "analyses[0].outcome: `cp` must be a category of two levels"),
    ("analyses.0.outcome", "deaths", "analyses[0].outcome: `deaths` is not in `variables`"),
    ("analyses.0.predictors", [], "analyses[0].predictors: a logistic model needs at least one"),
    ("analyses.0.predictors", ["agee"], "analyses[0].predictors[0]: `agee` is not in `variables` (did you"),
    ("analyses.0.predictors", ["age", "disease"], "analyses[0].predictors[1]: `disease` is the outcome"),
    ("analyses.0.predictors", ["age:age"], "analyses[0].predictors[0]: `age:age` multiplies a variable"),
    ("analyses.0.predictors", ["sex:age", "age:sex"], "analyses[0].predictors[1]: `age:sex` stands there"),
    ("analyses.0.missing", "ignore", "analyses[0].missing: "),
    ("analyses.1.variables", ["agee"], "analyses[1].variables[0]: `agee` is not in `variables`"),
    ("analyses.1.name", "logistic", "analyses[1].name: `logistic` stands there twice"),
    ("analyses.1.name", "../out", "analyses[1].name: 1 to 64 letters, digits"),
    ("analyses.1.name", "a\nb", "analyses[1].name: 1 to 64 letters, digits"),
    ("analyses.1.name", "", "analyses[1].name: 1 to 64 letters, digits"),
    ("analyses.1.name", "table.", "analyses[1].name: 1 to 64 letters, digits"),
    ("analyses.0.threshold", 0.12345, "analyses[0].threshold: four decimals at most"),
    ("analyses.0.threshold", 1, "analyses[0].threshold: "),
    ("analyses.0.subgroups", {"agee": [50]}, "analyses[0].subgroups.agee: `agee` is not in `variables`"),
    ("analyses.0.subgroups", {"age": [65, 50]}, "analyses[0].subgroups.age: give rising cut points"),
    ("analyses.0.subgroups", {"age": [18]}, "analyses[0].subgroups.age: give rising cut points"),
    ("analyses.0.subgroups", {"sex": [1]}, "analyses[0].subgroups.sex: a category has a group for each"),
    ("analyses.1", {"kind": "evaluate", "model": "cox"}, "analyses[1].model: `cox` is no model"),
    ("analyses.1", "summary", "analyses[1]: an analysis is written as {kind: ...}"),
    ("analyses", [], "analyses: a list of analyses"),
    ("outcome", "deaths", "outcome: `deaths` is not in `variables`"),
    ("predictors", ["age", "weight"], "predictors[1]: `weight` is not in `variables`"),
    ("variables", {}, "variables: a study needs at least one variable"),
    ("variables.age.kind", "numeric", "variables.age: `kind` must be `number` or `category`"),
    ("variables.age.range", [100, 18], "variables.age.range: the lower bound must be below"),
    ("variables.age.range", [0, 1e13], "variables.age.range: bounds must lie within"),
    ("variables.age.levels", ["0", "1"], "variables.age.levels: unknown key"),
    ("variables.sex.levels", ["0"], "variables.sex: levels: a category needs 2 to 1000 levels"),
    ("variables.sex.levels", ["0", "0"], "variables.sex: levels: a level or code stands there twice"),
    ("variables.sex.levels", [True, False], "variables.sex: YAML read true or false"),
    ("variables.sex.levels", ["0", "missing"], "variables.sex: levels: `missing` and the empty text"),
    ("variables.sex.missing", ["1"], "variables.sex: missing: a code cannot be a level"),
    ("variables.a:b", {"kind": "number", "range": [0, 1]}, "variables: `a:b` is no variable name"),
    ("variables.intercept", {"kind": "number", "range": [0, 1]}, "variables: `intercept` is reserved"),
    ("split", {"test": 1.5}, "split.test: "),
    ("split", {"test": 0.3, "seed": 2**60}, "split.seed: "),
    ("split", {"column": "fold", "seed": 1}, "split.seed: unknown key"),
    ("cohort", {"where": "agee > 3"}, "cohort.where: `agee` is not in `variables`"),
    ("privacy.min_hospitals", 1, "privacy.min_hospitals: "),
    ("privacy.differential_privacy", {"epsilon": 1}, "privacy.differential_privacy: "),
    ("name", "Heart Disease", "name: "),
    ("wardround", 2, "wardround: "),
    ("max_rows", 0, "max_rows: "),
    ("rows", "some", "rows: "),
]


@pytest.mark.parametrize(("path", "value", "message"), FAULTS)
def test_a_fault_is_named_by_its_key_in_one_line(path: str, value: Any, message: str) -> None:
    with pytest.raises(StudyError) as error:
        parse_study(changed(path, value), "study.yaml")
    assert str(error.value).startswith(f"study.yaml: {message}")
    assert "\n" not in str(error.value) and "pydantic" not in str(error.value)


def test_the_study_that_the_faults_are_made_from_is_good() -> None:
    assert parse_study(GOOD).name == "clinic"


@pytest.mark.parametrize(
    ("path", "value"), [("title", "\ud800"), ("cohort", {"where": "sex = '\ud800'"})], ids=["title", "where"]
)
def test_half_a_character_is_refused(path: str, value: Any) -> None:
    with pytest.raises(StudyError, match="half a character"):
        parse_study(changed(path, value))


@pytest.mark.parametrize("data", [None, [], "text", 3, {}, {"name": "x"}])
def test_what_is_no_study_at_all_is_refused(data: Any) -> None:
    with pytest.raises(StudyError, match=r"study.yaml: .*wardround: 1"):
        parse_study(data, "study.yaml")


def test_every_default_is_written_into_the_manifest() -> None:
    manifest = yaml.safe_load(study_of(LOGISTIC, {"kind": "summary"}, name="x").manifest())
    first, second = manifest["analyses"]
    assert (first["outcome"], first["missing"], first["ridge"], first["threshold"]) == (
        "disease",
        "impute",
        0.0,
        0.5,
    )
    assert first["predictors"] == ["age", "chol", "bmi", "sex", "cp"]
    assert second["variables"] == [*first["predictors"], "disease"]
    assert manifest["max_rows"] == 10_000_000 and manifest["split"] is None


def test_the_manifest_is_a_study_of_the_same_digest_that_asks_the_same() -> None:
    study = study_of(LOGISTIC, {"kind": "summary"}, split={"column": "fold"})
    again = Study.model_validate_json(study.manifest())
    assert (again.digest, again.analyses) == (study.digest, study.analyses)


def test_the_digest_depends_on_every_key_and_not_on_their_order() -> None:
    study = parse_study(GOOD)
    assert parse_study(dict(reversed(GOOD.items()))).digest == study.digest
    for path, value in (("title", "A"), ("analyses.0.ridge", 1), ("variables.age.unit", "months")):
        assert parse_study(changed(path, value)).digest != study.digest


def test_an_analysis_of_another_outcome_takes_the_first_outcome_as_no_predictor_by_itself() -> None:
    study = study_of({"kind": "logistic", "outcome": "sex"}, predictors=["age", "sex"])
    assert study.analyses[0].predictors == ("age",)


FILES = {
    b"wardround: 1\nname: caf\xe9\n": "byte 22 is not UTF-8",
    b"wardround: 1\nname: x: y\n": "line 2",
    b"wardround: 1\na: &one 1\nb: *one\n": "line 3: aliases are not allowed",
    b"wardround: 1\nvariables:\n  age: {kind: number, kind: number}\n": "line 3: the key `kind`",
    b"a: !!python/name:os.system 1\n": "line 1",
    b"wardround: 1\nname: \0\n": "not readable as YAML",
    b"- wardround\n": "a mapping of keys",
    b"name: x\n": "`wardround: 1` is missing",
    b"wardround: 1\n": "this key is required",
    b"wardround: 1\nname: a\nname: b\n": "line 3: the key `name` stands there twice",
    b"wardround: 1\nname: &x a\ntitle: *x\n": "line 3: aliases are not allowed",
    b"wardround: 1\nname: [a\n": "line 3: ",
    b"wardround: 1\ntitle: \xff\n": "byte 20 is not UTF-8",
    b"wardround: 1\n? [a, b]\n: 1\n": "line 2: ",
    b"wardround: 1\n1: 2\n": "",
    b"wardround: 1\nname: !!python/object:os.system a\n": "line 2: ",
    b"[" * 5000: "nested too deeply",
    b"\x00": "not readable as YAML",
    b"": "a study file is a mapping of keys",
    b'wardround: 1\ntitle: "\\ud800"\n': "",
}


@pytest.mark.parametrize(("content", "message"), FILES.items())
def test_a_file_that_is_not_readable_is_refused_with_its_line(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "study.yaml"
    path.write_bytes(content)
    with pytest.raises(StudyError) as error:
        read_study(path)
    assert str(error.value).startswith(str(path)) and message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(StudyError, match=r"nowhere.yaml: there is no such file"):
        read_study(tmp_path / "nowhere.yaml")
    with pytest.raises(StudyError, match="cannot be read"):
        read_study(tmp_path)


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
PATHS = [path for path, _, _ in FAULTS if "variabels" not in path]


@given(st.sampled_from(PATHS), JSONISH)
def test_anything_under_any_key_is_a_study_or_a_study_error(path: str, value: Any) -> None:
    try:
        study = parse_study(changed(path, value))
    except StudyError as error:
        assert "\n" not in str(error)
    else:
        assert Study.model_validate_json(study.manifest()).digest == study.digest
