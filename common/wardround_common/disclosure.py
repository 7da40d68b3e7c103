"""The rules of publication: whatever becomes public passes here, in results.json, report, console and logs.

- No count from 1 to ``min_cell`` - 1 (``Rules.count``): below 11 by the cell size suppression policy of the
  US Centers for Medicare and Medicaid Services, 8 at NHS England, 5 in OHDSI's network studies, 3 by
  DataSHIELD's `nfilter.tab`.
- Nor one that a row's known total would give away: what is hidden in a row adds up to ``min_cell``
  (complementary suppression, ``Rules.counts``).
- A tabulated count needs two contributing hospitals (threshold rule, ``Rules.counts``).
- A hospital that has nearly all rows answers nothing (dominance): only it knows its share, so this is a key
  of its own policy, `max_share`.
- A model leaves ``min_cell`` degrees of freedom (``check_freedom``) and has ten rows a term
  (``Plan.check_size``); DataSHIELD's `nfilter.glm` asks for three.
- A quantile has ``min_cell`` rows on either side (``may_show_quantile``); no minimum and no maximum is shown.
- Three states: a value; null where it is suppressed; `"state": "refused"` (``refused``).
- Counts are multiples of ``round_to``, once small ones are suppressed, and rates no finer (``disclosed``;
  NHS England: 5).

The sums themselves are not held by these rules: coordinator and members see them (SECURITY.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

FEW: Final = "too few rows, or rows of too few hospitals"
_COUNTS: Final = {
    *("n", "n_missing", "rows", "read", "missing", "not_in_cohort", "out_of_range"),
    *("observed", "empty", "coded_missing", "events", "df"),
}
_BY_LEVEL: Final = "levels"  # counts by a category's level
_RATES: Final = {
    *("prevalence", "accuracy", "brier", "sensitivity", "specificity", "observed", "predicted"),
    *("tpr", "fpr", "precision", "net_benefit"),
}


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


def disclosed(results: Mapping[str, Any], rules: Rules) -> dict[str, Any]:
    """Return results.json's object as it may be shown: counts, already suppressed, rounded with their rates.

    With ``round_to`` 1 nothing changes. Rounded counts need not add up.
    """
    if rules.round_to == 1:
        return dict(results)
    return {
        key: _rounded(value, key, rules.round_to) if key in ("rows", "flow", "analyses") else value
        for key, value in results.items()
    }


def _rounded(value: Any, key: str, to: int) -> Any:
    if isinstance(value, Mapping):
        inside = "n" if key == _BY_LEVEL else None
        return {name: _rounded(one, inside or name, to) for name, one in value.items()}
    if isinstance(value, list):
        return [_rounded(one, key, to) for one in value]
    if isinstance(value, int) and not isinstance(value, bool) and key in _COUNTS:
        return _multiple(value, to)
    return round(value, 2) if isinstance(value, float) and key in _RATES else value


def _multiple(count: int, of: int) -> int:
    """Return the nearest multiple, the upper one of two that are equally near."""
    return (2 * count + of) // (2 * of) * of
