"""Hands over a finished study's models: as JSON to read, an estimator to use, its card, and as ONNX.

Nothing is written but what the study publishes: the models, and figures of results.json.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from wardround_common.analysis import ModelSpec
from wardround_common.files import write_file
from wardround_common.models import Model
from wardround_common.plan import Findings
from wardround_common.study import Study
from wardround_server.model_card import model_card
from wardround_server.publish import models, to_json


def export_models(study: Study, results: Mapping[str, Any], findings: Findings, folder: Path) -> None:
    """Write ``model/NAME`` .json, .skops and .md for each model, and .onnx if the extra is installed.

    WardroundError if the disk is full.
    """
    specs = {spec.label: spec for spec in study.analyses}
    for label, model in models(findings).items():
        spec = cast("ModelSpec", specs[label])
        place = folder / "model" / label
        files = {".json": to_json(model.described()).encode(), ".skops": _estimator(study, spec, model)}
        if find_spec("onnx") is not None:
            files[".onnx"] = _onnx(study, spec, model)
        files[".md"] = model_card(study, results, spec, model, place.name, tuple(files)).encode()
        for suffix, content in files.items():
            write_file(place.with_name(f"{place.name}{suffix}"), content)


def _estimator(study: Study, spec: ModelSpec, model: Model) -> bytes:
    # scikit-learn and skops take a second to import, and a study may have no model
    from wardround_common.estimators import dump_estimator, estimator_of

    return dump_estimator(estimator_of(spec, model, study.dictionary, study.privacy.min_cell))


def _onnx(study: Study, spec: ModelSpec, model: Model) -> bytes:
    from wardround_server.onnx_export.model import onnx_model

    metadata = {
        "study": study.name,
        "study_sha256": study.digest.hex(),
        "analysis": spec.label,
        "wardround": version("wardround"),
    }
    return onnx_model(model, study.dictionary, str(spec.outcome), metadata)
