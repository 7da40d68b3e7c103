"""`wardround audit`: what it shows, proves and exports, and that no file which was tampered with passes."""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.unit.test_audit_log import GOOD, bare, dropped, entry, grown_anew, swapped
from wardround_client.home import HospitalHome, make_home
from wardround_client.officers import own_words
from wardround_common.audit.cli import audit
from wardround_common.audit.database import find_log
from wardround_common.audit.entry import MOST_BYTES, Entry
from wardround_common.audit.log import SCHEMA, AuditLog
from wardround_common.audit.note import Origin, sign_checkpoint
from wardround_common.errors import WardroundError
from wardround_common.files import write_private
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity

COMMAND = Path(sys.executable).with_name("wardround")
SIZE = 20


def run(*arguments: str | Path) -> str:
    """Run `wardround audit` in this process; return what it prints, or raise as it does."""
    done = CliRunner().invoke(audit, [*map(str, arguments)], catch_exceptions=True)
    if isinstance(done.exception, Exception):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def refused(*arguments: str | Path) -> str:
    with pytest.raises(WardroundError) as caught:
        run(*arguments)
    return str(caught.value)


def as_json(*arguments: str | Path) -> Any:
    return json.loads(run(*arguments, "--json"))


@pytest.fixture
def home(tmp_path: Path) -> HospitalHome:
    """A hospital with twenty entries, of which twelve are signed."""
    made = make_home(tmp_path / "home", "Spital Süd", None)
    for number in range(1, SIZE + 1):
        made.store.audit("release", "heart" if number % 2 else "lung", f"logistic/{number}")
        if number == 12:
            with closing(sqlite3.connect(made.path / "node.db")) as db:
                log = AuditLog(db)
                log.keep(sign_checkpoint(made.identity, Origin("hospital", made.name), log.head()), 12)
                db.commit()
    made.store.close()
    return made


@pytest.fixture
def export(home: HospitalHome, tmp_path: Path) -> Path:
    file = tmp_path / "export.jsonl"
    run("export", "--home", home.path, "--out", file)
    return file


def tampered(home: HospitalHome, act: Callable[[sqlite3.Connection], object]) -> None:
    with closing(sqlite3.connect(home.path / "node.db")) as db:
        bare(db)
        act(db)
        db.commit()


def head_of(home: HospitalHome, count: int) -> AuditHead:
    with find_log(home.path).open() as log:
        head = log.head_at(count)
    assert head is not None
    return head


def text(head: AuditHead) -> str:
    return f"{head.count}:{head.head.hex()}"


# the command


def test_the_command_stands_beside_the_others_and_says_what_is_wrong_with_exit_code_2(
    home: HospitalHome,
) -> None:
    def command(*arguments: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "WARDROUND_HOME": str(home.path), "COLUMNS": "160"}
        return subprocess.run([COMMAND, *arguments], env=env, capture_output=True, text=True, timeout=60)

    shown = command("audit", "--help").stdout
    assert all(name in shown for name in ("log", "verify", "prove", "export"))
    for name in ("log", "verify", "prove", "export"):
        assert f"wardround audit {name}" in command("audit", name, "--help").stdout  # an example
    done = command("audit", "verify")
    assert (done.returncode, done.stderr) == (0, "")
    assert "the audit log of hospital `Spital Süd` is whole, 20 entries." in done.stdout
    tampered(home, lambda db: db.execute("update audit_entries set entry = x'00' where seq = 7"))
    done = command("audit", "verify")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: ") and "entry 7 is not what it was" in done.stderr


def test_log_shows_the_last_entries_of_a_study(home: HospitalHome) -> None:
    found = as_json("log", "--home", home.path, "--study", "heart", "--last", "2")
    assert [(one["seq"], one["detail"]) for one in found] == [(17, "logistic/17"), (19, "logistic/19")]
    assert set(found[0]) == {"seq", "at", "actor", "event", "study", "detail"}
    shown = run("log", "--home", home.path, "--last", "3")
    assert "logistic/18" in shown and "logistic/20" in shown and "logistic/17" not in shown


def test_log_lets_no_entry_steer_the_terminal(home: HospitalHome) -> None:
    home_log = HospitalHome(home.path).store
    home_log.audit("offer", "heart", "\x1b[2J\u202e[red]:bug:")
    home_log.close()
    shown = run("log", "--home", home.path, "--last", "1")
    assert "\\x1b[2J\\u202e[red]:bug:" in shown
    assert "\x1b" not in shown and "\u202e" not in shown


# verify


