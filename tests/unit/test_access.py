"""Who may do what at the coordinator, and that its audit log says who did."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.network.line import done, ran, refused
from wardround_common.audit.entry import Entry
from wardround_common.audit.note import COORDINATOR, Origin, read_checkpoint
from wardround_common.enrolment import make_enrolment
from wardround_common.errors import WardroundError
from wardround_common.sealing.identity import Identity
from wardround_common.study import read_study
from wardround_server.access import (
    ANALYST,
    AUDITOR,
    MAY,
    OPERATOR,
    ROLES,
    Access,
    Denied,
    Users,
    without_token,
)
from wardround_server.auditing import Watch, sign
from wardround_server.home import CoordinatorHome, make_home, owner
from wardround_server.registry import _FIRST, Registry
from wardround_server.shipped import shipped, shipped_tables
from wardround_server.simulation import simulate
from wardround_server.studies import Order, Status, StudyFolder, enter

NOW, DAY = 1_790_000_000, 86_400
STUDY = "flamby-heart"


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("WARDROUND_TOKEN", "WARDROUND_TOKEN_FILE", "WARDROUND_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A coordinator's home; nothing serves it."""
    make_home(tmp_path / "center", "test", "localhost:8443", None, 9091)
    return tmp_path / "center"


@pytest.fixture
def home(place: Path) -> Iterator[CoordinatorHome]:
    opened = CoordinatorHome(place)
    yield opened
    opened.registry.close()


@pytest.fixture
def required(place: Path) -> Path:
    """The home where tokens are needed."""
    config = place / "config.toml"
    config.write_text(f'{config.read_text()}\n[access]\ntokens = "required"\n')
    return place


def over_http(home: CoordinatorHome, now: float = NOW) -> Access:
    return Access(home, "http:192.0.2.7", by_files=False, clock=lambda: now)


def entries(home: Path | CoordinatorHome) -> list[tuple[str, str, str, str]]:
    """The audit log as (actor, event, study, detail)."""
    registry = home.registry if isinstance(home, CoordinatorHome) else Registry(home / "coordinator.db")
    with registry.log() as log:
        found = log.entries()
    if not isinstance(home, CoordinatorHome):
        registry.close()
    return [(one.actor, one.event, one.study, one.detail) for _, one in found]


def denied(refuses: Callable[[], object]) -> Denied:
    with pytest.raises(Denied) as caught:
        refuses()
    return caught.value


# tokens


def test_a_users_token_is_good_until_the_second_of_its_expiry(home: CoordinatorHome) -> None:
    token = Users(home.registry).add("ann", ANALYST, NOW + DAY, NOW)
    actor = over_http(home, NOW + DAY - 1).check(token, "launch", "heart")
    assert (actor.name, actor.role) == ("user:ann", ANALYST)
    error = denied(lambda: over_http(home, NOW + DAY).check(token, "launch", "heart"))
    assert error.code == "token_expired"
    assert "wardround coordinator user renew ann" in str(error)
    assert entries(home)[-1] == ("user:ann", "denied", "heart", "launch: token_expired")


def test_tokens_have_256_bits_differ_and_are_kept_as_hashes_only(home: CoordinatorHome) -> None:
    users = Users(home.registry)
    tokens = [users.add(f"u{i}", AUDITOR, NOW + DAY, NOW) for i in range(20)]
    tokens += [users.renew("u0", NOW + DAY, NOW), users.recover("u1", NOW + DAY, NOW)]
    assert len(set(tokens)) == 22
    assert all(re.fullmatch("[A-Za-z0-9_-]{43}", token) for token in tokens)
    files = b"".join(file.read_bytes() for file in home.path.rglob("*") if file.is_file())
    assert b"u19" in files
    shown = f"{home.registry!r} {users.all()} {entries(home)}"
    assert not [token for token in tokens if token.encode() in files or token in shown]


