"""Federated averaging (McMahan et al. 2017) of a scikit-learn estimator, by Flower's own strategies.

Each round, each hospital trains from the common parameters on its own rows and contributes its update times
its rows, clipped to a length, as one hospital sum; only their sum is opened. The mean goes to the server's
strategy as one reply, which gives what one reply per hospital gives. Columns are standardised by the
federation's means and standard deviations, which costs two rounds before the first.

Strategies that stand hospitals which lie (Yin et al. 2018, Blanchard et al. 2017) compare updates with each
other. They need `privacy: {seal: none}`: each update is opened alone then, signed by its hospital, while all
other queries of the study stay sealed.

The result depends on which rows lie in which hospital, as averaging of models does; it is for estimators
that no sum of rows can fit.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Key

from wardround_common.analysis import (
    Analysis,
    ModelSpec,
    Plan,
    Reply,
    Rows,
    ServerStep,
    SmallCells,
    nothing_to_learn,
)
from wardround_common.cohort import Cohort
from wardround_common.design import Design
from wardround_common.dictionary import CategoryVariable, Dictionary
from wardround_common.errors import FitError, ProtocolError, StudyError, listed
from wardround_common.local_training import Training, start, train
from wardround_common.models import LinearModel, LogisticModel, Model, NetworkModel
from wardround_common.moments import ColumnsQuery, MomentsQuery, moments
from wardround_common.program import Program, ask
from wardround_common.query import Contribution, Frame, Layout, Shares, Sum, Tally, counts, sums
from wardround_common.sealing.fixed_point import on_grid
from wardround_common.typing import Array, Floats, Words

MOST_PARAMETER = 1e9  # of standardised columns; beyond it the training has diverged
# What each strategy can be told, and its defaults: those of flwr.serverapp.strategy
SETTINGS: Mapping[str, Mapping[str, float]] = {
    "FedAvg": {},
    "FedAvgM": {"server_learning_rate": 1.0, "server_momentum": 0.0},
    "FedAdam": {"eta": 0.1, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "FedYogi": {"eta": 0.01, "beta_1": 0.9, "beta_2": 0.99, "tau": 1e-3},
    "FedMedian": {},
    "FedTrimmedAvg": {"beta": 0.2},
    "Krum": {"num_malicious_nodes": 0},
    "MultiKrum": {"num_malicious_nodes": 0, "num_nodes_to_select": 1},
}
ROBUST = ("FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum")  # they compare the hospitals' updates
_Share = Annotated[float, Key(ge=0, lt=1)]
_Positive = Annotated[float, Key(gt=0, le=1e6)]


class FedAvgSpec(ModelSpec):
    """``estimator`` and ``strategy`` by scikit-learn's and Flower's names.

    ``clip``: the most that an update may measure (L2). ``proximal``: FedProx's mu. ``hidden`` and
    ``activation`` are the perceptron's; the last eight are their strategies'.
    """

    kind: Literal["fedavg"] = "fedavg"
    estimator: Literal["SGDClassifier", "SGDRegressor", "MLPClassifier"] | None = None
    strategy: Literal[
        "FedAvg", "FedAvgM", "FedAdam", "FedYogi", "FedMedian", "FedTrimmedAvg", "Krum", "MultiKrum"
    ] = "FedAvg"
    rounds: Annotated[int, Key(ge=1, le=10_000)] = 50
    epochs: Annotated[int, Key(ge=1, le=1_000)] = 1
    batch: Annotated[int, Key(ge=1, le=1 << 20)] = 32
    learning_rate: Annotated[float, Key(gt=0, le=10)] = 0.01
    alpha: Annotated[float, Key(ge=0, le=1e6)] = 1e-4
    proximal: Annotated[float, Key(ge=0, le=1e6)] = 0.0
    clip: Annotated[float, Key(gt=0, le=1e6)] = 10.0
    seed: Annotated[int, Key(ge=0, lt=2**52)] = 0
    hidden: (
        Annotated[tuple[Annotated[int, Key(ge=1, le=4096)], ...], Key(min_length=1, max_length=8)] | None
    ) = None
    activation: Literal["relu", "tanh", "logistic", "identity"] | None = None
    server_learning_rate: _Positive | None = None
    server_momentum: _Share | None = None
    eta: _Positive | None = None
    beta_1: _Share | None = None
    beta_2: _Share | None = None
    tau: _Positive | None = None
    beta: Annotated[float, Key(gt=0, lt=0.5)] | None = None
    num_malicious_nodes: Annotated[int, Key(ge=0, le=10_000)] | None = None
    num_nodes_to_select: Annotated[int, Key(ge=1, le=10_000)] | None = None

    @property
    def steps(self) -> int:
        """A round a step, moments before, an evaluation after."""
        return self.rounds + 9

    @property
    def unsealed(self) -> bool:
        """Whether each hospital's update is opened alone, which the study has to say (`privacy.seal`)."""
        return self.strategy in ROBUST

    def weakness(self, hospitals: int) -> str | None:
        """Return why the strategy would not stand one lying hospital of so many; None if it would.

        Krum's proof asks for 2 f + 3 hospitals where f lie (Blanchard et al. 2017, proposition 1). With
        fewer than f + 4 each is compared with one other only, so that the two nearest always tie, and
        which of them is chosen is a matter of the processor.
        """
        if self.strategy == "FedMedian" and hospitals < 3:
            return "a median of 2 is their mean; it needs 3 hospitals"
        if self.strategy == "FedTrimmedAvg" and int((self.beta or 0.0) * hospitals) < 1:
            return f"`beta: {self.beta:g}` of {hospitals} hospitals cuts off none; raise it"
        if self.strategy in ("Krum", "MultiKrum"):
            lying = self.num_malicious_nodes or 0
            needed = max(2 * lying + 3, lying + 4)
            if hospitals < needed:
                return f"`num_malicious_nodes: {lying}` needs {needed} hospitals, and here are {hospitals}"
            if (self.num_nodes_to_select or 1) > hospitals - max(lying, 1):
                return f"`num_nodes_to_select` leaves out too few of {hospitals} hospitals; lower it"
        return None

    def sentence(self) -> str:
        """As for any analysis."""
        alone = "; each hospital's updates are seen singly" if self.unsealed else ""
        return (
            f"A {self.estimator} that predicts {self.predicting()}, trained at each hospital on its own rows "
            f"and averaged {self.rounds} times ({self.strategy}){alone}."
        )

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError where outcome, estimator and strategy don't suit each other."""
        self.check_outcome(dictionary, ("category", "number"))
        two = isinstance(dictionary[str(self.outcome)], CategoryVariable)
        if self.estimator is not None and (self.estimator == "SGDRegressor") == two:
            what = "has two levels" if two else "is a number"
            raise ValueError(f"estimator: the outcome `{self.outcome}` {what}; choose another")
        perceptron = self.estimator == "MLPClassifier"
        for key in ("hidden", "activation"):
            if getattr(self, key) is not None and not perceptron:
                raise ValueError(f"{key}: belongs to `estimator: MLPClassifier`")
        every = {key for settings in SETTINGS.values() for key in settings}
        for key in sorted(every - set(SETTINGS[self.strategy])):
            if getattr(self, key) is not None:
                raise ValueError(f"{key}: `strategy: {self.strategy}` has no such setting")

    def resolved(self, dictionary: Dictionary) -> Self:
        """Write down the defaults of estimator and strategy, too."""
        two = isinstance(dictionary[str(self.outcome)], CategoryVariable)
        chosen: dict[str, Any] = {"estimator": "SGDClassifier" if two else "SGDRegressor"}
        if self.estimator == "MLPClassifier":
            chosen |= {"hidden": (16,), "activation": "relu"}
        chosen |= SETTINGS[self.strategy]
        unsaid = {key: value for key, value in chosen.items() if getattr(self, key) is None}
        return super().resolved(dictionary).model_copy(update=unsaid)

    def training(self) -> Training:
        """Return what a hospital must know of it."""
        return Training(
            str(self.estimator),
            self.epochs,
            self.batch,
            self.learning_rate,
            self.alpha,
            self.proximal,
            self.hidden or (),
            self.activation or "",
            self.seed,
        )

    def settings(self) -> dict[str, float]:
        """Return the strategy's settings."""
        return {key: getattr(self, key) for key in SETTINGS[self.strategy]}