def test_verify_shows_the_words_that_the_hospitals_status_shows(home: HospitalHome) -> None:
    found = as_json("verify", "--home", home.path)
    assert found == {
        "kind": "log",
        "fits": True,
        "side": "hospital",
        "name": "Spital Süd",
        "head": text(head_of(home, SIZE)),
        "signed": text(head_of(home, 12)),
        "key": home.identity.public.hex(),
        "words": own_words(home),
    }
    shown = run("verify", "--home", home.path)
    assert own_words(home) in shown and "signed until entry 12" in shown


def test_verify_takes_heads_and_a_key(home: HospitalHome) -> None:
    at = ("verify", "--home", home.path)
    run(*at, "--head", text(head_of(home, 3)), "--head", text(head_of(home, 20)))
    run(*at, "--key", home.identity.public.hex())
    assert "another key" in refused(*at, "--key", Identity.generate().public.hex())
    assert "cut" in refused(*at, "--head", "21:" + "0" * 64)
    assert "changed" in refused(*at, "--head", "15:" + "0" * 64)


@pytest.mark.parametrize("head", ["", "5", "5:", "5:00", "-1:" + "0" * 64, "x:" + "0" * 64, "9" * 30 + ":00"])
def test_what_is_no_head_is_told_with_its_form(home: HospitalHome, head: str) -> None:
    assert "COUNT:HEX" in refused("verify", "--home", home.path, "--head", head)


@pytest.mark.parametrize("key", ["", "00", "x" * 64, "0" * 63, "0" * 66])
def test_what_is_no_key_is_told_with_its_form(home: HospitalHome, key: str) -> None:
    assert "64 hexadecimal digits" in refused("verify", "--home", home.path, "--key", key)


def test_a_home_is_read_by_its_database_too(home: HospitalHome) -> None:
    assert as_json("verify", home.path / "node.db") == as_json("verify", home.path)
    assert "not both" in refused("verify", home.path, "--home", home.path)


def test_without_the_private_key_a_log_is_verified_by_the_public_one(home: HospitalHome) -> None:
    home.identity_file.unlink()
    assert "identity.key" in refused("verify", "--home", home.path)
    assert as_json("verify", "--home", home.path, "--key", home.identity.public.hex())["fits"]


def test_a_key_that_others_may_read_signs_nothing(home: HospitalHome) -> None:
    home.identity_file.chmod(0o644)
    assert "chmod 600" in refused("export", "--home", home.path)


@pytest.mark.parametrize("how", [swapped, dropped])
def test_a_rewritten_log_is_neither_verified_nor_signed(
    home: HospitalHome, tmp_path: Path, how: Callable[[list[bytes]], list[bytes]]
) -> None:
    with find_log(home.path).open() as log:
        entries = how([data for _, data in log.encoded()])
    tampered(home, lambda db: grown_anew(db, entries))
    assert "one of the entries 1 to 12" in refused("verify", "--home", home.path)
    for arguments in (["export"], ["prove", "3"], ["prove", "--since", "3"]):
        out = tmp_path / "out"
        message = refused(*arguments, "--home", home.path, "--out", out)
        assert "changed" in message and "nothing was signed" in message
        assert not out.exists()


def test_a_coordinators_log_shows_its_key(tmp_path: Path) -> None:
    key = Identity.generate()
    write_private(tmp_path / "keys" / "audit.key", key.to_pem())
    (tmp_path / "config.toml").write_text('[coordinator]\nname = "net"\naddress = "a:1"\nlisten = "b:1"\n')
    with closing(sqlite3.connect(tmp_path / "coordinator.db")) as db:
        db.execute("pragma journal_mode = wal")
        db.execute(f"pragma application_id = {0x57524F43}")
        for statement in SCHEMA:
            db.execute(statement)
        AuditLog(db).append(entry(1))
        db.commit()
        found = as_json("verify", "--home", tmp_path)
    assert (found["side"], found["name"], found["key"]) == ("coordinator", "net", key.public.hex())
    assert "words" not in found and found["signed"] is None
    assert "nothing is signed yet" in run("verify", "--home", tmp_path)


# exports


