"""Bad input to a network of real processes: refused in one line, the processes go on, nothing is lost."""

from __future__ import annotations

import json
import re
import resource
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.common.constant import TIMESTAMP_HEADER
from flwr.proto.control_pb2 import ListNodesRequest
from flwr.proto.fleet_pb2 import ActivateNodeRequest
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER, FLEET_HTTP_SIGNATURE_HEADER
from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message
from flwr.supercore.protobuf.constants import PROTOBUF_MEDIA_TYPE

from tests.network.line import done, ran, refused
from tests.network.net import Hospital, Network, network, online, run, until
from tests.network.test_bad_home import TABLE, WARDS
from tests.unit.test_gateway import flowers_routes
from wardround_client import link as links
from wardround_client.home import HospitalHome
from wardround_client.link import Link, NotAdmitted, Unreachable
from wardround_client.tls import trusting
from wardround_common.enrolment import PROTOCOL, Invite
from wardround_common.errors import LinkError
from wardround_server.certificates import make_ca, make_server
from wardround_server.gateway import FLEET, STOCK
from wardround_server.registry import Registry
from wardround_server.simulation import simulate

pytestmark = pytest.mark.slow

NAMES = ("north", "south", "east")


def table_of(folder: Path, name: str) -> Path:
    path = folder / f"{name}.csv"
    path.write_text(TABLE)
    return path


