"""`coordinator doctor`: are home, certificate, ports and listeners as they should be.

Two listeners are asked, each as its users do: the outside one by the certificate that hospitals pin, and
that it refuses what is Flower's own; the inside one on loopback, and that it is nowhere else.
"""

from __future__ import annotations

import errno
import ipaddress
import socket
import sqlite3
import ssl
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Final
from urllib.parse import quote

import httpx
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from wardround_common.checkup import (
    LIMIT_S,
    Check,
    Finding,
    Skipped,
    age,
    days_left,
    disk,
    exists_beside,
    fine,
    issued_by,
    lasting,
    named,
    note,
    private,
    read_hello,
    reason,
    report,
    resolved,
    since,
    versions,
    wrong,
)
from wardround_common.enrolment import split_address
from wardround_common.errors import WardroundError, listed
from wardround_common.files import read_private
from wardround_common.home import find_home, is_locked, read_status
from wardround_server.grid.control import Control
from wardround_server.home import CoordinatorHome
from wardround_server.registry import HospitalRecord, Invitation, Registry
from wardround_server.studies import folders

Clock = Callable[[], float]  # unix seconds

LOOPBACK: Final = "127.0.0.1"
_SILENT_S = 30.0  # `serve` says every 10 s how it is
_CONTROL: Final = "/v1/control/list-runs"
_HELLO: Final = "/wardround/hello"
_RENEW: Final = "wardround coordinator renew-certificate, then restart `coordinator serve`"
_SEE_LOGS: Final = "see logs/serve.log and logs/flower.log, then: wardround coordinator serve"


def doctor(path: Path | None, as_json: bool) -> int:
    """Check a coordinator's home and listeners; print what is found, return the exit code."""
    return report(checks(CoordinatorHome(find_home(path))), as_json)


def checks(home: CoordinatorHome, now: Clock = time.time) -> list[Check]:
    """Return the checks of a home. They share what they find."""
    look = _Look(home, now)
    has = ("config",)
    return [
        Check("config", lambda: _config(home)),
        Check("keys", lambda: _keys(home), has),
        Check("certificate", lambda: _certificate(home, now()), has),
        Check("versions", lambda: versions("uvicorn", "fastapi")),
        Check("disk", lambda: disk(home.path), has),
        Check("dns", lambda: _dns(home), has, LIMIT_S),
        Check("registry", look.registry, has),
        Check("studies", lambda: _studies(home), has),
        Check("transcripts", lambda: _transcripts(home), has),
        Check("serve", lambda: _serve(home, now()), has),
        Check("ports", lambda: _ports(home), has),
        Check("outside", look.outside, ("serve", "ports")),
        Check("closed", look.closed, ("outside",)),
        Check("control", look.control, ("serve", "ports")),
        Check("loopback", lambda: _loopback(home), ("control",)),
        Check("hospitals", look.hospitals, ("registry", "control")),
    ]


def _config(home: CoordinatorHome) -> Finding:
    config = CoordinatorHome.open(home.path).config
    where = f"hospitals dial {config.address}, it listens on {config.listen}"
    return fine(f"`{config.name}`, home {home.path.absolute()}; {where}")


def _keys(home: CoordinatorHome) -> Finding:
    found = private(
        (home.path, home.path / "ca", home.path / "keys", home.studies),
        (home.ca_key_file, home.server_key_file, home.audit_key_file, home.path / "coordinator.db"),
    )
    if not found.ok:
        return found
    where = (
        "here: move it to a medium that is kept offline" if home.ca_key_file.exists() else "kept elsewhere"
    )
    return fine(f"the home and its keys are for their owner only; the CA's key is {where}")


def _certificate(home: CoordinatorHome, now: float) -> Finding:
    authority, shown = _pem(home.ca_file), _pem(home.server_file)
    host, _ = split_address(home.config.address)
    try:
        key = load_pem_private_key(read_private(home.server_key_file), password=None)
    except (ValueError, TypeError):
        return wrong(f"{home.server_key_file}: not a PEM private key", _RENEW)
    if key.public_key() != shown.public_key():
        return wrong("server.key is not that of server.crt", _RENEW)
    if not issued_by(shown, authority):
        return wrong(
            "server.crt is not signed by ca.crt, which hospitals pin",
            f"restore ca.crt if it was replaced, else {_RENEW}",
        )
    if not _names(shown, host):
        return wrong(f"server.crt does not name {host}, which hospitals dial", _RENEW)
    days, ca_days = days_left(shown, now), days_left(authority, now)
    if ca_days < 0:
        return wrong(
            f"the CA expired on {authority.not_valid_after_utc:%Y-%m-%d}", "see `Rotate` in the runbook"
        )
    if days < 0:
        return wrong(f"server.crt expired on {shown.not_valid_after_utc:%Y-%m-%d}", _RENEW)
    said = f"server.crt names {host} and is signed by `{named(authority.subject)}` ({ca_days:.0f} days)"
    return lasting(said, days, _RENEW)


