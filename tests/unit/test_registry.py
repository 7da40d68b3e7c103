"""The registry: one token admits one pair of keys, a name is one hospital's, a revoked key stays out."""

from __future__ import annotations

import os
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from wardround_common.enrolment import PROTOCOL, REFUSALS, Enrolment, EnrolmentRefused, make_enrolment
from wardround_common.errors import WardroundError
from wardround_common.sealing.identity import Identity
from wardround_server.registry import HospitalRecord, Registry

NOW, WEEK = 1_790_000_000, 7 * 86400
SOON = NOW + WEEK


def enrolment(name: str = "Basel", identity: Identity | None = None) -> Enrolment:
    return make_enrolment(name, identity or Identity.generate(), ec.generate_private_key(ec.SECP384R1()))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "coordinator.db"


@pytest.fixture
def registry(path: Path) -> Iterator[Registry]:
    opened = Registry(path)
    yield opened
    opened.close()


def code_of(refused: Callable[[], object]) -> str:
    with pytest.raises(EnrolmentRefused) as caught:
        refused()
    return caught.value.code


def states(registry: Registry) -> list[tuple[str, str]]:
    return [(one.name, one.state) for one in registry.hospitals()]


# the way in


def test_an_invited_hospital_is_admitted_with_its_keys(registry: Registry) -> None:
    one = enrolment()
    record = registry.enrol(one, registry.invite("Basel", SOON, NOW), NOW + 5.5)
    assert record == HospitalRecord("Basel", one.identity, one.node_key, "admitted", None, NOW + 5, one.words)
    assert registry.hospitals() == [record]
    assert record.digest == one.digest
    assert registry.invitations() == []


def test_what_was_admitted_is_there_after_a_restart(path: Path, registry: Registry) -> None:
    record = registry.enrol(enrolment(), registry.invite("Basel", SOON, NOW), NOW)
    token = registry.invite("Bern", SOON, NOW)
    registry.close()
    again = Registry(path)
    assert again.hospitals() == [record]
    assert [(one.hospital, one.made_at, one.expires) for one in again.invitations()] == [("Bern", NOW, SOON)]
    assert again.enrol(enrolment("Bern"), token, NOW).state == "admitted"
    again.close()


def test_the_same_enrolment_may_come_again_since_its_reply_may_be_lost(registry: Registry) -> None:
    identity, node = Identity.generate(), ec.generate_private_key(ec.SECP384R1())
    token = registry.invite("Basel", SOON, NOW)
    record = registry.enrol(make_enrolment("Basel", identity, node), token, NOW)
    again = make_enrolment("Basel", identity, node)  # the same keys, another ECDSA signature
    assert registry.enrol(again, token, SOON + 1) == record
    assert registry.hospitals() == [record]


# refusals


def test_a_token_that_was_never_made_is_unknown(registry: Registry) -> None:
    registry.invite("Basel", SOON, NOW)
    for token in ("", "a" * 43, "\ud800", "' or 1=1 --"):
        assert code_of(lambda token=token: registry.enrol(enrolment(), token, NOW)) == "token_unknown"


def test_a_token_admits_once(registry: Registry) -> None:
    token = registry.invite("Basel", SOON, NOW)
    registry.enrol(enrolment(), token, NOW)
    assert code_of(lambda: registry.enrol(enrolment(), token, NOW)) == "token_used"
    assert len(registry.hospitals()) == 1


def test_a_token_ends_with_the_second_of_its_expiry(registry: Registry) -> None:
    token, one = registry.invite("Basel", SOON, NOW), enrolment()
    assert code_of(lambda: registry.enrol(one, token, SOON)) == "token_expired"
    assert registry.enrol(one, token, SOON - 1).state == "admitted"


def test_a_token_is_for_one_name(registry: Registry) -> None:
    token = registry.invite("Basel", SOON, NOW)
    assert code_of(lambda: registry.enrol(enrolment("Bern"), token, NOW)) == "name_other"
    assert registry.enrol(enrolment("Basel"), token, NOW).state == "admitted"


