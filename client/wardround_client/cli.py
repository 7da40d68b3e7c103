"""`wardround hospital`: make a home, join a network, answer studies, approve them, leave."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from wardround_client.home import HospitalHome, make_home
from wardround_common.cli import confirmed
from wardround_common.errors import WardroundError, listed
from wardround_common.home import find_home, is_locked, open_log, read_status

hospital = typer.Typer(
    help="What a hospital does: join a network, answer its studies, approve them.", no_args_is_help=True
)

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="The hospital's home; else WARDROUND_HOME, or ~/.wardround."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask.")]


@hospital.command("init")
def init_command(
    name: Annotated[str, typer.Option(help="The hospital's name in the network.")],
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The CSV or Parquet file that studies read.")
    ] = None,
    home: HomeOption = None,
) -> None:
    """Make a hospital's home: configuration, policy and keys.

    Example:
      wardround hospital init --name north --table patients.csv
    """
    made = make_home(find_home(home), name, table)
    Console(markup=False).print(
        f"Made the home of `{name}` in {made.path}.\nNext: wardround hospital join NAME.invite",
        highlight=False,
    )


@hospital.command("join")
def join_command(
    invite: Annotated[Path, typer.Argument(metavar="INVITE", help="The coordinator's invitation file.")],
    offline: Annotated[
        bool, typer.Option("--offline", help="Only write the enrolment file, to be sent to the coordinator.")
    ] = False,
    enrolment: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where to write the enrolment; else NAME.enrolment.json."),
    ] = None,
    home: HomeOption = None,
) -> None:
    """Join a coordinator's network with its invitation.

    Pins the coordinator's certificate authority and sends this hospital's public keys with the one-time
    token. Read the words out to the coordinator on the telephone: they should have the same.

    Examples:
      wardround hospital join north.invite

      wardround hospital join north.invite --offline
    """
    from wardround_client.join import join, read_invite

    opened = HospitalHome.open(home)
    done = join(opened, read_invite(invite), time.time(), online=not offline, file=enrolment)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(
        f"Enrolment: {done.file}\nFingerprint, to be read out on the telephone:\n"
        f"  {' '.join(done.enrolment.words)}"
    )
    if done.pending:
        console.print(
            f"Not admitted yet: {done.pending}.\nSend {done.file} to the coordinator, who runs: "
            f"wardround coordinator admit {done.file.name}"
        )
    else:
        console.print(f"Admitted by `{opened.coordinator.name}`. Next: wardround hospital serve")


@hospital.command("serve")
def serve_command(
    home: HomeOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Log to the file only.")] = False,
) -> None:
    """Run the hospital's node until it is told to stop (Ctrl-C, SIGTERM). Connects outwards only.

    Example:
      wardround hospital serve --home /srv/wardround
    """
    from wardround_client.serve import NodeProcess, hospital_app

    opened = HospitalHome.open(home)
    open_log(opened.path / "logs" / "node.log", quiet=quiet)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    NodeProcess(opened, hospital_app(opened), stop).run()


@hospital.command("status")
def status_command(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """Show the node's connection and the studies that were offered or approved.

    Example:
      wardround hospital status --json
    """
    opened = HospitalHome.open(home)
    running = is_locked(opened.lock_file)
    said = read_status(opened.status_file)
    state = said.get("state", "never started") if running else "not running"
    studies = [
        {
            "name": one.name,
            "digest": one.digest.hex(),
            "state": "offered" if one.approved_at is None else "approved",
            "offered_at": one.offered_at,
            "approved_at": one.approved_at,
        }
        for one in opened.store.studies()
    ]
    joined = opened.coordinator if opened.coordinator_file.exists() else None
    shown = {
        "hospital": opened.name,
        "coordinator": None if joined is None else {"name": joined.name, "address": joined.address},
        "node": state,
        "why": said.get("why", "") if running else "",
        "heartbeat": said.get("heartbeat"),
        "studies": studies,
    }
    if as_json:
        sys.stdout.write(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    whom = "not joined" if joined is None else f"{joined.name} ({joined.address})"
    console.print(f"`{opened.name}`: node {state}, coordinator {whom}")
    if shown["why"]:
        console.print(str(shown["why"]))
    grid = Grid("study", "digest", "state")
    for study in studies:
        grid.add_row(str(study["name"]), str(study["digest"])[:8], str(study["state"]))
    if studies:
        console.print(grid)
    else:
        console.print("No study was offered yet.")


@hospital.command("approve")
def approve_command(
    study: Annotated[str, typer.Argument(metavar="STUDY", help="A study that was offered, or a study file.")],
    table: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The table to read; else the configuration's.")
    ] = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Approve anew, on the table as it is now; what was begun is given up."),
    ] = False,
    withdraw_it: Annotated[bool, typer.Option("--withdraw", help="Take the approval back.")] = False,
    yes: YesOption = False,
    home: HomeOption = None,
) -> None:
    """Approve a study for this hospital: its policy is checked, the cohort is pinned, the study is signed.

    STUDY is the name of a study that was offered (see `wardround hospital status`), or the start of its
    digest, or a study file.

    Examples:
      wardround hospital approve heart-disease

      wardround hospital approve heart-disease --table cohort-2026.parquet --again
    """
    from wardround_client.approval import approve, find_study, withdraw

    opened = HospitalHome.open(home)
    found = find_study(opened, study)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if withdraw_it:
        withdraw(opened, found.digest)
        console.print(f"Withdrew the approval of `{found.name}`.")
        return
    kinds = listed(spec.kind for spec in found.analyses)
    # the title is whatever the coordinator wrote, and must not draw over the lines that say what is approved
    title = "".join(letter for letter in found.title or "" if letter.isprintable())[:200]
    confirmed(
        f"`{found.name}`: {title}\n"
        f"Analyses: {kinds}; {len(found.variables)} variables; digest {found.digest.hex()[:8]}",
        "Approve this study?",
        yes,
    )
    done = approve(opened, found, table, again)
    lacking = f" No column for {listed(done.absent)}: read as missing." if done.absent else ""
    console.print(f"Approved `{found.name}` on {done.rows:,} rows.{lacking}")


@hospital.command("leave")
def leave_command(yes: YesOption = False, home: HomeOption = None) -> None:
    """Leave the network: withdraw all approvals and forget the coordinator. Keys, ledger and audit log stay.

    Example:
      wardround hospital leave
    """
    from wardround_client.approval import withdraw

    opened = HospitalHome.open(home)
    coordinator = opened.coordinator
    if is_locked(opened.lock_file):
        raise WardroundError(f"{opened.path}: the node runs; stop it first")
    confirmed(
        f"`{opened.name}` belongs to {coordinator.name} ({coordinator.address}).", "Leave this network?", yes
    )
    for record in opened.store.studies():
        if record.approved_at is not None:
            withdraw(opened, record.digest)
    opened.store.audit("leave", "", coordinator.address)
    opened.coordinator_file.unlink()
    opened.ca_file.unlink(missing_ok=True)
    opened.status_file.unlink(missing_ok=True)
    Console(markup=False).print(
        "Left. Tell the coordinator, who runs: wardround coordinator hospitals --left NAME", highlight=False
    )


@hospital.command("doctor")
def doctor_command(as_json: JsonOption = False, home: HomeOption = None) -> int:
    """Check this home and every step to the coordinator: name, proxy, TLS, clock, version, admission.

    Changes nothing, and prints nothing of patients and no secret: the report may be mailed. Exit code 2 if
    a check failed.

    Example:
      wardround hospital doctor
    """
    from wardround_client.doctor import doctor

    return doctor(home, as_json)
