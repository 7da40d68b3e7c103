"""The deployment files: their hardening, nginx's routes before a real backend, and the commands they name."""

from __future__ import annotations

import configparser
import datetime as dt
import http.client
import ipaddress
import re
import runpy
import shlex
import shutil
import socket
import ssl
import subprocess
import threading
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from pydantic import BaseModel

from wardround_client.gate import read_policy
from wardround_client.home import HospitalConfig
from wardround_common.cli import _app
from wardround_common.home import read_toml
from wardround_server.home import CoordinatorConfig

DEPLOY = Path(__file__).resolve().parents[2] / "deploy"
NGINX_CONF = DEPLOY / "nginx" / "wardround.conf"
COMPOSE = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
HOSPITALS = ("cleveland", "hungary", "switzerland")
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))
SAMPLES = sorted((DEPLOY / "samples").glob("*.toml"))
PAGES = [DEPLOY / "RUNBOOK.md", DEPLOY / "compose" / "README.md"]
NAME = "wardround.example.org"
FLEET = (
    "activate-node", "deactivate-node", "send-node-heartbeat", "pull-messages", "push-messages", "get-run",
    "push-object", "pull-object", "confirm-message-received",
)  # fmt: skip
ROUTES = {
    **{f"/v1/fleet/{one}": "POST" for one in FLEET},
    "/wardround/enrol": "POST",
    "/wardround/hello": "GET",
}


def by_name(path: Path) -> str:
    return path.name


# Sample configurations.


def leaves(table: dict[str, Any]) -> int:
    return sum(leaves(value) if isinstance(value, dict) else 1 for value in table.values())


@pytest.mark.parametrize("sample", SAMPLES, ids=by_name)
def test_a_sample_is_toml_and_every_key_has_a_comment(sample: Path) -> None:
    text = sample.read_text("utf-8")
    lines = text.splitlines()
    keys = [at for at, line in enumerate(lines) if re.match(r"[a-z_-]+ *=", line)]
    bare = [lines[at] for at in keys if " # " not in lines[at] and not lines[at - 1].startswith("# ")]
    assert bare == []
    assert len(keys) == leaves(tomllib.loads(text)) > 0


def test_the_samples_are_the_five_that_the_runbook_speaks_of_and_the_policy_is_one() -> None:
    sides = [f"{side}-{kind}.toml" for side in ("coordinator", "hospital") for kind in ("advanced", "basic")]
    assert [one.name for one in SAMPLES] == [*sides, "policy.toml"]
    assert read_policy(DEPLOY / "samples" / "policy.toml").min_hospitals == 3


@pytest.mark.parametrize("kind", ["basic", "advanced"])
@pytest.mark.parametrize(
    ("side", "model"),
    [("coordinator", CoordinatorConfig), ("hospital", HospitalConfig)],
    ids=("coordinator", "hospital"),
)
def test_a_sample_is_a_configuration_and_the_advanced_one_has_every_key(
    side: str, model: type[BaseModel], kind: str
) -> None:
    file = DEPLOY / "samples" / f"{side}-{kind}.toml"
    config = read_toml(file, model, "")
    if kind == "advanced":
        assert unset(config) == []


def unset(part: BaseModel) -> list[str]:
    """Return the keys of a configuration that its file leaves to their defaults."""
    inner = [value for _, value in part if isinstance(value, BaseModel)]
    return sorted(type(part).model_fields.keys() - part.model_fields_set) + [
        key for one in inner for key in unset(one)
    ]


# Containers.


def test_compose_has_a_coordinator_nginx_and_three_hospitals() -> None:
    assert sorted(SERVICES) == sorted(["coordinator", "nginx", *HOSPITALS])
    assert "version" not in COMPOSE  # one that the older and the newer Compose both take


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_is_hardened_and_has_a_health_check(name: str) -> None:
    service = SERVICES[name]
    user, group = map(int, service["user"].split(":"))
    assert user > 0
    assert group > 0
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert "cap_add" not in service
    assert "privileged" not in service
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [one.partition(":")[0] for one in service["tmpfs"]] == ["/tmp"]
    assert service["healthcheck"]["test"][0] in ("CMD", "CMD-SHELL")
    assert service["restart"] == "unless-stopped"


