"""Checks tables against a study before it runs: all that does not fit, at every hospital, at once.

A study stops at the first fault that the reader meets. Here each is noted and reading goes on; then what
the federation will ask of all hospitals together is asked of these tables. Rows held out by row key are
drawn with another key than at a hospital, so their numbers are near those of the study, not the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from wardround_client.reader import read
from wardround_client.sources import Table
from wardround_client.study_tools.small import shown
from wardround_common.analyses.logistic import LogisticSpec
from wardround_common.analysis import AnalysisSpec, ModelSpec
from wardround_common.cohort import Cohort
from wardround_common.design import expand
from wardround_common.dictionary import CategoryVariable
from wardround_common.errors import DataError, did_you_mean, listed
from wardround_common.study import Study

_KEY = b"wardround study check"
_ROWS_PER_PREDICTOR = 10


@dataclass(frozen=True)
class Cells:
    """What the cohort's cells of one variable are; ``wrong`` ones are neither a value nor missing."""

    observed: int
    missing: int
    out_of_range: int
    wrong: int


@dataclass(frozen=True)
class Usable:
    """What one analysis finds at one hospital.

    ``classes``: training rows by level of an outcome of two levels. ``extent``: by predictor the smallest
    and largest value of the training rows, levels by position; none where all of them lack it.
    """

    train: int
    test: int
    classes: tuple[int, ...] = ()
    extent: Mapping[str, tuple[float, float]] = field(default_factory=dict)


@dataclass(frozen=True)
class HospitalCheck:
    """One hospital's table beside the study. ``columns`` is empty if it could not be opened."""

    name: str
    columns: tuple[str, ...] = ()
    rows: int = 0
    cohort: int = 0
    dropped: int = 0  # rows of the cohort that `out_of_range: drop` leaves out
    absent: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    cells: Mapping[str, Cells] = field(default_factory=dict)
    usable: Mapping[str, Usable] = field(default_factory=dict)


@dataclass(frozen=True)
class StudyCheck:
    """All hospitals. ``stops`` is what the study would end at, ``notes`` what a person should know."""

    study: Study
    hospitals: tuple[HospitalCheck, ...]
    stops: tuple[str, ...]
    notes: tuple[str, ...]


def check(
    study: Study,
    tables: Mapping[str, Callable[[], Table]],
    observe: Callable[[str], None] = lambda name: None,
) -> StudyCheck:
    """Read every table, opened by its function, and check what the study asks of it and of all together.

    With fewer tables than ``min_hospitals`` only the former is checked. ``observe`` is told whose table is
    being read.
    """
    hospitals = []
    for name, opened in tables.items():
        observe(name)
        hospitals.append(_hospital(study, name, opened))
    stops = [fault for one in hospitals for fault in one.faults]
    stops += _stops(study, hospitals)
    return StudyCheck(study, tuple(hospitals), tuple(stops), tuple(_notes(study, hospitals)))


def _hospital(study: Study, name: str, opened: Callable[[], Table]) -> HospitalCheck:
    faults: list[str] = []

    def note(error: DataError) -> None:
        faults.append(str(error))

    try:
        table = opened()
    except DataError as error:
        return HospitalCheck(name, faults=(str(error),))
    try:
        reading = read(table, study, name, _KEY, note)
        flow = reading.cohort.flow
        cells = flow
        if study.out_of_range == "drop":  # the cells out of range left with their rows
            kept = study.model_copy(update={"out_of_range": "missing"})
            cells = read(table, kept, name, _KEY, lambda error: None).cohort.flow
    except DataError as error:
        return HospitalCheck(name, table.columns, table.rows, faults=(*faults, str(error)))
    cohort = flow.read - flow.not_in_cohort
    return HospitalCheck(
        name,
        table.columns,
        flow.read,
        cohort,
        flow.out_of_range,
        reading.absent,
        tuple(faults),
        {key: _cells(counts, cohort) for key, counts in cells.variables.items()},
        {spec.label: _usable(reading.cohort, spec) for spec in study.analyses},
    )


def _cells(counts: tuple[int, int, int, int], rows: int) -> Cells:
    observed, empty, coded, outside = counts
    return Cells(observed, empty + coded, outside, rows - sum(counts))


def _usable(cohort: Cohort, spec: AnalysisSpec) -> Usable:
    needed = spec.needed()
    counted = Usable(train=cohort.count("train", needed), test=cohort.count("test", needed))
    if not isinstance(spec, ModelSpec):
        return counted
    train = cohort.usable("train", needed)
    rows = slice(None) if train is None else train
    extent = {}
    for name in spec.required():
        values = cohort.columns[name][rows]
        values = values[cohort.observed(name)[rows]]
        if len(values):
            extent[name] = (float(values.min()), float(values.max()))
    classes: tuple[int, ...] = ()
    outcome = cohort.dictionary[str(spec.outcome)]
    if isinstance(outcome, CategoryVariable) and len(outcome.levels) == 2:
        codes = cohort.columns[str(spec.outcome)][rows]
        classes = tuple(int(np.count_nonzero(codes == level)) for level in (0, 1))
    return replace(counted, classes=classes, extent=extent)


