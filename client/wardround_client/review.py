"""What an officer reads before deciding on a study: who asks, what for, of whom, and what would leave."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from wardround_client.approval import Looked, look_at
from wardround_client.home import HospitalHome
from wardround_client.officers import known, signed_rosters
from wardround_client.preview import DryRun, dry_run
from wardround_client.rowsets import Near
from wardround_client.store import OFFERED, StudyRecord
from wardround_common.analyses.flow import usable_rows
from wardround_common.cohort import Cohort
from wardround_common.dictionary import NumberVariable
from wardround_common.study import Study

_MOST_TEXT = 2000
_MOST_SHOWN = 300  # letters of a value in a difference


@dataclass(frozen=True)
class Member:
    """A hospital of the roster, or one that coordinators named, and whether its words were confirmed here."""

    name: str
    state: str


@dataclass(frozen=True)
class VariableHere:
    """A variable of the study at this hospital: its column, None for none, and the rows that have a value."""

    name: str
    means: str
    column: str | None
    observed: int


@dataclass(frozen=True)
class AnalysisHere:
    """An analysis in one sentence, with its usable rows here: to learn from, and held out.

    ``steps``: about how many rounds it takes by its own estimate.
    """

    label: str
    kind: str
    sentence: str
    train: int
    test: int
    steps: int


@dataclass(frozen=True)
class Change:
    """One key of the study that differs from an earlier one; None where it was, or is, not there."""

    key: str
    was: str | None
    now: str | None


@dataclass(frozen=True)
class Review:
    """All that `wardround hospital review` shows."""

    name: str
    digest: str
    state: str
    why: str
    coordinator: str
    asked_by: str
    title: str
    question: str
    members: tuple[Member, ...]
    roster_words: str
    source: str
    read: int
    rows: int
    where: str
    closed: str
    variables: tuple[VariableHere, ...]
    analyses: tuple[AnalysisHere, ...]
    run: DryRun
    terms: tuple[str, ...]
    refusals: tuple[str, ...]
    near: tuple[Near, ...]
    compared_with: str
    changes: tuple[Change, ...]

    @property
    def share(self) -> float:
        """Numbers that would leave, sealed, for each value that this hospital holds of the cohort."""
        held = self.rows * len(self.variables)
        return self.run.numbers / held if held else 0.0

    @property
    def verdict(self) -> str:
        """Whether it may be approved, in one sentence."""
        if self.refusals:
            return "This hospital's policy refuses it."
        if any(not one.accepted for one in self.near):
            return "Few rows would be told by a difference, unless that is accepted by name."
        return "This hospital's policy allows it."

    def shown(self) -> dict[str, Any]:
        """Return it as a JSON object."""
        return {
            **asdict(self),
            "numbers": self.run.numbers,
            "numbers_per_value": self.share,
            "verdict": self.verdict,
        }


def plain(text: str | None, most: int = _MOST_TEXT) -> str:
    """Return a text of the coordinator's such that it cannot draw over the lines around it."""
    shown = (one if one.isprintable() else " " if one.isspace() else "" for one in text or "")
    return "".join(shown)[:most]


def review(home: HospitalHome, study: Study, table: Path | None = None) -> Review:
    """Return what there is to know of a study at this hospital. DataError where its table cannot be read."""
    looked = look_at(home, study, table)
    return reviewed(home, looked)


def reviewed(home: HospitalHome, looked: Looked) -> Review:
    """Return the review of a study that was held against this hospital's table."""
    study, cohort, record = looked.study, looked.reading.cohort, home.store.study(looked.study.digest)
    asker = home.coordinator if home.coordinator_file.exists() else None
    other, changes = _changes(home, study)
    members, words = _members(home, study)
    pin = looked.pin
    return Review(
        name=study.name,
        digest=study.digest.hex(),
        state=OFFERED if record is None else record.state,
        why="" if record is None else record.why,
        coordinator="" if asker is None else plain(f"{asker.name} ({asker.address})"),
        asked_by=plain(study.asked_by),
        title=plain(study.title),
        question=plain(study.question),
        members=members,
        roster_words=words,
        source=looked.source,
        read=cohort.flow.read,
        rows=cohort.rows,
        where=plain(pin.where),
        closed=plain(pin.closed),
        variables=_variables(looked, cohort),
        analyses=tuple(
            AnalysisHere(
                one.label, one.kind, plain(one.sentence()), *_usable(cohort, one.needed()), one.steps
            )
            for one in study.analyses
        ),
        run=dry_run(study, cohort),
        terms=_terms(study, home),
        refusals=looked.refusals,
        near=looked.near,
        compared_with=other,
        changes=changes,
    )