@pytest.fixture(scope="module")
def net(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    folder = tmp_path_factory.mktemp("net")
    with network(folder, {name: table_of(folder, name) for name in NAMES}) as found:
        yield found
        # whatever was sent to them, all of them go on, and nothing of it is in their logs
        assert all(online(one) for one in found.hospitals.values()), found.logs()
        assert found._state() == "serving"
        said = "\n".join(path.read_text("utf-8", "replace") for path in folder.rglob("*.log"))
        assert "Traceback" not in said, said
        assert "PRIVATE KEY" not in said
        for token in TOKENS:
            assert token not in said


TOKENS: list[str] = []  # all that were handed out; no log may hold one


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


# Enrolment


def invited(net: Network, name: str, *options: object) -> Path:
    done("coordinator", "invite", name, "--home", net.home, "--out", f"{name}.invite", *options)
    TOKENS.append(Invite.from_text(Path(f"{name}.invite").read_bytes()).token)
    return Path(f"{name}.invite")


def newly(name: str, home: str) -> Path:
    done("hospital", "init", "--name", name, "--home", home)
    return Path(home)


def with_token(invite: Path, token: str, expires: int | None = None) -> Path:
    found = Invite.from_text(invite.read_bytes())
    changed = Invite(**vars(found) | {"token": token, "expires": expires or found.expires})
    Path("other.invite").write_text(changed.to_text())
    return Path("other.invite")


def test_a_token_admits_one_hospital_and_its_own_enrolment_again(net: Network, folder: Path) -> None:
    invite = invited(net, "west")
    wrong = with_token(invite, "A" * 43)
    first, second = newly("west", "first"), newly("west", "second")
    line = refused("hospital", "join", wrong, "--home", first)
    assert line == "the coordinator does not know this invitation (any more); ask it for a new one"
    assert not (first / "coordinator.toml").exists()
    for _ in range(2):  # the reply to the first may have been lost
        assert "Admitted by `test`" in done("hospital", "join", invite, "--home", first)
    line = refused("hospital", "join", invite, "--home", second)
    assert line.startswith("the invitation was used, with other keys")
    assert not (second / "coordinator.toml").exists()
    again = invited(net, "west", "--again", "--force")
    assert "a hospital of this name is admitted with other keys" in refused(
        "hospital", "join", again, "--home", second
    )
    assert "Admitted by `test`" in done("hospital", "join", again, "--home", first)
    done("coordinator", "hospitals", "--revoke", "west", "--yes", "--home", net.home)
    new = invited(net, "west", "--force")
    assert "make new keys and enrol again" in refused("hospital", "join", new, "--home", first)
    assert "Admitted by `test`" in done("hospital", "join", new, "--home", second)
    done("coordinator", "hospitals", "--left", "west", "--yes", "--home", net.home)


def test_the_coordinators_clock_decides_whether_an_invitation_has_expired(net: Network, folder: Path) -> None:
    invite = invited(net, "late")
    registry = Registry(net.home / "coordinator.db")
    token = registry.invite("late", int(time.time()) + 2, time.time(), again=True)
    registry.close()
    TOKENS.append(token)
    home = newly("late", "late")
    time.sleep(2.1)
    line = refused("hospital", "join", with_token(invite, token, int(time.time()) + 600), "--home", home)
    assert line == "the invitation has expired; ask the coordinator for a new one"


# TLS


@contextmanager
def answering(certificate: tuple[bytes, bytes] | None, folder: Path, say: bytes = b"") -> Iterator[str]:
    """Listen with this key and certificate, or without TLS; give the address."""
    context = None
    if certificate is not None:
        key, pem = folder / "key.pem", folder / "crt.pem"
        key.write_bytes(certificate[0])
        pem.write_bytes(certificate[1])
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(pem, key)
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                here, _ = listener.accept()
            except OSError:
                return
            try:
                with here if context is None else context.wrap_socket(here, server_side=True) as there:
                    there.settimeout(5)
                    there.recv(1 << 16)
                    there.sendall(say)
            except OSError:
                here.close()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield f"localhost:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(5)


def says(address: str, ca: bytes) -> str:
    """Return what a node says of whoever answers there."""
    with closing(Link(address, trusting(ca.decode()), ec.generate_private_key(ec.SECP384R1()))) as link:
        with pytest.raises(LinkError) as caught:
            link.activate()
        assert isinstance(caught.value, Unreachable), caught.value
    line = str(caught.value)
    assert "\n" not in line and line.startswith(f"{address}: ")
    return line


def test_a_node_talks_to_nobody_but_its_coordinator(tmp_path: Path) -> None:
    (key, ca), other = make_ca("test"), make_ca("other")
    reply = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n%s\r\n%s"
    with answering(make_server(*other, "localhost"), tmp_path) as there:
        assert "its certificate is not one of the coordinator's CA" in says(there, ca)
    with answering(make_server(key, ca, "localhost", 0), tmp_path) as there:
        time.sleep(1.1)
        assert "certificate has expired" in says(there, ca)
    with answering(None, tmp_path, b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n") as there:
        assert "no connection" in says(there, ca)
    for say in (
        b"",
        b"garbage\r\n\r\n",
        reply % (4, b"", b"\xff\xff\xff\xff"),
        reply % (1 << 40, b"", b""),
        b"HTTP/1.1 200 OK\r\n\r\nendless",
        reply % (9, b"content-encoding: gzip\r\n", b"not gzip!"),
    ):
        with answering(make_server(key, ca, "localhost"), tmp_path, say) as there:
            assert says(there, ca)
    assert "no connection" in says(there, ca)


def test_an_invitation_to_a_coordinator_with_another_certificate_admits_nobody(
    net: Network, folder: Path
) -> None:
    invite = Invite.from_text(invited(net, "away").read_bytes())
    with answering(make_server(*make_ca("other"), "localhost"), folder) as there:
        Path("x.invite").write_text(Invite(**vars(invite) | {"address": there}).to_text())
        said = done("hospital", "join", "x.invite", "--home", newly("away", "away"))
    assert "Not admitted yet" in said and "CERTIFICATE_VERIFY_FAILED" in said


def test_garbage_and_waiting_at_the_port_hold_up_nobody(net: Network) -> None:
    opened = [socket.create_connection(("127.0.0.1", net.port), 5) for _ in range(50)]
    try:
        for number, one in enumerate(opened):
            one.sendall(
                [b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)), b"\x16\x03\x01", b"\0" * 5000][number % 4]
            )
        link = Link(net.address, trusting_net(net), node_key(net, "north"))
        with closing(link), pytest.raises(LinkError, match="takes this node for online already"):
            link.activate()
    finally:
        for one in opened:
            one.close()


def trusting_net(net: Network) -> ssl.SSLContext:
    return trusting((net.home / "ca/ca.crt").read_text())


def node_key(net: Network, name: str) -> ec.EllipticCurvePrivateKey:
    return HospitalHome(net.hospitals[name].home).node_key


