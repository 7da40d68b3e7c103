"""The report page: whole, self-contained, safe with foreign texts, and true to what was suppressed."""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import yaml

from wardround_common.errors import WardroundError
from wardround_common.study import parse_study
from wardround_server.report import ReportMissing, render
from wardround_server.report.apart import Drawing
from wardround_server.shipped import study_file, tables
from wardround_server.simulation import simulate

COMMAND = "wardround simulate heart-disease --out results"
VOID = {"meta", "br", "hr", "img", "input", "link"}
HOSTILE = (
    "<script>alert(1)</script>",
    "\"quoted\" & 'single' </title></style></svg>",
    "قلب عربي",
    "לב \N{RIGHT-TO-LEFT OVERRIDE}abc",
    "💊👩‍⚕️ $x_1^2$ {{ 7*7 }} @0@",
    "N" * 64,
    "half \ud800 a character, a\x00zero\x1b[31m and\na line",
)


@pytest.fixture(scope="module")
def results() -> dict[str, Any]:
    study = yaml.safe_load(study_file("heart-disease").read_text("utf-8"))
    study["analyses"] = [{"kind": "summary"}, {"kind": "logistic", "ridge": 1}]  # the rest is made up below
    return simulate(study, tables("heart-disease")).results


@pytest.fixture(scope="module")
def page(results: dict[str, Any]) -> str:
    return render(results, command=COMMAND)


