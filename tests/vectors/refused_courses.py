"""What a hospital refuses of the course that it is told."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from tests.vectors.cases import (
    BEGUN,
    ME,
    SIGNED,
    TOLD,
    Case,
    lane_of,
    of_all,
    proposal_of,
    signed_by_all,
    step_at,
    steps_of,
    wrapped_for,
)
from tests.vectors.world import (
    COORDINATOR,
    NAMES,
    Run,
    identity_of,
    secret,
)
from wardround_common import messages as say
from wardround_common.sealing.epoch import Opening, sign_epoch
from wardround_common.sealing.mask import MODULUS
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord


def courses(run: Run) -> dict[str, Case]:
    """Return what is refused of the first epoch and its first step."""
    first, second = step_at(run, SIGNED), step_at(run, BEGUN)
    opening, cedar = run.epochs[0].opening, NAMES.index("cedar")
    (flow,) = second.course
    assert isinstance(flow, StepRecord)
    (told,) = flow.sums

    def begins(why: str, changed: Opening, after: int = SIGNED, **more: Any) -> Case:
        step = replace(first, course=(EpochRecord(run.epoch, changed),), **more)
        return Case(why, "protocol", after, step.action, step)

    def tells(why: str, code: str, changed: Opened, found_in: str = "bytes") -> Case:
        step = replace(second, course=(replace(flow, sums=(changed,)),))
        return Case(why, code, BEGUN, step.action, step, found_in)

    def with_lane(changed: Opened) -> Opened:
        return replace(changed, proof=lane_of(run.epoch, run.epoch, changed, changed.vector))

    forged = sign_epoch(identity_of(COORDINATOR), run.epoch, opening.leaves[cedar], opening.audits[cedar])
    as_group = sign_epoch(identity_of("cedar"), run.epoch, "group", opening.audits[cedar])
    of_a_group = Opening(
        (*opening.signatures[:cedar], as_group), (*opening.leaves[:cedar], "group"), opening.audits
    )
    since = replace(run.epoch, number=2)
    one_more = told.vector.copy()
    one_more[0] += 1
    far_off = told.vector.copy()
    far_off[0] += np.int64(2**61)
    doubled = (2 * int.from_bytes(told.proof, "little") % MODULUS).to_bytes(16, "little")
    lane_too = (int.from_bytes(told.proof, "little") + 1).to_bytes(17, "little")[:16]
    for_cedar = next(one.message for one in run.told("cedar") if isinstance(one.message, say.Step))
    return {
        "forged_epoch_signature": begins(
            "cedar's signature under the epoch is the coordinator's",
            replace(opening, signatures=(*opening.signatures[:cedar], forged)),
        ),
        "changed_terms": begins(
            "avon signed `never`, and is said to have signed `allow`",
            replace(opening, leaves=("allow", *opening.leaves[1:])),
        ),
        "missing_epoch_signature": begins(
            "only two of three signed",
            Opening(*(getattr(opening, key)[:cedar] for key in ("signatures", "leaves", "audits"))),
        ),
        "group_secret_missing": Case(
            "the epoch begins with an empty secret for this hospital, which does not lead it",
            *("protocol", SIGNED, first.action, replace(first, wrapped=(b"",))),
        ),
        "signed_another_since": Case(
            "a question under an epoch that all signed, but this hospital has signed another since",
            *("unknown_epoch", SIGNED, first.action, first),
            since=(("epoch", say.EpochProposal(since, run.proposals[0].audits)),),
        ),
        "signed_and_not_begun": Case(
            "a question under the epoch that this hospital signed last, when the one before begins",
            *("unknown_epoch", SIGNED, first.action, replace(first, epoch=since.digest)),
            since=(("epoch", say.EpochProposal(since, run.proposals[0].audits)),),
        ),
        "group_secret_missing_of_the_epoch_before": Case(
            "an epoch begins with an empty secret that this hospital signed before it signed another",
            *("protocol", SIGNED, "ask", replace(first, wrapped=(b"",), questions=())),
            since=(("epoch", say.EpochProposal(since, run.proposals[0].audits)),),
        ),
        "group_secret_left_out": Case(
            "an epoch begins, and there is no place for its secret",
            *("protocol", SIGNED, first.action, replace(first, wrapped=())),
        ),
        "group_secret_of_no_epoch": Case(
            "a secret more than there are epochs",
            *("protocol", BEGUN, second.action, replace(second, wrapped=first.wrapped)),
        ),
        "leave_told_apart": Case(
            "cedar, which takes part in all but one analysis, signed `group` with the epoch",
            *("leave", SIGNED, first.action, replace(first, course=(EpochRecord(run.epoch, of_a_group),))),
        ),
        "group_secret_for_another": begins(
            "the group secret was wrapped for cedar", opening, wrapped=for_cedar.wrapped
        ),
        "false_sum": tells("one more row than there is", "false_sum", replace(told, vector=one_more)),
        "false_sum_far_off": tells(
            "2^61 more rows than there are", "false_sum", replace(told, vector=far_off)
        ),
        "false_sum_and_lane": tells(
            "one more row than there is, and a check lane one higher",
            *("false_sum", replace(told, vector=one_more, proof=lane_too)),
        ),
        "false_sum_doubled": tells(
            "twice the sum, with twice its check lane, which would hold but for the pad",
            *("false_sum", replace(told, vector=2 * told.vector, proof=doubled)),
        ),
        "false_sum_of_nothing": tells(
            "a sum of noughts, with a check lane of nought, which would hold but for the pad",
            *("false_sum", replace(told, vector=0 * told.vector, proof=bytes(16))),
        ),
        "missing_lane": tells("a sum without its check lane", "protocol", replace(told, proof=b"")),
        "shorter_sum": tells(
            "a sum without its last number, with the check lane of the others",
            *("protocol", with_lane(replace(told, vector=told.vector[:-1])), "state"),
        ),
        "diverged": tells(
            "the sum of a query that the program did not ask, with its check lane",
            *("diverged", with_lane(replace(told, question=secret("another query"))), "state"),
        ),
    }


def told_again(run: Run) -> dict[str, Case]:
    """Return what a coordinator may try that knows the members' secret: lanes hold for whatever it tells."""
    first, second = step_at(run, SIGNED), step_at(run, BEGUN)
    (flow,) = second.course
    assert isinstance(flow, StepRecord)
    (told,) = flow.sums
    more = told.vector.copy()
    more[0] += 1
    proof = lane_of(run.epoch, run.epoch, told, more)
    other = replace(flow, sums=(replace(told, vector=more, proof=proof),))
    elsewhere = of_all(run, previous=secret("another epoch")).epoch

    def case(why: str, restarted: bool, step: say.Step) -> Case:
        return Case(why, "other_course", TOLD, step.action, step, restarted=restarted)

    return {
        "other_sums_told_again": case(
            "started again, this hospital is told one more row than it verified, with the lane of that sum",
            *(True, replace(second, first=0, course=(run.epochs[0], other), wrapped=first.wrapped)),
        ),
        "question_gone_back": case(
            "started again, this hospital is asked a question that was followed by others, and told no sum",
            *(True, replace(first, first=0)),
        ),
        "epoch_that_does_not_follow": case(
            "an epoch that all signed, whose `previous` is another than the one before",
            False,
            replace(
                second,
                first=2,
                course=(EpochRecord(elsewhere, signed_by_all(elsewhere)),),
                wrapped=(wrapped_for(ME, elsewhere),),
            ),
        ),
    }


