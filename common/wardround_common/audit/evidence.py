"""What leaves of an audit log to be checked elsewhere, offline: exports, and proofs about one entry or head.

Each begins with the log's head, signed, and the public key. That the key is the right one, no file can tell:
compare its words on the telephone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import IO, Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from wardround_common.audit.check import ANY, Chunks, Mark, Progress, recomputed
from wardround_common.audit.entry import MOST_BYTES, Entry
from wardround_common.audit.log import AuditLog
from wardround_common.audit.merkle import is_consistent, is_included, leaf_hash, peaks
from wardround_common.audit.note import MOST_NOTE, Checkpoint, Origin, read_checkpoint, sign_checkpoint
from wardround_common.errors import WardroundError
from wardround_common.sealing.epoch import AuditHead
from wardround_common.sealing.identity import Identity

MOST_LINE: Final = 32 << 10  # bytes of a proof, or of an export's first line
_CHUNK: Final = 20_000  # lines
Number = Annotated[int, Field(ge=0, lt=1 << 63)]
Hash = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Path = Annotated[list[Hash], Field(max_length=64)]


class Fields(BaseModel):
    """JSON of exactly these fields, of exactly these types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Signed(Fields):
    """A signed head, and the public key that it is checked with."""

    wardround_audit: Literal[1] = 1
    key: Hash
    checkpoint: Annotated[str, Field(max_length=MOST_NOTE)]

    def read(self) -> Checkpoint:
        """Return the checkpoint. ProtocolError unless the key signed it."""
        found = read_checkpoint(self.checkpoint)
        found.verify(bytes.fromhex(self.key))
        return found


class ExportStart(Signed):
    """An export's first line; the lines after it are the entries after number ``since``.

    ``subtrees``: the hashes of the complete subtrees of the entries before, from which and the entries the
    signed head follows, so that an export also proves how the log stood at its beginning.
    """

    kind: Literal["export"] = "export"
    since: Number
    subtrees: Path


class EntryFields(Fields):
    """An entry in a proof."""

    at: Number
    actor: str
    event: str
    study: str
    detail: str


class Inclusion(Signed):
    """That an entry is in the log (RFC 9162, section 2.1.3)."""

    kind: Literal["inclusion"] = "inclusion"
    seq: Number
    entry: EntryFields
    path: Path


class Consistency(Signed):
    """That the log once had the root ``root`` with ``since`` entries (RFC 9162, section 2.1.4)."""

    kind: Literal["consistency"] = "consistency"
    since: Number
    root: Hash
    path: Path


Evidence = ExportStart | Inclusion | Consistency
_EVIDENCE: Final[TypeAdapter[Evidence]] = TypeAdapter(Annotated[Evidence, Field(discriminator="kind")])


@dataclass(frozen=True)
class Verdict:
    """What was found to fit: ``head`` is the log's, ``since`` how it stood where an export or proof begins.

    ``seq`` and ``entry`` belong to a proof of inclusion.
    """

    kind: str
    origin: Origin
    public: bytes
    head: AuditHead
    since: AuditHead | None = None
    seq: int | None = None
    entry: Entry | None = None


def prove_entry(log: AuditLog, head: AuditHead, number: int, signer: Identity, origin: Origin) -> str:
    """Return the proof that an entry is in the log, whose head it is, as a line of JSON."""
    path = log.inclusion(number, head.count)
    [(_, entry)] = log.entries(number - 1, 1)
    return Inclusion(
        **_signed(signer, origin, head), seq=number, entry=EntryFields(**asdict(entry)), path=_hex(path)
    ).model_dump_json()


def prove_growth(log: AuditLog, head: AuditHead, count: int, signer: Identity, origin: Origin) -> str:
    """Return the proof that the log, whose head it is, grew from ``count`` entries, as a line of JSON."""
    path, old = log.consistency(count, head.count), log.head_at(count)
    if old is None:
        raise WardroundError(f"the audit log never had {count:,} entries")
    return Consistency(
        **_signed(signer, origin, head), since=count, root=old.head.hex(), path=_hex(path)
    ).model_dump_json()


def exported(log: AuditLog, head: AuditHead, since: int, signer: Identity, origin: Origin) -> Iterator[bytes]:
    """Yield the lines of an export: the signed head, then each entry after ``since`` in its own bytes."""
    subtrees = _hex(log.subtrees(since))
    start = ExportStart(**_signed(signer, origin, head), since=since, subtrees=subtrees)
    yield start.model_dump_json().encode() + b"\n"
    for begin in range(since, head.count, _CHUNK):
        for number, data in list(log.encoded(begin, min(_CHUNK, head.count - begin))):
            if b"\n" in data:
                raise WardroundError(f"the audit log is damaged: entry {number} is none")
            yield data + b"\n"


