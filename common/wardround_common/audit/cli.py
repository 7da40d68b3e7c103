"""`wardround audit`: read an audit log, check that nobody rewrote it, prove an entry, export it."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from wardround_common.audit.check import Mark
from wardround_common.audit.evidence import Verdict, check, exported, prove_entry, prove_growth
from wardround_common.audit.merkle import HASH_BYTES
from wardround_common.audit.show import lines, shown, time_text, told
from wardround_common.errors import WardroundError
from wardround_common.files import check_absent, unwritable
from wardround_common.home import find_home
from wardround_common.sealing.epoch import AuditHead

if TYPE_CHECKING:
    from wardround_common.audit.log import AuditLog
    from wardround_common.audit.note import Origin
    from wardround_common.sealing.identity import Identity

audit = typer.Typer(help="Who did what when, and that nobody rewrote it.", no_args_is_help=True)
_KEY_BYTES = 32

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", metavar="DIR", help="A hospital's or coordinator's home; else WARDROUND_HOME."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
OutOption = Annotated[
    Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; else it is printed.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Write over a file that is there.")]


@audit.command("verify")
def verify_command(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="An export, a proof, or a database; else the home's own log."),
    ] = None,
    home: HomeOption = None,
    head: Annotated[
        list[str] | None,
        typer.Option("--head", metavar="COUNT:HEX", help="A head that was told before; may be repeated."),
    ] = None,
    key: Annotated[
        str | None, typer.Option("--key", metavar="HEX", help="The public key that it must be signed with.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Recompute a log from its entries and compare it with its signed checkpoints and with heads told before.

    An export or a proof is checked offline, by whoever has the file. It brings its key along: read the words
    out on the telephone, or give the key that you know with --key.

    Examples:
      wardround audit verify

      wardround audit verify north.jsonl --head 120:8d5e...
    """
    heads, public = [_head(text) for text in head or ()], None if key is None else _key(key)
    where = file or find_home(home)
    if file is not None and home is not None:
        raise WardroundError("give either FILE or --home, not both")
    if file is not None and not _is_log(file):
        verdict, signed = _verified_file(file, heads), None
        if public not in (None, verdict.public):
            raise WardroundError(f"{file}: signed with another key than --key, {verdict.public.hex()}")
    else:
        verdict, signed = _verified_log(where, heads, public)
    if as_json:
        _print_json(told(verdict, signed))
    else:
        _print(lines(where, verdict, signed))


@audit.command("prove")
def prove_command(
    number: Annotated[
        int | None, typer.Argument(metavar="[SEQ]", min=1, help="Prove that this entry is in the log.")
    ] = None,
    since: Annotated[
        int | None,
        typer.Option(metavar="COUNT", min=0, help="Prove that the log grew from its first COUNT entries."),
    ] = None,
    out: OutOption = None,
    force: ForceOption = False,
    home: HomeOption = None,
) -> None:
    """Write a proof that others can check: about one entry, or that nothing was rewritten since COUNT.

    It shows no other entry. The log is verified before its head is signed.

    Examples:
      wardround audit prove 17 --out entry-17.json

      wardround audit prove --since 120 --out since-120.json
    """
    if (number is None) == (since is None):
        raise WardroundError("say what to prove: either an entry's number or --since COUNT")
    with _signing(out, force, home) as (log, head, signer, origin):
        if number is not None:
            proof = prove_entry(log, head, number, signer, origin)
        else:
            proof = prove_growth(log, head, since or 0, signer, origin)
        _write(out, [proof.encode() + b"\n"])


@audit.command("export")
def export_command(
    out: OutOption = None,
    since: Annotated[
        int, typer.Option(metavar="COUNT", min=0, help="Leave out the first COUNT entries.")
    ] = 0,
    force: ForceOption = False,
    home: HomeOption = None,
) -> None:
    """Write the log as JSON Lines: its signed head, then an entry a line, for `wardround audit verify FILE`.

    The log is verified before its head is signed. The file is its owner's alone (mode 0600).

    Example:
      wardround audit export --out north.jsonl
    """
    with _signing(out, force, home) as (log, head, signer, origin):
        _write(out, exported(log, head, since, signer, origin))


