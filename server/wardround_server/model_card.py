"""The card that goes with an exported model: what it is, how well it does, for whom, and how to use it.

Its headings follow Mitchell et al. (2019), "Model Cards for Model Reporting", and its content TRIPOD+AI. All
figures are those of results.json, so what may be said is decided in ``publish.py`` alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from shlex import quote
from typing import Any

from wardround_common.analysis import ModelSpec
from wardround_common.design import Design
from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.models import Model
from wardround_common.study import Study
from wardround_common.trees import ForestModel

_KINDS = {
    "logistic": "a logistic regression",
    "linear": "a linear model",
    "network": "a multilayer perceptron",
    "forest": "a random forest",
}
_METRICS = {
    "n": "rows",
    "prevalence": "share with the outcome",
    "auc": "area under the ROC curve",
    "accuracy": "accuracy",
    "threshold": "threshold of accuracy, sensitivity and specificity",
    "sensitivity": "sensitivity",
    "specificity": "specificity",
    "brier": "Brier score (0 is perfect)",
    "rmse": "root mean squared error, in the outcome's unit",
    "mae": "mean absolute error, in the outcome's unit",
    "r2": "R squared",
    "calibration_intercept": "calibration intercept (0 is ideal)",
    "calibration_slope": "calibration slope (1 is ideal)",
}
_GROUP = ("n", "events", "auc", "brier", "observed", "predicted")
_UNSHOWN = "not shown"


def model_card(
    study: Study,
    results: Mapping[str, Any],
    spec: ModelSpec,
    model: Model,
    name: str,
    files: Sequence[str],
) -> str:
    """Return the card as Markdown; ``name`` and ``files`` (endings) are those of the files beside it."""
    found = results["analyses"][spec.label]
    parts = [
        f"# {_text(spec.label)}: a model of {_text(str(spec.outcome))}",
        _what(study, spec, model),
        "## Variables\n\n" + _variables(study, model),
        "## Training\n\n" + _training(study, results, spec, found),
        "## Missing values\n\n" + _missing(study, spec, model),
        "## Performance\n\n" + _performance(found["metrics"]),
        "## Intended use and limits\n\n" + _limits(study, spec),
        "## Use\n\n" + _use(model, name, files),
        "## Provenance\n\n" + _provenance(study, results, spec, model),
    ]
    return "\n\n".join(parts) + "\n"


def _what(study: Study, spec: ModelSpec, model: Model) -> str:
    outcome = str(spec.outcome)
    variable, kind = study.variables[outcome], _KINDS[model.kind]
    if isinstance(variable, CategoryVariable):
        target = f"the probability that {_named(study, outcome)} is `{_text(variable.levels[1])}`"
    else:
        unit = f", in {_text(variable.unit)}" if variable.unit else ""
        target = f"{_named(study, outcome)}{unit}"
    title = f" ({_text(study.title)})" if study.title else ""
    return f"This model, {kind}, predicts {target}. It was learned in the study `{study.name}`{title}."


def _variables(study: Study, model: Model) -> str:
    rows = []
    for name in model.variables:
        variable = study.variables[name]
        if isinstance(variable, NumberVariable):
            low, high = variable.range
            values, unit = f"{low:.15g} to {high:.15g}", variable.unit or ""
        else:
            values, unit = ", ".join(variable.levels), "category"
        missing = ", ".join(f"{c:.15g}" if isinstance(c, float) else c for c in variable.missing)
        rows.append((name, variable.label or "", unit, values, missing))
    return _table(("variable", "meaning", "unit", "values", "codes for missing"), rows)


def _training(study: Study, results: Mapping[str, Any], spec: ModelSpec, found: Mapping[str, Any]) -> str:
    hospitals = len(results["hospitals"]) - len(results["abstaining"].get(spec.label, []))
    cohort = f" Rows were those with `{_text(study.cohort.where)}`." if study.cohort.where else ""
    settings = spec.model_dump(
        mode="json", exclude={"kind", "name", "outcome", "predictors", "missing", "threshold", "subgroups"}
    )
    chosen = ", ".join(f"`{key}: {value}`" for key, value in settings.items() if value is not None)
    return (
        f"{found['n']} rows of {hospitals} hospitals.{cohort} Only sums over the hospitals were seen, so "
        f"there are no figures of a single one." + (f" Settings: {chosen}." if chosen else "")
    )


def _missing(study: Study, spec: ModelSpec, model: Model) -> str:
    gaps = (
        "An empty cell, a code for missing, and a value outside of the range above (or a text that is no "
        "level, in ONNX) count as missing."
    )
    if spec.missing == "drop":
        gaps += " Rows that lacked a variable had no part in the training."
    if isinstance(model, ForestModel):
        return f"{gaps} At each cut of a tree, missing values go the way that suited the training rows."
    filled = [
        (name, _fill(study, model.design, i))
        for i, name in enumerate(model.design.fill_names)
        if name in model.variables
    ]
    indicators = sorted(term.name for term in model.design.terms if term.name.endswith("=missing"))
    more = f" These terms tell that a value was missing: {_listing(indicators)}." if indicators else ""
    return (
        f"{gaps} A missing value is replaced with the mean, or the most frequent level, of the training "
        f"rows.{more}\n\n{_table(('variable', 'replaced with'), filled)}"
    )


def _fill(study: Study, design: Design, position: int) -> str:
    variable, value = study.variables[design.fill_names[position]], float(design.fill_values[position])
    return variable.levels[int(value)] if isinstance(variable, CategoryVariable) else f"{value:.4g}"


def _performance(metrics: Mapping[str, Any]) -> str:
    held_out = "test" in metrics
    shown = metrics["test" if held_out else "train"]
    which = (
        "On held-out rows, which had no part in the training."
        if held_out
        else "No rows were held out: these are figures on the training rows, and flatter the model."
    )
    if shown.get("state") == "refused":
        return f"{which} They are not published: {shown['why']}."
    rows = [(words, _figure(shown[key])) for key, words in _METRICS.items() if key in shown]
    parts = [which, _table(("figure", "value"), rows)]
    for variable, groups in shown.get("subgroups", {}).items():
        table = [(one["group"], *(_figure(one.get(key)) for key in _GROUP)) for one in groups]
        parts.append(f"By `{_text(variable)}`:")
        parts.append(
            _table(("group", "rows", "with the outcome", "AUC", "Brier", "observed", "predicted"), table)
        )
    return "\n\n".join(parts)


def _limits(study: Study, spec: ModelSpec) -> str:
    cohort = f" and meet `{_text(study.cohort.where)}`" if study.cohort.where else ""
    subgroups = (
        "Look at the subgroups above before it is used for one of them."
        if spec.subgroups
        else "How it does in subgroups was not examined."
    )
    return (
        f"For research on patients who are like those of the hospitals that took part{cohort}. It describes "
        "associations, not causes. It is no medical device: before it informs care it needs validation where "
        "it will be used, and recalibration if the calibration there is off. "
        f"{subgroups} Counts of fewer than {study.privacy.min_cell} rows are not shown."
    )


def _use(model: Model, name: str, files: Sequence[str]) -> str:
    method = "predict_proba(table)[:, 1]" if model.classifies else "predict(table)"
    command = f"wardround predict {quote(f'{name}.skops')} table.csv --out predicted.csv"
    python = (
        "from pathlib import Path\n\nfrom wardround_common.estimators import load_estimator\n\n"
        f'model = load_estimator(Path("{name}.skops").read_bytes())\nmodel.{method}'
    )
    lines = [
        f"A hospital's own table, by the rules that its node reads by:\n\n```\n{command}\n```",
        f"In Python, on a data frame with the variables above as columns:\n\n```python\n{python}\n```",
    ]
    if ".onnx" in files:
        lines.append(
            f"`{name}.onnx` gives the same within 1e-6 in any runtime that knows ai.onnx.ml 5, such as "
            "onnxruntime 1.20: an input of shape (rows, 1) for each variable, numbers as doubles with NaN "
            "where missing, categories as texts, empty where missing."
        )
    lines.append(f"`{name}.json` holds the model's numbers, to read.")
    return "\n\n".join(lines)


def _provenance(study: Study, results: Mapping[str, Any], spec: ModelSpec, model: Model) -> str:
    return _table(
        ("", ""),
        [
            ("study", study.name),
            ("study's SHA-256", results["study_sha256"]),
            ("analysis", spec.label),
            ("model's SHA-256", model.sha256),
            ("Wardround", results["wardround"]),
            ("licence", "none stated; whoever runs the study chooses one"),
        ],
    )


def _named(study: Study, name: str) -> str:
    label = study.variables[name].label
    return f"`{_text(name)}`" + (f" ({_text(label)})" if label else "")


def _figure(value: Any) -> str:
    if value is None:
        return _UNSHOWN
    return str(value) if isinstance(value, int) else f"{value:.3f}"


def _listing(names: Iterable[str]) -> str:
    return ", ".join(f"`{_text(name)}`" for name in names)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(_text(cell) for cell in line) + " |" for line in lines)


def _text(text: str) -> str:
    """Return a study's own words as one line in which Markdown and HTML mean nothing."""
    kept = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;").replace("`", "'")
    return "".join(f"\\{one}" if one in "|[]*" else one for one in kept)
