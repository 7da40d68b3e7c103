"""What the outside may ask of a coordinator, and what it is told: the filter, and its bytes on a socket."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Iterator, MutableMapping
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from fastapi.routing import iter_route_contexts
from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from flwr.superlink.main import create_app

from wardround_client.tls import trusting
from wardround_common.enrolment import PROTOCOL, Enrolment, EnrolmentReply, EnrolmentRequest, make_enrolment
from wardround_common.errors import WardroundError
from wardround_common.home import LOG
from wardround_common.sealing.identity import Identity
from wardround_server import gateway as module
from wardround_server.gateway import ENROL, FLEET, HELLO, STOCK, App, Gateway, bodies_whole
from wardround_server.grid import superlink
from wardround_server.home import CoordinatorHome, make_home
from wardround_server.registry import Registry

NOW = 1_790_000_000.0
KEY = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
PULL = "/v1/fleet/pull-messages"
CHUNKED = b"transfer-encoding: chunked"
NOTHING = {"detail": "there is nothing here"}

Message = MutableMapping[str, Any]


class Inside:
    """The app behind the filter: remembers what reached it."""

    def __init__(self) -> None:
        self.got: list[tuple[str, bytes]] = []

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        message = await receive()
        assert not message.get("more_body")
        self.got.append((scope["path"], message["body"]))
        await module.answer(send, 200, "inside")


class Body:
    """A request's body, piece by piece; counts how often it was asked for one."""

    def __init__(self, *pieces: bytes, ends: bool = True, stalls: bool = False) -> None:
        self.pieces, self.ends, self.stalls, self.asked = list(pieces) or [b""], ends, stalls, 0

    async def __call__(self) -> Message:
        self.asked += 1
        if self.pieces:
            piece = self.pieces.pop(0)
            return {"type": "http.request", "body": piece, "more_body": bool(self.pieces) or not self.ends}
        if self.stalls:
            await asyncio.Event().wait()
        return {"type": "http.disconnect"}