@audit.command("log")
def log_command(
    study: Annotated[str | None, typer.Option(help="Only what was done about this study.")] = None,
    last: Annotated[int, typer.Option(min=1, help="How many entries.")] = 50,
    home: HomeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show the last entries of the log, oldest first; times are UTC.

    Example:
      wardround audit log --study heart --last 20
    """
    from wardround_common.audit.database import find_log

    with find_log(find_home(home)).open() as log:
        found = log.last(last, study)
    if as_json:
        _print_json([{"seq": number, **asdict(entry)} for number, entry in found])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("entry", "at", "who", "what", "study", "detail"):
        table.add_column(column, justify="right" if column == "entry" else "left", overflow="fold")
    for number, entry in found:
        texts = (entry.actor, entry.event, entry.study, entry.detail)
        table.add_row(str(number), time_text(entry), *map(shown, texts))
    Console(markup=False, emoji=False, highlight=False).print(table)


# verify


def _is_log(file: Path) -> bool:
    """Tell whether it is a home or a database rather than an export or a proof."""
    from wardround_common.audit.database import SQLITE

    if file.is_dir():
        return True
    with _reading(file) as opened:
        return bool(opened.read(len(SQLITE)) == SQLITE)


def _verified_file(file: Path, heads: Iterable[AuditHead]) -> Verdict:
    marks = [Mark(head, f"the head of {head.count:,} that was given") for head in heads]
    with _reading(file) as opened, _progress() as progress:
        try:
            return check(opened, marks, progress)
        except WardroundError as error:
            raise WardroundError(f"{file}: {error}") from None


def _verified_log(
    where: Path, heads: list[AuditHead], public: bytes | None
) -> tuple[Verdict, AuditHead | None]:
    """Return what was found, and the last checkpoint that the log holds."""
    from wardround_common.audit.database import find_log

    found = find_log(where)
    public = public or found.identity.public
    with found.open() as log, _progress() as progress:
        notes = log.checkpoints()
        try:
            verdict = Verdict("log", found.origin, public, log.verify(public, found.origin, heads, progress))
        except WardroundError as error:
            raise WardroundError(f"{found.database}: {error}") from None
        return verdict, log.head_at(notes[-1][0]) if notes else None


def _head(text: str) -> AuditHead:
    count, _, digest = text.partition(":")
    if not (count.isascii() and count.isdigit() and len(count) < 19):
        raise WardroundError(f"--head {shown(text)}: write COUNT:HEX, as `wardround audit verify` shows it")
    return AuditHead(int(count), _bytes("--head COUNT:HEX", digest, HASH_BYTES))


def _key(text: str) -> bytes:
    return _bytes("--key HEX", text, _KEY_BYTES)


def _bytes(option: str, text: str, length: int) -> bytes:
    try:
        found = bytes.fromhex(text)
    except ValueError:
        found = b""
    if len(found) != length:
        raise WardroundError(f"{option}: HEX is {2 * length} hexadecimal digits")
    return found


# prove and export


@contextmanager
def _signing(
    out: Path | None, force: bool, home: Path | None
) -> Iterator[tuple[AuditLog, AuditHead, Identity, Origin]]:
    """Give a log that was verified, its head, and who signs that."""
    from wardround_common.audit.database import find_log

    if out is not None:
        check_absent([out], force)
    found = find_log(find_home(home))
    signer, origin = found.identity, found.origin
    with found.open() as log:
        try:
            with _progress() as progress:
                head = log.verify(signer.public, origin, progress=progress)
        except WardroundError as error:
            raise WardroundError(f"{found.database}: {error}; nothing was signed") from None
        yield log, head, signer, origin


def _write(out: Path | None, content: Iterable[bytes]) -> None:
    """Write lines whole or not at all, in a file that its owner alone can read."""
    if out is None:
        for line in content:
            sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()
        return
    try:
        handle, fresh = tempfile.mkstemp(dir=out.parent, prefix=f".{out.name}.")  # mkstemp makes it 0600
        try:
            with os.fdopen(handle, "wb") as file:
                file.writelines(content)
                file.flush()
                os.fsync(handle)
            os.replace(fresh, out)
        except BaseException:
            Path(fresh).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise unwritable(out, error) from None


# what all have in common


@contextmanager
def _reading(file: Path) -> Iterator[Any]:
    try:
        with file.open("rb") as opened:
            yield opened
    except OSError as error:
        raise WardroundError(f"{file}: cannot be read ({error.strerror})") from None


@contextmanager
def _progress() -> Iterator[Callable[[int], None] | None]:
    """Show on a terminal's stderr how many entries are checked."""
    if not sys.stderr.isatty():
        yield None
        return
    with Console(file=sys.stderr).status("Checking the audit log") as status:
        yield lambda count: status.update(f"Checking the audit log: {count:,} entries")


def _print(texts: Iterable[str]) -> None:
    Console(soft_wrap=True, highlight=False, markup=False, emoji=False).print("\n".join(texts))


def _print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=1, ensure_ascii=False) + "\n")