def _pem(path: Path) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError):
        raise WardroundError(
            f"{path}: cannot be read as a certificate; restore it from your back-up"
        ) from None


def _names(certificate: x509.Certificate, host: str) -> bool:
    """Tell whether a certificate is one for a host."""
    try:
        said = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return False
    try:
        return ipaddress.ip_address(host) in said.get_values_for_type(x509.IPAddress)
    except ValueError:
        return host.lower() in (one.lower() for one in said.get_values_for_type(x509.DNSName))


def _dns(home: CoordinatorHome) -> Finding:
    host, port = split_address(home.config.address)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        said = error.strerror if isinstance(error, socket.gaierror) else "no name"
        return wrong(f"{host} does not resolve here ({said})", "enter the name in the DNS that hospitals ask")
    return fine(f"{host} is {resolved(str(one[4][0]) for one in found)}")


def _studies(home: CoordinatorHome) -> Finding:
    found = [one.status for one in folders(home.studies)]
    stuck = [one for one in found if one.state in ("failed", "paused")]
    if not stuck:
        return fine(f"{len(found)} launched, none has failed or waits")
    said = "; ".join(f"`{one.study}` {one.state}: {one.why}" for one in stuck[:5])
    return note(
        f"{len(stuck)} of {len(found)}: {said}", "wardround coordinator status; resume what should go on"
    )


def _transcripts(home: CoordinatorHome) -> Finding:
    found = [one.transcript for one in folders(home.studies) if one.transcript.exists()]
    said = private((), found)
    return fine(f"{len(found)}, for their owner only") if said.ok else said


def _serve(home: CoordinatorHome, now: float) -> Finding:
    said = read_status(home.status_file)
    state, why, told = said.get("state"), str(said.get("why") or ""), age(said.get("at"), now)
    if not is_locked(home.lock_file):
        if state in (None, "stopped"):
            return note("does not run", "wardround coordinator serve")
        return wrong(f"does not run; it was killed or crashed ({state} last)", _SEE_LOGS)
    if told is None or told > _SILENT_S:
        silent = "" if told is None else f" for {told:.0f} s"
        return wrong(f"runs, and has said nothing{silent}", f"restart it; {_SEE_LOGS}")
    if state == "serving":
        return fine(f"serving (process {said.get('pid')}, Flower's SuperLink {said.get('superlink')})")
    if why:
        return wrong(f"runs, {state}: {why}", "see logs/serve.log and logs/flower.log")
    return note(f"runs, {state}")


def _ports(home: CoordinatorHome) -> Finding:
    """Check that both ports are answered by a coordinator that runs, or free for one that does not."""
    places = ((LOOPBACK, home.config.control_port), split_address(home.config.listen))
    said = listed(f"{host}:{port}" for host, port in places)
    if is_locked(home.lock_file):
        for host, port in places:
            try:
                socket.create_connection((_reached(host), port), LIMIT_S).close()
            except OSError as error:
                return wrong(f"{host}:{port} does not answer ({reason(error)})", _SEE_LOGS)
        return fine(f"{said} answer")
    for host, port in places:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                tried.bind((host, port))
            except PermissionError:
                return note(f"{host}:{port} needs a right that this shell lacks; the service has it")
            except OSError as error:
                used = "another program uses it" if error.errno == errno.EADDRINUSE else reason(error)
                return wrong(
                    f"{host}:{port}: {used}",
                    f"`ss -ltnp sport = :{port}` shows who; stop that, or change `listen` or `control_port`",
                )
    return fine(f"{said} are free")


def _reached(host: str) -> str:
    """Return where a listener is reached from this machine."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 (an address that is compared)


def _loopback(home: CoordinatorHome) -> Finding:
    """Check that Flower's own APIs are on no other address of this machine."""
    port, others = home.config.control_port, _addresses()
    for address in others:
        try:
            socket.create_connection((address, port), 1.0).close()
        except OSError:
            continue
        return wrong(
            f"DANGER: port {port} answers on {address} too: who reaches it has full power over this network",
            "stop whatever forwards or listens there at once; Flower's APIs belong on 127.0.0.1 only",
        )
    return fine(f"port {port} answers on {LOOPBACK}, and not on {', '.join(others) or 'another address'}")


def _addresses() -> list[str]:
    """Return this machine's other addresses, as far as they are known without asking anybody."""
    found = []
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as way:
                way.connect((somewhere, 9))  # of a datagram's socket: nothing is sent
                found.append(str(way.getsockname()[0]))
        except OSError:  # no such way out of this machine
            continue
    return [one for one in found if not ipaddress.ip_address(one.partition("%")[0]).is_loopback]


