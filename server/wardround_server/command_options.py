"""What the commands of `wardround coordinator` have in common: their options, and how they print."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from wardround_common.errors import WardroundError
from wardround_server.access import ALONE, Access, given_token
from wardround_server.auditing import sign
from wardround_server.home import CoordinatorHome, owner

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="The coordinator's home; else WARDROUND_HOME, or ~/.wardround."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A launched study, by its name.")]


@contextmanager
def acting(
    home: Path | None, action: str, study: str = "", *, at_once: bool = False
) -> Iterator[CoordinatorHome]:
    """Open the home for whoever calls, if they may do this; what they do is audited, and signed afterwards.

    ``action`` is a key of ``access.MAY``. ``at_once``: signed even if a checkpoint is minutes old. Denied if
    they may not.
    """
    opened = CoordinatorHome.open(home)
    _ = opened.config  # one that is wrong is said before anything is done
    try:
        token = None if action in ALONE else given_token()
        opened.act_for(Access(opened, owner(), by_files=True).check(token, action, study).name)
        yield opened
    finally:
        _signed(opened, at_once)


def _signed(home: CoordinatorHome, at_once: bool) -> None:
    """Sign the audit log if this command has opened it; a fault of that is a note, since the work is done."""
    if not home.has_opened_registry:
        return
    try:
        sign(home, at_once=at_once)
    except WardroundError as error:
        sys.stderr.write(f"note: the audit log was not signed: {error}\n")


def say(text: str) -> None:
    """Print lines as they are."""
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


def say_json(value: Any, indent: int | None = 1) -> None:
    """Print JSON."""
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()
