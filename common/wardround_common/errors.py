"""Every error that Wardround raises on purpose.

    WardroundError                 something a person can act on; shown as one line, exit code 2
    ├── StudyError                 the study file, or what it asks of the data, cannot work
    ├── DataError                  a hospital's table does not fit the dictionary
    ├── FitError                   the data admit no such estimate (separated, collinear ...)
    ├── Refused                    a hospital, its policy or its gate says no; carries a code without data
    ├── ProtocolError              a message that no honest peer sends (bad signature, bytes, order)
    ├── LinkError                  the other side can't be reached, or won't talk to us
    ├── EnrolmentRefused           the coordinator does not admit a hospital (in `enrolment`)
    ├── Denied                     a user of the coordinator may not do this (in `access`)
    └── ReplayDiverged             a transcript does not belong to this program

A message says what was wrong, where, and what to do. It never holds a patient's value: counts, names of
columns, files and keys only.
"""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


class WardroundError(Exception):
    """Base of all errors that are shown to a person as one line."""


class StudyError(WardroundError):
    """The study file is wrong, or the federation cannot answer it under its own rules."""


class DataError(WardroundError):
    """A table does not hold what the study's dictionary promises."""


class FitError(WardroundError):
    """The data do not determine the estimate that was asked for."""


class Refused(WardroundError):
    """A hospital declines to answer.

    ``code`` is all that leaves the hospital: a fixed word that depends on no row.
    """

    def __init__(self, code: str, message: str = "") -> None:
        super().__init__(message or code)
        self.code = code


class ProtocolError(WardroundError):
    """A message is malformed, unsigned, out of order or out of bounds."""


class LinkError(WardroundError):
    """A hospital and its coordinator can't talk: network, certificate, clock, version or admission."""


class ReplayDiverged(WardroundError):
    """The program asks something else than the transcript recorded at ``step``."""

    def __init__(self, step: int, detail: str) -> None:
        super().__init__(f"the transcript and the program part at step {step}: {detail}")
        self.step = step


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return `` (did you mean X?)`` for the nearest known word, or nothing."""
    spelled = {name.casefold(): name for name in known}
    near = get_close_matches(word.casefold(), spelled, n=1, cutoff=0.6)
    return f" (did you mean `{spelled[near[0]]}`?)" if near else ""


def listed(names: Iterable[str], most: int = 6) -> str:
    """Join names for a message, the first few of them, with a count of the rest."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"
