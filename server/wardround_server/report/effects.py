"""What a model holds: its coefficients as a forest plot and in a table, and what its variables weigh."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wardround_server.report import charts
from wardround_server.report.drawing import Sheets
from wardround_server.report.forms import (
    count,
    fixed,
    foreign,
    interval,
    is_number,
    many,
    probability,
    ratio,
    significant,
)
from wardround_server.report.lines import Line, bars, forest
from wardround_server.report.names import EFFECTS, SHORT, Names
from wardround_server.report.parts import Block, Cell, Found, Picture, Row, Table, row
from wardround_server.report.tables import ABSENT, notes

MOST_LINES = 40  # of a chart; tables hold all


def coefficients(
    sheets: Sheets, names: Names, label: str, found: Mapping[str, Found], outcome: str | None
) -> Block:
    """Return a model's coefficients as a forest plot and exactly."""
    kind = names.kind(label)
    effect = EFFECTS.get(kind) or ("Odds ratio" if names.two_levels(outcome) else "")
    factor = bool(effect)
    slopes = [(term, one) for term, one in found.items() if term != "intercept"]
    lines = [_line(names, term, one, factor) for term, one in slopes]
    lines = [line for line in lines if line.value is not None]
    strongest = sorted(range(len(lines)), key=lambda i: -_strength(lines[i], factor))
    shown = [lines[i] for i in sorted(strongest[:MOST_LINES])]
    unit = f", {names.unit(outcome)}" if outcome and names.unit(outcome) else ""
    axis = f"{effect} (log scale)" if factor else f"Difference in the outcome{unit}"
    text = (
        f"{effect}: above 1, the outcome is more likely, below 1 less."
        if factor
        else "Difference of the expected outcome."
    )
    text += " Numbers are told per step of about a standard deviation, named beside them."
    if any(line.low is not None for line in lines):
        text += (
            f" Lines are 95 % intervals; one that crosses {1 if factor else 0} is compatible with no "
            "association, and an arrow says that it goes on beyond the picture."
        )
    if len(shown) < len(lines):
        text += f" Shown are the {len(shown)} of {len(lines)} with the clearest effect; the table has all."
    pictures: tuple[Picture, ...] = ()
    if shown:
        says = f"Forest plot of {len(shown)} coefficients. " + "; ".join(
            f"{line.name}: {line.figures}" for line in shown[:12]
        )
        pictures = (
            Picture(
                forest(sheets, shown, axis, says, factor), f"{effect}s" if factor else "Differences", text
            ),
        )
    return Block("Coefficients", pictures=pictures, tables=(_exact(names, found),))


def _line(names: Names, term: str, one: Found, factor: bool) -> Line:
    """Return a coefficient per its step; as a ``factor`` (of odds, rates or hazards) or a difference."""
    step, value = names.step(term), one.get("value")
    name = f"{names.term(term, SHORT)}, {told}" if (told := names.steps(term)) else names.term(term, SHORT)

    def put(x: Any) -> float | None:
        if not is_number(x):
            return None
        return math.exp(min(max(x * step, -600.0), 600.0)) if factor else x * step

    middle, low, high = put(value), put(one.get("low")), put(one.get("high"))
    if middle is None or low is None or high is None:
        return Line(name, ratio(middle) if factor else significant(middle, 2), middle)
    if factor:
        return Line(name, f"{ratio(middle)} ({ratio(low)}–{ratio(high)})", middle, low, high)
    return Line(name, f"{significant(middle, 2)} ({interval(low, high, 2)})", middle, low, high)


def _strength(line: Line, factor: bool) -> float:
    """Return |estimate| over its interval's width, or where there is none, |estimate|."""
    middle, *ends = (x if x is None or not factor else math.log(x) for x in (line.value, line.low, line.high))
    size = abs(middle or 0.0)
    low, high = ends
    return size / (high - low) if low is not None and high is not None and high > low else size


def _exact(names: Names, found: Mapping[str, Found]) -> Table:
    rows: list[Row] = []
    for term, one in found.items():
        name = Cell(names.term(term), foreign(term))
        if one.get("aliased") or not is_number(one.get("value")):
            rows.append(row(name, Cell("not estimated", absent=True), "", ""))
            continue
        errors = is_number(one.get("se"))
        rows.append(
            row(
                name,
                Cell(
                    significant(one["value"], 6),
                    interval(one.get("low"), one.get("high"), 4) if errors else "",
                ),
                significant(one.get("se"), 4) if errors else "",
                probability(one.get("p")) if errors else "",
            )
        )
    told = ["In the variables' own units, per 1 of them; to six digits here, in full in results.json."]
    if any("not estimated" in (cell.text for cell in one.cells) for one in rows):
        told.append("not estimated: occurs in no training row, or cannot be told from other terms.")
    if not any(is_number(one.get("se")) for one in found.values()):
        told.append("This way of learning gives no standard errors.")
        return Table(
            "Coefficients, exactly",
            ("Term", "Coefficient"),
            tuple(Row(one.cells[:2]) for one in rows),
            tuple(told),
        )
    head = ("Term", "Coefficient and 95 % interval", "Standard error", "p")
    return Table("Coefficients, exactly", head, tuple(rows), tuple(told), folded=len(rows) > 60)


def importance(sheets: Sheets, names: Names, label: str, found: Found) -> Block:
    """Return the importance of a model's variables as bars with their spread, and as a table."""
    metric = {"auc": "AUC", "r2": "R²"}.get(
        str(found.get("metric")), foreign(str(found.get("metric", "score")))
    )
    title = "What the model leans on"
    if label not in ("importance", f"{found.get('model')} importance"):
        title += f" ({foreign(label)})"
    if found.get("state") == "refused":
        return Block(title, (f"Refused: {foreign(str(found.get('why') or 'no reason is given'))}.",))
    known = [(name, one) for name, one in (found.get("variables") or {}).items()]
    known.sort(key=lambda pair: -pair[1]["drop"] if is_number(pair[1].get("drop")) else math.inf)
    lines: list[Line] = []
    rows: list[Row] = []
    for name, one in known:
        drop, sd = one.get("drop"), one.get("sd")
        if is_number(drop) and len(lines) < MOST_LINES:
            low, high = (drop - sd, drop + sd) if is_number(sd) else (None, None)
            figures = f"{fixed(drop)} ± {fixed(sd)}" if is_number(sd) else fixed(drop)
            lines.append(Line(names.label(name), figures, drop, low, high))
        rows.append(row(names.label(name), fixed(drop, 4), fixed(sd, 4), absent=ABSENT))
    base = f" from {fixed(found['baseline'])}" if is_number(found.get("baseline")) else ""
    part = charts.NAMES.get(str(found.get("part")), foreign(str(found.get("part", "")))).lower()
    text = (
        f"How far the {metric} falls{base} when one variable's values are redrawn at random, so that they "
        f"tell nothing any more: mean ± standard deviation over {many(found.get('repeats'), 'draw')}, on "
        f"{count(found.get('n'))} {part or 'rows'}. Variables that carry the same information share it "
        "between them."
    )
    made = tuple(rows)
    pictures: tuple[Picture, ...] = ()
    if lines:
        says = "Importance: " + "; ".join(f"{line.name} {line.figures}" for line in lines[:12])
        pictures = (Picture(bars(sheets, lines, f"Fall of the {metric}", says), "Importance", text),)
    table = Table(f"Fall of the {metric}", ("Variable", "Mean", "SD"), made, notes(names, made))
    return Block(title, () if lines else (text,), (), pictures, (table,))
