"""The officer's desk: who gets in, what it answers to others, and what a decision on it does.

The real server on loopback, real homes, tables and approvals.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
from jinja2 import Environment

from wardround_client.approval import approve, pinned_cohort
from wardround_client.desk import pages as pages_module
from wardround_client.desk import server as server_module
from wardround_client.desk.command import desk_command
from wardround_client.desk.door import GUESSED, MOST_FAILED, NOBODY, TIME, TOKEN_S, Denied, Door
from wardround_client.desk.guard import MOST_BODY, Guard
from wardround_client.desk.pages import Pages, denied
from wardround_client.desk.server import DeskServer, listen
from wardround_client.home import HospitalHome, make_home
from wardround_client.ledger import Charge
from wardround_client.store import APPROVED, REFUSED, RELEASED
from wardround_common.errors import WardroundError
from wardround_common.home import locked
from wardround_common.plan import study_program
from wardround_common.study import Study, parse_study
from wardround_common.wire import encode
from wardround_server.strategies import flower

ROWS = 200
HOSTILE = "<script>alert(1)</script><img src=x onerror=alert(2)>\u202edesrever\u2066\u0000 \"'>{{ 7*7 }}"
WHERE = "sec-fetch-site"


def wards(**changes: Any) -> Study:
    return parse_study(
        {
            "wardround": 1,
            "name": "wards",
            "title": "Who falls ill",
            "variables": {
                "age": {"kind": "number", "range": [18, 100]},
                "ill": {"kind": "category", "levels": ["0", "1"]},
            },
            "outcome": "ill",
            "analyses": [{"kind": "summary"}, {"kind": "logistic", "ridge": 1}],
            **changes,
        }
    )


def table(rows: int = ROWS, first: int = 0) -> str:
    lines = [f"p{i},{20 + (i * 13) % 70},{i * 7 % 3 % 2}" for i in range(first, first + rows)]
    return "\n".join(["id,age,ill", *lines, ""])


def offer(home: HospitalHome, study: Study) -> str:
    home.store.offer(study.digest, study.name, study.manifest())
    return f"/studies/{study.digest.hex()}"


class Desk:
    """A desk that runs in a thread, and a browser's part: cookies, Origin, and forms as they were got."""

    def __init__(self, home: HospitalHome, clock: Any = time.monotonic) -> None:
        self.home, self.listener = home, listen(0)
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.door = Door(20, clock)
        self.server = DeskServer(Guard(Pages(home, self.door).app(), self.door, self.port, denied), self.door)
        self.thread = threading.Thread(target=lambda: self.server.run(sockets=[self.listener]))
        self.client = httpx.Client(base_url=self.url, trust_env=False, timeout=30)

    def __enter__(self) -> Desk:
        self.token = self.door.token()
        self.thread.start()
        until = time.monotonic() + 10
        while not self.server.started:
            assert time.monotonic() < until
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()
        self.door.close()
        self.thread.join(20)
        assert not self.thread.is_alive()

    def enter(self) -> Desk:
        found = self.client.get("/enter", params={"token": self.token})
        assert (found.status_code, found.headers["location"]) == (303, "/")
        return self

    def get(self, path: str, status: int = 200) -> str:
        found = self.client.get(path)
        assert found.status_code == status, found.text
        return found.text

    def fields(self, page: str, action: str) -> dict[str, list[str]]:
        """Return the fields of a form that a page holds."""
        forms = Forms()
        forms.feed(page)
        return forms.found[action]

    def post(self, action: str, fields: dict[str, Any], **headers: str) -> httpx.Response:
        return self.client.post(action, data=fields, headers={"origin": self.url, **headers})

    def decide(self, path: str, verb: str, **more: Any) -> httpx.Response:
        """Load a study's page and post one of its forms."""
        fields = self.fields(self.get(path), f"{path}/{verb}")
        return self.post(f"{path}/{verb}", {**fields, **more})

    def raw(self, *lines: str, body: bytes = b"", wait: float = 10.0) -> bytes:
        """Send bytes as they are; return all that comes back until the other side hangs up."""
        with closing(socket.create_connection(("127.0.0.1", self.port), timeout=wait)) as connection:
            connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1") + body)
            found = b""
            while piece := connection.recv(65536):
                found += piece
            return found

    @property
    def session(self) -> str:
        return "; ".join(f"{one.name}={one.value}" for one in self.client.cookies.jar)


