"""What a hospital finds wrong with what a coordinator says: PROTOCOL.md, section 6.

Not here is what needs rows, officers, audit logs, or the study's program, so that of a sum this neither knows
whether it was asked nor whether its answers were sealed; it is told the latter.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from tests.vectors.slow import leaving
from tests.vectors.slow.curves import ed25519_public, x25519_public
from tests.vectors.slow.encoding import Malformed, Record, decode
from tests.vectors.slow.sealing import (
    audits_digest,
    binding,
    digest,
    epoch_digest,
    epoch_parts,
    first_head,
    group_secret,
    is_signed,
    is_true,
    member_parts,
    next_head,
    pair_secret,
    query_context,
    unsealed_parts,
    unwrap,
)

LEAVES = ("allow", "group", "never")
RUNTIMES = ("node", "supernode")
MOST_NUMBER = 2**62
MOST_ENTRIES = 2**63  # an audit log has fewer
MOST_TRIED = 2**20  # epochs that hospitals signed and that never began


class Wrong(Exception):
    """A message that is refused: by a code, or as one that no honest coordinator sends (`protocol`)."""

    def __init__(self, code: str = "protocol") -> None:
        super().__init__(code)
        self.code = code


def must(holds: bool, code: str = "protocol") -> None:
    """Refuse unless something holds."""
    if not holds:
        raise Wrong(code)


def check_audit(packed: bytes) -> None:
    """Refuse what is no audit head."""
    must(len(packed) == 40 and int.from_bytes(packed[:8], "little") < MOST_ENTRIES)


def check_signed(identity: bytes, epoch: bytes, signature: bytes, leave: str, audit: bytes) -> None:
    """Refuse what is no member's signature under an epoch of this digest."""
    must(leave in LEAVES)
    check_audit(audit)
    must(is_signed(identity, signature, *epoch_parts(epoch, leave, audit)))


def check_approval(roster: Record, name: str, approval: Record, last_number: int) -> None:
    """Refuse an approval, as the coordinator does; the last epoch that it recorded has ``last_number``."""
    identities = {one["name"]: one["identity"] for one in roster["members"]}
    must(is_signed(identities[name], approval["signature"], "wardround approval v1", binding(roster)))
    check_audit(approval["audit"])
    must(0 <= approval["number"] <= last_number + MOST_TRIED)
    for one in approval["seen"]:
        must(one["hospital"] in identities)
        signed = (one[key] for key in ("epoch", "signature", "leave", "audit"))
        check_signed(identities[one["hospital"]], *signed)


