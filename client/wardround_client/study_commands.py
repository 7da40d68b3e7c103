"""`wardround hospital studies | review | preview | approve | reject | withdraw | releases | ledger`."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table as Grid

from wardround_client.command_options import HomeOption, JsonOption, YesOption
from wardround_client.home import HospitalHome
from wardround_common.cli import confirmed
from wardround_common.errors import StudyError, WardroundError, did_you_mean, listed

if TYPE_CHECKING:
    from wardround_client.store import Held, StudyRecord

StudyArgument = Annotated[
    str, typer.Argument(metavar="STUDY", help="A study that was offered, by name or digest, or a study file.")
]
TableOption = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="The table to read; else the configuration's.")
]


def register(hospital: typer.Typer) -> None:
    """Add the commands to `wardround hospital`."""
    for name, command in (
        ("studies", studies_command),
        ("review", review_command),
        ("preview", preview_command),
        ("approve", approve_command),
        ("reject", reject_command),
        ("withdraw", withdraw_command),
        ("releases", releases_command),
        ("ledger", ledger_command),
    ):
        hospital.command(name)(command)


def _console() -> Console:
    return Console(soft_wrap=True, highlight=False, markup=False)


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False, default=str) + "\n")


def _time(at: float | None) -> str:
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def studies_command(home: HomeOption = None, as_json: JsonOption = False) -> None:
    """List the studies that were offered to this hospital, and what its officer decided.

    Example:
      wardround hospital studies
    """
    opened = HospitalHome.open(home)
    shown = [_study(opened, record) for record in opened.store.studies()]
    if as_json:
        _print_json(shown)
        return
    if not shown:
        _console().print("No study was offered yet.")
        return
    grid = Grid("study", "digest", "state", "offered", "approved", "waiting")
    for one in shown:
        waiting = str(one["waiting"]) if one["waiting"] else ""
        grid.add_row(
            *(one["name"], one["digest"][:8], one["state"], _time(one["offered_at"])),
            *(_time(one["approved_at"]), waiting),
        )
    _console().print(grid)
    if any(one["state"] == "offered" for one in shown):
        _console().print("Next: wardround hospital review STUDY")


def _study(home: HospitalHome, record: StudyRecord) -> dict[str, Any]:
    return {
        "name": record.name,
        "digest": record.digest.hex(),
        "state": record.state,
        "why": record.why,
        "offered_at": record.offered_at,
        "approved_at": record.approved_at,
        "waiting": sum(not one.says for one in home.store.held(record.digest)),
    }


def review_command(
    study: StudyArgument, table: TableOption = None, home: HomeOption = None, as_json: JsonOption = False
) -> None:
    """Show who asks what, of which rows here, and exactly what would leave. Decides nothing.

    Examples:
      wardround hospital review heart-disease

      wardround hospital review heart-disease --json
    """
    from wardround_client.approval import find_study
    from wardround_client.review import review
    from wardround_client.review_text import show_review

    opened = HospitalHome.open(home)
    found = review(opened, find_study(opened, study), table)
    opened.store.audit("review", found.name, found.digest)
    if as_json:
        _print_json(found.shown())
    else:
        show_review(_console(), found)


def preview_command(
    study: StudyArgument,
    table: TableOption = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write all arrays there, as npz.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Print all values.")] = False,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a study on this hospital's own rows alone, and show each array before it would be sealed.

    Nothing is sent, and nothing is charged. What is shown is this hospital's own: don't pass it on.

    Examples:
      wardround hospital preview heart-disease

      wardround hospital preview heart-disease --out preview
    """
    from wardround_client.approval import find_study
    from wardround_client.preview import preview, write_releases
    from wardround_client.review_text import show_preview

    opened = HospitalHome.open(home)
    wanted = find_study(opened, study)
    progress = Console(stderr=True, highlight=False, markup=False)
    with progress.status("Running the study on this hospital's rows alone") as line:
        found = preview(
            opened,
            wanted,
            table,
            lambda one: line.update(f"{one.analysis} {one.index}: {one.numbers:,} numbers"),
        )
    opened.store.audit("preview", wanted.name, wanted.digest.hex())
    if out is not None:
        write_releases(out, found.releases)
        progress.print(f"Wrote {len(found.releases)} releases to {out}.")
    if as_json:
        _print_json(found.shown())
    else:
        show_preview(_console(), found, full)


