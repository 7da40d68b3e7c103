"""The users of `wardround coordinator`: who may do what, and the tokens by which they are known."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround_common.files import check_absent, write_private
from wardround_server.access import OPERATOR, ROLES, TOKEN_FILE, Users
from wardround_server.command_options import HomeOption, JsonOption, acting, say, say_json
from wardround_server.home import CoordinatorHome
from wardround_server.registry import day

users = typer.Typer()
user = typer.Typer(help="Add users, give them new tokens, revoke them.", no_args_is_help=True)
users.add_typer(user, name="user")
_DAY_S = 86_400

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The user's name.")]
DaysOption = Annotated[float, typer.Option(min=0.01, max=3650, help="How long the token is good.")]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", metavar="FILE", help="A file for the token, its owner's alone; else it is printed."
    ),
]


@users.command("users")
def users_command(as_json: JsonOption = False, home: HomeOption = None) -> None:
    """List the users, their roles, and how long their tokens are good.

    Example:
      wardround coordinator users
    """
    with acting(home, "users") as opened:
        found = Users(opened.registry).all()
    now = time.time()
    rows = [
        {
            "name": one.name,
            "role": one.role,
            "state": one.state(now),
            "made_at": one.made_at,
            "expires": one.expires,
        }
        for one in found
    ]
    if as_json:
        say_json({"tokens": opened.access.tokens, "users": rows})
        return
    table = Table("user", "role", "state", "token good until")
    for one in found:
        table.add_row(one.name, one.role, one.state(now), day(one.expires))
    Console(markup=False).print(table) if rows else say(
        f"None yet; the first is an operator: wardround coordinator user add NAME --role {OPERATOR}"
    )


@user.command("add")
def add_command(
    name: NameArgument,
    role: Annotated[str, typer.Option(help=f"One of {', '.join(ROLES)}.")],
    days: DaysOption = 90,
    out: OutOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Add a user and make their token, which is shown this once.

    An operator may do everything; an analyst runs studies and sees results; an auditor sees who takes part,
    how studies stand and the audit log, and no results. The token is read from the file that
    WARDROUND_TOKEN_FILE names, or from WARDROUND_TOKEN.

    Examples:
      wardround coordinator user add ann --role operator --out ann.token

      wardround coordinator user add ben --role analyst --days 30
    """
    _check_place(out)
    with acting(home, _adding(home, role)) as opened:
        _made(name, days, out, as_json, partial(Users(opened.registry).add, name, role))


@user.command("renew")
def renew_command(
    name: NameArgument,
    days: DaysOption = 90,
    out: OutOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Give a user a new token; the one before is good no longer.

    Example:
      wardround coordinator user renew ann --out ann.token
    """
    _check_place(out)
    with acting(home, "user") as opened:
        _made(name, days, out, as_json, partial(Users(opened.registry).renew, name))


@user.command("revoke")
def revoke_command(name: NameArgument, home: HomeOption = None) -> None:
    """End a user's token at once, and their name for good.

    Example:
      wardround coordinator user revoke ben
    """
    with acting(home, "user") as opened:
        Users(opened.registry).revoke(name, time.time())
    say(f"Revoked `{name}`.")


@user.command("recover")
def recover_command(
    name: NameArgument,
    days: DaysOption = 7,
    out: OutOption = None,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Make an operator's token without showing one, where none is left: for who owns the home's files.

    It stands in the audit log as `recover`, signed at once.

    Example:
      wardround coordinator user recover ann --out ann.token
    """
    _check_place(out)
    with acting(home, "recover", at_once=True) as opened:
        _made(name, days, out, as_json, partial(Users(opened.registry).recover, name))
    sys.stderr.write(
        f"note: the audit log says that `{name}` became an operator without an operator's token\n"
    )


def _adding(home: Path | None, role: str) -> str:
    """Return what adding a user is: the first, who is an operator, needs no token."""
    registry = CoordinatorHome.open(home).registry
    try:
        return "first operator" if role == OPERATOR and not Users(registry).all() else "user"
    finally:
        registry.close()


def _check_place(out: Path | None) -> None:
    if out is not None:
        check_absent([out], force=False)


def _made(name: str, days: float, out: Path | None, as_json: bool, make: Callable[[int, float], str]) -> None:
    """Make a token, and show it or write it into a file."""
    now = time.time()
    expires = int(now + days * _DAY_S)
    token = make(expires, now)
    if out is not None:
        write_private(out, f"{token}\n".encode())
    if as_json:
        given = {"token": token} if out is None else {"file": str(out)}
        say_json({"name": name, "expires": expires, **given})
        return
    until = f"{datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC"
    if out is None:
        say(f"The token of `{name}`, good until {until}; it is shown this once:\n{token}")
    else:
        say(f"The token of `{name}`, good until {until}: {out}")
    say(f"There: put it into a file of mode 0600, and the file's path into {TOKEN_FILE}.")
