"""Both doctors on a network that is well, and on homes, servers and proxies with one thing wrong each."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import shutil
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from tests.network.net import Hospital, Network, free_port, network, run, until
from wardround_client import doctor as at_hospital
from wardround_client.home import HospitalHome
from wardround_common.checkup import Finding, examine
from wardround_common.enrolment import PROTOCOL
from wardround_common.errors import WardroundError
from wardround_common.home import locked, write_status
from wardround_server import doctor as at_coordinator
from wardround_server.certificates import make_ca, make_server
from wardround_server.doctor import _addresses
from wardround_server.home import CoordinatorHome
from wardround_server.registry import Registry
from wardround_server.shipped import shipped_tables
from wardround_server.studies import Status, StudyFolder

pytestmark = pytest.mark.slow

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
PASSWORD = "correct-horse"


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A coordinator; `north` is online, `south` is admitted and its node does not run."""
    table = shipped_tables("flamby-heart")["cleveland"]
    with network(tmp_path_factory.mktemp("net"), {"north": table}) as found:
        south = Hospital(found, "south", table)
        south.join()
        until(lambda: by_name(hospital(south.home))["admission"].ok, 20)
        yield found


@pytest.fixture
def south(net: Network, tmp_path: Path) -> Path:
    """A copy of south's home, to be spoilt."""
    return Path(shutil.copytree(net.folder / "south", tmp_path / "south"))


@pytest.fixture
def coordinator(net: Network, tmp_path: Path) -> Path:
    """A copy of the coordinator's home whose ports are free, to be spoilt."""
    home = Path(
        shutil.copytree(net.home, tmp_path / "coordinator", ignore=shutil.ignore_patterns("superlink.db*"))
    )
    ports(home, free_port(), free_port())
    write_status(home / "status.json", {"state": "stopped", "why": "", "at": time.time()})
    return home


def hospital(home: Path, now: Callable[[], float] = time.time) -> list[Finding]:
    opened = HospitalHome(home)
    with at_hospital.going_out(opened):
        return examine(at_hospital.checks(opened, now))


def operator(home: Path, now: Callable[[], float] = time.time) -> list[Finding]:
    return examine(at_coordinator.checks(CoordinatorHome(home), now))


