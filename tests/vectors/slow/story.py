"""A study's course told once more: every message of it made from keys, contributions and questions.

What follows from rows, audit logs and the study's program, which are no part of this, is taken from the
vectors: contributions, audit heads, who takes part in what, and which questions a step has.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tests.vectors.slow import sealing
from tests.vectors.slow.checks import taking_part
from tests.vectors.slow.curves import ed25519_public, x25519_public
from tests.vectors.slow.encoding import Array, Record, decode, encode, record

APPROVAL = "wardround approval v1"


class Hospital:
    """A hospital as it says what it says; ``shown`` is its part of the vectors."""

    def __init__(self, shown: dict[str, Any], study: bytes) -> None:
        self.name, self.leave = shown["name"], shown["leave"]
        self.identity = bytes.fromhex(shown["identity_private"])
        self.masking = bytes.fromhex(shown["masking_private"])
        self.analyses = tuple(shown["taking_part"])
        self.audits: dict[str, Iterator[bytes]] = {
            when: map(bytes.fromhex, shown[f"audits_when_{when}"]) for when in ("approving", "signing")
        }
        self.contributions = {
            (one["analysis"], one["index"]): [int(number) for number in one["vector"].split()]
            for one in shown["contributions"]
        }
        self.number = self.records = 0
        self.seen: dict[str, Record] = {}
        masking = x25519_public(self.masking)
        parts = sealing.member_parts(study, self.name, "node", masking)
        self.member = record(
            "Member",
            name=self.name,
            runtime="node",
            identity=ed25519_public(self.identity),
            masking=masking,
            signature=sealing.sign(self.identity, *parts),
        )

    def see(self, epoch: Record, opening: Record) -> None:
        """Note the others' audit heads as they signed them under an epoch that begins."""
        each = (opening[key] for key in ("audits", "leaves", "signatures"))
        for name, audit, leave, signature in zip(epoch["hospitals"], *each, strict=True):
            known = sealing.epoch_digest(epoch)
            self.seen[name] = record(
                "Seen", hospital=name, audit=audit, epoch=known, leave=leave, signature=signature
            )
        self.seen.pop(self.name)


