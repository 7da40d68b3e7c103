"""Both implementations make every vector."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext

import numpy as np
import pytest

from tests.vectors.generate import HERE, files
from tests.vectors.leaving import refused, who
from tests.vectors.reading import (
    epoch_of,
    ints,
    raw,
    reader_of,
    slow_group,
    state_of,
    value_of,
    vectors,
    was_restarted,
)
from tests.vectors.sealed import long_vector
from tests.vectors.slow import leaving as slow_leaving
from tests.vectors.slow import sealing as slow
from tests.vectors.slow.checks import Wrong, check_approval
from tests.vectors.slow.ciphers import expand
from tests.vectors.slow.curves import ed25519_public, x25519, x25519_public
from tests.vectors.slow.encoding import Malformed, decode, encode
from tests.vectors.slow.story import APPROVAL, Story
from tests.vectors.world import NAMES
from wardround_common import messages as say
from wardround_common import wire
from wardround_common.errors import ProtocolError, Refused
from wardround_common.sealing.coordination import Coordination
from wardround_common.sealing.participant import check_lane
from wardround_common.sealing.record import Opened
from wardround_common.sealing.roster import Roster


def test_the_first_implementation_makes_every_file_anew_with_the_same_bytes() -> None:
    made = files()
    assert sorted(made) == sorted(path.name for path in HERE.glob("*.json"))
    for name, text in made.items():
        assert (HERE / name).read_bytes() == text.encode("ascii"), f"{name}: python -m tests.vectors.generate"
    assert sum(map(len, made.values())) < 1 << 20


# --- the encoding ---


def test_the_second_implementation_encodes_and_decodes() -> None:
    for one in vectors("encodings")["values"]:
        value = value_of(one["value"])
        assert encode(value).hex() == one["bytes"], one["what"]
        found = decode(raw(one["bytes"]))
        assert (found, type(found)) == (value, type(value)), one["what"]
        assert wire.encode(say.MESSAGES.decode(raw(one["bytes"]), object)).hex() == one["bytes"], one["what"]


@pytest.mark.parametrize("at", range(len(vectors("encodings")["refused"])))
def test_both_refuse_bytes_that_encode_nothing(at: int) -> None:
    body = raw(vectors("encodings")["refused"][at]["bytes"])
    with pytest.raises(Malformed):
        decode(body)
    with pytest.raises(ProtocolError):
        say.MESSAGES.decode(body, object)


# --- keys ---


def test_the_second_implementation_makes_the_keys_and_signatures() -> None:
    data = vectors("key_schedule")
    known, study = data["word_list"].split(), slow.digest(data["manifest"].encode())
    assert len(set(known)) == 256
    assert study.hex() == data["study"]
    for one in data["members"]:
        name, private = one["name"], raw(one["identity_private"])
        identity, masking = ed25519_public(private), x25519_public(raw(one["masking_private"]))
        stands_for = slow.fingerprint(name, identity)
        assert (identity.hex(), masking.hex()) == (one["identity"], one["masking"])
        assert (stands_for.hex(), slow.words(stands_for, known)) == (one["fingerprint"], one["words"])
        parts = slow.member_parts(study, name, one["runtime"], masking)
        assert slow.sign(private, *parts).hex() == one["signature"]
    roster = decode(raw(data["roster"]["bytes"]))
    bound = slow.binding(roster)
    assert (bound.hex(), slow.words(bound, known)) == (data["roster"]["binding"], data["roster"]["words"])
    assert slow.first_head(bound).hex() == data["first_head"]
    for one in (data["epoch_without_cedar"], data["epoch"]):
        made = epoch_of(one)
        assert encode(made).hex() == one["bytes"]
        epoch = slow.epoch_digest(made)
        assert epoch.hex() == one["digest"]
    for one, approval, signed in zip(
        data["members"], data["approvals"], data["epoch_signatures"], strict=True
    ):
        private = raw(one["identity_private"])
        assert slow.sign(private, APPROVAL, bound).hex() == approval
        parts = slow.epoch_parts(epoch, signed["leave"], raw(signed["audit"]))
        assert slow.sign(private, *parts).hex() == signed["signature"]


def test_the_second_implementation_signs_an_unsealed_answer() -> None:
    data = vectors("key_schedule")
    bare = data["unsealed"]
    private = next(raw(one["identity_private"]) for one in data["members"] if one["name"] == bare["hospital"])
    parts = slow.unsealed_parts(raw(data["query"]["rc"]), ints(bare["vector"]))
    assert slow.sign(private, *parts).hex() == bare["signature"]


def test_the_second_implementation_makes_the_secrets_of_a_query() -> None:
    data = vectors("key_schedule")
    privates = {one["name"]: raw(one["masking_private"]) for one in data["members"]}
    publics = {one["name"]: raw(one["masking"]) for one in data["members"]}
    query, group, epoch = data["query"], data["group"], raw(data["epoch"]["digest"])
    asked = (query["analysis"], query["index"], raw(query["digest"]))
    context = slow.query_context(raw(data["roster"]["binding"]), epoch, *asked)
    assert context.hex() == query["rc"]
    for pair in data["pairs"]:
        for one, other in (pair["between"], pair["between"][::-1]):
            secret = slow.pair_secret(privates[one], publics[other])
            assert secret is not None
            assert x25519(privates[one], publics[other]).hex() == pair["x25519"]
            assert (secret.hex(), expand(secret, context).hex()) == (pair["s"], pair["k"])
    leader = group["leader"]
    shared = slow.group_secret(privates[leader], epoch)
    assert (shared.hex(), expand(shared, context).hex()) == (group["g"], group["lane_key"])
    assert slow.pad(shared, context) == int(group["pad"])
    for one in group["wrapped"]:
        theirs = slow.pair_secret(privates[one["hospital"]], publics[leader])
        assert theirs is not None
        assert slow.wrap_key(theirs, epoch).hex() == one["w"]
        assert slow.wrap(shared, theirs, epoch).hex() == one["bytes"]
        assert slow.unwrap(raw(one["bytes"]), theirs, epoch) == shared


# --- masks and lanes ---


@pytest.mark.parametrize("at", range(len(vectors("masks")["cases"])))
def test_the_second_implementation_seals_and_unseals(at: int) -> None:
    case = vectors("masks")["cases"][at]
    context, sealed = raw(case["rc"]), []
    for member in case["members"]:
        name = member["name"]
        secrets = {
            next(one for one in pair["between"] if one != name): raw(pair["s"])
            for pair in case["secrets"]
            if name in pair["between"]
        }
        assert len(secrets) == len(case["members"]) - 1
        sealed.append(slow.seal(ints(member["vector"]), int(member["lane"]), name, secrets, context))
        assert sealed[-1].hex() == member["sealed"]
    total, lanes = slow.unseal(sealed)
    assert (total, lanes) == (ints(case["sum"]), int(case["lane_sum"]))
    true = np.sum([np.array(ints(one["vector"]), np.int64) for one in case["members"]], axis=0)
    assert total == true.tolist()
    assert lanes == sum(int(one["lane"]) for one in case["members"]) % 2**128


def test_the_second_implementation_seals_more_than_one_block_of_the_first() -> None:
    case = vectors("masks")["long"]
    context, secret = raw(case["rc"]), raw(case["s"])
    names = [one["name"] for one in case["members"]]
    for member in case["members"]:
        vector = long_vector(case["size"], int(member["factor"])).tolist()
        own = slow.lane(vector, raw(case["g"]), context)
        (other,) = set(names) - {member["name"]}
        sealed = slow.seal(vector, own, member["name"], {other: secret}, context)
        assert (str(own), hashlib.sha256(sealed).hexdigest()) == (member["lane"], member["sealed_sha256"])


def test_the_second_implementation_makes_the_lanes_and_tells_true_sums_from_false() -> None:
    data = vectors("check_lane")
    group, context = raw(data["g"]), raw(data["rc"])
    assert expand(group, context).hex() == data["lane_key"]
    assert slow.pad(group, context) == int(data["pad"])
    for one in data["lanes"]:
        assert slow.lane(ints(one["vector"]), group, context) == int(one["lane"])
    pads = [slow.pad(group, context), 0, 0]
    for one, t in zip(data["shares"], pads, strict=True):
        assert (slow.lane(ints(one["vector"]), group, context) + t) % 2**128 == int(one["lane"])
    for one in data["sums"]:
        passes = slow.is_true(ints(one["sum"]), int(one["lane_sum"]), group, context)
        assert passes is one["passes"], one["what"]
        proof = int(one["lane_sum"]).to_bytes(16, "little")
        told = Opened("any", 0, bytes(32), np.array(ints(one["sum"]), np.int64), proof)
        with nullcontext() if passes else pytest.raises(Refused):
            check_lane(told, group, context)
    assert [one["passes"] for one in data["sums"]].count(True) == 1


# --- leaving ---


@pytest.mark.parametrize("at", range(len(vectors("leaving")["exposed"])))
def test_both_say_whom_sums_expose(at: int) -> None:
    case = vectors("leaving")["exposed"][at]
    found = slow_leaving.exposed(case["sets"], case["min_hospitals"])
    assert sorted("".join(sorted(one)) for one in found) == case["exposed"]
    assert who(case["sets"], case["min_hospitals"]) == case["exposed"]


@pytest.mark.parametrize("at", range(len(vectors("leaving")["allowed"])))
def test_both_allow_and_refuse_the_same_sets(at: int) -> None:
    case = vectors("leaving")["allowed"][at]
    before, after = map(slow_group, case["before"]), slow_group(case["after"])
    found = slow_leaving.refused([*before], after, case["min_hospitals"], case["max_epochs"])
    assert found == refused(case) == case["refused"]


# --- approvals ---


@pytest.mark.parametrize("at", range(len(vectors("approvals")["approvals"])))
def test_both_coordinators_take_and_refuse_the_same_approvals(at: int) -> None:
    data = vectors("approvals")
    case, name, last = data["approvals"][at], data["hospital"], data["last_number"]
    body, roster = raw(case["bytes"]), raw(data["roster"])
    with nullcontext() if case["accepted"] else pytest.raises(Wrong):
        check_approval(decode(roster), name, decode(body), last)
    coordination = Coordination(say.MESSAGES.decode(roster, Roster), verified=True, last_number=last)
    with nullcontext() if case["accepted"] else pytest.raises(ProtocolError, match=name):
        coordination.approved(name, say.MESSAGES.decode(body, say.Approval))


# --- courses ---

COURSES = ("epoch", "epochs")


@pytest.mark.parametrize("course", COURSES)
def test_the_second_implementation_says_every_message_of_a_course(course: str) -> None:
    data = vectors(course)
    story = Story(data)
    for said, made in zip(data["messages"], story.tell(), strict=True):
        assert made.hex() == said["bytes"], said
    assert [(encode(one).hex(), head.hex()) for one, head in zip(story.course, story.heads, strict=True)] == [
        (one["bytes"], one["head"]) for one in data["course"]
    ]
    for told, told_again in zip(data["course"], story.course, strict=True):
        for one, opened in zip(
            told.get("sums", ()), told_again.values[1] if "sums" in told else (), strict=True
        ):
            assert ints(one["sum"]) == list(opened["vector"].values)


@pytest.mark.parametrize("course", COURSES)
@pytest.mark.parametrize("name", NAMES)
def test_every_message_of_a_course_is_accepted_by_the_second_implementation(course: str, name: str) -> None:
    data = vectors(course)
    reader, records = reader_of(state_of(data, name)), 0
    before: dict[str, str] = {}
    for said in data["messages"]:
        if said["to"] == name:
            reader.read(raw(said["bytes"]))
        elif said["from"] == name and was_restarted(before, said):
            reader.restart()
        before = said
        if said["to"] == name and said["message"] == "Step":
            told = decode(raw(said["bytes"]))
            records = told["first"] + len(told["course"])
    assert (reader.steps, reader.head.hex()) == tuple(
        data["course"][records - 1][key] for key in ("steps", "head")
    )
    assert reader.verified_head == reader.head