def test_an_admitted_name_is_taken(registry: Registry) -> None:
    token = registry.invite("Basel", SOON, NOW)
    registry.admit(enrolment(), NOW)
    other = registry.invite("Basel", SOON, NOW, again=True)
    assert code_of(lambda: registry.enrol(enrolment(), other, NOW)) == "name_taken"
    assert code_of(lambda: registry.admit(enrolment(), NOW)) == "name_taken"
    assert code_of(lambda: registry.enrol(enrolment(), token, NOW)) == "token_used"


def test_a_key_is_one_hospitals(registry: Registry) -> None:
    identity, node = Identity.generate(), ec.generate_private_key(ec.SECP384R1())
    registry.admit(make_enrolment("Basel", identity, node), NOW)
    token = registry.invite("Bern", SOON, NOW)
    for other in (
        make_enrolment("Bern", identity, node),
        make_enrolment("Bern", Identity.generate(), node),
        make_enrolment("Bern", identity, ec.generate_private_key(ec.SECP384R1())),
    ):
        assert code_of(lambda other=other: registry.enrol(other, token, NOW)) == "key_taken"
        assert code_of(lambda other=other: registry.admit(other, NOW)) == "key_taken"
    assert registry.enrol(enrolment("Bern"), token, NOW).state == "admitted"


def test_what_its_keys_did_not_sign_is_refused_both_ways(registry: Registry) -> None:
    forged = replace(enrolment(), node_key=enrolment().node_key)
    token = registry.invite("Basel", SOON, NOW)
    assert code_of(lambda: registry.enrol(forged, token, NOW)) == "bad_signature"
    assert code_of(lambda: registry.admit(forged, NOW)) == "bad_signature"
    assert registry.hospitals() == []


def test_another_protocol_is_refused_both_ways(registry: Registry) -> None:
    newer = replace(enrolment(), protocol=PROTOCOL + 1)
    token = registry.invite("Basel", SOON, NOW)
    assert code_of(lambda: registry.enrol(newer, token, NOW)) == "protocol"
    assert code_of(lambda: registry.admit(newer, NOW)) == "protocol"


def test_every_refusal_says_what_to_do() -> None:
    for code, message in REFUSALS.items():
        assert str(EnrolmentRefused(code)) == message
        assert ";" in message


# invitations


def test_a_second_invitation_is_made_only_when_asked_for(registry: Registry) -> None:
    first = registry.invite("Basel", SOON, NOW)
    with pytest.raises(WardroundError, match="Basel has an open invitation"):
        registry.invite("Basel", SOON, NOW)
    second = registry.invite("Basel", SOON + 1, NOW, again=True)
    assert [one.expires for one in registry.invitations()] == [SOON + 1]
    assert code_of(lambda: registry.enrol(enrolment(), first, NOW)) == "token_unknown"
    registry.enrol(enrolment(), second, NOW)
    with pytest.raises(WardroundError, match="Basel is admitted already"):
        registry.invite("Basel", SOON, NOW)


def test_an_expired_invitation_stands_in_nobodys_way(registry: Registry) -> None:
    registry.invite("Basel", SOON, NOW)
    registry.enrol(enrolment(), registry.invite("Basel", SOON + WEEK, SOON), SOON)
    assert registry.invitations() == []


def test_an_admitted_hospital_that_is_invited_again_may_enrol_with_the_keys_it_has(
    registry: Registry,
) -> None:
    one = enrolment()
    record = registry.admit(one, NOW)
    registry.set_node_id("Basel", 7)
    token = registry.invite("Basel", SOON, NOW, again=True)
    assert registry.enrol(one, token, NOW + 9) == replace(record, node_id=7)
    assert registry.invitations() == []


@pytest.mark.parametrize("name", ["", "a,b", "a/b", " a", "a\n"])
def test_only_a_name_can_be_invited(registry: Registry, name: str) -> None:
    with pytest.raises(WardroundError, match="name"):
        registry.invite(name, SOON, NOW)


@pytest.mark.parametrize("expires", [NOW, NOW - 1, 0, -1, 2**63, 10**15])
def test_an_invitation_has_a_future(registry: Registry, expires: int) -> None:
    with pytest.raises(WardroundError, match="expire in the future"):
        registry.invite("Basel", expires, NOW)
    assert registry.invitations() == []