def by_name(findings: list[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in findings}


def failed(findings: list[Finding]) -> list[str]:
    return [one.name for one in findings if one.ok is False]


def lines(findings: list[Finding]) -> str:
    return "\n".join(one.line() for one in findings)


def ports(home: Path, listen: int, control: int) -> None:
    config = home / "config.toml"
    text = re.sub(r'listen = ".*"', f'listen = "127.0.0.1:{listen}"', config.read_text())
    config.write_text(re.sub(r"control_port = \d+", f"control_port = {control}", text))


def dial(home: Path, address: str) -> Path:
    (home / "coordinator.toml").write_text(f'name = "test"\naddress = "{address}"\n')
    return home


def network_part(home: Path, line: str) -> None:
    config = home / "config.toml"
    config.write_text(f"{config.read_text()}\n[network]\n{line}\n")


def kept(home: Path) -> dict[str, tuple[int, bytes]]:
    """Return mode and digest of every file and folder of a home."""
    return {
        str(path.relative_to(home)): (
            path.stat().st_mode,
            hashlib.sha256(path.read_bytes()).digest() if path.is_file() else b"",
        )
        for path in [home, *home.rglob("*")]
        if not path.name.endswith("-shm")  # locks of whoever reads
    }


class Answering(BaseHTTPRequestHandler):
    """Answers like a coordinator unless told otherwise."""

    protocol_version = "HTTP/1.1"
    answers: dict[str, tuple[int, bytes]]

    def do_GET(self) -> None:
        status, body = self.answers.get(self.path, self.answers["*"])
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


def hello(**other: object) -> tuple[int, bytes]:
    said = {"coordinator": "test", "wardround": "0.1.0", "protocol": PROTOCOL, "time": time.time()}
    return 200, json.dumps(said | other).encode()


@contextmanager
def serving(
    folder: Path,
    pair: tuple[bytes, bytes] | None,
    answers: dict[str, tuple[int, bytes]] | None = None,
    host: str = "127.0.0.1",
    newest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3,
) -> Iterator[int]:
    """Serve HTTPS with a key and certificate, or plain HTTP; give the port."""
    handler = type(
        "Handler",
        (Answering,),
        {"answers": {"*": (404, b"{}"), "/wardround/hello": hello()} | (answers or {})},
    )
    with ThreadingHTTPServer((host, 0), handler) as server:
        if pair is not None:
            file = folder / f"{server.server_port}.pem"
            file.write_bytes(b"".join(pair))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.maximum_version = newest
            context.load_cert_chain(file)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join()


class Forwarding(BaseHTTPRequestHandler):
    """A proxy that knows CONNECT and nothing else."""

    login: str
    asked: list[str]

    def do_CONNECT(self) -> None:
        self.asked.append(self.path)
        given = self.headers.get("proxy-authorization", "")
        if self.login and given != f"Basic {base64.b64encode(self.login.encode()).decode()}":
            self.send_error(407)
            return
        host, _, port = self.path.rpartition(":")
        try:
            line = socket.create_connection((host, int(port)), 2)
        except OSError:
            self.send_error(502)
            return
        with line:
            self.send_response(200)
            self.end_headers()
            back = threading.Thread(target=pump, args=(line, self.connection))
            back.start()
            pump(self.connection, line)
            back.join()

    def log_message(self, *_: object) -> None:
        pass


def pump(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(1 << 16):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        pass


@contextmanager
def proxy(login: str = "") -> Iterator[tuple[int, list[str]]]:
    """Run a CONNECT proxy; give its port and what it was asked for."""
    asked: list[str] = []
    handler = type("Handler", (Forwarding,), {"login": login, "asked": asked})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def pair_of(net: Network, days: float = 30, host: str = "localhost") -> tuple[bytes, bytes]:
    """A server's key and certificate by the network's CA."""
    ca = net.home / "ca"
    return make_server((ca / "ca.key").read_bytes(), (ca / "ca.crt").read_bytes(), host, days)


def gateway(name: str) -> tuple[bytes, tuple[bytes, bytes]]:
    """The CA of an inspecting proxy, and what it shows for localhost."""
    key, subject = (
        ec.generate_private_key(ec.SECP256R1()),
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]),
    )
    now = datetime.now(UTC)

    def made(whose: ec.EllipticCurvePrivateKey, to: x509.Name, is_ca: bool) -> bytes:
        certificate = (
            x509.CertificateBuilder(subject, to, whose.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(hours=1))
            .not_valid_after(now + timedelta(days=9))
            .add_extension(x509.BasicConstraints(is_ca, None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        return certificate.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)

    own = ec.generate_private_key(ec.SECP256R1())
    to = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    pem = own.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return made(key, subject, True), (pem, made(own, to, False))


# A network that is well


def test_all_is_well_at_a_hospital_that_is_online_and_its_node_is_not_disturbed(net: Network) -> None:
    north = net.hospitals["north"]
    before, status = kept(north.home), json.loads((north.home / "status.json").read_text())
    said = json.loads(run("hospital", "doctor", "--json", "--home", north.home))
    assert said["ok"] is True
    assert {one["ok"] for one in said["findings"]} == {True}, said
    after = json.loads((north.home / "status.json").read_text())
    assert [after[key] for key in ("state", "node_id", "pid")] == [
        status[key] for key in ("state", "node_id", "pid")
    ]
    changed = {name for name, what in kept(north.home).items() if before.get(name) != what}
    assert changed <= {"status.json"}  # the node's own


def test_all_is_well_at_a_coordinator(net: Network) -> None:
    said = json.loads(net.command("doctor", "--json"))
    found = {one["name"]: one for one in said["findings"]}
    assert said["ok"] is True
    assert found.pop("hospitals")["said"] == "1 of 2 online; not `south`"
    assert {one["ok"] for one in found.values()} == {True}, said


def test_a_hospital_whose_node_does_not_run_is_told_so_and_its_home_stays_as_it_is(net: Network) -> None:
    home = net.folder / "south"
    before = kept(home)
    found = by_name(hospital(home))
    assert {one.name for one in found.values() if not one.ok} == {"database", "node", "heartbeat"}
    assert found["node"].todo == "wardround hospital serve"
    assert "no node.db yet" in found["database"].said
    assert "a signed call takes" in found["admission"].said
    assert kept(home) == before


def test_a_coordinator_that_does_not_run_is_told_so_and_its_home_stays_as_it_is(coordinator: Path) -> None:
    before = kept(coordinator)
    found = by_name(operator(coordinator))
    assert failed(list(found.values())) == []
    assert found["serve"].todo == "wardround coordinator serve"
    assert found["ports"].said.endswith("are free")
    assert found["outside"].said.startswith("skipped: needs a running")
    assert kept(coordinator) == before


def test_lines_end_with_what_to_do_and_the_exit_code_is_2(south: Path) -> None:
    (south / "keys" / "node.key").chmod(0o644)
    said = run("hospital", "doctor", "--home", south, code=2)
    (line,) = [one for one in said.splitlines() if one.startswith("FAIL")]
    assert re.match(r"FAIL  keys        .*node\.key \(mode 0644\) -> .*chmod 600 ", line)
    assert "note  admission   skipped: needs keys" in said
    assert said.endswith("1 of 19 checks failed.\n")


def test_a_folder_that_is_no_home_is_a_finding_and_not_a_traceback(tmp_path: Path) -> None:
    for side in ("hospital", "coordinator"):
        said = json.loads(run(side, "doctor", "--json", "--home", tmp_path / "none", code=2))
        assert [one["name"] for one in said["findings"] if one["ok"] is False] == ["config"]


# What is in a hospital's home


def test_a_policy_that_is_none_is_named(south: Path) -> None:
    (south / "policy.toml").write_text("min_rows = 0\n")
    found = by_name(hospital(south))["policy"]
    assert found.ok is False
    assert "min_rows" in found.said


def test_a_damaged_database_is_found(south: Path, net: Network) -> None:
    shutil.copy(net.folder / "north" / "node.db", south / "node.db")
    assert by_name(hospital(south))["database"].said == "node.db is sound, 0 answers kept"
    content = (south / "node.db").read_bytes()
    (south / "node.db").write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))
    found = by_name(hospital(south))["database"]
    assert found.ok is False
    assert "Restore" in found.todo


