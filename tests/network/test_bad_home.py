"""What is wrong with a home, an invitation, an enrolment or a study is said in one line that says what to do.

Each command ends with exit code 2; no line holds a token or a key, and nothing that was there is lost.
"""

from __future__ import annotations

import json
import logging
import re
import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.network.line import done, refused
from tests.network.net import free_port
from wardround_client.home import HospitalHome
from wardround_common.enrolment import PROTOCOL, Enrolment, Invite
from wardround_common.errors import WardroundError
from wardround_common.home import LOG, locked
from wardround_common.study import Study, parse_study
from wardround_server import serve
from wardround_server.certificates import make_server
from wardround_server.home import CoordinatorHome, make_home

WARDS: dict[str, Any] = {
    "wardround": 1,
    "name": "wards",
    "variables": {
        "age": {"kind": "number", "range": [18, 100]},
        "ill": {"kind": "category", "levels": ["0", "1"]},
    },
    "outcome": "ill",
    "analyses": [{"kind": "summary"}],
}
TABLE = "age,ill\n" + "\n".join(f"{20 + i},{i % 2}" for i in range(60)) + "\n"


def study(**changes: Any) -> Study:
    return parse_study(WARDS | changes)


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    yield
    log = logging.getLogger(LOG)
    for handler in log.handlers[:]:
        log.removeHandler(handler)
        handler.close()
    log.propagate = True


@pytest.fixture
def center(tmp_path: Path) -> Path:
    """A coordinator's home; nothing serves it."""
    make_home(tmp_path / "center", "test", f"localhost:{free_port()}", None, free_port())
    return tmp_path / "center"


@pytest.fixture
def north(tmp_path: Path) -> Path:
    """A hospital's home with a table."""
    (tmp_path / "north.csv").write_text(TABLE)
    done("hospital", "init", "--name", "north", "--table", "north.csv", "--home", "north")
    return tmp_path / "north"


@pytest.fixture
def invite(center: Path) -> Path:
    done("coordinator", "invite", "north", "--home", center)
    return Path("north.invite")


def joined(north: Path, invite: Path) -> Path:
    """Have a hospital trust its coordinator without going over the network; return its enrolment's file."""
    said = done("hospital", "join", invite, "--offline", "--home", north)
    assert "Not admitted yet: it was asked not to go over the network" in said
    return Path("north.enrolment.json")


def token(invite: Path) -> str:
    return Invite.from_text(invite.read_bytes()).token


# Invitations


def not_text(file: Path) -> None:
    file.write_bytes(bytes(range(256)))


def cut_off(file: Path) -> None:
    file.write_text(file.read_text()[:400])


