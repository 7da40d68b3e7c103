"""The officer's desk in a real browser: headless Chromium, driven by its DevTools protocol.

What only a browser shows: that its Origin and Sec-Fetch-Site are what the desk expects, that the pages keep
to their own content policy, and that they fit a telephone. Set WARDROUND_SHOTS to a folder for pictures.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

from tests.unit.test_desk import HOSTILE, Desk, hold, offer, state, table, wards
from wardround_client.approval import approve
from wardround_client.home import HospitalHome, make_home
from wardround_client.ledger import Charge
from wardround_client.store import RELEASED

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
QUIET = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--remote-debugging-port=0", "--no-proxy-server"),
)

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")]


class Browser:
    """One tab. Every message of the protocol is answered before the next is sent; events are kept."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._number, self._session = connection, 0, ""
        self.told: list[dict[str, Any]] = []
        target = self.say("Target.createTarget", url="about:blank")["targetId"]
        attached = self.say("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.say(f"{domain}.enable")

    def say(self, method: str, **params: Any) -> dict[str, Any]:
        self._number += 1
        session = {"sessionId": self._session} if self._session else {}
        self._connection.send(json.dumps({"id": self._number, "method": method, "params": params, **session}))
        while True:
            message = self._next()
            if message.get("id") == self._number:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found

    def _next(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self._connection.recv(timeout=30))
        if "method" in message:
            self.told.append(message)
        return message

    def _loaded(self, since: int) -> None:
        until = time.monotonic() + 30
        while not any(one["method"] == "Page.loadEventFired" for one in self.told[since:]):
            assert time.monotonic() < until
            self._next()

    def go(self, url: str) -> None:
        since = len(self.told)
        self.say("Page.navigate", url=url)
        self._loaded(since)

    def press(self, selector: str) -> None:
        """Press what a selector finds, and wait for the page to which it leads."""
        since = len(self.told)
        self.run(f"document.querySelector({json.dumps(selector)}).click()")
        self._loaded(since)

    def run(self, expression: str) -> Any:
        found = self.say("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def look(self, width: int, scheme: str) -> None:
        """Take on a screen's width in CSS pixels, and a colour scheme."""
        self.say(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=900,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        self.say("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])

    def shot(self, name: str) -> None:
        if "WARDROUND_SHOTS" in os.environ:
            data = self.say("Page.captureScreenshot", captureBeyondViewport=True)["data"]
            (Path(os.environ["WARDROUND_SHOTS"]) / f"{name}.png").write_bytes(base64.b64decode(data))

    @property
    def text(self) -> str:
        return str(self.run("document.body.innerText"))

    @property
    def complaints(self) -> list[str]:
        """What the browser complained of: refused by the content policy, or failed."""
        return [
            one["params"]["entry"]["text"]
            for one in self.told
            if one["method"] == "Log.entryAdded" and one["params"]["entry"]["level"] == "error"
        ]

    def sent(self, part: str) -> list[dict[str, str]]:
        """Return the headers of requests as they really went out, where one holds ``part``."""
        found = [
            {key.lower(): value for key, value in one["params"]["headers"].items()}
            for one in self.told
            if one["method"] == "Network.requestWillBeSentExtraInfo"
        ]
        return [headers for headers in found if part in headers]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClientConnection]:
    folder = tmp_path_factory.mktemp("chromium")
    assert BROWSER is not None
    sandbox = ["--no-sandbox"] if os.geteuid() == 0 else []  # which Chromium asks of root
    command = [BROWSER, *QUIET, *sandbox, f"--user-data-dir={folder}", "about:blank"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        said = folder / "DevToolsActivePort"
        until = time.monotonic() + 30
        while not said.exists() or said.read_text().count("\n") < 1:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.05)
        port, path = said.read_text().split()[:2]
        with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, proxy=None) as connection:
            yield connection
            connection.send(json.dumps({"id": 0, "method": "Browser.close"}))
            process.wait(10)
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def browser(chromium: ClientConnection) -> Browser:
    return Browser(chromium)


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


def test_an_officer_comes_in_reads_approves_and_closes(
    browser: Browser, desk: Desk, home: HospitalHome
) -> None:
    study = wards()
    path = offer(home, study)
    browser.go(f"{desk.url}/enter?token={desk.token}")
    assert browser.run("location.href") == f"{desk.url}/"
    assert browser.run("document.cookie") == ""  # no script can read it
    assert browser.run("document.styleSheets.length") == 1
    browser.press(".card a")
    assert browser.run("location.pathname") == path
    browser.press(f'form[action="{path}/approve"] button')
    assert browser.run("location.href") == f"{desk.url}{path}?said=approve"
    assert "The rows are pinned" in browser.text
    assert state(home, study) == "approved"
    posted = browser.sent("origin")
    assert {one["origin"] for one in posted} == {desk.url}
    assert {one["sec-fetch-site"] for one in posted} == {"same-origin"}
    browser.press('form[action="/close"] button')
    assert "The desk is closed" in browser.text
    assert browser.complaints == []
    desk.thread.join(10)
    assert not desk.thread.is_alive()


def test_hostile_texts_do_nothing_in_a_browser(browser: Browser, desk: Desk, home: HospitalHome) -> None:
    path = offer(home, wards(title=HOSTILE, question=HOSTILE * 20))
    browser.go(f"{desk.url}/enter?token={desk.token}")
    browser.go(f"{desk.url}{path}")
    assert browser.run("document.scripts.length + document.images.length") == 0
    assert not any(one["method"] == "Page.javascriptDialogOpening" for one in browser.told)
    assert "<script>alert(1)</script>" in browser.text


def test_the_content_policy_holds_in_a_browser(browser: Browser, desk: Desk) -> None:
    browser.go(f"{desk.url}/enter?token={desk.token}")
    browser.run(
        "for (const [tag, key] of [['script', 'src'], ['img', 'src'], ['iframe', 'src']]) {"
        " const one = document.createElement(tag); one[key] = '/style.css'; document.body.append(one); }"
    )
    until = time.monotonic() + 10
    while len(browser.complaints) < 3:
        assert time.monotonic() < until
        browser.run("0")
    assert all("Content Security Policy" in one for one in browser.complaints[:3])


def test_another_page_can_neither_frame_it_nor_post_to_it(
    browser: Browser, desk: Desk, home: HospitalHome
) -> None:
    study = wards()
    path = offer(home, study)
    browser.go(f"{desk.url}/enter?token={desk.token}")
    form = f'<form method="post" action="{desk.url}{path}/reject"><input name="why" value="x"></form>'
    browser.go(f"data:text/html,{form}<iframe src='{desk.url}/'></iframe>")
    since = len(browser.told)
    browser.run("document.forms[0].submit()")
    browser._loaded(since)
    assert "Forbidden" in browser.text
    assert state(home, study) == "offered"


def filled(home: HospitalHome) -> dict[str, str]:
    """Fill a home with studies in all states; return its pages by name."""
    kept = wards(name="kept", title="Ten years of ward admissions, by age")
    approve(home, kept)
    hold(home, kept)
    charge = Charge(
        *(b"b", "summary", 0, "counts", 1200, 200, ("north", "south", "west")),
        study=kept.digest,
        fields=("n[2]", "observed[2]"),
        at=1_790_000_000.0,
    )
    home.store.keep(b"e", bytes(32), b"sealed", charge, kept.name)
    home.store.meet("south", bytes(32))
    near = wards(
        name="nearly-the-same",
        title="W" * 300,
        question="Does age at admission matter for falling ill? " * 5,
        asked_by="A. Person, University of Somewhere",
        cohort={"where": "age > 20"},
    )
    weak = wards(name="weak", title="\u05d0\u05d1\u05d2 right to left", privacy={"min_hospitals": 2})
    return {
        "review": offer(home, wards()),
        "near": offer(home, near),
        "refused": offer(home, weak),
        "approved": offer(home, kept),
        "releases": f"/studies/{kept.digest.hex()}/releases",
        "ledger": "/ledger",
        "entries": f"/ledger/{kept.digest.hex()}/2026-09",
        "studies": "/",
        "missing": "/none",
    }


@pytest.mark.parametrize("width", [320, 390, 1280])
def test_no_page_is_wider_than_its_screen(
    browser: Browser, desk: Desk, home: HospitalHome, width: int
) -> None:
    pages = filled(home)
    browser.go(f"{desk.url}/enter?token={desk.token}")
    for scheme in ("light", "dark"):
        browser.look(width, scheme)
        for name, path in pages.items():
            browser.go(f"{desk.url}{path}")
            assert browser.run("document.documentElement.scrollWidth") <= width, name
            small = (
                "[...document.querySelectorAll('main button, main textarea, main input:not([type=hidden])')]"
            )
            low = browser.run(f"{small}.filter(one => one.offsetHeight && one.offsetHeight < 22).length")
            assert low == 0, name  # WCAG 2.2: 24 by 24 with its margin
            browser.shot(f"{name}-{width}-{scheme}")
    ground = browser.run("getComputedStyle(document.documentElement).backgroundColor")
    assert ground == "rgb(20, 25, 31)"


def test_a_release_is_let_go_by_its_button(browser: Browser, desk: Desk, home: HospitalHome) -> None:
    study = wards()
    approve(home, study)
    path = offer(home, study)
    hold(home, study)
    browser.go(f"{desk.url}/enter?token={desk.token}")
    browser.go(f"{desk.url}{path}/releases")
    browser.press("button[value=released]")
    assert "Let go" in browser.text
    assert sorted(one.says for one in home.store.held(study.digest)) == ["", RELEASED]
