"""How a hospital's officer decides on a study, and how a running node takes the decision up."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wardround_client.home import HospitalHome
from wardround_client.reader import read
from wardround_client.session import Session, approve_study
from wardround_client.snapshot import read_snapshot, write_snapshot
from wardround_client.sources import open_table
from wardround_client.store import StudyRecord
from wardround_common.errors import DataError, StudyError, did_you_mean, listed
from wardround_common.sealing.roster import RUNTIMES
from wardround_common.study import Study, read_manifest, read_study, study_key


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
    if len(found) > 1:
        digests = ", ".join(one.digest.hex()[:8] for one in found)
        raise StudyError(f"{name}: offered in several versions; name one by its digest: {digests}")
    return read_manifest(found[0].manifest)


def approve(home: HospitalHome, study: Study, table: Path | None = None, again: bool = False) -> Approved:
    """Approve a study: check it against the policy, pin its cohort, sign.

    Refused where the policy says no, DataError where the table does not hold what the study asks. A study
    that was approved before is left as it is unless ``again``; it begins anew then.
    """
    home.policy.check(study)
    before = home.store.study(study.digest)
    if before is not None and before.approved_at is not None and not again:
        raise StudyError(
            f"{study.name}: approved already; to take up changed tables and begin anew, add --again"
        )
    opened = open_table(table if table is not None else home.table_of(study.name))
    reading = read(opened, study, home.name, study_key(study))
    if set(reading.absent) == set(study.variables):
        raise DataError(
            f"{opened.label}: has a column for none of the study's variables, {listed(study.variables)}; "
            "is it the right file?"
        )
    pinned = write_snapshot(home.snapshot_file(study.digest), reading.cohort)
    approve_study(home.store, home.identity, study, cohort=pinned)
    return Approved(study, reading.cohort.rows, reading.absent)


def withdraw(home: HospitalHome, digest: bytes) -> None:
    """Take an approval back; what was answered stays in ledger and audit log."""
    record = home.store.study(digest)
    home.store.withdraw(digest)
    home.store.audit("withdraw", "" if record is None else record.name, digest.hex())
    home.snapshot_file(digest).unlink(missing_ok=True)


def take_up(home: HospitalHome, record: StudyRecord, runtime: str = RUNTIMES[0]) -> Session:
    """Open the session of an approved study, on the rows that were pinned then."""
    study = read_manifest(record.manifest)
    cohort = read_snapshot(home.snapshot_file(record.digest), study.dictionary, record.cohort or b"")
    return Session(home.name, home.identity, home.policy, home.store, study, cohort, runtime)