def test_nginx_alone_publishes_a_port_and_hospitals_are_each_on_an_internal_network_of_their_own() -> None:
    networks = COMPOSE["networks"]
    assert {name: one["ports"] for name, one in SERVICES.items() if "ports" in one} == {"nginx": ["443:443"]}
    assert {name for name, one in networks.items() if not one.get("internal")} == {"edge"}
    assert [name for name, one in SERVICES.items() if "edge" in one["networks"]] == ["nginx"]
    for name in HOSPITALS:
        assert SERVICES[name]["networks"] == [name]
        there = {other for other, one in SERVICES.items() if name in one["networks"]}
        assert there == {"nginx", name}


def test_what_compose_mounts_from_the_repository_is_there_and_read_only() -> None:
    binds = [one for service in SERVICES.values() for one in service["volumes"] if one.startswith(".")]
    assert len(binds) == len(HOSPITALS) + 3
    for bind in binds:
        source, _, mode = bind.split(":")
        assert (DEPLOY / "compose" / source).is_file(), source
        assert mode == "ro"


def test_nginx_gets_what_it_shows_and_nothing_else_of_the_coordinators_home() -> None:
    assert [one for one in SERVICES["nginx"]["volumes"] if not one.startswith(".")] == [
        "tls:/etc/nginx/wardround:ro"
    ]
    assert "ca.key" not in (DEPLOY / "compose" / "README.md").read_text("utf-8").partition("## 4.")[0]


def test_the_image_is_built_in_two_stages_from_the_locked_packages_and_runs_as_the_user_of_compose() -> None:
    text = (DEPLOY / "compose" / "Dockerfile").read_text("utf-8")
    last = text.split("\nFROM ")[-1]
    assert re.findall(r"^FROM (\S+)", text, re.M) == ["python:3.11-slim-bookworm"] * 2
    assert "-c constraints.txt" in text
    assert not re.search(r"apt-get|gcc|pip install", last)
    assert re.findall(r"^USER (.+)", text, re.M) == [SERVICES["coordinator"]["user"]]


# systemd.

HARDENED = {
    "CapabilityBoundingSet", "KeyringMode", "KillSignal", "LimitCORE", "LockPersonality",
    "MemoryDenyWriteExecute", "NoNewPrivileges", "PrivateDevices", "PrivateTmp", "ProtectClock",
    "ProtectControlGroups", "ProtectHome", "ProtectHostname", "ProtectKernelLogs", "ProtectKernelModules",
    "ProtectKernelTunables", "ProtectSystem", "ReadWritePaths", "Restart", "RestrictAddressFamilies",
    "RestrictNamespaces", "RestrictSUIDSGID", "SystemCallArchitectures", "SystemCallFilter",
    "TimeoutStopSec", "UMask", "User",
}  # fmt: skip
SWITCHES = {
    key for key in HARDENED if key.startswith(("LockP", "MemoryD", "NoNew", "Private", "Protect", "Restrict"))
} - {"ProtectSystem", "RestrictAddressFamilies"}