@pytest.mark.parametrize(
    "token", ["", "a" * 42, "a" * 44, "a" * 42 + "\n", "\ud800" * 43, "é" * 43, "x" * 10**6]
)
def test_what_is_no_token_is_refused_and_not_written_down(home: CoordinatorHome, token: str) -> None:
    error = denied(lambda: over_http(home).check(token, "status"))
    assert error.code == "token_malformed"
    assert entries(home)[-1] == ("http:192.0.2.7", "denied", "", "status: token_malformed")
    assert len(str(error)) < 200


def test_a_token_of_nobody_is_unknown(home: CoordinatorHome) -> None:
    Users(home.registry).add("ann", OPERATOR, NOW + DAY, NOW)
    for token in ("a" * 43, "-" * 43):
        assert denied(lambda token=token: over_http(home).check(token, "invite")).code == "token_unknown"
    assert entries(home)[-1] == ("http:192.0.2.7", "denied", "", "invite: token_unknown")
    assert "a" * 43 not in str(entries(home))


def test_a_revoked_user_is_out_at_once_and_their_name_for_good(home: CoordinatorHome) -> None:
    users = Users(home.registry)
    token = users.add("ann", OPERATOR, NOW + DAY, NOW)
    users.revoke("ann", NOW)
    assert denied(lambda: over_http(home).check(token, "users")).code == "token_revoked"
    with pytest.raises(WardroundError, match="ann is a user already, operator, revoked"):
        users.add("ann", AUDITOR, NOW + DAY, NOW)
    for again in (users.renew, users.recover):
        with pytest.raises(WardroundError, match="ann was revoked, for good"):
            again("ann", NOW + DAY, NOW)
    with pytest.raises(WardroundError, match="ann was revoked, for good"):
        users.revoke("ann", NOW)


def test_a_renewed_token_replaces_the_one_before(home: CoordinatorHome) -> None:
    users = Users(home.registry)
    old = users.add("ann", ANALYST, NOW + DAY, NOW)
    new = users.renew("ann", NOW + 9 * DAY, NOW + 2 * DAY)
    assert denied(lambda: over_http(home).check(old, "status")).code == "token_unknown"
    assert over_http(home, NOW + 8 * DAY).check(new, "status").role == ANALYST


@pytest.mark.parametrize("expires", [NOW, NOW - 1, 0, -1, 2**63, 10**15])
def test_a_token_has_a_future(home: CoordinatorHome, expires: int) -> None:
    for make in (lambda: Users(home.registry).add("ann", OPERATOR, expires, NOW),
                 lambda: Users(home.registry).recover("ann", expires, NOW)):  # fmt: skip
        with pytest.raises(WardroundError, match="expire in the future"):
            make()
    assert Users(home.registry).all() == []


@pytest.mark.parametrize("name", ["", "a,b", "a/b", " a", "a\n", "x" * 65])
def test_only_a_name_can_be_a_users(home: CoordinatorHome, name: str) -> None:
    for make in (
        Users(home.registry).recover,
        lambda *when: Users(home.registry).add(name, OPERATOR, *when[1:]),
    ):
        with pytest.raises(WardroundError, match="name"):
            make(name, NOW + DAY, NOW)


def test_other_roles_and_unknown_names_are_refused(home: CoordinatorHome) -> None:
    users = Users(home.registry)
    with pytest.raises(WardroundError, match="--role admin: there is none; choose from `operator`"):
        users.add("ann", "admin", NOW + DAY, NOW)
    users.add("annette", OPERATOR, NOW + DAY, NOW)
    with pytest.raises(WardroundError, match=r"no user is named 'anette' \(did you mean `annette`\?\)"):
        users.revoke("anette", NOW)
    with pytest.raises(WardroundError, match="no user is named"):
        users.renew("\x1b[2J", NOW + DAY, NOW)


