"""A check of tables against a study, on a terminal and for machines; counts below eleven are not told."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from wardround_client.study_tools.check import Cells, HospitalCheck, StudyCheck
from wardround_client.study_tools.small import known, share, shown

_CELL = 14  # columns of a terminal that one hospital takes


def described(found: StudyCheck) -> dict[str, Any]:
    """Return a check as JSON holds it; a null is a count from 1 to 10."""
    return {
        "study": found.study.name,
        "fits": not found.stops,
        "stops": list(found.stops),
        "notes": list(found.notes),
        "hospitals": {one.name: _hospital(one) for one in found.hospitals},
    }


def _hospital(one: HospitalCheck) -> dict[str, Any]:
    return {
        "rows": known(one.rows),
        "cohort": known(one.cohort),
        "dropped": known(one.dropped),
        "absent": list(one.absent),
        "faults": list(one.faults),
        "variables": {name: _described(cells) for name, cells in one.cells.items()},
        "analyses": {
            label: {"train": known(usable.train), "test": known(usable.test)}
            for label, usable in one.usable.items()
        },
    }


def _described(cells: Cells) -> dict[str, int | None]:
    counts = {key: known(count) for key, count in vars(cells).items()}
    if None in counts.values():  # the rest would give it away
        counts["observed"] = None
    return counts


def show(console: Console, found: StudyCheck) -> None:
    """Print rows, cells, then what stops the study and what to know, in this order."""
    read = [one for one in found.hospitals if one.cells]
    if read:
        console.print(_rows(found, read))
    abreast = max(1, (console.width - max(map(len, found.study.variables)) - 4) // _CELL)
    for start in range(0, len(read), abreast):
        console.print(_cells(found, read[start : start + abreast]))
    for line in found.notes:
        console.print(f"[yellow]note[/yellow] {escape(line)}", highlight=False)
    for line in found.stops:
        console.print(f"[red]stop[/red] {escape(line)}", highlight=False)


def _rows(found: StudyCheck, read: list[HospitalCheck]) -> Table:
    labels = [spec.label for spec in found.study.analyses]
    table = Table(title=f"{escape(found.study.name)}: usable rows", title_justify="left")
    table.add_column("hospital", overflow="fold")
    for column in ("rows", "in cohort", *labels):
        table.add_column(escape(column), justify="right")
    for one in read:
        usable = (one.usable[label] for label in labels)
        counts = (one.rows, one.cohort, *(each.train + each.test for each in usable))
        table.add_row(escape(one.name), *map(shown, counts))
    return table


def _cells(found: StudyCheck, read: list[HospitalCheck]) -> Table:
    table = Table(
        title="missing (out of range) ! no value, in the cohort",
        title_justify="left",
    )
    table.add_column("variable", overflow="fold")
    for one in read:
        table.add_column(escape(one.name), justify="right", overflow="fold")
    for name in found.study.variables:
        table.add_row(escape(name), *(" ".join(_cell(one, name, one.cells[name])) for one in read))
    return table


def _cell(one: HospitalCheck, name: str, cells: Cells) -> Iterator[str]:
    if name in one.absent:
        yield "no column"
        return
    yield share(cells.missing, one.cohort)
    if cells.out_of_range:
        yield f"({share(cells.out_of_range, one.cohort)})"
    if cells.wrong:
        yield f"[red]! {share(cells.wrong, one.cohort)}[/red]"
