"""Decoders neither crash, hang nor allocate what is only announced; what they take is canonical.

Bounded here; `make soak` runs 1000 examples of each, then atheris (``tests.fuzz.__main__``).
"""

from __future__ import annotations

import asyncio
import dataclasses
import io
import json
import struct
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.edits import Script, edited_bytes, nodes, put
from tests.fuzz.target import CORPUS, Target
from tests.fuzz.targets import TARGETS, decoders
from tests.fuzz.world import small, wide
from wardround_common import messages as say
from wardround_common.errors import WardroundError
from wardround_common.replay import Replay
from wardround_common.sealing.epoch import AuditHead, audits_digest
from wardround_common.sealing.record import StepRecord
from wardround_common.strategies import installed
from wardround_common.wire import encode
from wardround_server.gateway import TooLong, whole
from wardround_server.transcript import MOST_RECORD, _header

pytestmark = pytest.mark.filterwarnings("ignore")  # numpy's, of numbers that no honest hospital sends
ALL = pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
MOST_CORPUS = 300 << 10
GIB4 = 2**32 - 1
ALLOWED = 256 << 10  # bytes, whatever is announced


def inputs(target: Target) -> st.SearchStrategy[bytes]:
    """Raw bytes, and valid inputs with their bytes edited."""
    seeds = [*target.seeds(), *target.found()]
    by = st.binary(max_size=40).map(Script)
    edited = st.builds(edited_bytes, st.sampled_from(seeds), by)
    return st.one_of(st.binary(max_size=64), edited)


@ALL
def test_a_valid_input_is_accepted(target: Target) -> None:
    assert target.accepts(target.seeds()[0])


@ALL
def test_what_once_was_a_fault_is_none_any_more(target: Target) -> None:
    for data in target.found():
        target.accepts(data)


@ALL
@settings(max_examples=max(36, settings.default.max_examples))
@given(data=st.data())
def test_any_bytes_are_taken_or_refused_by_a_documented_error(target: Target, data: st.DataObject) -> None:
    target.accepts(data.draw(inputs(target)))


