"""The audit log: it only grows, and whatever is done to it behind its back is noticed, and where."""

from __future__ import annotations

import os
import sqlite3
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wardround_common.audit.database import find_log
from wardround_common.audit.entry import MOST_BYTES, Entry
from wardround_common.audit.log import SCHEMA, AuditLog
from wardround_common.audit.merkle import EMPTY, leaf_hash, new_node
from wardround_common.audit.note import Origin, read_checkpoint, sign_checkpoint
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity, verify, verify_note

OWNER = Identity.from_bytes(bytes(range(32)))
STRANGER = Identity.from_bytes(bytes(range(1, 33)))
ORIGIN = Origin("hospital", "north")
SIGNED = 12  # the size of the last signed checkpoint


def entry(number: int) -> Entry:
    return Entry(1_790_000_000_000 + number, "node", "release", "heart", f"logistic/{number}")


@pytest.fixture
def db() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:")) as opened:
        for statement in SCHEMA:
            opened.execute(statement)
        yield opened


@pytest.fixture
def log(db: sqlite3.Connection) -> AuditLog:
    """Fifteen entries, with checkpoints at 5 and 12."""
    made = AuditLog(db)
    for number in range(1, 16):
        made.append(entry(number))
        if number in (5, SIGNED):
            made.keep(sign_checkpoint(OWNER, ORIGIN, made.head()), number)
    return made


def bare(db: sqlite3.Connection) -> None:
    """Take the triggers away, as somebody with the file can."""
    for (name,) in db.execute("select name from sqlite_master where type = 'trigger'").fetchall():
        db.execute(f"drop trigger {name}")


def grown_anew(db: sqlite3.Connection, entries: list[bytes]) -> None:
    """Write other entries, with nodes that fit them."""
    bare(db)
    db.execute("delete from audit_entries")
    nodes = [b""]
    for number, data in enumerate(entries, 1):
        nodes.append(new_node(number, leaf_hash(data), nodes.__getitem__))
        db.execute("insert into audit_entries values (?, ?, ?)", (number, data, nodes[-1]))


def told(log: AuditLog, *heads: AuditHead) -> str:
    with pytest.raises(WardroundError) as caught:
        log.verify(OWNER.public, ORIGIN, heads)
    return str(caught.value)


# entries


def test_an_entry_is_canonical_json_and_comes_back() -> None:
    one = Entry(17, "officer:ä", "approve", "heart", 'a "quoted"\nline')
    assert (
        one.encoded()
        == (
            '{"actor":"officer:ä","at":17,"detail":"a \\"quoted\\"\\nline","event":"approve","study":"heart"}'
        ).encode()
    )
    assert Entry.decode(one.encoded()) == one


def test_halves_of_characters_become_question_marks() -> None:
    assert Entry.decode(Entry(1, "a\ud800", "b", "c", "d").encoded()).actor == "a?"


GOOD = entry(1).encoded()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        b"[]",
        b"17",
        b"\xff",
        GOOD + b" ",
        GOOD[:-1],
        GOOD.replace(b":", b": ", 1),
        GOOD.replace(b'"actor"', b'"action"'),
        GOOD[:-1] + b',"z":1}',
        GOOD[:-1] + b',"study":"heart"}',
        GOOD.replace(b"1790000000001", b"1790000000001.0"),
        GOOD.replace(b"1790000000001", b'"1790000000001"'),
        GOOD.replace(b"1790000000001", b"true"),
        GOOD.replace(b"1790000000001", b"-1"),
        GOOD.replace(b"1790000000001", b"9" * 16),
        GOOD.replace(b"1790000000001", b"9" * 5000),
        GOOD.replace(b"1790000000001", b"NaN"),
        GOOD.replace(b'"heart"', b"null"),
        GOOD.replace(b'"heart"', b"[]"),
        GOOD.replace(b"heart", b"\\u0068eart"),
        GOOD.replace(b"heart", b"\\ud800"),
        GOOD.decode().encode("utf-16"),
        b"[" * MOST_BYTES,
        Entry(1, "", "", "", "").encoded().replace(b'"detail":""', b'"detail":"' + b"x" * MOST_BYTES + b'"'),
    ],
)
def test_what_is_no_entry_of_ours_is_refused_without_being_told(data: bytes) -> None:
    with pytest.raises(ProtocolError) as caught:
        Entry.decode(data)
    assert str(caught.value) == "an audit entry that cannot be read"


