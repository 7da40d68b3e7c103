"""Evaluation of a fitted model on training or held-out rows, from sums alone.

One round counts rows by outcome and score and sums the Brier score. The confusion table and the area under
the ROC curve (Hanley and McNeil 1982) follow from the counts, ties within one counting half. Further rounds
fit the calibration line, fill the bands from which calibration table and curves are drawn, and ask the
subgroups. A regression takes one round.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from pydantic import Field as Key

from wardround_common.analysis import (
    DEFAULT_THRESHOLD,
    Analysis,
    Fitted,
    OnModelSpec,
    Plan,
    Rows,
    SmallCells,
    Subgroups,
    Threshold,
    check_subgroups,
)
from wardround_common.dictionary import Dictionary
from wardround_common.disclosure import NOTHING, Figures, KeptBack, RowsOf, refused
from wardround_common.errors import StudyError, listed
from wardround_common.evaluation.bands import Bands, BandsQuery, StepsQuery, bands, curves
from wardround_common.evaluation.calibration import CalibrationStep, calibration
from wardround_common.evaluation.residuals import Residuals, ResidualsQuery, residuals
from wardround_common.evaluation.scores import CELLS, FinerQuery, ScoresQuery, area
from wardround_common.evaluation.subgroups import Division, SubgroupsQuery, subgroups
from wardround_common.models import LinearModel
from wardround_common.program import Program, ask, together

_PARTS = {"train": "training", "test": "held-out"}


class EvaluateSpec(OnModelSpec):
    """Evaluate ``model`` again: another ``threshold``, ``subgroups``, or another part of the rows."""

    kind: Literal["evaluate"] = "evaluate"
    threshold: Threshold | None = None
    subgroups: Subgroups = Key(default_factory=dict)

    def sentence(self) -> str:
        """As for any analysis."""
        groups = f", also within groups by {listed(self.subgroups)}" if self.subgroups else ""
        return f"How well the model of `{self.model}` predicts on the {_PARTS[self.part]} rows{groups}."

    def check(self, dictionary: Dictionary) -> None:
        """Raise ValueError where the subgroups don't suit the dictionary."""
        check_subgroups(self.subgroups, dictionary)


@dataclass(frozen=True)
class Evaluation:
    """Figures of one model on one part. ``calibration``: intercept and slope, None where there is none."""

    part: str
    threshold: float
    confusion: tuple[tuple[int, int], tuple[int, int]]  # by outcome, then by call
    hospitals: tuple[int, int]  # that have rows without, with the outcome
    auc: float | None
    brier: float
    calibration: tuple[float, float] | None
    bands: Bands
    divisions: tuple[Division, ...]
    min_hospitals: int

    @property
    def n(self) -> int:
        """Rows."""
        return sum(map(sum, self.confusion))

    @property
    def outcomes(self) -> tuple[int, int]:
        """Rows without and with the outcome."""
        return sum(self.confusion[0]), sum(self.confusion[1])

    def published(self, small: SmallCells, kept: KeptBack = NOTHING) -> dict[str, Any]:
        """Return the metrics; refused on fewer than ``min_cell`` rows, or rows of too few hospitals.

        ``kept`` is what would tell of few beside other analyses' figures. Sensitivity and specificity are
        rows of a table of counts and need all four to be shown; accuracy is a row of two.
        """
        (tn, fp), (fn, tp) = self.confusion
        negatives, positives = self.outcomes
        if self.n < small.min_cell or max(self.hospitals) < self.min_hospitals:
            return {"n": None, **refused()}
        both = min(positives, negatives) >= small.min_cell and min(self.hospitals) >= 2
        both = both and not kept.outcomes
        line, calls = self.calibration if both else None, [small.count(tp + tn), small.count(fp + fn)]
        shown = self.bands.shown(small.min_cell) if both else Bands(0, ())
        all_four = shown.below > 0 and not kept.calls
        if kept.outcomes or kept.calls or (self.bands.below and not all_four):
            calls = [None]  # a step may end at the threshold and tell the rest
        drawn = Bands(0, ()) if kept.curves else shown.apart(kept.beside, small.min_cell)
        return {
            "n": self.n,
            "prevalence": positives / self.n if both else None,
            "auc": self.auc if both else None,
            "accuracy": (tp + tn) / self.n if None not in calls else None,
            "brier": self.brier,
            "threshold": self.threshold,
            "sensitivity": tp / positives if all_four else None,
            "specificity": tn / negatives if all_four else None,
            "calibration_intercept": None if line is None else line[0],
            "calibration_slope": None if line is None else line[1],
            "calibration": [band.published() for band in drawn.bands if sum(band.counts)],
            "curves": curves(drawn, small.min_cell, kept.beside),
            "subgroups": {
                one.variable: one.refused()
                if kept.outcomes or one.variable in kept.groups
                else one.published(small, one.variable not in kept.group_calls)
                for one in self.divisions
            },
        }

    def figures(self, small: SmallCells, of: RowsOf, model: str) -> Figures:
        """Return the counts of rows that the metrics tell; ``model`` is told from others by this name."""
        (tn, _), (fn, _) = self.confusion
        below = (tn, fn) if self.published(small).get("sensitivity") is not None else None
        groups = {one.variable: one.places() for one in self.divisions}
        return Figures(of, model, self.threshold, self.outcomes, below, groups)


