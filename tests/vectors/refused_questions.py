"""What a hospital refuses to answer, and of what others answered unsealed."""

from __future__ import annotations

from dataclasses import replace
from hashlib import sha256
from typing import Any

import numpy as np

from tests.vectors.cases import (
    BEGUN,
    ENROLLED,
    ME,
    SIGNED,
    TOLD,
    Case,
    of_all,
    step_at,
    steps_of,
)
from tests.vectors.world import (
    NAMES,
    UNSEALED,
    Run,
    identity_of,
    secret,
)
from wardround_common import messages as say
from wardround_common.plan import QUERY_RECORDS
from wardround_common.program import Asked
from wardround_common.sealing.mask import query_context
from wardround_common.sealing.participant import UNSEALED as UNSEALED_LABEL
from wardround_common.sealing.record import Opened, StepRecord
from wardround_common.wire import encode


def questions(run: Run) -> dict[str, Case]:
    """Return questions that the study does not ask, or not now, or not this hospital."""
    first, second = step_at(run, SIGNED), step_at(run, BEGUN)
    other = replace(second.questions[0], digest=secret("another query"))
    again = replace(second.questions[0], index=second.questions[0].index + 1)

    def case(why: str, code: str, step: say.Step, after: int = BEGUN, **more: Any) -> Case:
        return Case(why, code, after, more.pop("action", step.action), step, **{"found_in": "state", **more})

    return {
        "not_next": case(
            "a query that the study's program does not ask now",
            *("not_next", replace(second, questions=(other, *second.questions[1:]))),
        ),
        "not_next_number": case(
            "the right query under another number",
            *("not_next", replace(second, questions=(again, *second.questions[1:]))),
        ),
        "not_all_questions": case(
            "one of two questions that are due", "not_next", replace(second, questions=second.questions[:1])
        ),
        "asked_again_later": case(
            "the question of the step before, when its sum was told already",
            *("not_next", replace(second, questions=first.questions)),
        ),
        "unknown_epoch": case(
            "a question under an epoch that this hospital did not sign",
            *("unknown_epoch", replace(second, epoch=secret("another epoch"))),
            found_in="bytes",
        ),
        "unsigned_epoch": case(
            "an epoch that this hospital did not sign begins",
            *("unknown_epoch", first, ENROLLED),
            found_in="bytes",
        ),
        "unconfirmed_question": case(
            "the officer takes cedar's confirmation back before a question over rows of cedar's",
            *("unconfirmed", second),
            withdrawn=("cedar",),
        ),
        "other_action": case("counts that are asked as `evaluate`", "protocol", second, action="evaluate"),
    }


# --- questions that the coordinator chooses (`plan: trusted`) ---


def _question(asked: Asked, index: int, analysis: str | None = None) -> say.Question:
    body = encode(asked)
    return say.Question(analysis or asked.analysis, index, asked.query.kind, sha256(body).digest(), body)