def check(file: IO[bytes], marks: Sequence[Mark], progress: Progress | None = None) -> Verdict:
    """Check an export or a proof, and that it fits ``marks``. WardroundError says what is wrong with it."""
    line = file.readline(MOST_LINE + 1)
    try:
        found = _EVIDENCE.validate_json(line if len(line) <= MOST_LINE else b"")
    except ValidationError:
        raise WardroundError("not what `wardround audit export` or `wardround audit prove` writes") from None
    signed = found.read()
    if isinstance(found, ExportStart):
        return _check_export(found, signed, file, marks, progress)
    if file.read(1):
        raise WardroundError("more than one proof in a file")
    if isinstance(found, Inclusion):
        return _check_inclusion(found, signed, marks)
    return _check_consistency(found, signed, marks)


def _check_export(
    start: ExportStart, signed: Checkpoint, file: IO[bytes], marks: Sequence[Mark], progress: Progress | None
) -> Verdict:
    if len(start.subtrees) != len(peaks(start.since)):
        raise WardroundError("an export that begins with what no log is like")
    subtrees = [bytes.fromhex(one) for one in start.subtrees]
    all_marks = [*marks, Mark(signed.head, f"the signed checkpoint of {signed.head.count:,}")]
    chunks = _chunks(file, start.since)
    head = recomputed(chunks, all_marks, start.since, subtrees, progress)
    if head != signed.head:
        raise WardroundError(
            f"there are {head.count - signed.head.count:,} entries after the signed checkpoint, which nobody "
            "signed"
        )
    before = recomputed((), since=start.since, subtrees=subtrees)
    return Verdict("export", signed.origin, bytes.fromhex(start.key), head, before)


def _check_inclusion(proof: Inclusion, signed: Checkpoint, marks: Sequence[Mark]) -> Verdict:
    entry, path = Entry(**proof.entry.model_dump()), [bytes.fromhex(one) for one in proof.path]
    leaf = leaf_hash(entry.encoded())
    if not is_included(leaf, proof.seq, signed.head.count, path, signed.head.head):
        raise WardroundError(f"the proof does not hold: this is not entry {proof.seq} of the signed log")
    _compare(marks, signed.head)
    public = bytes.fromhex(proof.key)
    return Verdict("inclusion", signed.origin, public, signed.head, seq=proof.seq, entry=entry)


def _check_consistency(proof: Consistency, signed: Checkpoint, marks: Sequence[Mark]) -> Verdict:
    old, path = AuditHead(proof.since, bytes.fromhex(proof.root)), [bytes.fromhex(one) for one in proof.path]
    if not is_consistent(old.count, signed.head.count, path, old.head, signed.head.head):
        raise WardroundError(
            f"the proof does not hold: the signed log of {signed.head.count:,} entries did not begin with "
            f"these {old.count:,}"
        )
    _compare(marks, signed.head, old)
    return Verdict("consistency", signed.origin, bytes.fromhex(proof.key), signed.head, old)


def _compare(marks: Sequence[Mark], *heads: AuditHead) -> None:
    known = {head.count: head for head in heads}
    for mark in marks:
        if mark.head.count not in known:
            sizes = " and ".join(f"{count:,}" for count in known)
            raise WardroundError(
                f"{mark.name} cannot be compared: this proof is about logs of {sizes} entries"
            )
        if known[mark.head.count] != mark.head:
            raise WardroundError(f"the audit log is not the one of which {mark.name} was made")


def _chunks(file: IO[bytes], since: int) -> Chunks:
    number, chunk = since, list[tuple[Any, Any, Any]]()
    while line := file.readline(MOST_BYTES + 2):
        number += 1
        if not line.endswith(b"\n"):
            raise WardroundError(f"entry {number} is cut, or too long to be one")
        chunk.append((number, line[:-1], ANY))
        if len(chunk) == _CHUNK:
            yield chunk
            chunk = []
    yield chunk


def _signed(signer: Identity, origin: Origin, head: AuditHead) -> dict[str, Any]:
    return {"key": signer.public.hex(), "checkpoint": sign_checkpoint(signer, origin, head)}


def _hex(hashes: Sequence[bytes]) -> list[str]:
    return [one.hex() for one in hashes]
