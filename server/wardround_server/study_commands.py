"""The studies of `wardround coordinator`: launch them, follow them, stop, resume, see what they found."""

from __future__ import annotations

import json
import shutil
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from wardround_common.errors import StudyError, WardroundError, did_you_mean, listed
from wardround_common.files import check_absent, write_file
from wardround_common.home import is_locked, read_status
from wardround_common.study import parse_study, read_study
from wardround_server.auditing import Watch, named, results_digest
from wardround_server.command_options import (
    HomeOption,
    JsonOption,
    StudyArgument,
    acting,
    say,
    say_json,
)
from wardround_server.home import CoordinatorHome
from wardround_server.shipped import study_file
from wardround_server.studies import (
    ENDED,
    HELD,
    RUN,
    STOP,
    UNCONFIRMED,
    Order,
    Status,
    StudyFolder,
    enter,
    find,
    folders,
)

studies = typer.Typer()


@studies.command("launch")
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
    checked = read_study(study_file(study))
    with acting(home, "launch", checked.name) as opened:
        if quorum is not None and quorum < checked.privacy.min_hospitals:
            raise StudyError(
                f"--quorum {quorum}: the study asks for {checked.privacy.min_hospitals} hospitals at least "
                "(`privacy.min_hospitals`)"
            )

        def begins(folder: StudyFolder, event: str) -> None:
            Watch(opened).look(folder, folder.status)
            opened.registry.audit(event, checked.name, f"study sha256:{checked.digest.hex()}")

        folder = enter(opened.studies, checked, Order(RUN, quorum, wait, deadline), again, begins)
    if not is_locked(opened.lock_file):
        sys.stderr.write(
            "note: the coordinator does not run; the study begins when it does: wardround coordinator serve\n"
        )
    if follow:
        _follow(folder, as_json)
    elif as_json:
        say_json(as_json_status(folder))
    else:
        say(f"Launched `{folder.name}`. Follow it: wardround coordinator status {folder.name} --watch")


@studies.command("status")
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
    with acting(home, "status", study or "") as opened:
        pass
    if study is not None:
        folder = find(opened.studies, study)
        if watch:
            _follow(folder, as_json)
        elif as_json:
            say_json(as_json_status(folder))
        else:
            say(_told(folder.status))
        return
    running = is_locked(opened.lock_file)
    said = read_status(opened.status_file)
    state = str(said.get("state", "")) if running else "not running"
    found = folders(opened.studies)
    if as_json:
        why = said.get("why", "") if running else ""
        say_json({"coordinator": state, "why": why, "studies": [as_json_status(one) for one in found]})
        return
    say(f"Coordinator `{opened.config.name}` ({opened.config.address}): {state}")
    if running and said.get("why"):
        say(str(said["why"]))
    for one in found:
        say(_told(one.status))
    if not found:
        say("No study was launched yet.")


@studies.command("stop")
def stop_command(study: StudyArgument, home: HomeOption = None) -> None:
    """Stop a study; it can be resumed.

    Example:
      wardround coordinator stop heart-disease
    """
    with acting(home, "stop", study) as opened:
        folder = find(opened.studies, study)
        if folder.status.state in ENDED:
            raise StudyError(f"{study}: {folder.status.state} already")
        order = replace(folder.order, wanted=STOP)
        opened.registry.audit("stop", study)
        folder.command(order)
    say(f"`{study}` stops. To go on: wardround coordinator resume {study}")