def test_an_export_is_checked_without_the_home(home: HospitalHome, export: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere.jsonl"
    export.rename(elsewhere)
    for folder in (home.path, home.path / "keys"):
        for file in folder.iterdir():
            if file.is_file():
                file.unlink()
    found = as_json("verify", elsewhere)
    assert (found["kind"], found["name"], found["words"]) == ("export", "Spital Süd", own_words(home))
    assert found["head"].startswith("20:") and found["key"] == home.identity.public.hex()
    assert found["since"].startswith("0:")
    assert "the audit log of hospital `Spital Süd` is whole, 20 entries." in run("verify", elsewhere)


def test_an_export_is_its_owners_alone_and_holds_the_entries_as_they_are(
    home: HospitalHome, export: Path
) -> None:
    assert stat.S_IMODE(export.stat().st_mode) == 0o600
    start, *entries = export.read_bytes().splitlines()
    assert list(json.loads(start)) == ["wardround_audit", "key", "checkpoint", "kind", "since", "subtrees"]
    with find_log(home.path).open() as log:
        assert [Entry.decode(line) for line in entries] == [one for _, one in log.entries()]
    assert run("export", "--home", home.path).encode() == export.read_bytes()


def test_nothing_is_written_over_and_nothing_half_written(home: HospitalHome, export: Path) -> None:
    before = export.read_bytes()
    assert "--force" in refused("export", "--home", home.path, "--out", export)
    run("export", "--home", home.path, "--out", export, "--force", "--since", "3")
    assert export.read_bytes() != before
    assert "cannot be written" in refused("export", "--home", home.path, "--out", export / "inside")
    assert "never had 21" in refused(
        "export", "--home", home.path, "--since", "21", "--out", export, "--force"
    )
    assert sorted(one.name for one in export.parent.iterdir()) == ["export.jsonl", "home"]


@pytest.mark.parametrize("since", [0, 1, 7, 8, 12, 19, 20])
def test_an_export_of_the_newer_entries_proves_how_the_log_stood_before(
    home: HospitalHome, tmp_path: Path, since: int
) -> None:
    file = tmp_path / "newer.jsonl"
    run("export", "--home", home.path, "--since", str(since), "--out", file)
    assert len(file.read_bytes().splitlines()) == 1 + SIZE - since
    found = as_json("verify", file)
    assert found["since"] == text(head_of(home, since))
    run("verify", file, "--head", text(head_of(home, since)), "--head", text(head_of(home, 20)))
    assert "not the one" in refused("verify", file, "--head", f"{since}:" + "0" * 64)
    if since:
        older = text(head_of(home, since - 1))
        assert "older than what is here" in refused("verify", file, "--head", older)


def test_an_exports_key_is_compared(home: HospitalHome, export: Path) -> None:
    run("verify", export, "--key", home.identity.public.hex())
    assert "another key" in refused("verify", export, "--key", Identity.generate().public.hex())


def lines_of(export: Path) -> list[bytes]:
    return export.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    ("how", "what"),
    [
        (lambda lines: [*lines[:7], GOOD + b"\n", *lines[8:]], "changed"),
        (lambda lines: [*lines[:7], lines[8], lines[7], *lines[9:]], "changed"),
        (lambda lines: lines[:7] + lines[8:], "cut"),
        (lambda lines: lines[:-1], "cut"),
        (lambda lines: lines[:1], "cut"),
        (lambda lines: [*lines, GOOD + b"\n"], "nobody signed"),
        (lambda lines: [*lines[:7], GOOD + b"\n", *lines[7:]], "changed"),
        (lambda lines: [*lines[:-1], lines[-1][:-1]], "cut"),
        (lambda lines: [*lines[:7], b"x" * (MOST_BYTES + 5) + b"\n", *lines[8:]], "too long"),
        (lambda lines: [*lines[:7], b"\n", *lines[8:]], "changed"),
        (lambda lines: lines[1:], "not what"),
        (lambda lines: [], "not what"),
        (lambda lines: [b"\xff" * 99, *lines], "not what"),
        (lambda lines: [b"[" * 40_000], "not what"),
    ],
)
def test_a_tampered_export(export: Path, how: Callable[[list[bytes]], list[bytes]], what: str) -> None:
    export.write_bytes(b"".join(how(lines_of(export))))
    assert what in refused("verify", export)


OTHER = Identity.generate()


@pytest.mark.parametrize(
    "change",
    [
        {"key": OTHER.public.hex()},
        {"key": OTHER.public.hex().upper()},
        {"key": "00"},
        {"key": None},
        {"checkpoint": ""},
        {"checkpoint": sign_checkpoint(OTHER, Origin("hospital", "x"), AuditHead(20, bytes(32)))},
        {"since": 1},
        {"since": -1},
        {"since": "0"},
        {"since": 1 << 64},
        {"since": 21, "subtrees": ["00" * 32] * 3},
        {"subtrees": ["00" * 32]},
        {"subtrees": [17]},
        {"wardround_audit": 2},
        {"kind": "import"},
        {"more": 1},
    ],
)
def test_a_tampered_first_line(export: Path, change: dict[str, Any]) -> None:
    start, *rest = lines_of(export)
    export.write_bytes(json.dumps(json.loads(start) | change).encode() + b"\n" + b"".join(rest))
    refused("verify", export)