def test_of_a_table_only_about_how_many_rows_is_told(south: Path) -> None:
    table = south / "patients.csv"
    config = south / "config.toml"
    config.write_text(re.sub(r"table = .*", 'table = "patients.csv"', config.read_text()))
    table.write_text("hivstatus,crp\n" + "positive,4711\n" * 234)
    found = by_name(hospital(south))["table"]
    assert (found.ok, found.said) == (True, f"{table}: about 230 rows")
    table.write_text("hivstatus,hivstatus\n" + "positive,4711\n" * 234)
    found = by_name(hospital(south))["table"]
    assert found.ok is False
    assert "hivstatus" not in found.line()
    assert "4711" not in found.line()
    table.unlink()
    assert by_name(hospital(south))["table"].said == f"{table}: there is no such file"


def test_a_node_that_was_killed_is_told_from_one_that_was_stopped(south: Path) -> None:
    write_status(south / "status.json", {"state": "online", "why": "", "at": time.time(), "node_id": 1})
    assert "killed or crashed" in by_name(hospital(south))["node"].said


def test_a_node_that_has_fallen_silent_or_is_refused_is_found(south: Path) -> None:
    with locked(south / "serve.lock", "node"):
        write_status(
            south / "status.json", {"state": "online", "at": time.time() - 90, "heartbeat": time.time() - 99}
        )
        assert by_name(hospital(south))["heartbeat"].said == "the node has said nothing for 90 s"
        write_status(south / "status.json", {"state": "refused", "why": "not known", "at": time.time()})
        found = by_name(hospital(south))
    assert found["node"].said == "runs and is refused: not known"
    assert found["admission"].said.startswith("skipped")


# The way to the coordinator


def test_a_name_that_does_not_resolve_is_named_and_the_rest_skipped(south: Path) -> None:
    begun = time.monotonic()
    found = by_name(hospital(dial(south, "wardround.invalid:443")))
    assert time.monotonic() - begun < 20
    assert failed(list(found.values())) == ["dns"]
    assert "wardround.invalid does not resolve" in found["dns"].said
    assert [found[name].said for name in ("tcp", "tls", "hello", "admission")] == [
        "skipped: needs dns",
        "skipped: needs tcp",
        "skipped: needs tls",
        "skipped: needs protocol",
    ]


