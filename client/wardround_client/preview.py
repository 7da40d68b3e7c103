"""What a study would ask of this hospital, found by running its program on this hospital's own rows alone.

Nothing is sent, stored or charged. The sums are the hospital's own, so later questions of a model's fit are
not those that a federation would be asked; their form is.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from wardround_client.approval import look_at
from wardround_client.gate import Policy
from wardround_client.gate.release import fields_of, within_bounds
from wardround_client.home import HospitalHome
from wardround_client.rowsets import Near
from wardround_common.analyses.flow import LABEL, usable_rows
from wardround_common.cohort import Cohort
from wardround_common.errors import FitError, Refused, WardroundError
from wardround_common.files import write_private
from wardround_common.plan import study_program
from wardround_common.program import Asked
from wardround_common.query import Frame, Layout, Shares, Sum, is_sealed, open_sum
from wardround_common.sealing.fixed_point import to_floats
from wardround_common.strategies import installed
from wardround_common.study import Study
from wardround_common.typing import Array, Ints

SAMPLE_ROWS = 1000


@dataclass(frozen=True, repr=False)
class Release:
    """One answer before it is sealed: ``arrays`` by field, on the grid, and the gate's verdict.

    ``step``: in which round of the program, from 0.
    """

    analysis: str
    index: int
    kind: str
    fields: tuple[str, ...]
    numbers: int
    rows: int
    arrays: Mapping[str, Ints]
    layout: Layout = field(repr=False)
    verdict: str
    step: int = 0

    def __repr__(self) -> str:
        return f"Release({self.analysis}, {self.index}, ...)"

    @property
    def values(self) -> dict[str, Array]:
        """The arrays in their own units, counts as they are; behind them, what tells contributors apart."""
        found: dict[str, Array] = {
            one.name: self.arrays[one.name]
            if one.counts
            else to_floats(self.arrays[one.name], self.layout.bits(one))
            for one in self.layout.fields
        }
        for one in self.layout.fields:
            if one.contributors:
                found[f"{one.name} > 0"] = (self.arrays[one.name] > 0).astype(np.int64)
        return found

    @property
    def bounds(self) -> dict[str, float]:
        """The most that one row may add to any element of each array, in its own unit."""
        return {one.name: float(one.row_bound.max(initial=0)) for one in self.layout.fields}

    def shown(self) -> dict[str, Any]:
        """Return it as a JSON object, with all its values."""
        return {
            "analysis": self.analysis,
            "index": self.index,
            "kind": self.kind,
            "fields": list(self.fields),
            "numbers": self.numbers,
            "rows": self.rows,
            "verdict": self.verdict,
            "values": {name: array.tolist() for name, array in self.values.items()},
            "grid": {name: array.tolist() for name, array in self.arrays.items()},
            "row_bounds": self.bounds,
        }


def releases(study: Study, cohort: Cohort, policy: Policy | None = None) -> Iterator[Release]:
    """Yield what would be released, in order, of a cohort alone.

    ``policy``: what is held against each; None holds nothing. StudyError, FitError or ProtocolError where the
    program ends early.
    """
    privacy = study.privacy.model_copy(update={"min_hospitals": 1})
    program = study_program(study.model_copy(update={"privacy": privacy}), installed)
    usable = {spec.label: usable_rows(cohort, spec.needed()) for spec in study.analyses}
    usable[LABEL] = cohort.rows
    numbers: Counter[str] = Counter()
    opened: tuple[Sum | Shares, ...] | None = None
    for step in count():
        try:
            asked = next(program) if opened is None else program.send(opened)
        except StopIteration:
            return
        except (ArithmeticError, ValueError, LookupError):
            raise FitError("the program makes no sense of so few rows alone") from None
        answers = []
        for one in asked:
            try:
                release, answer = _release(study, cohort, one, numbers[one.analysis])
            except (ArithmeticError, ValueError, LookupError, TypeError, AttributeError):
                raise FitError(f"a `{one.query.kind}` query that cannot be answered") from None
            if policy is not None:
                verdict = _verdict(study, policy, release, usable[one.analysis], numbers.total())
                release = replace(release, verdict=verdict or release.verdict)
            numbers[one.analysis] += 1
            yield replace(release, step=step)
            answers.append(answer)
        opened = tuple(answers)


def _release(study: Study, cohort: Cohort, asked: Asked, index: int) -> tuple[Release, Sum | Shares]:
    layout = asked.query.layout(Frame(study.dictionary, asked.rows_bound))
    contribution = asked.query.answer(cohort, layout)
    sealed = is_sealed(asked.query)
    verdict = "may leave, sealed" if sealed else "may leave, NOT sealed"
    try:
        vector = within_bounds(contribution, layout)
    except Refused as error:
        verdict = f"refused: {error}"
        vector = layout.vector(contribution)
    total = open_sum(layout, 1, ("here",), vector)
    found = Release(
        *(asked.analysis, index, asked.query.kind, fields_of(layout), layout.size),
        *(contribution.rows, contribution.arrays, layout, verdict),
    )
    return found, total if sealed else Shares((total,))


def _verdict(study: Study, policy: Policy, found: Release, usable: int, answered: int) -> str:
    """Say what the policy has against a release, or that a person has to let it go; nothing if neither."""
    floor = policy.floor("min_rows", study)
    refusals = policy.refusals(study)
    if usable < floor:
        refusals.append(f"fewer than {floor} usable rows here (`min_rows`)")
    if policy.max_queries is not None and answered >= policy.max_queries:
        refusals.append(f"{policy.max_queries} queries of one study are answered at most (`max_queries`)")
    if refusals:
        return f"refused: {refusals[0]}"
    if policy.hold and found.verdict.startswith("may leave"):
        return f"waits for you (`hold`), then {found.verdict}"
    return ""


def recomputed(study: Study, cohort: Cohort, asked: Asked, index: int) -> Release:
    """Return a release that waits for a person, computed from the pinned rows as it will be sealed."""
    return _release(study, cohort, asked, index)[0]


@dataclass(frozen=True)
class Leaving:
    """What leaves of one kind of query in one analysis: how often, and how many numbers each time, most."""

    analysis: str
    kind: str
    fields: tuple[str, ...]
    times: int
    numbers: int
    most: int


@dataclass(frozen=True)
class DryRun:
    """A run of the program on some of this hospital's rows: what leaves, as far as it went.

    ``ended``: why it ended early, empty if it did not; ``rounds``: how many it took, or would about take.
    """

    rows: int
    leaving: tuple[Leaving, ...]
    ended: str
    rounds: int

    @property
    def numbers(self) -> int:
        """All numbers that would leave."""
        return sum(one.numbers for one in self.leaving)


def dry_run(study: Study, cohort: Cohort) -> DryRun:
    """Run the program on at most ``SAMPLE_ROWS`` of the cohort's rows, those of the lowest row keys."""
    if cohort.rows > SAMPLE_ROWS:
        keys = cohort.keys.values
        cohort = cohort.take(np.sort(np.argpartition(keys, SAMPLE_ROWS)[:SAMPLE_ROWS]))
    found: dict[tuple[str, str], list[Release]] = {}
    ended, rounds = "", 0
    try:
        for release in releases(study, cohort):
            found.setdefault((release.analysis, release.kind), []).append(release)
            rounds = release.step + 1
    except WardroundError as error:
        ended = str(error)
        rounds = max(rounds, 1 + max(spec.steps for spec in study.analyses))  # they go on together
    leaving = tuple(
        Leaving(
            *(analysis, kind, max(many, key=lambda one: one.numbers).fields, len(many)),
            *(sum(one.numbers for one in many), max(one.numbers for one in many)),
        )
        for (analysis, kind), many in found.items()
    )
    return DryRun(cohort.rows, leaving, ended, rounds)