class Story:
    """The course of one file of vectors."""

    def __init__(self, vectors: dict[str, Any]) -> None:
        self.vectors, self.manifest = vectors, vectors["manifest"].encode()
        study = sealing.digest(self.manifest)
        every = (Hospital(one, study) for one in vectors["hospitals"])
        self.hospitals = {one.name: one for one in every}
        self.names = tuple(sorted(self.hospitals))
        self.members = {name: self.hospitals[name].member for name in self.names}
        self.roster = record("Roster", study=study, members=tuple(self.members.values()))
        self.binding = sealing.binding(self.roster)
        self.course: list[Record] = []
        self.heads: list[bytes] = []
        self.head, self.steps = sealing.first_head(self.binding), 0
        self.epoch: Record | None = None  # proposed last
        self.begun: Record | None = None
        self.audits: tuple[bytes, ...] = ()
        self.digest = self.group = b""
        # since a coordinator started, of an epoch, and of a step
        self.approvals: dict[str, Record] = {}
        self.signed: dict[str, Record] = {}
        self.asked: dict[tuple[str, int], bytes] = {}
        self.answers: dict[tuple[str, int], list[bytes]] = {}

    def secret(self, one: str, other: str) -> bytes:
        """Return s_ij."""
        found = sealing.pair_secret(self.hospitals[one].masking, self.members[other]["masking"])
        assert found is not None
        return found

    def tell(self) -> list[bytes]:
        """Return the bytes of every message, in order; ``course`` and ``heads`` follow."""
        made: list[bytes] = []
        before, last = "", Record("", ())
        for one in self.vectors["messages"]:
            given, kind = decode(bytes.fromhex(one["bytes"])), one["message"]
            own = self.hospitals[one["to"] if one["from"] == "coordinator" else one["from"]]
            if kind == "RosterProposal" and before not in (kind, "Approval"):
                self.approvals = {}  # another coordinator, that asks all anew
            message = self._message(own, kind, given, last)
            made.append(encode(message))
            before, last = kind, message
        return made

    def _message(self, own: Hospital, kind: str, given: Record, last: Record) -> Record:
        """Return what is said to or by a hospital, after ``last``; of ``given`` as little as can be."""
        if kind == "Invitation":
            return record(kind, manifest=self.manifest)
        if kind == "Entry":
            return record(kind, member=own.member)
        if kind == "RosterProposal":
            return record(kind, roster=self.roster)
        if kind == "Approval":
            return self._approval(own)
        if kind == "EpochProposal":
            if not self.signed:
                self.epoch = self._next_epoch()
                self.digest = sealing.epoch_digest(self.epoch)
            assert self.epoch is not None
            return record(kind, epoch=self.epoch, audits=self.audits)
        if kind == "EpochSignature":
            return self._signature(own)
        if kind == "Step":
            return self._step(own, given)
        if kind == "Answers":
            return self._answers(own, last)
        if last["questions"]:
            own.records = 0  # it was started again
        return record("Behind", records=own.records)

    # --- roster and epoch ---

    def _approval(self, own: Hospital) -> Record:
        self.approvals[own.name] = record(
            "Approval",
            signature=sealing.sign(own.identity, APPROVAL, self.binding),
            analyses=own.analyses,
            number=own.number,
            records=own.records,
            audit=next(own.audits["approving"]),
            seen=tuple(own.seen[name] for name in self.names if name in own.seen),
        )
        return self.approvals[own.name]

    def _next_epoch(self) -> Record:
        here = tuple(sorted(self.approvals))
        labels = sorted({label for one in self.hospitals.values() for label in one.analyses})
        abstaining = {
            label: tuple(name for name in here if label not in self.approvals[name]["analyses"])
            for label in labels
        }
        audits: dict[str, bytes] = {}
        for one in (seen for approval in self.approvals.values() for seen in approval["seen"]):
            known = audits.get(one["hospital"], bytes(8))
            audits[one["hospital"]] = max(
                known, one["audit"], key=lambda packed: int.from_bytes(packed[:8], "little")
            )
        for name, approval in self.approvals.items():
            audits.setdefault(name, approval["audit"])  # that nobody else has seen yet
        numbers = [0, *(one["number"] for one in self.approvals.values())]
        numbers += [] if self.begun is None else [self.begun["number"]]
        self.audits = tuple(audits[name] for name in here)
        return record(
            "Epoch",
            binding=self.binding,
            number=max(numbers) + 1,
            hospitals=here,
            analyses=tuple(
                record("Membership", analysis=label, abstaining=names) for label, names in abstaining.items()
            ),
            previous=b"" if self.begun is None else sealing.epoch_digest(self.begun),
            steps=self.steps,
            head=self.head,
            audits=sealing.audits_digest(self.audits),
        )

    def _signature(self, own: Hospital) -> Record:
        assert self.epoch is not None
        audit, hospitals = next(own.audits["signing"]), self.epoch["hospitals"]
        wrapped: tuple[bytes, ...] = ()
        if own.name == hospitals[0]:
            self.group = sealing.group_secret(own.masking, self.digest)
            wrapped = tuple(self._wrapped(name, self.epoch) for name in hospitals)
        parts = sealing.epoch_parts(self.digest, own.leave, audit)
        signature = sealing.sign(own.identity, *parts)
        own.number = self.epoch["number"]
        self.signed[own.name] = record(
            "EpochSignature", signature=signature, leave=own.leave, audit=audit, wrapped=wrapped
        )
        found = self.signed[own.name]
        if len(self.signed) == len(hospitals):
            self._begin(self.epoch, [self.signed[name] for name in hospitals])
        return found

    def _wrapped(self, name: str, epoch: Record) -> bytes:
        leader, *others = epoch["hospitals"]
        if name not in others:
            return b""
        known = sealing.epoch_digest(epoch)
        group = sealing.group_secret(self.hospitals[leader].masking, known)
        return sealing.wrap(group, self.secret(leader, name), known)

    def _begin(self, epoch: Record, signed: list[Record]) -> None:
        opening = record(
            "Opening",
            signatures=tuple(one["signature"] for one in signed),
            leaves=tuple(one["leave"] for one in signed),
            audits=tuple(one["audit"] for one in signed),
        )
        self.begun, self.signed = epoch, {}
        self.course.append(record("EpochRecord", epoch=epoch, opening=opening))
        self.heads.append(self.head)

    # --- steps ---

    def _step(self, own: Hospital, given: Record) -> Record:
        first, questions = own.records, given["questions"]
        self.asked |= {(one["analysis"], one["index"]): one["digest"] for one in questions}
        for one in self.course[own.records :]:
            if one.name == "EpochRecord" and own.name in one["epoch"]["hospitals"]:
                own.see(one["epoch"], one["opening"])
        own.records = len(self.course)
        told = tuple(self.course[first:])
        return record(
            "Step",
            binding=self.binding,
            epoch=self.digest,
            first=first,
            course=told,
            wrapped=tuple(self._wrapped(own.name, one["epoch"]) for one in told if one.name == "EpochRecord"),
            questions=questions,
        )

    def _answers(self, own: Hospital, step: Record) -> Record:
        answers = tuple(self._answer(own, one["analysis"], one["index"]) for one in step["questions"])
        for one in answers:
            self.answers.setdefault((one["analysis"], one["index"]), []).append(one["sealed"])
        assert self.begun is not None
        hospitals = [len(taking_part(self.begun, analysis)) for analysis, _ in self.asked]
        if [len(self.answers.get(query, ())) for query in self.asked] == hospitals:
            self._close()
        return record("Answers", answers=answers)

    def _answer(self, own: Hospital, analysis: str, index: int) -> Record:
        assert self.begun is not None
        hospitals = taking_part(self.begun, analysis)
        secrets = {name: self.secret(own.name, name) for name in hospitals if name != own.name}
        x, context = own.contributions[analysis, index], self._context(analysis, index)
        lane = sealing.lane(x, self.group, context)
        if own.name == hospitals[0]:
            lane += sealing.pad(self.group, context)
        sealed = sealing.seal(x, lane, own.name, secrets, context)
        return record("Answer", analysis=analysis, index=index, sealed=sealed)

    def _context(self, analysis: str, index: int) -> bytes:
        query = self.asked[analysis, index]
        return sealing.query_context(self.binding, self.digest, analysis, index, query)

    def _close(self) -> None:
        """Open the sums of a step, in the order in which the program asked: avon takes part in all."""
        sums = []
        for (analysis, index), question in self.asked.items():
            total, lanes = sealing.unseal(self.answers[analysis, index])
            vector, proof = Array(2, (len(total),), tuple(total)), lanes.to_bytes(16, "little")
            sums.append(
                record(
                    "Opened", analysis=analysis, index=index, question=question, vector=vector, proof=proof
                )
            )
        assert self.begun is not None
        step = record("StepRecord", epoch=self.begun["number"], sums=tuple(sums))
        self.course.append(step)
        self.steps, self.head = self.steps + 1, sealing.next_head(self.head, self.digest, step)
        self.heads.append(self.head)
        self.asked, self.answers = {}, {}