@pytest.mark.parametrize(
    "change", ["role = 'root'", "expires = 'never'", "revoked_at = x'00'", "expires = -1e30"]
)
def test_a_damaged_entry_of_a_user_opens_nothing(home: CoordinatorHome, change: str) -> None:
    token = Users(home.registry).add("ann", AUDITOR, NOW + DAY, NOW)
    with home.registry.transaction() as db:
        db.execute(f"update users set {change}")
    with pytest.raises(WardroundError, match="entry of a user is damaged"):
        over_http(home).check(token, "status")


# roles


@pytest.mark.parametrize("role", ROLES)
def test_a_role_may_do_what_the_table_says_and_nothing_else(home: CoordinatorHome, role: str) -> None:
    token = Users(home.registry).add("ann", role, NOW + DAY, NOW)
    access = over_http(home)
    for action, roles in MAY.items():
        if role in roles:
            assert access.check(token, action).role == role
        else:
            error = denied(lambda action=action: access.check(token, action))
            assert error.code == "role"
            assert all(other in str(error) for other in roles)
            assert entries(home)[-1] == ("user:ann", "denied", "", f"{action}: role")


def test_the_lines_between_the_roles() -> None:
    assert all(OPERATOR in roles for roles in MAY.values())
    assert {action for action, roles in MAY.items() if AUDITOR in roles} == {
        "audit",
        "users",
        "hospitals",
        "status",
    }
    assert {action for action, roles in MAY.items() if ANALYST in roles} == {
        "launch", "stop", "resume", "results", "hospitals", "status",
    }  # fmt: skip


def test_over_a_network_nothing_goes_without_a_token(home: CoordinatorHome) -> None:
    for action in MAY:
        assert denied(lambda action=action: over_http(home).check(None, action)).code == "token_missing"


def test_an_entry_stays_short_whatever_is_asked_for(home: CoordinatorHome) -> None:
    denied(lambda: over_http(home).check(None, "results", "\x1b" * 10**6))
    assert len(entries(home)[-1][2]) == 64


# the command line


def test_without_users_who_has_the_files_is_the_operator_by_the_systems_name(place: Path) -> None:
    done("coordinator", "invite", "north", "--home", place)
    actor, event, _, detail = entries(place)[-1]
    assert (actor, event, detail[:13]) == (owner(), "invite", "north, until ")
    assert re.fullmatch(r"home:\S+", owner())


def test_where_tokens_are_required_each_command_asks_for_one(required: Path) -> None:
    done("coordinator", "user", "add", "ann", "--role", "operator", "--home", required, "--out", "ann.token")
    before = len(entries(required))
    for command in (
        ["status"], ["hospitals"], ["hospitals", "--revoke", "x", "--yes"], ["invite", "north"], ["users"],
        ["admit", "north.json"], ["launch", STUDY], ["stop", "x"], ["resume", "x"], ["results", "x"],
        ["renew-certificate"], ["user", "add", "ben", "--role", "operator"], ["user", "renew", "ann"],
        ["user", "revoke", "ann"], ["resume", "x", "--without", "y"],
    ):  # fmt: skip
        assert "this needs a token; put yours into a file" in refused(
            "coordinator", *command, "--home", required
        )
    added = entries(required)[before:]
    assert len(added) == 15
    assert {(actor, event) for actor, event, *_ in added} == {(owner(), "denied")}
    assert (owner(), "denied", "x", "results: token_missing") in added
    assert not Path("north.invite").exists()


