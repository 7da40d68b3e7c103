"""What becomes public: every figure of results.json passes here, by the rules of ``disclosure``.

Report, console, model cards and logs show what stands in results.json, and nothing else.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from wardround_common.analyses.evaluate import published_all
from wardround_common.analyses.flow import LABEL
from wardround_common.disclosure import Rules, disclosed
from wardround_common.models import Model
from wardround_common.plan import MODELS, Finding, Findings
from wardround_common.study import Study
from wardround_server.transcript import Transcript

_TOLD = ("flwr", "numpy", "scikit-learn")


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
            label: _analysis(rules, label, finding, seconds) for label, finding in findings.analyses.items()
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


def _analysis(rules: Rules, label: str, finding: Finding, seconds: Mapping[str, float]) -> dict[str, Any]:
    shown = {} if finding.result is None else finding.result.published(rules)
    if finding.evaluations:
        shown["metrics"] = published_all(rules, finding.evaluations)
    return {**shown, "rounds": finding.rounds, "seconds": round(seconds.get(label, 0.0), 3)}


def models(findings: Findings) -> dict[str, Model]:
    """Return the fitted models by analysis."""
    found = {label: getattr(one.result, "model", None) for label, one in findings.analyses.items()}
    return {label: model for label, model in found.items() if isinstance(model, MODELS)}


def to_json(value: Any) -> str:
    """Return readable JSON; floats keep all their digits."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
