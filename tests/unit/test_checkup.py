"""Findings are fit to be mailed, and whatever a check does ends in one."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from wardround_common.checkup import (
    Check,
    Finding,
    Skipped,
    examine,
    fine,
    note,
    private,
    read_hello,
    report,
    wrong,
)
from wardround_common.errors import WardroundError

DATE = "Wed, 25 Nov 2026 17:00:00 GMT"
HELLO = {"coordinator": "test", "wardround": "0.1.0", "protocol": 2, "time": 1e9}


def raising(error: Exception) -> Check:
    def look() -> Finding:
        raise error

    return Check("it", look)


def test_a_finding_holds_no_credentials_of_a_url() -> None:
    found = Finding("proxy", False, "http://anna:p@ss@proxy:3128 refuses", "see https://anna@proxy/x")
    assert found.said == "http://proxy:3128 refuses"
    assert found.todo == "see https://proxy/x"


def test_a_finding_is_one_line_that_a_terminal_does_not_obey() -> None:
    line = Finding("tls", False, "issued by \x1b[2J`CN=\u202eevil`\nok    all", "do\tthis").line()
    assert line == "FAIL  tls         issued by [2J`CN= evil` ok all -> do this"


def test_a_finding_is_not_longer_than_can_be_read() -> None:
    assert len(fine("x" * 10_000).said) < 1000


def test_a_check_that_needs_a_failed_one_is_skipped_and_so_are_those_behind_it() -> None:
    found = examine(
        [
            Check("dns", lambda: wrong("no such name")),
            Check("tcp", lambda: fine("never"), ("dns",)),
            Check("tls", lambda: fine("never"), ("tcp",)),
            Check("disk", lambda: note("little"), ()),
            Check("home", lambda: fine("there"), ("disk",)),
        ]
    )
    assert [(one.name, one.ok, one.said) for one in found] == [
        ("dns", False, "no such name"),
        ("tcp", None, "skipped: needs dns"),
        ("tls", None, "skipped: needs tcp"),
        ("disk", None, "little"),
        ("home", True, "there"),
    ]


def test_a_check_that_skips_itself_holds_up_those_behind_it() -> None:
    found = examine([raising(Skipped("a running node")), Check("next", lambda: fine("never"), ("it",))])
    assert [one.said for one in found] == ["skipped: needs a running node", "skipped: needs it"]
    assert {one.ok for one in found} == {None}


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (WardroundError("node.db: is damaged; restore it"), "node.db: is damaged; restore it"),
        (PermissionError(13, "Permission denied", "/x"), "Permission denied"),
        (TimeoutError("timed out"), "no answer in time"),
        (ValueError("patient 17 has crp 42"), "the check itself failed (ValueError)"),
    ],
)
def test_an_error_is_a_finding_and_an_unforeseen_one_is_not_quoted(error: Exception, said: str) -> None:
    (found,) = examine([raising(error)])
    assert (found.ok, found.said) == (False, said)


def test_a_check_that_hangs_is_given_up() -> None:
    begun = time.monotonic()
    found = examine(
        [
            Check("slow", lambda: [time.sleep(5), fine("late")][1], limit_s=0.1),
            Check("next", lambda: fine("x")),
        ]
    )
    assert time.monotonic() - begun < 2
    assert (found[0].ok, found[1].ok) == (False, True)


def test_a_report_fails_if_a_check_does_and_is_json_if_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([Check("a", lambda: fine("well")), Check("b", lambda: note("so so"))], as_json=True) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["ok"] is True
    assert said["findings"][1] == {"name": "b", "ok": None, "said": "so so", "todo": ""}
    assert (
        report([Check("a", lambda: fine("well")), Check("b", lambda: wrong("ill", "rest"))], as_json=False)
        == 2
    )
    assert capsys.readouterr().out.splitlines() == [
        "ok    a           well",
        "FAIL  b           ill -> rest",
        "1 of 2 checks failed.",
    ]


def test_a_file_that_others_can_read_is_named_with_the_command_that_mends_it(tmp_path: Path) -> None:
    tmp_path.chmod(0o700)
    key = tmp_path / "a key"
    key.touch(0o600)
    assert private([tmp_path], [key, tmp_path / "none"]).ok
    key.chmod(0o640)
    found = private([tmp_path], [key])
    assert found.ok is False
    assert "a key (mode 0640)" in found.said
    assert found.todo.endswith(f"chmod 600 '{key}'")


def test_a_hello_tells_the_time_or_its_date_header_does() -> None:
    assert read_hello(200, json.dumps(HELLO).encode(), DATE).time == 1e9
    without = {key: value for key, value in HELLO.items() if key != "time"}
    assert read_hello(200, json.dumps(without).encode(), DATE).time == 1795626000


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (404, json.dumps(HELLO).encode()),
        (200, b"<html>Please log in</html>"),
        (200, b""),
        (200, b"[]"),
        (200, b"null"),
        (200, b"\xff"),
        (200, b"[" * 100_000),
        (200, json.dumps(HELLO | {"protocol": "1"}).encode()),
        (200, json.dumps(HELLO | {"protocol": True}).encode()),
        (200, json.dumps(HELLO | {"coordinator": 5}).encode()),
        (200, json.dumps(HELLO | {"time": "now"}).encode()),
    ],
)
def test_what_is_no_hello_is_no_coordinator(status: int, body: bytes) -> None:
    with pytest.raises(WardroundError, match=f"no coordinator .HTTP {status}"):
        read_hello(status, body, None)
