"""The studies that come with Wardround, each with its hospitals' tables."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from wardround_common.errors import StudyError, did_you_mean, listed

_DEMO = Path(str(files("wardround_server") / "demo"))
HOSPITALS = ("cleveland", "hungary", "switzerland", "va")
STUDIES = {"heart-disease": "data", "flamby-heart": "flamby", "classic": "flamby"}


def shipped(study: str) -> Path:
    """Return the file of a shipped study, one of STUDIES."""
    return _DEMO / f"{study}.yaml"


def shipped_tables(study: str) -> dict[str, Path]:
    """Return the tables of a shipped study, one of STUDIES, by hospital."""
    return {name: _DEMO / STUDIES[study] / f"{name}.csv" for name in HOSPITALS}


def study_file(study: str) -> Path:
    """Return the path of a study file, or of a shipped study by its name. StudyError if it is neither."""
    path = Path(study)
    if study in STUDIES and not path.is_file():
        return shipped(study)
    if not path.exists() and not path.suffix:
        raise StudyError(
            f"{study}: neither a file nor a shipped study{did_you_mean(study, STUDIES)}; "
            f"shipped are {listed(STUDIES)}"
        )
    return path


def tables(study: str) -> dict[str, Path]:
    """Return a shipped study's tables by hospital; empty for a study of the user's own."""
    return shipped_tables(study) if study in STUDIES and not Path(study).is_file() else {}
