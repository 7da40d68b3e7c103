"""How a hospital's officer decides on a study, and how a running node takes the decision up.

An approval pins what it is about: the manifest, the rows with the source, predicate and columns that gave
them, and a new masking key; all are under one signature, and in the audit log.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from wardround_client import rowsets
from wardround_client.decision import approve_study
from wardround_client.home import HospitalHome
from wardround_client.reader import Reading, read
from wardround_client.rowsets import Near, RowSets
from wardround_client.session import Session
from wardround_client.snapshot import read_snapshot, write_snapshot
from wardround_client.sources import open_table
from wardround_client.store import (
    APPROVED,
    OFFERED,
    REFUSED,
    REJECTED,
    RELEASED,
    WITHDRAWN,
    Held,
    StudyRecord,
)
from wardround_common.cohort import Cohort
from wardround_common.errors import DataError, Refused, StudyError, WardroundError, did_you_mean, listed
from wardround_common.home import LOG, locked
from wardround_common.plan import QUERY_RECORDS
from wardround_common.program import Asked
from wardround_common.sealing.roster import RUNTIMES
from wardround_common.study import Study, read_manifest, read_study, study_key

if TYPE_CHECKING:
    from wardround_client.preview import Release

MOST_WHY = 500  # letters of a reason
ALL = "all"


@dataclass(frozen=True)
class Pin:
    """What an approval pins beside the manifest: where the rows come from, and how they were chosen.

    ``columns``: each variable's column of the table, None where it has none; ``rows``: of the cohort, of
    ``read`` in the table.
    """

    source: str
    where: str | None
    closed: str | None
    columns: dict[str, str | None]
    rows: int
    read: int

    def encoded(self) -> bytes:
        """Return the bytes that are kept, and signed."""
        return json.dumps(asdict(self), sort_keys=True, ensure_ascii=False).encode()


@dataclass(frozen=True, repr=False)
class Looked:
    """A study held against this hospital's table and policy, before anybody decides.

    ``refusals``: what the policy has against it; ``near``: what its row sets and others would tell of fewer
    than ``least`` persons.
    """

    study: Study
    source: str
    reading: Reading
    sets: RowSets
    least: int
    near: tuple[Near, ...]
    refusals: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Looked({self.study.name!r}, ...)"

    @cached_property
    def pin(self) -> Pin:
        """What an approval would pin."""
        spec, absent = self.study.cohort, set(self.reading.absent)
        columns = {
            name: None if name in absent else variable.column or name
            for name, variable in self.study.dictionary.items()
        }
        closed = None if spec.closed is None else f"{spec.closed.column} by {spec.closed.by}"
        cohort = self.reading.cohort
        return Pin(self.source, spec.where, closed, columns, cohort.rows, cohort.flow.read)


@dataclass(frozen=True)
class Approved:
    """What was approved: the study, the rows of its cohort here, and the variables that the table lacks."""

    study: Study
    rows: int
    absent: tuple[str, ...]


def find_study(home: HospitalHome, name: str) -> Study:
    """Return a study that was offered, by its name or the start of its digest; or one from a file.

    StudyError where there is none, or several.
    """
    if Path(name).suffix in (".yaml", ".yml", ".json") or "/" in name:
        return read_study(name)
    records = home.store.studies()
    found = [
        one for one in records if one.name == name or (len(name) >= 8 and one.digest.hex().startswith(name))
    ]
    if not found:
        names = sorted({one.name for one in records})
        offered = f"; there are {listed(names)}" if names else "; none was offered to this hospital yet"
        raise StudyError(f"{name}: no study of this name was offered{did_you_mean(name, names)}{offered}")
    if len(found) > 1:  # a version that was turned down is no reason to ask which one is meant
        found = [one for one in found if one.state in (OFFERED, APPROVED)] or found
    if len(found) > 1:
        digests = ", ".join(one.digest.hex()[:8] for one in found)
        raise StudyError(f"{name}: offered in several versions; name one by its digest: {digests}")
    return read_manifest(found[0].manifest)


def look_at(home: HospitalHome, study: Study, table: Path | None = None) -> Looked:
    """Hold a study against this hospital's table, policy and earlier row sets; nothing is changed.

    DataError where the table does not hold what the study asks.
    """
    policy = home.policy
    refusals = policy.refusals(study)
    if home.coordinator_file.exists():
        try:
            policy.check_coordinator(home.coordinator.name)
        except Refused as error:
            refusals.append(str(error))
    expected = 1 + sum(spec.steps for spec in study.analyses)
    if policy.max_queries is not None and expected > policy.max_queries:
        refusals.append(
            f"the study asks about {expected} queries, this hospital's policy allows {policy.max_queries} "
            "(`max_queries`)"
        )
    opened = open_table(table if table is not None else home.table_of(study.name))
    reading = read(opened, study, home.name, study_key(study), row_key=home.row_key)
    if set(reading.absent) == set(study.variables):
        raise DataError(
            f"{opened.label}: has a column for none of the study's variables, {listed(study.variables)}; "
            "is it the right file?"
        )
    sets = rowsets.row_sets(study, reading)
    least = policy.floor("min_cell", study)
    near = rowsets.compare(home.store, study, sets, least)
    return Looked(study, opened.label, reading, sets, least, tuple(near), tuple(refusals))


def approve(
    home: HospitalHome,
    study: Study,
    table: Path | None = None,
    again: bool = False,
    accept: Sequence[str] = (),
    looked: Looked | None = None,
    standing: bool = False,
) -> Approved:
    """Approve a study: hold it against policy and earlier row sets, pin its cohort, sign.

    ``accept``: names of studies to whose row sets some here may be near; ``looked``: what was shown to whom
    approves. Refused where the policy says no, or rows would be told by a difference; DataError where the
    table does not hold what the study asks. A study that was approved before is left as it is unless
    ``again``; it begins anew then.
    """
    check_again(home, study, again)
    found = look_at(home, study, table) if looked is None else looked
    if found.refusals:
        raise Refused("policy", found.refusals[0])
    # nobody else approves between the comparison and what is kept for the next one
    with locked(home.path / "approving.lock", "another approval"):
        check_again(home, study, again)
        near = rowsets.compare(home.store, study, found.sets, found.least)
        _approve(home, replace(found, near=tuple(near)), accept, standing)
    return Approved(study, found.reading.cohort.rows, found.reading.absent)


def check_again(home: HospitalHome, study: Study, again: bool) -> None:
    """Raise StudyError where a study is approved already, unless it is to be so ``again``."""
    before = home.store.study(study.digest)
    if before is not None and before.approved_at is not None and not again:
        raise StudyError(
            f"{study.name}: approved already; to take up changed tables and begin anew, add --again"
        )


def _approve(home: HospitalHome, found: Looked, accept: Sequence[str], standing: bool) -> None:
    check_near(home, found, accept)
    study = found.study
    pinned = write_snapshot(home.snapshot_file(study.digest), found.reading.cohort, home.row_key)
    accepted = [one for one in found.near if not one.accepted]
    approve_study(
        home.store,
        home.identity,
        study,
        cohort=pinned,
        pin=found.pin.encoded(),
        changes=(
            *rowsets.statements(study, pinned, found.sets),
            *(rowsets.acceptance(study, one, home.store.actor) for one in accepted),
        ),
        standing=standing,
    )
    for one in accepted:
        home.store.audit("accept difference", study.name, one.names)


def check_near(home: HospitalHome, looked: Looked, accept: Sequence[str]) -> None:
    """Raise Refused where rows would be told by a difference that nobody accepts; it is audited."""
    refused = [one for one in looked.near if not one.accepted and not one.is_among(accept)]
    if not refused:
        return
    study = looked.study.name
    home.store.audit("refuse", study, f"differencing: {refused[0].names}")
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    raise Refused(
        "differencing",
        f"`{study}`: sums over {refused[0].names} would tell of fewer than {looked.least} rows by their "
        f"difference{more}; see wardround hospital review {study}, and accept it by name (--accept) if that "
        "is meant",
    )


def approve_standing(home: HospitalHome, study: Study) -> bool:
    """Approve a study that was just offered, where the policy's standing rule covers it. Tell whether."""
    from wardround_client.preview import numbers_of

    rule = home.policy.standing
    if rule is None or home.coordinator.name not in rule.coordinators:
        return False
    kinds = {spec.kind for spec in study.analyses}
    if not (kinds <= set(rule.analyses) and set(study.variables) <= set(rule.variables)):
        return False
    try:
        looked = look_at(home, study)
        if looked.near or numbers_of(study, looked.reading.cohort) > rule.max_numbers:
            return False
        approve(home, study, looked=looked, standing=True)
    except WardroundError as error:  # an officer sees the same when he approves it
        logging.getLogger(LOG).info("`%s` was not approved by the standing rule: %s", study.name, error)
        return False
    return True