def test_a_coordinator_that_is_down_is_not_reached(south: Path) -> None:
    found = hospital(dial(south, f"localhost:{free_port()}"))
    assert failed(found) == ["tcp"]
    assert "Connection refused" in by_name(found)["tcp"].said
    assert "firewall" in by_name(found)["tcp"].todo


def test_another_ca_than_the_pinned_one_is_a_coordinators_or_nobodys_we_know(south: Path) -> None:
    (south / "keys" / "coordinator-ca.crt").write_bytes(make_ca("test")[1])
    found = by_name(hospital(south))
    assert failed(list(found.values())) == ["tls"]
    assert "`CN=test Wardround CA`: a coordinator's CA, but not the one that was pinned" in found["tls"].said
    assert "telephone the coordinator" in found["tls"].todo


def test_an_expired_certificate_is_the_coordinators_to_renew(net: Network, south: Path) -> None:
    with serving(south, pair_of(net, days=-0.02)) as port:
        found = by_name(hospital(dial(south, f"localhost:{port}")))["tls"]
    assert found.ok is False
    assert "the coordinator's certificate expired on" in found.said
    assert "renew-certificate" in found.todo


def test_a_certificate_that_ends_soon_is_noted(net: Network, south: Path) -> None:
    with serving(south, pair_of(net, days=9.5)) as port:
        found = by_name(hospital(dial(south, f"localhost:{port}")))["certificate"]
    assert found.ok is None
    assert "9 days left" in found.said or "10 days left" in found.said


def test_a_certificate_for_another_name_is_told(net: Network, south: Path) -> None:
    with serving(south, pair_of(net), host="127.0.0.2") as port:
        found = by_name(hospital(dial(south, f"127.0.0.2:{port}")))["tls"]
    assert found.ok is False
    assert "does not name 127.0.0.2" in found.said


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2])
def test_a_proxy_that_opens_tls_is_named_and_accepted_once_its_ca_is(
    south: Path, newest: ssl.TLSVersion
) -> None:
    ca, shown = gateway("St. Elsewhere Web Gateway")
    with serving(south, shown, newest=newest) as port:
        dial(south, f"localhost:{port}")
        found = by_name(hospital(south))["tls"]
        assert found.ok is False
        assert "issued by `CN=St. Elsewhere Web Gateway`" in found.said
        assert "exception for localhost" in found.todo
        assert "inspection_ca = FILE" in found.todo
        (south / "gateway.crt").write_bytes(ca)
        network_part(south, 'inspection_ca = "gateway.crt"')
        mended = by_name(hospital(south))
    assert mended["tls"].ok is None
    assert "opened on the way by `CN=St. Elsewhere Web Gateway`" in mended["tls"].said
    assert mended["hello"].ok
    assert mended["certificate"].todo == "it is the proxy's to renew"


def test_a_server_without_tls_is_no_coordinator(south: Path) -> None:
    with serving(south, None) as port:
        found = by_name(hospital(dial(south, f"localhost:{port}")))["tls"]
    assert found.ok is False
    assert "does not speak TLS" in found.said


