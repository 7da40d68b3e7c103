"""Makes tables from a study's dictionary alone: plausible, of several hospitals, with a finding built in.

Predictors are independent of each other. An outcome follows a logistic model of up to five of them, strong
enough for an AUC of about .8. The same study, numbers and seed give the same bytes.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
from scipy.special import ndtr

from wardround_client.reader import satisfied
from wardround_client.study_tools.shapes import CategoryShape, NumberShape
from wardround_common.analysis import ModelSpec
from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.errors import StudyError, listed
from wardround_common.study import ColumnSplit, Study
from wardround_common.typing import Array, Bools, Floats, Ints

_BLOCK_ROWS = 50_000
_SIGNAL = 1.45  # standard deviation of the linear predictor
_DRIVERS = 5  # predictors that an outcome depends on
_TEST_SHARE = 0.3
_OUT_OF_RANGE = 0.003
_IN_COHORT, _DRAWS = 0.9, 8  # share of rows that the predicate should take, and how often to look for them
_ROWS_PER_PERSON = 1.5  # where a study has many rows per person

Shapes = Mapping[str, NumberShape | CategoryShape]


@dataclass(frozen=True)
class World:
    """What all hospitals have in common. ``drivers``: by outcome, how strongly each predictor acts on it."""

    study: Study
    shapes: Shapes
    drivers: Mapping[str, Mapping[str, float]]


@dataclass(frozen=True)
class MockTable:
    """One hospital's table, made when it is written."""

    world: World
    number: int
    rows: int
    seed: int


def mock(study: Study, hospitals: int, rows: int, seed: int = 0) -> list[MockTable]:
    """Return tables of ``rows`` rows on average. StudyError if two variables are read from one column."""
    columns = [_column(study, name) for name in study.variables]
    twice = sorted({column for column in columns if columns.count(column) > 1})
    if twice:
        raise StudyError(
            f"two variables are read from {listed(twice)}; a mock table can hold only one of them"
        )
    rng = np.random.default_rng(seed)
    shapes = {name: _shape(variable, rng) for name, variable in study.variables.items()}
    world = World(study, shapes, {name: _drivers(terms, rng) for name, terms in _outcomes(study).items()})
    sizes = rng.uniform(0.5, 1.5, hospitals)
    sizes = np.maximum(1, np.rint(sizes * rows / sizes.mean())).astype(np.int64)
    return [MockTable(world, number + 1, size, seed) for number, size in enumerate(sizes.tolist())]


def _shape(
    variable: NumberVariable | CategoryVariable, rng: np.random.Generator
) -> NumberShape | CategoryShape:
    if isinstance(variable, NumberVariable):
        return NumberShape.drawn(variable, rng)
    return CategoryShape.drawn(variable, rng)


def _column(study: Study, name: str) -> str:
    return study.variables[name].column or name


def _outcomes(study: Study) -> dict[str, list[str]]:
    """Return each outcome with the variables that its models use as predictors."""
    found: dict[str, list[str]] = {}
    specs = [spec for spec in study.analyses if isinstance(spec, ModelSpec)]
    for outcome, terms in [(str(spec.outcome), spec.predictors or ()) for spec in specs]:
        found.setdefault(outcome, []).extend(name for term in terms for name in term.split(":"))
    return {
        outcome: [name for name in dict.fromkeys(names) if name not in found]
        for outcome, names in found.items()
    }


def _drivers(predictors: Sequence[str], rng: np.random.Generator) -> dict[str, float]:
    chosen = rng.permutation(np.array(predictors, object))[:_DRIVERS].tolist()
    effects = rng.uniform(0.6, 1.0, len(chosen)) * rng.choice([-1.0, 1.0], len(chosen))
    effects *= _SIGNAL / max(math.sqrt(float(effects @ effects)), 1e-9)
    return dict(zip(chosen, effects.tolist(), strict=True))


def write_table(table: MockTable, observe: Callable[[], None], file: IO[str]) -> None:
    """Write a table as CSV, block by block; ``observe`` is called before each."""
    study, rng = table.world.study, np.random.default_rng([table.seed, table.number])
    shapes: Shapes = {name: shape.elsewhere(rng) for name, shape in table.world.shapes.items()}
    missing = {name: _missing_share(study, name, rng) for name in study.variables}
    writer = csv.writer(file, lineterminator="\n")
    columns = {name: _column(study, name) for name in study.variables}
    for start in range(0, table.rows, _BLOCK_ROWS):
        observe()
        block = _Block(table.world, shapes, missing, rng)
        cells = block.take(min(_BLOCK_ROWS, table.rows - start))
        written = {columns[name]: column for name, column in cells.items()}
        written = _ids(table, start, len(next(iter(cells.values())))) | written
        written |= _folds(study, written, rng)
        if start == 0:
            writer.writerow(written)
        writer.writerows(zip(*(column.tolist() for column in written.values()), strict=True))


