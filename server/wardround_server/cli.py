"""`wardround simulate`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console

from wardround_common.cli import named_files
from wardround_common.errors import StudyError, listed
from wardround_common.files import try_folder
from wardround_common.study import read_study
from wardround_server import show
from wardround_server.publish import to_json
from wardround_server.shipped import study_file, tables
from wardround_server.simulation import simulate


def simulate_command(
    study: Annotated[
        str, typer.Argument(help="A study file, or a shipped study: heart-disease, flamby-heart, classic.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="NAME=FILE", help="A hospital and its CSV or Parquet file."),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Where to write results.json; else wardround-NAME.")
    ] = None,
    transcript: Annotated[
        Path | None,
        typer.Option(
            help="Keep every opened sum in this confidential file; an unfinished study goes on from it."
        ),
    ] = None,
    local: Annotated[
        bool, typer.Option("--local", help="Find out besides what each hospital would reach alone.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print results.json instead of tables.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="Show no progress.")] = False,
) -> None:
    """Run a study over one table per hospital, all in this process.

    STUDY is a study file, or a shipped study by its name: heart-disease, flamby-heart, classic.
    Every hospital's real node code runs; only masked sums pass between them.

    Examples:
      wardround simulate flamby-heart

      wardround simulate study.yaml --data north=north.csv --data south=south.parquet --data east=east.csv
    """
    checked = read_study(study_file(study))
    files = named_files(data or []) or tables(study)
    if not files:
        raise StudyError(f"{study}: give each hospital's table with --data NAME=FILE")
    folder = out or Path(f"wardround-{checked.name}")
    try_folder(folder)
    with show.progress(checked.name, quiet or as_json) as observe:
        result = simulate(checked, files, transcript=transcript, observe=observe, local=local)
    notes = result.write(folder, command=_command(study, data or [], out, local))
    for note in result.notes:
        sys.stderr.write(f"note: {note}\n")
    floor = checked.privacy.min_rows
    for analysis, names in result.results["abstaining"].items():
        sys.stderr.write(f"note: {listed(names)}: fewer than {floor} usable rows, no part in `{analysis}`\n")
    if as_json:
        sys.stdout.write(to_json(result.results))
        return
    console = Console()
    show.results(console, result.results)
    if result.comparison is not None:
        console.print(show.comparison(result.comparison))
    console.print(f"Results: {folder / 'results.json'}", soft_wrap=True)
    show.written(console, folder, notes)


def _command(study: str, data: list[str], out: Path | None, local: bool) -> str:
    """Return the command that makes these results again, for the report."""
    options = [f"--data {shlex.quote(one)}" for one in data]
    options += [f"--out {shlex.quote(str(out))}"] if out is not None else []
    options += ["--local"] if local else []
    return " ".join(["wardround simulate", shlex.quote(study), *options])