def second_epoch(run: Run) -> dict[str, Case]:
    """Return what is refused in the second of three epochs, which is of avon and brook."""
    first, second, third = (one.epoch for one in run.epochs)
    (_, begins), _, (at, changes), (then, follows), (ends, tells), *_ = steps_of(run, ME)
    (flow,) = follows.course
    assert isinstance(flow, StepRecord)
    (told,) = flow.sums
    of_the_first = replace(told, proof=lane_of(first, second, told, told.vector))
    stay = proposal_of(
        third, run.proposals[-1].audits[1:], hospitals=("brook", "cedar"), analyses=second.analyses
    )
    others = replace(third, hospitals=("avon", "cedar"), analyses=second.analyses)
    forks = EpochRecord(others, signed_by_all(others))

    def case(why: str, code: str, after: int, step: say.Step) -> Case:
        return Case(why, code, after, step.action, step)

    return {
        "step_of_another_epoch": case(
            "sums under the second epoch are told as of the first",
            *("diverged", then, replace(follows, course=(replace(flow, epoch=1),))),
        ),
        "lane_of_another_epoch": case(
            "a sum under the second epoch with the check lane that the first epoch's secret gives",
            *("false_sum", then, replace(follows, course=(replace(flow, sums=(of_the_first,)),))),
        ),
        "group_secret_of_another_epoch": case(
            "the second epoch begins with the first one's secret",
            *("protocol", at, replace(changes, wrapped=begins.wrapped)),
        ),
        "question_under_another_epoch": case(
            "a question under the first epoch, when the second computes",
            *("unknown_epoch", at, replace(changes, epoch=first.digest)),
        ),
        "too_few_stay": case(
            "an epoch of avon and cedar, of whom only avon verified the sums before",
            *("other_course", ends),
            replace(tells, course=(*tells.course, forks), wrapped=(*tells.wrapped, b"")),
        ),
        "too_few_stay_proposed": Case(
            "an epoch of brook and cedar, of whom only brook verified the sums before",
            *("other_course", ends + 1, "epoch", stay),
        ),
        **_away(run),
    }