class Forms(HTMLParser):
    """The forms of a page by action: their inputs' names and values. Also all tags and attributes."""

    def __init__(self) -> None:
        super().__init__()
        self.found: dict[str, dict[str, list[str]]] = {}
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self._form: dict[str, list[str]] = {}

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags.append((tag, told))
        if tag == "form":
            self._form = self.found.setdefault(str(told["action"]), {})
        if tag == "input" and told.get("type") == "hidden":
            self._form.setdefault(str(told["name"]), []).append(str(told["value"]))


@pytest.fixture
def home(tmp_path: Path) -> Iterator[HospitalHome]:
    file = tmp_path / "patients.csv"
    file.write_text(table())
    made = make_home(tmp_path / "home", "north", file)
    yield made
    made.store.close()


@pytest.fixture
def desk(home: HospitalHome) -> Iterator[Desk]:
    with Desk(home) as found:
        yield found


def state(home: HospitalHome, study: Study) -> str:
    record = home.store.study(study.digest)
    assert record is not None
    return record.state


# Getting in


def test_the_url_opens_one_session_and_leads_away_from_its_token(desk: Desk) -> None:
    found = desk.client.get("/enter", params={"token": desk.token})
    assert (found.status_code, found.headers["location"], found.text) == (303, "/", "")
    assert found.headers["referrer-policy"] == "no-referrer"
    cookie = found.headers["set-cookie"]
    assert re.fullmatch(
        r"desk-[0-9a-f]{16}=[\w-]{43}; HttpOnly; SameSite=Strict; Path=/; Max-Age=1200", cookie
    )
    assert desk.token not in cookie
    assert "No study was offered" in desk.get("/")


def test_a_token_has_256_bits_and_is_not_kept() -> None:
    door = Door(1)
    token = door.token()
    session = door.enter(token)
    assert len(token) == len(session) == 43
    assert token != session
    assert not any(secret in repr(vars(door)) for secret in (token, session))


def test_a_token_serves_once(desk: Desk) -> None:
    desk.enter()
    again = httpx.get(f"{desk.url}/enter", params={"token": desk.token}, trust_env=False)
    assert again.status_code == 403
    assert "set-cookie" not in again.headers
    desk.get("/")  # the session that it opened goes on


def test_a_token_is_dead_after_five_minutes_and_the_desk_with_it() -> None:
    now = [0.0]
    door = Door(60, lambda: now[0])
    token = door.token()
    now[0] = TOKEN_S - 1
    assert not door.over()
    now[0] = TOKEN_S
    assert door.over() == NOBODY
    with pytest.raises(Denied):
        door.enter(token)


def test_a_session_ends_after_its_minutes() -> None:
    now = [0.0]
    door = Door(20, lambda: now[0])
    cookie = f"a=b; {door.cookie}={door.enter(door.token())}"
    now[0] = 1199.0
    assert door.knows(cookie)
    now[0] = 1200.0
    assert not door.knows(cookie)
    assert door.over() == TIME


def test_the_desk_stops_itself_when_its_time_is_over(home: HospitalHome) -> None:
    now = [0.0]
    with Desk(home, lambda: now[0]) as desk:
        desk.enter()
        now[0] = 1200.0
        desk.thread.join(10)
        assert not desk.thread.is_alive()


def test_the_desk_stops_itself_after_a_few_wrong_tokens(desk: Desk) -> None:
    for number in range(MOST_FAILED):
        found = httpx.get(f"{desk.url}/enter", params={"token": f"no{number}"}, trust_env=False)
        assert found.status_code == 403
    desk.thread.join(10)
    assert not desk.thread.is_alive()
    assert desk.door.over() == GUESSED
    with pytest.raises(Denied):
        desk.door.enter(desk.token)


@pytest.mark.parametrize("query", ["", "token=", "token=a&token=b", "token=%ff", "a=1&b=2&c=3&d=4&e=5"])
def test_no_other_query_opens_it(desk: Desk, query: str) -> None:
    found = httpx.get(f"{desk.url}/enter?{query}", trust_env=False)
    assert (found.status_code, "set-cookie" in found.headers) == (403, False)


