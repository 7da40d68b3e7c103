"""The one command `wardround`: gathers each side's commands by entry point, and turns errors into lines.

A command is any entry point of the group ``wardround.commands``: a Typer app becomes a group, a function
a command. Exit code 0 is success, 2 everything that a person can put right, 1 a fault of the program.
"""

from __future__ import annotations

import errno
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import click
import typer

from wardround_common.errors import StudyError, WardroundError

GROUP = "wardround.commands"
NO_ROOM = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EACCES, errno.EPERM}


def _version(show: bool) -> None:
    if show:
        typer.echo(f"wardround {version('wardround')}")
        raise typer.Exit


def _app() -> typer.Typer:
    app = typer.Typer(
        no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode="rich"
    )

    @app.callback()
    def options(
        show_version: bool = typer.Option(
            False, "--version", callback=_version, is_eager=True, help="Show the version."
        ),
    ) -> None:
        """Hospitals learn from each other's patients, and no patient's row leaves a hospital.

        Start with: wardround demo
        """

    entries = sorted(entry_points(group=GROUP), key=lambda one: one.name)
    # the others bring libraries that a node, which runs for months, has no use for
    asked = [entry for entry in entries if sys.argv[1:2] == [entry.name]]
    for entry in asked or entries:
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    return app


def named_files(data: list[str]) -> dict[str, Path]:
    """Return the tables of `--data NAME=FILE` by name. StudyError for another form or a name twice."""
    found: dict[str, Path] = {}
    for one in data:
        name, equals, file = one.partition("=")
        name = name.strip()
        if not equals or not name or not file or not name.isprintable() or len(name) > 64:
            raise StudyError(f"--data {one}: write NAME=FILE, as in --data north=north.csv")
        if name in found:
            raise StudyError(f"--data {one}: the name `{name}` is given twice")
        found[name] = Path(file)
    return found


def confirmed(about: str, question: str, yes: bool) -> None:
    """Show what it is about and ask. WardroundError if the answer is no, or nobody is there to give one."""
    if yes:
        return
    sys.stderr.write(about + "\n")
    if not sys.stdin.isatty():
        raise WardroundError(f"{question} Nobody is there to answer; add --yes")
    if not typer.confirm(question, err=True):
        raise WardroundError("nothing was done")


def main() -> None:
    """Run the command line; never shows a traceback for what a person can put right."""
    sys.exit(_run())


@contextmanager
def _ctrl_c() -> Iterator[Callable[[], None]]:
    """Make Ctrl-C a KeyboardInterrupt, whatever it falls into, from when the yielded function is called.

    DuckDB would make an error of its own of it, Typer an exit code, and Python's imports swallow it.
    """
    pressed, waits = False, True

    def press(number: int, frame: Any) -> None:  # noqa: ARG001 (a signal handler's signature)
        nonlocal pressed
        pressed = True
        if not waits:
            raise KeyboardInterrupt

    def listen() -> None:
        nonlocal waits
        waits = False
        if pressed:
            raise KeyboardInterrupt

    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:  # else whoever started it ignores it
        signal.signal(signal.SIGINT, press)
    try:
        yield listen
    except BaseException:
        if not pressed:
            raise
    if pressed:
        raise KeyboardInterrupt


def _run() -> int:
    try:
        with _ctrl_c() as listen:
            app = _app()
            listen()
            result = app(standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        return 2
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx is not None else "wardround"
        return _fail(f"{error.format_message().rstrip('.')}; see {path} --help")
    except click.ClickException as error:
        return _fail(error.format_message())
    except (KeyboardInterrupt, click.Abort):
        return _fail("interrupted; nothing was left half-written, start the same command again")
    except WardroundError as error:
        return _fail(" ".join(str(error).split()))
    except OSError as error:
        if error.errno not in NO_ROOM:
            raise
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{error.strerror}; make room, or choose another folder")
    return result if isinstance(result, int) else 0


def _fail(line: str) -> int:
    sys.stderr.write(f"error: {line}\n")
    return 2
