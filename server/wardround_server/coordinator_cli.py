"""`wardround coordinator`: make a home, serve, invite and admit hospitals (studies: `study_commands`)."""

from __future__ import annotations

import signal
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from wardround_common.cli import confirmed
from wardround_common.enrolment import Invite
from wardround_common.files import check_absent, write_private
from wardround_common.home import find_home, is_locked, open_log, read_enrolment
from wardround_server.access_commands import users
from wardround_server.command_options import HomeOption, JsonOption, YesOption, acting, say, say_json
from wardround_server.database import COORDINATOR
from wardround_server.home import CONTROL_PORT, CoordinatorHome, make_home
from wardround_server.studies import folders
from wardround_server.study_commands import studies

coordinator = typer.Typer(help="What the one who runs studies does.", no_args_is_help=True)
_DAY_S = 86_400


@coordinator.command("init")
def init_command(
    address: Annotated[
        str, typer.Option(metavar="HOST:PORT", help="What hospitals dial, as in wardround.example.org:443.")
    ],
    name: Annotated[str, typer.Option(help="The network's name.")] = "coordinator",
    listen: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="Where this machine listens; else on all addresses at that port."
        ),
    ] = None,
    control_port: Annotated[
        int, typer.Option(min=1, max=65535, help="Flower's own APIs, on loopback only.")
    ] = CONTROL_PORT,
    home: HomeOption = None,
) -> None:
    """Make a coordinator's home, with a certificate authority of its own.

    Example:
      wardround coordinator init --address wardround.example.org:443
    """
    made = make_home(find_home(home), name, address, listen, control_port)
    say(
        f"Made the home of coordinator `{name}` in {made.path}.\n"
        f"Keep {made.ca_key_file} safe: who has it can stand in for this coordinator.\n"
        "Next: wardround coordinator serve, and wardround coordinator invite NAME for each hospital"
    )


@coordinator.command("serve")
def serve_command(
    home: HomeOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log to the file only.")] = False,
) -> None:
    """Run the coordinator until told to stop (Ctrl-C, SIGTERM): Flower's SuperLink, and the studies' runs.

    Example:
      wardround coordinator serve --home /srv/wardround
    """
    from wardround_server.serve import Supervisor

    with acting(home, "serve") as opened:
        open_log(opened.log_file, quiet=quiet)
        opened.registry.audit("serve")
        opened.act_for(COORDINATOR)
        stop = threading.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: stop.set())
        Supervisor(opened, stop).run()


@coordinator.command("renew-certificate")
def renew_command(home: HomeOption = None) -> None:
    """Make a new server key and certificate with the home's certificate authority.

    Hospitals notice nothing. Restart `coordinator serve` afterwards.

    Example:
      wardround coordinator renew-certificate
    """
    from wardround_server.certificates import expires

    with acting(home, "renew-certificate") as opened:
        opened.registry.audit("renew-certificate")
        opened.renew_certificate()
    until = expires(opened.server_file.read_bytes())
    say(f"Renewed {opened.server_file}, good until {until:%Y-%m-%d}. Restart `wardround coordinator serve`.")