def test_a_token_comes_from_a_file_of_ones_own_or_the_environment(
    required: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ("coordinator", "user", "add", "--home", required)
    done(*add, "ann", "--role", "operator", "--out", "ann.token")
    assert stat.S_IMODE(Path("ann.token").stat().st_mode) == 0o600
    monkeypatch.setenv("WARDROUND_TOKEN_FILE", "ann.token")
    said = json.loads(done(*add, "ben", "--role", "auditor", "--json"))
    assert (said["name"], len(said["token"])) == ("ben", 43)
    assert entries(required)[-1][:2] == ("user:ann", "user add")
    Path("ann.token").chmod(0o640)
    assert "others on this machine can read it" in refused("coordinator", "status", "--home", required)
    monkeypatch.setenv("WARDROUND_TOKEN", said["token"])
    assert "are both set" in refused("coordinator", "status", "--home", required)
    monkeypatch.delenv("WARDROUND_TOKEN_FILE")
    listed = json.loads(done("coordinator", "users", "--json", "--home", required))
    assert [(one["name"], one["role"], one["state"]) for one in listed["users"]] == [
        ("ann", "operator", "active"), ("ben", "auditor", "active"),
    ]  # fmt: skip
    line = refused("coordinator", "invite", "north", "--home", required)
    assert line == "ben is auditor and may not do this (`invite`); that is for `operator`"
    assert "not-a-token" not in _with_token(monkeypatch, required, "not-a-token")
    assert said["token"] not in str(entries(required))


def _with_token(monkeypatch: pytest.MonkeyPatch, home: Path, token: str) -> str:
    monkeypatch.setenv("WARDROUND_TOKEN", token)
    return refused("coordinator", "status", "--home", home) + str(entries(home))


def test_a_given_token_counts_where_none_is_needed(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = done("coordinator", "user", "add", "ben", "--role", "analyst", "--home", place).splitlines()[1]
    monkeypatch.setenv("WARDROUND_TOKEN", token)
    assert "ben is analyst" in refused("coordinator", "invite", "north", "--home", place)
    monkeypatch.setenv("WARDROUND_TOKEN", "")
    done("coordinator", "invite", "north", "--home", place)


def test_the_first_user_is_an_operator(required: Path) -> None:
    first = ("coordinator", "user", "add", "ann", "--home", required)
    assert "needs a token" in refused(*first, "--role", "auditor")
    done(*first, "--role", "operator")
    assert "needs a token" in refused(
        "coordinator", "user", "add", "ben", "--home", required, "--role", "operator"
    )


def test_who_owns_the_files_gets_back_in_and_the_log_says_so_at_once(
    required: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done("coordinator", "user", "add", "ann", "--role", "operator", "--days", "0.01", "--home", required)
    home = CoordinatorHome(required)
    with home.registry.transaction() as db:
        db.execute("update users set expires = 1")
    home.registry.close()
    monkeypatch.setenv("WARDROUND_TOKEN", "a" * 43)  # one that is set and good no longer is in nobody's way
    said = done("coordinator", "user", "recover", "ann", "--home", required)
    assert "note: the audit log says that `ann` became an operator" in said
    monkeypatch.setenv("WARDROUND_TOKEN", said.splitlines()[1])
    done("coordinator", "users", "--home", required)
    assert entries(required)[-1][:2] == (owner(), "recover")
    with (found := Registry(required / "coordinator.db")).log() as log:
        assert log.checkpoints()[-1][0] == log.size
    found.close()


def test_an_option_never_takes_a_token(place: Path) -> None:
    for command in ("status", "launch", "users"):
        _, said, _ = ran("coordinator", command, "--help")
        assert "--token" not in said


def test_no_process_of_the_coordinator_inherits_a_token() -> None:
    found = without_token({"PATH": "x", "WARDROUND_TOKEN": "t", "WARDROUND_TOKEN_FILE": "f"})
    assert found == {"PATH": "x"}


@pytest.mark.parametrize(
    ("text", "says"),
    [('[access]\ntokens = "always"', "access.tokens: Input should be 'optional' or 'required'"),
     ("[access]\ntoken = true", "access.token: Extra inputs are not permitted")],
)  # fmt: skip
def test_a_wrong_key_of_access_is_named(place: Path, text: str, says: str) -> None:
    config = place / "config.toml"
    config.write_text(f"{config.read_text()}\n{text}\n")
    assert says in refused("coordinator", "status", "--home", place)


# what the audit log says


def test_all_that_is_done_to_the_network_is_in_the_log_with_who_did_it(place: Path) -> None:
    one = make_enrolment("north", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))
    two = make_enrolment("south", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))
    Path("north.json").write_bytes(one.to_json())
    done("coordinator", "admit", "north.json", "--yes", "--home", place)
    done("coordinator", "invite", "south", "--home", place)
    registry = Registry(place / "coordinator.db")
    token = registry.invite("south", NOW + DAY, NOW, again=True)
    registry.enrol(two, token, NOW)
    registry.enrol(two, token, NOW)  # its reply was lost: nothing is new
    registry.close()
    done("coordinator", "hospitals", "--revoke", "north", "--yes", "--home", place)
    done("coordinator", "hospitals", "--left", "south", "--yes", "--home", place)
    done("coordinator", "renew-certificate", "--home", place)
    found = [(actor, event, detail.partition(",")[0]) for actor, event, _, detail in entries(place)]
    me = owner()
    assert found[1:] == [
        (me, "admit", f"north {one.digest.hex()}"), (me, "invite", "south"),
        ("coordinator", "invite", "south"), ("hospital:south", "enrol", f"south {two.digest.hex()}"),
        (me, "revoke", "north"), (me, "leave", "south"), (me, "renew-certificate", ""),
    ]  # fmt: skip
    assert found[0][:2] == (me, "init")
    assert token not in str(entries(place))


def test_what_was_refused_is_not_in_the_log(home: CoordinatorHome) -> None:
    before = entries(home)
    for wrong in (lambda: home.registry.revoke("nobody"), lambda: home.registry.invite("a/b", NOW + 1, NOW),
                  lambda: Users(home.registry).renew("nobody", NOW + 1, NOW)):  # fmt: skip
        with pytest.raises(WardroundError):
            wrong()
    assert entries(home) == before


def test_what_cannot_be_audited_is_not_done(place: Path) -> None:
    done("coordinator", "launch", STUDY, "--home", place)
    with (registry := Registry(place / "coordinator.db")).transaction() as db:
        db.execute("create trigger full before insert on audit_entries begin select raise(abort, 'no'); end")
    registry.close()
    for command in (["stop", STUDY], ["launch", STUDY, "--again"], ["hospitals", "--revoke", "x", "--yes"]):
        code, _, err = ran("coordinator", *command, "--home", place)
        assert code == 2
        assert "error: " in err
    folder = StudyFolder(place / "studies" / STUDY)
    assert folder.order.wanted == "run"
    assert [one.name for one in (place / "studies").iterdir()] == [STUDY]


@pytest.fixture(scope="module")
def conducted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The transcript and results of a study, as its folder holds them once it was conducted."""
    folder = tmp_path_factory.mktemp("study")
    study, tables = read_study(shipped(STUDY)), shipped_tables(STUDY)
    simulate(study, tables, transcript=folder / "transcript").write(folder / "results")
    return folder


def test_a_studys_course_is_in_the_log_once_whoever_looks(
    place: Path, home: CoordinatorHome, conducted: Path
) -> None:
    done("coordinator", "launch", STUDY, "--home", place)
    folder = StudyFolder(place / "studies" / STUDY)
    shutil.copytree(conducted, folder.path, dirs_exist_ok=True)
    watch = Watch(home)
    for state in ("gathering", "running", "running", "finished", "finished"):
        folder.tell(replace(folder.status, state=state))
        watch.look(folder, folder.status)
        Watch(home).look(folder, folder.status)  # as after a restart
    [epoch] = folder.epochs
    study = read_study(shipped(STUDY))
    found = [one for one in entries(home) if one[2]]
    assert found[0] == (owner(), "launch", STUDY, f"study sha256:{study.digest.hex()}")
    assert found[1][:3] == ("coordinator", "epoch", STUDY)
    assert found[1][3] == f"1 {epoch.digest.hex()} {', '.join(epoch.hospitals)}"
    assert found[2][:3] == ("coordinator", "finished", STUDY)
    assert re.fullmatch("results sha256:[0-9a-f]{64}", found[2][3])
    assert len(found) == 3
    with home.registry.log() as log:
        assert log.checkpoints()[-1][0] == log.size, "a study's end is signed at once"
    done("coordinator", "results", STUDY, "--json", "--home", place)
    done("coordinator", "results", STUDY, "--out", "kept", "--home", place)
    assert [one[1:] for one in entries(home)[-2:]] == [
        ("results", STUDY, found[2][3]), ("export", STUDY, found[2][3]),
    ]  # fmt: skip
    done("coordinator", "launch", STUDY, "--again", "--home", place)
    assert entries(home)[-1][1] == "relaunch"


def test_of_many_who_look_at_the_same_moment_one_notes_an_end(
    place: Path, home: CoordinatorHome, conducted: Path
) -> None:
    folder = enter(home.studies, read_study(shipped(STUDY)), Order())
    shutil.copytree(conducted, folder.path, dirs_exist_ok=True)
    folder.tell(replace(folder.status, state="finished"))
    homes, together = [CoordinatorHome(place) for _ in range(6)], threading.Barrier(6)

    def look(one: CoordinatorHome) -> None:
        one.registry.hospitals()
        together.wait()
        Watch(one).look(folder, folder.status)
        one.registry.close()

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(look, homes))
    assert [one[1] for one in entries(home)[1:]] == ["epoch", "finished"]


def test_the_end_that_nobody_saw_is_noted_before_the_study_goes_on(
    place: Path, home: CoordinatorHome
) -> None:
    done("coordinator", "launch", STUDY, "--home", place)
    done("coordinator", "stop", STUDY, "--home", place)
    folder = StudyFolder(place / "studies" / STUDY)
    why = "`north` refuses: it has too few usable rows (min_rows)"
    folder.tell(replace(folder.status, state="failed", why=why))
    done("coordinator", "resume", STUDY, "--home", place)
    assert [one[1:] for one in entries(home)[1:]] == [
        ("launch", STUDY, f"study sha256:{read_study(shipped(STUDY)).digest.hex()}"), ("stop", STUDY, ""),
        ("failed", STUDY, "min_rows"), ("resume", STUDY, ""),
    ]  # fmt: skip


def test_of_a_failure_the_log_has_no_more_than_its_code(home: CoordinatorHome) -> None:
    folder = enter(home.studies, read_study(shipped(STUDY)), Order())
    Watch(home).look(
        folder, Status(STUDY, "failed", why="the estimate of age 61.5 (separated) does not exist")
    )
    assert entries(home)[-1] == ("coordinator", "failed", STUDY, "")


def test_a_transcript_that_cannot_be_read_is_said_once_and_hides_no_end(home: CoordinatorHome) -> None:
    folder = enter(home.studies, read_study(shipped(STUDY)), Order())
    folder.transcript.write_bytes(b"no transcript at all")
    folder.tell(replace(folder.status, state="failed"))
    watch = Watch(home)
    with pytest.raises(WardroundError, match="this is no transcript"):
        watch.look(folder, folder.status)
    watch.look(folder, folder.status)
    assert entries(home)[-1][1] == "failed"


def test_a_paused_study_is_noted_again_only_once_it_went_on(home: CoordinatorHome, conducted: Path) -> None:
    folder = enter(home.studies, read_study(shipped(STUDY)), Order())
    paused = replace(folder.status, state="paused", waiting=("north", "south"))
    watch = Watch(home)
    for status in (paused, replace(paused, state="gathering"), paused):
        watch.look(folder, status)
    assert [one[1:] for one in entries(home)[1:]] == [("paused", STUDY, "waiting for north, south")]
    shutil.copy(conducted / "transcript", folder.transcript)
    for status in (replace(paused, state="running"), paused):
        watch.look(folder, status)
    assert [one[1] for one in entries(home)[1:]] == ["paused", "epoch", "paused"]


# checkpoints


def test_checkpoints_are_signed_with_the_key_of_init_five_minutes_apart(home: CoordinatorHome) -> None:
    public = Identity.from_pem(home.audit_key_file.read_bytes()).public
    assert stat.S_IMODE(home.audit_key_file.stat().st_mode) == 0o600
    assert entries(home)[0][3] == f"audit key {public.hex()}"
    now = time.time()
    assert sign(home, now=now)
    assert not sign(home, now=now + 10**6), "nothing is new"
    home.registry.audit("serve")
    assert not sign(home, now=now + 200)
    assert sign(home, now=now + 400)
    home.registry.audit("serve")
    assert sign(home, now=now + 401, at_once=True)
    with home.registry.log() as log:
        notes, head = log.checkpoints(), log.head()
        assert log.verify(public, Origin(COORDINATOR, "test")) == head
    assert [size for size, _ in notes] == [1, 2, 3]
    assert read_checkpoint(notes[-1][1]).head == head


def test_a_home_without_a_key_gets_one_but_never_a_second(home: CoordinatorHome) -> None:
    home.audit_key_file.unlink()
    assert sign(home)
    assert stat.S_IMODE(home.audit_key_file.stat().st_mode) == 0o600
    home.registry.audit("serve")
    home.audit_key_file.unlink()
    with pytest.raises(WardroundError, match=r"audit\.key: there is no such file"):
        sign(home, at_once=True)
    assert not home.audit_key_file.exists()


def test_a_command_that_cannot_sign_says_so_and_is_done(place: Path) -> None:
    (place / "keys" / "audit.key").write_text("no key")
    code, _, err = ran("coordinator", "invite", "north", "--home", place)
    assert code == 0
    assert "note: the audit log was not signed: " in err
    assert entries(place)[-1][1] == "invite"


def test_the_log_of_commands_verifies_and_a_rewritten_entry_is_found(place: Path) -> None:
    for name in ("north", "south", "east"):
        done("coordinator", "invite", name, "--home", place)
    assert "4" in done("audit", "verify", "--home", place)
    db = sqlite3.connect(place / "coordinator.db", isolation_level=None)
    db.execute("drop trigger audit_entries_are_not_updated")
    entry = Entry.decode(db.execute("select entry from audit_entries where seq = 3").fetchone()[0])
    db.execute(
        "update audit_entries set entry = ? where seq = 3", (replace(entry, actor="user:ann").encoded(),)
    )
    db.close()
    assert "entry 3" in refused("audit", "verify", "--home", place)


# the database


def test_a_registry_of_the_first_version_gets_users_and_an_audit_log_and_keeps_what_it_has(
    tmp_path: Path,
) -> None:
    path = tmp_path / "coordinator.db"
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("pragma journal_mode = wal")
    for statement in (*_FIRST, f"pragma application_id = {0x57524F43}", "pragma user_version = 1"):
        db.execute(statement)
    one = make_enrolment("north", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))
    row = (1, "north", one.identity, one.node_key, "admitted", None, NOW, False)
    db.execute("insert into hospitals values (?, ?, ?, ?, ?, ?, ?, ?)", row)
    db.close()
    for _ in range(2):
        registry = Registry(path)
        assert [(found.name, found.digest) for found in registry.hospitals()] == [("north", one.digest)]
        assert registry._db.execute("pragma user_version").fetchone() == (2,)
        registry.audit("serve")
        registry.close()
    registry = Registry(path)
    with registry.log() as log:
        assert log.size == 2
    registry.close()


APPENDS = """
import sys
from pathlib import Path
from wardround_server.registry import Registry

registry = Registry(Path(sys.argv[1]), actor=sys.argv[2])
for _ in range(50):
    registry.audit("serve")
"""


def test_processes_that_append_at_once_make_one_log(home: CoordinatorHome) -> None:
    path = home.path / "coordinator.db"
    started = [subprocess.Popen([sys.executable, "-c", APPENDS, str(path), f"p{i}"]) for i in range(3)]
    assert [one.wait(60) for one in started] == [0, 0, 0]
    with home.registry.log() as log:
        assert log.size == 151
        log.verify(Identity.from_pem(home.audit_key_file.read_bytes()).public)
