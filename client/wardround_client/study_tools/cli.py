"""`wardround study`: draft a study file, check tables against it, make tables for a dry run."""

from __future__ import annotations

import json
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Annotated

import typer
from rich.console import Console

from wardround_client.sources import open_table
from wardround_client.study_tools import show
from wardround_client.study_tools.check import check
from wardround_client.study_tools.columns import look
from wardround_client.study_tools.draft import draft
from wardround_client.study_tools.mock import MockTable, mock, write_table
from wardround_common.cli import named_files
from wardround_common.errors import StudyError, listed
from wardround_common.files import check_absent, write_files
from wardround_common.study import read_study

study = typer.Typer(help="What the one who plans a study does, on example tables.", no_args_is_help=True)

DataOption = Annotated[
    list[str] | None,
    typer.Option("--data", metavar="NAME=FILE", help="A hospital and its CSV or Parquet file."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Overwrite what is there.")]


@contextmanager
def _progress(quiet: bool = False) -> Iterator[Callable[[str], None]]:
    """Show on a terminal's stderr what is being done; yields what is told of it."""
    if quiet or not sys.stderr.isatty():
        yield lambda step: None
        return
    with Console(file=sys.stderr).status("") as status:
        yield status.update


def _name_of(file: Path) -> str:
    """Return a study's name made of a file's."""
    return re.sub(r"[^a-z0-9]+", "-", file.stem.lower()).strip("-")[:63] or "draft"


@study.command("draft")
def draft_command(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...", help="Example tables.")],
    name: Annotated[str | None, typer.Option(help="The study's name; else that of --out.")] = None,
    outcome: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="What a model predicts; else a guess.")
    ] = None,
    out: Annotated[Path, typer.Option(metavar="STUDY.yaml", help="The file to write.")] = Path("draft.yaml"),
    force: ForceOption = False,
) -> None:
    """Draft a study file from example tables.

    FILE is a CSV or Parquet table of one hospital; name several, best one of each. The draft says in
    comments what was guessed and what was left out. It holds no id, no date, no free text, and no text that
    fewer than eleven patients have; still, read it before you send it.

    Examples:
      wardround study draft north.csv south.csv east.parquet --outcome stroke --out stroke.yaml

      wardround study draft visits.csv --name visits
    """
    check_absent([out], force)
    with _progress() as observe:
        seen = look(map(open_table, files), observe)
    drafted = draft(seen, name or _name_of(out), outcome)
    write_files({out: lambda file: file.write(drafted.text)})
    left = f"; left out {listed(drafted.left_out)}" if drafted.left_out else ""
    outcome_is = f", outcome `{drafted.outcome}`" if drafted.outcome else ""
    data = [f"--data={_name_of(file)}={file}" for file in files]
    sys.stdout.write(
        f"{out}: {len(drafted.variables)} variables{outcome_is}{left}\n"
        f"Read it, then: {shlex.join(['wardround', 'study', 'check', str(out), *data])}\n"
    )


@study.command("check")
def check_command(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file.")],
    data: DataOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Say all that will not fit, before a study runs.

    STUDY is a study file. Counts below eleven are shown as <11. Exit code 2: something will stop the study.

    Examples:
      wardround study check stroke.yaml --data north=north.csv --data south=south.csv --data east=east.parquet

      wardround study check stroke.yaml --data ours=ours.csv --json
    """
    checked, tables = read_study(study_file), named_files(data or [])
    if not tables:
        raise StudyError(f"{study_file}: give each hospital's table with --data NAME=FILE")
    with _progress(as_json) as observe:
        found = check(checked, {name: partial(open_table, file) for name, file in tables.items()}, observe)
    if as_json:
        sys.stdout.write(json.dumps(show.described(found), indent=2, ensure_ascii=False) + "\n")
    else:
        show.show(Console(), found)
    if found.stops:
        things = "1 thing stops" if len(found.stops) == 1 else f"{len(found.stops)} things stop"
        raise StudyError(f"{study_file}: {things} this study; see the lines above")


@study.command("mock")
def mock_command(
    study_file: Annotated[Path, typer.Argument(metavar="STUDY", help="A study file.")],
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder for the tables.")],
    hospitals: Annotated[int, typer.Option(min=1, max=1000, help="How many tables.")] = 5,
    rows: Annotated[int, typer.Option(min=1, max=10_000_000, help="Rows per table, on average.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same tables.")] = 0,
    force: ForceOption = False,
) -> None:
    """Make synthetic tables from a study's dictionary alone, for dry runs and teaching.

    STUDY is a study file. Hospitals differ in size, in means and in how frequent the outcome is; the outcome
    depends on some of the predictors. No real patient is in it, and no finding is to be had of it.

    Examples:
      wardround study mock stroke.yaml --out mock

      wardround study mock stroke.yaml --hospitals 20 --rows 50000 --seed 1 --out mock
    """
    checked = read_study(study_file)
    paths = [out / f"hospital-{i + 1}.csv" for i in range(hospitals)]
    check_absent(paths, force)
    tables = mock(checked, hospitals, rows, seed)
    with _progress() as observe:

        def writer(path: Path, table: MockTable) -> Callable[[IO[str]], None]:
            return lambda file: write_table(table, lambda: observe(str(path)), file)

        write_files({path: writer(path, table) for path, table in zip(paths, tables, strict=True)})
    data = [f"--data={path.stem}={path}" for path in paths]
    sys.stdout.write(f"{shlex.join(['wardround', 'simulate', str(study_file), *data])}\n")