def evaluate(
    plan: Plan, rows: Rows, fitted: Fitted, threshold: float | None, groups: Subgroups
) -> Program[Evaluation | Residuals | None]:
    """Evaluate a model on the rows; None where there are none."""
    model, outcome = fitted.model, fitted.outcome
    if isinstance(model, LinearModel) or not model.classifies:
        found = yield from residuals(plan, rows, outcome, model, fitted.outcome_mean)
        return found
    at = DEFAULT_THRESHOLD if threshold is None else threshold
    scores = yield from ask(ScoresQuery(rows, outcome, model))
    cells, first = scores.arrays["cells"], round(at * CELLS)
    (tn, fn), (fp, tp) = cells[:, :first].sum(axis=1).tolist(), cells[:, first:].sum(axis=1).tolist()
    n = tn + fp + fn + tp
    if not n:
        return None
    auc, line, divided, divisions = None, None, Bands(0, ()), []
    if min(fn + tp, tn + fp) > 0:
        auc, line, divided, divisions = yield from together(
            [
                area(rows, outcome, model, cells),
                calibration(rows, outcome, model),
                bands(rows, outcome, model, cells, first, plan.min_cell),
                subgroups(plan, rows, outcome, model, at, groups),
            ]
        )
    few, many = map(int, scores.contributors["outcomes"])
    return Evaluation(
        rows.part,
        at,
        ((tn, fp), (fn, tp)),
        (few, many),
        auc,
        scores.number("brier") / n,
        line,
        divided,
        tuple(divisions),
        plan.min_hospitals,
    )


def again(plan: Plan, spec: EvaluateSpec, rows: Rows, fitted: Fitted) -> Program[Evaluation | Residuals]:
    """Run an entry `{kind: evaluate}` of the study. StudyError where the part has no rows."""
    found = yield from evaluate(plan, rows, fitted, spec.threshold, spec.subgroups)
    if found is None:
        raise StudyError(f"analysis `{plan.label}`: there are no {spec.part} rows; the study has no `split`")
    return found


def published_all(
    small: SmallCells, found: Sequence[Evaluation | Residuals], kept: Mapping[str, KeptBack] | None = None
) -> dict[str, Any]:
    """Return the `metrics` object of a model: by part of the rows. ``kept``: what is kept back, by part."""
    return {
        one.part: one.published(small, (kept or {}).get(one.part, NOTHING))
        if isinstance(one, Evaluation)
        else one.published(small)
        for one in found
    }


ANALYSIS = Analysis(
    "evaluate",
    EvaluateSpec,
    (ScoresQuery, FinerQuery, CalibrationStep, BandsQuery, StepsQuery, SubgroupsQuery, ResidualsQuery),
    None,
    on_model=again,
)