# Keys, times, versions


def signed(key: ec.EllipticCurvePrivateKey, ago_s: float = 0.0) -> dict[str, str]:
    at = (datetime.now(UTC) - timedelta(seconds=ago_s)).isoformat()
    return {
        FLEET_HTTP_PUBLIC_KEY_HEADER: b64encode(public_key_to_bytes(key.public_key())).decode(),
        TIMESTAMP_HEADER: at,
        FLEET_HTTP_SIGNATURE_HEADER: b64encode(sign_message(key, at.encode())).decode(),
        "content-type": PROTOBUF_MEDIA_TYPE,
        "accept": PROTOBUF_MEDIA_TYPE,
    }


def test_a_request_is_taken_with_a_fresh_time_that_its_key_signed(net: Network) -> None:
    key, stranger = node_key(net, "north"), ec.generate_private_key(ec.SECP384R1())
    body = ActivateNodeRequest(
        public_key=public_key_to_bytes(key.public_key()), heartbeat_interval=10
    ).SerializeToString()
    honest = signed(key)
    signature = FLEET_HTTP_SIGNATURE_HEADER
    tried = {
        "no headers": {"content-type": PROTOBUF_MEDIA_TYPE},
        "unknown key": signed(stranger),
        "another's signature": honest | {signature: signed(stranger)[signature]},
        "signature of another time": honest | {signature: signed(key, 1)[signature]},
        "no signature": {name: value for name, value in honest.items() if name != signature},
        "stale": signed(key, 306),
        "from the future": signed(key, -10),
        "no time": honest | {TIMESTAMP_HEADER: "yesterday"},
        "a time without zone": honest | {TIMESTAMP_HEADER: datetime.now().isoformat()},  # noqa: DTZ005
    }
    with httpx.Client(verify=trusting_net(net)) as client:
        url = f"https://{net.address}/v1/fleet/activate-node"
        for what, headers in tried.items():
            answer = client.post(url, content=body, headers=headers)
            assert answer.status_code == 401, (what, answer.status_code, answer.text)
            assert "Traceback" not in answer.text
        assert client.post(url, content=b"\xff\xff", headers=signed(key)).status_code in (400, 415, 422)
        # what is fresh and signed is let in, and is told that the node is online already
        assert client.post(url, content=body, headers=signed(key, 290)).status_code not in (401, 404)