def one_letter_other(file: Path) -> None:
    text = file.read_text()
    file.write_text(text[:100] + ("A" if text[100] != "A" else "B") + text[101:])


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (not_text, "this is no Wardround invitation: it is not text"),
        (lambda file: file.write_text(""), "this is no Wardround invitation"),
        (lambda file: file.write_text("Dear colleague,\n"), "this is no Wardround invitation"),
        (lambda file: file.write_bytes(b"%PDF-1.7\n" + b"x" * 100_000), "it has more than 16 KiB"),
        (lambda file: file.write_text("wardround invite 2\nAAAA\n"), "of another version of Wardround"),
        (cut_off, "damaged or cut off"),
        (one_letter_other, "invitation|certificate|damaged"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read (Is a directory)"),
        (lambda file: file.unlink(), "cannot be read (No such file or directory)"),
    ],
)
def test_a_file_that_is_no_invitation_changes_nothing(
    north: Path, invite: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    secret = token(invite)
    spoil(invite)
    line = refused("hospital", "join", invite, "--home", north)
    assert line.startswith("north.invite: ")
    assert says in line or re.search(says, line), line
    assert secret not in line
    assert not (north / "coordinator.toml").exists()


def test_an_invitation_that_has_expired_says_when_and_whom_to_ask(
    north: Path, invite: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 8 * 86_400)
    line = refused("hospital", "join", invite, "--home", north)
    assert "expired on" in line and "by this machine's clock; ask test for a new one" in line
    assert token(invite) not in line
    assert not (north / "coordinator.toml").exists()


def test_an_invitation_for_another_name_is_not_taken(center: Path, north: Path) -> None:
    done("coordinator", "invite", "south", "--home", center)
    line = refused("hospital", "join", "south.invite", "--home", north)
    assert "the invitation is for `south`, and this home is `north`'s" in line
    assert not (north / "coordinator.toml").exists()


def test_an_invitation_of_another_coordinator_is_not_taken_before_leaving(
    north: Path, invite: Path, tmp_path: Path
) -> None:
    joined(north, invite)
    before = (north / "coordinator.toml").read_bytes(), (north / "keys/coordinator-ca.crt").read_bytes()
    make_home(tmp_path / "other", "other", "localhost:8443", None, 9091)
    done("coordinator", "invite", "north", "--home", tmp_path / "other", "--out", "other.invite")
    line = refused("hospital", "join", "other.invite", "--home", north)
    assert "this hospital belongs to localhost:" in line and "first: wardround hospital leave" in line
    assert (
        (north / "coordinator.toml").read_bytes(),
        (north / "keys/coordinator-ca.crt").read_bytes(),
    ) == before
    done("hospital", "leave", "--yes", "--home", north)
    done("hospital", "join", "other.invite", "--offline", "--home", north)


def test_a_coordinator_that_cannot_be_reached_leaves_the_file_as_a_way(north: Path, invite: Path) -> None:
    said = done("hospital", "join", invite, "--home", north)
    assert "Not admitted yet: localhost:" in said and "no connection" in said
    assert "wardround coordinator admit north.enrolment.json" in said
    assert token(invite) not in said


# What the coordinator's officer does


def test_a_name_that_is_invited_or_admitted_is_not_invited_by_mistake(
    center: Path, north: Path, invite: Path
) -> None:
    enrolment = joined(north, invite)
    line = refused("coordinator", "invite", "north", "--home", center, "--out", "b.invite")
    assert "north has an open invitation" in line and "--again" in line
    done("coordinator", "admit", enrolment, "--yes", "--home", center)
    line = refused("coordinator", "invite", "north", "--home", center, "--out", "b.invite")
    assert "north is admitted already" in line and "revoke" in line and "--again" in line
    assert not Path("b.invite").exists()
    assert "exists" in refused("coordinator", "invite", "south", "--home", center, "--out", "north.invite")


def test_a_name_is_admitted_with_one_pair_of_keys_and_revoked_ones_never_again(
    center: Path, north: Path, invite: Path, tmp_path: Path
) -> None:
    enrolment = joined(north, invite)
    done("coordinator", "admit", enrolment, "--yes", "--home", center)
    done("coordinator", "admit", enrolment, "--yes", "--home", center)
    done("hospital", "init", "--name", "north", "--home", "second")
    done("hospital", "join", invite, "--offline", "--home", "second", "--enrolment", "second.json")
    line = refused("coordinator", "admit", "second.json", "--yes", "--home", center)
    assert "a hospital of this name is admitted with other keys" in line
    done("coordinator", "hospitals", "--revoke", "north", "--yes", "--home", center)
    line = refused("coordinator", "admit", enrolment, "--yes", "--home", center)
    assert "a key of this enrolment is, or was, another entry's" in line
    done("coordinator", "admit", "second.json", "--yes", "--home", center)


def test_nobody_is_admitted_or_revoked_without_an_answer(center: Path, north: Path, invite: Path) -> None:
    enrolment = joined(north, invite)
    code_line = refused_after_a_question("coordinator", "admit", enrolment, "--home", center)
    assert "Nobody is there to answer; add --yes" in code_line
    assert json.loads(done("coordinator", "hospitals", "--json", "--home", center))["hospitals"] == []


def refused_after_a_question(*arguments: object) -> str:
    from tests.network.line import ran

    code, _, err = ran(*arguments)
    assert code == 2
    return err.splitlines()[-1]


def swapped(field: str) -> Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]:
    return lambda one, other: one | {field: other[field]}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (swapped("identity"), "signature"),
        (swapped("node_key"), "signature"),
        (swapped("identity_signature"), "signature"),
        (swapped("node_key_signature"), "signature"),
        (lambda one, _: one | {"hospital": "south"}, "signature"),
        (lambda one, _: one | {"hospital": "no\nrth"}, "can't be printed"),
        (lambda one, _: one | {"hospital": ""}, "1 to 64 characters"),
        (lambda one, _: one | {"protocol": PROTOCOL + 1}, "other versions of Wardround's protocol"),
        (lambda one, _: one | {"protocol": "1"}, "wrong type"),
        (lambda one, _: one | {"more": 1}, "fields missing, or others"),
        (lambda one, _: {}, "fields missing, or others"),
        (lambda one, _: [one], "not a JSON object"),
        (lambda one, _: one | {"identity": "AAAA"}, "wrong length"),
        (lambda one, _: one | {"identity": "!"}, "base64"),
        (lambda one, _: one | {"version": "x" * 9000}, "more than 8 KiB"),
    ],
)
def test_an_enrolment_that_was_changed_is_not_admitted(
    center: Path, north: Path, invite: Path, change: Callable[[Any, Any], Any], says: str
) -> None:
    enrolment = joined(north, invite)
    done("hospital", "init", "--name", "north", "--home", "second")
    done("hospital", "join", invite, "--offline", "--home", "second", "--enrolment", "second.json")
    one, other = (json.loads(Path(file).read_text()) for file in (enrolment, "second.json"))
    enrolment.write_text(json.dumps(change(one, other)))
    line = refused("coordinator", "admit", enrolment, "--yes", "--home", center)
    assert line.startswith("north.enrolment.json: ") or "protocol" in line
    assert says in line
    assert json.loads(done("coordinator", "hospitals", "--json", "--home", center))["hospitals"] == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"\xff\xfe", b"x" * (1 << 20), b"[" * 5000], ids=lambda one: str(one[:3])
)
def test_a_file_that_is_no_enrolment_is_not_admitted(center: Path, content: bytes) -> None:
    Path("x.json").write_bytes(content)
    assert refused("coordinator", "admit", "x.json", "--yes", "--home", center).startswith("x.json: ")
    assert "No such file" in refused("coordinator", "admit", "y.json", "--yes", "--home", center)