def unit(path: Path) -> dict[str, str]:
    """Return a unit's [Service] section; of keys that stand there twice, all values, one a line."""
    text = path.read_text("utf-8")
    parser = configparser.RawConfigParser(strict=False, delimiters=("=",), comment_prefixes=("#",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text)
    return {key: "\n".join(re.findall(rf"^{key}=(.*)$", text, re.M)) for key in parser["Service"]}


@pytest.mark.parametrize("path", UNITS, ids=by_name)
def test_a_unit_is_hardened(path: Path) -> None:
    service = unit(path)
    home = f"/var/lib/{path.stem}"
    assert HARDENED - service.keys() == set()
    assert {key: service[key] for key in SWITCHES if service[key] != "yes"} == {}
    assert service["User"] == service["Group"] == path.stem
    assert service["ProtectSystem"] == "strict"
    assert service["ReadWritePaths"] == service["WorkingDirectory"] == home
    assert f"WARDROUND_HOME={home} " in service["Environment"]
    assert service["RestrictAddressFamilies"] == "AF_INET AF_INET6 AF_UNIX"
    assert service["SystemCallFilter"].splitlines() == ["@system-service", "~@privileged"]
    assert (service["UMask"], service["KillSignal"], service["Restart"]) == ("0077", "SIGTERM", "always")
    assert "WatchdogSec" not in service


def test_only_the_coordinator_has_a_capability_and_it_is_to_open_port_443() -> None:
    coordinator, hospital = map(unit, UNITS)
    assert (
        coordinator["CapabilityBoundingSet"] == coordinator["AmbientCapabilities"] == "CAP_NET_BIND_SERVICE"
    )
    assert hospital["CapabilityBoundingSet"] == ""
    assert "AmbientCapabilities" not in hospital


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not installed")
@pytest.mark.parametrize("path", UNITS, ids=by_name)
def test_systemd_understands_every_line_of_a_unit(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / path.name
    copy.write_text(
        re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", path.read_text("utf-8"), flags=re.M), "utf-8"
    )
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, timeout=60
    )
    assert [line for line in done.stderr.splitlines() if path.name in line] == []


# nginx: what the file says.


def locations() -> dict[str, str]:
    """Return the block of each `location`, by what stands between the word and the brace."""
    text = re.sub(r"#.*", "", NGINX_CONF.read_text("utf-8"))
    blocks = re.split(r"\blocation ", text)[1:]
    return {block.partition("{")[0].strip(): block.partition("{")[2] for block in blocks}


def test_nginx_has_exactly_the_routes_and_each_passes_on_its_own_path() -> None:
    found = locations()
    rest = found.pop("/")
    assert set(found) == {f"= {route}" for route in ROUTES}
    for route, method in ROUTES.items():
        block = found[f"= {route}"]
        assert f"limit_except {method} {{ deny all; }}" in block
        assert re.findall(r"proxy_pass (\S+);", block) == [f"https://wardround_coordinator{route}"]
    assert rest.split() == ["return", "404;", "}", "}"]


def test_nginx_takes_tls_1_3_only_checks_the_coordinator_and_big_bodies_for_objects_alone() -> None:
    text, found = NGINX_CONF.read_text("utf-8"), locations()
    assert re.findall(r"ssl_protocols +(.+);", text) == ["TLSv1.3", "TLSv1.3"]
    assert re.search(r"proxy_ssl_verify +on;", text)
    assert re.search(r"proxy_buffering +off;", text)
    assert "server 127.0.0.1:8443;" in text
    assert [name for name, block in found.items() if "256m" in block] == ["= /v1/fleet/push-object"]
    assert "$request_body" not in text
    assert not re.search(r"\$(request|args|query_string|http_\w+)\b", text)  # they may hold what is secret


# nginx: what it does, before a real backend.


@dataclass
class Backend:
    """What stands in the coordinator's place: an HTTPS server that notes what reaches it."""

    port: int
    seen: list[tuple[str, str, int, dict[str, str]]] = field(default_factory=list)
    connections: int = 0

    @property
    def paths(self) -> list[str]:
        return [path for _, path, _, _ in self.seen]


@dataclass
class Front:
    """A running nginx with the deployed configuration."""

    port: int
    ca: Path
    folder: Path
    backend: Backend

    def tls(self) -> ssl.SSLContext:
        return ssl.create_default_context(cafile=str(self.ca))

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes, dict[str, str]]:
        """Return status, body and headers of one request over a connection of its own."""
        connection = http.client.HTTPConnection(NAME, timeout=20)
        plain = socket.create_connection(("127.0.0.1", self.port), 20)
        connection.sock = self.tls().wrap_socket(plain, server_hostname=NAME)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            return (
                response.status,
                response.read(),
                {key.lower(): value for key, value in response.getheaders()},
            )
        finally:
            connection.close()


OBJECT = bytes(range(256)) * (8 << 10)  # 2 MiB


