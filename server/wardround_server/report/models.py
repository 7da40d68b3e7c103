"""One model's section: what it is, how well it does, what it holds, for whom, and what it leans on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from wardround_server.report import charts
from wardround_server.report.drawing import Sheets
from wardround_server.report.effects import coefficients, importance
from wardround_server.report.forms import (
    NOT_SHOWN,
    count,
    fixed,
    foreign,
    is_number,
    listing,
    many,
    percent,
    plain,
    significant,
)
from wardround_server.report.names import Names
from wardround_server.report.parts import Block, Cell, Fact, Found, Row, Table, row
from wardround_server.report.tables import ABSENT, below, notes
from wardround_server.report.words import METRICS, model

_SAID = {"kind", "name", "outcome", "predictors", "missing", "subgroups", "variables", "model"}


def is_model(found: Found) -> bool:
    """Return whether an analysis is told as a model: it was scored, or has coefficients or trees."""
    return any(key in found for key in ("metrics", "coefficients", "trees", "strategy"))


def is_importance(found: Found) -> bool:
    """Return whether an analysis is the importance of a model's variables."""
    return "model" in found and "repeats" in found


def main_part(found: Found) -> tuple[str, Found] | None:
    """Return the part whose figures count: held-out rows, or else training rows."""
    metrics = found.get("metrics") or {}
    for part in ("test", "train"):
        if (metrics.get(part) or {}).get("n") is not None:
            return part, metrics[part]
    return None


def outcome_of(names: Names, label: str, found: Found) -> str | None:
    """Return the outcome that an analysis is about; an evaluation's is its model's."""
    spec = names.spec(label)
    if "model" in spec and not spec.get("outcome"):
        spec = names.spec(str(spec["model"]))
    outcome = spec.get("outcome") or found.get("outcome") or names.manifest.get("outcome")
    return None if outcome is None else str(outcome)


def finding(names: Names, label: str, found: Found) -> str:
    """Return in a sentence or two how well a model did; empty where nothing can be said."""
    scored = main_part(found)
    if scored is None:
        return ""
    part, one = scored
    held = "held out from learning" if part == "test" else "that it was learned from (none were held out)"
    rows = f"On {names.people(one['n'])} {held}, "
    if is_number(one.get("auc")):
        spread = auc_interval(one)
        told = f" (95 % interval {fixed(spread[0], 2)} to {fixed(spread[1], 2)})" if spread else ""
        text = (
            f"{rows}its AUC was {fixed(one['auc'])}{told}: of 100 pairs, one with the outcome and one "
            f"without, it gave the higher risk to the one with it in about {100 * one['auc']:.0f}."
        )
        if is_number(one.get("calibration_slope")):
            text += f" Its calibration slope was {fixed(one['calibration_slope'], 2)} (1 is ideal)."
        return text
    if is_number(one.get("r2")):
        unit = names.unit(outcome_of(names, label, found) or "")
        text = f"{rows}it explained {percent(one['r2'])} of the outcome's variance"
        if is_number(one.get("rmse")):
            text += f", with a typical error of {significant(one['rmse'])} {unit}".rstrip()
        return f"{text}."
    if is_number(one.get("accuracy")):
        return f"{rows}it was right in {percent(one['accuracy'])}; an AUC cannot be shown."
    return ""


def score(names: Names, label: str, found: Found) -> str:
    """Return a model's main figure alone, for a list of several."""
    _, one = main_part(found) or ("", {})
    for key, name in (("auc", "AUC"), ("r2", "R²")):
        if is_number(one.get(key)):
            return f"{names.analysis(label)} {name} {fixed(one[key])}"
    return ""


