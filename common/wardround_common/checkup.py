"""What both sides' `doctor` are made of: checks, one after another, each of which ends in one finding.

A finding is a line that may be mailed to whoever helps: no credentials, nothing of patients, nothing that
a terminal would obey. A check that takes too long or breaks is a finding too, so a dead network is one
report and not a hang. Checks look and change nothing.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import ssl
import sys
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, Final

from cryptography import x509

from wardround_common.errors import WardroundError

LIMIT_S: Final = 5.0  # of one step on the network
_MOST: Final = 600  # letters
_USERINFO: Final = re.compile(r"(?<=//)[^/\s]*@")
_GIB: Final = 1 << 30
_FEW_DAYS: Final = 30


@dataclass(frozen=True)
class Finding:
    """What one check found, and what to do about it.

    ``ok`` None: it does not apply, or is only to be noted. Credentials in URLs are taken out of the texts,
    and so is what can't be printed.
    """

    name: str
    ok: bool | None
    said: str
    todo: str = ""

    def __post_init__(self) -> None:
        """Make the texts fit for one line that anybody may read."""
        for text in ("said", "todo"):
            object.__setattr__(self, text, _redacted(getattr(self, text)))

    def line(self) -> str:
        """Return it as a line."""
        sign = {True: "ok  ", False: "FAIL", None: "note"}[self.ok]
        return f"{sign}  {self.name:<11} {self.said}" + (f" -> {self.todo}" if self.todo else "")


def _redacted(text: str) -> str:
    plain = "".join(letter if letter.isprintable() else " " for letter in _USERINFO.sub("", text))
    return " ".join(plain.split())[:_MOST]


def fine(said: str) -> Finding:
    """Return a good finding; whoever ran the check names it."""
    return Finding("", True, said)


def wrong(said: str, todo: str = "") -> Finding:
    """Return a bad finding."""
    return Finding("", False, said, todo)


def note(said: str, todo: str = "") -> Finding:
    """Return a finding that is neither."""
    return Finding("", None, said, todo)


class Skipped(Exception):
    """A check can't be made for want of something that another one found lacking."""


@dataclass(frozen=True)
class Check:
    """A check, what has to be well before it, and how long it may take."""

    name: str
    look: Callable[[], Finding]
    needs: tuple[str, ...] = ()
    limit_s: float = 2 * LIMIT_S  # a host may have two addresses, each with its own try


def examine(checks: Iterable[Check], tell: Callable[[Finding], None] = lambda found: None) -> list[Finding]:
    """Make the checks in order; tell each finding as it comes, and return them all."""
    findings: list[Finding] = []
    usable: set[str] = set()
    for check in checks:
        lacking = next((need for need in check.needs if need not in usable), None)
        if lacking is not None:
            found, skipped = note(f"skipped: needs {lacking}"), True
        else:
            found, skipped = _made(check)
        found = Finding(check.name, found.ok, found.said, found.todo)
        if found.ok is not False and not skipped:
            usable.add(check.name)
        findings.append(found)
        tell(found)
    return findings


def _made(check: Check) -> tuple[Finding, bool]:
    """Return what a check finds, and whether it was skipped after all."""
    answer: SimpleQueue[tuple[Finding, bool]] = SimpleQueue()
    # a thread, since a name's resolution can't be given a limit; one that hangs ends with this program
    threading.Thread(target=lambda: answer.put(_looked(check)), name=check.name, daemon=True).start()
    try:
        return answer.get(timeout=check.limit_s)
    except Empty:
        return wrong(f"nothing was heard within {check.limit_s:.0f} s"), False


def _looked(check: Check) -> tuple[Finding, bool]:
    try:
        return check.look(), False
    except Skipped as error:
        return note(f"skipped: needs {error}"), True
    except WardroundError as error:
        return wrong(str(error)), False
    except OSError as error:
        return wrong(reason(error)), False
    except Exception as error:  # noqa: BLE001 (a report with a hole is better than none; its text may hold anything)
        return wrong(f"the check itself failed ({type(error).__name__})", "report this as a defect"), False