def test_a_coordinator_that_hangs_and_one_that_hangs_up_are_told(
    south: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(at_hospital, "LIMIT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        found = by_name(hospital(dial(south, f"localhost:{silent.getsockname()[1]}")))["tls"]
        assert found.said == "localhost is reached, and does not answer to TLS"

    def hang_up(listener: socket.socket) -> None:
        for _ in range(2):
            listener.accept()[0].close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=hang_up, args=(listener,))
        thread.start()
        found = by_name(hospital(dial(south, f"localhost:{listener.getsockname()[1]}")))["tls"]
        thread.join()
    assert "the connection is cut while TLS begins" in found.said
    assert "exception for localhost" in found.todo


def test_another_site_and_another_protocol_are_told(net: Network, south: Path) -> None:
    with serving(south, pair_of(net), {"/wardround/hello": (404, b"<html>")}) as port:
        found = by_name(hospital(dial(south, f"localhost:{port}")))
        assert "no coordinator (HTTP 404)" in found["hello"].said
        assert found["admission"].said == "skipped: needs protocol"
    with serving(
        south, pair_of(net), {"/wardround/hello": hello(protocol=PROTOCOL + 1, wardround="9.9")}
    ) as port:
        found = by_name(hospital(dial(south, f"localhost:{port}")))
        assert f"the coordinator speaks protocol {PROTOCOL + 1} (wardround 9.9)" in found["protocol"].said
        assert found["protocol"].todo == "install the version that the coordinator runs"
        assert found["clock"].ok


@pytest.mark.parametrize(
    ("ahead", "ok", "said"),
    [
        (3, True, "3.0 s ahead"),
        (5, False, "5.0 s ahead"),
        (-50, True, "behind"),
        (-90, None, "behind"),
        (-310, False, "behind"),
    ],
)
def test_the_clock_is_judged_as_flower_judges_it(
    net: Network, ahead: float, ok: bool | None, said: str
) -> None:
    found = by_name(hospital(net.folder / "south", lambda: time.time() + ahead))["clock"]
    assert found.ok is ok
    assert said in found.said
    assert ("NTP" in found.todo) is (ok is not True)


# Proxies


@pytest.mark.parametrize("by", ["environment", "configuration"])
def test_the_whole_way_may_lead_through_a_proxy_whose_password_is_not_told(
    south: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    with proxy(f"anna:{PASSWORD}") as (port, asked):
        url = f"http://anna:{PASSWORD}@127.0.0.1:{port}"
        if by == "environment":
            monkeypatch.setenv("HTTPS_PROXY", url)
            monkeypatch.setenv("NO_PROXY", "intranet.example")
        else:
            network_part(south, f'proxy = "{url}"')
        before = dict(os.environ)
        findings = hospital(south)
    found = by_name(findings)
    assert os.environ == before
    assert failed(findings) == []
    assert (
        f"http://127.0.0.1:{port} ({'HTTPS_PROXY' if by == 'environment' else '`network.proxy`'})"
        in found["proxy"].said
    )
    assert ("NO_PROXY is intranet.example" in found["proxy"].said) is (by == "environment")
    assert found["tcp"].said.endswith("through the proxy")
    assert found["admission"].ok
    assert len(asked) >= 5  # one for each step
    for secret in ("anna", PASSWORD, base64.b64encode(f"anna:{PASSWORD}".encode()).decode()):
        assert secret not in lines(findings)


def test_a_proxy_that_asks_for_a_password_or_refuses_or_is_not_there(
    south: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with proxy("anna:other") as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"http://anna:{PASSWORD}@127.0.0.1:{port}")
        findings = hospital(south)
        assert failed(findings) == ["proxy"]
        assert "asks for a user's name and password" in by_name(findings)["proxy"].said
        assert PASSWORD not in lines(findings)
        assert by_name(findings)["dns"].said == "skipped: needs proxy"
    with proxy() as (port, _):
        monkeypatch.setenv("HTTPS_PROXY", f"127.0.0.1:{port}")
        found = by_name(hospital(dial(south, f"localhost:{free_port()}")))["proxy"]
        assert "answers 502" in found.said
    with serving(south, None, {"*": (200, b"")}) as port:
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        assert "answers 501" in by_name(hospital(south))["proxy"].said
    monkeypatch.setenv("HTTPS_PROXY", f"http://anna:{PASSWORD}@127.0.0.1:{free_port()}")
    findings = hospital(south)
    assert "no connection (Connection refused)" in by_name(findings)["proxy"].said
    assert PASSWORD not in lines(findings)
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.invalid:3128")
    assert "its name does not resolve" in by_name(hospital(south))["proxy"].said


def test_a_proxy_in_small_letters_that_overrides_the_configured_one_is_found(
    south: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network_part(south, 'proxy = "http://127.0.0.1:1"')
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:2")
    found = by_name(hospital(south))["proxy"]
    assert found.ok is False
    assert "overrides `network.proxy`; http://127.0.0.1:2 is used" in found.said


@pytest.mark.parametrize(
    "url", ["socks5://anna:secret@h:1", "http://anna:secret@", "http://h:secret", "http://[anna:secret"]
)
def test_a_proxy_that_is_none_is_not_quoted(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("HTTPS_PROXY", url)
    with pytest.raises(WardroundError, match="not written as http://HOST:PORT") as error:
        at_hospital.proxy_for("wardround.example.org")
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("environment", "host"),
    [
        ({}, "coordinator.example.org"),
        ({"HTTPS_PROXY": "http://p:3128"}, "coordinator.example.org"),
        ({"HTTPS_PROXY": "p:3128"}, "coordinator.example.org"),
        ({"ALL_PROXY": "http://p:3128"}, "coordinator.example.org"),
        ({"HTTP_PROXY": "http://p:3128"}, "coordinator.example.org"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.org"}, "coordinator.example.org"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": ".example.org"}, "coordinator.example.org"),
        (
            {"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "example.com, coordinator.example.org"},
            "coordinator.example.org",
        ),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "ordinator.example.org"}, "coordinator.example.org"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "*"}, "coordinator.example.org"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "10.0.0.5"}, "10.0.0.5"),
        ({"HTTPS_PROXY": "http://p:3128", "NO_PROXY": "10.0.0.0/8"}, "10.0.0.5"),
        ({"HTTPS_PROXY": "http://p:3128"}, "localhost"),
    ],
)
def test_a_proxy_is_chosen_as_the_node_chooses_it(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], host: str
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with httpx.Client() as client:
        chosen = client._transport_for_url(httpx.URL(f"https://{host}:443"))
        by_httpx = chosen is not client._transport
    assert (at_hospital.proxy_for(host) is not None) is by_httpx