def test_tokens_are_long_different_and_kept_as_hashes_only(path: Path, registry: Registry) -> None:
    tokens = [registry.invite(f"H{i}", SOON, NOW) for i in range(20)]
    assert len(set(tokens)) == 20
    assert all(len(token) == 43 for token in tokens)
    registry.enrol(enrolment("H0"), tokens[0], NOW)
    files = b"".join(file.read_bytes() for file in path.parent.glob("coordinator.db*"))
    assert b"H19" in files
    assert not any(token.encode() in files for token in tokens)
    shown = f"{registry!r} {registry.invitations()} {registry.hospitals()}"
    assert not any(token in shown for token in tokens)


# the offline way


def test_an_enrolment_whose_words_were_compared_needs_no_token(registry: Registry) -> None:
    one = enrolment()
    record = registry.admit(one, NOW)
    assert registry.admit(one, NOW + 9) == record
    assert registry.hospitals() == [record]


def test_a_hospital_that_was_admitted_offline_may_still_show_its_token(registry: Registry) -> None:
    token, one = registry.invite("Basel", SOON, NOW), enrolment()
    record = registry.admit(one, NOW)
    assert registry.invitations() == []
    assert registry.enrol(one, token, NOW + 9) == record
    assert code_of(lambda: registry.enrol(enrolment(), token, NOW)) == "token_used"


def test_a_stock_node_is_noted_as_such(registry: Registry) -> None:
    one = enrolment()
    assert registry.admit(one, NOW, stock=True).stock is True
    assert registry.admit(enrolment("Bern"), NOW).stock is False
    assert registry.admit(one, NOW, stock=False).stock is False


# the way out


def test_a_revoked_hospital_comes_back_with_new_keys_only(registry: Registry) -> None:
    identity, node = Identity.generate(), ec.generate_private_key(ec.SECP384R1())
    old, used = make_enrolment("Basel", identity, node), registry.invite("Basel", SOON, NOW)
    registry.enrol(old, used, NOW)
    registry.revoke("Basel")
    assert states(registry) == [("Basel", "revoked")]
    assert code_of(lambda: registry.enrol(old, used, NOW)) == "token_used"
    token = registry.invite("Basel", SOON, NOW)
    for barred in (
        old,
        make_enrolment("Basel", identity, ec.generate_private_key(ec.SECP384R1())),
        make_enrolment("Basel", Identity.generate(), node),
    ):
        assert code_of(lambda barred=barred: registry.enrol(barred, token, NOW)) == "key_taken"
        assert code_of(lambda barred=barred: registry.admit(barred, NOW)) == "key_taken"
    assert code_of(lambda: registry.admit(make_enrolment("Bern", identity, node), NOW)) == "key_taken"
    new = registry.enrol(enrolment(), token, NOW)
    assert states(registry) == [("Basel", "revoked"), ("Basel", "admitted")]
    assert registry.hospitals()[1] == new


def test_a_key_stays_barred_after_its_name_came_back(registry: Registry) -> None:
    old = enrolment()
    registry.admit(old, NOW)
    registry.revoke("Basel")
    registry.admit(enrolment(), NOW)
    assert code_of(lambda: registry.admit(old, NOW)) == "name_taken"
    registry.revoke("Basel")
    assert code_of(lambda: registry.admit(old, NOW)) == "key_taken"


