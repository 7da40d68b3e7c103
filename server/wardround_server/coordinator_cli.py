"""`wardround coordinator`: make a home, serve, invite and admit hospitals, launch studies and follow them."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround_common.cli import confirmed
from wardround_common.enrolment import Enrolment, Invite
from wardround_common.errors import ProtocolError, StudyError, WardroundError, listed
from wardround_common.files import check_absent, write_file, write_private
from wardround_common.home import find_home, is_locked, open_log, read_status
from wardround_common.study import parse_study, read_study
from wardround_server.home import CONTROL_PORT, CoordinatorHome, make_home
from wardround_server.shipped import study_file
from wardround_server.studies import (
    ENDED,
    RUN,
    STOP,
    Order,
    Status,
    StudyFolder,
    as_json,
    enter,
    find,
    folders,
)

coordinator = typer.Typer(help="What the one who runs studies does.", no_args_is_help=True)

HomeOption = Annotated[
    Path | None,
    typer.Option(
        "--home", metavar="DIR", help="The coordinator's home; else WARDROUND_HOME, or ~/.wardround."
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
YesOption = Annotated[bool, typer.Option("--yes", help="Don't ask.")]
StudyArgument = Annotated[str, typer.Argument(metavar="STUDY", help="A launched study, by its name.")]
_DAY_S = 86_400
_ENROLMENT_BYTES = 8 << 10


def _print(text: str) -> None:
    Console(soft_wrap=True, highlight=False, markup=False).print(text)


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
    _print(
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

    opened = CoordinatorHome.open(home)
    open_log(opened.log_file, quiet=quiet)
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

    opened = CoordinatorHome.open(home)
    opened.renew_certificate()
    until = expires(opened.server_file.read_bytes())
    _print(
        f"Renewed {opened.server_file}, good until {until:%Y-%m-%d}. Restart `wardround coordinator serve`."
    )


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
    opened = CoordinatorHome.open(home)
    config, ca_pem = opened.config, opened.ca_pem
    place = out or Path(f"{name}.invite")
    check_absent([place], force or again)
    now = time.time()
    expires = int(now + days * _DAY_S)
    token = opened.registry.invite(name, expires, now, again)
    invite = Invite(config.name, config.address, ca_pem, name, token, expires)
    write_private(place, invite.to_text().encode())
    if as_json:
        _json({"hospital": name, "file": str(place), "expires": expires})
        return
    until = datetime.fromtimestamp(expires, UTC)
    _print(
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
    opened = CoordinatorHome.open(home)
    try:
        with file.open("rb") as handle:
            enrolment = Enrolment.from_json(handle.read(_ENROLMENT_BYTES + 1))
        enrolment.verify()
    except OSError as error:
        raise WardroundError(f"{file}: cannot be read ({error.strerror})") from None
    except ProtocolError as error:
        raise WardroundError(f"{file}: {error}") from None
    confirmed(
        f"`{enrolment.hospital}` says these words:\n  {' '.join(enrolment.words)}",
        "Did the hospital read out the same on the telephone?",
        yes,
    )
    opened.registry.admit(enrolment, time.time(), stock)
    _print(
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
    opened = CoordinatorHome.open(home)
    registry = opened.registry
    if revoke is not None:
        confirmed(f"`{revoke}` will never be able to use its keys here again.", f"Revoke `{revoke}`?", yes)
        registry.revoke(revoke)
    if left is not None:
        registry.leave(left)
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
        _json({"hospitals": rows, "invitations": invited})
        return
    table = Table("hospital", "state", "online", "words")
    for row in rows:
        state = f"{row['state']}, stock SuperNode" if row["stock"] else str(row["state"])
        table.add_row(str(row["name"]), state, "yes" if row["online"] else "no", str(row["words"]))
    for one in invited:
        gone = float(str(one["expires"])) < time.time()
        table.add_row(str(one["name"]), "invitation expired" if gone else "invited", "", "")
    Console(markup=False).print(table) if rows or invited else _print(
        "None yet; invite one: wardround coordinator invite NAME"
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


@coordinator.command("launch")
def launch_command(
    study: Annotated[
        str, typer.Argument(metavar="STUDY", help="A study file, or a shipped study by its name.")
    ],
    quorum: Annotated[
        int | None, typer.Option(min=2, help="Begin with so many hospitals; else all that are admitted.")
    ] = None,
    wait: Annotated[
        float, typer.Option(min=0, metavar="S", help="How long to wait for more than the quorum.")
    ] = 60,
    deadline: Annotated[
        float,
        typer.Option(
            min=1, metavar="S", help="How long a hospital may take for one answer; then the study pauses."
        ),
    ] = 600,
    again: Annotated[
        bool, typer.Option("--again", help="Put an earlier run of this study aside, and begin anew.")
    ] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Show its progress until it ends.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Offer a study to the hospitals and run it as soon as they have approved it.

    Examples:
      wardround coordinator launch heart-disease --follow

      wardround coordinator launch study.yaml --quorum 5 --wait 3600
    """
    opened = CoordinatorHome.open(home)
    checked = read_study(study_file(study))
    if quorum is not None and quorum < checked.privacy.min_hospitals:
        raise StudyError(
            f"--quorum {quorum}: the study asks for {checked.privacy.min_hospitals} hospitals at least "
            "(`privacy.min_hospitals`)"
        )
    folder = enter(opened.studies, checked, Order(RUN, quorum, wait, deadline), again)
    if not is_locked(opened.lock_file):
        sys.stderr.write(
            "note: the coordinator does not run; the study begins when it does: wardround coordinator serve\n"
        )
    if follow:
        _follow(folder, as_json)
    elif as_json:
        _json(as_json_status(folder))
    else:
        _print(f"Launched `{folder.name}`. Follow it: wardround coordinator status {folder.name} --watch")


