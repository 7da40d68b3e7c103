"""`hospital doctor`: where it hurts, from the home over the name, the proxy and TLS to the admission.

Each step on the way to the coordinator is made by itself, so that the first one that fails is the one to
mend. The way is the node's own: its proxy, its CA, its key. The only thing that a coordinator notices is a
heartbeat, or where no node runs, one that comes and goes.
"""

from __future__ import annotations

import base64
import errno
import os
import socket
import sqlite3
import ssl
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from urllib.parse import quote, unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

import httpx
from cryptography import x509

from wardround_client.home import HospitalHome
from wardround_client.link import AlreadyOnline, Link, NotAdmitted
from wardround_client.sources import open_table
from wardround_client.tls import of_home
from wardround_common.checkup import (
    LIMIT_S,
    Check,
    Finding,
    Hello,
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
from wardround_common.enrolment import PROTOCOL, PROTOCOL_HEADER, split_address
from wardround_common.errors import DataError, WardroundError
from wardround_common.home import find_home, is_locked, read_status

Clock = Callable[[], float]  # unix seconds

_AHEAD_S, _BEHIND_S, _LATE_S = 4.0, 300.0, 60.0  # Flower refuses 5 s ahead and 305 s behind
_SILENT_S = 30.0  # a node beats every 7 to 8 s
_MOST_TABLE = 2 << 30  # bytes of a table that is opened here
_MOST_HELLO = 8 << 10
_EXPIRED, _NOT_YET, _OTHER_NAMES = 10, 9, (62, 64)  # OpenSSL's codes: X509_V_ERR_...
_JOIN: Final = "ask the coordinator for an invitation, then: wardround hospital join FILE"
_RENEW: Final = "the coordinator runs `wardround coordinator renew-certificate` and restarts"


def doctor(path: Path | None, as_json: bool) -> int:
    """Check a hospital's home and its way to the coordinator; print what is found, return the exit code."""
    home = HospitalHome(find_home(path))
    with going_out(home):
        return report(checks(home), as_json)


@contextmanager
def going_out(home: HospitalHome) -> Iterator[None]:
    """Go by the configured proxy meanwhile, as the node does."""
    before = os.environ.get("HTTPS_PROXY")
    with suppress(WardroundError):  # a check's to say
        if home.config.network.proxy is not None:
            os.environ["HTTPS_PROXY"] = home.config.network.proxy
    try:
        yield
    finally:
        os.environ.pop("HTTPS_PROXY", None)
        if before is not None:
            os.environ["HTTPS_PROXY"] = before


def checks(home: HospitalHome, now: Clock = time.time) -> list[Check]:
    """Return the checks of a home. They share what they find on the way to the coordinator."""
    way = _Way(home, now)
    has = ("config",)
    on = ("config", "joined")
    return [
        Check("config", lambda: _config(home)),
        Check("policy", lambda: _policy(home), has),
        Check("keys", lambda: _keys(home), has),
        Check("joined", lambda: _joined(home, now()), has),
        Check("versions", lambda: versions("duckdb")),
        Check("disk", lambda: disk(home.path), has),
        Check("database", lambda: _database(home), has),
        Check("table", lambda: _tables(home), has, limit_s=60.0),
        Check("node", lambda: _node(home), has),
        Check("heartbeat", lambda: _heartbeat(home, now()), ("config", "node")),
        Check("proxy", way.proxy, on),
        Check("dns", way.dns, (*on, "proxy"), LIMIT_S),
        Check("tcp", way.tcp, ("dns",)),
        Check("tls", way.tls, ("tcp",)),
        Check("certificate", way.certificate, ("tls",)),
        Check("hello", way.hello, ("tls",)),
        Check("clock", way.clock, ("hello",)),
        Check("protocol", way.protocol, ("hello",)),
        Check("admission", way.admission, ("keys", "protocol")),
    ]


def _config(home: HospitalHome) -> Finding:
    return fine(f"`{HospitalHome.open(home.path).name}`, home {home.path.absolute()}")


def _policy(home: HospitalHome) -> Finding:
    policy = home.policy
    where = "policy.toml" if home.policy_file.exists() else "no policy.toml, so by default"
    return fine(
        f"{where}: {policy.min_hospitals} hospitals, {policy.min_rows} rows, {policy.min_cell} in a cell"
    )


def _keys(home: HospitalHome) -> Finding:
    found = private(
        (home.path, home.path / "keys", home.path / "cohorts"),
        (
            home.node_key_file,
            home.identity_file,
            home.row_key_file,
            home.path / "node.db",
            *sorted((home.path / "cohorts").glob("*.npz")),
        ),
    )
    if found.ok:
        _ = home.node_key, home.identity  # each says what is wrong with it
        return fine("node.key and identity.key can be read, by their owner only; so can the home's data")
    return found


def _joined(home: HospitalHome, now: float) -> Finding:
    if not home.coordinator_file.exists():
        return wrong("this hospital has not joined a network", _JOIN)
    coordinator, days = home.coordinator, days_left(_pinned(home), now)
    said = f"`{coordinator.name}` at {coordinator.address}"
    if days < 0:
        return wrong(
            f"{said}; the CA that was pinned has expired", "telephone the coordinator; it makes a new CA"
        )
    return lasting(f"{said}, CA pinned", days, "the coordinator needs a new CA; ask it what it plans")


def _pinned(home: HospitalHome) -> x509.Certificate:
    try:
        return x509.load_pem_x509_certificate(home.ca_file.read_bytes())
    except (OSError, ValueError):
        raise WardroundError(f"{home.ca_file}: cannot be read as the coordinator's CA; join again") from None


def _database(home: HospitalHome) -> Finding:
    path = home.path / "node.db"
    if not path.exists():
        return note("no node.db yet; the node makes it")
    # where nothing is beside it nobody writes, and then not even a lock is taken
    how = "mode=ro" if exists_beside(path) or is_locked(home.lock_file) else "immutable=1"
    end = time.monotonic() + LIMIT_S
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?{how}", uri=True, timeout=2)) as db:
            db.set_progress_handler(lambda: time.monotonic() > end, 10_000)
            (said,) = db.execute("pragma quick_check(1)").fetchone()
            (answers,) = db.execute("select count(*) from answers").fetchone()
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", 0) == sqlite3.SQLITE_INTERRUPT:
            return note(f"node.db ({path.stat().st_size >> 20} MiB) opens; too large to be checked here")
        return wrong(
            f"{path}: {error}", "stop the node, restore node.db, and read `Restore` in the runbook first"
        )
    if said != "ok":
        return wrong(
            f"{path}: damaged", "stop the node, and read `Restore` in the runbook before you restore node.db"
        )
    return fine(f"node.db is sound, {answers} answers kept")


def _tables(home: HospitalHome) -> Finding:
    data = home.config.data
    names = dict.fromkeys([*([data.table] if data.table is not None else []), *data.studies.values()])
    if not names:
        return note("no table is configured; `hospital approve` has to be given one")
    return fine("; ".join(_table(home.path / name) for name in names))


def _table(path: Path) -> str:
    """Return about how many rows a table has. DataError, without a column's name, if it can't be opened."""
    with suppress(OSError):
        if path.stat().st_size > _MOST_TABLE:
            return f"{path}: not opened, for its {path.stat().st_size >> 30} GiB"
    try:
        return f"{path}: about {round(open_table(path).rows, -1)} rows"
    except DataError as error:
        if "`" in str(error):  # a column's name
            raise DataError(f"{path}: cannot be read; where, says `wardround study profile`") from None
        raise


def _node(home: HospitalHome) -> Finding:
    said = read_status(home.status_file)
    state, why = said.get("state"), str(said.get("why") or "")
    if not is_locked(home.lock_file):
        if state in (None, "stopped"):
            return note("does not run", "wardround hospital serve")
        return wrong(
            f"does not run; it was killed or crashed ({state} last)",
            "see logs/node.log, then: wardround hospital serve",
        )
    if state == "online":
        return fine(f"runs and is online (process {said.get('pid')})")
    if why:
        return wrong(f"runs and is {state}: {why}")
    return note(f"runs, {state}")


def _heartbeat(home: HospitalHome, now: float) -> Finding:
    if not is_locked(home.lock_file):
        raise Skipped("a running node")
    said = read_status(home.status_file)
    last, told = age(said.get("heartbeat"), now), age(said.get("at"), now)
    newest = min((one for one in (last, told) if one is not None), default=None)
    if newest is None or newest > _SILENT_S:
        silent = "" if newest is None else f" for {newest:.0f} s"
        return wrong(
            f"the node has said nothing{silent}", "see logs/node.log; stop the node and start it again"
        )
    return fine("the first is still to come" if last is None else f"the last was {max(last, 0.0):.0f} s ago")


class ProxyRefuses(WardroundError):
    """A proxy does not connect us."""


@dataclass(frozen=True)
class Proxy:
    """A proxy to go out by, and what it is shown of its user's name and password."""

    scheme: str
    host: str
    port: int
    authorization: str = field(default="", repr=False)

    def __str__(self) -> str:
        return f"{self.scheme}://{_bracketed(self.host)}:{self.port}"


def proxy_for(host: str) -> Proxy | None:
    """Return the proxy that a connection to ``host`` takes by the environment, as httpx reads it.

    WardroundError, without quoting it, if it is none that can be gone by.
    """
    found = getproxies()
    url = found.get("https") or found.get("all")
    if not url or proxy_bypass(host):
        return None
    try:
        parts = urlsplit(url if "://" in url else f"http://{url}")
        port = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 1080)
    except ValueError:
        parts, port = urlsplit(""), 0
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ProxyRefuses(
            "the proxy that is set is not written as http://HOST:PORT; mend HTTPS_PROXY or `network.proxy`"
        )
    login = ""
    if parts.username is not None:
        login = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        login = f"Basic {base64.b64encode(login.encode()).decode()}"
    return Proxy(parts.scheme, parts.hostname, port, login)