# Admission


def test_a_hospital_that_is_not_admitted_or_no_longer_is_told_which(
    net: Network, tmp_path: Path, south: Path
) -> None:
    home = tmp_path / "west"
    run("hospital", "init", "--name", "south", "--home", home)  # other keys than the admitted south's
    shutil.copy(south / "coordinator.toml", home)
    shutil.copy(south / "keys" / "coordinator-ca.crt", home / "keys")
    findings = hospital(home)
    assert failed(findings) == ["admission"]
    assert "not admitted yet" in by_name(findings)["admission"].said
    write_status(home / "status.json", {"state": "stopped", "node_id": 17})
    found = by_name(hospital(home))["admission"]
    assert "revoked or has left" in found.said
    assert "new keys" in found.todo


def test_a_copy_of_a_home_whose_node_runs_elsewhere_is_found(net: Network, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(net.folder / "north", tmp_path / "copy"))
    found = by_name(hospital(copy))["admission"]
    assert found.ok is False
    assert "a copy of this home runs elsewhere" in found.todo
    assert by_name(hospital(net.folder / "north"))["admission"].ok


def test_a_hospital_that_has_not_joined_is_told_to(tmp_path: Path) -> None:
    run("hospital", "init", "--name", "new", "--home", tmp_path / "new")
    findings = hospital(tmp_path / "new")
    assert failed(findings) == ["joined"]
    assert by_name(findings)["dns"].said == "skipped: needs joined"
    assert by_name(findings)["table"].ok is None


def test_no_report_holds_a_key_or_a_token(net: Network, south: Path, coordinator: Path) -> None:
    said = lines(hospital(south) + operator(coordinator) + operator(net.home))
    invite = base64.b64decode("".join(net.invitation("south").read_text().splitlines()[1:]))
    secrets = [json.loads(invite)["token"]]
    for file in (south / "keys" / "node.key", south / "keys" / "identity.key", coordinator / "ca" / "ca.key"):
        secrets += file.read_text().splitlines()[1:-1]
    assert not [one for one in secrets if one in said]


# The coordinator's side


def test_keys_that_others_can_read_are_found_and_a_ca_key_kept_elsewhere_is_not_missed(
    coordinator: Path,
) -> None:
    (coordinator / "ca" / "ca.key").unlink()
    assert "the CA's key is kept elsewhere" in by_name(operator(coordinator))["keys"].said
    (coordinator / "keys" / "server.key").chmod(0o640)
    findings = operator(coordinator)
    assert failed(findings) == ["keys", "certificate"]
    assert "server.key (mode 0640)" in by_name(findings)["keys"].said


def test_what_is_wrong_with_a_certificate_is_told(net: Network, coordinator: Path) -> None:
    def said(pair: tuple[bytes, bytes]) -> Finding:
        for name, content in zip(("server.key", "server.crt"), pair, strict=True):
            (coordinator / "keys" / name).write_bytes(content)
        return by_name(operator(coordinator))["certificate"]

    expired, soon, fine = said(pair_of(net, -0.02)), said(pair_of(net, 20)), said(pair_of(net, 60))
    assert [one.ok for one in (expired, soon, fine)] == [False, None, True]
    assert "expired on" in expired.said
    assert "20 days left" in soon.said
    assert "renew-certificate" in expired.todo == soon.todo
    other = make_server(*make_ca("test"), "localhost")
    assert "not signed by ca.crt" in said(other).said
    assert "server.key is not that of server.crt" in said((other[0], pair_of(net)[1])).said
    config = coordinator / "config.toml"
    config.write_text(re.sub('address = ".*"', 'address = "wardround.invalid:443"', config.read_text()))
    assert "does not name wardround.invalid" in said(pair_of(net)).said
    assert "wardround.invalid does not resolve" in by_name(operator(coordinator))["dns"].said