@coordinator.command("status")
def status_command(
    study: Annotated[
        str | None, typer.Argument(metavar="[STUDY]", help="A launched study; else all.")
    ] = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until the study ends.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show how the coordinator and its studies stand.

    Examples:
      wardround coordinator status

      wardround coordinator status heart-disease --watch
    """
    opened = CoordinatorHome.open(home)
    if study is not None:
        folder = find(opened.studies, study)
        if watch:
            _follow(folder, as_json)
        elif as_json:
            _json(as_json_status(folder))
        else:
            _print(_told(folder.status))
        return
    running = is_locked(opened.lock_file)
    said = read_status(opened.status_file)
    state = str(said.get("state", "")) if running else "not running"
    found = folders(opened.studies)
    if as_json:
        why = said.get("why", "") if running else ""
        _json({"coordinator": state, "why": why, "studies": [as_json_status(one) for one in found]})
        return
    _print(f"Coordinator `{opened.config.name}` ({opened.config.address}): {state}")
    if running and said.get("why"):
        _print(str(said["why"]))
    for one in found:
        _print(_told(one.status))
    if not found:
        _print("No study was launched yet.")


@coordinator.command("stop")
def stop_command(study: StudyArgument, home: HomeOption = None) -> None:
    """Stop a study; it can be resumed.

    Example:
      wardround coordinator stop heart-disease
    """
    folder = find(CoordinatorHome.open(home).studies, study)
    if folder.status.state in ENDED:
        raise StudyError(f"{study}: {folder.status.state} already")
    folder.command(replace(folder.order, wanted=STOP))
    _print(f"`{study}` stops. To go on: wardround coordinator resume {study}")


@coordinator.command("resume")
def resume_command(
    study: StudyArgument,
    follow: Annotated[bool, typer.Option("--follow", help="Show its progress until it ends.")] = False,
    home: HomeOption = None,
) -> None:
    """Go on with a study that was stopped, failed or paused, from its last sum.

    Example:
      wardround coordinator resume heart-disease --follow
    """
    folder = find(CoordinatorHome.open(home).studies, study)
    if folder.status.state == "finished":
        raise StudyError(f"{study}: finished already; see wardround coordinator results {study}")
    folder.command(replace(folder.order, wanted=RUN))
    if not folder.is_running:
        folder.tell(replace(folder.status, state="launched", why=""))
    if follow:
        _follow(folder, False)
    else:
        _print(f"`{study}` goes on. Follow it: wardround coordinator status {study} --watch")


@coordinator.command("results")
def results_command(
    study: StudyArgument,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Copy results.json, report and models there.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite what is there.")] = False,
    as_json: JsonOption = False,
    home: HomeOption = None,
) -> None:
    """Show a finished study's results.

    Examples:
      wardround coordinator results heart-disease

      wardround coordinator results heart-disease --out heart
    """
    folder = find(CoordinatorHome.open(home).studies, study)
    place = folder.results / "results.json"
    if folder.status.state != "finished" or not place.exists():
        raise StudyError(f"{study}: no results yet; {_told(folder.status)}")
    if out is not None:
        check_absent([out / one.name for one in folder.results.iterdir()], force)
        try:
            shutil.copytree(folder.results, out, dirs_exist_ok=True)
        except (OSError, shutil.Error) as error:
            raise WardroundError(f"{out}: cannot be written ({error})") from None
    text = place.read_text("utf-8")
    if as_json:
        sys.stdout.write(text)
        return
    from wardround_server import show

    show.results(Console(), json.loads(text))
    _print(f"Results: {(out or folder.results) / 'results.json'}")


def as_json_status(folder: StudyFolder) -> dict[str, Any]:
    """Return a study's status for `--json`."""
    return as_json(folder.status) | {"running": folder.is_running, "results": str(folder.results)}


def _told(status: Status) -> str:
    """Say in one line how a study stands."""
    parts = [f"`{status.study}`: {status.state}"]
    if status.state == "running":
        left = "" if status.left_s is None else f", about {_span(status.left_s)} left"
        parts.append(f"step {status.steps} of about {status.expected}{left}")
    if status.joined and status.state == "gathering":
        parts.append(f"{listed(status.joined)} in")
    if status.waiting:
        what = "waiting for the approval of" if status.state == "gathering" else "waiting for"
        parts.append(f"{what} {listed(status.waiting)}")
    if status.absent and status.state == "gathering":
        parts.append(f"not online: {listed(status.absent)}")
    parts += [f"`{name}` declines ({code})" for name, code in status.declined.items()]
    if status.why:
        parts.append(status.why)
    return "; ".join(parts)


def _span(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def _follow(folder: StudyFolder, as_json_lines: bool) -> None:
    """Show a study's progress until it ends. StudyError if it fails."""
    shown = ""
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    while True:
        status = folder.status
        line = _told(status)
        if line != shown:
            if as_json_lines:
                _json(as_json_status(folder), indent=None)
            else:
                console.print(line)
            shown = line
        if status.state == "failed":
            raise StudyError(f"{folder.name}: {status.why}")
        if status.state in ENDED:
            if status.state == "finished" and not as_json_lines:
                _print(f"Results: {folder.results / 'results.json'}")
            return
        time.sleep(0.3)


def _json(value: Any, indent: int | None = 1) -> None:
    sys.stdout.write(json.dumps(value, indent=indent, ensure_ascii=False) + "\n")
    sys.stdout.flush()


@coordinator.command()
def replay(
    transcript: Annotated[Path, typer.Argument(help="A transcript, as simulate --transcript keeps one.")],
    out: Annotated[
        Path | None, typer.Option(help="Write the results there instead of printing them.")
    ] = None,
) -> None:
    """Re-derive a study's results from its transcript alone; asks no hospital.

    TRANSCRIPT is a file that `wardround simulate --transcript` kept.

    Example: wardround coordinator replay study.transcript
    """
    from wardround_common.plan import study_program
    from wardround_server.conductor import conduct
    from wardround_server.publish import published, to_json
    from wardround_server.strategies import flower
    from wardround_server.transcript import read_transcript

    recorded = read_transcript(transcript)
    opening = recorded.opening
    if opening is None or not recorded.epochs:
        raise WardroundError(f"{transcript}: the study stopped before its first sum")
    study = parse_study(opening.study(), str(transcript))
    findings = conduct(study_program(study, flower), study.dictionary, recorded, None)
    text = to_json(published(study, recorded, findings, {}))
    if out is None:
        sys.stdout.write(text)
    else:
        write_file(out, text)


@coordinator.command("doctor")
def doctor_command(as_json: JsonOption = False, home: HomeOption = None) -> int:
    """Check this home, its certificate, its ports, and what its listeners answer.

    Changes nothing and prints no secret: the report may be mailed. Exit code 2 if a check failed.

    Example:
      wardround coordinator doctor
    """
    from wardround_server.doctor import doctor

    return doctor(home, as_json)