def approve_command(
    study: StudyArgument,
    table: TableOption = None,
    again: Annotated[
        bool,
        typer.Option("--again", help="Approve anew, on the table as it is now; what was begun is given up."),
    ] = False,
    accept: Annotated[
        list[str] | None,
        typer.Option(
            "--accept", metavar="STUDY", help="Accept that few rows are told by a difference to this study."
        ),
    ] = None,
    yes: YesOption = False,
    home: HomeOption = None,
) -> None:
    """Approve a study for this hospital: policy and rows are checked, the cohort is pinned, all is signed.

    STUDY is the name of a study that was offered (see `wardround hospital studies`), or the start of its
    digest, or a study file.

    Examples:
      wardround hospital approve heart-disease

      wardround hospital approve heart-disease --table cohort-2026.parquet --again
    """
    from wardround_client.approval import approve, check_again, find_study, look_at
    from wardround_client.review import reviewed
    from wardround_client.review_text import short

    opened = HospitalHome.open(home)
    found, names = find_study(opened, study), accept or []
    check_again(opened, found, again)
    looked = look_at(opened, found, table)
    told = {name for one in looked.near for name in one.others or (one.study,)}
    unknown = [name for name in names if name not in told]
    if unknown:
        raise WardroundError(
            f"--accept {unknown[0]}: no few rows are told by a difference to it"
            f"{did_you_mean(unknown[0], told)}; leave it out"
        )
    refused = looked.refusals or any(not one.accepted and not one.is_among(names) for one in looked.near)
    if not yes and not refused:
        confirmed(short(reviewed(opened, looked)), "Approve this study?", yes)
    done = approve(opened, found, table, again, names, looked)
    lacking = f" No column for {listed(done.absent)}: read as missing." if done.absent else ""
    _console().print(f"Approved `{found.name}` on {done.rows:,} rows.{lacking}")


def reject_command(
    study: StudyArgument,
    why: Annotated[str, typer.Option("--why", help="The reason; it stays at this hospital.")],
    home: HomeOption = None,
) -> None:
    """Turn a study down. The coordinator learns only that it is not approved.

    Example:
      wardround hospital reject heart-disease --why "no ethics vote yet"
    """
    from wardround_client.approval import find_study, reject

    opened = HospitalHome.open(home)
    if not why.strip():
        raise WardroundError("--why: give a reason, for this hospital's own log")
    found = find_study(opened, study)
    reject(opened, found, why)
    _console().print(f"Rejected `{found.name}`.")


def withdraw_command(
    study: StudyArgument,
    why: Annotated[str, typer.Option("--why", help="The reason; it stays at this hospital.")] = "",
    home: HomeOption = None,
) -> None:
    """Take an approval back, from the next query on. What was answered stays in ledger and audit log.

    Example:
      wardround hospital withdraw heart-disease
    """
    from wardround_client.approval import find_study, withdraw

    opened = HospitalHome.open(home)
    found = find_study(opened, study)
    record = opened.store.study(found.digest)
    if record is None or record.approved_at is None:
        raise StudyError(f"{found.name}: not approved, so there is nothing to withdraw")
    withdraw(opened, found.digest, why)
    _console().print(f"Withdrew the approval of `{found.name}`.")


