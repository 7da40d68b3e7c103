"""Make the test vectors anew from the first implementation: ``python -m tests.vectors.generate``.

Every key is the SHA-256 of what it is for, so the files have the same bytes each time. Numbers that may not
fit into a double are decimal texts, vectors of them are one text with spaces between; bytes are hexadecimal.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

from tests.vectors.approvals import approvals
from tests.vectors.cases import without
from tests.vectors.encodings import encodings
from tests.vectors.leaving import leaving
from tests.vectors.refusals import refusals
from tests.vectors.sealed import check_lane, masks, numbers
from tests.vectors.world import (
    NAMES,
    ROWS,
    STUDY,
    Run,
    changing_run,
    honest_run,
    identity_of,
    masking_of,
    secret,
    text,
)
from wardround_common.messages import EpochProposal
from wardround_common.sealing.lane import pad, wrap
from wardround_common.sealing.mask import expand, query_context
from wardround_common.sealing.participant import UNSEALED
from wardround_common.sealing.record import EpochRecord, first_head, position
from wardround_common.sealing.roster import fingerprint
from wardround_common.wire import encode, joined
from wardround_common.words import WORDS, words

HERE = Path(__file__).parent


# --- keys ---


def key_schedule(run: Run) -> dict[str, Any]:
    """Return every key and signature of the honest run's epoch."""
    epoch, roster, opening = run.epoch, run.roster, run.epochs[-1].opening
    context = query_context(roster.digest, epoch.digest, "flow", 0, _digest_of(run, "flow", 0))
    leader = masking_of(epoch.leader)
    group = leader.group_secret(epoch.digest)
    bare = np.array([1, -2, 2**62])
    signature = identity_of("avon").sign(UNSEALED, context, bare.astype("<i8").tobytes())
    wrapped = {name: leader.shared_with(masking_of(name).public) for name in NAMES[1:]}
    return {
        "about": "Keys, signatures and digests of one epoch; PROTOCOL.md, sections 2 and 3.",
        "word_list": " ".join(WORDS),
        "manifest": STUDY.manifest().decode(),
        "study": STUDY.digest.hex(),
        "members": [_member(one.name, one) for one in roster.members],
        "roster": {
            "bytes": encode(roster).hex(),
            "binding": roster.digest.hex(),
            "words": " ".join(words(roster.digest)),
        },
        "epoch": _epoch(run.proposals[-1]),
        "epoch_without_cedar": _epoch(without(run, "cedar")),
        "approvals": [one.hex() for one in run.coordination.approvals()],
        "epoch_signatures": [
            {"hospital": name, "leave": leave, "audit": audit.hex(), "signature": signature.hex()}
            for name, signature, leave, audit in zip(
                *(NAMES, opening.signatures, opening.leaves, opening.audits), strict=True
            )
        ],
        "pairs": [_pair(one, other, context) for i, one in enumerate(NAMES) for other in NAMES[i + 1 :]],
        "query": {
            "analysis": "flow",
            "index": 0,
            "digest": _digest_of(run, "flow", 0).hex(),
            "rc": context.hex(),
        },
        "group": {
            "leader": epoch.leader,
            "g": group.hex(),
            "lane_key": expand(group, context).hex(),
            "pad": str(pad(group, context)),
            "wrapped": [
                {
                    "hospital": name,
                    "w": expand(shared, joined(b"wardround group key v1", epoch.digest)).hex(),
                    "bytes": wrap(group, shared, epoch.digest).hex(),
                }
                for name, shared in wrapped.items()
            ],
        },
        "unsealed": {"hospital": "avon", "vector": numbers(bare), "signature": signature.hex()},
        "first_head": first_head(roster.digest).hex(),
    }


def _member(name: str, entry: Any) -> dict[str, str]:
    stands_for = fingerprint(name, entry.identity)
    return {
        "name": name,
        "runtime": entry.runtime,
        "identity_private": secret(f"identity of {name}").hex(),
        "identity": entry.identity.hex(),
        "masking_private": secret(f"masking key of {name}").hex(),
        "masking": entry.masking.hex(),
        "signature": entry.signature.hex(),
        "fingerprint": stands_for.hex(),
        "words": " ".join(words(stands_for)),
    }


