"""The cohort: flow chart, what became of each variable's values, and Table 1."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wardround_server.report.forms import (
    NOT_SHOWN,
    SUPPRESSED,
    count,
    fixed,
    foreign,
    is_number,
    listing,
    many,
    percent,
    places_for,
)
from wardround_server.report.names import Names
from wardround_server.report.parts import Row, Table, row
from wardround_server.report.words import NOT_SHOWN_NOTE, SUPPRESSED_NOTE

MOST_LEVELS = 30
ABSENT = (SUPPRESSED, NOT_SHOWN, "refused")  # what stands where no figure does


@dataclass(frozen=True)
class Box:
    """A box of the flow chart: a title, a figure, and lines beneath."""

    title: str
    figure: str
    lines: tuple[str, ...] = ()


@dataclass(frozen=True)
class Flow:
    """The chart: ``read``, then what was ``excluded``, what is left, and the ``ends`` by analysis."""

    read: Box
    excluded: Box | None
    rows: Box
    ends: tuple[Box, ...]
    notes: tuple[str, ...]


def below(names: Names) -> str:
    """Return how a count reads that can only be a small one."""
    cell = (names.manifest.get("privacy") or {}).get("min_cell")
    return f"<{count(cell)}" if is_number(cell) else SUPPRESSED


def notes(names: Names, rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Return what the words for absent figures mean, where a table has them."""
    texts = {cell.text for one in rows for cell in one.cells}
    return absent_notes(names, texts)


def absent_notes(names: Names, texts: set[str]) -> tuple[str, ...]:
    """Return the notes that belong to the words among ``texts``."""
    cell, found = (names.manifest.get("privacy") or {}).get("min_cell"), []
    if any(SUPPRESSED in text for text in texts):
        last = count(cell - 1) if is_number(cell) else "a floor"
        found.append(SUPPRESSED_NOTE.format(last=last))
    if any(NOT_SHOWN in text for text in texts):
        found.append(NOT_SHOWN_NOTE)
    small = below(names)
    if small != SUPPRESSED and any(small in text for text in texts):
        found.append(f"{small}: at least 1 and fewer than {count(cell)}; small counts are not told exactly.")
    return tuple(found)


def flow(results: Mapping[str, Any], names: Names) -> Flow | None:
    """Return the cohort's flow chart."""
    found = results.get("flow")
    if not found:
        return None
    gone = found.get("excluded") or {}
    small = below(names)
    nulls = sum(value is None for value in gone.values())
    only = small if nulls == 1 else SUPPRESSED  # a lone null has no neighbour that it could stand for
    where = (names.manifest.get("cohort") or {}).get("where")
    reasons = [
        (f"outside the cohort ({foreign(str(where))})" if where else "outside the cohort", "not_in_cohort"),
        ("for a value outside its declared range", "out_of_range"),
    ]
    lines = tuple(
        f"{count(gone[key], only)} {text}" for text, key in reasons if key in gone and gone[key] != 0
    )
    known = [value for value in gone.values() if value is not None]
    total = count(sum(known)) if nulls == 0 else only if nulls == 1 and not any(known) else SUPPRESSED
    hospitals = many(len(results.get("hospitals") or ()), "hospital")
    read = Box(f"Rows in the tables of {hospitals}", count(found.get("read")))
    kept = Box("Rows in the study", count(found.get("rows")))
    ends = tuple(
        box for label, one in (results.get("analyses") or {}).items() if (box := _end(names, label, one))
    )
    excluded = Box("Excluded", total, lines) if gone else None
    texts = {read.figure, total, *lines, *(line for end in ends for line in (end.figure, *end.lines))}
    return Flow(read, excluded, kept, ends, absent_notes(names, texts))


def _end(names: Names, label: str, found: Mapping[str, Any]) -> Box | None:
    metrics = found.get("metrics") or {}
    if "n" not in found or ("variables" in found and "model" not in found):
        return None
    if names.kind(label) == "importance":
        return None
    lines = []
    held_out = (metrics.get("test") or {}).get("n")
    if "test" in metrics:
        lines.append(f"{count(held_out)} held out for testing")
    left = found.get("n_missing")
    if left != 0 and "n_missing" in found:
        lines.append(f"{count(left, below(names))} training rows left out as incomplete")
    return Box(names.analysis(label), f"{count(found['n'])} training rows", tuple(lines))


