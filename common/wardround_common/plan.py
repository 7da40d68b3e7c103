"""A whole study as one program: cohort flow, then all analyses side by side, then what stands on them.

Both the coordinator and, from its sums, any member can run it; it has no other input. The checks on
rows and hospitals that need the sealed counts are made here, before an analysis asks anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from wardround_common.analyses import QUERIES
from wardround_common.analyses.evaluate import EvaluateSpec, Evaluation, evaluate
from wardround_common.analyses.fedavg import plain_mean
from wardround_common.analyses.flow import LABEL, Flow, FlowQuery
from wardround_common.analysis import (
    AnalysisSpec,
    Fitted,
    ModelResult,
    ModelSpec,
    OnModelSpec,
    Part,
    Plan,
    Result,
    Rows,
    Strategies,
)
from wardround_common.design import Design, Factor, Term
from wardround_common.errors import StudyError, listed
from wardround_common.evaluation.residuals import Residuals
from wardround_common.local_training import Training
from wardround_common.models import LinearModel, LogisticModel, NetworkModel
from wardround_common.program import Asked, Program, StudyProgram, ask, together, under
from wardround_common.query import Query
from wardround_common.sealing.fixed_point import power_of_two_above
from wardround_common.study import KINDS, Study
from wardround_common.trees import Bins, ForestModel, Trees
from wardround_common.wire import Registry

MODELS = (LogisticModel, LinearModel, NetworkModel, ForestModel)
QUERY_RECORDS = Registry((*QUERIES, Rows, Design, Term, Factor, Bins, Trees, Training, *MODELS, Asked))


@dataclass(frozen=True)
class Finding:
    """One analysis's result, with its model's evaluations and how many queries they took."""

    result: Result | None
    evaluations: tuple[Evaluation | Residuals, ...] = ()
    rounds: int = 0


@dataclass(frozen=True)
class Findings:
    """All results of a study, not yet fit to be published."""

    flow: Flow
    analyses: Mapping[str, Finding] = field(default_factory=dict)


@dataclass
class Course:
    """What a program leaves to the one that takes its place when other hospitals compute together.

    ``finished``: analyses that are kept; ``latest``: the last query of each but for its evaluation, from
    which it may go on; ``flow``: the counts over the hospitals that compute now, once they are known.
    """

    finished: dict[str, Finding] = field(default_factory=dict)
    latest: dict[str, Query[Any]] = field(default_factory=dict)
    flow: Flow | None = None

    def change(self, study: Study) -> None:
        """Prepare for other hospitals. StudyError if an analysis that is not finished can't have them."""
        for spec in study.analyses:
            if spec.label in self.finished:
                continue
            if spec.on_change == "fail":
                raise StudyError(
                    f"analysis `{spec.label}`: other hospitals take part than before, and it says "
                    "`on_change: fail`; begin anew: wardround coordinator launch --again"
                )
            if spec.on_change == "restart":
                self.latest.pop(spec.label, None)

    def start(self, spec: AnalysisSpec) -> Query[Any] | None:
        """Return the query from which an analysis goes on."""
        return self.latest.get(spec.label) if spec.on_change == "continue" else None


def study_program(
    study: Study, strategies: Strategies = plain_mean, course: Course | None = None
) -> StudyProgram[Findings]:
    """Ask the flow, then every analysis. StudyError or FitError where the federation can't answer.

    ``strategies`` makes the server steps of federated averaging; the default knows the plain mean only.
    ``course`` is where it goes on from, after a change of hospitals, and what it leaves to another.
    """
    specs, course = study.analyses, course or Course()
    names = tuple(sorted(study.variables))  # the manifest, being canonical, does not know the file's order
    query = FlowQuery(names, tuple(spec.label for spec in specs), tuple(spec.needed() for spec in specs))
    flow = course.flow = yield from under(LABEL, study.max_rows, ask(query))
    if not flow.rows:
        raise StudyError("no hospital has a row in the cohort; see `cohort.where` and `out_of_range`")
    todo = [spec for spec in specs if spec.label not in course.finished]
    plans = {spec.label: _plan(study, spec, flow, strategies, course.start(spec)) for spec in todo}
    bound = power_of_two_above(flow.rows)

    def run(spec: AnalysisSpec, program: Program[Finding]) -> StudyProgram[None]:
        course.finished[spec.label] = yield from under(spec.label, bound, _counted(program))

    first = [spec for spec in todo if not isinstance(spec, OnModelSpec)]
    yield from _side_by_side([run(spec, _analysis(plans[spec.label], spec)) for spec in first])
    fitted = {
        spec.label: _fitted(spec, course.finished[spec.label])
        for spec in specs
        if isinstance(spec, ModelSpec)
    }
    later = [spec for spec in todo if isinstance(spec, OnModelSpec)]
    yield from _side_by_side(
        [run(spec, _on_model(plans[spec.label], spec, fitted[spec.model])) for spec in later]
    )
    return Findings(flow, {spec.label: course.finished[spec.label] for spec in specs})