@dataclass(frozen=True)
class SpreadQuery:
    """Sums of squared design columns, and of the outcome's squared distance from ``mean``, in its range."""

    kind: ClassVar[str] = "fedavg.spread"
    rows: Rows
    outcome: str
    mean: float
    design: Design

    def layout(self, frame: Frame) -> Layout:
        """``columns`` (terms,), ``outcome`` ()."""
        return Layout((sums("columns", 1.0, len(self.design.terms)), sums("outcome", 1.0)), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """Columns lie within [-1, 1]."""
        tally = Tally(layout)
        for block in tally.over(self.rows.of(cohort)):
            columns = self.design.columns(block)[1:]
            tally.add("columns", columns * columns)
            off = (block.outcome(self.outcome) - self.mean) / _span(cohort.dictionary, self.outcome)
            tally.add("outcome", off * off)
        return tally.done()

    def read(self, total: Sum) -> Sum:
        """The sums as they are."""
        return total


@dataclass(frozen=True)
class Update:
    """An opened update (parameters,) of ``n`` rows, and how many hospitals' were clipped to it."""

    update: Floats
    n: int
    clipped: int


@dataclass(frozen=True)
class LocalTraining:
    """One round: the update of each hospital's local training from ``parameters``, times its rows.

    ``factor`` (terms,) standardises the design's columns; a number's outcome is (y - mean) / sd.
    """

    rows: Rows
    outcome: str
    mean: float
    sd: float
    design: Design
    factor: Floats
    training: Training
    parameters: tuple[Floats, ...]
    number: int
    clip: float

    def layout(self, frame: Frame) -> Layout:
        """``n`` (), ``clipped`` (): hospitals whose update was; ``update`` (parameters,)."""
        size = sum(array.size for array in self.parameters)
        return Layout((counts("n"), counts("clipped"), sums("update", self.clip, size)), frame.rows_bound)

    def answer(self, cohort: Cohort, layout: Layout) -> Contribution:
        """A hospital sum: one clipped vector times the number of rows, rounded once."""
        parameters, n = self.trained(cohort)
        update = _flat(parameters) - _flat(self.parameters)
        length = math.sqrt(float(update @ update))
        if not math.isfinite(length):
            raise ValueError("local training diverged")
        clipped = length > self.clip
        if clipped:
            update *= self.clip / length
        arrays = {
            "n": np.array(n),
            "clipped": np.array(int(clipped)),
            "update": on_grid(n * update, layout.fields[2].row_bound, n, layout.rows_bound),
        }
        return Contribution(n, arrays)

    def trained(self, cohort: Cohort) -> tuple[list[Floats], int]:
        """Return this hospital's parameters after its local training, and its rows."""
        x, y, keys = self._rows(cohort)
        return train(self.training, self.parameters, x, y, keys, self.number), len(y)

    def _rows(self, cohort: Cohort) -> tuple[Floats, Array, Words]:
        key = f"{self.design.sha256} {hashlib.sha256(self.factor.tobytes()).hexdigest()}"
        columns = cohort.remembered(key, lambda b: self.design.columns(b)[1:] * self.factor[:, None])
        blocks = list(self.rows.of(cohort))
        if not blocks:
            raise ValueError("no rows to train on")
        x = np.concatenate([block.of(columns) for block in blocks], axis=1)
        y = np.concatenate([block.outcome(self.outcome) for block in blocks])
        if self.training.estimator == "SGDRegressor":
            y = (y - self.mean) / self.sd
        return x.T, y, np.concatenate([block.keys for block in blocks])

    def opened(self, total: Sum) -> Update:
        """Return a mean update, cut to ``clip`` again: a hospital's own clipping is its word only.

        A mean of vectors of that length has it at most. ProtocolError for one of no rows.
        """
        n = total.count("n")
        if n < 1:
            raise ProtocolError(f"{listed(total.hospitals)}: an update of no rows")
        update = total.arrays["update"] / n
        length = _length(update)
        if length > self.clip:
            update *= self.clip / length
        return Update(update, n, total.count("clipped"))


@dataclass(frozen=True)
class UpdateQuery(LocalTraining):
    """A round of which only the sum is opened."""

    kind: ClassVar[str] = "train.update"

    def read(self, total: Sum) -> tuple[Update, ...]:
        """Return the mean update as the only one."""
        return (self.opened(total),)


@dataclass(frozen=True)
class ShareQuery(LocalTraining):
    """A round of which each hospital's update is opened alone, for strategies that compare them."""

    kind: ClassVar[str] = "train.share"
    sealed: ClassVar[bool] = False

    def read(self, total: Sum | Shares) -> tuple[Update, ...]:
        """Return the updates in the order of their hospitals; a sum is that of one table alone."""
        each = total.each if isinstance(total, Shares) else (total,)
        return tuple(self.opened(one) for one in each)


@dataclass(frozen=True)
class FedAvgFit:
    """``norms``: round by round, the length of the mean update, or of what a robust strategy made of all.

    ``unsealed``: each hospital's update was opened alone.
    """

    n: int
    n_missing: int
    outcome_mean: float
    estimator: str
    strategy: str
    unsealed: bool
    clipped: int
    norms: tuple[float, ...]
    model: Model

    def published(self, small: SmallCells) -> dict[str, Any]:
        """Return the course of the training; coefficients, which have no standard errors, if linear."""
        model = self.model
        linear: dict[str, Any] = {}
        if isinstance(model, (LogisticModel, LinearModel)):
            nothing = dict.fromkeys(("se", "p", "low", "high"))
            values = model.design.own_units(model.beta)
            linear["coefficients"] = {term: {"value": value, **nothing} for term, value in values.items()}
        history = [{"round": i, "update_norm": norm} for i, norm in enumerate(self.norms, 1)]
        return {
            "n": self.n,
            "n_missing": small.count(self.n_missing),
            "estimator": self.estimator,
            "strategy": self.strategy,
            "updates_opened": "one_by_one" if self.unsealed else "as_a_sum",
            "rounds_trained": len(self.norms),
            "clipped": self.clipped,
            "history": history,
            **linear,
            "model_sha256": model.sha256,
        }


def average(plan: Plan, spec: FedAvgSpec) -> Program[FedAvgFit]:
    """Run the rounds. FitError where the parameters grow beyond all bounds.

    StudyError, before an update leaves, where a robust strategy has too few hospitals to be robust.
    """
    outcome, rows = str(spec.outcome), Rows("train", spec.needed())
    found = yield from moments(plan, spec, rows)
    design, n = found.design, found.n
    spread = yield from ask(SpreadQuery(rows, outcome, found.outcome_mean, design))
    sd = np.sqrt(spread.arrays["columns"] / n)
    factor = np.where(sd > 0, 1.0 / np.maximum(sd, 2.0**-20), 0.0)
    outcome_sd = _span(plan.dictionary, outcome) * math.sqrt(spread.number("outcome") / n)
    if not outcome_sd:
        raise nothing_to_learn(plan, n, outcome)
    if spec.unsealed:
        _check_hospitals(plan, spec, len(spread.hospitals))
    query = ShareQuery if spec.unsealed else UpdateQuery
    training, step = spec.training(), plan.strategies(spec.strategy, spec.settings())
    parameters, clipped, norms = start(training, len(design.terms)), 0, []
    for number in range(1, spec.rounds + 1):
        asked = query(
            *(rows, outcome, found.outcome_mean, outcome_sd, design, factor),
            *(training, tuple(parameters), number, spec.clip),
        )
        updates = yield from ask(asked)
        before = parameters
        parameters = step(number, before, [Reply(_moved(before, one.update), one.n) for one in updates])
        if not all(bool(np.all(np.abs(array) < MOST_PARAMETER)) for array in parameters):
            raise FitError(f"analysis `{plan.label}`: the training diverged; lower `learning_rate` or `eta`")
        clipped += sum(one.clipped for one in updates)
        norms.append(_length(_flat(parameters) - _flat(before) if spec.unsealed else updates[0].update))
    model = _model(plan, spec, design, factor, parameters, found.outcome_mean, outcome_sd)
    return FedAvgFit(
        n,
        plan.usable.dropped,
        found.outcome_mean,
        str(spec.estimator),
        spec.strategy,
        spec.unsealed,
        clipped,
        tuple(norms),
        model,
    )


def _check_hospitals(plan: Plan, spec: FedAvgSpec, hospitals: int) -> None:
    """Raise StudyError where the strategy would protect from nothing. One table alone has nobody to fear."""
    why = spec.weakness(hospitals) if hospitals > 1 else None
    if why is not None:
        raise StudyError(f"analysis `{plan.label}`: {spec.strategy} would not stand a lying hospital: {why}")


def _model(
    plan: Plan,
    spec: FedAvgSpec,
    design: Design,
    factor: Floats,
    parameters: Sequence[Floats],
    mean: float,
    sd: float,
) -> Model:
    """Return the parameters as a model of the design's own columns."""
    if spec.estimator == "MLPClassifier":
        first = parameters[0] * factor[:, None]
        return NetworkModel(design, (first, *parameters[2::2]), tuple(parameters[1::2]), str(spec.activation))
    beta = np.concatenate([parameters[1], parameters[0] * factor])
    if spec.estimator == "SGDClassifier":
        return LogisticModel(design, beta)
    beta *= sd
    beta[0] += mean
    return LinearModel(design, beta, *plan.dictionary.number(str(spec.outcome)).range)


def _span(dictionary: Dictionary, outcome: str) -> float:
    variable = dictionary[outcome]
    return 1.0 if isinstance(variable, CategoryVariable) else variable.span


def _flat(parameters: Sequence[Floats]) -> Floats:
    return np.concatenate([array.reshape(-1) for array in parameters])


def _moved(parameters: Sequence[Floats], update: Floats) -> tuple[Floats, ...]:
    ends = np.cumsum([array.size for array in parameters])[:-1]
    parts = zip(parameters, np.split(update, ends), strict=True)
    return tuple(array + part.reshape(array.shape) for array, part in parts)


def _length(vector: Floats) -> float:
    """Return the L2 norm, added up in one order on every processor."""
    return math.sqrt(float(np.cumsum(vector * vector)[-1]))


def plain_mean(name: str, settings: Mapping[str, float]) -> ServerStep:  # noqa: ARG001 (as Strategies)
    """Return FedAvg's step, which takes the mean as it is. StudyError for another strategy."""
    if name != "FedAvg":
        raise StudyError(f"strategy `{name}` is Flower's; run the study where its strategies are at hand")
    return lambda number, current, replies: list(replies[0].parameters)


ANALYSIS = Analysis(
    "fedavg",
    FedAvgSpec,
    (MomentsQuery, ColumnsQuery, SpreadQuery, UpdateQuery, ShareQuery),
    average,
    is_model=True,
)
