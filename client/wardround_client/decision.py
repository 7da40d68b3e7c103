"""What an approval is: one signature over the study and what was pinned, and an entry of the audit log."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import partial

from wardround_client.database import Statement
from wardround_client.store import NodeStore, StudyRecord
from wardround_common.audit.log import AuditLog
from wardround_common.errors import Refused
from wardround_common.sealing.identity import Identity, verify
from wardround_common.sealing.mask import MaskingKey
from wardround_common.study import Study

STUDY_APPROVAL = "wardround study approval v2"
APPROVE = "approve"
DECISIONS = (APPROVE, "withdraw", "reject")  # events of the audit log


def approve_study(
    store: NodeStore,
    identity: Identity,
    study: Study,
    masking: MaskingKey | None = None,
    *,
    cohort: bytes = b"",
    pin: bytes = b"",
    changes: Sequence[Statement] = (),
    standing: bool = False,
) -> None:
    """Approve a study for this hospital: sign it with what is pinned, make its masking key, and keep all.

    Approved once more, it begins anew: another masking key, so no mask serves twice. ``masking`` is for
    simulations, which protect nothing; ``cohort`` the keyed digest of the rows that were pinned in a file,
    ``pin`` where they come from; ``changes`` are noted with it; ``standing``: by the policy's standing rule.
    """
    digest, masking = study.digest, masking or MaskingKey()
    store.offer(digest, study.name, study.manifest())
    signature = identity.sign(STUDY_APPROVAL, digest, masking.public, cohort, pin)
    about = approval_entry(digest, signature) + (" by the standing rule" if standing else "")
    store.approve(digest, signature, masking.to_bytes(), cohort, pin, changes, (APPROVE, study.name, about))


def approval_entry(digest: bytes, signature: bytes) -> str:
    """Return what the audit log says of an approval."""
    return f"{digest.hex()} {hashlib.sha256(signature).hexdigest()[:32]}"


def check_approval(store: NodeStore, identity: Identity, record: StudyRecord) -> MaskingKey:
    """Return the masking key of an approved study.

    Refused where it is not approved, was not by this hospital, of other rows, or was taken back since: the
    last decision in the audit log must be this approval.
    """
    if record.masking is None or record.signature is None:
        raise Refused("not_approved", "a study that this hospital has not approved")
    masking = MaskingKey.from_bytes(record.masking)
    signed = (record.digest, masking.public, record.cohort or b"", record.pin or b"")
    verify(identity.public, record.signature, STUDY_APPROVAL, *signed)
    if not store.log(partial(_last_decision, record.digest)).startswith(
        approval_entry(record.digest, record.signature)
    ):
        raise Refused("not_approved", "an approval that is not the last decision in the audit log")
    return masking


def _last_decision(digest: bytes, log: AuditLog) -> str:
    """Return what the log says of the last decision on a study, by its digest; empty if there is none."""
    mark = digest.hex()
    return next(
        (
            one.detail
            for _, one in log.backwards(mark.encode())
            if one.event in DECISIONS and one.detail.startswith(mark)
        ),
        "",
    )
