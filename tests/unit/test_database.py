"""node.db as a file: taken over from its first version, left alone where it is later, only appended to."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from wardround_client.ledger import Charge, charges, queries
from wardround_client.store import NodeStore
from wardround_common.errors import WardroundError

FIRST = """
create table answers (
    binding blob, epoch blob, analysis text, idx integer, context blob not null, sealed blob not null,
    primary key (binding, epoch, analysis, idx)) without rowid;
create table ledger (
    seq integer primary key, at real not null, binding blob not null, analysis text not null,
    idx integer not null, kind text not null, numbers integer not null, rows integer not null,
    hospitals text not null);
create table studies (
    digest blob primary key, name text not null, manifest blob not null, offered_at real not null,
    approved_at real, signature blob, masking blob, roster blob, epoch blob) without rowid;
create table judged (
    binding blob, analysis text, asked blob not null, primary key (binding, analysis)) without rowid;
create table audit (
    seq integer primary key, at real not null, event text not null, study text not null,
    detail text not null);
insert into audit values
    (1, 1700000000.5, 'offer', 'heart', 'abc'), (2, 1700000001, 'approve', 'heart', 'abc');
insert into ledger values (1, 1700000002, x'00', 'flow', 0, 'flow', 3, 5, 'h1,h2');
insert into studies values (x'01', 'heart', x'7b7d', 1, 2, x'00', x'00', null, null);
"""
CHARGE = Charge(b"binding", "flow", 0, "flow", 3, 5, ("h1", "h2"), b"study", ("rows[4]",))


def made(path: Path, *statements: str) -> Path:
    with closing(sqlite3.connect(path)) as db:
        for statement in statements:
            db.executescript(statement)
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("marked", ["", f"pragma application_id = {0x57524F4E}; pragma user_version = 1;"])
def test_a_database_of_the_first_version_keeps_log_and_ledger_and_asks_for_new_approvals(
    tmp_path: Path, marked: str
) -> None:
    path = made(tmp_path / "node.db", FIRST, marked)
    for _ in range(2):
        with closing(NodeStore(path)) as store:
            assert store.entries() == [("offer", "heart", "abc"), ("approve", "heart", "abc")]
            assert store.audit_head().count == 2
            assert [(one.analysis, one.numbers, one.study) for one in charges(store)] == [("flow", 3, b"")]
            assert [(one.name, one.state) for one in store.studies()] == [("heart", "offered")]


def test_a_database_of_a_later_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "node.db"
    NodeStore(path).close()
    made(path, "pragma user_version = 9;")
    before = path.read_bytes()
    with pytest.raises(WardroundError, match="later version"):
        NodeStore(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("table", ["ledger", "audit_entries", "checkpoints"])
@pytest.mark.parametrize("what", ["update {} set {} = {}", "delete from {}"])
def test_ledger_and_log_are_only_appended_to(table: str, what: str) -> None:
    store = NodeStore()
    store.keep(b"epoch", b"context", b"sealed", CHARGE, "study")
    store.log(lambda log: log.keep("note", 1))
    column = {"ledger": "numbers", "audit_entries": "entry", "checkpoints": "note"}[table]
    with pytest.raises(WardroundError, match=r"append-only|only grows"):
        store.change((what.format(table, column, column), ()))
    assert [one.numbers for one in charges(store)] == [3]
    assert len(store.entries()) == 1


def test_queries_are_counted_by_study_and_by_calendar_month() -> None:
    store, now = NodeStore(), 1_790_000_000.0
    for index, (study, at) in enumerate([(b"a", now), (b"a", now - 40 * 86_400), (b"b", now)]):
        charge = Charge(b"binding", "flow", index, "flow", 1, 1, ("h1",), study, (), None, at)
        store.keep(b"epoch", b"context", b"sealed", charge, "study")
    assert queries(store, b"a", now) == (2, 2)
    assert queries(store, b"b", now) == (1, 2)
    assert queries(store, b"c", now) == (0, 2)
