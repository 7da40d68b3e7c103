"""What every analysis is: a spec for the study file, queries, a program, and a result that can be published.

An analysis lives in one file of ``analyses/`` and is entered in that package's catalogue. It knows
neither Flower nor files; it sees a ``Plan`` and asks sum queries.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Annotated, Any, Literal, Protocol, Self, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from wardround_common.cohort import Block, Cohort
from wardround_common.dictionary import CategoryVariable, Dictionary
from wardround_common.disclosure import check_freedom
from wardround_common.errors import FitError, StudyError, did_you_mean, listed
from wardround_common.models import Model
from wardround_common.program import Program
from wardround_common.query import Query
from wardround_common.typing import Floats

Missing = Literal["impute", "drop"]
Part = Literal["all", "train", "test"]
OnChange = Literal["continue", "restart", "fail"]
DEFAULT_THRESHOLD = 0.5


def _on_a_cell(value: float) -> float:
    if abs(value * 10_000 - round(value * 10_000)) > 1e-6:
        raise ValueError("four decimals at most, since risks are counted in cells of 0.0001")
    return value


def _file_name(value: str) -> str:
    if not re.fullmatch(r"[^\W_][\w .-]{0,63}", value) or value != value.strip(" ."):
        raise ValueError("1 to 64 letters, digits, spaces, `_`, `.` or `-`; it names files of results too")
    return value


Threshold = Annotated[float, Field(gt=0, lt=1), AfterValidator(_on_a_cell)]


class Strict(BaseModel):
    """Base of everything in a study file: unknown keys are errors, values don't change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class AnalysisSpec(Strict):
    """One entry of ``analyses``. Subclasses add their hyperparameters.

    ``on_change``: what becomes of it, while it is not finished, when other hospitals compute together than
    before; by default what its kind can do.
    """

    kind: str
    name: Annotated[str, AfterValidator(_file_name)] | None = None
    on_change: OnChange | None = None

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

    @property
    def steps(self) -> int:
        """About how many steps it takes, for an estimate of what is left; its evaluation's are among them."""
        return 3

    def sentence(self) -> str:
        """Say in one sentence, to somebody who knows no statistics, what it does."""
        raise NotImplementedError

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError("key: what is wrong") where the variables don't suit this kind."""

    def resolved(self, dictionary: Dictionary) -> Self:
        """Return the spec with the defaults written down that depend on others of its keys."""
        return self


Subgroups = dict[str, tuple[float, ...]]
MOST_GROUPS = 100  # of one variable: more are no picture, and too many cells for one query


def check_subgroups(subgroups: Subgroups, dictionary: Dictionary) -> None:
    """Raise ValueError where a variable is unknown, or its cut points don't suit it."""
    for name, cuts in subgroups.items():
        where = f"subgroups.{name}"
        if name not in dictionary:
            raise ValueError(f"{where}: `{name}` is not in `variables`{did_you_mean(name, dictionary)}")
        variable = dictionary[name]
        if isinstance(variable, CategoryVariable):
            if cuts:
                raise ValueError(f"{where}: a category has a group for each level; write an empty list")
            if len(variable.levels) > MOST_GROUPS:
                raise ValueError(f"{where}: more than {MOST_GROUPS} levels; gather some under `levels`")
            continue
        ends = (variable.range[0], *cuts, variable.range[1])
        if len(cuts) >= MOST_GROUPS:
            raise ValueError(f"{where}: more than {MOST_GROUPS} bands; name fewer cut points")
        if not cuts or any(not low < high for low, high in pairwise(ends)):
            raise ValueError(f"{where}: give rising cut points within the variable's range, as in [50, 65]")


_Spec = TypeVar("_Spec", bound=AnalysisSpec)


def with_threshold(spec: _Spec, outcome: str, dictionary: Dictionary) -> _Spec:
    """Write down the default `threshold` where there is an outcome of two levels to decide about."""
    if getattr(spec, "threshold", 0.0) is None and isinstance(dictionary[outcome], CategoryVariable):
        return spec.model_copy(update={"threshold": DEFAULT_THRESHOLD})
    return spec


def check_decided(spec: AnalysisSpec, outcome: str, dictionary: Dictionary) -> None:
    """Raise ValueError where a spec of a number's model has what only an outcome of two levels has."""
    for key in ("threshold", "subgroups"):
        if getattr(spec, key, None) and not isinstance(dictionary[outcome], CategoryVariable):
            raise ValueError(f"{key}: `{outcome}` is a number; only an outcome of two levels has one")


