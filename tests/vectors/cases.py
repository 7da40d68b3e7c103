"""One refusal, as the vectors hold it, and what several of them are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.vectors.world import (
    LEAVE,
    NAMES,
    ROWS,
    Run,
    audit_of,
    identity_of,
    masking_of,
    secret,
)
from wardround_common import messages as say
from wardround_common.sealing.epoch import AuditHead, Epoch, Membership, Opening, audits_digest, sign_epoch
from wardround_common.sealing.lane import lane, pad, wrap
from wardround_common.sealing.mask import MODULUS, query_context
from wardround_common.sealing.record import Opened, position
from wardround_common.typing import Ints
from wardround_common.wire import encode

ME = "brook"


@dataclass(frozen=True)
class Case:
    """A refusal; ``after`` is how many messages the hospital was sent before, of the run's."""

    why: str
    expected: str
    after: int
    action: str
    message: Any
    found_in: str = "bytes"
    hospital: str = ME
    policy: Mapping[str, Any] = field(default_factory=dict)
    confirmed: Sequence[str] = NAMES
    withdrawn: Sequence[str] = ()  # whose confirmation the officer takes back just before the message
    revoked: Sequence[str] = ()
    seen: Mapping[str, int] = field(default_factory=dict)
    behind: bytes = b""  # what stands after the message
    restarted: bool = False  # after what came before, so that it knows what it kept, and no more
    since: Sequence[tuple[str, Any]] = ()  # what it was sent after that, each with its action
    instead: Mapping[int, Any] = field(default_factory=dict)  # of messages before, by their number
    unsealed: Sequence[tuple[str, int]] = ()  # queries whose answers are not sealed

    def shown(self, run: Run, course: str = "") -> dict[str, Any]:
        """Return it as the vectors hold it; ``course`` is the file with the messages of the run, if any."""
        me, policy = self.hospital, run.hospitals[self.hospital].policy
        others = [name for name in self.confirmed if name != me]
        return {
            "about": self.why,
            "hospital": me,
            "identity_private": secret(f"identity of {me}").hex(),
            "masking_private": secret(f"masking key of {me}").hex(),
            "manifest": run.study.manifest().decode(),
            "rows": ROWS[me],
            "policy": policy.model_copy(update=self.policy).model_dump(mode="json"),
            "confirmed": others,
            "confirmation_withdrawn": list(self.withdrawn),
            "revoked": list(self.revoked),
            "identities": {name: identity_of(name).public.hex() for name in dict.fromkeys((*NAMES, *others))},
            "own_audit_heads": [head.packed().hex() for head in _own_heads(run, me)],
            "seen_audit_heads": {
                name: audit_of(name, count).packed().hex() for name, count in self.seen.items()
            },
            "unsealed": [list(one) for one in self.unsealed],
            "before": self._before(run, course),
            "restarted": self.restarted,
            "since": [_message(*one) for one in self.since],
            "offending": _message(self.action, self.message, self.behind),
            "found_in": self.found_in,
            "expected": self.expected,
        }

    def _before(self, run: Run, course: str) -> Any:
        told = run.told(self.hospital)[: self.after]
        if course and not self.instead:
            return {"course": course, "messages": len(told)}
        return [_message(one.action, self.instead.get(i, one.message)) for i, one in enumerate(told)]


def _own_heads(run: Run, name: str) -> list[AuditHead]:
    """Return how a hospital's audit log once stood."""
    own = run.hospitals[name]
    heads = {*own.approving, *own.signing, audit_of(name, ENTRIES)}
    return sorted(heads, key=lambda head: head.count)


def _message(action: str, message: Any, behind: bytes = b"") -> dict[str, str]:
    name = type(message).__name__
    return {"action": action, "message": name, "bytes": (encode(message) + behind).hex()}


NOTHING, ENROLLED, SIGNED, BEGUN, TOLD = range(5)  # how many messages came before
ENTRIES = 4  # of each hospital's audit log, as second epochs tell of it


def step_at(run: Run, at: int) -> say.Step:
    message = run.told(ME)[at].message
    assert isinstance(message, say.Step)
    return message


def steps_of(run: Run, name: str) -> list[tuple[int, say.Step]]:
    """Return a hospital's steps, each with how many messages came before it."""
    return [(i, one.message) for i, one in enumerate(run.told(name)) if isinstance(one.message, say.Step)]


def proposal_of(epoch: Epoch, audits: Sequence[bytes], **changes: Any) -> say.EpochProposal:
    """Return the proposal of an epoch with these audit heads, and with other fields changed."""
    audits = tuple(audits)
    return say.EpochProposal(replace(epoch, audits=audits_digest(audits), **changes), audits)


def without(run: Run, name: str) -> say.EpochProposal:
    """Return a second epoch without one hospital, after the one step that the others have verified."""
    stay = tuple(one for one in NAMES if one != name)
    steps, head = position(run.roster.digest, run.course[:2])
    epoch = Epoch(
        *(run.roster.digest, 2, stay, tuple(Membership(one.analysis, ()) for one in run.epoch.analyses)),
        *(run.epoch.digest, steps, head, b""),
    )
    return proposal_of(epoch, _heads(stay))


def of_all(run: Run, **changes: Any) -> say.EpochProposal:
    """Return a second epoch of the same hospitals, with some fields changed."""
    second = without(run, "cedar").epoch
    same = {"hospitals": NAMES, "analyses": run.epoch.analyses}
    return proposal_of(second, _heads(NAMES), **{**same, **changes})


def _heads(names: Sequence[str]) -> list[bytes]:
    return [audit_of(name, ENTRIES).packed() for name in names]


def lane_of(of: Epoch, under: Epoch, told: Opened, vector: Ints) -> bytes:
    """Return the check lane of a sum by the secret of one epoch, and the query's number under another."""
    context = query_context(under.binding, under.digest, told.analysis, told.index, told.question)
    group = masking_of(of.leader).group_secret(of.digest)
    found = (lane(vector, group, context) + pad(group, context)) % MODULUS
    return found.to_bytes(16, "little")


def wrapped_for(name: str, epoch: Epoch) -> bytes:
    """Return an epoch's secret as its leader wraps it for a hospital."""
    leader = masking_of(epoch.leader)
    shared = leader.shared_with(masking_of(name).public)
    return wrap(leader.group_secret(epoch.digest), shared, epoch.digest)


def signed_by_all(epoch: Epoch) -> Opening:
    audits = tuple(audit_of(name, 9).packed() for name in epoch.hospitals)
    leaves = tuple(LEAVE[name] for name in epoch.hospitals)
    signatures = tuple(
        sign_epoch(identity_of(name), epoch, leave, audit)
        for name, leave, audit in zip(epoch.hospitals, leaves, audits, strict=True)
    )
    return Opening(signatures, leaves, audits)