def _missing_share(study: Study, name: str, rng: np.random.Generator) -> float:
    """Return how often a value is missing at a hospital; seldom where each missing value costs a row."""
    share = float(rng.uniform(0.01, 0.1))
    return share / 5 if study.missing == "drop" or name in _outcomes(study) else share


def _ids(table: MockTable, start: int, rows: int) -> dict[str, Array]:
    numbers = np.arange(start, start + rows)
    if table.world.study.rows == "many":
        numbers = (numbers / _ROWS_PER_PERSON).astype(np.int64)
    return {"id": np.array([f"h{table.number}-{number + 1}" for number in numbers.tolist()], object)}


def _folds(study: Study, written: Mapping[str, Array], rng: np.random.Generator) -> dict[str, Array]:
    split = study.split
    if not isinstance(split, ColumnSplit) or split.column in written:
        return {}
    held_out = rng.random(len(written["id"])) < _TEST_SHARE
    return {split.column: np.where(held_out, split.test, "train" if split.test != "train" else "rest")}


class _Block:
    """Draws rows until enough of them are in the cohort."""

    def __init__(
        self, world: World, shapes: Shapes, missing: Mapping[str, float], rng: np.random.Generator
    ) -> None:
        self._world, self._shapes, self._missing, self._rng = world, shapes, missing, rng

    def take(self, rows: int) -> dict[str, Array]:
        """Return cells by variable, most rows in the cohort if its predicate is true often enough."""
        wanted = math.ceil(_IN_COHORT * rows)
        inside: list[dict[str, Array]] = []
        outside: list[dict[str, Array]] = []
        for more in range(_DRAWS):
            cells, members = self._drawn((1 + more) * rows)
            inside.append(_rows(cells, np.flatnonzero(members)))
            outside.append(_rows(cells, np.flatnonzero(~members)))
            if _length(inside) >= wanted and _length(inside) + _length(outside) >= rows:
                break
        first = min(_length(inside), wanted if _length(outside) >= rows - wanted else rows)
        found = _rows(_joined(inside), np.arange(first))
        others = _rows(_joined(outside), np.arange(rows - first))
        return _rows(_joined([found, others]), self._rng.permutation(rows))

    def _drawn(self, rows: int) -> tuple[dict[str, Array], Bools]:
        """Draw rows; return their cells, and which of them the predicate takes."""
        study, drivers = self._world.study, self._world.drivers
        values: dict[str, Array] = {}
        ordered = [name for name in study.variables if name not in drivers] + list(drivers)
        for name in ordered:
            if name in drivers:
                uniform = self._outcome(drivers[name], values, rows)
            else:
                uniform = self._rng.random(rows)
            values[name] = self._shapes[name].values(uniform)
        cells = {name: self._written(name, values[name]) for name in study.variables}
        known = {name: seen for name, (_, seen) in cells.items()}
        members = np.ones(rows, bool)
        if study.cohort.where is not None:
            members = satisfied(study.cohort.where, study.dictionary, known, rows)
        return {name: column for name, (column, _) in cells.items()}, members

    def _outcome(self, drivers: Mapping[str, float], values: Mapping[str, Array], rows: int) -> Floats:
        """Return the quantiles of a latent outcome: the predictors' sum and logistic noise."""
        latent = self._rng.logistic(size=rows)
        for name, effect in drivers.items():
            latent += effect * self._shapes[name].scores(values[name])
        signal = sum(effect**2 for effect in drivers.values())
        uniform: Floats = ndtr(latent / math.sqrt(signal + math.pi**2 / 3))
        return uniform

    def _written(self, name: str, values: Array) -> tuple[Array, Array]:
        """Return a variable's cells with some missing or out of range, and its values as they are read."""
        shape, rng, rows = self._shapes[name], self._rng, len(values)
        cells = shape.cells(values, rng.random(rows))
        gaps = rng.random(rows) < self._missing[name]
        codes = [_code(code) for code in shape.variable.missing] or [""]
        cells[gaps] = np.array(codes, object)[
            (rng.random(int(gaps.sum())) ** 2 * len(codes)).astype(np.int64)
        ]
        if isinstance(shape, NumberShape) and self._world.study.out_of_range == "missing":
            far = ~gaps & (rng.random(rows) < _OUT_OF_RANGE)
            cells[far] = shape.beyond(rng.random(int(far.sum())))
            gaps = gaps | far
        none = np.nan if isinstance(shape, NumberShape) else -1
        return cells, np.where(gaps, none, values).astype(values.dtype)


def _code(code: float | str) -> Any:
    return int(code) if isinstance(code, float) and code.is_integer() else code


def _rows(columns: Mapping[str, Array], rows: Ints) -> dict[str, Array]:
    return {name: column[rows] for name, column in columns.items()}


def _joined(parts: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _length(parts: Sequence[Mapping[str, Array]]) -> int:
    return sum(len(next(iter(part.values()))) for part in parts)
