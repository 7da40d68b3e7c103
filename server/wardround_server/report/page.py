"""Puts the page together: results in, HTML out. Reading and drawing happen in the neighbouring files."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from wardround_server.report import models, words
from wardround_server.report.drawing import Sheets, drawing
from wardround_server.report.effects import importance
from wardround_server.report.forms import cleaned, count, foreign, is_number, listing, significant
from wardround_server.report.names import SHORT, Names
from wardround_server.report.parts import Block, Fact, Table
from wardround_server.report.sources import compared, spread_over
from wardround_server.report.tables import abstaining, flow, table_one, values

_ONE = (
    "no",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
)


@dataclass(frozen=True)
class Section:
    """A section of the page, with the name by which the table of contents finds it."""

    anchor: str
    title: str
    blocks: tuple[Block, ...]


def page(
    results: Mapping[str, Any],
    command: str,
    comparison: Mapping[str, Any] | None,
    spread: Mapping[str, Any] | None,
) -> str:
    """Return the report; see ``wardround_server.report.render``."""
    manifest = _study_file(results.get("manifest") or {})
    results, command = cleaned(results), cleaned(command)
    comparison, spread = cleaned(comparison), cleaned(spread)
    names, sheets = Names(results), Sheets()
    environment = Environment(
        loader=PackageLoader("wardround_server.report", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_said,
    )
    style = environment.get_template("style.css.j2").render().strip()
    digest = base64.b64encode(hashlib.sha256(f"\n{style}\n".encode()).digest()).decode()
    with drawing():
        stated = spread_over(sheets, names, spread)
        text = environment.get_template("report.html.j2").render(
            style=Markup(style),  # noqa: S704 (ours)
            policy=f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'",
            title=foreign(str(results.get("title") or results.get("study") or "Study")),
            study=foreign(str(results.get("study", ""))),
            summary=_summary(results, names, comparison),
            flow=flow(results, names),
            abstaining=abstaining(results, names),
            values=values(results, names),
            tables=_tables(results, names),
            sections=_sections(results, names, sheets),
            comparison=compared(sheets, comparison),
            spread=stated,
            no_own_figures=words.no_own_figures(names, bool(comparison)),
            protected=words.protected(names, command, bool(stated)),
            not_protected=words.not_protected(names),
            limits=_limits(results, names),
            versions=_versions(results),
            digests=_digests(results, names),
            manifest=manifest,
            command=command,
        )
    return text.rstrip() + "\n"


def _said(value: Any) -> Any:
    """Return what a template prints; half characters cannot be written to a file."""
    if value is None:
        return "not given"
    return value if isinstance(value, Markup) else str(value).encode("utf-8", "replace").decode()


def _study_file(manifest: Mapping[str, Any]) -> str:
    """Return the study as a study file. Keys without a value are left out, which means the same."""

    def given(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {str(key): given(one) for key, one in value.items() if one is not None}
        return [given(one) for one in value] if isinstance(value, (list, tuple)) else value

    text: str = yaml.safe_dump(given(manifest), allow_unicode=True, sort_keys=False, width=100)
    return text if manifest else ""


def _analyses(results: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    return {label: found for label, found in (results.get("analyses") or {}).items() if found}


def _summary(results: Mapping[str, Any], names: Names, comparison: Mapping[str, Any] | None) -> str:
    hospitals = [foreign(str(one)) for one in results.get("hospitals") or ()]
    number = _ONE[len(hospitals)] if len(hospitals) < len(_ONE) else count(len(hospitals))
    who = f"{number.capitalize()} hospital{'' if len(hospitals) == 1 else 's'} ({listing(hospitals)})"
    rows = results.get("rows")
    text = f"{who} answered this study together{f', with {names.people(rows)}' if is_number(rows) else ''}."
    fitted = [label for label, found in _analyses(results).items() if models.is_model(found)]
    fitted = [label for label in fitted if "model" not in names.spec(label)] or fitted
    outcomes = [models.outcome_of(names, label, _analyses(results)[label]) for label in fitted]
    told = list(dict.fromkeys(f"“{names.event(one, SHORT)}”" for one in outcomes if one))
    if told:
        predictors = (names.spec(fitted[0]).get("predictors") or ()) if fitted else ()
        listed = f" from {listing([names.short(str(one)) for one in predictors], 6)}" if predictors else ""
        text += f" The question: how well can {listing(told)} be predicted{listed if len(told) == 1 else ''}?"
    else:
        text += " They were asked to describe these together."
    for label in fitted[:1]:
        if said := models.finding(names, label, _analyses(results)[label]):
            text += f" {names.analysis(label)}: {said[0].lower()}{said[1:]}"
    scores = [models.score(names, label, _analyses(results)[label]) for label in fitted[1:]]
    if known := [one for one in scores if one]:
        text += f" The other models: {listing(known)}."
    furthest = (comparison or {}).get("furthest_coefficient")
    if is_number(furthest):
        text += (
            " The federated coefficients differ from those of one table that holds all rows by "
            f"{significant(furthest, 2)} at most."
        )
    return text


def _tables(results: Mapping[str, Any], names: Names) -> list[Table]:
    return [
        table_one(label, found, names)
        for label, found in _analyses(results).items()
        if "variables" in found and not models.is_importance(found)
    ]


def _sections(results: Mapping[str, Any], names: Names, sheets: Sheets) -> list[Section]:
    analyses = _analyses(results)
    fitted = {label for label, found in analyses.items() if models.is_model(found)}
    sections: list[Section] = []
    for label, found in analyses.items():
        title, made = names.analysis(label), []
        if label in fitted:
            own = {
                other: one
                for other, one in analyses.items()
                if models.is_importance(one) and one.get("model") == label
            }
            made = models.blocks(sheets, names, label, found, own)
        elif models.is_importance(found) and found.get("model") not in fitted:
            made = [importance(sheets, names, label, found)]
        elif "variables" not in found:
            made = [_other(names, label, found)]
        if made:
            sections.append(Section(f"model-{len(sections) + 1}", title, tuple(made)))
    return sections


def _other(names: Names, label: str, found: Mapping[str, Any]) -> Block:
    """Return what can be said of an analysis that this page does not know: its plain figures."""
    why = f" Refused: {foreign(str(found.get('why')))}." if found.get("state") == "refused" else ""
    known = [(key, one) for key, one in found.items() if is_number(one) and key not in ("rounds", "seconds")]
    facts = tuple(Fact(foreign(key.replace("_", " ")), significant(one, 6)) for key, one in known)
    return Block("", (f"{words.model(names.kind(label, found))}{why}",), facts)


def _limits(results: Mapping[str, Any], names: Names) -> list[str]:
    analyses = _analyses(results)
    scored = [metrics for found in analyses.values() for metrics in (found.get("metrics") or {}).items()]
    parts = {part for part, one in scored if one and one.get("n") is not None}
    subgroups = any((one or {}).get("subgroups") for _, one in scored)
    return words.limits(names, parts, subgroups, analyses)


def _versions(results: Mapping[str, Any]) -> list[Fact]:
    called = {"python": "Python", "flwr": "Flower", "numpy": "NumPy"}
    told = {"Wardround": results.get("wardround", "not given"), **results.get("versions", {})}
    return [Fact(called.get(name, name), str(version)) for name, version in told.items()]


def _digests(results: Mapping[str, Any], names: Names) -> list[Fact]:
    facts = []
    if results.get("study_sha256"):
        facts.append(Fact("Study", str(results["study_sha256"])))
    for label, found in _analyses(results).items():
        if found.get("model_sha256"):
            facts.append(Fact(f"Model: {names.analysis(label)}", str(found["model_sha256"])))
    return facts