@pytest.mark.parametrize("path", ["/", "/ledger", "/studies/" + 64 * "0", "/close", "/none"])
@pytest.mark.parametrize("cookie", ["", "desk-0000000000000000=x", "NAME=", "NAME=wrong", "NAME"])
def test_without_the_session_there_is_nothing(desk: Desk, path: str, cookie: str) -> None:
    desk.enter()
    headers = {"cookie": cookie.replace("NAME", desk.door.cookie)}
    found = httpx.get(f"{desk.url}{path}", headers=headers, trust_env=False)
    assert found.status_code == 403
    assert "north" not in found.text


def test_close_ends_session_and_desk(desk: Desk) -> None:
    desk.enter()
    fields = desk.fields(desk.get("/"), "/close")
    cookie = desk.session
    assert "The desk is closed" in desk.post("/close", fields).text
    assert not desk.door.knows(cookie)
    desk.thread.join(10)
    assert not desk.thread.is_alive()


def test_two_desks_have_cookies_of_different_names() -> None:
    assert Door(1).cookie != Door(1).cookie


# Who asks


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1", "localhost", "127.0.0.1:1", "127.0.0.1:PORT.evil", "[::1]:PORT", ""]
)
def test_another_host_is_misdirected(desk: Desk, host: str) -> None:
    desk.enter()
    host = host.replace("PORT", str(desk.port))
    found = desk.raw("GET / HTTP/1.1", f"Host: {host}", f"Cookie: {desk.session}")
    assert found.startswith(b"HTTP/1.1 421 ")


def test_a_host_that_comes_twice_is_refused(desk: Desk) -> None:
    found = desk.raw("GET / HTTP/1.1", f"Host: 127.0.0.1:{desk.port}", "Host: evil.example")
    assert found.startswith(b"HTTP/1.1 400 ")


def test_localhost_is_its_own_name(desk: Desk) -> None:
    found = desk.client.get(
        "/enter", params={"token": desk.token}, headers={"host": f"localhost:{desk.port}"}
    )
    assert found.status_code == 303


def test_it_listens_on_loopback_alone(desk: Desk) -> None:
    assert desk.listener.getsockname()[0] == "127.0.0.1"
    with pytest.raises(OSError), closing(socket.create_connection(("127.0.0.2", desk.port), timeout=2)):
        pass


@pytest.mark.parametrize("site", ["cross-site", "same-site", "odd"])
def test_what_another_page_led_to_is_refused_and_does_not_use_up_the_token(desk: Desk, site: str) -> None:
    params = {"token": desk.token}
    assert desk.client.get("/enter", params=params, headers={WHERE: site}).status_code == 403
    desk.enter()
    assert desk.client.get("/", headers={WHERE: site}).status_code == 403
    assert desk.client.get("/", headers={WHERE: "same-origin"}).status_code == 200


@pytest.mark.parametrize("method", ["PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE"])
def test_no_other_method_is_known(desk: Desk, method: str) -> None:
    desk.enter()
    assert desk.client.request(method, "/").status_code == 405


# Forms


@pytest.mark.parametrize("verb", ["approve", "reject", "withdraw", "release"])
def test_nothing_changes_by_get(desk: Desk, home: HospitalHome, verb: str) -> None:
    study = wards()
    path = offer(home, study)
    fields = desk.fields(desk.enter().get(path), f"{path}/approve")
    assert desk.client.get(f"{path}/{verb}", params=fields).status_code == 405
    assert state(home, study) == "offered"


def test_a_form_needs_its_own_key(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    path = offer(home, study)
    page = desk.enter().get(path)
    mine, other = desk.fields(page, f"{path}/approve"), desk.fields(page, f"{path}/reject")
    wrong: list[dict[str, Any]] = [
        {**mine, "key": []},
        {**mine, "key": ""},
        {**mine, "key": "\u00e9"},
        {**mine, "key": 64 * "0"},
        {**mine, "key": other["key"]},
    ]
    for fields in wrong:
        assert desk.post(f"{path}/approve", fields).status_code == 403
    with Desk(home) as another:
        fields = another.fields(another.enter().get(path), f"{path}/approve")
    assert desk.post(f"{path}/approve", {**mine, "key": fields["key"]}).status_code == 403
    assert state(home, study) == "offered"
    assert desk.post(f"{path}/approve", mine).status_code == 303


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "http://127.0.0.1:1", "https://OWN"])
def test_a_form_from_elsewhere_is_refused(desk: Desk, home: HospitalHome, origin: str) -> None:
    study = wards()
    path = offer(home, study)
    fields = desk.fields(desk.enter().get(path), f"{path}/approve")
    sent = {"origin": origin.replace("OWN", f"127.0.0.1:{desk.port}")} if origin else {}
    assert desk.client.post(f"{path}/approve", data=fields, headers=sent).status_code == 403
    assert desk.post(f"{path}/approve", fields, **{WHERE: "same-site"}).status_code == 403
    assert state(home, study) == "offered"