def test_a_name_that_is_not_known_is_not_revoked(center: Path, north: Path, invite: Path) -> None:
    done("coordinator", "admit", joined(north, invite), "--yes", "--home", center)
    for option in ("--revoke", "--left"):
        line = refused("coordinator", "hospitals", option, "nroth", "--yes", "--home", center)
        assert "no hospital is named 'nroth' (did you mean `north`?)" in line


def test_names_that_look_like_markup_are_shown_as_they_are(center: Path) -> None:
    name = "[red]St. Anna [b]"
    said = done("hospital", "init", "--name", name, "--home", "odd")
    assert f"`{name}`" in said
    done("coordinator", "invite", name, "--out", "odd.invite", "--home", center)
    assert "[red]" in done("coordinator", "hospitals", "--home", center)
    said = done("hospital", "join", "odd.invite", "--offline", "--home", "odd", "--enrolment", "odd.json")
    assert "Not admitted yet" in said
    assert "[red]" in done("hospital", "status", "--home", "odd")
    done("coordinator", "admit", "odd.json", "--yes", "--home", center)
    assert "[red]" in done("coordinator", "hospitals", "--home", center)


# Homes


def test_a_folder_that_is_no_home_says_how_to_make_one(tmp_path: Path) -> None:
    assert "make one with `wardround hospital init" in refused("hospital", "status", "--home", tmp_path)
    assert "make one with `wardround coordinator init`" in refused(
        "coordinator", "status", "--home", tmp_path
    )


def test_a_home_is_not_made_over_another(center: Path, north: Path) -> None:
    before = (north / "keys/identity.key").read_bytes()
    assert "there is a home already" in refused("hospital", "init", "--name", "x", "--home", north)
    assert "there is a home already" in refused("coordinator", "init", "--address", "a:1", "--home", center)
    assert (north / "keys/identity.key").read_bytes() == before