def auc_interval(one: Found) -> tuple[float, float] | None:
    """Return a 95 % interval of the AUC, from it and the counts alone (Hanley and McNeil 1982)."""
    auc, n, share = one.get("auc"), one.get("n"), one.get("prevalence")
    if not (is_number(auc) and is_number(n) and is_number(share)):
        return None
    positive, negative = n * share, n * (1 - share)
    if min(positive, negative) < 1:
        return None
    one_two, two_one = auc / (2 - auc), 2 * auc * auc / (1 + auc)
    variance = auc * (1 - auc) + (positive - 1) * (one_two - auc**2) + (negative - 1) * (two_one - auc**2)
    half = charts.Z95 * math.sqrt(max(variance, 0.0) / (positive * negative))
    return max(auc - half, 0.0), min(auc + half, 1.0)


def blocks(
    sheets: Sheets, names: Names, label: str, found: Found, others: Mapping[str, Found]
) -> list[Block]:
    """Return the parts of a model's section. ``others``: importances of this model, by label."""
    outcome = outcome_of(names, label, found)
    made = [_about(names, label, found, outcome)]
    metrics = {part: one for part, one in (found.get("metrics") or {}).items() if one}
    if metrics:
        pictures = charts.of_parts(sheets, metrics, names.event(outcome))
        made.append(Block("Performance", pictures=tuple(pictures), tables=(_metrics(names, metrics),)))
    if found.get("coefficients"):
        made.append(coefficients(sheets, names, label, found["coefficients"], outcome))
    scored = {part: metrics[part]["subgroups"] for part in _parts(metrics) if metrics[part].get("subgroups")}
    if scored:
        made.append(_subgroups(names, scored))
    made += [importance(sheets, names, one, other) for one, other in others.items()]
    return made


def _about(names: Names, label: str, found: Found, outcome: str | None) -> Block:
    spec, kind = names.spec(label), names.kind(label, found)
    texts = [model(kind)]
    if found.get("state") == "refused":
        texts.append(f"Refused: {found.get('why', 'no reason is given')}.")
    if found.get("strategy"):
        texts.append(_trained(found))
    if said := finding(names, label, found):
        texts.append(said)
    facts = []
    if spec.get("model"):
        facts.append(Fact("Evaluates", names.analysis(str(spec["model"]))))
    if outcome:
        facts.append(Fact("Predicts", names.event(outcome)))
    predictors = spec.get("predictors") or ()
    if predictors:
        told = listing([names.predictor(str(term)) for term in predictors], 40)
        facts.append(Fact("Predictors", f"{len(predictors)}: {told}"))
    if "n" in found:
        facts.append(Fact("Learned from", f"{count(found['n'])} training rows"))
    if found.get("n_missing") != 0 and "n_missing" in found:
        facts.append(Fact("Incomplete rows left out", count(found["n_missing"], below(names))))
    shape = [
        many(found[key], word) for key, word in (("trees", "tree"), ("leaves", "leaf")) if found.get(key)
    ]
    if found.get("depth"):
        shape.append(f"{count(found['depth'])} levels deep at most")
    if is_number(found.get("leaf")):
        shape.append(f"{count(found['leaf'])} rows or more in a leaf")
    if is_number(found.get("features")):
        shape.append(f"{many(found['features'], 'variable')} tried at a split")
    if shape:
        facts.append(Fact("Size", ", ".join(shape).replace("leafs", "leaves")))
    settings = [
        f"{foreign(str(key))} {plain(value) if is_number(value) else foreign(str(value))}"
        for key, value in spec.items()
        if key not in _SAID
        and key not in found
        and isinstance(value, (int, float, str))
        and not isinstance(value, bool)
    ]
    if settings:
        facts.append(Fact("Settings", ", ".join(settings)))
    if found.get("rounds"):
        facts.append(Fact("Rounds of questions", count(found["rounds"])))
    return Block("", tuple(texts), tuple(facts))


