"""A hospital's side of one study, as a state machine: what it signs, what it believes, what it will answer.

It reads no file, clock or socket, and sees no row. Whoever drives it (``wardround_client.session``) hands it
what arrives, keeps what it says must last before anything is sent, and computes the answers to what it finds
due. Every method raises ProtocolError for what no honest coordinator sends and Refused, with a fixed code,
for what this hospital declines; nothing has changed then. PROTOCOL.md, section 6, lists the checks in order.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from wardround_common.analyses.flow import Flow
from wardround_common.errors import ProtocolError, Refused, ReplayDiverged, WardroundError, listed
from wardround_common.messages import EpochSignature, Question, Step
from wardround_common.program import Asked
from wardround_common.replay import Due, Replay
from wardround_common.sealing.epoch import AuditHead, Epoch, Opening, audits_digest, sign_epoch
from wardround_common.sealing.identity import Identity, verify
from wardround_common.sealing.lane import lane, pad, unwrap, wrap
from wardround_common.sealing.leaving import Group, check_leaving
from wardround_common.sealing.mask import LANE_BYTES, MODULUS, MaskingKey, query_context
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord
from wardround_common.sealing.roster import RUNTIMES, Member, Roster, approve, enter

T = TypeVar("T")
UNSEALED = "wardround unsealed answer v1"


@dataclass(frozen=True)
class Floors:
    """What this hospital asks for: the stricter of its policy and the study, and its own terms of leaving."""

    min_hospitals: int
    max_epochs: int
    leave: str


@dataclass(frozen=True)
class OpenEpoch:
    """An epoch that this hospital belongs to and that all signed; ``group`` is its members' secret."""

    epoch: Epoch
    opening: Opening
    group: bytes

    def __repr__(self) -> str:
        return f"OpenEpoch({self.epoch.number}, ...)"


@dataclass(frozen=True)
class Kept:
    """What must last: the roster and the last epoch that were signed, epochs that were opened, sums verified.

    ``computing``: the epochs, by digest, in which something may have been answered. A participant that begins
    from here goes on as if it had never ended, once it was sent the course again.
    """

    roster: Roster | None = None
    signed: Epoch | None = None
    opened: tuple[OpenEpoch, ...] = ()
    computing: frozenset[bytes] = frozenset()
    steps: int = 0
    head: bytes = b""


@dataclass(frozen=True)
class Surroundings:
    """What else this hospital knows when it decides: its audit log, and what it saw of others.

    ``had``: whether its log once had this head; ``seen``: other members' heads by identity; ``groups``: sets
    of hospitals over which sums with its rows were opened, in all studies.
    """

    had: Callable[[AuditHead], bool]
    seen: Mapping[bytes, AuditHead]
    groups: Sequence[Group]


@dataclass(frozen=True)
class Wanted:
    """A question that may be answered: the query, the digest that its mask is bound to, over whom."""

    question: Question
    asked: Asked | None  # None: as ``question.asked`` encodes it, under `plan: trusted`
    context: bytes
    hospitals: tuple[str, ...]
    sealed: bool