def test_an_export_signed_by_another_key_shows_other_words(home: HospitalHome, export: Path) -> None:
    start, *rest = lines_of(export)
    note = sign_checkpoint(OTHER, Origin("hospital", "Spital Süd"), head_of(home, SIZE))
    forged = {**json.loads(start), "key": OTHER.public.hex(), "checkpoint": note}
    export.write_bytes(json.dumps(forged).encode() + b"\n" + b"".join(rest))
    assert as_json("verify", export)["words"] != own_words(home)
    refused("verify", export, "--key", home.identity.public.hex())


# proofs


@pytest.mark.parametrize("number", [1, 7, 16, 20])
def test_a_proof_shows_its_entry_and_no_other(home: HospitalHome, tmp_path: Path, number: int) -> None:
    file = tmp_path / "proof.json"
    run("prove", str(number), "--home", home.path, "--out", file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [f"logistic/{i}" in file.read_text() for i in range(3, 10)] == [i == number for i in range(3, 10)]
    found = as_json("verify", file, "--head", text(head_of(home, SIZE)))
    assert (found["kind"], found["seq"]) == ("inclusion", number)
    assert found["entry"]["detail"] == f"logistic/{number}"
    shown = run("verify", file)
    assert f"Entry {number} is one of 20" in shown and own_words(home) in shown
    assert "not the one" in refused("verify", file, "--head", "20:" + "0" * 64)
    assert "cannot be compared" in refused("verify", file, "--head", text(head_of(home, 5)))


@pytest.mark.parametrize("since", [0, 1, 7, 8, 20])
def test_a_proof_that_the_log_only_grew(home: HospitalHome, tmp_path: Path, since: int) -> None:
    file = tmp_path / "proof.json"
    run("prove", "--since", str(since), "--home", home.path, "--out", file)
    assert "logistic" not in file.read_text()
    found = as_json("verify", file, "--head", text(head_of(home, since)))
    assert (found["kind"], found["since"]) == ("consistency", text(head_of(home, since)))
    assert "none was rewritten" in run("verify", file)
    assert "not the one" in refused("verify", file, "--head", f"{since}:" + "0" * 64)


def test_what_cannot_be_proved(home: HospitalHome) -> None:
    at = ("--home", home.path)
    assert "no entry 21" in refused("prove", "21", *at)
    assert "did not begin with 21" in refused("prove", "--since", "21", *at)
    assert "either" in refused("prove", *at)
    assert "either" in refused("prove", "3", "--since", "3", *at)


@pytest.mark.parametrize(
    "change",
    [
        {"seq": 8},
        {"seq": 0},
        {"seq": 21},
        {"seq": True},
        {"path": []},
        {"path": ["00" * 32] * 65},
        {"path": ["00" * 32] * 5},
        {"path": ["0"]},
        {"key": OTHER.public.hex()},
        {"kind": "consistency"},
        {"kind": "export"},
        {"more": 1},
    ],
)
def test_a_tampered_proof(home: HospitalHome, tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "proof.json"
    proof = json.loads(run("prove", "7", "--home", home.path))
    file.write_text(json.dumps(proof))
    run("verify", file)
    file.write_text(json.dumps(proof | change))
    refused("verify", file)


@pytest.mark.parametrize(
    "change", [{"detail": "logistic/8"}, {"at": 1.5}, {"at": -1}, {"actor": None}, {"more": "x"}]
)
def test_a_proof_of_another_entry(home: HospitalHome, tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "proof.json"
    proof = json.loads(run("prove", "7", "--home", home.path))
    file.write_text(json.dumps({**proof, "entry": proof["entry"] | change}))
    refused("verify", file)


@pytest.mark.parametrize(
    "change", [{"since": 8}, {"root": "00" * 32}, {"root": ""}, {"path": []}, {"since": 0}]
)
def test_a_tampered_proof_of_growth(home: HospitalHome, tmp_path: Path, change: dict[str, Any]) -> None:
    file = tmp_path / "proof.json"
    proof = json.loads(run("prove", "--since", "7", "--home", home.path))
    file.write_text(json.dumps(proof | change))
    refused("verify", file)


def test_two_proofs_in_a_file_and_no_file(home: HospitalHome, tmp_path: Path) -> None:
    file = tmp_path / "proof.json"
    proof = run("prove", "7", "--home", home.path)
    file.write_text(proof + proof)
    assert "more than one" in refused("verify", file)
    assert "No such file" in refused("verify", tmp_path / "none.json")
    assert "no audit log" in refused("verify", tmp_path)