class Page(HTMLParser):
    """Checks that elements are balanced, and collects what a reader sees, ids and headings."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.targets: list[str] = []
        self.headings: list[int] = []
        self.labels: list[str] = []
        self.names: set[str] = set()
        self.attributes: set[str] = set()
        self.feed(page)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._note(tag, attrs)

    def _note(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.add(tag)
        self.attributes |= {name for name, _ in attrs}
        assert len(attrs) == len({name for name, _ in attrs})
        given = dict(attrs)
        if given.get("id"):
            self.ids.append(str(given["id"]))
        if "href" in given:
            self.targets.append(str(given["href"]))
        if tag == "svg":
            assert given["role"] == "img"
            self.labels.append(str(given["aria-label"]))
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.texts.append(data)

    @property
    def visible(self) -> str:
        return " ".join(self.texts)


def checked(page: str) -> Page:
    """Return the page read, after what holds for every page."""
    assert page.startswith("<!DOCTYPE html>")
    assert len(page.encode()) <= 3_000_000
    outside = re.sub(r">[^<]*<", "><", page)  # what is said in texts may name anything
    for address in ("http:", "https:", "//", "src=", "url(", "<script", "javascript:", "@import"):
        assert address not in outside.lower(), address
    read = Page(page)
    assert not {"script", "link", "img", "iframe", "object", "form"} & read.names
    assert not {one for one in read.attributes if one == "style" or one.startswith("on")}
    assert len(read.ids) == len(set(read.ids))
    assert all(target.startswith("#") and target[1:] in read.ids for target in read.targets)
    assert read.headings[0] == 1 and read.headings.count(1) == 1
    assert all(b - a <= 1 for a, b in zip(read.headings, read.headings[1:], strict=False))
    assert all(read.labels)
    assert not re.search(r"\b(None|nan|null|NaN|undefined|inf)\b", read.visible)
    return read


def full(results: dict[str, Any]) -> dict[str, Any]:
    """Return the results with everything that an analysis may add."""
    made = copy.deepcopy(results)
    analyses, manifest = made["analyses"], made["manifest"]
    logistic = analyses["logistic"]
    steps = [(i + 1) / 12 for i in range(11)]
    for found in logistic["metrics"].values():
        found["prevalence"] = 0.52
        found["curves"] = {
            "threshold": steps[::-1],
            "tpr": [x**0.4 for x in steps],
            "fpr": [x**2 for x in steps],
            "precision": [1 - x / 2 for x in steps],
            "net_benefit": [0.5 * x for x in steps],
        }
        group = {"n": 207, "events": 122, "auc": 0.874, "brier": 0.142, "observed": 0.589}
        group |= {"predicted": 0.571, "sensitivity": 0.81, "specificity": 0.79}
        refused = {
            "group": "65 and above",
            "n": 30,
            "events": None,
            "state": "refused",
            "why": "too few rows",
        }
        found["subgroups"] = {
            "sex": [{"group": "0", **dict.fromkeys(group)}, {"group": "1", **group}],
            "age": [{"group": "below 50", **group}, refused],
        }
    lone = dict.fromkeys(("se", "p", "low", "high"))
    bare = {term: {**lone, "value": one["value"]} for term, one in logistic["coefficients"].items()}
    analyses["forest"] = {
        "n": 651,
        "n_missing": 0,
        "trees": 100,
        "depth": 8,
        "leaves": 3120,
        "outcome": "disease",
    }
    analyses["forest"] |= {"metrics": logistic["metrics"], "model_sha256": "f0" * 32}
    analyses["fedavg"] = {
        "n": 640,
        "n_missing": None,
        "estimator": "SGDClassifier",
        "strategy": "FedAvg",
        "rounds_trained": 2,
        "clipped": 3,
        "history": [{"round": 1, "update_norm": 2.0}, {"round": 2, "update_norm": 0.5}],
        "metrics": logistic["metrics"],
        "coefficients": bare,
    }
    regression = {"n": 500, "rmse": 51.2, "mae": 40.1, "r2": 0.12}
    regression |= {"calibration_intercept": 0.1, "calibration_slope": 0.99}
    analyses["cholesterol"] = {"n": 500, "n_missing": 0, "coefficients": logistic["coefficients"]}
    analyses["cholesterol"] |= {"metrics": {"train": regression, "test": {**regression, "n": 218}}}
    drops = {"cp": {"drop": 0.06, "sd": 0.01}, "age": {"drop": -0.001, "sd": 0.002}}
    drops |= {"chol": {"drop": None, "sd": None}}
    analyses["importance"] = {"model": "logistic", "part": "test", "n": 269, "repeats": 5, "metric": "auc"}
    analyses["importance"] |= {"baseline": 0.889, "variables": drops}
    analyses["hidden"] = {"model": "forest", "part": "test", "n": None, "repeats": 5}
    analyses["hidden"] |= {"state": "refused", "why": "too few rows, or rows of one outcome"}
    analyses["again"] = {"metrics": {"test": logistic["metrics"]["test"]}}
    spec = next(one for one in manifest["analyses"] if one["kind"] == "logistic")
    manifest["analyses"] += [
        {**spec, "kind": "forest"},
        {**spec, "kind": "fedavg", "missing": "drop"},
        {**spec, "kind": "linear", "name": "cholesterol", "outcome": "chol"},
        {"kind": "importance", "name": None, "model": "logistic"},
        {"kind": "importance", "name": "hidden", "model": "forest"},
        {"kind": "evaluate", "name": "again", "model": "logistic", "threshold": 0.2, "part": "test"},
    ]
    made["abstaining"] = {"fedavg": ["switzerland"], "logistic": []}
    return made


COMPARISON = {
    "test_rows": 269,
    "furthest_coefficient": 8.3e-11,
    "scores": {
        "federated": {"rows": 651, "auc": 0.889, "accuracy": 0.807},
        "pooled (scikit-learn)": {"rows": 651, "auc": 0.889, "accuracy": 0.807},
        "cleveland alone": {"rows": 217, "auc": 0.862, "accuracy": 0.781},
        "va alone": {"rows": 142, "auc": None, "accuracy": None},
    },
}


def test_a_real_study_gives_a_whole_page(results: dict[str, Any], page: str) -> None:
    read = checked(page)
    for said in (
        "Four hospitals (cleveland, hungary, switzerland and va)",
        "On 269 patients held out from learning, its AUC was 0.889",
        "No hospital's own figures are shown",
        results["study_sha256"],
        results["analyses"]["logistic"]["model_sha256"],
        COMMAND,
        "Never fewer than 3 hospitals",
        "This run was a simulation",
        "Coronary disease = 1",
        "Age, per 10 years",
        "1.15 (0.88–1.49)",  # exp(10 x 0.01357), as by hand
    ):
        assert said in read.visible, said


def test_everything_that_an_analysis_may_add_is_shown(results: dict[str, Any]) -> None:
    page = render(
        full(results),
        command="wardround demo",
        comparison=COMPARISON,
        spread={"logistic": {"va": {"auc": 0.81, "rows": 120}}},
    )
    read = checked(page)
    for said in (
        "ROC curve",
        "Precision and recall",
        "Calibration",
        "Decision curve",
        "Subgroups",
        "What the model leans on",
        "Random forest",
        "SGDClassifier by FedAvg over 2 rounds",
        "Federated averaging: switzerland abstained (fewer than 10 usable rows).",
        "cholesterol (linear regression)",
        "Refused: too few rows, or rows of one outcome.",
        "no fit",
        "8.3 × 10⁻¹¹",
        "Statements of single hospitals",
        "95 % interval 0.85 to 0.93",
        "refused: too few rows.",
    ):
        assert said in read.visible, said
    assert "No hospital's own figures are shown" not in read.visible
    assert sum(label.startswith("ROC") for label in read.labels) == 4
    assert not re.search("@[0-9]+@", read.visible)


def test_statements_may_be_of_several_models(results: dict[str, Any]) -> None:
    bare = {**results, "analyses": {}}
    stated = {"logistic": {"va": {"auc": 0.81, "rows": 120}}, "forest": {"va": {"auc": 0.79, "rows": 120}}}
    read = checked(render(bare, command=COMMAND, spread=stated))
    assert read.visible.count("Statements of single hospitals") == 2
    assert "the one exception to the masks" in read.visible
    none = checked(render(bare, command=COMMAND, spread={"logistic": {}}))
    assert "No hospital's own figures are shown" in none.visible


def test_equal_input_gives_equal_bytes_in_another_process(results: dict[str, Any]) -> None:
    code = (
        "import json, sys; from wardround_server.report import render; "
        "sys.stdout.buffer.write(render(json.load(sys.stdin), command='x').encode()); "
        "assert 'matplotlib.pyplot' not in sys.modules"
    )
    made = full(results)
    for label in ("forest", "fedavg", "again"):
        del made["analyses"][label]
    given = json.dumps(made).encode()
    other = subprocess.run([sys.executable, "-c", code], input=given, capture_output=True, check=True)
    assert other.stdout == render(made, command="x").encode()


def test_the_policy_of_the_page_allows_its_own_style_alone(page: str) -> None:
    style = re.search("<style>(.*?)</style>", page, re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    policy = f"default-src &#39;none&#39;; style-src &#39;sha256-{digest}&#39;;"
    assert policy in page


def test_a_suppressed_count_is_named_small_only_where_it_can_be_nothing_else(
    results: dict[str, Any], page: str
) -> None:
    flow = {**results, "flow": dict(results["flow"]), "analyses": {}}
    flow["flow"] |= {"read": None, "excluded": {"not_in_cohort": None, "out_of_range": 0}}
    assert "<11 outside the cohort" in checked(render(flow, command=COMMAND)).visible
    flow["flow"] |= {"read": 1500, "excluded": {"not_in_cohort": None, "out_of_range": None}}
    both = checked(render(flow, command=COMMAND)).visible
    assert "<11" not in both and "suppressed outside the cohort" in both
    # level 1 of restecg has 179 rows, hidden since two rows lack it: it must not read as a small count
    assert re.search(r"Resting electrocardiogram</th><td><span class=\"absent\">suppressed", page)


def _without_figures(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_figures(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_without_figures(one) for one in value]
    return None if isinstance(value, (int, float)) else value


def test_a_study_that_shows_nothing_still_has_a_page(results: dict[str, Any]) -> None:
    bare = full(results)
    bare |= {key: _without_figures(bare[key]) for key in ("analyses", "flow", "rows")}
    read = checked(render(bare, command=COMMAND))
    assert "suppressed" in read.visible and "not shown" in read.visible
    checked(render({}, command=""))
    checked(render({"analyses": {"summary": {"state": "refused", "why": "too few"}}}, command=COMMAND))


def test_without_held_out_rows_the_page_says_that_it_is_too_favourable(results: dict[str, Any]) -> None:
    whole = copy.deepcopy(results)
    whole["manifest"]["split"] = None
    del whole["analyses"]["logistic"]["metrics"]["test"]
    read = checked(render(whole, command=COMMAND))
    assert "No rows were held out" in read.visible
    assert "that it was learned from (none were held out)" in read.visible


def _renamed(value: Any, names: dict[str, str]) -> Any:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(one, names) for key, one in value.items()}
    if isinstance(value, list):
        return [_renamed(one, names) for one in value]
    return names.get(value, value) if isinstance(value, str) else value


@pytest.mark.parametrize("text", HOSTILE)
def test_foreign_texts_stay_texts(results: dict[str, Any], text: str) -> None:
    made = full(results)
    for label in ("forest", "fedavg", "again"):  # which have no texts of their own
        del made["analyses"][label]
    made["title"] = text
    made["hospitals"] = [text, "b", text * 3]
    made["manifest"]["variables"]["age"] |= {"label": text, "unit": text}
    made["manifest"]["variables"]["chol"]["label"] = text * 40
    made["manifest"]["variables"]["cp"] |= {"label": text, "levels": [text, "2", "3", "4"]}
    made["manifest"]["cohort"]["where"] = text
    made["analyses"]["summary"]["variables"]["cp"]["levels"] = {text: 46, "2": None}
    made = _renamed(made, {"thalach": text, "hidden": text, "cleveland": text})
    comparison = _renamed(COMPARISON, {"cleveland alone": text})
    page = render(
        made, command=text, comparison=comparison, spread={"logistic": {text: {"auc": 0.8, "rows": 100}}}
    )
    read = checked(page)
    page.encode("utf-8")
    if text.isprintable():
        assert text in read.visible


def test_long_and_many_names_fit(results: dict[str, Any]) -> None:
    made, long = copy.deepcopy(results), "pneumonoultramicroscopicsilicovolcanoconiosis-and-more-besides-x"
    levels = [f"level {i}" for i in range(1000)]
    made["manifest"]["variables"]["icd"] = {"kind": "category", "levels": levels, "label": long}
    made["analyses"]["summary"]["variables"]["icd"] = {
        "kind": "category",
        "levels": {level: 20 + i % 7 for i, level in enumerate(levels)},
        "missing": 0,
    }
    one = {"value": 0.2, "se": 0.1, "p": 0.04, "low": 0.004, "high": 0.396}
    made["analyses"]["logistic"]["coefficients"] = {
        "intercept": one,
        **{f"icd=level {i}": {**one, "value": 0.2 + i / 1000} for i in range(1, 200)},
        "icd=level 0:age": {**one, "low": -800.0, "high": 800.0},
        "icd=never": {**dict.fromkeys(one), "aliased": True},
    }
    made["hospitals"] = [f"{i:04}" + "h" * 60 for i in range(40)]
    comparison = {"scores": {name: {"rows": 10, "auc": 0.5, "accuracy": 0.5} for name in made["hospitals"]}}
    page = render(made, command=COMMAND, comparison=comparison)
    read = checked(page)
    assert "970 more levels" in read.visible and "Shown are the 40 of 200" in read.visible
    assert "not estimated" in read.visible
    assert len(page) < 1_000_000


def test_the_study_on_the_page_is_the_study(results: dict[str, Any], page: str) -> None:
    folded = re.search(r"<pre tabindex=\"0\"><code>(.*?)</code>", page, re.DOTALL)
    assert folded is not None
    text = Page(f"<pre>{folded[1]}</pre>").visible
    assert parse_study(yaml.safe_load(text)).digest.hex() == results["study_sha256"]


def test_without_its_libraries_the_report_says_what_to_install(
    results: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.startswith("wardround_server.report.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "jinja2", None)
    with pytest.raises(WardroundError, match=r"pip install 'wardround\[report\]'"):
        render(results, command=COMMAND)


def test_importing_the_report_imports_no_drawing() -> None:
    code = "import sys, wardround_server.report; sys.exit(bool({'matplotlib', 'jinja2'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_the_process_as_it_was(results: dict[str, Any], page: str) -> None:
    import matplotlib as mpl

    with mpl.rc_context({"svg.fonttype": "path", "font.size": 40, "axes.grid": False}):
        before = mpl.rcParams.copy()
        assert render(results, command=COMMAND) == page
        assert mpl.rcParams.copy() == before


def drawing(results: Any) -> Drawing:
    return Drawing(results, "wardround simulate heart-disease", None, None)


def test_a_report_drawn_apart_has_the_same_bytes(results: dict[str, Any]) -> None:
    with drawing(results) as apart:
        assert apart.page() == render(results, command="wardround simulate heart-disease")


def test_files_of_the_folder_are_no_part_of_the_program_that_draws(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "jinja2.py").write_text("raise SystemExit('this file was run')\n")
    monkeypatch.chdir(tmp_path)
    with drawing(results) as apart:
        assert apart.page().startswith("<!DOCTYPE html>")


@pytest.mark.parametrize(
    ("library", "says"),
    [
        ("raise ImportError('none', name='jinja2')", r"pip install 'wardround\[report\]'"),
        ("raise RuntimeError('broken')", "it could not be drawn .*broken"),
    ],
)
def test_without_a_library_that_works_there_is_a_note_and_no_report(
    results: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str, says: str
) -> None:
    (tmp_path / "jinja2.py").write_text(f"{library}\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with drawing(results) as apart, pytest.raises(ReportMissing, match=says):
        apart.page()


def test_what_fails_meanwhile_ends_the_drawing_too(results: dict[str, Any]) -> None:
    with pytest.raises(OSError, match="disk full"), drawing(results) as apart:
        raise OSError("disk full")
    assert apart._process.returncode is not None
