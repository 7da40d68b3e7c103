"""Approvals as hospitals send them to a coordinator that goes on with a study, true and false."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.vectors.world import NAMES, audit_of, changing_run, identity_of, secret
from wardround_common.messages import Approval
from wardround_common.sealing.epoch import AuditHead, sign_epoch
from wardround_common.sealing.roster import approve
from wardround_common.wire import encode

ME = "brook"
LAST_NUMBER = 2  # of the last epoch that was recorded
MOST_TRIED = 1 << 20


def approvals() -> dict[str, Any]:
    """Return brook's approval when cedar is to come back, with what it saw of the others."""
    run = changing_run()
    true = [one.message for one in run.said if one.sender == ME and isinstance(one.message, Approval)][-1]
    seen, (avon, cedar) = true.seen, true.seen
    earlier, later = (one.epoch for one in run.epochs[:2])
    most, too_many = (AuditHead(count, bytes(32)).packed() for count in ((1 << 63) - 1, 1 << 63))
    signed_by_brook = sign_epoch(identity_of(ME), later, avon.leave, avon.audit)
    unknown = sign_epoch(identity_of("avon"), later, "sometimes", avon.audit)
    of_too_many = sign_epoch(identity_of("avon"), later, avon.leave, too_many)
    of_most = sign_epoch(identity_of("avon"), later, avon.leave, most)
    cases = {
        "the true one": (true, True),
        "the greatest number": (replace(true, number=LAST_NUMBER + MOST_TRIED), True),
        "the greatest audit head": (
            *(replace(true, seen=(replace(avon, audit=most, signature=of_most), cedar)), True),
        ),
        "signed by another": (replace(true, signature=approve(identity_of("avon"), run.roster)), False),
        "a number below 0": (replace(true, number=-1), False),
        "a number beyond all that there can be": (
            *(replace(true, number=LAST_NUMBER + MOST_TRIED + 1), False),
        ),
        "its own audit head cut off": (replace(true, audit=true.audit[:-1]), False),
        "its own audit log of 2^63 entries": (replace(true, audit=too_many), False),
        "avon's audit head with more entries than it signed": (
            *(replace(true, seen=(replace(avon, audit=audit_of("avon", 99).packed()), cedar)), False),
        ),
        "avon's audit head of 2^63 entries, signed": (
            *(replace(true, seen=(replace(avon, audit=too_many, signature=of_too_many), cedar)), False),
        ),
        "avon's audit head, signed by brook": (
            *(replace(true, seen=(replace(avon, signature=signed_by_brook), cedar)), False),
        ),
        "avon's audit head, under another epoch": (
            *(replace(true, seen=(replace(avon, epoch=earlier.digest), cedar)), False),
        ),
        "avon's audit head, with other terms": (
            *(replace(true, seen=(replace(avon, leave="allow"), cedar)), False),
        ),
        "avon's audit head, with terms that there are not": (
            *(replace(true, seen=(replace(avon, leave="sometimes", signature=unknown), cedar)), False),
        ),
        "avon's audit head as cedar's": (replace(true, seen=(replace(avon, hospital="cedar"),)), False),
        "of a hospital that is not in the roster": (
            *(replace(true, seen=(*seen, replace(avon, hospital="derwent"))), False),
        ),
    }
    return {
        "about": "Approvals by brook, which is to go on with avon and cedar after two epochs; what it saw of "
        "avon was signed under the second, of cedar under the first. `accepted` tells whether the "
        "coordinator takes them; PROTOCOL.md, section 6.",
        "hospital": ME,
        "roster": encode(run.roster).hex(),
        "last_number": LAST_NUMBER,
        "identities_private": {name: secret(f"identity of {name}").hex() for name in NAMES},
        "approvals": [
            {"what": what, "bytes": encode(approval).hex(), "accepted": accepted}
            for what, (approval, accepted) in cases.items()
        ],
    }