@pytest.mark.parametrize("name", ["", " north", "a/b", "a,b", "a\tb", "x" * 65, "e\u0301"])
def test_a_name_that_could_not_be_shown_or_compared_is_no_name(center: Path, name: str) -> None:
    assert "name" in refused("hospital", "init", "--name", name, "--home", "new")
    assert "name" in refused("coordinator", "invite", "--home", center, "--out", "x.invite", "--", name)
    assert not Path("new").exists() and not Path("x.invite").exists()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"[hospital]\nname = 'north'\nbeds = 3\n", "hospital.beds: Extra inputs are not permitted"),
        (b"[hospital]\nname = 'north'\n[wards]\n", "wards: Extra inputs"),
        (b"[hospital]\nname = 7\n", "hospital.name: Input should be a valid string"),
        (b"[hospital]\nname = 'a/b'\n", "slash"),
        (b"[data]\n", "hospital: Field required"),
        (b"[hospital\n", "not readable as TOML"),
        (b"\xff\xfe\x00", "not readable as TOML"),
        (b"", "hospital: Field required"),
    ],
)
def test_a_configuration_that_is_wrong_names_file_and_key(
    north: Path, invite: Path, content: bytes, says: str
) -> None:
    joined(north, invite)
    (north / "config.toml").write_bytes(content)
    for command in ("status", "serve"):
        line = refused("hospital", command, "--home", north)
        assert line.startswith(f"{north}/config.toml: ") and says in line


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("control_port", "0", "a port is from 1 to 65535"),
        ("control_port", "'x'", "coordinator.control_port: Input should be a valid integer"),
        ("listen", "'nowhere'", "is no address; write host:port"),
        ("address", "'a:99999'", "is no address; write host:port"),
        ("stock_nodes", "true", "coordinator.stock_nodes: Extra inputs"),
    ],
)
def test_a_coordinators_configuration_that_is_wrong_names_file_and_key(
    center: Path, key: str, value: str, says: str
) -> None:
    file = center / "config.toml"
    kept = [line for line in file.read_text().splitlines() if not line.startswith(f"{key} ")]
    file.write_text("\n".join([*kept, f"{key} = {value}", ""]))
    line = refused("coordinator", "serve", "--home", center)
    assert line.startswith(f"{file}: ") and says in line


def test_a_hospital_that_has_not_joined_says_how_to(north: Path) -> None:
    for command in (("serve",), ("leave", "--yes")):
        line = refused("hospital", *command, "--home", north)
        assert "has not joined a network" in line and "wardround hospital join FILE" in line
    (north / "coordinator.toml").write_text("address = 'nowhere'\n")
    assert "coordinator.toml: " in refused("hospital", "serve", "--home", north)


@pytest.mark.parametrize("name", ["node.key", "identity.key"])
@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda file: file.chmod(0o644), "others on this machine can read it (mode 0644)"),
        (lambda file: file.unlink(), "there is no such file"),
        (lambda file: file.write_bytes(b"x" * 100), "restore it from your back-up"),
        (lambda file: file.write_bytes(b"x" * (1 << 20)), "too long"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be read"),
        (lambda file: (file.rename("k"), file.symlink_to(Path("k").absolute())), "cannot be read"),
    ],
)
def test_a_node_does_not_start_with_a_key_that_is_unsafe_or_none(
    north: Path, invite: Path, name: str, spoil: Callable[[Path], Any], says: str
) -> None:
    joined(north, invite)
    spoil(north / "keys" / name)
    line = refused("hospital", "serve", "--home", north)
    assert line.startswith(f"{north}/keys/{name}: ") and says in line
    if "0644" in says:
        assert line.endswith(f"chmod 600 {north}/keys/{name}")


