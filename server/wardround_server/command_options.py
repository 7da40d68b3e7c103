"""What the commands of `wardround coordinator` have in common: their options, and how they print."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="The coordinator's home; else WARDROUND_HOME, or ~/.wardround."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A launched study, by its name.")]


def say(text: str) -> None:
    """Print lines as they are."""
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


def say_json(value: Any, indent: int | None = 1) -> None:
    """Print JSON."""
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()
