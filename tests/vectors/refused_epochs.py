"""What a hospital refuses of the epochs after the first, and of sets that tell of too few hospitals."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.vectors.cases import BEGUN, ME, SIGNED, TOLD, Case, of_all, signed_by_all, step_at, without
from tests.vectors.world import ANALYSES, NAMES, Run, audit_of, honest_run, identity_of, secret, study_of
from wardround_common import messages as say
from wardround_common.sealing.epoch import Membership, sign_epoch
from wardround_common.sealing.record import EpochRecord, position


def next_epochs(run: Run) -> dict[str, Case]:
    """Return what is refused of the epoch after the first."""
    nothing = {"steps": 0, "head": position(run.roster.digest, ())[1]}
    telling = replace(step_at(run, SIGNED), first=0, questions=())
    nobody = tuple(Membership(one.analysis, ()) for one in run.epoch.analyses)
    fork = replace(run.epoch, hospitals=("avon", "cedar"), analyses=nobody)
    forks = replace(telling, course=(EpochRecord(fork, signed_by_all(fork)),), wrapped=(b"",))

    def case(
        why: str, code: str, told: say.EpochProposal, after: int = TOLD, *since: say.Step, **more: Any
    ) -> Case:
        return Case(why, code, after, "epoch", told, since=[(one.action, one) for one in since], **more)

    return {
        "old_epoch": case("another epoch with a number that was signed", "old_epoch", of_all(run, number=1)),
        "behind": case(
            "the next epoch follows from a sum that this hospital was not told yet",
            *("behind", of_all(run), BEGUN),
        ),
        "behind_other_sums": case(
            "the next epoch follows from other sums than this hospital was told",
            *("behind", of_all(run, head=secret("another course"))),
        ),
        "behind_fewer_sums": case(
            "the next epoch begins before a step that this hospital was told",
            *("behind", of_all(run, **nothing)),
        ),
        "behind_another_epoch": case(
            "the next epoch follows from an epoch that this hospital was not told",
            *("behind", of_all(run, previous=secret("another epoch"))),
        ),
        "behind_its_own_epoch": case(
            "the next epoch is proposed as a first one, to a hospital that was told the first",
            *("behind", of_all(run, previous=b"", **nothing)),
        ),
        "course_gone_back": case(
            "started again, this hospital is told the first epoch without the sum that it verified, and the "
            "next epoch follows from there",
            *("other_course", of_all(run, **nothing), TOLD, telling),
            restarted=True,
        ),
        "course_begun_anew": case(
            "started again before any sum was told, this hospital is told nothing, and the next epoch is "
            "proposed as a first one",
            *("other_course", of_all(run, previous=b"", **nothing), BEGUN),
            restarted=True,
        ),
        "course_without_my_epoch": case(
            "started again, this hospital is told of a first epoch of avon and cedar, and not of the one in "
            "which it computed",
            *("other_course", of_all(run, previous=fork.digest, **nothing), TOLD, forks),
            restarted=True,
        ),
        "leave_never": case(
            "the next epoch goes on without avon, which said `never` with its signature under the first",
            *("leave", without(run, "avon")),
        ),
    }


def _leave(**changes: str) -> dict[str, str]:
    return {**dict.fromkeys(NAMES, "allow"), **changes}


def sets() -> list[tuple[Run, dict[str, Case]]]:
    """Return refusals of sets of hospitals, with the course that each follows."""
    group, allowing = honest_run(_leave(avon="group")), honest_run(_leave())
    joining = Run(study_of(ANALYSES[0]), _leave(cedar="group")).begin(NAMES[:2]).advance()
    joins = joining.propose()
    signatures = {name: joining.tell(name, "epoch", joins) for name in NAMES[:2]}
    audit = audit_of("cedar", 9).packed()
    signed = sign_epoch(identity_of("cedar"), joins.epoch, "group", audit)
    joined = joining.sign(joins, {**signatures, "cedar": say.EpochSignature(signed, "group", audit, ())})
    begins = joined.steps()[ME]
    early = Run(study_of(ANALYSES[0]), _leave(cedar="group")).begin(NAMES[:2])
    joins_early = early.propose()
    apart = honest_run(_leave(cedar="group"))  # so that cedar takes part in none
    nobody = tuple(Membership(one.analysis, ()) for one in apart.epoch.analyses)
    return [
        (
            group,
            {
                "leave_group": Case(
                    "avon said `group`: a set without it differs by 1, fewer than min_hospitals",
                    *("leave", TOLD, "epoch", without(group, "avon")),
                )
            },
        ),
        (
            allowing,
            {
                "max_epochs": Case(
                    "all said `allow`, but this hospital's policy allows no two sets that are close",
                    *("max_epochs", TOLD, "epoch", without(allowing, "cedar")),
                    policy={"max_epochs": 0},
                )
            },
        ),
        (
            apart,
            {
                "leave_analysis": Case(
                    "cedar said `group` and took no part in any analysis; now it is to take part in all",
                    *("leave", TOLD, "epoch", of_all(apart, analyses=nobody)),
                )
            },
        ),
        (
            early,
            {
                "leave_without_sums": Case(
                    "this hospital says `group`, and is to join avon and brook, of whom no sum was told",
                    *("leave", len(early.told("cedar")), "epoch", joins_early),
                    hospital="cedar",
                )
            },
        ),
        (
            joining,
            {
                "leave_joining": Case(
                    "this hospital says `group`, and is to join avon and brook, who computed without it",
                    *("leave", len(joining.told("cedar")), "epoch", joins),
                    hospital="cedar",
                ),
                "leave_joined": Case(
                    "cedar, which joins avon and brook, signed `group` with the epoch of all three",
                    *("leave", len(joining.told(ME)), begins.action, begins),
                ),
            },
        ),
    ]