@studies.command("resume")
def resume_command(
    study: StudyArgument,
    without: Annotated[
        list[str] | None,
        typer.Option("--without", metavar="NAME", help="Go on without this hospital; may be repeated."),
    ] = None,
    back: Annotated[
        list[str] | None,
        typer.Option("--with", metavar="NAME", help="Take back one that was left out; may be repeated."),
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Show its progress until it ends.")] = False,
    home: HomeOption = None,
) -> None:
    """Go on with a study that was stopped, failed or paused, from its last sum.

    A study waits for the hospitals that began it. Without one that does not come back it goes on if the terms
    of leaving allow it that the hospitals signed, and each of its analyses as its `on_change` says.

    Examples:
      wardround coordinator resume heart-disease --follow

      wardround coordinator resume heart-disease --without north
    """
    with acting(home, "leave out" if without or back else "resume", study) as opened:
        folder = find(opened.studies, study)
        if folder.status.state == "finished":
            raise StudyError(f"{study}: finished already; see wardround coordinator results {study}")
        order = folder.order
        if without or back:
            order = replace(order, without=_left_out(opened, folder, order, without or [], back or []))
        Watch(opened).look(folder, folder.status)
        opened.registry.audit("resume", study, f"without {named(order.without)}" if order.without else "")
        folder.command(replace(order, wanted=RUN))
        if not folder.is_running:
            folder.tell(replace(folder.status, state="launched", why="", declined={}, without=order.without))
    if follow:
        _follow(folder, False)
    else:
        lacking = f" without {listed(order.without)}" if order.without else ""
        say(f"`{study}` goes on{lacking}. Follow it: wardround coordinator status {study} --watch")


def _left_out(
    home: CoordinatorHome, folder: StudyFolder, order: Order, without: list[str], back: list[str]
) -> tuple[str, ...]:
    """Return who is left out from now on. StudyError for other names, or where too few would stay."""
    admitted = [one.name for one in home.registry.hospitals() if one.state == "admitted"]
    members = folder.begun_by or tuple(sorted(admitted))
    for name in without:
        if name not in members:
            raise StudyError(
                f"--without {name}: not a hospital of `{folder.name}`{did_you_mean(name, members)}; there "
                f"are {listed(members)}"
            )
    for name in back:
        if name not in order.without or name in without:
            left = listed(order.without) if order.without else "nobody"
            raise StudyError(f"--with {name}: it can't be taken back; left out so far: {left}")
    left_out = (set(order.without) | set(without)) - set(back)
    stay, least = set(members) - left_out, folder.study.privacy.min_hospitals
    if without and len(stay) < least:
        raise StudyError(
            f"{folder.name}: {len(stay)} of its {len(members)} hospitals would go on; it asks for {least} "
            "at least (`privacy.min_hospitals`); wait for more of them, or take one back (--with NAME)"
        )
    return tuple(sorted(left_out))


@studies.command("results")
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
    with acting(home, "results", study) as opened:
        folder = find(opened.studies, study)
        place = folder.results / "results.json"
        if folder.status.state != "finished" or not place.exists():
            raise StudyError(f"{study}: no results yet; {_told(folder.status)}")
        if out is not None:
            check_absent([out / one.name for one in folder.results.iterdir()], force)
        opened.registry.audit("results" if out is None else "export", study, results_digest(folder))
    if out is not None:
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
    say(f"Results: {(out or folder.results) / 'results.json'}")


def as_json_status(folder: StudyFolder) -> dict[str, Any]:
    """Return a study's status for `--json`."""
    return asdict(folder.status) | {"running": folder.is_running, "results": str(folder.results)}


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
        if status.steps:
            parts.append(f"if it stays away: wardround coordinator resume {status.study} --without NAME")
    if status.without:
        parts.append(f"{listed(status.without)} left out")
    waits = {
        UNCONFIRMED: "confirm other hospitals (there: wardround hospital members)",
        HELD: "release an answer (there: wardround hospital releases)",
    }
    parts += [f"`{name}` declines ({code})" for name, code in status.declined.items() if code not in waits]
    for code, what in waits.items():
        officers = [name for name, said in status.declined.items() if said == code]
        if officers:
            parts.append(f"waiting for the officers of {listed(officers)}, who have to {what}")
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
                say_json(as_json_status(folder), indent=None)
            else:
                console.print(line)
            shown = line
        if status.state == "failed":
            raise StudyError(f"{folder.name}: {status.why}")
        if status.state in ENDED:
            if status.state == "finished" and not as_json_lines:
                say(f"Results: {folder.results / 'results.json'}")
            return
        time.sleep(0.3)


@studies.command()
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
    from wardround_common.replay import Replay
    from wardround_server.conductor import conduct
    from wardround_server.publish import published, to_json
    from wardround_server.strategies import flower
    from wardround_server.transcript import read_transcript

    recorded = read_transcript(transcript)
    opening = recorded.opening
    if opening is None or not recorded.epochs:
        raise WardroundError(f"{transcript}: the study stopped before its first sum")
    study = parse_study(opening.study(), str(transcript))
    findings = conduct(Replay(study, flower, opening.roster.digest), recorded, None)
    text = to_json(published(study, recorded, findings, {}))
    if out is None:
        sys.stdout.write(text)
    else:
        write_file(out, text)