def test_a_port_that_another_program_has_is_found(net: Network, coordinator: Path) -> None:
    ports(coordinator, net.port, free_port())
    found = by_name(operator(coordinator))["ports"]
    assert found.ok is False
    assert f"127.0.0.1:{net.port}: another program uses it" in found.said


def test_a_coordinator_that_died_is_in_trouble_or_silent_is_told(coordinator: Path) -> None:
    write_status(coordinator / "status.json", {"state": "serving", "at": time.time()})
    assert "killed or crashed" in by_name(operator(coordinator))["serve"].said
    with locked(coordinator / "serve.lock", "it"):
        write_status(coordinator / "status.json", {"state": "serving", "at": time.time() - 70})
        found = by_name(operator(coordinator))
        assert found["serve"].said == "runs, and has said nothing for 70 s"
        assert "does not answer" in found["ports"].said
        write_status(coordinator / "status.json", {"state": "trouble", "why": "no room", "at": time.time()})
        assert by_name(operator(coordinator))["serve"].said == "runs, trouble: no room"


def test_expired_invitations_and_studies_that_are_stuck_are_noted(coordinator: Path) -> None:
    registry = Registry(coordinator / "coordinator.db")
    registry.invite("late", 1000, 500)
    registry.close()
    study = StudyFolder(coordinator / "studies" / "heart")
    study.path.mkdir()
    (study.path / "study.json").write_text("{}")
    study.tell(Status("heart", "paused", "waits for south"))
    study.transcript.touch(0o600)
    found = by_name(operator(coordinator))
    assert "expired: `late`" in found["registry"].said
    assert "`heart` paused: waits for south" in found["studies"].said
    assert found["transcripts"].ok
    study.transcript.chmod(0o644)
    assert failed(operator(coordinator)) == ["transcripts"]


def test_a_registry_that_is_none_is_found_and_left_alone(coordinator: Path) -> None:
    for end in ("-wal", "-shm"):
        (coordinator / f"coordinator.db{end}").unlink(missing_ok=True)
    (coordinator / "coordinator.db").write_bytes(b"no database" * 1000)
    before = kept(coordinator)
    assert failed(operator(coordinator)) == ["registry"]
    assert kept(coordinator) == before


def test_a_control_api_that_is_open_to_the_outside_is_a_danger(net: Network, coordinator: Path) -> None:
    pair = tuple((coordinator / "keys" / name).read_bytes() for name in ("server.key", "server.crt"))
    opened = {"/v1/control/list-runs": (200, b""), "/wardround/hello": hello()}
    with (
        serving(coordinator, (pair[0], pair[1]), opened) as outside,
        locked(coordinator / "serve.lock", "it"),
    ):
        ports(coordinator, outside, net.control_port)
        write_status(coordinator / "status.json", {"state": "serving", "at": time.time()})
        findings = operator(coordinator)
    assert failed(findings) == ["closed"]
    assert "DANGER" in by_name(findings)["closed"].said


@pytest.mark.skipif(not _addresses(), reason="this machine has no address but loopback")
def test_a_control_api_on_another_address_is_a_danger(net: Network, coordinator: Path) -> None:
    with serving(coordinator, None, host="0.0.0.0") as port:
        ports(coordinator, free_port(), port)
        found = at_coordinator._loopback(CoordinatorHome(coordinator))
    assert found.ok is False
    assert "DANGER" in found.said


def test_a_certificate_that_was_renewed_without_a_restart_is_noted(net: Network, coordinator: Path) -> None:
    with serving(coordinator, pair_of(net)) as outside, locked(coordinator / "serve.lock", "it"):
        ports(coordinator, outside, net.control_port)
        write_status(coordinator / "status.json", {"state": "serving", "at": time.time()})
        found = by_name(operator(coordinator))
    assert "the certificate before the last" in found["outside"].said
    assert found["outside"].todo == "restart `coordinator serve`"
    assert found["closed"].ok