def _connect(line: socket.socket, proxy: Proxy, target: str) -> None:
    """Have a proxy connect us. ProxyRefuses if it does not."""
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.authorization:
        lines.append(f"Proxy-Authorization: {proxy.authorization}")
    line.sendall("\r\n".join([*lines, "", ""]).encode())
    head = b""
    while b"\r\n\r\n" not in head and len(head) < 1 << 16:
        data = line.recv(4096)
        if not data:
            break
        head += data
    status = head[9:12].decode("ascii", "replace") if head.startswith(b"HTTP/1.") else ""
    if status.startswith("2"):
        return
    if status == "407":
        raise ProxyRefuses(
            f"{proxy} asks for a user's name and password, or does not take those given; write them as "
            "http://USER:PASSWORD@HOST:PORT"
        )
    said = f"answers {status}" if status.isdigit() else "does not speak as a proxy"
    raise ProxyRefuses(
        f"{proxy} {said} when asked for {target}; ask whoever runs it to let this machine through"
    )


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class _Way:
    """The way to the coordinator, one step at a time; each keeps what the next one needs."""

    _proxy: Proxy | None = None
    _presented: x509.Certificate | None = None
    _hello: Hello | None = None
    _ahead_s = 0.0

    def __init__(self, home: HospitalHome, now: Clock) -> None:
        self._home, self._now = home, now

    @property
    def _place(self) -> tuple[str, int]:
        return split_address(self._home.coordinator.address)

    def _dial(self) -> socket.socket:
        """Return a connection to the coordinator, or through the proxy. OSError, ProxyRefuses."""
        host, port = self._place
        proxy = self._proxy
        if proxy is None:
            return socket.create_connection((host, port), LIMIT_S)
        line = socket.create_connection((proxy.host, proxy.port), LIMIT_S)
        try:
            if proxy.scheme == "https":
                line = ssl.create_default_context().wrap_socket(line, server_hostname=proxy.host)
            _connect(line, proxy, f"{_bracketed(host)}:{port}")
        except BaseException:
            line.close()
            raise
        return line

    def _shake(self, context: ssl.SSLContext) -> ssl.SSLObject:
        """Return TLS after its handshake with the coordinator. OSError, of which ssl.SSLError is one."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()  # so that it goes through a proxy's TLS too
        tls = context.wrap_bio(incoming, outgoing, server_hostname=self._place[0])
        with closing(self._dial()) as line:
            while True:
                try:
                    tls.do_handshake()
                except ssl.SSLWantReadError:
                    line.sendall(outgoing.read())
                    data = line.recv(1 << 14)
                    if not data:
                        raise ConnectionResetError(errno.ECONNRESET, "the other side hung up") from None
                    incoming.write(data)
                else:
                    line.sendall(outgoing.read())
                    return tls

    def proxy(self) -> Finding:
        host, port = self._place
        self._proxy = proxy_for(host)
        wanted = self._home.config.network.proxy
        passed = os.environ.get("no_proxy") or os.environ.get("NO_PROXY")
        beside = f"; NO_PROXY is {passed}" if passed else ""
        if self._proxy is None:
            if wanted is not None:
                return note(f"`network.proxy` is not used for {host}, which NO_PROXY excepts{beside}")
            return fine(f"none, connections go out directly{beside}")
        lower = os.environ.get("https_proxy")
        if wanted is not None and lower and lower != wanted:
            return wrong(
                f"https_proxy in the environment overrides `network.proxy`; {self._proxy} is used",
                "unset https_proxy, in the node's service too",
            )
        whence = "`network.proxy`" if wanted is not None else "HTTPS_PROXY"
        begun = time.perf_counter()
        try:
            self._dial().close()
        except socket.gaierror as error:
            return wrong(
                f"{self._proxy} ({whence}): its name does not resolve ({reason(error)})",
                "mend the proxy's name",
            )
        except ProxyRefuses:
            raise
        except OSError as error:
            return wrong(
                f"{self._proxy} ({whence}): no connection ({reason(error)})",
                "ask who runs the proxy; or take it out, if this machine may go out by itself",
            )
        return fine(f"{self._proxy} ({whence}) connects to {host}:{port} in {since(begun)}{beside}")

    def dns(self) -> Finding:
        host, port = self._place
        if self._proxy is not None:
            return fine(f"{host} is resolved by the proxy")
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
        except (socket.gaierror, UnicodeError) as error:
            said = error.strerror if isinstance(error, socket.gaierror) else "no name"
            return wrong(
                f"{host} does not resolve ({said})",
                f"ask for {host} in this hospital's DNS; behind a proxy that resolves names, set "
                "`network.proxy`",
            )
        return fine(f"{host} is {resolved(str(one[4][0]) for one in found)}")

    def tcp(self) -> Finding:
        host, port = self._place
        begun = time.perf_counter()
        try:
            self._dial().close()
        except OSError as error:
            return wrong(
                f"{host}:{port} is not reached ({reason(error)})",
                f"firewall: let this machine out to {host} on TCP {port}, or set `network.proxy`; "
                "at the coordinator: does it run, and is it on that address?",
            )
        return fine(f"{host}:{port} answers in {since(begun)}{' through the proxy' if self._proxy else ''}")

    def tls(self) -> Finding:
        host, _ = self._place
        begun = time.perf_counter()
        try:
            tls = self._shake(of_home(self._home))
        except ssl.SSLError as error:
            return self._diagnosed(error)
        except TimeoutError:
            return wrong(
                f"{host} is reached, and does not answer to TLS",
                f"ask the coordinator whether it hangs; else ask for an exception for {host} in the firewall",
            )
        except OSError as error:
            return wrong(
                f"the connection is cut while TLS begins ({reason(error)})",
                f"a firewall does this to names it does not like: ask for an exception for {host}",
            )
        self._presented = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        said = f"{tls.version()} with {host} in {since(begun)}"
        if issued_by(self._presented, _pinned(self._home)):
            return fine(f"{said}, by the coordinator's CA")
        return note(
            f"{said}, opened on the way by `{named(self._presented.issuer)}` (`network.inspection_ca`)"
        )

    def _diagnosed(self, error: ssl.SSLError) -> Finding:
        """Say why the handshake failed, from the certificate that is shown to whoever asks no questions."""
        host, port = self._place
        lenient = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        lenient.check_hostname, lenient.verify_mode = False, ssl.CERT_NONE  # nothing is sent over it
        try:
            shown = x509.load_der_x509_certificate(self._shake(lenient).getpeercert(binary_form=True) or b"")
        except (OSError, ValueError):  # an ssl.SSLError is an OSError
            return wrong(
                f"what answers at {host}:{port} does not speak TLS as a coordinator does "
                f"({error.reason or 'cut off'})",
                "check the address and the port; ask the coordinator, and whoever runs the firewall",
            )
        about = f"{host} shows a certificate of `{named(shown.subject)}`, issued by `{named(shown.issuer)}`"
        code = getattr(error, "verify_code", 0)
        if issued_by(shown, _pinned(self._home)):
            return self._ours(shown, code, about, error)
        if named(shown.issuer).endswith("Wardround CA"):
            return wrong(
                f"{about}: a coordinator's CA, but not the one that was pinned",
                "telephone the coordinator: it has a new CA, or this address leads to another one; "
                "trust it only by a new invitation",
            )
        return wrong(
            f"{about}: that is not the coordinator's CA, so TLS is opened on the way",
            f"ask whoever runs the proxy or firewall of that name for an exception for {host}; without one, "
            "put its CA's certificate into the home and write `inspection_ca = FILE` under [network]; if "
            "nobody here knows that name, telephone the coordinator",
        )

    def _ours(self, shown: x509.Certificate, code: int, about: str, error: ssl.SSLError) -> Finding:
        """Say what is wrong with a certificate of the coordinator's own CA."""
        host, _ = self._place
        here = f"by this clock it is {time.strftime('%Y-%m-%d %H:%M', time.gmtime(self._now()))} UTC"
        if code == _EXPIRED:
            return wrong(
                f"the coordinator's certificate expired on {shown.not_valid_after_utc:%Y-%m-%d}; {here}",
                _RENEW,
            )
        if code == _NOT_YET:
            return wrong(
                f"the coordinator's certificate begins on {shown.not_valid_before_utc:%Y-%m-%d}; {here}",
                "set this machine's clock (NTP)",
            )
        if code in _OTHER_NAMES:
            return wrong(
                f"{about}, which does not name {host}",
                f"the coordinator has to be on {host} by its `address`; then {_RENEW}",
            )
        return wrong(f"{about}; TLS fails all the same ({error.reason})", "tell the coordinator")

    def certificate(self) -> Finding:
        if self._presented is None:
            raise Skipped("tls")
        until, days = self._presented.not_valid_after_utc, days_left(self._presented, self._now())
        ours = issued_by(self._presented, _pinned(self._home))
        return lasting(f"good until {until:%Y-%m-%d}", days, _RENEW if ours else "it is the proxy's to renew")

    def hello(self) -> Finding:
        address = self._home.coordinator.address
        headers = {PROTOCOL_HEADER: str(PROTOCOL)}
        with httpx.Client(verify=of_home(self._home), timeout=LIMIT_S) as client:
            begun, before = time.perf_counter(), self._now()
            try:
                with client.stream("GET", f"https://{address}/wardround/hello", headers=headers) as response:
                    body = b""
                    for part in response.iter_bytes():
                        body += part
                        if len(body) > _MOST_HELLO:
                            break
            except httpx.RequestError as error:
                return wrong(
                    f"{address}: {' '.join(str(error).split()) or type(error).__name__}",
                    "ask the coordinator",
                )
            after, took = self._now(), since(begun)
        self._hello = read_hello(response.status_code, body, response.headers.get("date"))
        self._ahead_s = (before + after) / 2 - self._hello.time
        return fine(f"`{self._hello.coordinator}` answers in {took}")

    def clock(self) -> Finding:
        ahead = self._ahead_s
        said = f"{abs(ahead):.1f} s {'ahead of' if ahead > 0 else 'behind'} the coordinator's"
        todo = "set this machine's clock (NTP: `timedatectl`), or the coordinator's; then restart the node"
        if ahead > _AHEAD_S or ahead < -_BEHIND_S:
            return wrong(f"{said}; 5 s ahead or 305 s behind are refused", todo)
        return note(said, todo) if ahead < -_LATE_S else fine(said)

    def protocol(self) -> Finding:
        if self._hello is None:
            raise Skipped("hello")
        theirs = self._hello.protocol
        if theirs != PROTOCOL:
            return wrong(
                f"the coordinator speaks protocol {theirs} (wardround {self._hello.wardround}), "
                f"this hospital {PROTOCOL}",
                "install the version that the coordinator runs"
                if theirs > PROTOCOL
                else "the coordinator has to update",
            )
        return fine(f"{PROTOCOL}; the coordinator runs wardround {self._hello.wardround}")

    def admission(self) -> Finding:
        home, running = self._home, is_locked(self._home.lock_file)
        said = read_status(home.status_file)
        number = said.get("node_id")
        known = number if type(number) is int and 0 < number < 1 << 64 else None
        link = Link(home.coordinator.address, of_home(home), home.node_key)
        try:
            begun = time.perf_counter()
            if not running:
                link.activate()
            elif known is not None:
                link.resume(known)
                link.heartbeat()
            else:
                raise Skipped("a node that was online once")
            took = since(begun)
        except NotAdmitted:
            before = (
                "it was admitted before, so it was revoked or has left" if known else "it is not admitted yet"
            )
            return wrong(
                f"the coordinator does not know this node's key; {before}",
                "telephone the coordinator; revoked keys never come back: new keys need a new invitation"
                if known
                else "telephone the coordinator; it can admit the enrolment file, or join by its invitation",
            )
        except AlreadyOnline:
            return wrong(
                "the coordinator takes this node for online, and none runs here",
                "if it was killed, or admitted, a moment ago: look again in 20 s; else a copy of this home "
                "runs elsewhere: stop one",
            )
        finally:
            link.close(say_so=not running)
        return fine(f"this node's key is admitted; a signed call takes {took}")
