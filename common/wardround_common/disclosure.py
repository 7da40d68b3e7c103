"""The rules of publication: whatever becomes public passes here, in results.json, report, console and logs.

| rule | source | held by |
|---|---|---|
| no count from 1 to ``min_cell`` - 1 | CMS below 11, NHS 1 to 7, OHDSI 5, `nfilter.tab` 3 | ``Rules.count`` |
| none that a known total gives away: what is hidden adds up to ``min_cell`` | as above | ``Rules.counts`` |
| the same for groups by outcome and call | as above | ``evaluation/subgroups.py``, ``bands.py`` |
| a tabulated count needs two contributing hospitals | threshold rule | ``Rules.counts`` |
| a hospital with nearly all rows answers nothing | dominance | its policy's `max_share`, at its gate |
| a model leaves ``min_cell`` degrees of freedom | `nfilter.glm` | ``check_freedom`` |
| and has ten rows a term | `nfilter.glm`: three rows a term | ``Plan.check_size`` |
| a quantile has ``min_cell`` rows on either side; no extreme is shown | NHS | ``may_show_quantile`` |
| two analyses don't differ by a small count | differencing | ``kept_back``; row sets, at each hospital |
| null is suppressed, `"state": "refused"` is no figure at all | | ``refused`` |
| small counts are suppressed, then all rounded to ``round_to``, rates no finer | NHS: 5 | ``disclosed`` |

CMS: cell size suppression policy of the US Centers for Medicare and Medicaid Services; NHS: disclosure
control of NHS England; OHDSI: minimum cell count of its network studies; `nfilter`: DataSHIELD's settings.
Sums don't tell one hospital's share, so each checks its own against the verified total.

The sums themselves are not held by these rules: coordinator and members see them (SECURITY.md). Nor does
``kept_back`` know of models that are nearly the same, and of row sets of which none contains another.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, Final, NamedTuple

FEW: Final = "too few rows, or rows of too few hospitals"
_COUNTS: Final = {
    *("n", "n_missing", "rows", "read", "missing", "not_in_cohort", "out_of_range"),
    *("observed", "empty", "coded_missing", "events", "df"),
}
_BY_LEVEL: Final = "levels"  # counts by a category's level
_OF_ALL: Final = {"prevalence", "accuracy", "brier", "observed", "predicted", "net_benefit"}
_OF_POSITIVES: Final = {"sensitivity", "tpr"}
_OF_NEGATIVES: Final = {"specificity", "fpr"}
_AREAS: Final = {"auc", "baseline", "drop"}  # whose digits would tell the numbers of rows of either outcome
_STEPS: Final = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)


@dataclass(frozen=True)
class Rules:
    """The small-cell rules; see ``wardround_common.analysis.SmallCells``."""

    min_cell: int
    round_to: int = 1

    def count(self, count: int) -> int | None:
        """Return the count, or None where 0 < count < min_cell."""
        return None if 0 < count < self.min_cell else count

    def counts(self, counts: Sequence[int], hospitals: Sequence[int] | None = None) -> list[int | None]:
        """Return a row of counts with known total, some as None; what is None adds up to ``min_cell``."""
        found = list(hospitals) if hospitals is not None else [2] * len(counts)
        shown = [
            None if n < 2 and count else self.count(count) for count, n in zip(counts, found, strict=True)
        ]
        while None in shown:
            hidden = [count for count, one in zip(counts, shown, strict=True) if one is None]
            rest = [(count, i) for i, count in enumerate(counts) if shown[i]]
            if not rest or (len(hidden) > 1 and sum(hidden) >= self.min_cell):
                break
            shown[min(rest)[1]] = None
        return shown


def refused(why: str = FEW) -> dict[str, Any]:
    """Return the third state: what is neither a value nor a null that hides one."""
    return {"state": "refused", "why": why}


def may_show_quantile(share: float, rows: int, min_cell: int) -> bool:
    """Tell whether at least ``min_cell`` of the rows lie on either side of a quantile."""
    below = share * rows
    return min(below, rows - below) >= min_cell


def check_freedom(terms: int, rows: int, min_cell: int) -> str | None:
    """Return why a model of so many terms is too near to its rows to be published, None if it is not."""
    if rows - terms >= min_cell:
        return None
    return f"{terms} terms for {rows} rows leave fewer than {min_cell} degrees of freedom"


Cuts = Mapping[float, int]  # how many rows lie below each of some places on a line


class RowsOf(NamedTuple):
    """Which rows figures are about: a part, those with a value in each of ``needed``."""

    part: str
    outcome: str
    needed: frozenset[str]


@dataclass(frozen=True)
class Figures:
    """The counts of rows that one evaluation would tell, always of either outcome apart.

    ``below``: rows below the ``threshold``, None where they don't follow from what it would tell; ``groups``
    are cut by a variable, all rows lie below infinity.
    """

    rows: RowsOf
    model: str = ""
    threshold: float = 0.0
    outcomes: tuple[int, int] = (0, 0)
    below: tuple[int, int] | None = None
    groups: Mapping[str, tuple[Cuts, Cuts]] = field(default_factory=dict)


@dataclass(frozen=True)
class KeptBack:
    """What an evaluation may not tell beside the other analyses' figures.

    Nothing by outcome; nothing by call; no curves, since another entry has them; groups, and calls by group.
    ``beside``: how many rows lie below the thresholds of other entries, by outcome.
    """

    outcomes: bool = False
    calls: bool = False
    curves: bool = False
    groups: frozenset[str] = frozenset()
    group_calls: frozenset[str] = frozenset()
    beside: frozenset[tuple[int, int]] = frozenset()


NOTHING: Final = KeptBack()


def kept_back(figures: Sequence[Figures], min_cell: int) -> list[KeptBack]:
    """Return what each is to keep back, in order: who comes later gives way to what was told before.

    Thresholds come before curves, which only the first entry of a model and part draws.
    """
    told: list[tuple[Figures, KeptBack]] = []
    for new in figures:
        others = [(one, kept) for one, kept in told if not kept.outcomes and _nested(one.rows, new.rows)]
        outcomes = any(_differ(_totals(one), _totals(new), min_cell) for one, _ in others)
        same = [(one, kept) for one, kept in others if _is_same(one, new)]
        groups, group_calls = _groups_kept(new, others, min_cell)
        found = KeptBack(
            outcomes,
            any(_calls_kept(new, one, min_cell) for one, kept in same if not kept.calls),
            bool(same) and same[0][0].threshold != new.threshold,
            groups,
            group_calls,
        )
        told.append((new, found))
    return [_beside(one, kept, told) for one, kept in told]


def _calls_kept(new: Figures, one: Figures, min_cell: int) -> bool:
    """Tell whether few rows lie between two thresholds, or not all is known of one's."""
    if new.threshold == one.threshold:
        return False
    if new.below is None or one.below is None:
        return True
    return is_near(new.below, [one.below], min_cell)