class _Look:
    """Checks that hand on what they found."""

    def __init__(self, home: CoordinatorHome, now: Clock) -> None:
        self._home, self._now = home, now
        self._records: list[HospitalRecord] = []
        self._online: dict[bytes, bool] = {}

    def registry(self) -> Finding:
        self._records, invitations = _registered(self._home)
        counts = {
            state: sum(one.state == state for one in self._records)
            for state in ("admitted", "revoked", "left")
        }
        gone = [one.hospital for one in invitations if one.expires <= self._now()]
        said = (
            f"{', '.join(f'{count} {state}' for state, count in counts.items())}; {len(invitations)} invited"
        )
        if gone:
            return note(
                f"{said}, of which expired: {listed(gone)}",
                "wardround coordinator invite NAME --again, if they are still to come",
            )
        return fine(said)

    def outside(self) -> Finding:
        begun = time.perf_counter()
        response, shown = self._asked("GET", _HELLO)
        took = since(begun)
        hello = read_hello(response.status_code, response.content, response.headers.get("date"))
        place = self._home.config.listen
        if hello.coordinator != self._home.config.name:
            return wrong(
                f"{place}: `{hello.coordinator}` answers there, not this coordinator",
                "stop the other, or restart this one if its name was changed",
            )
        if shown != ssl.PEM_cert_to_DER_cert(self._home.server_file.read_text("ascii")):
            return note(f"{place} still shows the certificate before the last", "restart `coordinator serve`")
        return fine(f"{place} says hello in {took}, over TLS by our CA")

    def closed(self) -> Finding:
        response, _ = self._asked("POST", _CONTROL)
        if response.status_code == httpx.codes.NOT_FOUND:
            return fine(f"{self._home.config.listen} refuses {_CONTROL}")
        return wrong(
            f"DANGER: {self._home.config.listen} answers {_CONTROL} with HTTP {response.status_code}: to the "
            "outside Flower's Control API is open, and who reaches it has full power over this network",
            "stop `coordinator serve` now, then see whether `listen` and `control_port` were mixed up, or a "
            "proxy leads to the control port",
        )

    def control(self) -> Finding:
        if not is_locked(self._home.lock_file):
            raise Skipped("a running `coordinator serve`")
        control = Control(self._home)
        try:
            begun = time.perf_counter()
            self._online = {key: state == "online" for key, (_, state, _) in control.nodes().items()}
        finally:
            control.close()
        return fine(
            f"Flower's Control API answers on {LOOPBACK}:{self._home.config.control_port} in {since(begun)}"
        )

    def hospitals(self) -> Finding:
        admitted = [one for one in self._records if one.state == "admitted"]
        away = [one.name for one in admitted if not self._online.get(one.node_key)]
        said = f"{len(admitted) - len(away)} of {len(admitted)} online"
        return note(f"{said}; not {listed(away)}", "telephone them, if a study waits") if away else fine(said)

    def _asked(self, method: str, path: str) -> tuple[httpx.Response, bytes]:
        """Ask the outside listener as a hospital would; return its answer, and the certificate it shows."""
        if not is_locked(self._home.lock_file):
            raise Skipped("a running `coordinator serve`")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_verify_locations(cadata=self._home.ca_file.read_text("ascii"))
        name, _ = split_address(self._home.config.address)
        host, port = split_address(self._home.config.listen)
        host = _reached(host)
        url = f"https://{f'[{host}]' if ':' in host else host}:{port}{path}"
        try:
            # by its name, wherever it listens; and not by this shell's proxy
            with (
                httpx.Client(verify=context, timeout=LIMIT_S, trust_env=False) as client,
                client.stream(method, url, extensions={"sni_hostname": name}) as response,
            ):
                tls = response.extensions["network_stream"].get_extra_info("ssl_object")
                shown = tls.getpeercert(True)  # by position: it is the inner one of the two kinds of socket
                response.read()
                return response, shown
        except (httpx.RequestError, ssl.SSLError) as error:
            said = " ".join(str(error).split()) or type(error).__name__
            raise WardroundError(
                f"{self._home.config.listen}: does not answer as this coordinator ({said}); restart "
                "`coordinator serve`, and if that does not help, see which program is there: ss -ltnp"
            ) from None


def _registered(home: CoordinatorHome) -> tuple[list[HospitalRecord], list[Invitation]]:
    """Read the registry from a copy, since to open it may write. WardroundError where it can't be read."""
    path = home.path / "coordinator.db"
    # where nothing is beside it nobody writes, and then it is read without even a lock
    how = "mode=ro" if exists_beside(path) else "immutable=1"
    with tempfile.TemporaryDirectory() as folder:  # for this user only
        copy = Path(folder) / "coordinator.db"
        try:
            with (
                closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=2)) as source,
                closing(sqlite3.connect(copy)) as target,
            ):
                source.backup(target)
                (said,) = target.execute("pragma quick_check(1)").fetchone()
        except sqlite3.Error as error:
            raise WardroundError(f"{path}: cannot be read ({error}); restore a copy") from None
        if said != "ok":
            raise WardroundError(f"{path}: is damaged; restore a copy")
        registry = Registry(copy)
        try:
            return registry.hospitals(), registry.invitations()
        finally:
            registry.close()
