"""What every analysis is: a spec for the study file, queries, a program, and a result that can be published.

An analysis lives in one file of ``analyses/`` and is entered in that package's catalogue. It knows
neither Flower nor files; it sees a ``Plan`` and asks sum queries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from wardround_common.cohort import Block, Cohort
from wardround_common.dictionary import Dictionary
from wardround_common.program import Program
from wardround_common.query import Query

Missing = Literal["impute", "drop"]
Part = Literal["all", "train", "test"]


class Strict(BaseModel):
    """Base of everything in a study file: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AnalysisSpec(Strict):
    """One entry of ``analyses``. Subclasses add their hyperparameters."""

    kind: str
    name: str | None = None

    @property
    def label(self) -> str:
        """The name under which the results stand."""
        return self.name or self.kind

    def needed(self) -> tuple[str, ...]:
        """Return the variables without which a row is of no use to this analysis."""
        return ()

    def required(self) -> tuple[str, ...]:
        """Return the variables that must be observed at ``min_hospitals`` hospitals for it to start."""
        return ()

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError("key: what is wrong") where the variables don't suit this kind."""


class ModelSpec(AnalysisSpec):
    """An analysis that fits a model of one outcome; what is None is taken from the study.

    ``threshold``: where its evaluation calls a row positive.
    """

    outcome: str | None = None
    predictors: tuple[str, ...] | None = None
    missing: Missing | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5

    def needed(self) -> tuple[str, ...]:
        """The outcome; with `missing: drop` the predictors too."""
        return self.required() if self.missing == "drop" else (str(self.outcome),)

    def required(self) -> tuple[str, ...]:
        """Outcome and predictors."""
        names = [name for term in self.predictors or () for name in term.split(":")]
        return tuple(dict.fromkeys([str(self.outcome), *names]))


class SmallCells(Protocol):
    """The rules of publication; the coordinator holds them (``publish.py``)."""

    @property
    def min_cell(self) -> int:
        """The least count that may be shown."""

    def count(self, count: int) -> int | None:
        """Return the count, or None where 0 < count < min_cell."""

    def counts(self, counts: Sequence[int], hospitals: Sequence[int] | None = None) -> list[int | None]:
        """Return the counts of a row whose total is known, small ones as None.

        A count above 0 needs two contributing ``hospitals`` as well. Where one count alone would be
        None, the total gives it away, so the next smallest goes too.
        """


@dataclass(frozen=True)
class Usable:
    """How many rows an analysis may use, from step 0's exact counts over all hospitals."""

    train: int
    test: int
    dropped: int  # training rows without a needed variable


@dataclass(frozen=True)
class Plan:
    """What a program may depend on besides the sums: the study's constants and the sealed counts."""

    label: str
    dictionary: Dictionary
    min_hospitals: int
    min_cell: int
    usable: Usable


class Result(Protocol):
    """What a program returns: figures over all hospitals, not yet fit to be published."""

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the JSON object of results.json, small cells suppressed."""


@dataclass(frozen=True)
class Analysis:
    """The catalogue's entry."""

    kind: str
    spec: type[AnalysisSpec]
    queries: tuple[type[Query[Any]], ...]
    program: Callable[[Plan, Any], Program[Any]] | None  # None: it stands on another analysis's result
    is_model: bool = False


@dataclass(frozen=True)
class Rows:
    """Which rows a query is about: those of one part of the split with a value in every needed variable."""

    part: Part
    needed: tuple[str, ...]

    def of(self, cohort: Cohort) -> Iterator[Block]:
        """Yield the cohort's rows of this kind, block by block."""
        return cohort.blocks(cohort.usable(self.part, self.needed))