@pytest.mark.parametrize(
    ("body", "kind", "status"),
    [
        (b"{}", "application/json", 415),
        (b"key=1", "multipart/form-data; boundary=x", 415),
        (b"key=1", "", 415),
        (b"", "application/x-www-form-urlencoded", 403),
        (b"nonsense", "application/x-www-form-urlencoded", 400),
        (b"key=%ff", "application/x-www-form-urlencoded", 400),
        (b"key=\xff", "application/x-www-form-urlencoded", 400),
        (b"a=1&" * 1001 + b"key=1", "application/x-www-form-urlencoded", 400),
        (b"key=" + MOST_BODY * b"x", "application/x-www-form-urlencoded", 413),
    ],
)
def test_what_is_no_form_is_refused(desk: Desk, body: bytes, kind: str, status: int) -> None:
    desk.enter()
    headers = {"origin": desk.url, "content-type": kind}
    assert desk.client.post("/close", content=body, headers=headers).status_code == status
    assert not desk.door.over()


def posting(desk: Desk, *more: str) -> tuple[str, ...]:
    return (
        "POST /close HTTP/1.1",
        f"Host: 127.0.0.1:{desk.port}",
        f"Cookie: {desk.session}",
        f"Origin: {desk.url}",
        "Content-Type: application/x-www-form-urlencoded",
        *more,
    )


def test_a_long_body_is_refused_before_it_is_read(desk: Desk) -> None:
    desk.enter()
    assert desk.raw(*posting(desk, f"Content-Length: {MOST_BODY + 1}")).startswith(b"HTTP/1.1 413 ")
    piece = f"{MOST_BODY + 1:x}\r\n".encode() + (MOST_BODY + 1) * b"x" + b"\r\n"
    assert desk.raw(*posting(desk, "Transfer-Encoding: chunked"), body=piece).startswith(b"HTTP/1.1 413 ")


def test_a_stranger_s_body_is_not_read_at_all(desk: Desk) -> None:
    desk.enter()
    lines = [one for one in posting(desk, "Content-Length: 1000") if not one.startswith("Cookie")]
    assert desk.raw(*lines).startswith(b"HTTP/1.1 403 ")