def _usable(cohort: Cohort, needed: tuple[str, ...]) -> tuple[int, int]:
    train = cohort.count("train", needed)
    return train, usable_rows(cohort, needed) - train


def _variables(looked: Looked, cohort: Cohort) -> tuple[VariableHere, ...]:
    found = []
    for name, variable in looked.study.dictionary.items():
        if isinstance(variable, NumberVariable):
            low, high = variable.range
            means = f"number, {low:g} to {high:g} {variable.unit or ''}".strip()
        else:
            means = f"one of {', '.join(variable.levels[:12])}" + (
                " ..." if len(variable.levels) > 12 else ""
            )
        observed = cohort.flow.variables[name][0]
        column = looked.pin.columns[name]
        column = None if column is None else plain(column, _MOST_SHOWN)
        found.append(VariableHere(name, plain(means, _MOST_SHOWN), column, observed))
    return tuple(found)


def _members(home: HospitalHome, study: Study) -> tuple[tuple[Member, ...], str]:
    """Return the roster's members once it is signed; before that, all hospitals that were named."""
    states = {one.shown: one.state for one in known(home)}
    signed = signed_rosters(home).get(study.digest)
    if signed is None:
        return tuple(Member(name, state) for name, state in states.items()), ""
    here = {home.name: "this hospital"}
    return tuple(Member(one, here.get(one) or states.get(one, "")) for one in signed.members), signed.words


def _terms(study: Study, home: HospitalHome) -> tuple[str, ...]:
    privacy, policy = study.privacy, home.policy
    few, cell = privacy.min_hospitals - 1, privacy.min_cell - 1
    sums = (
        f"Only sums over at least {privacy.min_hospitals} hospitals can be read, by the coordinator and by "
        f"all members: {few} members together could work out the last one's part."
    )
    told = [sums, f"Of what is published, counts from 1 to {cell} are suppressed; sums as such are not."]
    told.append(
        "`plan: trusted`: the coordinator chooses each question, and no hospital can check it."
        if privacy.plan == "trusted"
        else "`plan: verified`: this node derives each question from study and sums, and answers no other; "
        "for that, all members are sent all sums."
    )
    if privacy.seal == "none":
        told.append("`seal: none`: updates of single hospitals leave unsealed; all members see them.")
    leave = {
        "allow": "sums may be opened with and without this hospital, which tells its part",
        "group": "this hospital's part is never told by a difference of two sums",
        "never": "the study never goes on without this hospital",
    }
    told.append(f"`leave: {policy.leave}`: {leave[policy.leave]}.")
    if policy.max_queries is not None:
        told.append(f"`max_queries`: this node answers {policy.max_queries:,} queries of a study at most.")
    if policy.hold:
        told.append("`hold`: each release waits for you (wardround hospital releases).")
    return tuple(told)


def _changes(home: HospitalHome, study: Study) -> tuple[str, tuple[Change, ...]]:
    """Return with which earlier study this one is compared, and key by key how it differs."""
    earlier = list(takewhile(lambda one: one.digest != study.digest, home.store.studies()))
    if not earlier:
        return "", ()
    now = _flat(json.loads(study.manifest()))

    def apart(one: tuple[StudyRecord, dict[str, str]]) -> tuple[bool, int, float]:
        record, was = one
        return record.name != study.name, len(set(was.items()) ^ set(now.items())), -record.offered_at

    nearest, was = min(((one, _flat(json.loads(one.manifest))) for one in earlier), key=apart)
    changes = tuple(
        Change(plain(key, _MOST_SHOWN), _short(was.get(key)), _short(now.get(key)))
        for key in sorted(was.keys() | now.keys())
        if was.get(key) != now.get(key)
    )
    return f"`{nearest.name}` ({nearest.digest.hex()[:8]}, {nearest.state})", changes


def _short(value: str | None) -> str | None:
    return None if value is None else plain(value, _MOST_SHOWN)


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return a manifest as one text a key; analyses by their label."""
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, one in value.items():
            found |= _flat(one, f"{path}.{key}" if path else str(key))
        return found
    if path == "analyses":
        found = {}
        for one in value:
            found |= _flat(one, f"analyses[{one.get('name') or one.get('kind')}]")
        return found
    return {path: json.dumps(value, ensure_ascii=False)}