class Answer:
    """What was sent back."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, {}, b""  # type: int, dict[bytes, bytes], bytes

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            assert self.status == 0, "two answers"
            self.status, self.headers = message["status"], dict(message["headers"])
        else:
            self.body += message.get("body", b"")

    @property
    def said(self) -> Any:
        return json.loads(self.body)

    @property
    def hangs_up(self) -> bool:
        return self.headers.get(b"connection") == b"close"


class Outside:
    """A filter before an app that remembers, with a registry and a clock of its own."""

    def __init__(self, folder: Path) -> None:
        self.registry, self.inside, self.now = Registry(folder / "coordinator.db"), Inside(), NOW
        self.gateway = Gateway(self.inside, self.registry, "test", KEY.decode(), lambda: self.now)

    def admitted(self, name: str = "north", stock: bool = False) -> bytes:
        """Admit a hospital; return its header."""
        record = self.registry.admit(enrolment(name), NOW, stock)
        self.gateway._read_at = 0.0
        return b64encode(record.node_key)

    def ask(
        self,
        path: str,
        body: Body | None = None,
        headers: list[tuple[bytes, bytes]] | None = None,
        method: str = "POST",
        **more: Any,
    ) -> Answer:
        """Make one request."""
        answer = Answer()
        scope = {
            "type": "http",
            "method": method,
            "path": path,
            "raw_path": path.encode(),
            "query_string": b"",
            "headers": headers or [],
            **more,
        }
        asyncio.run(self.gateway(scope, body or Body(), answer))
        return answer

    def enrol(self, content: bytes) -> Answer:
        length = (b"content-length", str(len(content)).encode())
        return self.ask(ENROL, Body(content), [length])


def enrolment(name: str = "north") -> Enrolment:
    return make_enrolment(name, Identity.generate(), ec.generate_private_key(ec.SECP384R1()))


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    made = Outside(tmp_path)
    yield made
    made.registry.close()


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    logger = logging.getLogger(LOG)
    before = logger.propagate, logger.level
    logger.propagate = True
    logger.setLevel(logging.INFO)
    yield caplog
    logger.propagate, logger.level = before


# Routes


def flowers_routes() -> list[tuple[str, str]]:
    routes: list[Any] = [one.route for one in iter_route_contexts(create_app().routes)]
    found = [(route.path, method) for route in routes for method in route.methods]
    assert len(found) > 70
    assert {path for path, _ in found} >= {"/openapi.json", "/docs", "/health", *FLEET, *STOCK}
    return found


def test_of_flowers_routes_only_a_nodes_own_are_there(outside: Outside) -> None:
    key = outside.admitted()
    for path, method in flowers_routes():
        answer = outside.ask(path, headers=[(KEY, key)], method=method)
        if path in FLEET and method == "POST":
            assert answer.status == 200, path
        else:
            assert (answer.status, answer.said, answer.hangs_up) == (404, NOTHING, True), path
    assert {path for path, _ in outside.inside.got} == set(FLEET)


@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "CONNECT", "TRACE", "post"]
)
def test_other_methods_are_nothing(outside: Outside, method: str) -> None:
    key = outside.admitted()
    for path in (*FLEET, *STOCK, ENROL):
        assert outside.ask(path, headers=[(KEY, key)], method=method).status == 404
    assert (outside.ask(HELLO, method=method).status == 200) == (method == "GET")
    assert outside.inside.got == []


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "//v1/fleet/pull-messages",
        "/v1//fleet/pull-messages",
        "/v1/fleet/pull-messages/",
        "/v1/fleet/../fleet/pull-messages",
        "/v1/fleet/../control/list-nodes",
        "/v1/fleet/./pull-messages",
        "/v1/fleet/pull-messages;x",
        "/v1/fleet/pull-messages\x00",
        "/v1/fleet/Pull-Messages",
        "/V1/FLEET/PULL-MESSAGES",
        "/v1/fleet/pull-messages ",
        "/v1/fleet",
        "v1/fleet/pull-messages",
        "https://localhost/v1/fleet/pull-messages",
        "/wardround/hello/",
        "/wardround/enrol/",
        "/wardround",
    ],
)
def test_another_spelling_of_a_route_is_nothing(outside: Outside, path: str) -> None:
    key = outside.admitted()
    for method in ("GET", "POST"):
        assert outside.ask(path, headers=[(KEY, key)], method=method).status == 404
    assert outside.inside.got == []


@pytest.mark.parametrize(
    ("path", "raw"),
    [
        (PULL, b"/v1%2Ffleet%2Fpull-messages"),
        (PULL, b"/v1/fleet/pull%2Dmessages"),
        (ENROL, b"/wardround/%65nrol"),
        (HELLO, b"/wardround%2fhello"),
    ],
)
def test_an_escaped_spelling_of_a_route_is_nothing(outside: Outside, path: str, raw: bytes) -> None:
    key = outside.admitted()
    for method in ("GET", "POST"):
        assert outside.ask(path, headers=[(KEY, key)], method=method, raw_path=raw).status == 404
    assert outside.inside.got == []


def test_a_query_string_is_nothing(outside: Outside) -> None:
    key = outside.admitted()
    for path, method in ((PULL, "POST"), (ENROL, "POST"), (HELLO, "GET")):
        assert outside.ask(path, headers=[(KEY, key)], method=method, query_string=b"a=b").status == 404


def test_a_websocket_and_a_lifespan_are_not_served(outside: Outside) -> None:
    outside.ask(PULL, type="websocket")
    with pytest.raises(RuntimeError, match="another listener"):
        outside.ask(PULL, type="lifespan")
    assert outside.inside.got == []


def test_a_stock_members_routes_open_with_the_first_and_close_with_the_last(outside: Outside) -> None:
    key = outside.admitted()
    for path in STOCK:
        assert outside.ask(path, headers=[(KEY, key)]).status == 404
    stock = outside.admitted("south", stock=True)
    for path in STOCK:
        assert outside.ask(path).status == 401
        assert outside.ask(path, headers=[(KEY, stock)]).status == 200
    outside.registry.revoke("south")
    outside.gateway._read_at = 0.0
    for path in STOCK:
        assert outside.ask(path, headers=[(KEY, stock)]).status == 404


# Keys and versions


def test_a_key_that_is_not_admitted_is_refused_before_its_body_is_read(outside: Outside) -> None:
    key = outside.admitted()
    stranger = b64encode(enrolment().node_key)
    wrong = [stranger, b"", b"!!", key[:-4], b"\xff\xfe", key + b"=", b" " + key, b"A" * 5000, key.lower()]
    for one in wrong:
        for path, most in FLEET.items():
            body = Body(b"x" * 1000)
            answer = outside.ask(path, body, [(KEY, one), (b"content-length", str(most + 1).encode())])
            assert (answer.status, answer.hangs_up, body.asked) == (401, True, 0), one
            assert "key is not admitted" in answer.said["detail"]
    assert outside.ask(PULL).status == 401
    assert outside.inside.got == []


def test_a_revoked_key_is_refused_within_a_moment_and_others_go_on(outside: Outside) -> None:
    north, south = outside.admitted("north"), outside.admitted("south")
    assert [outside.ask(PULL, headers=[(KEY, one)]).status for one in (north, south)] == [200, 200]
    outside.registry.revoke("north")
    time.sleep(module._FRESH_S + 0.1)
    assert [outside.ask(PULL, headers=[(KEY, one)]).status for one in (north, south)] == [401, 200]


def test_of_a_key_that_is_said_twice_the_one_counts_that_flower_reads(outside: Outside) -> None:
    key, stranger = outside.admitted(), b64encode(enrolment("x").node_key)
    assert outside.ask(PULL, headers=[(KEY, stranger), (KEY, key)]).status == 401
    assert outside.ask(PULL, headers=[(KEY, key), (KEY, stranger)]).status == 200


def test_nodes_that_come_at_once_to_a_new_coordinator_are_all_known(outside: Outside) -> None:
    keys = [outside.admitted(f"h{number}") for number in range(5)]
    answers = [Answer() for _ in keys]

    async def come(key: bytes, answer: Answer) -> None:
        scope = {"type": "http", "method": "POST", "path": PULL, "headers": [(KEY, key)]}
        await outside.gateway(scope, Body(), answer)

    async def all_of_them() -> None:
        await asyncio.gather(*(come(key, answer) for key, answer in zip(keys, answers, strict=True)))

    asyncio.run(all_of_them())
    assert [answer.status for answer in answers] == [200] * 5


@pytest.mark.parametrize("version", [b"1", b"3", b"0", b"", b"2.0", b"two", b"\xff", b"2 "])
def test_another_version_of_the_protocol_is_said_before_all_else(outside: Outside, version: bytes) -> None:
    for key in (outside.admitted(), b""):
        body = Body(b"x")
        answer = outside.ask(PULL, body, [(KEY, key), (b"wardround-protocol", version)])
        assert (answer.status, body.asked, answer.hangs_up) == (426, 0, True)
        assert answer.said == {"detail": f"this coordinator speaks protocol {PROTOCOL}"}


def test_what_is_known_of_the_hospitals_stays_while_the_registry_cannot_be_read(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    key = outside.admitted()
    assert outside.ask(PULL, headers=[(KEY, key)]).status == 200

    def broken() -> list[Any]:
        raise WardroundError("coordinator.db: is damaged; restore a copy")

    monkeypatch.setattr(outside.registry, "hospitals", broken)
    outside.gateway._read_at = 0.0
    assert outside.ask(PULL, headers=[(KEY, key)]).status == 200
    assert "restore a copy" in log.text


# Lengths


@pytest.mark.parametrize(
    "length",
    [
        b"1073741824",
        b"1000000000000000000000",
        b"9" * 5000,
        b"-1",
        b"+5",
        b"",
        b"ten",
        b"1e3",
        b"0x10",
        b"\xb2",
    ],
)
def test_a_body_that_is_too_long_or_of_no_length_is_refused_when_it_is_announced(
    outside: Outside, length: bytes
) -> None:
    key = outside.admitted()
    for path in (*FLEET, ENROL):
        body = Body(b"x")
        answer = outside.ask(path, body, [(KEY, key), (b"content-length", length)])
        assert (answer.status, answer.hangs_up, body.asked) == (413, True, 0), path
    assert outside.inside.got == []


def test_a_body_of_its_route_s_length_passes_and_one_byte_more_does_not(outside: Outside) -> None:
    key, most = outside.admitted(), FLEET[PULL]
    piece = b"x" * (most // 4)
    for announced in ([], [(b"content-length", str(most).encode())]):
        assert outside.ask(PULL, Body(*[piece] * 4), [(KEY, key), *announced]).status == 200
        body = Body(*[piece] * 4, b"y", *[piece] * 100)
        assert outside.ask(PULL, body, [(KEY, key), *announced]).status == 413
        assert body.asked == 5
    assert outside.inside.got == [(PULL, piece * 4)] * 2


def test_a_body_that_ends_before_it_was_announced_reaches_nobody(outside: Outside) -> None:
    body = Body(b"x" * 10, ends=False)
    answer = outside.ask(PULL, body, [(KEY, outside.admitted()), (b"content-length", b"1000")])
    assert answer.status == 0
    assert outside.inside.got == []


@pytest.mark.parametrize("path", [PULL, ENROL])
def test_a_body_that_does_not_come_is_given_up(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    monkeypatch.setattr(module, "_BODY_S", 0.05)
    monkeypatch.setattr(module, "_SLOWEST", 1 << 30)
    key = outside.admitted()
    answer = outside.ask(path, Body(b"x", ends=False, stalls=True), [(KEY, key)])
    assert (answer.status, answer.hangs_up) == (408, True)
    assert outside.inside.got == []
    assert outside.ask(PULL, headers=[(KEY, key)]).status == 200


async def served(app: App, scope: Message, body: Body, answer: Answer) -> None:
    await app(scope, body, answer)


def test_flowers_app_is_handed_whole_bodies_inside_too() -> None:
    inside, answer = Inside(), Answer()
    app = bodies_whole(inside)
    scope: dict[str, Any] = {"type": "http", "path": "/x", "headers": []}
    asyncio.run(served(app, scope, Body(b"a", b"b", b"c"), answer))
    assert (inside.got, answer.status) == ([("/x", b"abc")], 200)
    answer, body = Answer(), Body(b"x")
    asyncio.run(served(app, {**scope, "headers": [(b"content-length", b"1073741824")]}, body, answer))
    assert (answer.status, body.asked) == (413, 0)


# Enrolments


def secret_free(text: str, token: str) -> bool:
    return token not in text and "PRIVATE" not in text and "Traceback" not in text


def test_an_enrolment_is_taken_and_taken_again_since_its_reply_may_be_lost(
    outside: Outside, log: pytest.LogCaptureFixture
) -> None:
    token, one = outside.registry.invite("north", int(NOW) + 60, NOW), enrolment()
    for _ in range(2):
        answer = outside.enrol(EnrolmentRequest(one, token).to_json())
        assert answer.status == 200
        EnrolmentReply.from_json(answer.body).check(one)
    assert [one.state for one in outside.registry.hospitals()] == ["admitted"]
    assert secret_free(log.text, token)
    assert outside.ask(PULL, headers=[(KEY, b64encode(one.node_key))]).status == 200


def test_each_refusal_has_its_status_and_its_code_and_leaves_the_token(
    outside: Outside, log: pytest.LogCaptureFixture
) -> None:
    token, honest = outside.registry.invite("north", int(NOW) + 60, NOW), enrolment()
    other = outside.registry.invite("south", int(NOW) + 60, NOW)
    forged = json.loads(EnrolmentRequest(honest, token).to_json())
    signature = "A" * len(forged["enrolment"]["identity_signature"][:-2]) + "=="
    forged["enrolment"]["identity_signature"] = signature
    said = json.loads(EnrolmentRequest(honest, token).to_json())
    cases = [
        (EnrolmentRequest(honest, "A" * 43).to_json(), 401, "token_unknown"),
        (EnrolmentRequest(honest, other).to_json(), 403, "name_other"),
        (json.dumps(forged).encode(), 400, "bad_signature"),
        (json.dumps(said | {"protocol": PROTOCOL + 1}).encode(), 426, "protocol"),
    ]
    for content, status, code in cases:
        answer = outside.enrol(content)
        assert (answer.status, EnrolmentReply.from_json(answer.body).code) == (status, code)
    assert outside.enrol(EnrolmentRequest(honest, token).to_json()).status == 200
    answer = outside.enrol(EnrolmentRequest(enrolment(), token).to_json())
    assert (answer.status, EnrolmentReply.from_json(answer.body).code) == (409, "token_used")
    again = outside.registry.invite("north", int(NOW) + 60, NOW, again=True)
    answer = outside.enrol(EnrolmentRequest(enrolment(), again).to_json())
    assert (answer.status, EnrolmentReply.from_json(answer.body).code) == (409, "name_taken")
    assert outside.enrol(EnrolmentRequest(honest, again).to_json()).status == 200
    outside.registry.revoke("north")
    late = outside.registry.invite("north", int(NOW) + 60, NOW)
    answer = outside.enrol(EnrolmentRequest(honest, late).to_json())
    assert (answer.status, EnrolmentReply.from_json(answer.body).code) == (409, "key_taken")
    outside.now += 61
    answer = outside.enrol(EnrolmentRequest(enrolment(), late).to_json())
    assert (answer.status, EnrolmentReply.from_json(answer.body).code) == (410, "token_expired")
    for secret in (token, other, again, late):
        assert secret_free(log.text, secret)


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"null", 400),
        (b"[" * 8000, 400),
        (b"\xff\xfe{}", 400),
        (b'{"enrolment": {}, "protocol": 2, "token": "' + b"A" * 43 + b'"}', 400),
        (b'{"protocol": 2, "protocol": 2}', 400),
        (b'{"protocol": NaN}', 400),
        (b'{"protocol": 1}', 426),
        (b"x" * 9000, 400),
        (b"x" * (1 << 20), 413),
    ],
    ids=lambda value: str(value)[:24],
)
def test_what_is_no_enrolment_is_refused(
    outside: Outside, content: bytes, status: int, log: pytest.LogCaptureFixture
) -> None:
    assert outside.enrol(content).status == status
    assert outside.registry.hospitals() == []
    assert "Traceback" not in log.text


def test_after_too_many_refused_enrolments_there_is_a_minutes_pause(outside: Outside) -> None:
    token, one = outside.registry.invite("north", int(NOW) + 600, NOW), enrolment()
    honest = EnrolmentRequest(one, token).to_json()
    for _ in range(module._TRIES):
        assert outside.enrol(b"garbage").status == 400
    for _ in range(3):
        answer = outside.enrol(honest)
        assert (answer.status, answer.hangs_up) == (429, True)
        assert "wait a minute" in answer.said["detail"]
    assert outside.ask(HELLO, method="GET").status == 200
    outside.now += 59
    assert outside.enrol(honest).status == 429
    outside.now += 2
    assert outside.enrol(honest).status == 200


def test_a_clock_that_is_set_back_does_not_close_the_door_for_long(outside: Outside) -> None:
    for _ in range(module._TRIES):
        outside.enrol(b"garbage")
    outside.now -= 86_400
    assert outside.enrol(b"garbage").status == 400


def test_a_registry_that_cannot_be_written_is_no_refusal(
    outside: Outside, monkeypatch: pytest.MonkeyPatch, log: pytest.LogCaptureFixture
) -> None:
    token, one = outside.registry.invite("north", int(NOW) + 60, NOW), enrolment()
    honest = EnrolmentRequest(one, token).to_json()

    def full(*_: Any) -> None:
        raise WardroundError("coordinator.db: cannot be written, the disk is full; make room and try again")

    with monkeypatch.context() as patch:
        patch.setattr(outside.registry, "enrol", full)
        for _ in range(module._TRIES + 1):
            assert outside.enrol(honest).status == 503
    assert "make room" in log.text
    assert secret_free(log.text, token)
    assert outside.enrol(honest).status == 200


def test_hello_says_name_version_and_time_and_nothing_else(outside: Outside) -> None:
    outside.admitted()
    said = outside.ask(HELLO, method="GET").said
    assert said.keys() == {"coordinator", "wardround", "protocol", "time"}
    assert (said["coordinator"], said["protocol"], said["time"]) == ("test", PROTOCOL, NOW)


# On a socket


class Listening:
    """The filter behind its TLS listener, in a thread."""

    def __init__(self, home: CoordinatorHome, port: int) -> None:
        self.home, self.port = home, port

    def connected(self, context: ssl.SSLContext | None = None) -> ssl.SSLSocket:
        raw = socket.create_connection(("127.0.0.1", self.port), 5)
        here = (context or trusting(self.home.ca_file.read_text())).wrap_socket(
            raw, server_hostname="localhost", do_handshake_on_connect=False
        )
        try:
            here.do_handshake()
        except BaseException:
            here.close()
            raise
        return here

    def says(self, request: bytes) -> bytes:
        with closing(self.connected()) as here:
            here.sendall(request)
            return read(here)

    def hello(self) -> bool:
        return b" 200 OK" in self.says(
            b"GET /wardround/hello HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"
        )


def read(here: socket.socket) -> bytes:
    """Return all that comes until the other side hangs up."""
    parts = []
    try:
        while part := here.recv(1 << 16):
            parts.append(part)
    except (ConnectionError, ssl.SSLError):
        pass
    return b"".join(parts)


@contextmanager
def serving(home: CoordinatorHome, app: Any) -> Iterator[Listening]:
    listener = superlink.bound("127.0.0.1", 0)
    server = superlink._server(app, home, "off")
    thread = threading.Thread(target=lambda: asyncio.run(server.serve([listener])))
    thread.start()
    try:
        yield Listening(home, listener.getsockname()[1])
    finally:
        server.should_exit = True
        thread.join(10)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def listening(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Listening]:
    home = make_home(tmp_path_factory.mktemp("home"), "test", "localhost:8443", None, 9091)
    app = Gateway(Inside(), home.registry, "test", KEY.decode())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(superlink, "_HEAD_S", 0.5)
        with serving(home, app) as found:
            yield found
    home.registry.close()


def request(*headers: bytes, path: bytes = PULL.encode(), body: bytes = b"") -> bytes:
    return b"\r\n".join([b"POST " + path + b" HTTP/1.1", b"host: a", *headers, b"", body])


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (request(b"content-length: 1073741824"), b" 401 "),
        (request(b"content-length: 1073741824", path=ENROL.encode()), b" 413 "),
        (request(b"content-length: 1048576", path=ENROL.encode(), body=b"x" * 1000), b" 413 "),
        (request(b"content-length: -1"), b" 400 "),
        (request(b"content-length: ten"), b" 400 "),
        (request(b"content-length: 99999999999999999999999"), b" 400 "),
        (request(b"content-length: 1", b"content-length: 2"), b" 400 "),
        (request(b"content-length: 1", CHUNKED), b" 400 "),
        (request(CHUNKED, path=ENROL.encode(), body=b"5000\r\n" + b"x" * 0x5000), b" 413 "),
        (request(CHUNKED, path=ENROL.encode(), body=b"zz\r\n"), b" 400 "),
        (b"garbage\r\n\r\n", b" 400 "),
        (bytes(range(256)), b" 400 "),
        (b"GET /wardround%2Fhello HTTP/1.1\r\nhost: a\r\n\r\n", b" 404 "),
        (b"GET /openapi.json HTTP/1.1\r\nhost: a\r\n\r\n", b" 404 "),
        (b"OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", b" 404 "),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b" 400 "),
    ],
    ids=lambda value: str(value)[:60],
)  # fmt: skip
def test_bytes_that_are_no_request_of_ours_get_a_short_no(
    listening: Listening, sent: bytes, status: bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    said = listening.says(sent)
    assert status in said.partition(b"\r\n")[0], said
    assert b"Traceback" not in said
    assert len(said) < 400
    assert listening.hello()
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    "begun",
    [b"", b"POST /wardround/enrol HT", b"GET /wardround/hello HTTP/1.1\r\nhost: a\r\nx-slow: "],
    ids=["nothing", "half a line", "half its headers"],
)
def test_who_never_ends_its_headers_blocks_nobody_and_is_hung_up(listening: Listening, begun: bytes) -> None:
    with closing(listening.connected()) as slow:
        slow.sendall(begun)
        assert listening.hello()
        at = time.monotonic()
        assert read(slow) == b""
        assert time.monotonic() - at < 3


def test_headers_without_end_are_not_kept_in_memory(listening: Listening) -> None:
    with closing(listening.connected()) as here:
        sent = 0
        try:
            here.sendall(b"GET /wardround/hello HTTP/1.1\r\nx-long: ")
            while sent < 64 << 20:
                sent += here.send(b"x" * (1 << 16))
        except (ConnectionError, ssl.SSLError):
            pass
        assert sent < 32 << 20
    assert listening.hello()


def test_a_connection_that_stays_may_ask_again_after_a_while(listening: Listening) -> None:
    ask = b"GET /wardround/hello HTTP/1.1\r\nhost: a\r\n\r\n"
    with closing(listening.connected()) as here:
        for _ in range(3):
            here.sendall(ask[:20])
            time.sleep(0.05)
            here.sendall(ask[20:])
            said = b""
            while not said.endswith(b"}"):
                said += here.recv(4096)
            assert b" 200 OK" in said
            time.sleep(0.7)  # longer than headers may take


def test_who_announces_a_body_and_hangs_up_leaves_nothing(listening: Listening) -> None:
    for _ in range(20):
        with closing(listening.connected()) as here:
            here.sendall(request(b"content-length: 1000", path=ENROL.encode(), body=b"x"))
    assert listening.hello()


def test_tls_1_2_plain_http_and_garbage_are_no_way_in(listening: Listening) -> None:
    old = trusting(listening.home.ca_file.read_text())
    old.minimum_version = ssl.TLSVersion.TLSv1_2
    with closing(listening.connected(old)) as here:
        assert here.version() == "TLSv1.3"
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        listening.connected(old)
    for sent in (
        b"GET /wardround/hello HTTP/1.1\r\nhost: a\r\n\r\n",
        bytes(range(256)),
        b"\x16\x03\x01\xff\xff",
    ):
        with socket.create_connection(("127.0.0.1", listening.port), 5) as raw:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            assert b"HTTP" not in read(raw)
    assert listening.hello()