def handler(backend: Backend) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            backend.connections += 1
            super().setup()

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {key.lower(): value for key, value in self.headers.items()}
            backend.seen.append((self.command, self.path, len(body), headers))
            reply = OBJECT if self.path.endswith("pull-object") else b"said by the coordinator"
            self.send_response(200)
            self.send_header("content-length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        do_GET = do_PUT = do_DELETE = do_POST

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's name)
            pass

    return Handler


def authority(folder: Path) -> tuple[x509.Certificate, ec.EllipticCurvePrivateKey]:
    """Return a new CA and write what a coordinator's home gives to nginx: ca.crt, server.crt, server.key."""
    made = []
    for name, issuer in (("CA", None), (NAME, "CA")):
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        ca, signer = made[0] if issuer else (None, key)
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [x509.DNSName(NAME), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
        usage = x509.KeyUsage(True, False, False, False, False, ca is None, ca is None, False, False)
        certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(ca.subject if ca else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(minutes=5))
            .not_valid_after(now + dt.timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=ca is None, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False
            )
            .add_extension(x509.SubjectAlternativeName(names), critical=False)
            .sign(signer, hashes.SHA256())
        )
        made.append((certificate, key))
    (ca_certificate, _), (certificate, key) = made
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ca.crt").write_bytes(ca_certificate.public_bytes(Encoding.PEM))
    chain = certificate.public_bytes(Encoding.PEM) + ca_certificate.public_bytes(Encoding.PEM)
    (folder / "server.crt").write_bytes(chain)
    secret = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (folder / "server.key").write_bytes(secret)
    return made[0]


@pytest.fixture
def tls_folder(tmp_path: Path) -> Path:
    authority(tmp_path / "tls")
    return tmp_path / "tls"


@pytest.fixture
def backend(tls_folder: Path) -> Iterator[Backend]:
    yield from serving(tls_folder)


def serving(folder: Path) -> Iterator[Backend]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_cert_chain(folder / "server.crt", folder / "server.key")
    found = Backend(0)
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(found))
    server.handle_error = lambda request, address: None  # type: ignore[method-assign]
    server.daemon_threads = True
    found.port = server.server_address[1]
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def configured(folder: Path, tls: Path, port: int, backend_port: int) -> Path:
    """Write the deployed configuration for this test's ports and files, inside Compose's main file."""
    replaced = {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "127.0.0.1:8443": f"127.0.0.1:{backend_port}",
        "/etc/nginx/wardround/": f"{tls}/",
        "/var/log/nginx/access.log": str(folder / "access.log"),
    }
    text = NGINX_CONF.read_text("utf-8")
    for old, new in replaced.items():
        assert old in text
        text = text.replace(old, new)
    (folder / "wardround.conf").write_text(text, "utf-8")
    main = (DEPLOY / "compose" / "nginx.conf").read_text("utf-8").replace("/tmp/", f"{folder}/")
    main = main.replace("error_log /dev/stderr", f"error_log {folder / 'error.log'}")
    (folder / "nginx.conf").write_text(f"master_process off;\n{main}", "utf-8")
    return folder / "nginx.conf"


def nginx_command(folder: Path, *more: str) -> list[str]:
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    return [
        program,
        "-p",
        str(folder),
        "-e",
        str(folder / "error.log"),
        "-c",
        str(folder / "nginx.conf"),
        *more,
    ]


@pytest.fixture
def front(tmp_path: Path, tls_folder: Path, backend: Backend) -> Iterator[Front]:
    yield from running(tmp_path, tls_folder, backend)


def running(folder: Path, tls: Path, backend: Backend) -> Iterator[Front]:
    port = free_port()
    configured(folder, tls, port, backend.port)
    with subprocess.Popen(nginx_command(folder), stderr=subprocess.DEVNULL) as process:
        try:
            for _ in range(200):
                with socket.socket() as one:
                    if one.connect_ex(("127.0.0.1", port)) == 0:
                        break
                assert process.poll() is None, (folder / "error.log").read_text("utf-8")
                time.sleep(0.05)
            yield Front(port, tls / "ca.crt", folder, backend)
        finally:
            process.terminate()
            process.wait(10)


def test_nginx_accepts_the_configuration(tmp_path: Path, tls_folder: Path) -> None:
    configured(tmp_path, tls_folder, free_port(), free_port())
    done = subprocess.run(nginx_command(tmp_path, "-t"), capture_output=True, text=True, timeout=30)
    assert done.returncode == 0, done.stderr
    assert "warn" not in done.stderr