def _trained(found: Found) -> str:
    text = f"{foreign(str(found['strategy']))} over {many(found.get('rounds_trained'), 'round')}"
    if found.get("estimator"):
        text = f"{foreign(str(found['estimator']))} by {text}"
    norms = [one.get("update_norm") for one in found.get("history") or ()]
    known = [one for one in norms if is_number(one)]
    if len(known) > 1:
        text += (
            f"; the size of the average change went from {significant(known[0])} to {significant(known[-1])}"
        )
    if is_number(found.get("clipped")):
        clipped = found["clipped"]
        text += f"; {many(clipped, 'update')} clipped to the bound" if clipped else "; no update was clipped"
    return f"{text}."


def _rows(part: str) -> str:
    return charts.NAMES.get(part, foreign(part))


def _parts(metrics: Mapping[str, Found]) -> list[str]:
    """Return the parts of the rows, held-out ones first."""
    return sorted(metrics, key=lambda part: {"test": 0, "train": 1}.get(part, 2))


def _metrics(names: Names, metrics: Mapping[str, Found]) -> Table:
    parts = _parts(metrics)
    keys = [key for key in METRICS if any(key in metrics[part] for part in parts)]
    for part in parts:  # figures that are newer than this page still get a line
        keys += [key for key, one in metrics[part].items() if key not in keys and is_number(one)]
    rows = []
    for key in keys:
        name, says = METRICS.get(key, (foreign(key.replace("_", " ")), ""))
        cells = []
        for part in parts:
            one = metrics[part]
            if one.get("state") == "refused":
                cells.append("refused" if key == "n" else NOT_SHOWN)
            elif key in ("rmse", "mae"):
                cells.append(significant(one.get(key)))
            elif key == "prevalence":
                cells.append(percent(one.get(key), 1))
            else:
                cells.append(
                    count(one.get(key)) if key == "n" else fixed(one.get(key), 2 if key == "threshold" else 3)
                )
        rows.append(row(Cell(name, says), *cells, absent=ABSENT))
    told = [
        f"refused ({_rows(part).lower()}): {foreign(str(metrics[part].get('why', 'no reason is given')))}."
        for part in parts
        if metrics[part].get("state") == "refused"
    ]
    made = tuple(rows)
    head = ("Figure", *(_rows(part).replace("-", "\N{NON-BREAKING HYPHEN}") for part in parts))
    return Table("How well it predicts", head, made, (*told, *notes(names, made)))


def _subgroups(names: Names, found: Mapping[str, Mapping[str, Sequence[Found]]]) -> Block:
    """Return the subgroups' figures by part of the rows; all but the first part are folded."""
    text = (
        "The same figures within groups of patients. Where observed and predicted shares differ, risks are "
        "misjudged in that group; small groups vary by chance."
    )
    tables = (_groups(names, part, one, i > 0) for i, (part, one) in enumerate(found.items()))
    return Block("Subgroups", (text,), tables=tuple(tables))


def _groups(names: Names, part: str, found: Mapping[str, Sequence[Found]], folded: bool) -> Table:
    keys = {"auc": "AUC", "brier": "Brier", "observed": "Observed", "predicted": "Predicted"}
    keys |= {"sensitivity": "Sensitivity", "specificity": "Specificity"}
    rows: list[Row] = []
    whys = []
    for variable, groups in found.items():
        rows.append(row(names.with_unit(variable), *[""] * (len(keys) + 2), kind="group"))
        for one in groups:
            if one.get("state") == "refused":
                cells = [count(one["n"]) if "n" in one else "", "refused", *[""] * len(keys)]
                whys.append(f"refused: {foreign(str(one.get('why') or 'no reason is given'))}.")
            else:
                cells = [count(one.get("n")), count(one.get("events"))]
                shares = ("observed", "predicted")
                cells += [percent(one.get(k), 1) if k in shares else fixed(one.get(k)) for k in keys]
            rows.append(row(foreign(str(one.get("group"))), *cells, kind="sub", absent=ABSENT))
    made = tuple(rows)
    caption = f"By subgroup, {_rows(part).lower()}"
    told = (*dict.fromkeys(whys), *notes(names, made))
    return Table(caption, ("Group", "Rows", "With outcome", *keys.values()), made, told, folded)