def withdraw(home: HospitalHome, digest: bytes, why: str = "") -> None:
    """Take an approval back, from the next query on; what was answered stays in ledger and audit log."""
    _decline(home, digest, WITHDRAWN, "withdraw", why)


def reject(home: HospitalHome, study: Study, why: str) -> None:
    """Turn a study down, for a reason that stays at home."""
    digest = study.digest
    record = home.store.study(digest)
    if record is not None and record.approved_at is not None:
        raise StudyError(f"{study.name}: approved; take that back: wardround hospital withdraw {study.name}")
    home.store.offer(digest, study.name, study.manifest())
    _decline(home, digest, REJECTED, "reject", why)


def _decline(home: HospitalHome, digest: bytes, says: str, event: str, why: str) -> None:
    record = home.store.study(digest)
    name, reason = "" if record is None else record.name, why.strip()[:MOST_WHY]
    home.store.decline(
        digest,
        says,
        reason,
        rowsets.forget(digest),
        audit=(event, name, f"{digest.hex()} {reason}".strip()),
    )
    home.snapshot_file(digest).unlink(missing_ok=True)


def waiting_release(home: HospitalHome, record: StudyRecord, held: Held) -> Release:
    """Return a release that waits, computed from the pinned rows."""
    from wardround_client.preview import recomputed

    study, asked = read_manifest(record.manifest), QUERY_RECORDS.decode(held.asked, Asked)
    return recomputed(study, pinned_cohort(home, record), asked, held.index)