def test_a_node_does_not_start_with_one_key_in_the_others_place(north: Path, invite: Path) -> None:
    joined(north, invite)
    keys = north / "keys"
    secret = (keys / "node.key").read_text().splitlines()[1]
    shutil.copy(keys / "identity.key", keys / "spare")
    shutil.copy(keys / "node.key", keys / "identity.key")
    line = refused("hospital", "serve", "--home", north)
    assert "identity.key: " in line and secret not in line
    shutil.copy(keys / "spare", keys / "identity.key")
    shutil.copy(keys / "spare", keys / "node.key")
    assert "node.key: the node's key is not an ECDSA key on P-384" in refused(
        "hospital", "serve", "--home", north
    )


def test_a_node_does_not_start_without_the_ca_it_pinned(north: Path, invite: Path) -> None:
    joined(north, invite)
    (north / "keys/coordinator-ca.crt").unlink()
    assert "coordinator-ca.crt: cannot be read; join again" in refused("hospital", "serve", "--home", north)


def test_a_node_does_not_start_with_a_policy_that_is_wrong(north: Path, invite: Path) -> None:
    joined(north, invite)
    (north / "policy.toml").write_text("min_rowz = 3\n")
    assert "policy.toml: min_rowz: " in refused("hospital", "serve", "--home", north)


def others_database(file: Path) -> None:
    file.unlink()
    db = sqlite3.connect(file)
    db.execute("create table recipes (name text)")
    db.commit()
    db.close()
    file.chmod(0o600)


def damaged(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[4096:] = b"\x55" * (len(data) - 4096)
    file.write_bytes(data)


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (others_database, "this is another program's database"),
        (damaged, "restore it from your back-up"),
        (lambda file: file.write_bytes(b"text\n" * 9), "no database"),
        (lambda file: file.write_bytes(b"text\n" * 999), "cannot be opened (file is not a database)"),
        (lambda file: file.chmod(0o644), "others on this machine can read it; chmod 600"),
        (lambda file: (file.unlink(), file.mkdir()), "cannot be opened|others on this machine"),
    ],
)
def test_a_node_database_that_is_not_its_own_is_said_and_left_alone(
    north: Path, invite: Path, spoil: Callable[[Path], Any], says: str
) -> None:
    joined(north, invite)
    done("hospital", "status", "--home", north)
    file = north / "node.db"
    spoil(file)
    before = file.read_bytes() if file.is_file() else b""
    for command in (("status",), ("approve", "wards", "--yes")):
        line = refused("hospital", *command, "--home", north)
        assert str(file) in line and re.search(re.escape(says) if "|" not in says else says, line), line
    assert before == (file.read_bytes() if file.is_file() else b"")


def test_one_home_has_one_node_and_one_coordinator(center: Path, north: Path, invite: Path) -> None:
    joined(north, invite)
    with locked(north / "serve.lock", "x"):
        assert "this hospital's node runs already" in refused("hospital", "serve", "--home", north)
        assert "the node runs; stop it first" in refused("hospital", "leave", "--yes", "--home", north)
    with locked(center / "serve.lock", "x"):
        assert "this coordinator runs already" in refused("coordinator", "serve", "--home", center)


# A coordinator that cannot serve


def supervised(center: Path) -> str:
    with pytest.raises(WardroundError) as caught:
        serve.Supervisor(CoordinatorHome.open(center), threading.Event()).run()
    return str(caught.value)


@pytest.mark.parametrize("which", ["listen", "control_port"])
def test_a_port_that_is_in_use_is_named(center: Path, which: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serve, "_STOPS_S", 0.1)
    config = CoordinatorHome.open(center).config
    port = config.control_port if which == "control_port" else int(config.listen.rpartition(":")[2])
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        line = supervised(center)
    assert line.startswith(f"127.0.0.1:{port}: cannot listen there (another program uses this port)")
    assert "`listen` or `control_port`" in line


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (lambda home: home.server_key_file.chmod(0o644), "server.key: others on this machine can read it"),
        (lambda home: home.server_key_file.unlink(), "server.key: there is no such file"),
        (lambda home: home.server_file.unlink(), "server.crt: cannot be read"),
        (lambda home: home.ca_file.unlink(), "ca.crt: cannot be read"),
        (
            lambda home: home.server_file.write_text("x"),
            "is not PEM; make a new one: wardround coordinator renew",
        ),
        (
            lambda home: other_certificate(home, 30, both=False),
            "does not belong to its certificate; make a new one",
        ),
        (lambda home: other_certificate(home, 0), "expired on"),
    ],
)
def test_a_coordinator_does_not_start_with_a_certificate_that_would_fail(
    center: Path, spoil: Callable[[CoordinatorHome], Any], says: str
) -> None:
    spoil(CoordinatorHome.open(center))
    time.sleep(0.01)
    assert says in refused("coordinator", "serve", "--home", center)
    assert not (center / "superlink.db").exists()