def report(checks: Iterable[Check], as_json: bool) -> int:
    """Make the checks and print what they find. Returns the exit code: 2 if something failed."""
    write = sys.stdout.write
    findings = examine(checks, lambda one: None if as_json else _print(one.line()))
    failed = sum(one.ok is False for one in findings)
    if as_json:
        about = {
            "ok": not failed,
            "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "wardround": version("wardround"),
        }
        write(
            json.dumps(about | {"findings": [asdict(one) for one in findings]}, indent=1, ensure_ascii=False)
            + "\n"
        )
    else:
        _print(f"{failed} of {len(findings)} checks failed." if failed else "Nothing failed.")
    return 2 if failed else 0


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def reason(error: OSError) -> str:
    """Say in a few words what the system said."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    return error.strerror or " ".join(str(error).split()) or type(error).__name__


def private(folders: Iterable[Path], files: Iterable[Path]) -> Finding:
    """Check that folders and files, those that are there, are their owner's only."""
    loose = [
        (path, path.stat().st_mode & 0o777, mode)
        for paths, mode in ((folders, "700"), (files, "600"))
        for path in paths
        if path.exists() and path.stat().st_mode & 0o077
    ]
    if not loose:
        return fine("for their owner only")
    return wrong(
        "open to others on this machine: "
        + ", ".join(f"{path} (mode {mode:04o})" for path, mode, _ in loose),
        "make sure that nobody read them, then: "
        + "; ".join(f"chmod {mode} {shlex.quote(str(path))}" for path, _, mode in loose),
    )


def disk(path: Path) -> Finding:
    """Check that there is room where a home is."""
    free = shutil.disk_usage(path).free / _GIB
    said, todo = f"{free:.1f} GiB free at {path}", "make room; delete no database and no transcript"
    if free < 1:
        return wrong(said, todo)
    return note(said, todo) if free < 5 else fine(said)


def versions(*packages: str) -> Finding:
    """Name the versions of Wardround, Python and packages; flwr has to be the one that Wardround needs."""
    found = {"wardround": version("wardround"), "Python": sys.version.split()[0]}
    for package in ("flwr", "numpy", "cryptography", *packages):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "missing"
    found["OpenSSL"] = ssl.OPENSSL_VERSION.split()[1]
    said = ", ".join(f"{name} {number}" for name, number in found.items())
    wanted = next((one for one in requires("wardround") or [] if one.startswith("flwr==")), "")
    if wanted and wanted != f"flwr=={found['flwr']}":
        return wrong(said, f"install Wardround anew; it needs {wanted}")
    return fine(said)


@dataclass(frozen=True)
class Hello:
    """What a coordinator says of itself: unix seconds, its version and protocol."""

    coordinator: str
    wardround: str
    protocol: int
    time: float


def read_hello(status: int, body: bytes, date: str | None) -> Hello:
    """Read the answer to GET /wardround/hello. WardroundError if that is no coordinator's.

    ``date`` is the answer's header, for a coordinator that does not tell the time.
    """
    try:
        said: Any = json.loads(body) if status == 200 else {}
        clock: Any = said.get("time") if isinstance(said, dict) else None
        if type(clock) not in (int, float):
            clock = parsedate_to_datetime(date or "").timestamp()
        name, number, protocol = (said[key] for key in ("coordinator", "wardround", "protocol"))
        if not (isinstance(name, str) and isinstance(number, str) and type(protocol) is int):
            raise TypeError
        return Hello(name[:64], number[:64], protocol, float(clock))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        raise WardroundError(
            f"what answers there is no coordinator (HTTP {status}); check the address, and whether another "
            "site or a firewall answers in its place"
        ) from None


def named(name: x509.Name) -> str:
    """Return a certificate's subject or issuer in a short form."""
    return name.rfc4514_string()[:200] or "nobody"


def days_left(certificate: x509.Certificate, now: float) -> float:
    """Return for how many days a certificate is still good."""
    return (certificate.not_valid_after_utc.timestamp() - now) / 86_400


def lasting(said: str, days: float, todo: str) -> Finding:
    """Return a good finding, or a note where a certificate ends soon."""
    said = f"{said}, {days:.0f} days left"
    return note(said, todo) if days < _FEW_DAYS else fine(said)


def issued_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Tell whether a certificate is signed by an authority's key."""
    try:
        certificate.verify_directly_issued_by(authority)
    except Exception:  # noqa: BLE001 (ValueError, TypeError, InvalidSignature, and whatever strange keys bring)
        return False
    return True


def since(begun: float) -> str:
    """Say how long it is since a reading of ``time.perf_counter``."""
    return f"{1000 * (time.perf_counter() - begun):.0f} ms"


def resolved(addresses: Iterable[str]) -> str:
    """Return addresses, each once, the first few."""
    return ", ".join(list(dict.fromkeys(addresses))[:4])


def age(then: object, now: float) -> float | None:
    """Return how many seconds ago a time in a status file was; None if it is no time."""
    return now - then if isinstance(then, (int, float)) and not isinstance(then, bool) else None


def exists_beside(path: Path) -> bool:
    """Tell whether a SQLite database is open, or was left, with a journal or log beside it."""
    return any(os.path.exists(f"{path}{end}") for end in ("-wal", "-journal"))  # noqa: PTH110 (a suffix, no part)