def _groups_kept(
    new: Figures, others: Sequence[tuple[Figures, KeptBack]], min_cell: int
) -> tuple[frozenset[str], frozenset[str]]:
    groups, calls = set(), set()
    for name, own in new.groups.items():
        for one, kept in others:
            if name not in one.groups or name in kept.groups:
                continue
            before = one.groups[name]
            if (_near if one.rows == new.rows else _differ)(before, own, min_cell):
                groups.add(name)
            as_before = one.threshold == new.threshold and before == own
            if one.model == new.model and name not in kept.group_calls and not as_before:
                calls.add(name)
    return frozenset(groups), frozenset(calls)


def _beside(one: Figures, kept: KeptBack, told: Sequence[tuple[Figures, KeptBack]]) -> KeptBack:
    found = [
        other.below
        for other, its in told
        if _is_same(one, other) and other.threshold != one.threshold and not (its.calls or its.outcomes)
    ]
    return replace(kept, beside=frozenset(below for below in found if below is not None))


def is_near(below: Sequence[int], others: Iterable[Sequence[int]], min_cell: int) -> bool:
    """Tell whether 1 to ``min_cell`` - 1 rows of an outcome lie between a cut and one of ``others``."""
    return any(_few(x - y, min_cell) for other in others for x, y in zip(below, other, strict=True))


def _is_same(one: Figures, other: Figures) -> bool:
    return one.rows == other.rows and one.model == other.model