def _stops(study: Study, hospitals: Sequence[HospitalCheck]) -> Iterator[str]:
    """Yield what ends a study of all these hospitals, beside their own faults."""
    needed = study.privacy.min_hospitals
    read = [one for one in hospitals if one.columns]
    if len(hospitals) < needed or len(read) < needed:
        return
    yield from _nowhere(study, read)
    rows = [one for one in read if one.cohort - one.dropped >= study.privacy.min_rows]
    if len(rows) < needed:
        yield _too_few("", len(rows), study)
        return
    for spec in study.analyses:
        taking_part = [one for one in read if spec.label in one.usable and _enough(study, one, spec)]
        if len(taking_part) < needed:
            yield _too_few(f"analysis `{spec.label}`: ", len(taking_part), study)
            continue
        few = [name for name in spec.required() if _observed_at(rows, name) < needed]
        if few:
            counts = ", ".join(f"`{name}` at {_observed_at(rows, name)}" for name in few[:6])
            yield (
                f"analysis `{spec.label}`: observed at too few hospitals: {counts}; take {listed(few)} out "
                f"of it (`privacy.min_hospitals` is {needed})"
            )
        elif isinstance(spec, ModelSpec):
            yield from _unfit(study, spec, taking_part)


def _nowhere(study: Study, hospitals: Sequence[HospitalCheck]) -> Iterator[str]:
    for name, variable in study.variables.items():
        if all(name in one.absent for one in hospitals):
            wanted = variable.column or name
            near = did_you_mean(wanted, [column for one in hospitals for column in one.columns])
            yield f"variables.{name}: no table has a column `{wanted}`{near}"


def _too_few(what: str, hospitals: int, study: Study) -> str:
    privacy = study.privacy
    return (
        f"{what}{hospitals} hospitals have {privacy.min_rows} usable rows or more (`privacy.min_rows`); "
        f"{privacy.min_hospitals} must (`privacy.min_hospitals`)"
    )


def _enough(study: Study, one: HospitalCheck, spec: AnalysisSpec) -> bool:
    usable = one.usable[spec.label]
    return usable.train + usable.test >= study.privacy.min_rows


def _observed_at(hospitals: Sequence[HospitalCheck], name: str) -> int:
    return sum(one.cells[name].observed > 0 for one in hospitals)


def _unfit(study: Study, spec: ModelSpec, hospitals: Sequence[HospitalCheck]) -> Iterator[str]:
    """Yield why a model cannot be learned from these hospitals' rows together."""
    usable = [one.usable[spec.label] for one in hospitals]
    what = f"analysis `{spec.label}`:"
    train, test = sum(one.train for one in usable), sum(one.test for one in usable)
    if not train:
        yield f"{what} no training row has all it needs; see `missing`, `split` and `cohort.where`"
        return
    if study.split is not None and not test:
        yield f"{what} no row with all it needs is held out; see `split`"
    if [sum(counts) for counts in zip(*(one.classes for one in usable), strict=True)].count(0):
        yield f"{what} all training rows have the same outcome `{spec.outcome}`"
    if isinstance(spec, LogisticSpec):
        constant = [name for name in spec.required() if name != spec.outcome and _constant(usable, name)]
        if constant:
            yield f"{what} the same in all training rows: {listed(constant)}; take it out of `predictors`"


def _constant(usable: Sequence[Usable], name: str) -> bool:
    ends = [one.extent[name] for one in usable if name in one.extent]
    return len({value for pair in ends for value in pair}) == 1


def _notes(study: Study, hospitals: Sequence[HospitalCheck]) -> Iterator[str]:
    """Yield what a study runs with, but not as its author may think."""
    privacy = study.privacy
    read = [one for one in hospitals if one.columns]
    if len(hospitals) < privacy.min_hospitals:
        yield (
            f"{len(hospitals)} of at least {privacy.min_hospitals} hospitals are given; what depends on all "
            "of them is not checked"
        )
    for one in read:
        absent = [name for name in one.absent if not all(name in other.absent for other in read)]
        if absent or (one.absent and len(read) < privacy.min_hospitals):
            yield f"{one.name}: no column for {listed(absent or one.absent)}; read as missing"
        few = [
            spec.label
            for spec in study.analyses
            if spec.label in one.usable and not _enough(study, one, spec)
        ]
        if few:
            yield f"{one.name}: fewer than {privacy.min_rows} usable rows, no part in {listed(few)}"
    for name in study.variables:
        at = sum(name in one.cells and one.cells[name].observed > 0 for one in read)
        if len(read) >= privacy.min_hospitals > at > 0:
            yield f"variables.{name}: observed at {at} hospitals only, so no summary of it will be shown"
    for spec in study.analyses:
        if isinstance(spec, ModelSpec):
            yield from _thin(study, spec, [one for one in read if spec.label in one.usable])


def _thin(study: Study, spec: ModelSpec, hospitals: Sequence[HospitalCheck]) -> Iterator[str]:
    for one in hospitals:
        classes = one.usable[spec.label].classes
        if sum(classes) and not all(classes):
            yield f"{one.name}: all training rows of `{spec.label}` have the same outcome `{spec.outcome}`"
    terms = len(expand(study.dictionary, spec.predictors or (), frozenset()))
    train = sum(one.usable[spec.label].train for one in hospitals)
    if train and terms * _ROWS_PER_PREDICTOR > train:
        yield (
            f"analysis `{spec.label}`: {terms} terms for {shown(train)} training rows; one for every "
            f"{_ROWS_PER_PREDICTOR} rows is the usual limit"
        )