def test_the_routes_pass_with_their_bodies_and_signed_headers(front: Front) -> None:
    sent = {"flwr-signature": "c2lnbmVk", "flwr-timestamp": "now", "X-Forwarded-For": "10.0.0.1"}
    for route, method in ROUTES.items():
        body = b"" if method == "GET" else b"question"
        status, said, headers = front.ask(method, route, body, sent)
        assert status == 200, route
        assert headers["content-length"] == str(len(said))
        seen_method, path, length, seen = front.backend.seen[-1]
        assert (seen_method, path, length) == (method, route, len(body))
        assert seen["flwr-signature"] == "c2lnbmVk"
        assert seen["x-forwarded-for"] == "127.0.0.1"
        assert seen["host"] == NAME
    assert front.backend.paths == list(ROUTES)


ELSEWHERE = [
    "/", "/index.html", "/v1", "/v1/fleet", "/v1/fleet/", "/v1/fleet/register-node",
    "/v1/fleet/unregister-node", "/v1/fleet/get-fab", "/v1/fleet/pull-messages/",
    "/v1/fleet/pull-messages/x", "/v1/fleet/pull-messages2", "/V1/fleet/pull-messages",
    "/v1/fleet/pull-messages%2f", "/v1/fleet/pull-messages%00", "/v1/control/start-run",
    "/v1/runtime/pull-messages", "/flwr.proto.Control/StartRun", "/wardround", "/wardround/",
    "/wardround/enrol/", "/wardround/enrol/x", "/wardround/hello2", "/docs", "/openapi.json", "/health",
    "/metrics", "/wardround/hello/../../v1/control/start-run", "/v1/fleet/get-run/../get-fab",
]  # fmt: skip


def test_everything_else_is_404_or_refused_and_never_reaches_the_coordinator(front: Front) -> None:
    longer = [f"{route}{end}" for route in ROUTES for end in ("2", "/", "/x")]
    for path in ELSEWHERE + longer:
        for method in ("GET", "POST"):
            status, _, headers = front.ask(method, path)
            assert status == (400 if "%00" in path else 404), path
            assert headers["server"] == "nginx"
    assert front.backend.seen == []


def test_another_spelling_of_a_route_reaches_the_coordinator_as_the_route_itself(front: Front) -> None:
    for path in (
        "/v1/fleet/%67et-run",
        "/v1//fleet/get-run",
        "/v1/x/../fleet/get-run",
        "/v1/fleet/get-run?x=1",
    ):
        assert front.ask("POST", path)[0] == 200
    assert {path.partition("?")[0] for path in front.backend.paths} == {"/v1/fleet/get-run"}


def test_another_method_is_refused(front: Front) -> None:
    for route, method in ROUTES.items():
        for other in {"GET", "POST", "PUT", "DELETE", "OPTIONS"} - {method}:
            assert front.ask(other, route)[0] == 403, (other, route)
    assert front.backend.seen == []


def test_a_body_that_is_too_long_is_refused_by_its_length_and_a_big_object_passes_unbuffered(
    front: Front,
) -> None:
    most = {
        "/v1/fleet/push-object": 256 << 20,
        "/v1/fleet/push-messages": 1 << 20,
        "/wardround/enrol": 16 << 10,
    }
    for route, limit in most.items():
        headers = {"Content-Length": str(limit + 1)}
        assert front.ask("POST", route, headers=headers)[0] == 413, route
    assert front.backend.seen == []
    assert front.ask("POST", "/v1/fleet/push-object", bytes(5 << 20))[0] == 200
    assert front.backend.seen[-1][2] == 5 << 20
    assert front.ask("POST", "/v1/fleet/push-messages", bytes(1 << 20))[0] == 200
    status, said, headers = front.ask("POST", "/v1/fleet/pull-object", b"x")
    assert (status, said) == (200, OBJECT)
    assert headers["content-length"] == str(len(OBJECT))
    error_log = (front.folder / "error.log").read_text("utf-8")
    assert "buffered to a temporary file" not in error_log