def numbers_of(study: Study, cohort: Cohort) -> int:
    """Return about how many numbers of this hospital a study would see leave, all sealed into sums.

    FitError where the program ends early on this hospital's rows alone, so that nobody can say.
    """
    found = dry_run(study, cohort)
    if found.ended:
        raise FitError(f"{study.name}: more would leave than can be counted here: {found.ended}")
    return found.numbers


@dataclass(frozen=True, repr=False)
class Preview:
    """All releases of a study of this hospital's rows alone; ``ended``: why it ended early, if it did."""

    study: str
    releases: tuple[Release, ...]
    ended: str
    refusals: tuple[str, ...]
    near: tuple[Near, ...]

    def __repr__(self) -> str:
        return f"Preview({self.study!r}, ...)"

    def shown(self) -> dict[str, Any]:
        """Return it as a JSON object, with all its values."""
        return {
            "study": self.study,
            "ended": self.ended,
            "refusals": list(self.refusals),
            "near": [asdict(one) for one in self.near],
            "releases": [one.shown() for one in self.releases],
        }


def preview(
    home: HospitalHome,
    study: Study,
    table: Path | None = None,
    progress: Callable[[Release], None] = lambda release: None,
) -> Preview:
    """Run a study on all rows of this hospital alone; ``progress`` is told each release as it is made.

    Nothing is sent, stored or charged. DataError where the table does not hold what the study asks.
    """
    looked = look_at(home, study, table)
    found: list[Release] = []
    ended = ""
    try:
        for release in releases(study, looked.reading.cohort, home.policy):
            found.append(release)
            progress(release)
    except WardroundError as error:
        ended = str(error)
    return Preview(study.name, tuple(found), ended, looked.refusals, looked.near)


def write_releases(folder: Path, found: Sequence[Release]) -> None:
    """Write each release's arrays as `ANALYSIS-INDEX.npz`, for the owner alone, all or none.

    Beside each array `NAME` stands `NAME.grid`, the integers that would be sealed.
    """
    written: list[Path] = []
    try:
        for one in found:
            arrays = {**one.values, **{f"{name}.grid": array for name, array in one.arrays.items()}}
            packed = io.BytesIO()
            np.savez(packed, allow_pickle=False, **arrays)
            written.append(folder / f"{one.analysis}-{one.index:04}.npz")
            write_private(written[-1], packed.getvalue())
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        raise
