"""How the commands of `wardround audit` tell what was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from wardround_common.audit.entry import Entry
from wardround_common.audit.evidence import Verdict
from wardround_common.audit.note import HOSPITAL
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.roster import fingerprint
from wardround_common.words import words


def told(verdict: Verdict, signed: AuditHead | None) -> dict[str, Any]:
    """Return a verdict for `--json`; ``signed`` is the last checkpoint that a log holds."""
    found: dict[str, Any] = {
        "kind": verdict.kind,
        "fits": True,
        "side": verdict.origin.side,
        "name": verdict.origin.name,
        "head": head_text(verdict.head),
        "key": verdict.public.hex(),
    }
    if verdict.origin.side == HOSPITAL:
        found["words"] = _words(verdict)
    if verdict.kind == "log":
        found["signed"] = None if signed is None else head_text(signed)
    if verdict.since is not None:
        found["since"] = head_text(verdict.since)
    if verdict.entry is not None:
        found |= {"seq": verdict.seq, "entry": asdict(verdict.entry)}
    return found


def lines(where: Path, verdict: Verdict, signed: AuditHead | None) -> Iterator[str]:
    """Yield the lines that tell a verdict to a person."""
    count, whose = verdict.head.count, f"{verdict.origin.side} `{verdict.origin.name}`"
    since = verdict.since or AuditHead(0, b"")
    if verdict.entry is not None:
        entry = verdict.entry
        yield f"Entry {verdict.seq} is one of {count:,} in the audit log of {whose}:"
        yield " ".join([time_text(entry), *(shown(entry.actor), shown(entry.event), shown(entry.study))])
        yield shown(entry.detail)
    elif verdict.kind == "consistency":
        yield f"The audit log of {whose} grew from {since.count:,} to {count:,} entries; none was rewritten."
    else:
        new = count - since.count
        after = f" after the first {since.count:,}" if since.count else ""
        entries = "entry" if new == 1 else "entries"
        yield f"{where}: the audit log of {whose} is whole, {new:,} {entries}{after}."
    if verdict.kind == "log":
        on = "nothing is signed yet" if signed is None else f"signed until entry {signed.count:,}"
        yield f"Checkpoints: {on}"
    if verdict.since is not None and since.count:
        yield f"Was:   {head_text(since)}"
    yield f"Head:  {head_text(verdict.head)}"
    yield f"Key:   {verdict.public.hex()}"
    if verdict.origin.side == HOSPITAL:
        yield f"Words: {_words(verdict)}"


def _words(verdict: Verdict) -> str:
    return " ".join(words(fingerprint(verdict.origin.name, verdict.public)))


def head_text(head: AuditHead) -> str:
    """Return a head as `--head` takes it."""
    return f"{head.count}:{head.head.hex()}"


def time_text(entry: Entry) -> str:
    """Return when it was, in UTC."""
    try:
        return f"{datetime.fromtimestamp(entry.at / 1000, UTC):%Y-%m-%d %H:%M:%S}"
    except (ValueError, OverflowError):
        return str(entry.at)  # after the year 9999


def shown(text: str) -> str:
    """Return a text as a terminal may have it: nothing in it that steers the terminal."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)