def _epoch(proposal: EpochProposal) -> dict[str, Any]:
    epoch = proposal.epoch
    return {
        "binding": epoch.binding.hex(),
        "number": epoch.number,
        "hospitals": list(epoch.hospitals),
        "analyses": [[one.analysis, list(one.abstaining)] for one in epoch.analyses],
        "previous": epoch.previous.hex(),
        "steps": epoch.steps,
        "head": epoch.head.hex(),
        "audit_heads": [one.hex() for one in proposal.audits],
        "audits": epoch.audits.hex(),
        "bytes": encode(epoch).hex(),
        "digest": epoch.digest.hex(),
    }


def _pair(one: str, other: str, context: bytes) -> dict[str, Any]:
    theirs = masking_of(other).public
    raw = X25519PrivateKey.from_private_bytes(secret(f"masking key of {one}"))
    shared = masking_of(one).shared_with(theirs)
    return {
        "between": [one, other],
        "x25519": raw.exchange(X25519PublicKey.from_public_bytes(theirs)).hex(),
        "s": shared.hex(),
        "k": expand(shared, context).hex(),
    }


def _digest_of(run: Run, analysis: str, index: int) -> bytes:
    sums = [one for record in run.course if not isinstance(record, EpochRecord) for one in record.sums]
    return next(one.question for one in sums if (one.analysis, one.index) == (analysis, index))


# --- courses ---

ABOUT = (
    "Every message of a study of three hospitals, in order, with what each hospital contributed in the "
    "clear, the sums that were opened and the head after each step. Before the last step, brook is started "
    "again, so it is `Behind` and is told the course from the beginning."
)


def course(run: Run, about: str = "") -> dict[str, Any]:
    """Return a run, message by message."""
    return {
        "about": f"{ABOUT}{about}",
        "manifest": STUDY.manifest().decode(),
        "hospitals": [_hospital(run, name) for name in NAMES],
        "messages": [one.shown() for one in run.said],
        "course": [_record(run, at) for at in range(len(run.course))],
    }


def _hospital(run: Run, name: str) -> dict[str, Any]:
    hospital = run.hospitals[name]
    return {
        "name": name,
        "identity_private": secret(f"identity of {name}").hex(),
        "masking_private": secret(f"masking key of {name}").hex(),
        "rows": ROWS[name],
        "policy": hospital.policy.model_dump(mode="json"),
        "leave": hospital.policy.leave,
        "audits_when_approving": [one.packed().hex() for one in hospital.approving],
        "audits_when_signing": [one.packed().hex() for one in hospital.signing],
        "taking_part": list(hospital.analyses),
        "contributions": [
            {"analysis": analysis, "index": index, "vector": numbers(vector)}
            for (analysis, index), vector in hospital.contributions.items()
        ],
    }


def _record(run: Run, at: int) -> dict[str, Any]:
    record = run.course[at]
    shown: dict[str, Any] = {"record": type(record).__name__, "bytes": encode(record).hex()}
    if not isinstance(record, EpochRecord):
        shown["sums"] = [
            {"analysis": one.analysis, "index": one.index, "sum": numbers(one.vector)} for one in record.sums
        ]
    steps, head = position(run.roster.digest, run.course[: at + 1])
    return {**shown, "steps": steps, "head": head.hex()}


def files() -> dict[str, str]:
    """Return every file's text by its name."""
    run = honest_run()
    made = {
        "encodings": encodings(),
        "key_schedule": key_schedule(run),
        "masks": masks(),
        "check_lane": check_lane(),
        "epoch": course(run),
        "epochs": course(
            changing_run(),
            " After the first step, the coordinator is started again and goes on without cedar, and once "
            "more with it after two others.",
        ),
        "approvals": approvals(),
        "leaving": leaving(),
        **{f"refusal_{name}": one for name, one in refusals().items()},
    }
    return {f"{name}.json": text(data) for name, data in made.items()}


def main() -> None:
    """Write all files, and remove those of refusals that there are no more."""
    made = files()
    for old in HERE.glob("*.json"):
        if old.name not in made:
            old.unlink()
    for name, data in made.items():
        (HERE / name).write_text(data, "ascii")


if __name__ == "__main__":
    main()