def test_who_is_slow_is_hung_up_on(home: HospitalHome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_S", 0.5)
    monkeypatch.setattr("wardround_client.desk.guard.BODY_S", 0.5)
    with Desk(home) as desk:
        desk.enter()
        began = time.monotonic()
        assert desk.raw(*posting(desk, "Content-Length: 10"), body=b"key").startswith(b"HTTP/1.1 408 ")
        for part in (b"", b"GET / HTTP/1.1\r\nHost: "):  # headers that do not come, or do not end
            with closing(socket.create_connection(("127.0.0.1", desk.port), timeout=10)) as slow:
                slow.sendall(part)
                with pytest.raises(ConnectionResetError):
                    raise ConnectionResetError if slow.recv(1) == b"" else AssertionError
        assert time.monotonic() - began < 5
        desk.get("/")


# What is answered


def test_every_answer_forbids_scripts_frames_and_keeping(desk: Desk, home: HospitalHome) -> None:
    path = offer(home, wards())
    stranger = httpx.get(desk.url, trust_env=False)
    desk.enter()
    answers = [stranger, *(desk.client.get(one) for one in ("/", path, "/ledger", "/style.css", "/none"))]
    answers += [desk.post(f"{path}/reject", {}), desk.client.get("/", headers={"host": "evil"})]
    for found in answers:
        policy = found.headers["content-security-policy"].split("; ")
        assert policy == [
            "default-src 'none'",
            "style-src 'self'",
            "form-action 'self'",
            "base-uri 'none'",
            "frame-ancestors 'none'",
        ]
        assert found.headers["cache-control"] == "no-store"
        assert found.headers["x-content-type-options"] == "nosniff"
        assert found.headers["x-frame-options"] == "DENY"
        assert found.headers["cross-origin-opener-policy"] == "same-origin"
        assert found.headers["cross-origin-resource-policy"] == "same-origin"
        assert found.headers["referrer-policy"] == "same-origin"
        assert "server" not in found.headers


def test_hostile_texts_are_only_text(desk: Desk, home: HospitalHome) -> None:
    study = wards(title=HOSTILE * 50, question=HOSTILE, asked_by=HOSTILE)
    path = offer(home, study)
    desk.enter()
    for page in (desk.get("/"), desk.get(path)):
        parsed = Forms()
        parsed.feed(page)
        tags = {tag for tag, _ in parsed.tags}
        assert not tags & {"script", "img", "iframe", "object", "base", "svg", "style"}
        names = {name for _, told in parsed.tags for name in told}
        assert not any(name.startswith("on") or name == "style" for name in names)
        assert all(letter.isprintable() or letter == "\n" for letter in page)
        assert "&lt;script&gt;" in page
        assert "{{ 7*7 }}" in page
        assert len(page) < 60_000
    assert desk.decide(path, "reject", why=HOSTILE).status_code == 303
    assert "<script" not in desk.get(path)


def test_every_value_is_escaped_and_no_template_says_otherwise() -> None:
    environment: Environment = pages_module._PAGES
    assert environment.autoescape is True
    folder = Path(pages_module.__file__).parent
    for file in folder.glob("*.j2"):
        text = file.read_text()
        assert not re.search(r"\|\s*safe|autoescape|<script|style=|\bon\w+=|https?:", text), file.name


def test_a_fault_of_the_program_is_a_page_without_its_text(
    desk: Desk, home: HospitalHome, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = offer(home, wards())

    def broken(*_: object) -> None:
        raise KeyError("patient 4711")

    desk.enter()
    monkeypatch.setattr(pages_module, "see", broken)
    page = desk.get(path, 500)
    assert "KeyError" in page
    until = time.monotonic() + 10
    while "KeyError" not in caplog.text:  # logged once the page was sent
        assert time.monotonic() < until
        time.sleep(0.01)
    assert "4711" not in page + caplog.text
    assert "Traceback" not in page + caplog.text
    desk.get("/")


def test_nothing_secret_is_logged(
    desk: Desk, home: HospitalHome, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    caplog.set_level(0)
    path = offer(home, wards())
    desk.enter()
    assert desk.decide(path, "reject", why="a reason of ours").status_code == 303
    desk.raw("NONSENSE", f"Cookie: {desk.session}")
    out, err = capfd.readouterr()
    told = out + err + "".join(r.getMessage() for r in caplog.records if not r.name.startswith("http"))
    secret = desk.session.partition("=")[2]
    assert not any(one in told for one in (desk.token, secret, "a reason of ours"))


@pytest.mark.parametrize(
    "path", ["/studies/zz", "/studies/" + 64 * "0", "/studies/%2e%2e%2f", "/%00", "/ledger/00/2026-01"]
)
def test_what_is_not_there_is_not_found(desk: Desk, path: str) -> None:
    desk.enter()
    assert "Traceback" not in desk.get(path, 404)


# Reading


def test_a_study_s_page_says_what_review_says(desk: Desk, home: HospitalHome) -> None:
    study = wards(question="Does age matter?", asked_by="A. Person", cohort={"where": "age >= 30"})
    path = offer(home, study)
    page = desk.enter().get(path)
    for told in (
        *("Does age matter?", "A. Person", study.digest.hex(), "age &gt;= 30", "patients.csv"),
        *("This hospital&#39;s policy allows it.", "What would leave", "plan: verified"),
    ):
        assert told in page, told
    rows = sum(20 + (i * 13) % 70 >= 30 for i in range(ROWS))
    assert f"<dd>{rows}</dd>" in page
    assert home.store.entries()[-1] == ("review", "wards", study.digest.hex())


def test_no_patient_s_value_is_on_any_page(desk: Desk, home: HospitalHome, tmp_path: Path) -> None:
    (tmp_path / "patients.csv").write_text(
        table().replace("p7,", "SECRET-ID,").replace(",41,", ",41.987654,")
    )
    study = wards()
    path = offer(home, study)
    desk.enter()
    told = desk.get(path)
    assert desk.decide(path, "approve").status_code == 303
    told += desk.get(path) + desk.get("/") + desk.get("/ledger")
    assert "SECRET-ID" not in told
    assert "41.987654" not in told


def test_tables_and_forms_are_labelled(desk: Desk, home: HospitalHome) -> None:
    path = offer(home, wards())
    page = desk.enter().get(path)
    parsed = Forms()
    parsed.feed(page)
    levels = [int(tag[1]) for tag, _ in parsed.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(after - before <= 1 for before, after in pairwise(levels))
    assert all(told.get("scope") in ("col", "row") for tag, told in parsed.tags if tag == "th")
    assert sum(tag == "table" for tag, _ in parsed.tags) == sum(tag == "caption" for tag, _ in parsed.tags)
    labels = {told.get("for") for tag, told in parsed.tags if tag == "label"}
    fields = [
        told for tag, told in parsed.tags if tag in ("input", "textarea") and told.get("type") != "hidden"
    ]
    assert fields and all(told["id"] in labels for told in fields)
    ids = [told["id"] for _, told in parsed.tags if "id" in told]
    assert len(ids) == len(set(ids))


def luminance(colour: str) -> float:
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_text_stands_out_from_its_ground(scheme: int) -> None:
    style = (Path(pages_module.__file__).parent / "style.css.j2").read_text()
    colours = dict(re.findall(r"--(\w+): (#\w{6});", re.findall(r":root \{(.*?)\}", style, re.S)[scheme]))
    grounds = ("paper", "pale", "good", "warn", "bad")
    pairs = [(ink, ground) for ink in ("ink", "soft", "blue") for ground in grounds]
    for ink, ground in [*pairs, ("on", "blue"), ("no", "paper")]:
        high, low = sorted((luminance(colours[ink]), luminance(colours[ground])), reverse=True)
        assert (high + 0.05) / (low + 0.05) >= 4.5, (ink, ground)


# Deciding


def test_approving_pins_the_rows_and_is_audited_with_who_did_it(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    path = offer(home, study)
    home.store.actor = "officer:ada (desk)"
    desk.enter()
    found = desk.decide(path, "approve")
    assert (found.status_code, found.headers["location"]) == (303, f"{path}?said=approve")
    record = home.store.study(study.digest)
    assert record is not None and record.state == APPROVED
    assert pinned_cohort(home, record).rows == ROWS
    last = home.store.log(lambda log: [one for _, one in log.entries()])[-1]
    assert (last.actor, last.event, last.study) == ("officer:ada (desk)", "approve", "wards")
    assert "The rows are pinned" in desk.get(found.headers["location"])


def test_approving_twice_begins_anew_only_from_the_page_that_says_so(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    path = offer(home, study)
    fields = desk.fields(desk.enter().get(path), f"{path}/approve")
    assert desk.post(f"{path}/approve", fields).status_code == 303
    first = home.store.study(study.digest)
    assert desk.post(f"{path}/approve", fields).status_code == 409  # sent again, as by a second press
    assert home.store.study(study.digest) == first
    assert desk.decide(path, "approve").status_code == 303
    again = home.store.study(study.digest)
    assert first is not None and again is not None and first.masking != again.masking


def test_what_changed_since_it_was_shown_is_shown_again(
    desk: Desk, home: HospitalHome, tmp_path: Path
) -> None:
    study = wards()
    path = offer(home, study)
    page = desk.enter().get(path)
    file = tmp_path / "patients.csv"
    file.write_text(table(ROWS + 5))
    found = desk.post(f"{path}/approve", desk.fields(page, f"{path}/approve"))
    assert found.status_code == 409
    assert "What changed since" in found.text
    assert re.search(r"<bdi>rows</bdi></th><td><bdi>200</bdi></td>\s*<td><bdi>205</bdi>", found.text)
    file.write_text(table(ROWS + 5).replace("p9,", "p9999,"))  # as many rows; another person
    found = desk.post(f"{path}/approve", desk.fields(found.text, f"{path}/approve"))
    assert found.status_code == 409
    assert "other cells, or other rows" in found.text
    home.policy_file.write_text(home.policy_file.read_text() + 'statements = ["metrics"]\n')
    found = desk.post(f"{path}/approve", desk.fields(found.text, f"{path}/approve"))
    assert found.status_code == 409
    assert "policy.toml: statements" in found.text
    assert state(home, study) == "offered"
    assert desk.post(f"{path}/approve", desk.fields(found.text, f"{path}/approve")).status_code == 303


@pytest.mark.parametrize("shown", ["", 64 * "0", "\u00e9"])
def test_an_approval_of_what_was_not_shown_is_refused(desk: Desk, home: HospitalHome, shown: str) -> None:
    study = wards()
    path = offer(home, study)
    desk.enter()
    assert desk.decide(path, "approve", shown=shown).status_code == 409
    assert state(home, study) == "offered"


def test_what_the_policy_refuses_can_t_be_approved(desk: Desk, home: HospitalHome) -> None:
    study = wards(privacy={"min_hospitals": 2})
    path = offer(home, study)
    page = desk.enter().get(path)
    assert "privacy.min_hospitals" in page
    assert '<button disabled aria-describedby="refused">Approve</button>' in page
    found = desk.decide(path, "approve")
    assert (found.status_code, state(home, study)) == (409, "offered")
    assert "min_hospitals" in found.text


def test_a_difference_is_accepted_by_its_own_tick(desk: Desk, home: HospitalHome) -> None:
    approve(home, wards())
    later = wards(name="older", cohort={"where": "age > 20"})  # all but the few of 20
    path = offer(home, later)
    page = desk.enter().get(path)
    boxes = page.count('type="checkbox"')
    assert boxes >= 1
    assert "would tell of 3 persons" in page
    assert "I accept this" in page
    found = desk.decide(path, "approve")
    assert (found.status_code, state(home, later)) == (409, "offered")
    assert "a difference was not accepted" in found.text
    found = desk.decide(path, "approve", accept=[str(number) for number in range(boxes)])
    assert (found.status_code, state(home, later)) == (303, APPROVED)
    assert ("accept difference", "older") in [(event, study) for event, study, _ in home.store.entries()]


def test_rejecting_needs_a_reason_that_stays_here(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    path = offer(home, study)
    desk.enter()
    assert desk.decide(path, "reject", why="  ").status_code == 409
    assert state(home, study) == "offered"
    assert desk.decide(path, "reject", why="no ethics vote yet").status_code == 303
    assert state(home, study) == "rejected"
    assert "no ethics vote yet" in desk.get(path)


def test_withdrawing(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    approve(home, study)
    path = offer(home, study)
    desk.enter()
    fields = desk.fields(desk.get(path), f"{path}/withdraw")
    assert desk.post(f"{path}/withdraw", {**fields, "why": "mistaken"}).status_code == 303
    assert state(home, study) == "withdrawn"
    assert desk.post(f"{path}/withdraw", fields).status_code == 409


def test_a_table_that_can_t_be_read_does_not_keep_from_rejecting(
    desk: Desk, home: HospitalHome, tmp_path: Path
) -> None:
    study = wards()
    path = offer(home, study)
    (tmp_path / "patients.csv").unlink()
    page = desk.enter().get(path)
    assert "be held against this hospital" in page
    assert f"{path}/approve" not in page
    assert desk.decide(path, "reject", why="no table").status_code == 303


def hold(home: HospitalHome, study: Study) -> list[bytes]:
    """Let the study's first two releases wait."""
    asked = next(study_program(study, flower))[0]
    contexts = [bytes([number]) * 32 for number in (1, 2)]
    for number, context in enumerate(contexts):
        home.store.hold(study, context, asked.analysis, number, encode(asked))
    return contexts


def test_releases_that_wait_are_decided_on_one_by_one(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    approve(home, study)
    path = offer(home, study)
    hold(home, study)
    desk.enter()
    assert re.search(r"2\s+releases wait", desk.get("/"))
    page = desk.get(f"{path}/releases")
    assert "may leave, sealed" in page
    fields = desk.fields(page, f"{path}/release")
    key, contexts = fields["key"][0], list(dict.fromkeys(fields["context"]))
    assert len(contexts) == 2
    found = desk.post(f"{path}/release", {"key": key, "context": contexts[0], "says": RELEASED})
    assert (found.status_code, found.headers["location"]) == (303, f"{path}/releases?said=released")
    found = desk.post(f"{path}/release", {"key": key, "context": contexts[1], "says": REFUSED})
    assert found.status_code == 303
    assert [one.says for one in home.store.held(study.digest)] == [RELEASED, REFUSED]
    assert [event for event, _, _ in home.store.entries()[-2:]] == ["let go", "refuse release"]
    found = desk.post(f"{path}/release", {"key": key, "context": contexts[1], "says": RELEASED})
    assert found.status_code == 409
    assert [one.says for one in home.store.held(study.digest)] == [RELEASED, REFUSED]


@pytest.mark.parametrize(
    "fields", [{"says": "maybe"}, {}, {"says": RELEASED}, {"says": RELEASED, "context": "x"}]
)
def test_a_release_is_not_decided_on_by_half_a_form(
    desk: Desk, home: HospitalHome, fields: dict[str, str]
) -> None:
    study = wards()
    approve(home, study)
    path = offer(home, study)
    hold(home, study)
    key = desk.fields(desk.enter().get(f"{path}/releases"), f"{path}/release")["key"][0]
    assert desk.post(f"{path}/release", {"key": key, **fields}).status_code in (400, 409)
    assert [one.says for one in home.store.held(study.digest)] == ["", ""]


def test_the_ledger_shows_what_left_by_study_and_month(desk: Desk, home: HospitalHome) -> None:
    study = wards()
    approve(home, study)
    for index, at in enumerate((1_790_000_000.0, 1_790_000_100.0, 1_795_000_000.0)):
        charge = Charge(
            *(b"b", "summary", index, "counts", 1200, ROWS, ("north", "south")),
            study=study.digest,
            fields=("n[2]",),
            at=at,
        )
        home.store.keep(b"e", bytes([index]) * 32, b"sealed", charge, study.name)
    desk.enter()
    page = desk.get("/ledger")
    links = re.findall(r'<a href="(/ledger/\w+/[\d-]+)"', page)
    assert [one[-7:] for one in links] == ["2026-09", "2026-11"]
    assert "2,400" in page
    entries = desk.get(links[0])
    assert "summary</bdi>/0" in entries and "summary</bdi>/1" in entries and "summary</bdi>/2" not in entries


# The command


@contextmanager
def running(home: HospitalHome, *options: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run the real command; yield it and the URL that it prints."""
    code = (
        "import typer; from wardround_client.desk.command import desk_command; "
        "app = typer.Typer(); app.command()(desk_command); app()"
    )
    command = [sys.executable, "-W", "ignore", "-c", code, "--home", str(home.path), *options]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("Open this once")
        yield process, process.stdout.readline().strip()
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_command_prints_the_url_and_ends_with_a_signal(home: HospitalHome, number: int) -> None:
    path = offer(home, wards())
    with running(home) as (process, url):
        assert re.fullmatch(r"http://127\.0\.0\.1:\d+/enter\?token=[\w-]{43}", url)
        with httpx.Client(
            trust_env=False, follow_redirects=True, base_url=url.partition("/enter")[0]
        ) as client:
            assert client.get(url).url.path == "/"
            page = client.get(path).text
            forms = Forms()
            forms.feed(page)
            client.headers["origin"] = url.partition("/enter")[0]
            assert (
                client.post(f"{path}/reject", data={**forms.found[f"{path}/reject"], "why": "x"}).status_code
                == 200
            )
        with pytest.raises(WardroundError, match="runs already"), locked(home.path / "desk.lock", "a desk"):
            pass
        process.send_signal(number)
        out, _ = process.communicate(timeout=20)
        assert (process.returncode, out) == (0, "The desk is closed: closed by its officer.\n")
    actors = {
        one.actor for _, one in home.store.log(lambda log: list(log.entries())) if one.event == "reject"
    }
    assert [one.endswith(" (desk)") and one.startswith("officer:") for one in actors] == [True]


def test_a_port_that_is_taken_is_named(home: HospitalHome) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(WardroundError, match=f"--port {port}: cannot be listened on"):
            listen(port)


def test_guessing_ends_the_command_with_an_error_and_is_audited(home: HospitalHome) -> None:
    with running(home) as (process, url):
        for number in range(MOST_FAILED):
            assert httpx.get(f"{url[:-3]}{number:03}", trust_env=False).status_code == 403
        out, _ = process.communicate(timeout=20)
        assert process.returncode != 0
        assert "find out who else uses this machine" in " ".join(out.split())
    assert home.store.entries()[-1] == ("desk", "", GUESSED)


def test_there_is_one_desk_at_a_home(home: HospitalHome) -> None:
    with running(home), pytest.raises(WardroundError, match="a desk runs already"):
        desk_command(home=home.path)
