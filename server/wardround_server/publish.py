"""What becomes public: every figure of results.json passes here, by the rules of ``disclosure``.

Report, console, model cards and logs show what stands in results.json, and nothing else.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any, cast

from wardround_common.analyses.evaluate import Evaluation, published_all
from wardround_common.analyses.flow import LABEL
from wardround_common.analyses.summary import CategorySummary, Summary
from wardround_common.analysis import ModelResult, ModelSpec, OnModelSpec
from wardround_common.disclosure import Figures, KeptBack, RowsOf, Rules, disclosed, kept_back
from wardround_common.models import Model
from wardround_common.plan import MODELS, Finding, Findings
from wardround_common.study import Study
from wardround_server.transcript import Transcript

_TOLD = ("flwr", "numpy", "scikit-learn")
_ALL = "all"  # training and held-out rows together


def publish(
    study: Study,
    hospitals: Sequence[str],
    findings: Findings,
    seconds: Mapping[str, float],
    abstaining: Mapping[str, Sequence[str]] | None = None,
    left_out: Mapping[str, Sequence[str]] | None = None,
) -> dict[str, Any]:
    """Return results.json as an object: all that the study may tell, with its defaults and version.

    ``abstaining``: by analysis, the hospitals that had fewer than ``min_rows`` usable rows for it;
    ``left_out``: those that were in the study and no longer when it was computed.
    """
    rules = Rules(study.privacy.min_cell, study.privacy.round_to)
    kept = _kept_back(study, findings, rules)
    results = {
        "study": study.name,
        "title": study.title,
        "wardround": version("wardround"),
        "versions": {"python": platform.python_version(), **{name: version(name) for name in _TOLD}},
        "study_sha256": study.digest.hex(),
        "rows": findings.flow.rows,
        "hospitals": list(hospitals),
        "abstaining": {label: list(names) for label, names in (abstaining or {}).items()},
        "left_out": {label: list(names) for label, names in (left_out or {}).items()},
        "flow": findings.flow.published(rules),
        "analyses": {
            label: _analysis(rules, label, finding, seconds, kept)
            for label, finding in findings.analyses.items()
        },
        "manifest": json.loads(study.manifest()),
    }
    return disclosed(results, rules)


def published(
    study: Study, transcript: Transcript, findings: Findings, seconds: Mapping[str, float]
) -> dict[str, Any]:
    """Return the results of a study that ``transcript`` recorded to its end."""
    epochs, opening = {one.epoch.number: one.epoch for one in transcript.epochs}, transcript.opening
    begun, computed = transcript.epochs[0].epoch, {LABEL: transcript.epochs[-1].epoch}
    for step in transcript.steps:
        computed.update({one.analysis: epochs[step.epoch] for one in step.sums})
    left_out = {
        label: names
        for label, epoch in computed.items()
        if (names := tuple(name for name in begun.hospitals if name not in epoch.hospitals))
    }
    everyone = () if opening is None else opening.roster.names
    abstaining = {
        label: names
        for label, epoch in computed.items()
        if (
            names := tuple(
                name
                for name in everyone
                if name not in epoch.of(label) and name not in left_out.get(label, ())
            )
        )
    }
    stated: dict[str, dict[str, Any]] = {}
    for one in transcript.statements or ():
        told = one.statement
        stated.setdefault(told.analysis, {})[one.hospital] = {"auc": told.auc, "rows": told.rows}
    hospitals = transcript.epochs[-1].epoch.hospitals
    return {**publish(study, hospitals, findings, seconds, abstaining, left_out), "statements": stated}


@dataclass(frozen=True)
class _Kept:
    """What is kept back since figures of other analyses would tell the rest.

    Metrics by analysis and part; the ``outcomes`` whose levels no summary shows.
    """

    metrics: Mapping[str, Mapping[str, KeptBack]]
    outcomes: frozenset[str]


def _kept_back(study: Study, findings: Findings, rules: Rules) -> _Kept:
    """Hold all metrics against each other, then a summary's levels of an outcome against what they tell.

    A summary is over all rows, so it is held against a model's parts together.
    """
    figures: dict[tuple[str, str], Figures] = {}
    specs = {spec.label: spec for spec in study.analyses}
    for label, finding in findings.analyses.items():
        spec = specs[label]
        base = specs[spec.model] if isinstance(spec, OnModelSpec) else spec
        found = [one for one in finding.evaluations if isinstance(one, Evaluation)]
        if not found or not isinstance(base, ModelSpec):
            continue
        model = cast("ModelResult", findings.analyses[base.label].result).model.sha256
        for one in found:
            rows = RowsOf(one.part, str(base.outcome), frozenset(base.needed()))
            figures[label, one.part] = one.figures(rules, rows, model)
    metrics: dict[str, dict[str, KeptBack]] = {}
    for (label, part), its in zip(figures, kept_back(list(figures.values()), rules.min_cell), strict=True):
        metrics.setdefault(label, {})[part] = its
    whole = [
        _together([figures[label, part] for part in parts])
        for label, parts in metrics.items()
        if not isinstance(specs[label], OnModelSpec) and not any(one.outcomes for one in parts.values())
    ]
    levels = [*_levels(findings)]
    shown = kept_back([*whole, *levels], rules.min_cell)[len(whole) :]
    outcomes = {one.rows.outcome for one, its in zip(levels, shown, strict=True) if its.outcomes}
    return _Kept(metrics, frozenset(outcomes))


def _together(parts: Sequence[Figures]) -> Figures:
    few, many = map(sum, zip(*(one.outcomes for one in parts), strict=True))
    return Figures(parts[0].rows._replace(part=_ALL), outcomes=(few, many))


def _levels(findings: Findings) -> Iterator[Figures]:
    for finding in findings.analyses.values():
        if isinstance(finding.result, Summary):
            for name, one in finding.result.variables.items():
                if isinstance(one, CategorySummary) and len(one.levels) == 2:
                    few, many = one.levels.values()
                    yield Figures(RowsOf(_ALL, name, frozenset({name})), outcomes=(few, many))


def _analysis(
    rules: Rules, label: str, finding: Finding, seconds: Mapping[str, float], kept: _Kept
) -> dict[str, Any]:
    result = finding.result
    if isinstance(result, Summary):
        shown = result.published(rules, kept.outcomes)
    else:
        shown = {} if result is None else result.published(rules)
    if finding.evaluations:
        shown["metrics"] = published_all(rules, finding.evaluations, kept.metrics.get(label))
    return {**shown, "rounds": finding.rounds, "seconds": round(seconds.get(label, 0.0), 3)}


def models(findings: Findings) -> dict[str, Model]:
    """Return the fitted models by analysis."""
    found = {label: getattr(one.result, "model", None) for label, one in findings.analyses.items()}
    return {label: model for label, model in found.items() if isinstance(model, MODELS)}


def to_json(value: Any) -> str:
    """Return readable JSON; floats keep all their digits."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