def _away(run: Run) -> dict[str, Case]:
    """Return what cedar is told that was not in the second epoch, and refuses."""
    first = run.epochs[0].epoch
    _, (told_at, tells), (_, back) = steps_of(run, "cedar")
    flow, begins, again, *rest = tells.course
    assert isinstance(flow, StepRecord)
    assert isinstance(again, StepRecord)
    assert isinstance(begins, EpochRecord)
    more = again.sums[0].vector.copy()
    more[0] += 1
    opening = begins.opening
    forged = sign_epoch(identity_of(COORDINATOR), begins.epoch, opening.leaves[0], opening.audits[0])
    false_flow, false_again = (
        replace(one, sums=(replace(one.sums[0], vector=more),)) for one in (flow, again)
    )
    other_signatures = replace(opening, signatures=(forged, *opening.signatures[1:]))

    def telling(*course: EpochRecord | StepRecord, **more: Any) -> say.Step:
        return replace(tells, course=course, **more)

    def case(why: str, code: str, step: say.Step, after: int = told_at, **more: Any) -> Case:
        return Case(why, code, after, step.action, step, hospital="cedar", **more)

    return {
        "away_other_sums": case(
            "this hospital was away and was told another sum of then, which is not what all signed since",
            *("other_course", replace(back, questions=()), told_at + 1),
            instead={told_at: telling(flow, begins, false_again, *rest)},
        ),
        "away_other_sums_proposed": Case(
            "this hospital was away and was told another sum of then, and is to sign an epoch that "
            "follows from the true one",
            *("behind", told_at + 1, "epoch", run.proposals[-1]),
            hospital="cedar",
            instead={told_at: telling(flow, begins, false_again, *rest)},
        ),
        "away_false_sum": case(
            "this hospital was away and is told another sum of the time before, of which it has the lane",
            *("false_sum", telling(false_flow, begins, again, *rest)),
        ),
        "away_forged_epoch_signature": case(
            "this hospital was away, and avon's signature under the epoch of then is the coordinator's",
            *("protocol", telling(flow, replace(begins, opening=other_signatures), again, *rest)),
        ),
        "away_asked": case(
            "this hospital is away, and asked a question when others compute",
            "other_course",
            telling(flow, begins, again, epoch=first.digest, questions=back.questions),
        ),
    }
