"""Flower's server strategies, wherever they are installed.

A hospital that follows a study's program needs them as the coordinator does. They are found as the command's
groups are, by an entry point (`wardround.strategies`), since this room knows nothing of Flower.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import cast

from wardround_common.analysis import ServerStep, Strategies
from wardround_common.errors import StudyError


@cache
def _installed() -> Strategies:
    found = entry_points(group="wardround.strategies", name="flower")
    if not found:
        raise StudyError("Flower's strategies are not installed; install wardround anew")
    return cast("Strategies", next(iter(found)).load())


def installed(name: str, settings: Mapping[str, float]) -> ServerStep:
    """Return the step of one of Flower's strategies by its name."""
    return _installed()(name, settings)