@coordinator.command("invite")
def invite_command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The hospital's name in the network.")],
    days: Annotated[float, typer.Option(min=0.01, max=365, help="How long the invitation is good.")] = 7,
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The file to write; else NAME.invite.")
    ] = None,
    again: Annotated[bool, typer.Option("--again", help="Replace an invitation that was not used.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Invite a hospital: write a file with this coordinator's address, its CA and a one-time token.

    Send the file on a way that only the hospital reads; whoever has it first can enrol.

    Examples:
      wardround coordinator invite north

      wardround coordinator invite north --days 1 --again
    """
    with acting(home, "invite") as opened:
        config, ca_pem = opened.config, opened.ca_pem
        place = out or Path(f"{name}.invite")
        check_absent([place], force or again)
        now = time.time()
        expires = int(now + days * _DAY_S)
        token = opened.registry.invite(name, expires, now, again)
    invite = Invite(config.name, config.address, ca_pem, name, token, expires)
    write_private(place, invite.to_text().encode())
    if as_json:
        say_json({"hospital": name, "file": str(place), "expires": expires})
        return
    until = datetime.fromtimestamp(expires, UTC)
    say(
        f"Invited `{name}` until {until:%Y-%m-%d %H:%M} UTC: {place}\n"
        f"There: wardround hospital init --name {name}, then wardround hospital join {place.name}"
    )


@coordinator.command("admit")
def admit_command(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="The enrolment file that `hospital join` wrote.")
    ],
    stock: Annotated[
        bool,
        typer.Option("--stock", help="It runs Flower's own SuperNode; opens the routes which that needs."),
    ] = False,
    yes: YesOption = False,
    home: HomeOption = None,
) -> None:
    """Admit a hospital by its enrolment file, after its words were compared on the telephone.

    Not needed where the hospital enrolled over the network with its token.

    Example:
      wardround coordinator admit north.enrolment.json
    """
    with acting(home, "admit") as opened:
        enrolment = read_enrolment(file)
        confirmed(
            f"`{enrolment.hospital}` says these words:\n  {' '.join(enrolment.words)}",
            "Did the hospital read out the same on the telephone?",
            yes,
        )
        opened.registry.admit(enrolment, time.time(), stock)
    say(
        f"Admitted `{enrolment.hospital}`; its node can connect within seconds of "
        "`coordinator serve` running."
    )


@coordinator.command("hospitals")
def hospitals_command(
    revoke: Annotated[
        str | None, typer.Option(metavar="NAME", help="Bar this hospital's keys for good.")
    ] = None,
    left: Annotated[
        str | None, typer.Option(metavar="NAME", help="Note that this hospital has left.")
    ] = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """List the hospitals and open invitations, or revoke one.

    Examples:
      wardround coordinator hospitals

      wardround coordinator hospitals --revoke north
    """
    with acting(home, "hospitals" if revoke is None and left is None else "revoke") as opened:
        registry = opened.registry
        if revoke is not None:
            confirmed(
                f"`{revoke}` will never be able to use its keys here again.", f"Revoke `{revoke}`?", yes
            )
            registry.revoke(revoke)
        if left is not None:
            registry.leave(left)
    for name in {revoke, left} - {None}:
        _tell_waiting(opened, str(name))
    online = _online(opened)
    rows = [
        {
            "name": one.name,
            "state": one.state,
            "online": online.get(one.node_key, False) if one.state == "admitted" else False,
            "stock": one.stock,
            "admitted_at": one.admitted_at,
            "words": " ".join(one.words),
        }
        for one in registry.hospitals()
    ]
    invited = [{"name": one.hospital, "expires": one.expires} for one in registry.invitations()]
    if as_json:
        say_json({"hospitals": rows, "invitations": invited})
        return
    table = Table("hospital", "state", "online", "words")
    for row in rows:
        state = f"{row['state']}, stock SuperNode" if row["stock"] else str(row["state"])
        table.add_row(str(row["name"]), state, "yes" if row["online"] else "no", str(row["words"]))
    for one in invited:
        gone = float(str(one["expires"])) < time.time()
        table.add_row(str(one["name"]), "invitation expired" if gone else "invited", "", "")
    Console(markup=False).print(table) if rows or invited else say(
        "None yet; invite one: wardround coordinator invite NAME"
    )


def _tell_waiting(home: CoordinatorHome, name: str) -> None:
    """Say which studies wait for a hospital that does not come back."""
    for folder in folders(home.studies):
        if folder.status.state != "finished" and name in folder.begun_by and name not in folder.order.without:
            sys.stderr.write(
                f"note: `{folder.name}` began with `{name}` and waits for it; to go on without it: "
                f"wardround coordinator resume {folder.name} --without {name}\n"
            )


def _online(home: CoordinatorHome) -> dict[bytes, bool]:
    """Return which node keys are online; nothing where the SuperLink does not run."""
    from wardround_common.errors import LinkError
    from wardround_server.grid.control import Control

    if not is_locked(home.lock_file):
        return {}
    try:
        control = Control(home)
        try:
            return {key: state == "online" for key, (_, state, _) in control.nodes().items()}
        finally:
            control.close()
    except LinkError:
        return {}


@coordinator.command("doctor")
def doctor_command(as_json: JsonOption = False, home: HomeOption = None) -> int:
    """Check this home, its certificate, its ports, and what its listeners answer.

    Changes nothing and prints no secret: the report may be mailed. Exit code 2 if a check failed.

    Example:
      wardround coordinator doctor
    """
    from wardround_server.doctor import doctor

    return doctor(home, as_json)


coordinator.add_typer(users)
coordinator.add_typer(studies)