def releases_command(
    study: Annotated[str | None, typer.Argument(metavar="STUDY", help="One study; else all.")] = None,
    show: Annotated[bool, typer.Option("--show", help="Print the arrays that wait.")] = False,
    release: Annotated[
        list[str] | None,
        typer.Option("--release", metavar="ANALYSIS/N", help="Let one go; `all` lets all go that wait."),
    ] = None,
    refuse: Annotated[
        list[str] | None, typer.Option("--refuse", metavar="ANALYSIS/N", help="Decline one, or `all`.")
    ] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the releases that wait for a person (`hold = true` in policy.toml), and let them go or not.

    Examples:
      wardround hospital releases heart-disease --show

      wardround hospital releases heart-disease --release logistic/0

      wardround hospital releases heart-disease --release all
    """
    from wardround_client.approval import decide_releases, find_study, waiting_release
    from wardround_client.review_text import OWN, show_release

    opened = HospitalHome.open(home)
    records = [one for one in opened.store.studies() if one.approved_at is not None]
    if study is not None:
        digest = find_study(opened, study).digest
        records = [one for one in records if one.digest == digest]
    if release or refuse:
        if study is None or not records:
            raise WardroundError("name one approved study of which to let releases go, or to decline them")
        done = decide_releases(opened, records[0], release or (), refuse or ())
        _console().print("\n".join(done) or "Nothing waits.")
        return
    waiting = [
        (record, one) for record in records for one in opened.store.held(record.digest) if not one.says
    ]
    if as_json:
        held = [_held(record, one) for record, one in waiting]
        if show:
            for told, (record, one) in zip(held, waiting, strict=True):
                told |= waiting_release(opened, record, one).shown()
        _print_json(held)
        return
    console = _console()
    if show and waiting:
        console.print(OWN)
    for record, one in waiting:
        console.print(f"`{record.name}` {one.analysis}/{one.index}, since {_time(one.at)}")
        if show:
            show_release(console, waiting_release(opened, record, one), full=True)
    if not waiting:
        console.print("Nothing waits.")


def _held(record: StudyRecord, one: Held) -> dict[str, Any]:
    return {"study": record.name, "analysis": one.analysis, "index": one.index, "at": one.at}


def ledger_command(
    study: Annotated[str | None, typer.Option("--study", metavar="STUDY", help="Of one study.")] = None,
    month: Annotated[str | None, typer.Option("--month", metavar="YYYY-MM", help="Of one month.")] = None,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show what left this hospital: by study and month, then release by release.

    Examples:
      wardround hospital ledger

      wardround hospital ledger --study heart-disease --month 2026-01 --json
    """
    from wardround_client.ledger import by_study_and_month, charges

    if month is not None and not _is_month(month):
        raise WardroundError(f"--month: `{month}` is no month; write it as in 2026-01")
    opened = HospitalHome.open(home)
    entered = charges(opened.store)
    names = {one.study: one.study.hex()[:8] for one in entered}
    names |= {one.digest: one.name for one in opened.store.studies()}
    wanted = set(names) if study is None else _named(study, names)
    found = [one for one in entered if one.study in wanted and month in (None, one.month)]
    totals = by_study_and_month(found, names)
    if as_json:
        entries = [{**one.shown(), "name": names[one.study]} for one in found]
        _print_json({"totals": totals, "releases": entries})
        return
    console = _console()
    if not found:
        console.print("Nothing has left.")
        return
    grid = Grid("study", "month", "releases", "numbers", "rows at most", "hospitals", "privacy cost")
    for one in totals:
        grid.add_row(
            *(one["study"], one["month"], f"{one['releases']:,}", f"{one['numbers']:,}"),
            *(f"{one['rows']:,}", listed(one["hospitals"]), one["privacy"]),
        )
    console.print(grid)
    _show_charges(console, found, names)


def _named(study: str, names: dict[bytes, str]) -> set[bytes]:
    """Return the digests of all versions of a study, or that which begins so."""
    found = {digest for digest, name in names.items() if name == study}
    if len(study) >= 8:
        found |= {digest for digest in names if digest.hex().startswith(study)}
    if not found:
        known = sorted(set(names.values()))
        there = f"; there are {listed(known)}" if known else "; none was offered to this hospital yet"
        raise StudyError(
            f"--study {study}: no study of this name was offered{did_you_mean(study, known)}{there}"
        )
    return found


def _show_charges(console: Console, found: Sequence[Any], names: dict[bytes, str]) -> None:
    grid = Grid("at", "study", "analysis", "query", "numbers", "rows", "fields")
    for one in found:
        grid.add_row(
            *(_time(one.at), names[one.study], f"{one.analysis}/{one.index}", one.kind),
            *(f"{one.numbers:,}", f"{one.rows:,}", ", ".join(one.fields)),
        )
    console.print(grid)


def _is_month(text: str) -> bool:
    try:
        return f"{datetime.strptime(text, '%Y-%m').replace(tzinfo=UTC):%Y-%m}" == text
    except ValueError:
        return False