class Reader:
    """One hospital that reads what a coordinator says."""

    def __init__(
        self,
        name: str,
        identity: bytes,
        masking: bytes,
        manifest: str,
        policy: Mapping[str, Any],
        unsealed: Collection[tuple[str, int]] = (),
    ) -> None:
        """``unsealed``: the queries that are not sealed, by analysis and index."""
        study = json.loads(manifest)
        self.name, self.study, self.policy = name, digest(manifest.encode()), policy
        self.verified = study["privacy"]["plan"] == "verified"
        self.analyses = sorted(["flow", *(one["name"] or one["kind"] for one in study["analyses"])])
        self.least = max(policy["min_hospitals"], study["privacy"]["min_hospitals"])
        self.identity, self.masking_private, self.unsealed = ed25519_public(identity), masking, unsealed
        self.masking = x25519_public(masking)
        self.secrets: dict[str, bytes] = {}
        self.identities: dict[str, bytes] = {}
        self.binding = b""
        # what lasts
        self.signed: Record | None = None
        self.opened: dict[bytes, tuple[Record, bytes]] = {}  # opening and g, by the epoch's digest
        self.computing: set[bytes] = set()  # those of these in which something may have been answered
        self.verified_steps, self.verified_head = 0, b""
        self.answered: dict[tuple[bytes, str, int], bytes] = {}
        self.restart()

    def restart(self) -> None:
        """Forget the course that was told, as a node that is started again does."""
        self.records = self.steps = 0
        self.head = first_head(self.binding)
        self.epoch: Record | None = None
        self.certain = True  # whether the sums of this epoch were verified
        self.groups: dict[bytes, leaving.Group] = {}  # of the course, in order, by the epoch's digest

    def read(self, body: bytes) -> None:
        """Take one message. Wrong if it is refused."""
        try:
            message = decode(body)
        except Malformed:
            raise Wrong from None
        must(isinstance(message, Record))
        if message.name == "RosterProposal":
            self._roster(message["roster"])
        if message.name == "EpochProposal":
            self._proposal(message["epoch"], message["audits"])
        if message.name == "Step":
            self._step(message)

    # --- the roster ---

    def _roster(self, roster: Record) -> None:
        members = roster["members"]
        names = [one["name"] for one in members]
        must(roster["study"] == self.study and names == sorted(set(names)))
        mine = [one for one in members if one["name"] == self.name]
        must([(one["identity"], one["masking"]) for one in mine] == [(self.identity, self.masking)])
        for one in members:
            parts = member_parts(self.study, one["name"], one["runtime"], one["masking"])
            must(len(one["identity"]) == len(one["masking"]) == 32 and one["runtime"] in RUNTIMES)
            must(is_signed(one["identity"], one["signature"], *parts))
        for key in ("identity", "masking"):
            must(len({one[key] for one in members}) == len(members))
        must(len(members) >= self.least, "min_hospitals")
        must(self.binding in (b"", binding(roster)), "second_roster")
        others = [one for one in members if one["name"] != self.name]
        secrets = [pair_secret(self.masking_private, one["masking"]) for one in others]
        # Other bytes may be the same point to X25519, and two masks of one secret cancel.
        must(None not in secrets and len(set(secrets)) == len(secrets))
        if not self.binding:
            self.secrets = {one["name"]: key or b"" for one, key in zip(others, secrets, strict=True)}
            self.identities = {one["name"]: one["identity"] for one in members}
            self.binding = binding(roster)
            self.restart()

    # --- epochs ---

    def _check_sets(self, epoch: Record) -> None:
        must(epoch["binding"] == self.binding)
        must(1 <= epoch["number"] <= MOST_NUMBER and epoch["steps"] >= 0)
        must(len(epoch["head"]) == len(epoch["audits"]) == 32 and len(epoch["previous"]) in (0, 32))
        must([one["analysis"] for one in epoch["analyses"]] == self.analyses)
        hospitals = epoch["hospitals"]
        sets = [(hospitals, self.identities), *((one["abstaining"], hospitals) for one in epoch["analyses"])]
        for names, within in sets:
            must(list(names) == sorted(set(names)) and set(names) <= set(within))
        must(2 * len(hospitals) > len(self.identities))
        must(all(len(taking_part(epoch, label)) >= self.least for label in self.analyses))

    def _proposal(self, epoch: Record, audits: Sequence[bytes]) -> None:
        must(epoch["binding"] == self.binding, "no_roster")
        if self.signed is not None and epoch_digest(epoch) == epoch_digest(self.signed):
            return
        self._check_sets(epoch)
        must(self.signed is None or epoch["number"] > self.signed["number"], "old_epoch")
        must(self.name in epoch["hospitals"], "membership")
        self._check_follows(epoch)
        mine = [self.name in taking_part(epoch, label) for label in self.analyses]
        must(self.policy["leave"] == "allow" or len(set(mine)) == 1, "membership")
        must(len(audits) == len(epoch["hospitals"]) and audits_digest(audits) == epoch["audits"])
        for packed in audits:
            check_audit(packed)
        # what the others' terms are now is known once they signed; till then they are what they were
        terms = {name: leave for one in self.groups.values() for name, leave in one.leaves.items()}
        terms[self.name] = self.policy["leave"]
        leaves = [terms.get(name, "allow") for name in epoch["hospitals"]]
        self._check_leaving(epoch_digest(epoch), self._group(epoch, leaves))
        self.signed = epoch

    def _check_follows(self, epoch: Record) -> None:
        before = b"" if self.epoch is None else epoch_digest(self.epoch)
        must(epoch["previous"] == before, "behind")
        must(self.opened.keys() <= self.groups.keys(), "other_course")
        if not self.verified:
            return
        must(self.steps >= self.verified_steps, "other_course")
        must((epoch["steps"], epoch["head"]) == (self.steps, self.head), "behind")
        if self.epoch is not None and self.steps > self.epoch["steps"]:
            self._check_stay(self.epoch, epoch)

    def _check_stay(self, before: Record, epoch: Record) -> None:
        must(len(set(epoch["hospitals"]) & set(before["hospitals"])) >= self.least, "other_course")

    def _group(self, epoch: Record, leaves: Sequence[str]) -> leaving.Group:
        sets = [taking_part(epoch, label) for label in self.analyses]
        return leaving.Group(self.binding, dict(zip(epoch["hospitals"], leaves, strict=True)), sets)

    def _check_leaving(self, known: bytes, group: leaving.Group) -> None:
        before = [one for digest_of, one in self.groups.items() if digest_of != known]
        code = leaving.refused(before, group, self.least, self.policy["max_epochs"])
        must(code is None, code or "")

    # --- the course ---

    def _step(self, message: Record) -> None:
        must(message["binding"] == self.binding, "no_roster")
        if not 0 <= message["first"] <= self.records:
            return  # it says that it is `Behind`
        secrets = list(message["wrapped"])
        must(len(secrets) == sum(one.name == "EpochRecord" for one in message["course"]))
        each = [(one, secrets.pop(0) if one.name == "EpochRecord" else b"") for one in message["course"]]
        for record, wrapped in each[self.records - message["first"] :]:
            if record.name == "EpochRecord":
                self._epoch(record["epoch"], record["opening"], wrapped)
            else:
                self._sums(record)
            self.records += 1
        if message["questions"]:
            self._questions(message)

    def _epoch(self, epoch: Record, opening: Record, wrapped: bytes) -> None:
        before, known = self.epoch, epoch_digest(epoch)
        if before is None:
            must(epoch["previous"] == b"" and epoch["steps"] == 0, "other_course")
        else:
            follows = epoch["number"] > before["number"] and epoch["previous"] == epoch_digest(before)
            must(follows, "other_course")
            if self.verified and self.steps > before["steps"]:
                self._check_stay(before, epoch)
        if self.verified:
            must((epoch["steps"], epoch["head"]) == (self.steps, self.head), "other_course")
        if known in self.opened:
            opening = self.opened[known][0]
        else:
            self._check_sets(epoch)
            self._check_opening(epoch, opening)
            if self.name in epoch["hospitals"]:
                self._open(epoch, opening, wrapped)
        self.epoch, self.certain = epoch, True
        self.groups[known] = self._group(epoch, opening["leaves"])
        self._note()  # all hospitals of the epoch signed the head of the sums before it

    def _check_opening(self, epoch: Record, opening: Record) -> None:
        each = [opening[key] for key in ("signatures", "leaves", "audits")]
        must(all(len(one) == len(epoch["hospitals"]) for one in each))
        for name, *signed in zip(epoch["hospitals"], *each, strict=True):
            check_signed(self.identities[name], epoch_digest(epoch), *signed)

    def _open(self, epoch: Record, opening: Record, wrapped: bytes) -> None:
        leader, known = epoch["hospitals"][0], epoch_digest(epoch)
        secret = (
            group_secret(self.masking_private, known)
            if leader == self.name
            else unwrap(wrapped, self.secrets[leader], known)
        )
        must(secret is not None)
        self.opened[known] = opening, secret or b""

    def _sums(self, step: Record) -> None:
        must(self.verified and self.epoch is not None)
        assert self.epoch is not None
        must(step["epoch"] == self.epoch["number"], "diverged")
        known = epoch_digest(self.epoch)
        for one in step["sums"]:
            context = query_context(self.binding, known, one["analysis"], one["index"], one["question"])
            if (one["analysis"], one["index"]) in self.unsealed:
                self._check_unsealed(one, taking_part(self.epoch, one["analysis"]), context)
            elif known in self.opened:
                must(len(one["proof"]) == 16)
                proof, group = int.from_bytes(one["proof"], "little"), self.opened[known][1]
                must(is_true(one["vector"].values, proof, group, context), "false_sum")
        self.certain = self.certain and known in self.opened
        self.steps += 1
        self.head = next_head(self.head, known, step)
        if self.steps == self.verified_steps and self.verified_head:
            must(self.head == self.verified_head, "other_course")
        if self.certain:
            self._note()

    def _check_unsealed(self, one: Record, names: Sequence[str], context: bytes) -> None:
        values, proof = one["vector"].values, one["proof"]
        must(len(proof) == 64 * len(names))
        size = len(values) // len(names)
        for i, name in enumerate(names):
            parts = unsealed_parts(context, values[i * size : (i + 1) * size])
            must(is_signed(self.identities[name], proof[64 * i : 64 * (i + 1)], *parts))

    def _note(self) -> None:
        if self.verified and self.steps > self.verified_steps:
            self.verified_steps, self.verified_head = self.steps, self.head

    # --- questions ---

    def _questions(self, message: Record) -> None:
        must(self.signed is not None, "unknown_epoch")
        assert self.signed is not None
        known = epoch_digest(self.signed)
        must([*self.opened][-1:] == [known] and message["epoch"] == known, "unknown_epoch")
        told = self.epoch is not None and epoch_digest(self.epoch) == known and self.certain
        must(told and self.steps >= self.verified_steps, "other_course")
        for one in message["questions"]:
            must(self.name in taking_part(self.signed, one["analysis"]), "not_taking_part")
        if known not in self.computing:  # with everybody's signed terms
            self._check_leaving(known, self.groups[known])
            self.computing.add(known)
        for one in message["questions"]:
            analysis, index = one["analysis"], one["index"]
            query = self.answered.setdefault((known, analysis, index), one["digest"])
            must(query == one["digest"], "other_query")
            must(self.verified or digest(one["asked"]) == query)


def taking_part(epoch: Record, analysis: str) -> list[str]:
    """Return an epoch's hospitals that take part in an analysis. Wrong if the epoch does not name it."""
    found = [one["abstaining"] for one in epoch["analyses"] if one["analysis"] == analysis]
    must(len(found) == 1)
    return [name for name in epoch["hospitals"] if name not in found[0]]