def abstaining(results: Mapping[str, Any], names: Names) -> list[str]:
    """Return a sentence for each analysis that hospitals abstained from, or were no longer there for."""
    gone = [
        f"{names.analysis(label)}: computed without {listing([foreign(str(one)) for one in who], 20)}, "
        "no longer in the study."
        for label, who in (results.get("left_out") or {}).items()
        if who
    ]
    floor = (names.manifest.get("privacy") or {}).get("min_rows")
    why = f" (fewer than {count(floor)} usable rows)" if is_number(floor) else ""
    return gone + [
        f"{names.analysis(label)}: {listing([foreign(str(one)) for one in who], 20)} abstained{why}."
        for label, who in (results.get("abstaining") or {}).items()
        if who
    ]


def values(results: Mapping[str, Any], names: Names) -> Table | None:
    """Return what became of each variable's values."""
    found = (results.get("flow") or {}).get("variables")
    if not found:
        return None
    keys = ("observed", "empty", "coded_missing", "out_of_range")
    rows = tuple(
        row(
            names.label(name),
            *(count(one.get(key)) for key in keys),
            count(one.get("hospitals")),
            absent=(SUPPRESSED,),
        )
        for name, one in found.items()
    )
    head = ("Variable", "Observed", "Empty", "Coded as missing", "Out of range", "Hospitals that have it")
    return Table("What became of each variable's values", head, rows, notes(names, rows), folded=True)


def table_one(label: str, found: Mapping[str, Any], names: Names) -> Table:
    """Return Table 1: each variable with its figures over all rows of the study."""
    rows: list[Row] = []
    total = found.get("n")
    refused = []
    for name, one in (found.get("variables") or {}).items():
        if one.get("state") == "refused":
            rows.append(row(names.with_unit(name), "refused", "refused", kind="group", absent=("refused",)))
            refused.append(str(one.get("why", "")))
        elif one.get("kind") == "category":
            rows += _category(names, name, one, total)
        else:
            rows += _number(names, name, one, total)
    caption = "Table 1. All rows of the study"
    if is_number(total):
        caption += f" ({names.people(total)})"
    if label != "summary":
        caption += f": {foreign(label)}"
    made = tuple(rows)
    told = [f"refused: {foreign(why)}." for why in dict.fromkeys(refused) if why]
    told.append("Shares are of all rows, those with a missing value included. SD: standard deviation.")
    return Table(caption, ("Characteristic", "All hospitals", "Missing"), made, (*told, *notes(names, made)))


def _number(names: Names, name: str, one: Mapping[str, Any], total: Any) -> list[Row]:
    places, quantiles = places_for(one.get("sd")), one.get("quantiles") or {}
    n, missing = one.get("n"), one.get("missing")
    # a number is shown only with min_cell observed rows, so of the two it is `missing` that is small
    lacking = _share(missing, total, below(names) if n is None else SUPPRESSED)
    middle = fixed(quantiles.get("0.5"), places)
    ends = [fixed(quantiles.get(q), places) for q in ("0.25", "0.75")]
    absent = (SUPPRESSED, NOT_SHOWN)
    mean = fixed(one.get("mean"), places)
    if is_number(one.get("sd")):
        mean += f" ({fixed(one['sd'], places)})"
    rows = [
        row(names.with_unit(name), "", lacking, kind="group", absent=absent),
        row("mean (SD)", mean, "", kind="sub", absent=absent),
    ]
    if middle != NOT_SHOWN:
        told = f"{middle} [{ends[0]}, {ends[1]}]" if NOT_SHOWN not in ends else middle
        rows.append(row("median [quartiles]", told, "", kind="sub", absent=absent))
    return rows


def _category(names: Names, name: str, one: Mapping[str, Any], total: Any) -> list[Row]:
    levels = list((one.get("levels") or {}).items())
    rows = [
        row(names.with_unit(name), "", _share(one.get("missing"), total), kind="group", absent=(SUPPRESSED,))
    ]
    shown = levels
    if len(levels) > MOST_LEVELS + 10:
        order = sorted(range(len(levels)), key=lambda i: (-(levels[i][1] or 0), i))
        shown = [levels[i] for i in sorted(order[:MOST_LEVELS])]
    for level, n in shown:
        rows.append(row(foreign(str(level)), _share(n, total), "", kind="sub", absent=(SUPPRESSED,)))
    if len(shown) < len(levels):
        rest = len(levels) - len(shown)
        rows.append(row(f"{count(rest)} more levels", "in results.json", "", kind="sub"))
    return rows


def _share(n: Any, total: Any, hidden: str = SUPPRESSED) -> str:
    if not is_number(n):
        return hidden
    return f"{count(n)} ({percent(n / total, 1)})" if is_number(total) and total and n else count(n)