def other_certificate(home: CoordinatorHome, days: int, both: bool = True) -> None:
    key, certificate = make_server(
        home.ca_key_file.read_bytes(), home.ca_file.read_bytes(), "localhost", days
    )
    home.server_file.write_bytes(certificate)
    if both:
        home.server_key_file.write_bytes(key)


def test_a_certificate_is_not_renewed_without_its_ca(center: Path) -> None:
    (center / "ca/ca.crt").rename(center / "ca/x")
    assert "ca.crt: cannot be read" in refused("coordinator", "renew-certificate", "--home", center)
    assert "ca.crt: cannot be read" in refused("coordinator", "invite", "north", "--home", center)
    (center / "ca/x").rename(center / "ca/ca.crt")
    done("coordinator", "invite", "north", "--home", center)
    (center / "ca/ca.key").unlink()
    line = refused("coordinator", "renew-certificate", "--home", center)
    assert "bring the CA's key back" in line


# Approvals


def offered(north: Path, *studies: Study) -> None:
    store = HospitalHome(north).store
    for one in studies:
        store.offer(one.digest, one.name, one.manifest())
    store.close()


def test_a_study_is_approved_once_and_again_only_on_purpose(north: Path) -> None:
    assert "none was offered to this hospital yet" in refused(
        "hospital", "approve", "wards", "--yes", "--home", north
    )
    offered(north, study(), study(name="beds"))
    line = refused("hospital", "approve", "wrads", "--yes", "--home", north)
    assert "no study of this name was offered (did you mean `wards`?); there are `beds`, `wards`" in line
    assert "Approved `wards` on 60 rows" in done("hospital", "approve", "wards", "--yes", "--home", north)
    line = refused("hospital", "approve", "wards", "--yes", "--home", north)
    assert "approved already; to take up changed tables and begin anew, add --again" in line
    assert "Approved" in done("hospital", "approve", "wards", "--yes", "--again", "--home", north)
    offered(north, study(title="another version"))
    line = refused("hospital", "approve", "wards", "--yes", "--home", north)
    assert "offered in several versions; name one by its digest: " in line


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (None, "there is no such file"),
        ("", "empty|column"),
        ("a;b\n1;2\n", "none of the study's variables"),
        ("age,ill\nSECRET,0\n", "age"),
        ("\x00\x01\x02", "NUL bytes"),
    ],
)
def test_a_table_that_does_not_fit_is_not_approved(north: Path, table: str | None, says: str) -> None:
    offered(north, study())
    if table is None:
        (north.parent / "north.csv").unlink()
    else:
        (north.parent / "north.csv").write_text(table)
    line = refused("hospital", "approve", "wards", "--yes", "--home", north)
    assert re.search(says, line), line
    assert "SECRET" not in line
    (north.parent / "north.csv").write_text(TABLE)
    assert "Approved" in done("hospital", "approve", "wards", "--yes", "--home", north)


def test_no_table_and_a_strict_policy_are_said(north: Path) -> None:
    offered(north, study())
    (north / "policy.toml").write_text("min_hospitals = 9\n")
    line = refused("hospital", "approve", "wards", "--yes", "--home", north)
    assert "min_hospitals" in line
    (north / "policy.toml").unlink()
    (north / "config.toml").write_text("[hospital]\nname = 'north'\n")
    line = refused("hospital", "approve", "wards", "--yes", "--home", north)
    assert 'write table = "FILE" under [data], or give --table FILE' in line