def _side_by_side(programs: list[StudyProgram[None]]) -> StudyProgram[None]:
    yield from together(programs)  # type: ignore[arg-type, misc]


def _counted(program: Program[Finding]) -> Program[Finding]:
    """Run a program and note how many queries it asked."""
    rounds, sums = 0, None
    while True:
        try:
            queries = next(program) if sums is None else program.send(sums)
        except StopIteration as stop:
            return Finding(stop.value.result, stop.value.evaluations, rounds)
        rounds += 1
        sums = yield queries


def _analysis(plan: Plan, spec: AnalysisSpec) -> Program[Finding]:
    program = KINDS[spec.kind].program
    if program is None:
        raise StudyError(f"analysis `{plan.label}`: a `{spec.kind}` stands on another analysis")
    result = yield from program(plan, spec)
    if not isinstance(spec, ModelSpec):
        return Finding(result)
    parts: tuple[Part, ...] = ("train", "test") if plan.usable.test else ("train",)
    fitted = _fitted(spec, Finding(result))
    found = yield from together(
        [evaluate(plan, Rows(part, fitted.needed), fitted, spec.threshold, spec.subgroups) for part in parts]
    )
    return Finding(result, tuple(one for one in found if one is not None))


def _fitted(spec: ModelSpec, finding: Finding) -> Fitted:
    result = cast("ModelResult", finding.result)
    return Fitted(result.model, str(spec.outcome), result.outcome_mean, spec.needed())


def _on_model(plan: Plan, spec: OnModelSpec, fitted: Fitted) -> Program[Finding]:
    program = KINDS[spec.kind].on_model
    if program is None:
        raise StudyError(f"analysis `{plan.label}`: a `{spec.kind}` does not stand on a model")
    found = yield from program(plan, spec, Rows(spec.part, fitted.needed), fitted)
    return Finding(None, (found,)) if isinstance(spec, EvaluateSpec) else Finding(found)


def _plan(
    study: Study, spec: AnalysisSpec, flow: Flow, strategies: Strategies, start: Query[Any] | None
) -> Plan:
    """Check rows and hospitals for one analysis and return what its program may know."""
    usable, privacy = flow.usable[spec.label], study.privacy
    few = [name for name in spec.required() if flow.hospitals[name] < privacy.min_hospitals]
    if few:
        counts = ", ".join(f"`{name}` at {flow.hospitals[name]}" for name in few[:6])
        raise StudyError(
            f"analysis `{spec.label}`: observed at too few hospitals: {counts}; "
            f"`privacy.min_hospitals` is {privacy.min_hospitals}; take {listed(few)} out of the analysis"
        )
    if KINDS[spec.kind].is_model and not usable.train:
        raise StudyError(
            f"analysis `{spec.label}`: no training row has all of {listed(spec.needed())}; "
            "see `missing`, `split` and `cohort.where`"
        )
    if KINDS[spec.kind].is_model and study.split is not None and not usable.test:
        raise StudyError(
            f"analysis `{spec.label}`: no row with all of {listed(spec.needed())} is held out; see `split`"
        )
    return Plan(
        *(spec.label, study.dictionary, privacy.min_hospitals, privacy.min_cell, usable, strategies),
        start=start,
    )
