"""Our short way of making and reading Flower's objects is Flower's own."""

from __future__ import annotations

import pytest
from flwr.app import ConfigRecord
from hypothesis import given
from hypothesis import strategies as st

from wardround_common.envelope import unwrapped, wrapped
from wardround_common.errors import ProtocolError
from wardround_common.messages import FIELD

EDGES = [0, 1, 100, 113, 114, 115, 120, 126, 127, 128, 129, 16370, 16376, 16383, 16384, 2097140, 2097152]


@pytest.mark.parametrize("size", EDGES)
def test_an_object_is_the_one_that_flower_makes(size: int) -> None:
    body = bytes(size)
    assert wrapped(body) == ConfigRecord({FIELD: body}).deflate()
    assert unwrapped(wrapped(body)) == body


@pytest.mark.parametrize("around", [113, 16_366, 2_097_130])
def test_every_length_near_the_steps_of_the_encoding_is_read_back(around: int) -> None:
    for size in range(around - 20, around + 30):
        assert len(unwrapped(wrapped(bytes(size)))) == size


@given(st.binary(max_size=500))
def test_flower_reads_what_we_make(body: bytes) -> None:
    assert ConfigRecord.inflate(wrapped(body))[FIELD] == body
    assert unwrapped(ConfigRecord({FIELD: body}).deflate()) == body


@given(st.binary(max_size=300))
def test_other_bytes_are_refused(content: bytes) -> None:
    with pytest.raises(ProtocolError):
        unwrapped(content)


@given(st.binary(max_size=300), st.integers(0, 40), st.integers(1, 255))
def test_changed_bytes_are_refused_or_change_the_body_only(body: bytes, at: int, by: int) -> None:
    content = bytearray(wrapped(body))
    before = len(content) - len(body)
    if at < before:
        content[at] = (content[at] + by) % 256
        with pytest.raises(ProtocolError):
            unwrapped(bytes(content))


@pytest.mark.parametrize(
    "record", [{"other": b"x"}, {FIELD: "text"}, {FIELD: b"x", "more": 1}, {}, {FIELD: [b"x"]}]
)
def test_other_records_are_refused(record: dict[str, object]) -> None:
    with pytest.raises(ProtocolError):
        unwrapped(ConfigRecord(record).deflate())  # type: ignore[arg-type]