def test_a_title_cannot_draw_over_what_is_approved(north: Path) -> None:
    offered(north, study(title="nice\x1b[2J\x1b[1;1H\ndigest 00000000" + "x" * 5000))
    from tests.network.line import ran

    code, out, err = ran("hospital", "approve", "wards", "--home", north)
    assert code == 2
    assert "\x1b" not in out + err and "\ndigest" not in err
    assert len(err) < 1000


# Studies


def test_a_study_that_cannot_be_launched_is_not_entered(center: Path) -> None:
    Path("bad.yaml").write_text("just text\n")
    Path("binary.yaml").write_bytes(bytes(range(256)))
    Path("wrong.json").write_text(json.dumps(WARDS | {"outcome": "nothing"}))
    Path("wards.json").write_text(json.dumps(WARDS))
    cases = {
        "bad.yaml": "bad.yaml",
        "binary.yaml": "binary.yaml",
        "wrong.json": "outcome",
        "missing.yaml": "missing.yaml",
        "hart-disease": "did you mean `heart-disease`?",
    }
    for name, says in cases.items():
        assert says in refused("coordinator", "launch", name, "--home", center), name
    line = refused("coordinator", "launch", "wards.json", "--quorum", 2, "--home", center)
    assert "--quorum 2: the study asks for 3 hospitals at least" in line
    assert list((center / "studies").iterdir()) == []


def test_one_name_is_one_version_of_a_study(center: Path) -> None:
    Path("wards.json").write_text(json.dumps(WARDS))
    said = done("coordinator", "launch", "wards.json", "--home", center)
    assert "the coordinator does not run; the study begins when it does" in said
    Path("wards.json").write_text(json.dumps(WARDS | {"title": "Second version"}))
    line = refused("coordinator", "launch", "wards.json", "--home", center)
    assert "another version of it was launched before" in line and "--again" in line
    assert "Second version" not in (center / "studies/wards/study.json").read_text()
    done("coordinator", "launch", "wards.json", "--again", "--home", center)
    assert len(list((center / "studies").iterdir())) == 2


def test_a_study_that_is_unknown_or_in_another_state_is_said(center: Path) -> None:
    for command in ("status", "stop", "resume", "results"):
        line = refused("coordinator", command, "wards", "--home", center)
        assert "wards: no study of this name was launched; none was launched yet" in line
    Path("wards.json").write_text(json.dumps(WARDS))
    done("coordinator", "launch", "wards.json", "--home", center)
    for command in ("status", "stop", "resume", "results"):
        line = refused("coordinator", command, "../wards", "--home", center)
        assert "there are `wards`" in line
    line = refused("coordinator", "results", "wards", "--home", center)
    assert "wards: no results yet; `wards`: launched" in line
    status = center / "studies/wards/status.json"
    for state in ("finished", "failed", "stopped"):
        status.write_text(json.dumps({"study": "wards", "state": state, "why": "a reason"}))
        assert f"wards: {state} already" in refused("coordinator", "stop", "wards", "--home", center)
    status.write_text(json.dumps({"study": "wards", "state": "finished"}))
    assert "finished already; see wardround coordinator results" in refused(
        "coordinator", "resume", "wards", "--home", center
    )
    line = refused("coordinator", "launch", "wards.json", "--home", center)
    assert "wards: finished; see" in line and "--again" in line
    status.write_text("{ not json")
    assert "launched" in done("coordinator", "status", "wards", "--home", center)


def test_a_study_that_runs_is_not_launched_over(center: Path) -> None:
    Path("wards.json").write_text(json.dumps(WARDS))
    done("coordinator", "launch", "wards.json", "--home", center)
    with locked(center / "studies/wards/run.lock", "x"):
        for options in ((), ("--again",)):
            line = refused("coordinator", "launch", "wards.json", *options, "--home", center)
            assert "wards: runs now" in line and "stop it first" in line
    assert (center / "studies/wards/study.json").exists()


def test_an_enrolment_is_public(north: Path, invite: Path) -> None:
    enrolment = joined(north, invite)
    Enrolment.from_json(enrolment.read_bytes()).verify()
    text = enrolment.read_text()
    assert token(invite) not in text and "PRIVATE" not in text