def test_revoking_withdraws_the_invitation(registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    token = registry.invite("Basel", SOON, NOW, again=True)
    never = registry.invite("Bern", SOON, NOW)
    registry.revoke("Basel")
    registry.revoke("Basel")
    registry.revoke("Bern")
    assert registry.invitations() == []
    assert code_of(lambda: registry.enrol(enrolment(), token, NOW)) == "token_unknown"
    assert code_of(lambda: registry.enrol(enrolment("Bern"), never, NOW)) == "token_unknown"


def test_a_hospital_that_left_comes_back_with_the_same_keys_if_it_is_invited(registry: Registry) -> None:
    one, used = enrolment(), registry.invite("Basel", SOON, NOW)
    registry.enrol(one, used, NOW)
    registry.set_node_id("Basel", 7)
    registry.leave("Basel")
    assert states(registry) == [("Basel", "left")]
    assert code_of(lambda: registry.enrol(one, used, NOW)) == "token_used"
    back = registry.enrol(one, registry.invite("Basel", SOON, NOW), NOW + 9)
    assert (back.state, back.admitted_at, back.node_id) == ("admitted", NOW + 9, None)
    assert registry.hospitals() == [back]


def test_a_hospital_that_left_comes_back_with_new_keys_too(registry: Registry) -> None:
    old = enrolment()
    registry.admit(old, NOW)
    registry.leave("Basel")
    registry.admit(enrolment(), NOW)
    assert states(registry) == [("Basel", "left"), ("Basel", "admitted")]
    registry.revoke("Basel")
    assert states(registry) == [("Basel", "revoked"), ("Basel", "revoked")]
    assert code_of(lambda: registry.admit(old, NOW)) == "key_taken"


def test_leaving_does_not_undo_a_revocation(registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    registry.revoke("Basel")
    registry.leave("Basel")
    assert states(registry) == [("Basel", "revoked")]


def test_a_name_that_is_unknown_is_said_with_the_nearest(registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    with pytest.raises(WardroundError, match=r"no hospital is named 'Bsael' \(did you mean `Basel`\?\)"):
        registry.revoke("Bsael")
    for name in ("\ud800", "\x1b[2J", "x" * 10_000):
        with pytest.raises(WardroundError, match="no hospital") as caught:
            registry.leave(name)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 200


# Flower's numbers


@pytest.mark.parametrize("node_id", [0, 1, 2**63 - 1, 2**63, 2**64 - 1, 12_345_678_901_234_567_890])
def test_a_nodes_number_keeps_all_its_64_bits(registry: Registry, node_id: int) -> None:
    registry.admit(enrolment(), NOW)
    registry.admit(enrolment("Bern"), NOW)
    registry.set_node_id("Bern", node_id)
    found = registry.by_node_id(node_id)
    assert found is not None
    assert (found.name, found.node_id) == ("Bern", node_id)
    assert registry.hospitals()[1] == found


def test_a_number_that_nobody_has_is_nobodys(registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    assert [registry.by_node_id(one) for one in (0, 7, -1, 2**64, 2**70)] == [None] * 5


@pytest.mark.parametrize("node_id", [-1, 2**64])
def test_a_number_of_more_bits_is_refused(registry: Registry, node_id: int) -> None:
    registry.admit(enrolment(), NOW)
    with pytest.raises(ValueError, match="64 bits"):
        registry.set_node_id("Basel", node_id)


def test_a_number_is_one_hospitals(registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    registry.admit(enrolment("Bern"), NOW)
    registry.set_node_id("Basel", 7)
    with pytest.raises(WardroundError, match="Bern: its node's number is another hospital's"):
        registry.set_node_id("Bern", 7)
    registry.set_node_id("Basel", 8)
    registry.set_node_id("Bern", 7)
    registry.set_node_id("Basel", None)
    assert [one.node_id for one in registry.hospitals()] == [None, 7]


def test_a_revoked_hospitals_number_still_tells_whose_it_was(registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    registry.set_node_id("Basel", 7)
    registry.revoke("Basel")
    registry.admit(enrolment(), NOW)
    found = registry.by_node_id(7)
    assert found is not None
    assert found.state == "revoked"
    assert [one.node_id for one in registry.hospitals()] == [7, None]


def test_only_an_admitted_hospital_gets_a_number(registry: Registry) -> None:
    registry.invite("Bern", SOON, NOW)
    registry.admit(enrolment(), NOW)
    registry.revoke("Basel")
    for name in ("Basel", "Bern"):
        with pytest.raises(WardroundError, match="not admitted"):
            registry.set_node_id(name, 7)
    with pytest.raises(WardroundError, match="no hospital"):
        registry.set_node_id("Chur", 7)


# several processes and threads


def test_a_token_admits_one_of_many_threads(path: Path, registry: Registry) -> None:
    token = registry.invite("Basel", SOON, NOW)
    registries = [registry, Registry(path), Registry(path)]

    def tried(index: int) -> str:
        try:
            return registries[index % 3].enrol(enrolment(), token, NOW).state
        except EnrolmentRefused as refused:
            return refused.code

    with ThreadPoolExecutor(12) as pool:
        outcomes = list(pool.map(tried, range(12)))
    assert sorted(outcomes) == ["admitted"] + ["token_used"] * 11
    assert len(registry.hospitals()) == 1
    for one in registries[1:]:
        one.close()


RACE = """
import sys, time
from pathlib import Path
from cryptography.hazmat.primitives.asymmetric import ec
from wardround_common.enrolment import EnrolmentRefused, make_enrolment
from wardround_common.sealing.identity import Identity
from wardround_server.registry import Registry

path, token, now = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
mine = make_enrolment("Basel", Identity.generate(), ec.generate_private_key(ec.SECP384R1()))
print("ready", flush=True)
sys.stdin.readline()
registry = Registry(path)
try:
    print(registry.enrol(mine, token, now).state)
except EnrolmentRefused as refused:
    print(refused.code)
"""


def raced(path: Path, token: str, count: int) -> list[str]:
    """Let processes enrol other keys with one token at the same moment; return what each was told."""
    command = [sys.executable, "-c", RACE, str(path), token, str(NOW)]
    started = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(count)
    ]
    for one in started:
        assert one.stdout is not None
        assert one.stdout.readline() == "ready\n"
    for one in started:
        assert one.stdin is not None
        one.stdin.write("\n")
        one.stdin.flush()
    return sorted(one.communicate(timeout=60)[0].strip() for one in started)


def test_a_token_admits_one_of_many_processes(path: Path, registry: Registry) -> None:
    token = registry.invite("Basel", SOON, NOW)
    assert raced(path, token, 4) == ["admitted"] + ["token_used"] * 3
    assert states(registry) == [("Basel", "admitted")]


def test_processes_that_make_the_file_at_the_same_moment_get_along(path: Path) -> None:
    assert raced(path, "unknown", 4) == ["token_unknown"] * 4
    assert Registry(path).hospitals() == []


def test_threads_that_make_the_file_at_the_same_moment_get_along(tmp_path: Path) -> None:
    for attempt in range(10):
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(Registry, [tmp_path / f"{attempt}.db"] * 8))
        for one in opened:
            assert one.hospitals() == []
            one.close()


def test_a_reader_sees_the_last_commit_while_another_writes(path: Path, registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    writer = sqlite3.connect(path, isolation_level=None)
    writer.execute("begin immediate")
    writer.execute("update hospitals set state = 'revoked'")
    assert states(registry) == [("Basel", "admitted")]
    writer.execute("commit")
    writer.close()
    assert states(registry) == [("Basel", "revoked")]


# the file


def test_the_files_are_for_their_owner_alone_and_durable(path: Path) -> None:
    path.touch(0o644)
    path.chmod(0o644)
    registry = Registry(path)
    registry.invite("Basel", SOON, NOW)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    assert modes == {"coordinator.db": 0o600, "coordinator.db-wal": 0o600, "coordinator.db-shm": 0o600}
    assert registry._db.execute("pragma journal_mode").fetchone() == ("wal",)
    assert registry._db.execute("pragma synchronous").fetchone() == (2,)
    registry.close()


def test_what_was_not_committed_is_not_there(registry: Registry) -> None:
    token, one = registry.invite("Basel", SOON, NOW), enrolment()
    registry._db.execute(
        "create temp trigger fails before update of used_by on invitations "
        "begin select raise(abort, 'no'); end"
    )
    with pytest.raises(WardroundError, match="cannot be used"):
        registry.enrol(one, token, NOW)
    assert registry.hospitals() == []
    registry._db.execute("drop trigger fails")
    assert registry.enrol(one, token, NOW).state == "admitted"


@pytest.mark.parametrize("content", [b"x", b"age,sex\n63,1\n" * 500, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(WardroundError, match=r"coordinator\.db: .* is no database"):
        Registry(path)
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("statement", "said"),
    [("create table answers (binding blob)", "another program's database"),
     ("pragma application_id = 1", "another program's database"),
     ("pragma user_version = 3", "another program's database")],
)  # fmt: skip
def test_another_programs_database_is_refused(path: Path, statement: str, said: str) -> None:
    db = sqlite3.connect(path)
    db.execute(statement)
    db.close()
    with pytest.raises(WardroundError, match=said):
        Registry(path)


def test_a_newer_registry_is_refused(path: Path, registry: Registry) -> None:
    registry._db.execute("pragma user_version = 3")
    registry.close()
    with pytest.raises(WardroundError, match="another version of Wardround"):
        Registry(path)


def test_a_damaged_database_is_said_to_be(path: Path, registry: Registry) -> None:
    for index in range(40):
        registry.invite(f"H{index}", SOON, NOW)
    registry.close()
    data = path.read_bytes()
    path.write_bytes(data[:4096] + b"\xff" * (len(data) - 4096))
    with pytest.raises(WardroundError, match="is damaged"):
        Registry(path).invitations()


def test_a_database_that_another_process_holds_is_said_to_be_locked(path: Path, registry: Registry) -> None:
    impatient = Registry(path, busy_s=0.05)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin immediate")
    with pytest.raises(WardroundError, match=r"coordinator\.db: .* is locked by another process"):
        impatient.invite("Basel", SOON, NOW)
    assert impatient.hospitals() == []
    other.execute("commit")
    assert impatient.invite("Basel", SOON, NOW)
    other.close()
    impatient.close()


def test_a_new_database_that_another_process_holds_is_said_to_be_locked(path: Path) -> None:
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("begin exclusive")
    with pytest.raises(WardroundError, match="is locked by another process"):
        Registry(path, busy_s=0.05)
    other.close()


def test_a_full_disk_is_said_and_changes_nothing(path: Path, registry: Registry) -> None:
    registry.admit(enrolment(), NOW)
    pages = registry._db.execute("pragma page_count").fetchone()[0]
    registry._db.execute(f"pragma max_page_count = {pages}")
    with pytest.raises(WardroundError, match="the disk is full; make room"):
        for index in range(200):
            registry.admit(enrolment(f"H{index}"), NOW)
    kept = registry.hospitals()
    assert kept[0].name == "Basel"
    registry._db.execute("pragma max_page_count = 100000")
    assert registry.admit(enrolment("Zug"), NOW).state == "admitted"
    assert len(registry.hospitals()) == len(kept) + 1


READS_ONLY = """
import os, sys
from pathlib import Path
from wardround_common.errors import WardroundError
from wardround_server.registry import Registry

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
try:
    Registry(Path(sys.argv[1])).invite("Bern", 2_000_000_000, 1_790_000_000)
except WardroundError as error:
    print(error)
"""


def test_a_database_that_may_only_be_read_is_said_to_be() -> None:
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders may not be entered by another user
        path = Path(name) / "coordinator.db"
        Registry(path).close()
        if os.getuid() == 0:
            os.chown(path, 65534, 65534)
        path.chmod(0o400)
        path.parent.chmod(0o555)
        said = subprocess.run(
            [sys.executable, "-c", READS_ONLY, str(path)], capture_output=True, text=True, check=True
        ).stdout
        path.parent.chmod(0o755)
    assert said.count("\n") == 1
    assert "check who owns it and its folder" in said


def test_a_place_where_no_file_can_be_is_named(tmp_path: Path) -> None:
    for place in (tmp_path / "missing" / "coordinator.db", tmp_path):
        with pytest.raises(WardroundError) as caught:
            Registry(place)
        assert str(caught.value).startswith(f"{place}: the coordinator's database cannot be opened")
    assert stat.S_IMODE(tmp_path.stat().st_mode) & 0o100


def test_a_registry_that_was_closed_says_so(registry: Registry) -> None:
    registry.close()
    with pytest.raises(WardroundError, match="cannot be used"):
        registry.hospitals()