class Participant:
    """One hospital in one study. ``replay`` makes what follows the program; None under `plan: trusted`."""

    def __init__(
        self,
        *,
        name: str,
        identity: Identity,
        masking: MaskingKey,
        study: bytes,
        analyses: Sequence[str],
        taking_part: Sequence[str],
        floors: Floors,
        replay: Callable[[bytes], Replay] | None,
        confirmed: Callable[[Member], bool],
        runtime: str = RUNTIMES[0],
        kept: Kept = Kept(),
    ) -> None:
        self._name, self._identity, self._masking, self._runtime = name, identity, masking, runtime
        self._study, self._analyses, self.taking_part = study, tuple(analyses), tuple(taking_part)
        self._floors, self._confirmed, self._make_replay = floors, confirmed, replay
        self._secrets: dict[str, bytes] = {}
        self._replay: Replay | None = None
        self._before: EpochRecord | None = None  # the last epoch of the course that was taken
        self._verified = True  # whether the sums since then were
        self._records = 0
        self._groups: dict[bytes, Group] = {}  # of the course that was taken, by epoch
        self._kept = kept
        if kept.roster is not None:
            self._take_up(kept.roster)

    def __repr__(self) -> str:
        return "Participant(...)"

    # --- roster ---

    @property
    def kept(self) -> Kept:
        """What must last."""
        return self._kept

    @property
    def roster(self) -> Roster:
        """The roster. Refused before there is one."""
        if self._kept.roster is None:
            raise Refused("no_roster", "no roster was approved")
        return self._kept.roster

    @property
    def epoch(self) -> OpenEpoch:
        """The epoch that computes. Refused before all of its hospitals signed it."""
        opened, signed = self._kept.opened, self._kept.signed
        if not opened or signed is None or opened[-1].epoch.digest != signed.digest:
            raise Refused("unknown_epoch", "a question before its epoch was signed by all")
        return opened[-1]

    @property
    def flow(self) -> Flow | None:
        """The counts of rows over all hospitals, once the sums have told; None under `plan: trusted`."""
        return None if self._replay is None else self._replay.flow

    def enter(self) -> Member:
        """Return this hospital's entry for the roster."""
        return enter(self._identity, self._study, self._name, self._masking.public, self._runtime)

    def check_roster(self, roster: Roster) -> None:
        """Check all about a roster but who its members are."""
        if roster.study != self._study or roster.member(self._name) != self.enter():
            raise ProtocolError("the roster does not hold this hospital's own entry")
        roster.verify()
        if len(roster.members) < self._floors.min_hospitals:
            raise Refused(
                "min_hospitals", f"the roster has fewer than {self._floors.min_hospitals} hospitals"
            )
        if self._kept.roster is not None and self._kept.roster.digest != roster.digest:
            raise Refused("second_roster", "this hospital signed another roster for this study")
        shared_secrets(self._masking, roster, self._name)  # a point of low order

    def approve_roster(self, roster: Roster) -> bytes:
        """Return the signature under study and roster."""
        self.check_roster(roster)
        if self._kept.roster is None:  # a member that was revoked since may be left out; epochs check again
            self._check_confirmed(roster, roster.names)
            self._take_up(roster)
            self._kept = Kept(roster)
        return approve(self._identity, roster)

    def _take_up(self, roster: Roster) -> None:
        self._secrets = shared_secrets(self._masking, roster, self._name)
        self._replay = None if self._make_replay is None else self._make_replay(roster.digest)

    def _check_confirmed(self, roster: Roster, names: Sequence[str]) -> None:
        """Refuse members whom the officer has not confirmed: each knows the secret that tells true sums."""
        unknown = [name for name in names if name != self._name and not self._confirmed(roster.member(name))]
        if unknown:
            raise Refused(
                "unconfirmed",
                f"this hospital's officer has not confirmed {listed(unknown)}; see "
                "`wardround hospital members` and `confirm`",
            )

    # --- epochs ---

    def sign_epoch(self, epoch: Epoch, audits: Sequence[bytes], around: Surroundings) -> None:
        """Check an epoch and take it for the last signed one; ``signature`` gives what is sent.

        ``audits``: every hospital's audit head, packed, as others last saw it.
        """
        if self._kept.signed is not None and epoch.digest == self._kept.signed.digest:
            return
        self._check_epoch(epoch, audits, around)
        self._kept = replace(self._kept, signed=epoch)

    def signature(self, epoch: Epoch, audit: AuditHead) -> EpochSignature:
        """Return the signature under the last epoch that ``sign_epoch`` took, with the log's present head."""
        if self._kept.signed is None or epoch.digest != self._kept.signed.digest:
            raise Refused("old_epoch", "an epoch with a number that was used")
        leave, packed = self._floors.leave, audit.packed()
        wrapped: tuple[bytes, ...] = ()
        if epoch.leader == self._name:
            secret = self._masking.group_secret(epoch.digest)
            wrapped = tuple(
                b"" if name == self._name else wrap(secret, self._secrets[name], epoch.digest)
                for name in epoch.hospitals
            )
        return EpochSignature(sign_epoch(self._identity, epoch, leave, packed), leave, packed, wrapped)

    def _check_epoch(self, epoch: Epoch, audits: Sequence[bytes], around: Surroundings) -> None:
        kept, roster = self._kept, self.roster
        self._check_sets(epoch)
        if kept.signed is not None and epoch.number <= kept.signed.number:
            raise Refused("old_epoch", "an epoch with a number that was used")
        if self._name not in epoch.hospitals:
            raise Refused("membership", "an epoch to which this hospital does not belong")
        self._check_follows(epoch)
        for one in epoch.analyses:
            if (self._name not in one.abstaining) != (one.analysis in self.taking_part):
                raise Refused(
                    "membership", f"`{one.analysis}`: this hospital's own wish to take part is not met"
                )
        self._check_audits(epoch, audits, around)
        groups = self._groups_before(around, epoch)
        said = {who: terms for one in groups for who, terms in one.leaves.items()}
        said[self._identity.public] = self._floors.leave
        # what the others say now is known once all have signed; till then what they said last
        identities = (roster.member(name).identity for name in epoch.hospitals)
        here = group(epoch, roster, {who: said.get(who, "allow") for who in identities})
        check_leaving(groups, here, self._floors.min_hospitals, self._floors.max_epochs)

    def _check_follows(self, epoch: Epoch) -> None:
        """Refuse an epoch that does not follow from the course as it was told, and verified, here."""
        kept, last = self._kept, self._before
        if epoch.previous != (b"" if last is None else last.epoch.digest):
            raise Refused("behind", "an epoch that follows from one that was not told here yet")
        if not {one.epoch.digest for one in kept.opened} <= self._groups.keys():
            raise Refused("other_course", "an epoch of a course without one in which this hospital computed")
        if self._replay is None:
            return
        if self._replay.steps < kept.steps:
            raise Refused("other_course", "an epoch that goes back behind sums that were verified here")
        if (epoch.steps, epoch.head) != (self._replay.steps, self._replay.head):
            raise Refused("behind", "an epoch that follows from other sums than were told here")
        if last is not None and epoch.steps > last.epoch.steps:
            self._check_stay(last.epoch, epoch)

    def _check_stay(self, before: Epoch, epoch: Epoch) -> None:
        """Refuse an epoch in which too few are left of those who verified the sums before it."""
        stay = set(epoch.hospitals) & set(before.hospitals)
        if len(stay) < self._floors.min_hospitals:
            raise Refused("other_course", "an epoch without enough hospitals that verified the sums before")

    def _groups_before(self, around: Surroundings, epoch: Epoch) -> list[Group]:
        # an epoch in which this hospital did not compute is known from the course alone
        course = [group for digest, group in self._groups.items() if digest != epoch.digest]
        return [*(one for one in around.groups if one not in course), *course]

    def _check_sets(self, epoch: Epoch) -> None:
        epoch.verify(self.roster, self._analyses, self._floors.min_hospitals)
        self._check_confirmed(self.roster, epoch.hospitals)  # its analyses' are among them

    def _check_audits(self, epoch: Epoch, audits: Sequence[bytes], around: Surroundings) -> None:
        """Notice a database that was restored: this hospital's own, or another's."""
        if len(audits) != len(epoch.hospitals) or audits_digest(audits) != epoch.audits:
            raise ProtocolError("the epoch does not tell every hospital's audit head")
        for name, packed in zip(epoch.hospitals, audits, strict=True):
            told = AuditHead.of(packed)
            if name == self._name:
                if not around.had(told):
                    raise Refused(
                        "restored",
                        "others have seen entries of this hospital's audit log that it does not have: was "
                        "its node.db restored from an old copy?",
                    )
                continue
            seen = around.seen.get(self.roster.member(name).identity)
            if seen is not None and (told.count < seen.count or (told.count == seen.count and told != seen)):
                raise Refused("restored", "an epoch that hides how another hospital's audit log stood")

    # --- the course ---

    @property
    def records(self) -> int:
        """How many records of the course were taken since this participant began."""
        return self._records

    def take(self, record: EpochRecord | StepRecord, wrapped: bytes) -> None:
        """Take the next record of the study's course, checked; ``wrapped``: an epoch's, see ``Step``."""
        if isinstance(record, EpochRecord):
            self._take_epoch(record, wrapped)
        else:
            self._take_step(record)
        self._records += 1

    def _take_epoch(self, record: EpochRecord, wrapped: bytes) -> None:
        epoch, replay = record.epoch, self._replay
        known = {one.epoch.digest: one for one in self._kept.opened}
        before = self._before
        if before is not None:
            if epoch.number <= before.epoch.number or epoch.previous != before.epoch.digest:
                raise Refused("other_course", "an epoch that does not follow from the one before")
            if replay is not None and replay.steps > before.epoch.steps:
                self._check_stay(before.epoch, epoch)
        elif epoch.previous or epoch.steps:
            raise Refused("other_course", "a course that does not begin at its beginning")
        if replay is not None and (epoch.steps, epoch.head) != (replay.steps, replay.head):
            raise Refused("other_course", "an epoch that follows from other sums than were sent here")
        if epoch.digest in known:
            record = EpochRecord(epoch, known[epoch.digest].opening)
        else:
            self._check_sets(epoch)
            record.opening.verify(epoch, self.roster)
            if self._name in epoch.hospitals:
                self._open(record, wrapped)
        self._before, self._verified = record, True
        self._groups[epoch.digest] = group_of(record, self.roster)
        if replay is not None:
            _follow(lambda: replay.begin(epoch))
            self._verified_up_to(replay)  # all of its hospitals signed the head

    def _open(self, record: EpochRecord, wrapped: bytes) -> None:
        """Take an epoch that this hospital signed, as all others did, with its members' secret."""
        epoch, kept = record.epoch, self._kept
        if epoch.leader == self._name:
            secret = self._masking.group_secret(epoch.digest)
        else:
            secret = unwrap(wrapped, self._secrets[epoch.leader], epoch.digest)
        self._kept = replace(kept, opened=(*kept.opened, OpenEpoch(epoch, record.opening, secret)))

    def _take_step(self, record: StepRecord) -> None:
        replay, kept = self._replay, self._kept
        if replay is None or self._before is None:
            raise ProtocolError("a sum that is of no use here")
        epoch = self._before.epoch
        sums = _follow(lambda: replay.open(record))
        opened = next((one for one in kept.opened if one.epoch.digest == epoch.digest), None)
        for due, one in zip(replay.due, record.sums, strict=True):
            context = self._context(epoch, due.analysis, due.index, due.digest)
            if not due.sealed:
                self._check_signed(epoch.of(due.analysis), one, context)
            elif opened is not None:
                check_lane(one, opened.group, context)
        # An epoch to which this hospital did not belong: its members answer for these sums by the head
        # that they sign with the next epoch.
        self._verified = self._verified and opened is not None
        _follow(lambda: replay.take(record, sums))
        if replay.steps == kept.steps and kept.head and replay.head != kept.head:
            raise Refused("other_course", "other sums than were verified here")
        if self._verified:
            self._verified_up_to(replay)

    def _verified_up_to(self, replay: Replay) -> None:
        if replay.steps > self._kept.steps:
            self._kept = replace(self._kept, steps=replay.steps, head=replay.head)

    def _check_signed(self, hospitals: Sequence[str], opened: Opened, context: bytes) -> None:
        """Check an unsealed query's answers, each by its hospital's signature."""
        if len(opened.proof) != 64 * len(hospitals):
            raise ProtocolError("an unsealed answer without its hospital's signature")
        size = len(opened.vector) // len(hospitals)
        for i, name in enumerate(hospitals):
            answer = opened.vector[i * size : (i + 1) * size].astype("<i8").tobytes()
            signature = opened.proof[64 * i : 64 * (i + 1)]
            verify(self.roster.member(name).identity, signature, UNSEALED, context, answer)

    # --- questions ---

    def wanted(self, step: Step, around: Callable[[], Surroundings]) -> tuple[Wanted, ...]:
        """Return what a step's questions are, each of which may be answered now. All are, or none is.

        With the first, this hospital begins to compute in the epoch (``kept.computing``); only then is it
        asked what is ``around``.
        """
        current = self.epoch
        epoch = current.epoch
        if step.binding != self.roster.digest or step.epoch != epoch.digest:
            raise Refused("unknown_epoch", "a question under an epoch that this hospital did not sign")
        if self._before is None or self._before.epoch.digest != epoch.digest or not self._verified:
            raise Refused("other_course", "a question before the study's course was told up to it")
        found = self._asked(step, epoch) if self._replay is None else self._derived(step, epoch, self._replay)
        if epoch.digest not in self._kept.computing:
            mine, floors = self._groups[epoch.digest], self._floors
            before = self._groups_before(around(), epoch)
            check_leaving(before, mine, floors.min_hospitals, floors.max_epochs)
            self._kept = replace(self._kept, computing=self._kept.computing | {epoch.digest})
        return found

    def _asked(self, step: Step, epoch: Epoch) -> tuple[Wanted, ...]:
        """Return the questions as the coordinator chose them, under `plan: trusted`."""
        found = []
        for question in step.questions:
            hospitals = self._hospitals(epoch, question.analysis)
            if question.index < 0:
                raise ProtocolError("a question with a number below 0")
            context = self._context(epoch, question.analysis, question.index, question.digest)
            found.append(Wanted(question, None, context, hospitals, sealed=True))
        return tuple(found)

    def _hospitals(self, epoch: Epoch, analysis: str) -> tuple[str, ...]:
        hospitals = epoch.of(analysis)
        if self._name not in hospitals:
            raise Refused("not_taking_part", "a question of an analysis in which this hospital takes no part")
        self._check_confirmed(self.roster, hospitals)  # a confirmation may have been taken back
        return hospitals

    def _derived(self, step: Step, epoch: Epoch, replay: Replay) -> tuple[Wanted, ...]:
        if replay.steps < self._kept.steps:
            raise Refused("other_course", "a question that was followed by others already")
        mine = [due for due in replay.due if self._name in epoch.of(due.analysis)]
        if [_known(due) for due in mine] != [
            (one.analysis, one.index, one.kind, one.digest) for one in step.questions
        ]:
            raise Refused("not_next", "a question that the study's program does not ask now")
        return tuple(
            Wanted(
                *(question, due.asked, self._context(epoch, due.analysis, due.index, due.digest)),
                *(self._hospitals(epoch, due.analysis), due.sealed),
            )
            for due, question in zip(mine, step.questions, strict=True)
        )

    def _context(self, epoch: Epoch, analysis: str, index: int, digest: bytes) -> bytes:
        return query_context(self.roster.digest, epoch.digest, analysis, index, digest)

    def secrets(self, hospitals: Sequence[str]) -> dict[str, bytes]:
        """Return what is shared with each other hospital."""
        return {name: self._secrets[name] for name in hospitals if name != self._name}

    def sign_unsealed(self, context: bytes, answer: bytes) -> bytes:
        """Return the signature with which an unsealed answer is sent."""
        return self._identity.sign(UNSEALED, context, answer)