def test_the_corpus_is_small_and_of_known_targets() -> None:
    files = [path for path in CORPUS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_CORPUS
    assert {path.parent.name for path in files} <= set(TARGETS)


# --- lengths are checked before anything is allocated ---

WIRE = [name for name in TARGETS if name.startswith("wire-")]


def peak(run: Callable[[bytes], object], data: bytes) -> int:
    """Return the most bytes that were allocated at a time."""
    tracemalloc.start()
    try:
        run(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def announcing(seed: bytes) -> Iterator[bytes]:
    """Yield the seed with each of its four bytes in a row made an enormous length."""
    for at in range(len(seed) - 3):
        for length in (GIB4, 2**28):
            yield seed[:at] + struct.pack("<I", length) + seed[at + 4 :]


@pytest.mark.parametrize("name", WIRE)
def test_a_length_that_is_only_announced_allocates_nothing(name: str) -> None:
    target = TARGETS[name]
    seeds = sorted(target.seeds(), key=len)[:3]
    for seed in seeds:
        target.accepts(seed)  # what is made once for each type of record
    for seed in seeds:
        for data in announcing(seed[:400]):
            assert peak(target.accepts, data) < ALLOWED, data.hex()


def test_a_node_allocates_nothing_for_what_a_message_only_announces() -> None:
    node, store = small().victim("signed")
    body = small().moments["signed"].body
    node.reply("ask", body)
    for data in (*announcing(body[:200]), array_of(2**32 - 1, 2**32 - 1), b"\x08" + struct.pack("<I", GIB4)):
        assert peak(partial(node.reply, "ask"), data) < ALLOWED, data[:200].hex()
    store.close()


def array_of(*shape: int) -> bytes:
    return bytes((7, 2, len(shape))) + b"".join(struct.pack("<I", n) for n in shape)


def test_a_transcript_that_announces_a_record_of_a_gibibyte_allocates_nothing() -> None:
    data = _header(b"", MOST_RECORD) + bytes(12)
    TARGETS["transcript"].accepts(data)
    assert peak(TARGETS["transcript"].accepts, data) < ALLOWED


def test_a_pinned_cohort_that_announces_more_rows_than_it_holds_allocates_nothing() -> None:
    content, out = TARGETS["snapshot"].seeds()[0], io.BytesIO()
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f8", "fortran_order": False, "shape": (2**33,)})
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            new.writestr(name, header.getvalue() if name == "column:age.npy" else old.read(name))
    assert peak(TARGETS["snapshot"].accepts, out.getvalue()) < len(content) + ALLOWED


def test_a_model_that_would_unpack_to_more_than_any_is_not_unpacked() -> None:
    content, out = TARGETS["model"].seeds()[0], io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        new.writestr("schema.json", old.read("schema.json"))
        with new.open("more.bin", "w") as bomb:
            for _ in range(520):
                bomb.write(bytes(1 << 20))
    data = out.getvalue()
    assert len(data) < 1 << 20
    assert not TARGETS["model"].accepts(data)
    assert peak(TARGETS["model"].accepts, data) < 4 * len(data) + ALLOWED


def test_a_request_that_announces_gigabytes_is_refused_unread() -> None:
    async def read() -> dict[str, object]:
        raise AssertionError("a body was read")

    for length in (b"4294967296", b"9" * 18):
        with pytest.raises(TooLong):
            asyncio.run(whole({b"content-length": length}, read, 16 << 10))


# --- what was found ---


def node_says(state: str, message: object) -> object:
    """Send the victim any message; return its reply."""
    node, store = small().victim(state)
    try:
        action = next(action for action, kind in say.ACTIONS.items() if type(message) is kind)
        return say.MESSAGES.decode(node.reply(action, encode(message)), object)
    finally:
        store.close()


def test_an_audit_head_beyond_what_a_database_counts_is_refused() -> None:
    epoch = small().epoch
    audits = tuple(AuditHead(2**63, bytes(32)).packed() for _ in epoch.hospitals)
    proposal = say.EpochProposal(dataclasses.replace(epoch, audits=audits_digest(audits)), audits)
    assert node_says("rostered", proposal) == say.Refusal("protocol")


def test_a_study_with_a_number_that_its_canonical_form_does_not_know_is_refused() -> None:
    plain = json.loads(small().study.manifest())
    for key in ("min_rows", "min_cell"):
        changed = {**plain, "privacy": {**plain["privacy"], key: 2**60}}
        manifest = json.dumps(changed, sort_keys=True, separators=(",", ":")).encode()
        assert node_says("approved", say.Invitation(manifest)) == say.Refusal("protocol")


ANYTHING = (
    *(None, True, 2**63 - 1, 1.5, "x", b"x", (), (("x",),)),
    *(
        np.arange(2),
        np.ones((2, 2)),
        np.zeros((0, 2**31, 2), np.int64),
        np.zeros((0, 2**22)),
        np.array(7, np.uint64),
    ),
)


@pytest.mark.parametrize("name", WIRE)
def test_any_value_in_any_place_of_a_record_is_taken_or_refused(name: str) -> None:
    target, faults = TARGETS[name], set()
    for seed in target.seeds():
        value: object = decoders.REGISTRIES[name].decode(seed, object)
        for path, _ in nodes(value):
            for other in ANYTHING:
                data = encode(put(value, path, other))
                try:
                    if peak(target.accepts, data) > ALLOWED:
                        faults.add(f"{type(value).__name__} {path} {np.shape(other)}: allocates")
                except Exception as error:  # noqa: BLE001 (all of them are to be told)
                    faults.add(f"{type(value).__name__} {path}: {type(error).__name__} {error}")
    assert not faults


def test_a_program_ends_calmly_over_sums_that_are_lies() -> None:
    """One hospital that lies makes a sum whatever it likes; the coordinator can't tell."""
    world, faults = wide(), set()
    steps = [one for one in world.record if isinstance(one, StepRecord)]
    for at, step in enumerate(steps):
        for i, one in enumerate(step.sums):
            for lie in (0, -1, 2**62):
                replay = Replay(world.study, installed, world.roster.digest)
                replay.begin(world.epoch)
                for record in steps[:at]:
                    replay.take(record, replay.open(record))
                false = dataclasses.replace(one, vector=np.full_like(one.vector, lie))
                record = dataclasses.replace(step, sums=(*step.sums[:i], false, *step.sums[i + 1 :]))
                kind = replay.due[i].kind
                try:
                    replay.take(record, replay.open(record))
                except WardroundError:
                    continue
                except Exception as error:  # noqa: BLE001 (all of them are to be told)
                    faults.add(f"{kind} of {one.analysis}, all {lie}: {type(error).__name__} {error}")
    assert not faults


# --- what other fuzzers would need long to find ---

DEEP = 100_000
NASTY = {
    "nothing": b"",
    "zeros": bytes(100),
    "ones": b"\xff" * 100,
    "lists in lists": b"[" * DEEP,
    "closed lists in lists": b"[" * 900 + b"]" * 900,
    "objects in objects": b'{"a":' * DEEP,
    "a table in tables": b"a = " + b"{a = " * DEEP,
    "an array in arrays": b"a = " + b"[" * DEEP,
    "dotted keys": b"a" + b".a" * 2000 + b" = 1",
    "parentheses": b"(" * 5000,
    "signs": b"age > " + b"- " * 4000 + b"1",
    "a long number in TOML": b"a = " + b"9" * 5000,
    "a long number in JSON": b'{"protocol":' + b"9" * 5000 + b"}",
    "a long number in YAML": b"wardround: " + b"9" * 5000,
    "infinity in JSON": b'{"wardround":1,"max_rows":1e999}',
    "half a character": b'{"wardround":1,"name":"\\ud800"}',
    "keys in YAML": b"? " * 2000,
    "items in YAML": b"- " * 5000,
    "mappings in YAML": b"{a: " * 5000,
    "a merge in YAML": b"wardround: 1\n<<: {name: a}\n<<: 5\n",
    "a default in YAML": b"wardround: 1\n=: 1\n",
    "a date in YAML": b"wardround: 2001-99-99\n",
    "an integer in YAML": b"wardround: !!int x\n",
    "a float in YAML": b"wardround: !!float x\n",
    "a time in YAML": b"wardround: !!timestamp x\n",
    "bytes in YAML": b"wardround: !!binary x\n",
    "a set in YAML": b"wardround: !!set {a, b}\n",
    "sixties in YAML": b"wardround: 1:99:1" + b":1" * 4000,
    "an object in YAML": b"wardround: !!python/object/apply:os.system [true]\n",
    "an alias in YAML": b"wardround: &a [1]\nname: *a\n",
    "nul bytes": b"\0wardround: 1\0",
    "another alphabet": "wardround: \u202e1".encode(),
    "UTF-16": "wardround: 1".encode("utf-16"),
    "a PEM without an end": b"-----BEGIN PRIVATE KEY-----\n" + b"A" * 4000,
    "a PEM of nothing": b"-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n",
    "an empty zip": b"PK\5\6" + bytes(18),
    "an empty Parquet": b"PAR1" + bytes(4) + b"PAR1",
    "a Parquet that announces more": b"PAR1" + struct.pack("<I", GIB4) + b"PAR1",
    "an empty database": b"SQLite format 3\0" + bytes(500),
    "a quote that is not closed": b'a,b\n"1,2\n3,4\n',
}


@pytest.mark.parametrize("data", NASTY.values(), ids=NASTY)
def test_nasty_bytes_are_taken_or_refused_by_every_decoder(data: bytes) -> None:
    faults = []
    for target in TARGETS.values():
        if not target.scripted:
            try:
                target.accepts(data)
            except Exception as error:  # noqa: BLE001 (all of them are to be told)
                faults.append(f"{target.name}: {type(error).__name__}: {error}"[:200])
    assert not faults