def _nested(one: RowsOf, other: RowsOf) -> bool:
    """Tell whether the rows of one are among the other's, so that differences are counts."""
    nested = one.needed <= other.needed or other.needed <= one.needed
    return one[:2] == other[:2] and nested


def _totals(one: Figures) -> tuple[Cuts, Cuts]:
    return {math.inf: one.outcomes[0]}, {math.inf: one.outcomes[1]}


def _near(these: tuple[Cuts, Cuts], those: tuple[Cuts, Cuts], min_cell: int) -> bool:
    """Tell whether 1 to ``min_cell`` - 1 of the same rows lie between a cut of these and one of those.

    Figures with the same cuts tell nothing anew. What is all below, or none, is known beside both.
    """
    if these == those:
        return False
    return any(
        _few(above - below, min_cell)
        for one, other in zip(these, those, strict=True)
        for below in _inner(one)
        for above in _inner(other)
    )


def _inner(cuts: Cuts) -> Iterable[int]:
    return [rows for place, rows in cuts.items() if 0 < place < math.inf]


def _differ(these: tuple[Cuts, Cuts], those: tuple[Cuts, Cuts], min_cell: int) -> bool:
    """Tell whether rows that only one has are 1 to ``min_cell`` - 1 between two cuts that both have."""
    for one, other in zip(these, those, strict=True):
        common = sorted(one.keys() & other.keys())
        more = [0, *(one[place] - other[place] for place in common)]
        if any(_few(high - low, min_cell) for low, high in pairwise(more)):
            return True
    return False


def _few(rows: int, min_cell: int) -> bool:
    return 0 < abs(rows) < min_cell


def disclosed(results: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return results.json's object as it may be shown: counts, already suppressed, rounded with their rates.

    With ``round_to`` 1 nothing changes. Rounded counts need not add up. A rate has two decimals at most, and
    steps of at least ``round_to`` rows in the rows that it is a rate of; an area three decimals.
    """
    if rules.round_to == 1:
        return dict(results)
    return {
        key: _rounded(value, key, rules.round_to) if key in ("rows", "flow", "analyses") else value
        for key, value in results.items()
    }


class _Of(NamedTuple):
    """The rows of which rates are rates."""

    n: float = 1.0
    positives: float = 1.0
    negatives: float = 1.0


_NO_RATE: Final = _Of()


def _rounded(value: Any, key: str, to: int, of: _Of = _NO_RATE) -> Any:
    if isinstance(value, Mapping):
        inside = "n" if key == _BY_LEVEL else None
        of = _denominators(value, of)
        found = {name: _rounded(one, inside or name, to, of) for name, one in value.items()}
        if key == "curves":
            above = [
                tpr * of.positives + fpr * of.negatives
                for tpr, fpr in zip(value["tpr"], value["fpr"], strict=True)
            ]
            found["precision"] = [_rate(one, to, n) for one, n in zip(value["precision"], above, strict=True)]
        return found
    if isinstance(value, list):
        return [_rounded(one, key, to, of) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and key in _COUNTS:
        return _multiple(value, to)
    if not isinstance(value, float):
        return value
    for names, rows in ((_OF_ALL, of.n), (_OF_POSITIVES, of.positives), (_OF_NEGATIVES, of.negatives)):
        if key in names:
            return _rate(value, to, rows)
    return round(value, 3) if key in _AREAS else value


def _denominators(found: Mapping[str, Any], outer: _Of) -> _Of:
    """Return the rows behind an object's rates, not rounded; without `n` they are its outer's."""
    n = found.get("n")
    if not isinstance(n, int):
        return outer
    share = found.get("prevalence", found.get("observed"))
    positives = n * share if isinstance(share, float) else n
    return _Of(n, positives, n - positives)


def _rate(value: float, to: int, rows: float) -> float:
    """Return the rate in steps of ``to`` of the rows at least."""
    step = next((step for step in _STEPS if step * rows >= to), _STEPS[-1])
    return round(round(value / step) * step, 2)


def _multiple(count: int, of: int) -> int:
    """Return the nearest multiple, the upper one of two that are equally near."""
    return (2 * count + of) // (2 * of) * of