def _known(due: Due) -> tuple[str, int, str, bytes]:
    return due.analysis, due.index, due.kind, due.digest


def _follow(act: Callable[[], T]) -> T:
    """Follow the program; what it can't go on from is a refusal."""
    try:
        return act()
    except ProtocolError:
        raise
    except ReplayDiverged as error:
        raise Refused("diverged", str(error)) from None
    except WardroundError as error:
        raise Refused("not_next", f"the program has ended: {error}") from None


def check_lane(opened: Opened, group: bytes, context: bytes) -> None:
    """Refuse a sum that is not the sum of what the members sent."""
    if len(opened.proof) != LANE_BYTES:
        raise ProtocolError("a sum without its check lane")
    expected = (lane(opened.vector, group, context) + pad(group, context)) % MODULUS
    if expected != int.from_bytes(opened.proof, "little"):
        raise Refused("false_sum", f"`{opened.analysis}`: a sum that is not the members' own")


def group_of(record: EpochRecord, roster: Roster) -> Group:
    """Return an epoch's hospitals with their terms of leaving, and the sets that compute its analyses."""
    identities = (roster.member(name).identity for name in record.epoch.hospitals)
    return group(record.epoch, roster, dict(zip(identities, record.opening.leaves, strict=True)))


def group(epoch: Epoch, roster: Roster, leaves: Mapping[bytes, str]) -> Group:
    """Return the same, with these terms by identity."""
    sets = {epoch.of(one.analysis) for one in epoch.analyses}
    return Group(
        roster.digest,
        leaves,
        tuple(frozenset(roster.member(name).identity for name in one) for one in sorted(sets)),
    )


def shared_secrets(masking: MaskingKey, roster: Roster, own: str) -> dict[str, bytes]:
    """Return the secret shared with each other member, by name.

    ProtocolError for a point of low order, and where two members' keys are one point in two encodings, or
    differ by a point of low order: their masks would be the same, and could cancel each other.
    """
    secrets = {one.name: masking.shared_with(one.masking) for one in roster.members if one.name != own}
    if len(set(secrets.values())) != len(secrets):
        raise ProtocolError("two members' masking keys are one: their masks would cancel each other")
    return secrets