def decide_releases(
    home: HospitalHome, record: StudyRecord, release: Sequence[str], refuse: Sequence[str]
) -> list[str]:
    """Let releases go that wait, or decline them, by `ANALYSIS/N` or `all`; return what was done, in words.

    WardroundError, before anything is decided, where none waits under a name.
    """
    waiting = [(f"{one.analysis}/{one.index}", one) for one in home.store.held(record.digest) if not one.says]
    names = {name for name, _ in waiting}
    unknown = [name for name in (*release, *refuse) if name != ALL and name not in names]
    if unknown:
        raise WardroundError(
            f"{listed(unknown)}: no release of `{record.name}` waits under this name"
            f"{did_you_mean(unknown[0], names)}; see wardround hospital releases {record.name}"
        )
    done = []
    for name, one in waiting:
        if name in refuse or ALL in refuse:
            says, event = REFUSED, "refuse release"
        elif name in release or ALL in release:
            says, event = RELEASED, "let go"
        else:
            continue
        home.store.decide(
            record.digest, one.context, says, (event, record.name, f"{name} {one.context.hex()}")
        )
        done.append(f"{'Let go' if says == RELEASED else 'Declined'}: {name}")
    return done


def pinned_cohort(home: HospitalHome, record: StudyRecord) -> Cohort:
    """Return the rows that were pinned when a study was approved. WardroundError if these are others."""
    dictionary = read_manifest(record.manifest).dictionary
    return read_snapshot(home.snapshot_file(record.digest), dictionary, record.cohort or b"", home.row_key)


def take_up(home: HospitalHome, record: StudyRecord, runtime: str = RUNTIMES[0]) -> Session:
    """Open the session of an approved study, on the rows that were pinned then."""
    study, policy = read_manifest(record.manifest), home.policy
    if home.coordinator_file.exists():
        policy.check_coordinator(home.coordinator.name)
    cohort = pinned_cohort(home, record)
    return Session(home.name, home.identity, policy, home.store, study, cohort, runtime, pinned=True)