def test_enrolment_is_limited_by_the_minute_and_nothing_else_is(front: Front) -> None:
    statuses = [front.ask("POST", "/wardround/enrol", b"{}")[0] for _ in range(10)]
    assert statuses == [200] * 6 + [429] * 4
    assert front.backend.paths == ["/wardround/enrol"] * 6
    assert {front.ask("POST", "/v1/fleet/pull-messages")[0] for _ in range(30)} == {200}


def test_many_requests_go_over_one_connection_on_both_sides(front: Front) -> None:
    connection = http.client.HTTPConnection(NAME, timeout=20)
    plain = socket.create_connection(("127.0.0.1", front.port), 20)
    connection.sock = front.tls().wrap_socket(plain, server_hostname=NAME)
    try:
        for _ in range(50):
            connection.request("POST", "/v1/fleet/pull-messages", b"any")
            assert connection.getresponse().read() == b"said by the coordinator"
    finally:
        connection.close()
    assert (len(front.backend.seen), front.backend.connections) == (50, 1)


def test_tls_below_1_3_is_refused(front: Front) -> None:
    context = front.tls()
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with socket.create_connection(("127.0.0.1", front.port), 20) as plain, pytest.raises(ssl.SSLError):
        context.wrap_socket(plain, server_hostname=NAME)


def test_a_coordinator_with_another_cas_certificate_is_not_spoken_to(
    tmp_path: Path, tls_folder: Path
) -> None:
    authority(tmp_path / "other")
    for backend in serving(tmp_path / "other"):
        for front in running(tmp_path, tls_folder, backend):
            assert front.ask("POST", "/v1/fleet/get-run", b"secret")[0] == 502
        assert backend.seen == []


def test_the_logs_hold_neither_bodies_nor_headers_nor_query_strings(front: Front) -> None:
    front.ask("POST", "/v1/fleet/push-messages?secret", b"secret", {"flwr-signature": "secret"})
    front.ask("POST", "/wardround/enrol", b'{"token": "secret"}')
    log = front.folder / "access.log"
    for _ in range(100):
        if log.read_text("utf-8").count("\n") == 2:
            break
        time.sleep(0.02)
    lines = log.read_text("utf-8").splitlines()
    assert [line.split()[2:5] for line in lines] == [
        ["POST", "/v1/fleet/push-messages", "200"],
        ["POST", "/wardround/enrol", "200"],
    ]
    assert "secret" not in "".join(lines) + (front.folder / "error.log").read_text("utf-8")


# The container's health check.


def hello(home: Path) -> int:
    found: int = runpy.run_path(str(DEPLOY / "compose" / "healthcheck.py"))["hello"](home)
    return found


def coordinator_home(folder: Path, tls: Path, port: int) -> Path:
    (folder / "ca").mkdir(parents=True)
    shutil.copy(tls / "ca.crt", folder / "ca" / "ca.crt")
    config = f'[coordinator]\naddress = "{NAME}:443"\nlisten = "0.0.0.0:{port}"\n'
    (folder / "config.toml").write_text(config, "utf-8")
    return folder


def test_the_health_check_asks_the_listener_and_trusts_the_coordinators_ca_alone(
    tmp_path: Path, tls_folder: Path, backend: Backend
) -> None:
    home = coordinator_home(tmp_path / "home", tls_folder, backend.port)
    assert hello(home) == 200
    assert backend.seen[-1][:2] == ("GET", "/wardround/hello")
    authority(tmp_path / "other")
    shutil.copy(tmp_path / "other" / "ca.crt", home / "ca" / "ca.crt")
    with pytest.raises(ssl.SSLCertVerificationError):
        hello(home)


def test_the_health_check_fails_where_nothing_listens(tmp_path: Path, tls_folder: Path) -> None:
    home = coordinator_home(tmp_path / "home", tls_folder, free_port())
    with pytest.raises(OSError, match="refused"):
        hello(home)


# Every command that a deployment file names.

CODE_BLOCK = re.compile(r"^```sh\n(.*?)^```", re.M | re.S)
CODE_SPAN = re.compile(r"(?<!`)`(wardround [^`]+)`")