@pytest.mark.parametrize(
    "one",
    [replace(entry(1), detail="x" * MOST_BYTES), replace(entry(1), at=-1), replace(entry(1), at=1 << 53)],
)
def test_an_entry_that_could_not_be_read_again_is_not_written(log: AuditLog, one: Entry) -> None:
    with pytest.raises(ProtocolError):
        log.append(one)
    assert log.size == 15


# the log


def test_an_empty_log(db: sqlite3.Connection) -> None:
    log = AuditLog(db)
    assert log.head() == log.verify(OWNER.public) == AuditHead(0, EMPTY)
    assert log.had(AuditHead(0, EMPTY))
    assert log.entries() == log.last(5) == log.checkpoints() == []


def test_entries_are_numbered_from_1_and_read_in_parts(log: AuditLog) -> None:
    assert log.entries() == [(number, entry(number)) for number in range(1, 16)]
    assert log.entries(after=13) == [(14, entry(14)), (15, entry(15))]
    assert log.entries(2, 1) == [(3, entry(3))]


def test_the_last_entries_of_one_study(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround_common.audit.log._CHUNK", 4)  # many chunks
    log.append(replace(entry(16), study="lung", detail='"study":"heart"'))
    log.append(entry(17))
    assert [number for number, _ in log.last(3, "heart")] == [14, 15, 17]
    assert [number for number, _ in log.last(3)] == [15, 16, 17]
    assert [number for number, _ in log.last(100, "heart")] == [*range(1, 16), 17]
    assert log.last(3, "hear") == []


def test_a_log_had_the_heads_that_it_had_and_no_others(log: AuditLog) -> None:
    heads = [log.head_at(count) for count in range(16)]
    assert heads[15] == log.head()
    assert all(head is not None and log.had(head) for head in heads)
    assert log.head_at(16) is None and log.head_at(-1) is None
    assert not log.had(AuditHead(16, log.head().head))
    assert not log.had(AuditHead(7, log.head().head))
    assert not log.had(AuditHead(1 << 62, EMPTY))


@pytest.mark.parametrize(("number", "count"), [(0, 5), (6, 5), (1, 16), (1, -1), (16, 16)])
def test_no_path_is_made_for_an_entry_that_is_not_there(log: AuditLog, number: int, count: int) -> None:
    with pytest.raises(WardroundError):
        log.inclusion(number, count)


@pytest.mark.parametrize(("first", "second"), [(-1, 5), (6, 5), (1, 16), (0, -1)])
def test_no_path_is_made_for_a_log_that_never_was(log: AuditLog, first: int, second: int) -> None:
    with pytest.raises(WardroundError):
        log.consistency(first, second)


@pytest.mark.parametrize(
    "statement",
    [
        "update audit_entries set entry = x'00' where seq = 3",
        "delete from audit_entries where seq = 15",
        "insert or replace into audit_entries values (3, x'00', x'00')",
        "insert into audit_entries values (17, x'00', x'00')",
        "insert into audit_entries values (0, x'00', x'00')",
        "update checkpoints set note = ''",
        "delete from checkpoints",
    ],
)
def test_the_database_itself_refuses_what_is_not_growth(
    db: sqlite3.Connection, log: AuditLog, statement: str
) -> None:
    with pytest.raises(sqlite3.IntegrityError, match="the audit log only grows"):
        db.execute(statement)
    assert log.verify(OWNER.public, ORIGIN) == log.head()


def test_of_each_size_the_first_checkpoint_stays(db: sqlite3.Connection, log: AuditLog) -> None:
    before = log.checkpoints()
    log.keep("another", 5)
    db.execute("insert or replace into checkpoints values (5, 'another')")
    assert log.checkpoints() == before
    assert [size for size, _ in before] == [5, SIGNED]


# what verify notices


def test_a_log_that_nobody_touched_fits(log: AuditLog) -> None:
    seen: list[int] = []
    heads = [head for count in range(16) if (head := log.head_at(count))]
    assert log.verify(OWNER.public, ORIGIN, heads, seen.append) == log.head()
    assert seen == [15]


def test_it_is_checked_in_chunks(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wardround_common.audit.log._CHUNK", 4)
    seen: list[int] = []
    assert log.verify(OWNER.public, ORIGIN, progress=seen.append) == log.head()
    assert seen == [4, 8, 12, 15]


def test_a_changed_entry_is_named(db: sqlite3.Connection, log: AuditLog) -> None:
    bare(db)
    db.execute("update audit_entries set entry = ? where seq = 7", (entry(70).encoded(),))
    assert "entry 7 is not what it was" in told(log)


def test_a_changed_node_is_named(db: sqlite3.Connection, log: AuditLog) -> None:
    bare(db)
    db.execute("update audit_entries set node = ? where seq = 8", (bytes(32),))
    assert "entry 8 is not what it was" in told(log)


@pytest.mark.parametrize("seq", [1, 7, 12])
def test_a_dropped_entry_is_named(db: sqlite3.Connection, log: AuditLog, seq: int) -> None:
    bare(db)
    db.execute("delete from audit_entries where seq = ?", (seq,))
    assert f"entry {seq} is not there" in told(log)


@pytest.mark.parametrize("seq", [0, -5, -(1 << 63)])
def test_an_entry_before_the_first_is_noticed(db: sqlite3.Connection, log: AuditLog, seq: int) -> None:
    bare(db)
    db.execute("insert into audit_entries values (?, ?, ?)", (seq, GOOD, leaf_hash(GOOD)))
    assert "entry 1 is not there" in told(log)


def test_an_entry_far_behind_is_noticed(db: sqlite3.Connection, log: AuditLog) -> None:
    bare(db)
    db.execute("insert into audit_entries values (?, ?, ?)", ((1 << 63) - 1, GOOD, leaf_hash(GOOD)))
    assert "entry 16 is not there" in told(log)


def changed(entries: list[bytes]) -> list[bytes]:
    return [entry(70).encoded() if i == 6 else one for i, one in enumerate(entries)]


def swapped(entries: list[bytes]) -> list[bytes]:
    return [*entries[:6], entries[7], entries[6], *entries[8:]]


def dropped(entries: list[bytes]) -> list[bytes]:
    return entries[:6] + entries[7:]


def inserted(entries: list[bytes]) -> list[bytes]:
    return [*entries[:6], GOOD, *entries[6:]]


@pytest.mark.parametrize("how", [changed, swapped, dropped, inserted])
def test_a_log_with_other_nodes_that_fit_it_is_told_by_a_checkpoint(
    db: sqlite3.Connection, log: AuditLog, how: Callable[[list[bytes]], list[bytes]]
) -> None:
    grown_anew(db, how([data for _, data in log.encoded()]))
    assert "one of the entries 6 to 12 is not what it was when the signed checkpoint of 12" in told(log)


@pytest.mark.parametrize("how", [changed, swapped, dropped, inserted])
def test_and_where_the_checkpoints_were_taken_out_too_by_a_head_that_others_hold(
    db: sqlite3.Connection, log: AuditLog, how: Callable[[list[bytes]], list[bytes]]
) -> None:
    head, early = log.head_at(14), log.head_at(6)
    assert head is not None and early is not None
    grown_anew(db, how([data for _, data in log.encoded()]))
    db.execute("delete from checkpoints")
    log.verify(OWNER.public, ORIGIN)  # nothing tells it any more
    log.verify(OWNER.public, ORIGIN, [early])
    assert "one of the entries 7 to 14 is not what it was when the head of 14" in told(log, early, head)


def test_two_heads_of_one_size_are_both_compared(log: AuditLog) -> None:
    head = log.head_at(7)
    assert head is not None
    wrong = AuditHead(7, bytes(32))
    assert "not the one of which the head of 7" in told(log, wrong, head)
    assert "changed: one of the entries 6 to 7" in told(log, head, wrong)
    assert "not the one of which the head of 0" in told(log, AuditHead(0, bytes(32)))
    assert "changed: entry 6 is not" in told(log, AuditHead(6, bytes(32)))


@pytest.mark.parametrize("size", [0, 1, 11])
def test_a_log_cut_shorter_than_a_checkpoint(db: sqlite3.Connection, log: AuditLog, size: int) -> None:
    bare(db)
    db.execute("delete from audit_entries where seq > ?", (size,))
    if size < 5:
        db.execute("delete from checkpoints where size = 5")
    assert f"cut: it ends at entry {size}, before the signed checkpoint of 12" in told(log)


def test_a_log_cut_behind_its_checkpoints_is_told_by_a_head(db: sqlite3.Connection, log: AuditLog) -> None:
    head = log.head()
    bare(db)
    db.execute("delete from audit_entries where seq > 12")
    log.verify(OWNER.public, ORIGIN)
    assert "cut: it ends at entry 12, before the head of 15" in told(log, head)


def flipped_signature(note: str) -> str:
    start, _, text = note.rstrip("\n").rpartition(" ")
    signed = bytearray(b64decode(text))
    signed[20] ^= 1
    return f"{start} {b64encode(signed).decode()}\n"


@pytest.mark.parametrize(
    ("changed_note", "what"),
    [
        (flipped_signature, "signature is not valid"),
        (lambda note: note.replace("\n12\n", "\n11\n"), "signature is not valid"),
        (lambda note: note.replace("north", "south"), "another key"),
        (lambda note: sign_checkpoint(STRANGER, ORIGIN, read_checkpoint(note).head), "another key"),
        (
            lambda note: sign_checkpoint(OWNER, Origin("hospital", "south"), read_checkpoint(note).head),
            "of another log",
        ),
        (
            lambda note: sign_checkpoint(OWNER, Origin("coordinator", "north"), read_checkpoint(note).head),
            "of another log",
        ),
        (
            lambda note: sign_checkpoint(OWNER, ORIGIN, replace(read_checkpoint(note).head, count=13)),
            "another size",
        ),
        (lambda note: "", "cannot be read"),
    ],
)
def test_a_changed_checkpoint(
    db: sqlite3.Connection, log: AuditLog, changed_note: Callable[[str], str], what: str
) -> None:
    bare(db)
    note = changed_note(log.checkpoints()[1][1])
    db.execute("update checkpoints set note = ? where size = 12", (note,))
    message = told(log)
    assert "signed checkpoint at entry 12" in message
    assert what in message


def test_a_log_of_another_key(log: AuditLog) -> None:
    with pytest.raises(WardroundError, match="another key"):
        log.verify(STRANGER.public, ORIGIN)


ODD = (None, 17, 1.5, "text", b"short", b"")


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("column", ["seq", "entry", "node"])
def test_values_of_the_wrong_type_are_damage_and_nothing_worse(value: Any, column: str) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table audit_entries (seq, entry, node)")  # as somebody with the file can make it
        db.execute("create table checkpoints (size, note)")
        log = AuditLog(db)
        for number in range(1, 9):
            log.append(entry(number))
        whole = log.verify(OWNER.public)
        db.execute(f"update audit_entries set {column} = ? where seq = 8", (value,))
        acts: tuple[Callable[[], object], ...] = (
            lambda: log.verify(OWNER.public, heads=[whole]),
            log.head,
            log.entries,
            lambda: log.last(3),
            lambda: log.inclusion(8, 8),
            lambda: log.inclusion(3, 8),
            lambda: log.consistency(7, 8),
            lambda: log.append(entry(9)),
        )
        needed = {"seq": (), "entry": acts[2:4], "node": acts[1:2]}
        for act in acts[:1] + needed[column]:
            with pytest.raises(WardroundError):
                act()
        for act in acts:
            try:
                act()
            except WardroundError as error:
                assert "text" not in str(error)


@pytest.mark.parametrize(("size", "note"), [(None, "a"), (5, b"a"), (5, None), ("five", "a"), (5, 5)])
def test_a_checkpoint_of_the_wrong_type_is_damage(size: Any, note: Any) -> None:
    with closing(sqlite3.connect(":memory:")) as db:
        db.execute("create table audit_entries (seq, entry, node)")
        db.execute("create table checkpoints (size, note)")
        db.execute("insert into checkpoints values (?, ?)", (size, note))
        with pytest.raises(WardroundError):
            AuditLog(db).verify(OWNER.public)


# checkpoints

NOTE = sign_checkpoint(OWNER, ORIGIN, AuditHead(15, bytes(32)))


def test_a_checkpoint_is_a_signed_note() -> None:
    origin, size, top, blank, signature, end = NOTE.split("\n")
    assert (origin, size, blank, end) == ("wardround/hospital/north", "15", "", "")
    assert b64decode(top) == bytes(32)
    dash, name, signed = signature.split(" ")
    assert (dash, name, len(b64decode(signed))) == ("—", origin, 4 + 64)
    verify_note(OWNER.public, b64decode(signed)[4:], f"{origin}\n{size}\n{top}\n".encode())
    found = read_checkpoint(NOTE)
    found.verify(OWNER.public)
    assert (found.origin, found.head) == (ORIGIN, AuditHead(15, bytes(32)))


@pytest.mark.parametrize("name", ["Klinik Süd+West", "a b", "100%", "x" * 64, "山" * 64])
def test_names_with_blanks_and_signs_are_written_so_that_a_keys_name_may_hold_them(name: str) -> None:
    note = sign_checkpoint(OWNER, Origin("hospital", name), AuditHead(1, bytes(32)))
    assert note.isascii() is False  # the dash alone
    assert note.replace("—", "-").isascii()
    assert read_checkpoint(note).origin.name == name


@pytest.mark.parametrize(
    "note",
    [
        "",
        NOTE[:-1],
        NOTE + "\n",
        NOTE + NOTE.rpartition("\n\n")[2],  # two signatures
        NOTE.replace("\n\n", "\nextension\n\n"),
        NOTE.replace("\n15\n", "\n015\n"),
        NOTE.replace("\n15\n", "\n+15\n"),
        NOTE.replace("\n15\n", "\n١٥\n"),
        NOTE.replace("\n15\n", f"\n{1 << 63}\n"),
        NOTE.replace("\n15\n", "\n-1\n"),
        NOTE.replace("—", "-"),
        NOTE.replace("\n", "\r\n"),
        NOTE.replace("A=\n", "B=\n", 1),  # bits that base64 leaves over
        NOTE.replace("AAAA", "AA", 1),
        NOTE.replace("wardround/hospital/north", "wardround/visitor/north"),
        NOTE.replace("wardround/hospital/north", "wardround/hospital/%6Eorth"),
        NOTE.replace("wardround/hospital/north", "wardround/hospital/%0Anorth"),
        NOTE.replace("wardround/hospital/north", "wardround/hospital/%FF"),
        NOTE.replace("wardround/hospital/north", "wardround/hospital/%2F"),
        NOTE.replace("wardround/hospital/north", "wardround/hospital/" + "n" * 1000),
        NOTE.replace("wardround/hospital/north", "wardround/hospital/south", 1),
    ],
)
def test_any_other_text_is_no_checkpoint(note: str) -> None:
    with pytest.raises(ProtocolError):
        read_checkpoint(note)


def test_a_note_and_our_other_signatures_cannot_be_taken_for_each_other() -> None:
    for text in (b"", b"no end", b"\x15\0\0\0label\n", b"a\0b\n", b"a\tb\n"):
        with pytest.raises(ProtocolError):
            OWNER.sign_note(text)
        with pytest.raises(ProtocolError):
            verify_note(OWNER.public, bytes(64), text)
    text = b"wardround/hospital/north\n"
    with pytest.raises(ProtocolError):
        verify(OWNER.public, OWNER.sign_note(text), "wardround/hospital/north")
    with pytest.raises(ProtocolError):
        verify_note(OWNER.public, OWNER.sign("wardround/hospital/north"), text)


# databases


def database(file: Path, application: int = 0x57524F4E, wal: bool = False) -> sqlite3.Connection:
    db = sqlite3.connect(file)
    if wal:
        db.execute("pragma journal_mode = wal")
    db.execute(f"pragma application_id = {application}")
    for statement in SCHEMA:
        db.execute(statement)
    AuditLog(db).append(entry(1))
    db.commit()
    return db


@pytest.mark.parametrize(("application", "side"), [(0x57524F4E, "hospital"), (0x57524F43, "coordinator")])
@pytest.mark.parametrize("wal", [False, True])
def test_either_sides_database_is_read_while_it_is_open(
    tmp_path: Path, application: int, side: str, wal: bool
) -> None:
    file = tmp_path / "a #?%.db"
    with closing(database(file, application, wal)) as db:
        found = find_log(file)
        assert found.side == side
        with found.open() as log:
            assert log.entries() == [(1, entry(1))]
            db.execute("begin immediate")
            AuditLog(db).append(entry(2))
            db.commit()
            assert log.size == 2


def test_the_database_is_not_written(tmp_path: Path) -> None:
    database(tmp_path / "node.db").close()
    with pytest.raises(WardroundError, match="readonly"), find_log(tmp_path).open() as log:
        log.append(entry(2))
    assert [one.name for one in tmp_path.iterdir()] == ["node.db"]


def test_databases_that_hold_no_audit_log_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "node.db"
    with pytest.raises(WardroundError, match=r"no audit log yet.*--home"):
        find_log(tmp_path)
    with pytest.raises(WardroundError, match="no such file"):
        find_log(file)
    assert not file.exists()
    database(file, application=17).close()
    with pytest.raises(WardroundError, match="another program's"):
        find_log(tmp_path)
    file.unlink()
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"pragma application_id = {0x57524F4E}")
        db.execute("create table audit (seq integer)")
    with pytest.raises(WardroundError, match="wardround hospital status"):
        find_log(tmp_path)
    for content in (b"", b"SQLite format 3\0" + bytes(200), os.urandom(8192)):
        file.write_bytes(content)
        with pytest.raises(WardroundError):
            find_log(tmp_path)
    (tmp_path / "coordinator.db").write_bytes(b"")
    with pytest.raises(WardroundError, match="both"):
        find_log(tmp_path)


def test_a_database_with_damaged_pages_is_an_error_that_says_so(tmp_path: Path) -> None:
    file = tmp_path / "node.db"
    with closing(database(file)) as db:
        for number in range(2, 400):
            AuditLog(db).append(entry(number))
        db.commit()
    content = bytearray(file.read_bytes())
    middle = len(content) // 8192 * 4096
    content[middle : middle + 4096] = os.urandom(4096)
    file.write_bytes(content)
    with pytest.raises(WardroundError), find_log(file).open() as log:
        log.verify(OWNER.public)