def trusted_questions(run: Run) -> dict[str, Case]:
    """Return what is refused after two steps of a study whose questions are sent."""
    (_, _), (_, last) = steps_of(run, ME)
    flow, summary, logistic = (
        QUERY_RECORDS.decode(one.asked, Asked) for _, step in steps_of(run, ME) for one in step.questions
    )
    (sums,) = (one for one in run.course[:2] if isinstance(one, StepRecord))

    def case(why: str, code: str, *questions: say.Question, found_in: str = "state", **more: Any) -> Case:
        step = replace(last, first=1, course=more.pop("course", ()), wrapped=(), questions=questions)
        return Case(why, code, TOLD, step.action, step, found_in, **more)

    return {
        "trusted_other_query": case(
            "another query under a number that was answered",
            *("other_query", _question(replace(flow, rows_bound=2 * flow.rows_bound), 0)),
            found_in="bytes",
        ),
        "trusted_not_in_study": case(
            "the summary asks what only the logistic model does",
            *("not_in_study", _question(replace(logistic, analysis="summary"), 7)),
        ),
        "trusted_of_another_analysis": case(
            "a query of the logistic model under a number of the summary",
            *("not_in_study", _question(logistic, 7, "summary")),
        ),
        "trusted_not_taking_part": case(
            "a question of an analysis in which this hospital abstains",
            *("not_taking_part", _question(logistic, 7)),
            found_in="bytes",
            hospital="cedar",
        ),
        "trusted_other_digest": case(
            "a query that is not the one whose digest it is asked by",
            *("protocol", replace(_question(summary, 7), digest=secret("another query"))),
            found_in="bytes",
        ),
        "trusted_other_kind": case(
            "a query of another kind than its question says",
            *("protocol", replace(_question(summary, 7), kind=flow.query.kind)),
        ),
        "trusted_rows_bound": case(
            "a query whose bound on rows is less than this hospital has",
            *("rows_bound", _question(replace(flow, rows_bound=2), 7)),
        ),
        "trusted_course_begun_anew": Case(
            "started again, this hospital is told nothing, and the next epoch is proposed as a first one",
            *("other_course", TOLD, "epoch", of_all(run, previous=b"")),
            restarted=True,
        ),
        "trusted_behind": Case(
            "the next epoch follows from an epoch that this hospital was not told",
            *("behind", TOLD, "epoch", of_all(run, previous=secret("another epoch"))),
        ),
        "trusted_told_sums": case(
            "a step's sums, which hospitals are not told",
            *("protocol", _question(summary, 7)),
            course=(sums,),
            found_in="bytes",
        ),
    }


# --- answers that are not sealed ---


def unsealed_run() -> Run:
    """Return a run whose next question is a round of local training, each hospital's update by itself."""
    return Run(UNSEALED).begin().advance(3)


def unsealed_step(run: Run) -> say.Step:
    """Return what brook is told next: made-up updates, signed by their hospitals."""
    (due,) = run.replay.due
    asks = run.steps()[ME]
    context = query_context(run.epoch.binding, run.epoch.digest, due.analysis, due.index, due.digest)
    updates = [np.array([3 + i, 0, 5 * i, -(2**40)], np.int64) for i in range(len(NAMES))]
    signatures = [
        identity_of(name).sign(UNSEALED_LABEL, context, update.astype("<i8").tobytes())
        for name, update in zip(NAMES, updates, strict=True)
    ]
    opened = Opened(due.analysis, due.index, due.digest, np.concatenate(updates), b"".join(signatures))
    told = StepRecord(run.epoch.number, (opened,))
    return replace(asks, course=(*asks.course, told), questions=())


def unsealed() -> tuple[Run, dict[str, Case]]:
    """Return what is refused of hospitals' own updates, with the course up to them."""
    run = unsealed_run()
    true = unsealed_step(run)
    *before, told = true.course
    assert isinstance(told, StepRecord)
    (opened,) = told.sums
    vector, proof = opened.vector, opened.proof
    one_more = vector.copy()
    one_more[2] += 1
    size = len(vector) // len(NAMES)
    turned, signatures = np.roll(vector, size), proof[-64:] + proof[:-64]

    def case(why: str, **changes: Any) -> Case:
        step = replace(true, course=(*before, replace(told, sums=(replace(opened, **changes),))))
        unsealed = ((opened.analysis, opened.index),)
        return Case(why, "protocol", len(run.told(ME)), step.action, step, unsealed=unsealed)

    return run, {
        "unsealed_changed": case("one number of avon's update is another", vector=one_more),
        "unsealed_turned": case(
            "each update stands, with its signature, under another hospital's name",
            vector=turned,
            proof=signatures,
        ),
        "unsealed_missing_signature": case("cedar's signature is missing", proof=proof[:-64]),
        "unsealed_lane": case("a check lane in place of signatures", proof=proof[:16]),
    }