def commands_in(shell: str) -> list[tuple[str, ...]]:
    """Return the arguments of each `wardround` in a piece of shell, up to what ends a command there."""
    found = []
    for line in shell.replace("\\\n", " ").splitlines():
        if not re.search(r"(^|[\s/])wardround\s", line):
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words = list(lexer)
        for at, word in enumerate(words):
            if word == "wardround" or word.endswith("/bin/wardround"):
                rest = words[at + 1 :]
                end = next((n for n, one in enumerate(rest) if set(one) <= set("();<>|&")), len(rest))
                found.append(tuple(rest[:end]))
    return found


def named_commands() -> tuple[set[tuple[str, ...]], set[tuple[str, ...]]]:
    """Return the commands that are given whole, and those that a sentence or comment only names."""
    whole = [
        one
        for page in PAGES
        for block in CODE_BLOCK.findall(page.read_text("utf-8"))
        for one in commands_in(block)
    ]
    whole += [one for path in UNITS for one in commands_in(unit(path)["ExecStart"])]
    lists = [service.get("command", []) for service in SERVICES.values()]
    checks = [service["healthcheck"]["test"][1:] for service in SERVICES.values()]
    whole += [one for check in checks for one in commands_in(check[0])]
    whole += [tuple(one[1:]) for one in lists if one[:1] == ["wardround"]]
    named = []
    for file in DEPLOY.rglob("*"):
        if file.is_file() and file.suffix != ".pyc":
            for span in CODE_SPAN.findall(file.read_text("utf-8")):
                named += commands_in(span)
    return set(whole), set(named) - set(whole)


@cache
def program() -> click.Command:
    return typer.main.get_command(_app())


def fault(arguments: tuple[str, ...], whole: bool = True) -> str:
    """Return what the real command line has against a command; it is parsed, never run."""
    command, rest = program(), list(arguments)
    context = click.Context(command, info_name="wardround")
    while isinstance(command, click.Group) and rest and not rest[0].startswith("-"):
        found = command.get_command(context, rest[0])
        if found is None:
            return f"{context.command_path} has no command {rest[0]}"
        command = found
        context = click.Context(command, info_name=rest.pop(0), parent=context)
    if isinstance(command, click.Group) and not rest and not whole:
        return ""
    try:
        command.make_context(context.info_name, rest, parent=context.parent)
    except click.exceptions.Exit:  # --version and --help end here
        return ""
    except click.MissingParameter as error:
        return error.format_message() if whole else ""
    except click.UsageError as error:
        return error.format_message()
    return ""


WHOLE, NAMED = named_commands()


@pytest.mark.parametrize("arguments", sorted(WHOLE), ids=" ".join)
def test_a_command_that_is_given_can_be_typed(arguments: tuple[str, ...]) -> None:
    assert fault(arguments) == ""


@pytest.mark.parametrize("arguments", sorted(NAMED), ids=" ".join)
def test_a_command_that_is_named_exists(arguments: tuple[str, ...]) -> None:
    assert fault(arguments, whole=False) == ""


def test_commands_are_found_in_pages_units_and_compose() -> None:
    assert ("coordinator", "serve") in WHOLE
    assert ("hospital", "status", "--json") in WHOLE
    assert ("hospital", "init", "--name", "$name", "--table", "/data/patients.csv") in WHOLE
    assert ("coordinator", "renew-certificate") in WHOLE | NAMED
    assert len(WHOLE) > 25
    told = "sudo env A=/opt/wardround/bin wardround study check 'a b.yaml' | cat; /opt/bin/wardround -x"
    assert commands_in(told) == [("study", "check", "a b.yaml"), ("-x",)]


def test_a_command_or_option_that_does_not_exist_would_be_noticed() -> None:
    assert fault(("coordinator", "replay", "a.transcript")) == ""
    assert fault(("--version",)) == ""
    assert "has no command repaly" in fault(("coordinator", "repaly"))
    assert "--nowhere" in fault(("coordinator", "replay", "a.transcript", "--nowhere", "x"))
    assert "TRANSCRIPT" in fault(("coordinator", "replay"))
    assert fault(("coordinator", "replay"), whole=False) == ""
    assert "unexpected extra" in fault(("coordinator", "replay", "a", "b"))