class ModelSpec(AnalysisSpec):
    """An analysis that fits a model of one outcome; what is None is taken from the study.

    ``threshold``: where its evaluation calls a row positive; 0.5 where the outcome has two levels.
    ``subgroups``: in which groups of rows it is evaluated besides, by variable: each level of a category
    (an empty list), or a number's bands between the given cut points.
    """

    outcome: str | None = None
    predictors: tuple[str, ...] | None = None
    missing: Missing | None = None
    threshold: Threshold | None = None
    subgroups: Subgroups = Field(default_factory=dict)

    @property
    def steps(self) -> int:
        """As for any analysis: Newton's steps and an evaluation's."""
        return 14

    def predicting(self) -> str:
        """Name outcome and predictors, for a sentence."""
        return f"`{self.outcome}` from {listed(self.predictors or ())}"

    def check_outcome(self, dictionary: Dictionary, kinds: tuple[str, ...]) -> None:
        """Raise ValueError unless there are a predictor and an outcome of one of the ``kinds``.

        A category must have two levels; only such an outcome has a ``threshold`` and ``subgroups``.
        """
        if self.outcome is None:
            raise ValueError(f"outcome: a {self.kind} model needs an outcome, here or in the study")
        variable = dictionary[self.outcome]
        two = isinstance(variable, CategoryVariable) and len(variable.levels) == 2
        if variable.kind not in kinds or (variable.kind == "category" and not two):
            what = " or ".join(
                {"category": "a category of two levels", "number": "a number"}[k] for k in kinds
            )
            raise ValueError(
                f"outcome: `{self.outcome}` must be {what} "
                "(`levels` may gather codes, as in {no: [0], yes: [1, 2, 3]})"
            )
        if not self.predictors:
            raise ValueError(f"predictors: a {self.kind} model needs at least one")
        for key in ("threshold", "subgroups"):
            if getattr(self, key) and not two:
                raise ValueError(
                    f"{key}: `{self.outcome}` is a number; only an outcome of two levels has one"
                )
        check_subgroups(self.subgroups, dictionary)

    def resolved(self, dictionary: Dictionary) -> Self:
        """Write down the default threshold."""
        return with_threshold(self, str(self.outcome), dictionary)

    def needed(self) -> tuple[str, ...]:
        """The outcome; with `missing: drop` the predictors too."""
        return self.required() if self.missing == "drop" else (str(self.outcome),)

    def required(self) -> tuple[str, ...]:
        """Outcome and predictors."""
        names = [name for term in self.predictors or () for name in term.split(":")]
        return tuple(dict.fromkeys([str(self.outcome), *names]))


class OnModelSpec(AnalysisSpec):
    """An analysis of a model that another entry of the study fits, on one part of the rows."""

    model: str
    part: Literal["train", "test"] = "test"


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
class Reply:
    """Parameters after local training, and how many rows they stand for."""

    parameters: tuple[Floats, ...]
    rows: int


class ServerStep(Protocol):
    """A server's optimiser in federated averaging: it keeps its own momenta from round to round."""

    def __call__(self, number: int, current: Sequence[Floats], replies: Sequence[Reply]) -> list[Floats]:
        """Return the next parameters from those of round ``number`` (from 1) and the round's replies.

        One reply, the mean over all hospitals, where only their sum is opened; else one a hospital, in order.
        """


class Strategies(Protocol):
    """Whoever makes server steps by a strategy's name; on the coordinator those of Flower itself."""

    def __call__(self, name: str, settings: Mapping[str, float]) -> ServerStep:
        """Return a fresh step."""


@dataclass(frozen=True)
class Plan:
    """What a program may depend on besides the sums: the study's constants and the sealed counts.

    ``ten_rows_a_term``: a model of more than one term per ten rows is refused, as it is in every study.
    ``start``: the last query that was asked of other hospitals, where the analysis is to go on from it.
    """

    label: str
    dictionary: Dictionary
    min_hospitals: int
    min_cell: int
    usable: Usable
    strategies: Strategies
    ten_rows_a_term: bool = True
    start: Query[Any] | None = None

    def check_size(self, count: int, what: str, rows: int) -> None:
        """Raise StudyError where a model has more than one of ``what``, terms or predictors, per ten rows.

        Or leaves fewer than ``min_cell`` degrees of freedom.
        """
        near = check_freedom(count, rows, self.min_cell)
        if self.ten_rows_a_term and near is not None:
            raise StudyError(f"analysis `{self.label}`: {near} (`privacy.min_cell`); its rows would show")
        if self.ten_rows_a_term and count > 0.1 * rows:
            raise StudyError(
                f"analysis `{self.label}`: {count} {what}s for {rows} training rows; a model may have "
                f"one {what} per ten rows; name fewer `predictors`"
            )


@dataclass(frozen=True)
class Fitted:
    """A model with what it was fitted for: its outcome, that outcome's mean, and the variables rows need."""

    model: Model
    outcome: str
    outcome_mean: float
    needed: tuple[str, ...]


class Result(Protocol):
    """What a program returns: figures over all hospitals, not yet fit to be published."""

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the JSON object of results.json, small cells suppressed."""


class ModelResult(Result, Protocol):
    """What an analysis that fits a model returns; ``outcome_mean`` is that of the training rows, or near."""

    @property
    def model(self) -> Model:
        """The model."""

    @property
    def outcome_mean(self) -> float:
        """The outcome's mean in its own unit, or the share of its second level."""


@dataclass(frozen=True)
class Analysis:
    """The catalogue's entry: its ``program``, or what it asks ``on_model``, a model of another entry.

    ``on_change``: `continue` where it can go on from where it is, with other hospitals.
    """

    kind: str
    spec: type[AnalysisSpec]
    queries: tuple[type[Query[Any]], ...]
    program: Callable[[Plan, Any], Program[Any]] | None
    is_model: bool = False
    on_change: OnChange = "restart"
    on_model: Callable[[Plan, Any, Rows, Fitted], Program[Any]] | None = None


def nothing_to_learn(plan: Plan, rows: int, outcome: str, how_far: str = "") -> FitError:
    """Return the error of a fit to rows that all have one outcome; ``how_far`` says to what accuracy."""
    return FitError(
        f"analysis `{plan.label}`: all {rows} training rows have the same outcome `{outcome}`{how_far}; "
        "nothing can be learned"
    )


@dataclass(frozen=True)
class Rows:
    """Which rows a query is about: those of one part of the split with a value in every needed variable."""

    part: Part
    needed: tuple[str, ...]

    def of(self, cohort: Cohort) -> Iterator[Block]:
        """Yield the cohort's rows of this kind, block by block."""
        return cohort.blocks(cohort.usable(self.part, self.needed))
