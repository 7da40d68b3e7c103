"""`wardround hospital`: make a home, join a network, answer studies, approve them, confirm others, leave."""

from __future__ import annotations

import json
import signal
import sys
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table as Grid

from wardround_client.command_options import HomeOption, JsonOption, YesOption
from wardround_client.desk.command import desk_command
from wardround_client.home import HospitalHome, make_home
from wardround_client.study_commands import register
from wardround_common.cli import confirmed
from wardround_common.errors import WardroundError, listed
from wardround_common.home import find_home, is_locked, open_log, read_status

hospital = typer.Typer(
    help="What a hospital does: join a network, answer its studies, approve them.", no_args_is_help=True
)

register(hospital)
hospital.command("desk")(desk_command)


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
    token. Read the words out to the coordinator on the telephone: they should have the same. Other
    hospitals confirm this one by the same words.

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
    """Show this hospital's words, the node's connection, and the studies that were offered or approved.

    All hospitals of a study see the same words for its roster; officers may compare them.

    Example:
      wardround hospital status --json
    """
    from wardround_client.officers import known, missing, own_words, signed_rosters

    opened = HospitalHome.open(home)
    running = is_locked(opened.lock_file)
    said = read_status(opened.status_file)
    state = said.get("state", "never started") if running else "not running"
    rosters = signed_rosters(opened)
    studies = [
        {
            "name": one.name,
            "digest": one.digest.hex(),
            "state": one.state,
            "offered_at": one.offered_at,
            "approved_at": one.approved_at,
            "roster": asdict(rosters[one.digest]) if one.digest in rosters else None,
        }
        for one in opened.store.studies()
    ]
    words = own_words(opened) if opened.identity_file.exists() else ""
    not_confirmed = sorted({one.shown for one in known(opened) if not one.says})
    joined = opened.coordinator if opened.coordinator_file.exists() else None
    shown = {
        "hospital": opened.name,
        "words": words,
        "not_confirmed": not_confirmed,
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
    if words:
        console.print(f"Words: {words}")
    grid = Grid("study", "digest", "state")
    for study in studies:
        grid.add_row(str(study["name"]), str(study["digest"])[:8], str(study["state"]))
    if studies:
        console.print(grid)
    else:
        console.print("No study was offered yet.")
    for record in opened.store.studies():
        if record.digest in rosters:
            roster = rosters[record.digest]
            console.print(f"Roster of `{record.name}`, {len(roster.members)} hospitals: {roster.words}")
    if not_confirmed:
        console.print(missing(not_confirmed))


@hospital.command("members")
def members_command(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the hospitals that coordinators named, with their words and what this one's officer says of them.

    First come this hospital's own words, to be read out to the others' officers.

    Example:
      wardround hospital members
    """
    from wardround_client.officers import known, own_words

    opened = HospitalHome.open(home)
    own, others = own_words(opened), known(opened)
    if as_json:
        members = [
            {"name": one.name, "state": one.state, "words": one.words, "studies": one.studies}
            for one in others
        ]
        shown = {"hospital": opened.name, "words": own, "members": members}
        sys.stdout.write(json.dumps(shown, indent=1, ensure_ascii=False) + "\n")
        return
    console = Console(soft_wrap=True, highlight=False, markup=False)
    console.print(f"`{opened.name}`, this hospital: {own}")
    for one in others:
        where = f"; in the roster of {listed(one.studies)}" if one.studies else ""
        console.print(f"`{one.shown}`, {one.state}{where}: {one.words}")
    if not others:
        console.print("No coordinator has named other hospitals yet.")
    elif any(not one.says for one in others):
        console.print("Telephone each one's officer, compare the words: wardround hospital confirm NAME")


@hospital.command("confirm")
def confirm_command(
    member: Annotated[str, typer.Argument(metavar="MEMBER", help="Another hospital, by its name.")],
    words: Annotated[
        str | None, typer.Option("--words", metavar="WORDS", help="The ten words that its officer reads out.")
    ] = None,
    file: Annotated[
        Path | None,
        typer.Option("--file", metavar="FILE", help="Its enrolment file, if it comes from itself."),
    ] = None,
    revoke_it: Annotated[
        bool, typer.Option("--revoke", help="Bar it: whatever it takes part in is refused here.")
    ] = False,
    withdraw_it: Annotated[
        bool, typer.Option("--withdraw", help="Take back what was said of it, be it good or bad.")
    ] = False,
    yes: YesOption = False,
    home: HomeOption = None,
) -> None:
    """Confirm another hospital by its words, so that sums may be over it.

    A coordinator names the members of a study and could make some up. Telephone MEMBER's officer, by a number
    that you know from elsewhere; the words are those of `wardround hospital members`. With --words, it may be
    confirmed before any study has named it.

    Examples:
      wardround hospital confirm south

      wardround hospital confirm south --words "acorn airport album ..."

      wardround hospital confirm south --revoke
    """
    from wardround_client import officers

    opened = HospitalHome.open(home)
    if words is not None and file is not None:
        raise WardroundError("--words and --file can't be given together; choose one")
    if revoke_it and withdraw_it:
        raise WardroundError("--revoke and --withdraw can't be given together; choose one")
    told = officers.heard(words) if words is not None else None
    if file is not None:
        told = officers.enrolled(file, member)
    one = officers.find(opened, member, told)
    about = f"`{one.name}`, {one.state}, has these words:\n  {one.words}"
    if withdraw_it:
        confirmed(about, f"Take back what was said of `{one.name}`?", yes)
        officers.withdraw(opened, one)
        done = f"Took it back: `{one.name}` is not confirmed."
    elif revoke_it:
        confirmed(f"{about}\nStudies of which it is a member will stop here.", f"Revoke `{one.name}`?", yes)
        officers.revoke(opened, one)
        done = f"Revoked `{one.name}` ({one.words}). Tell the coordinator and the other hospitals."
    else:
        officers.check_confirmable(opened, one)
        question = (
            f"Does `{one.name}`'s officer read out the same on the telephone?"
            if file is None
            else f"Does this file come from `{one.name}` itself, by a way that nobody else writes to?"
        )
        confirmed(about, question, yes or words is not None)  # who types the words has heard them
        officers.confirm(opened, one)
        done = f"Confirmed `{one.name}` ({one.words})."
    Console(soft_wrap=True, highlight=False, markup=False).print(done)


@hospital.command("forgive")
def forgive_command(yes: YesOption = False, home: HomeOption = None) -> None:
    """Go on although this hospital's database was restored from an older copy, of which others know better.

    Others have seen later entries of its audit log; a study was refused with `restored` for that. What the
    lost entries were stays lost; that they are missing is written into the log.

    Example:
      wardround hospital forgive
    """
    from wardround_client.officers import forgive, lacking

    opened = HospitalHome.open(home)
    found, log = lacking(opened), opened.store.audit_head()
    confirmed(
        f"In `{found.study}` others have seen {found.head.count:,} entries of this hospital's audit log "
        f"(digest {found.head.head.hex()[:16]}). The log here, {log.count:,} entries, never had them all.",
        "Was node.db restored from an older copy, and do you know when and why?",
        yes,
    )
    forgive(opened, found)
    Console(soft_wrap=True, highlight=False, markup=False).print(
        f"Forgiven. The coordinator goes on with: wardround coordinator resume {found.study}"
    )


_LEAVE = {
    "allow": "can go on without it; what it answered stays in the sums, and another sum without it may "
    "tell the difference",
    "group": "can go on only if hospitals enough for a sum are left out with it; else it waits, or is begun "
    "anew",
    "never": "can't go on without it; it waits, or is begun anew",
}


@hospital.command("leave")
def leave_command(yes: YesOption = False, home: HomeOption = None) -> None:
    """Leave the network: withdraw all approvals and forget the coordinator. Keys, ledger and audit log stay.

    Says of which studies this hospital is a member, and what follows for them from the terms that it signed.

    Example:
      wardround hospital leave
    """
    from wardround_client.approval import withdraw
    from wardround_client.officers import leaving

    opened = HospitalHome.open(home)
    coordinator = opened.coordinator
    if is_locked(opened.lock_file):
        raise WardroundError(f"{opened.path}: the node runs; stop it first")
    begun = "".join(
        f'\nIf not finished, `{study}` {_LEAVE[leave]} (leave = "{leave}").'
        for study, leave in leaving(opened)
    )
    about = f"`{opened.name}` belongs to {coordinator.name} ({coordinator.address}).{begun}"
    confirmed(about, "Leave this network?", yes)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    if yes:  # nobody was shown it
        console.print(about)
    for record in opened.store.studies():
        if record.approved_at is not None:
            withdraw(opened, record.digest)
    opened.store.audit("leave", "", coordinator.address)
    opened.coordinator_file.unlink()
    opened.ca_file.unlink(missing_ok=True)
    opened.status_file.unlink(missing_ok=True)
    console.print("Left. Tell the coordinator, who runs: wardround coordinator hospitals --left NAME")


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
