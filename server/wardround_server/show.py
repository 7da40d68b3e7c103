"""Progress and results on a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from wardround_server.conductor import Observer
from wardround_server.conductor import Progress as Step


@contextmanager
def progress(title: str, quiet: bool) -> Iterator[Observer]:
    """Show a study's steps on a terminal's stderr; yields what the conductor tells them to."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as bar:
        task = bar.add_task(f"{title}: reading the tables")

        def observe(step: Step) -> None:
            asked = ", ".join(sorted({kind for _, kind in step.kinds}))
            bar.update(task, description=f"{title}: round {step.step + 1} opened ({asked})")

        yield observe


@contextmanager
def status(quiet: bool) -> Iterator[Callable[[str], None]]:
    """Show one line that changes on a terminal's stderr; yields what changes it."""
    if quiet or not sys.stderr.isatty():
        yield lambda line: None
        return
    with Console(file=sys.stderr).status("") as shown:
        yield shown.update


def number(value: float | None, digits: int = 4) -> str:
    """Return a figure for a table; a null is a suppressed one."""
    return "–" if value is None else f"{value:.{digits}g}"


def coefficients(label: str, found: dict[str, Any]) -> Table:
    """Return a model's coefficients as a table."""
    table = Table(
        title=f"{label}: coefficients in the variables' own units, {found['n']} rows", title_justify="left"
    )
    table.add_column("term")
    with_errors = any(one["se"] is not None for one in found["coefficients"].values())
    for column in ("value", "se", "p", "95 % low", "high") if with_errors else ("value",):
        table.add_column(column, justify="right")
    for term, one in found["coefficients"].items():
        p = "–" if one["p"] is None else "<.001" if one["p"] < 0.001 else f"{one['p']:.3f}"
        cells = (number(one["value"]), number(one["se"], 3), p, number(one["low"]), number(one["high"]))
        table.add_row(term, *cells[: len(table.columns) - 1])
    return table


_TWO_LEVELS = ("n", "auc", "accuracy", "brier", "sensitivity", "specificity", "calibration_slope")
_NUMBER = ("n", "rmse", "mae", "r2", "calibration_slope")


def metrics(label: str, found: dict[str, Any]) -> Table:
    """Return a model's metrics by part of the rows as a table."""
    table = Table(title=f"{label}: metrics", title_justify="left")
    table.add_column("rows")
    names = _NUMBER if any("rmse" in one for one in found.values()) else _TWO_LEVELS
    for name in names:
        table.add_column(name.removeprefix("calibration_"), justify="right")
    for part, one in found.items():
        table.add_row(part, *(number(one.get(name), 6 if name == "n" else 4) for name in names))
    return table


def subgroups(label: str, part: str, found: dict[str, list[dict[str, Any]]]) -> Table:
    """Return a model's figures by subgroup as a table."""
    table = Table(title=f"{label}: subgroups of the {part} rows", title_justify="left")
    table.add_column("group")
    names = ("n", "events", "auc", "brier", "observed", "predicted", "sensitivity", "specificity")
    for name in names:
        table.add_column(name, justify="right")
    for variable, groups in found.items():
        for one in groups:
            digits = {"n": 6, "events": 6}
            cells = (number(one.get(name), digits.get(name, 3)) for name in names)
            table.add_row(f"{variable} {one['group']}", *cells)
    return table


def importance(label: str, found: dict[str, Any]) -> Table:
    """Return how much a model loses without each variable, the most important first."""
    metric = {"auc": "AUC", "r2": "R squared"}[found["metric"]]
    table = Table(
        title=f"{label}: loss of {metric} of `{found['model']}` without each variable "
        f"({number(found['baseline'])} with all)",
        title_justify="left",
    )
    table.add_column("variable")
    for column in ("loss", "sd"):
        table.add_column(column, justify="right")
    for name, one in sorted(found["variables"].items(), key=lambda item: -item[1]["drop"]):
        table.add_row(name, f"{one['drop']:.4f}", f"{one['sd']:.4f}")
    return table


def summary(label: str, found: dict[str, Any]) -> Table:
    """Return Table 1: each variable in a line."""
    table = Table(
        title=f"{label}: {found['n']} rows (– is a count below min_cell, or its neighbour)",
        title_justify="left",
    )
    for column in ("variable", "n", "missing", "mean", "sd", r"median \[quartiles] or rows by level"):
        table.add_column(column, justify="left" if column[0] in "vm" and column != "missing" else "right")
    for name, one in found["variables"].items():
        if one.get("state") == "refused":
            table.add_row(name, "refused", "", "", "", one["why"])
        elif one["kind"] == "category":
            levels = ", ".join(f"{level}: {number(n, 6)}" for level, n in one["levels"].items())
            table.add_row(name, "", number(one["missing"], 6), "", "", levels)
        else:
            q = one["quantiles"]
            spread = f"{number(q.get('0.5'))} \\[{number(q.get('0.25'))}, {number(q.get('0.75'))}]"
            table.add_row(
                name,
                number(one["n"], 6),
                number(one["missing"], 6),
                number(one["mean"]),
                number(one["sd"]),
                spread,
            )
    return table


def comparison(compared: dict[str, Any]) -> Table:
    """Return how models do that were learned from different rows, on the same rows."""
    rows = "training" if compared.get("part") == "train" else "held-out"
    table = Table(
        title=f"On the same {compared['test_rows']} {rows} rows of all hospitals", title_justify="left"
    )
    table.add_column("learned from")
    for column in ("training rows", "AUC", "accuracy"):
        table.add_column(column, justify="right")
    for name, score in compared["scores"].items():
        nothing = "no fit" if score["auc"] is None else f"{score['auc']:.3f}"
        accuracy = "" if score["accuracy"] is None else f"{score['accuracy']:.3f}"
        table.add_row(
            name, str(score["rows"]), nothing, accuracy, style="bold" if name[:9] == "federated" else None
        )
    return table


def written(console: Console, folder: Path, notes: Sequence[str]) -> None:
    """Say where the report is, or why there is none."""
    report = folder / "report.html"
    if report.exists() and not notes:
        console.print(f"Report: {report}", soft_wrap=True, highlight=False)
    for note in notes:
        sys.stderr.write(f"note: {note}\n")


def results(console: Console, shown: dict[str, Any]) -> None:
    """Print every analysis of a study."""
    for label, found in shown["analyses"].items():
        if "baseline" in found:
            console.print(importance(label, found))
        elif "variables" in found:
            console.print(summary(label, found))
        if "coefficients" in found:
            console.print(coefficients(label, found))
        if "metrics" in found:
            console.print(metrics(label, found["metrics"]))
            for part, one in found["metrics"].items():
                if one.get("subgroups") and (part == "test" or "test" not in found["metrics"]):
                    console.print(subgroups(label, part, one["subgroups"]))
