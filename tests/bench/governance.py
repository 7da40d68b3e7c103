"""The figures of what a hospital decides: gate and review, and whether nobody rewrote its audit log."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

from tests.bench.governing import gate_figures, review_figures
from tests.bench.measure import Figure, at_most, in_fresh_process, wall_s
from wardround_common.audit.database import find_log
from wardround_common.audit.entry import Entry
from wardround_common.audit.log import SCHEMA
from wardround_common.audit.merkle import leaf_hash, new_node
from wardround_common.sealing.identity import Identity

ENTRIES = 1_000_000


def figures() -> Iterator[Figure]:
    """Measure everything; about a minute."""
    yield from gate_figures()
    yield from review_figures()
    yield from _audit()


def _audit() -> Iterator[Figure]:
    found = in_fresh_process(audit)
    yield at_most(f"audit_verify_{ENTRIES}", found["verify_s"], f"s, {found['bytes']:.0f} bytes an entry", 10)


def audit() -> dict[str, float]:
    """Make an audit log on disk; return the seconds that verifying it takes, and its entries' bytes."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "node.db")
        size = make_log(file, ENTRIES)
        public = Identity.generate().public
        with find_log(file).open() as log:
            seconds = wall_s(lambda: log.verify(public))
    return {"verify_s": seconds, "bytes": size / ENTRIES}


def make_log(file: Path, count: int) -> int:
    """Write a node.db that holds an audit log only; return the bytes of its entries."""
    nodes, size, rows = [b""], 0, list[tuple[int, bytes, bytes]]()
    for number in range(1, count + 1):
        detail = f"logistic/{number % 40} {number:064x}"
        data = Entry(1_790_000_000_000 + number, "node", "release", "heart", detail).encoded()
        nodes.append(new_node(number, leaf_hash(data), nodes.__getitem__))
        rows.append((number, data, nodes[-1]))
        size += len(data)
    with closing(sqlite3.connect(file)) as db:
        db.execute(f"pragma application_id = {0x57524F4E}")
        for statement in SCHEMA:
            db.execute(statement)
        db.executemany("insert into audit_entries values (?, ?, ?)", rows)
        db.commit()
    return size
