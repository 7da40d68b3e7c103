"""A coordinator that holds the real sessions of four hospitals and may send them anything."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from tests.analyses.contract import cohorts, driven
from tests.support import study_of
from wardround_client.gate import Policy, Sealed
from wardround_client.session import Session, approve_study
from wardround_client.store import NodeStore
from wardround_common import messages as say
from wardround_common.analyses.flow import LABEL
from wardround_common.cohort import Cohort
from wardround_common.program import Asked
from wardround_common.sealing.epoch import Epoch, Membership
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.roster import Roster
from wardround_common.study import Study
from wardround_common.wire import encode

LOGISTIC = {"kind": "logistic", "predictors": ["age", "sex"]}
STUDY = study_of(LOGISTIC, {"kind": "summary"}, privacy={"min_hospitals": 3})
NAMES = ("h00", "h01", "h02", "h03")
LABELS = (LABEL, "logistic", "summary")


class Coordinator:
    """Every step that an honest coordinator takes, for a test to depart from."""

    def __init__(self, study: Study = STUDY) -> None:
        self.study = study
        self.cohorts: dict[str, Cohort] = {name: thawed(one) for name, one in cohorts(study, 4).items()}
        self.identities = {name: Identity.generate() for name in NAMES}
        self.stores = {name: NodeStore() for name in NAMES}
        for name in NAMES:
            approve_study(self.stores[name], self.identities[name], study)
        self.sessions = {
            name: Session(
                name,
                self.identities[name],
                Policy.of(study),
                self.stores[name],
                study,
                self.cohorts[name],
            )
            for name in NAMES
        }

    def roster(self) -> Roster:
        return Roster(self.study.digest, tuple(self.sessions[name].join() for name in NAMES))

    def enrolled(self) -> Coordinator:
        for session in self.sessions.values():
            session.approve_roster(self.roster())
        return self

    def epoch(self, number: int = 1, hospitals: tuple[str, ...] = NAMES) -> Epoch:
        labels = (LABEL, *(spec.label for spec in self.study.analyses))
        memberships = tuple(Membership(label, hospitals) for label in labels)
        return Epoch(self.roster().digest, number, hospitals, memberships, b"")

    def begin(self, epoch: Epoch) -> tuple[bytes, ...]:
        return tuple(self.sessions[name].sign_epoch(epoch) for name in epoch.hospitals)

    def ready(self) -> Coordinator:
        epoch = self.enrolled().epoch()
        signatures = self.begin(epoch)
        for session in self.sessions.values():
            session.open_epoch(epoch.digest, signatures)
        return self

    def ask(self, question: say.Question, names: Sequence[str] = NAMES) -> list[Sealed]:
        return [self.sessions[name].answer(question) for name in names]


def thawed(cohort: Cohort) -> Cohort:
    """Return a copy whose arrays can be written, as a careless reader might have left them."""
    return dataclasses.replace(cohort, columns={name: one.copy() for name, one in cohort.columns.items()})


def question(asked: Asked, index: int = 0, analysis: str | None = None) -> say.Question:
    label = asked.analysis if analysis is None else analysis
    return say.Question(label, index, asked.query.kind, encode(asked))


def asked_of(kind: str) -> Asked:
    return next(one for one in driven(STUDY).asked if one.query.kind == kind)


FLOW, MOMENTS, SUMMARY = (asked_of(kind) for kind in ("flow", "moments", "summary"))
