"""What a hospital refuses: for each thing that may be wrong, one message that departs from an honest course.

A case names the hospital that is asked, what it knows (keys, rows, policy, what its officer confirmed, audit
heads), what it was sent and accepted ``before`` (messages, or how many of those that a course sends it after
its invitation), whether it was started again or a confirmation was taken back then, what it was told
``since``, and the one message that it refuses with ``expected``.
``found_in`` tells where the fault lies: in the `bytes` of what was said, up to then and now (with keys and
policy), or in the `state` besides: rows, officers, audit logs, the study's program.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tests.vectors.cases import (
    ENROLLED,
    ME,
    NOTHING,
    Case,
    proposal_of,
    signed_by_all,
)
from tests.vectors.refused_courses import courses, second_epoch, told_again
from tests.vectors.refused_epochs import next_epochs, sets
from tests.vectors.refused_questions import questions, trusted_questions, unsealed
from tests.vectors.slow.curves import P
from tests.vectors.world import (
    COORDINATOR,
    NAMES,
    STUDY,
    TRUSTED,
    Run,
    audit_of,
    changing_run,
    honest_run,
    identity_of,
    masking_of,
    secret,
)
from wardround_common import messages as say
from wardround_common.sealing.epoch import MOST_NUMBER, AuditHead, Membership
from wardround_common.sealing.record import EpochRecord, first_head
from wardround_common.sealing.roster import Member, Roster, enter

# A point of order 8, with no number that X25519 makes anything else of than 0.
ORDER_8 = bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800")


def refusals() -> dict[str, dict[str, Any]]:
    """Return all cases by what is wrong."""
    run, cases = honest_run(), dict[str, dict[str, Any]]()

    def add(of: Run, found: Mapping[str, Case], course: str = "") -> None:
        assert not cases.keys() & found.keys()
        cases.update({name: case.shown(of, course) for name, case in found.items()})

    for some in (_rosters, _epochs, next_epochs, courses, told_again, questions):
        add(run, some(run), "epoch")
    changing, trusted = changing_run(), Run(TRUSTED).begin().advance(2)
    add(changing, second_epoch(changing), "epochs")
    add(trusted, trusted_questions(trusted))
    for some_run, found in (*sets(), unsealed()):
        add(some_run, found)
    return cases


# --- rosters ---


def _entry(name: str, masking: bytes, of: str | None = None, study: bytes = STUDY.digest) -> Member:
    return enter(identity_of(of or name), study, name, masking)


def _rosters(run: Run) -> dict[str, Case]:
    avon, brook, cedar = run.roster.members

    def case(why: str, *members: Member, code: str = "protocol", after: int = NOTHING, **more: Any) -> Case:
        return Case(why, code, after, "roster", say.RosterProposal(Roster(STUDY.digest, members)), **more)

    swapped = replace(avon, masking=masking_of(COORDINATOR).public)
    point = int.from_bytes(avon.masking, "little")
    other_masking = _entry("cedar", masking_of("cedar, approved once more").public)
    state: dict[str, Any] = {"found_in": "state"}
    return {
        "swapped_key": case(
            "avon's masking key is the coordinator's, under avon's signature", swapped, brook, cedar
        ),
        "low_order_point": case(
            "cedar signed a masking key of order 8, with which every secret is zero",
            *(avon, brook, _entry("cedar", ORDER_8)),
        ),
        "twin_point": case(
            "cedar signed avon's masking key plus the point of order 2: other bytes, but the same secret "
            "with this hospital, whose masks towards avon and cedar would cancel",
            *(avon, brook, _entry("cedar", pow(point, -1, P).to_bytes(32, "little"))),
        ),
        "twin_encoding": case(
            "cedar signed avon's masking key with the highest bit set, which X25519 ignores: the same secret",
            *(avon, brook, _entry("cedar", (point | 1 << 255).to_bytes(32, "little"))),
        ),
        "shared_key": case(
            "one identity plays two hospitals", avon, brook, _entry("cedar", cedar.masking, of="avon")
        ),
        "entry_of_another_study": case(
            "avon's entry was signed for another study",
            *(_entry("avon", avon.masking, study=secret("another study")), brook, cedar),
        ),
        "not_my_entry": case(
            "this hospital's own masking key is another one, signed by itself",
            *(avon, _entry("brook", masking_of("brook, approved before").public), cedar),
        ),
        "unsorted_roster": case("the members are not sorted by name", cedar, avon, brook),
        "not_canonical": case("a byte behind the roster", avon, brook, cedar, behind=b"\0"),
        "too_few_hospitals": case(
            "a roster of one hospital, where two are the least", brook, code="min_hospitals"
        ),
        "unconfirmed": case(
            "the officer has confirmed avon, so that min_hospitals are known, but not cedar",
            *(avon, brook, cedar),
            code="unconfirmed",
            confirmed=("avon",),
            **state,
        ),
        "revoked": case(
            "the officer has revoked cedar", avon, brook, cedar, code="revoked", revoked=("cedar",), **state
        ),
        "second_roster": case(
            "another roster, valid by itself, after one was signed",
            *(avon, brook, other_masking),
            code="second_roster",
            after=ENROLLED,
        ),
    }


# --- epochs ---


def _epochs(run: Run) -> dict[str, Case]:
    (first,) = run.proposals
    good, audits, me = first.epoch, first.audits, NAMES.index(ME)

    def case(why: str, code: str, told: say.EpochProposal, after: int = ENROLLED, **more: Any) -> Case:
        return Case(why, code, after, "epoch", told, **more)

    def without_me(one: Membership) -> Membership:
        return replace(one, abstaining=(ME,)) if one.analysis == "summary" else one

    def only_me(one: Membership) -> Membership:
        return replace(one, abstaining=("avon", "cedar")) if one.analysis == "summary" else one

    def mine(audit: AuditHead) -> say.EpochProposal:
        return proposal_of(good, (*audits[:me], audit.packed(), *audits[me + 1 :]))

    nobody = tuple(Membership(one.analysis, ()) for one in good.analyses)
    others = [audits[0], audits[2]]
    four = Roster(STUDY.digest, (*run.roster.members, _entry("derwent", masking_of("derwent").public)))
    of_four: dict[str, Any] = {
        "confirmed": (*NAMES, "derwent"),
        "instead": {NOTHING: say.RosterProposal(four)},
    }
    bound = {"binding": four.digest, "head": first_head(four.digest)}
    half, other_half = (
        proposal_of(good, two, hospitals=names, analyses=nobody, **bound)
        for two, names in ((audits[:2], ("avon", "brook")), (others, ("avon", "cedar")))
    )
    begins = EpochRecord(other_half.epoch, signed_by_all(other_half.epoch))
    state: dict[str, Any] = {"found_in": "state"}
    return {
        "no_roster": case("an epoch before a roster was approved", "no_roster", first, NOTHING),
        "epoch_of_half": case(
            "an epoch of two hospitals of four: the others could be told of another that has no hospital "
            "in common with it",
            *("protocol", half),
            **of_four,
        ),
        "epoch_of_half_told": Case(
            "an epoch of two hospitals of four, to which this hospital does not belong, begins",
            *("protocol", ENROLLED, "ask"),
            say.Step(four.digest, other_half.epoch.digest, 0, (begins,), (b"",), ()),
            **of_four,
        ),
        "epoch_of_too_few": case(
            "the summary is of one hospital, where two are the least",
            *("protocol", proposal_of(good, audits, analyses=tuple(map(only_me, good.analyses)))),
        ),
        "epoch_number_too_great": case(
            "an epoch with the number 2^62 + 1, which hardly another can follow",
            *("protocol", proposal_of(good, audits, number=MOST_NUMBER + 1)),
        ),
        "audit_log_too_long": case(
            "an epoch that tells of an audit log of 2^63 entries",
            *("protocol", mine(AuditHead(1 << 63, bytes(32)))),
        ),
        "audit_heads_of_another_epoch": case(
            "other audit heads are told than the epoch is bound to",
            *("protocol", replace(first, audits=mine(audit_of(ME, 1)).audits)),
        ),
        "audit_head_missing": case(
            "cedar's audit head is not told, and the epoch is bound to the others",
            *("protocol", proposal_of(good, audits[:2])),
        ),
        "unconfirmed_epoch": case(
            "the officer takes cedar's confirmation back before the epoch",
            *("unconfirmed", first),
            withdrawn=("cedar",),
            **state,
        ),
        "membership": case(
            "the epoch leaves this hospital out of the summary, which it has enough rows for",
            *("membership", proposal_of(good, audits, analyses=tuple(map(without_me, good.analyses)))),
            policy={"leave": "allow"},
            **state,
        ),
        "membership_of_others": case(
            "an epoch to which this hospital does not belong",
            *("membership", proposal_of(good, others, hospitals=("avon", "cedar"), analyses=nobody)),
        ),
        "membership_told_apart": case(
            "this hospital's policy says `group` and it has too few rows for one analysis, so that it takes "
            "part in none; the epoch lets it take part in the others",
            *("membership", first),
            hospital="cedar",
            policy={"leave": "group"},
        ),
        "restored": case(
            "others have seen nine entries of this hospital's audit log, which has no such",
            *("restored", mine(audit_of(ME, 9))),
            **state,
        ),
        "restored_other": case(
            "this hospital has seen seven entries of avon's audit log, of which the epoch tells two",
            *("restored", first),
            seen={"avon": 7},
            **state,
        ),
    }
