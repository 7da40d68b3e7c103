"""The ledger: what each release told, entered in the transaction in which it is stored, before it is sent.

Append-only: triggers in node.db refuse to change or delete an entry, and each has its twin in the audit log.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final

from wardround_client.database import Columns, Database

SCHEMA: Final = (
    "alter table ledger add column study blob not null default x''",
    "alter table ledger add column fields text not null default ''",
    "alter table ledger add column privacy real",
    "create index ledger_by_study on ledger (study)",
    "create index ledger_by_time on ledger (at)",
    """create trigger ledger_is_not_changed before update on ledger
    begin select raise(abort, 'the ledger is append-only'); end""",
    """create trigger ledger_is_not_shortened before delete on ledger
    begin select raise(abort, 'the ledger is append-only'); end""",
)
_ENTERED: Final = "binding, analysis, idx, kind, numbers, rows, hospitals, study, fields, privacy, at"
_COLUMNS: Columns = (bytes, str, int, str, int, int, str, bytes, str, float | None, float)


@dataclass(frozen=True)
class Charge:
    """What a release is entered with: how many numbers about how many rows went to which hospitals' sum.

    ``fields``: the query's fields, as `name[shape]`; ``study``: digest of the manifest; ``privacy``: what it
    cost of a privacy budget, None where no noise was added, so that there is no such bound; ``at``: unix
    seconds.
    """

    binding: bytes
    analysis: str
    index: int
    kind: str
    numbers: int
    rows: int
    hospitals: tuple[str, ...]
    study: bytes = b""
    fields: tuple[str, ...] = ()
    privacy: float | None = None
    at: float = 0.0

    @property
    def month(self) -> str:
        """The month in which it was charged, UTC, as in `2026-01`."""
        return f"{datetime.fromtimestamp(self.at, UTC):%Y-%m}"

    def shown(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        told = {**asdict(self), "binding": self.binding.hex(), "study": self.study.hex()}
        return {**told, "at": datetime.fromtimestamp(self.at, UTC).isoformat(timespec="seconds")}


def enter(db: sqlite3.Connection, charge: Charge) -> None:
    """Enter a charge, within the transaction that keeps its answer."""
    db.execute(
        f"insert into ledger ({_ENTERED}) values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608 (our own words)
        (
            *(charge.binding, charge.analysis, charge.index, charge.kind, charge.numbers, charge.rows),
            ",".join(charge.hospitals),
            charge.study,
            json.dumps(charge.fields),
            charge.privacy,
            charge.at or time.time(),
        ),
    )


def charges(database: Database, study: bytes | None = None) -> list[Charge]:
    """Return all charges, or a study's, oldest first."""
    where, values = ("", ()) if study is None else ("where study = ? ", (study,))
    found = database.rows(f"select {_ENTERED} from ledger {where}order by seq", _COLUMNS, *values)  # noqa: S608 (our own words)
    return [_charge(database, *row) for row in found]


def _charge(database: Database, *row: Any) -> Charge:
    binding, analysis, index, kind, numbers, rows, hospitals, study, fields, privacy, at = row
    try:
        named = tuple(map(str, json.loads(fields or "[]")))
    except (ValueError, TypeError, RecursionError):
        raise database.damaged("an entry of the ledger is none") from None
    names = tuple(hospitals.split(","))
    return Charge(binding, analysis, index, kind, numbers, rows, names, study, named, privacy, at)


def queries(database: Database, study: bytes, now: float) -> tuple[int, int]:
    """Return how many queries were answered of a study, and how many of all studies in this month (UTC)."""
    begun = datetime.fromtimestamp(now, UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    of_study = database.rows("select count(*) from ledger where study = ?", (int,), study)[0][0]
    this_month = database.rows("select count(*) from ledger where at >= ?", (int,), begun.timestamp())[0][0]
    return of_study, this_month


def by_study_and_month(found: Sequence[Charge], names: Mapping[bytes, str]) -> list[dict[str, Any]]:
    """Return what charges add up to, by study and month, as JSON objects.

    ``rows``: of the largest release; ``privacy``: the cost in all, or that no noise was added, so that there
    is no bound.
    """
    groups: dict[tuple[bytes, str], list[Charge]] = {}
    for one in found:
        groups.setdefault((one.study, one.month), []).append(one)
    return [
        {
            "study": names.get(study, study.hex()[:8]),
            "month": month,
            "releases": len(many),
            "numbers": sum(one.numbers for one in many),
            "rows": max(one.rows for one in many),
            "hospitals": sorted({name for one in many for name in one.hospitals}),
            "privacy": _cost(many),
        }
        for (study, month), many in groups.items()
    ]


def _cost(many: Sequence[Charge]) -> str:
    if any(one.privacy is None for one in many):
        return "no noise, no bound"
    return f"{sum(one.privacy or 0.0 for one in many):g}"
