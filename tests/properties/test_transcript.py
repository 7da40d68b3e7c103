"""The transcript file: what was appended is there again after a crash, and nothing else is."""

from __future__ import annotations

import os
import resource
import stat
import tempfile
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import study_of
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.sealing.epoch import AuditHead, Epoch, Membership, Opening, audits_digest
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.record import EpochRecord, Opened, StepRecord, first_head, position
from wardround_common.sealing.roster import Roster, enter
from wardround_common.wire import encode
from wardround_server.transcript import Approvals, Transcript, read_transcript

STUDY = study_of({"kind": "summary"})


def opening() -> Approvals:
    member = enter(Identity.generate(), STUDY.digest, "north", bytes(range(32)))
    return Approvals(STUDY.manifest(), Roster(STUDY.digest, (member,)), (b"approval",))


def step(number: int) -> StepRecord:
    vector, proof = np.arange(number + 3), bytes(range(16))
    return StepRecord(1, (Opened("summary", number, bytes([number] * 32), vector, proof),))


def epoch(number: int) -> EpochRecord:
    packed = AuditHead(number, bytes(32)).packed()
    head = first_head(b"binding")
    memberships = (Membership("summary", ()),)
    begun = Epoch(b"binding", number, ("north",), memberships, b"", 0, head, audits_digest((packed,)))
    return EpochRecord(begun, Opening((bytes(64),), ("allow",), (packed,)))


def written(path: Path, steps: int = 3) -> bytes:
    transcript = Transcript(path)
    for record in (opening(), *map(step, range(steps))):
        transcript.append(record)
    transcript.close()
    return path.read_bytes()


def reopened(path: Path) -> Transcript:
    transcript = Transcript(path)
    transcript.close()
    return transcript


def test_what_was_appended_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    written(path)
    for found in (reopened(path), read_transcript(path)):
        assert found.opening is not None and found.opening.manifest == STUDY.manifest()
        assert [encode(record) for record in found.steps] == [encode(step(i)) for i in range(3)]
        assert found.epochs == []


def test_epochs_and_steps_are_read_again_in_their_order(tmp_path: Path) -> None:
    path, course = tmp_path / "transcript", [epoch(1), step(0), step(1), epoch(3), step(2)]
    transcript = Transcript(path)
    for record in (opening(), *course):
        transcript.append(record)
    transcript.close()
    for found in (reopened(path), read_transcript(path)):
        assert [encode(record) for record in found.course] == [encode(record) for record in course]
        assert [record.epoch.number for record in found.epochs] == [1, 3]
        assert position(b"binding", found.course) == position(b"binding", course)


def test_the_head_of_the_sums_follows_from_each_of_them_their_order_and_their_epochs() -> None:
    course = [epoch(1), step(0), step(1), epoch(3), step(2)]
    changed = Opened("summary", 1, bytes([1] * 32), np.arange(4), bytes(16))
    others = [
        course[:-1],
        [epoch(1), step(1), step(0), epoch(3), step(2)],
        [epoch(2), *course[1:]],
        [epoch(1), step(0), step(1), step(2)],
        [epoch(1), step(0), StepRecord(1, (changed,)), epoch(3), step(2)],
    ]
    assert position(b"binding", []) == (0, first_head(b"binding"))
    assert position(b"binding", course)[0] == 3
    heads = {position(b"binding", one)[1] for one in (course, *others)}
    assert len({*heads, position(b"another", course)[1]}) == 7


def test_only_its_owner_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    before = os.umask(0)
    try:
        written(path)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_record_that_a_crash_cut_off_is_dropped_and_written_again(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    whole = written(path)
    before = len(written(tmp_path / "shorter", 2))
    for end in range(before, len(whole)):
        path.write_bytes(whole[:end])
        transcript = Transcript(path)
        assert len(transcript.steps) == 2
        transcript.append(step(2))
        transcript.close()
        assert path.read_bytes() == whole


@given(at=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_a_changed_byte_is_refused_and_nothing_is_cut(at: float, flip: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "transcript"
        changed = bytearray(written(path))
        changed[int(at * len(changed))] ^= flip
        path.write_bytes(changed)
        for open_it in (read_transcript, Transcript):
            with pytest.raises(WardroundError):
                open_it(path)
        assert path.read_bytes() == changed


def test_a_record_cannot_be_left_out_or_change_places(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    ends = [len(written(path, steps)) for steps in range(4)]
    whole = path.read_bytes()
    parts = [whole[a:b] for a, b in pairwise(ends)]
    for changed in ([parts[1], parts[2]], [parts[1], parts[0], parts[2]], [parts[0], parts[0]]):
        path.write_bytes(whole[: ends[0]] + b"".join(changed))
        with pytest.raises(ProtocolError, match="was changed"):
            Transcript(path)


def test_two_studies_cannot_write_one_transcript(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    written(path)
    first = Transcript(path)
    with pytest.raises(WardroundError, match="another study is writing"):
        Transcript(path)
    first.close()
    Transcript(path).close()


def test_a_record_that_does_not_fit_on_the_disk_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    whole = written(path)
    transcript = Transcript(path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 20, limits[1]))
    try:
        with pytest.raises(WardroundError, match="nothing is lost: make room"):
            transcript.append(step(3))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == whole
    transcript.append(step(3))
    transcript.close()
    assert len(reopened(path).steps) == 4


@pytest.mark.parametrize("content", [b"id\n", b"id,age\n1,54\n", b"\x00" * 100, b"\xff" * 9])
def test_a_file_that_is_no_transcript_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "north.csv"
    path.write_bytes(content)
    for open_it in (read_transcript, Transcript):
        with pytest.raises(WardroundError, match="no transcript"):
            open_it(path)
    assert path.read_bytes() == content


def test_an_empty_file_is_a_new_transcript_but_not_a_finished_one(tmp_path: Path) -> None:
    path = tmp_path / "transcript"
    path.touch()
    assert reopened(path).records == []
    with pytest.raises(WardroundError, match="no transcript"):
        read_transcript(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    for open_it in (Transcript, read_transcript):
        with pytest.raises(WardroundError, match="nowhere"):
            open_it(tmp_path / "nowhere" / "transcript")