def test_a_node_that_is_not_admitted_or_of_another_version_says_so(
    net: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = Link(net.address, trusting_net(net), ec.generate_private_key(ec.SECP384R1()))
    with (
        closing(link),
        pytest.raises(NotAdmitted, match="not admitted yet, or was revoked: ask the coordinator"),
    ):
        link.activate()
    monkeypatch.setattr(links, "PROTOCOL", PROTOCOL + 1)
    with closing(Link(net.address, trusting_net(net), node_key(net, "north"))) as link:
        with pytest.raises(
            LinkError, match=f"speaks another version of Wardround's protocol than {PROTOCOL + 1}"
        ) as caught:
            link.activate()
        assert not isinstance(caught.value, Unreachable)


def test_flowers_apis_are_on_loopbacks_port_alone(net: Network) -> None:
    headers = signed(node_key(net, "north"))
    with httpx.Client(verify=trusting_net(net), timeout=20) as client:
        outside, inside = f"https://{net.address}", f"https://127.0.0.1:{net.control_port}"
        for path, method in flowers_routes():
            if path not in FLEET:
                answer = client.request(method, outside + path, headers=headers)
                assert answer.status_code == 404, (method, path)
                assert method == "HEAD" or answer.json() == {"detail": "there is nothing here"}
        for path in (
            "/v1/fleet/pull-messages/",
            "//v1/fleet/pull-messages",
            "/v1%2ffleet/pull-messages",
            "/wardround",
        ):
            assert client.post(outside + path, headers=headers).status_code == 404
        for path in ("/openapi.json", "/docs", "/health"):
            assert client.get(inside + path).status_code == 200
        body = ListNodesRequest().SerializeToString()
        found = client.post(
            f"{inside}/v1/control/list-nodes", content=body, headers={"content-type": PROTOBUF_MEDIA_TYPE}
        )
        assert found.status_code == 200
        assert set(STOCK) <= {path for path, _ in flowers_routes()}
    with pytest.raises(OSError), socket.create_connection((other_address(), net.control_port), 2):
        pass


def other_address() -> str:
    """An address of this machine that is not 127.0.0.1."""
    return "127.0.0.2"


# One of each, and a hospital that is revoked


def test_a_second_process_in_a_home_says_that_the_first_runs(net: Network) -> None:
    said = run("hospital", "serve", "--home", net.hospitals["north"].home, code=2)
    assert "this hospital's node runs already" in said
    said = run("coordinator", "serve", "--home", net.home, code=2)
    assert "this coordinator runs already" in said
    assert "error: " in said.splitlines()[-1]


def test_a_revoked_hospital_is_told_and_goes_on_asking_while_the_others_work(net: Network) -> None:
    gone = Hospital(net, "gone", table_of(net.folder, "gone"))
    try:
        gone.join()
        gone.node.start()
        until(lambda: online(gone), 30, net.logs)
        done("coordinator", "hospitals", "--revoke", "gone", "--yes", "--home", net.home)
        until(lambda: gone.status()["node"] == "refused", 30, net.logs)
        why = gone.status()["why"]
        assert (
            "the coordinator does not know this node's key" in why
            and "was revoked: ask the coordinator" in why
        )
        assert gone.node.process is not None and gone.node.process.poll() is None
        listed = json.loads(done("coordinator", "hospitals", "--json", "--home", net.home))["hospitals"]
        states = {one["name"]: (one["state"], one["online"]) for one in listed}
        assert states["gone"] == ("revoked", False)
        assert all(states[name] == ("admitted", True) for name in NAMES)
    finally:
        assert gone.node.stop() == 0


# After this one no enrolment is taken for a minute


def test_too_many_refused_enrolments_are_told_to_wait_and_nodes_notice_nothing(
    net: Network, folder: Path
) -> None:
    invite, home = invited(net, "many"), newly("many", "many")
    with httpx.Client(verify=trusting((net.home / "ca/ca.crt").read_text())) as client:
        said = [
            client.post(f"https://{net.address}/wardround/enrol", content=b"{}").status_code
            for _ in range(40)
        ]
    assert said[0] == 400 and said[-1] == 429
    said_to_hospital = done("hospital", "join", invite, "--home", home)
    assert "has refused many enrolments just now; wait a minute and join again" in said_to_hospital
    assert [net.hospitals[name].status()["node"] for name in NAMES] == ["online"] * 3


# A full disk at a hospital


def test_a_study_waits_for_a_hospital_whose_disk_is_full_and_ends_with_the_same_bits(net: Network) -> None:
    file = net.folder / "wards.json"
    file.write_text(json.dumps(WARDS | {"analyses": [{"kind": "summary"}, {"kind": "logistic", "ridge": 1}]}))
    net.approve(file)
    north = net.hospitals["north"]
    limits = resource.prlimit(north.node.pid, resource.RLIMIT_FSIZE)
    full = (north.home / "node.db").stat().st_size
    resource.prlimit(north.node.pid, resource.RLIMIT_FSIZE, (full, limits[1]))
    try:
        net.launch(file)
        until(lambda: net.study("wards")["state"] == "failed", 60, net.logs)
    finally:
        resource.prlimit(north.node.pid, resource.RLIMIT_FSIZE, limits)
    why = net.study("wards")["why"]
    assert why.startswith("`north` refuses: it has trouble of its own (a full disk"), why
    log = (north.home / "logs/node.log").read_text()
    assert re.search(r"node\.db: .*make room", log), log
    code, out, _ = ran("coordinator", "status", "wards", "--home", net.home)
    assert code == 0 and "failed" in out and "`north` refuses" in out
    done("coordinator", "resume", "wards", "--home", net.home)
    found = net.finished("wards")
    expected = simulate(file, {name: net.hospitals[name].table for name in NAMES}).results
    assert without_seconds(found) == without_seconds(json.loads(json.dumps(expected)))


def without_seconds(results: dict[str, Any]) -> dict[str, Any]:
    return {label: {**one, "seconds": None} for label, one in results["analyses"].items()}
