"""How the tests read the vectors, and bring up either implementation in the state that they name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import pandas as pd

from tests.support import cohort_of
from tests.vectors.generate import HERE
from tests.vectors.slow import leaving as slow_leaving
from tests.vectors.slow.checks import Reader
from tests.vectors.slow.curves import ed25519_public
from tests.vectors.slow.encoding import Array, Record, decode, record
from tests.vectors.slow.sealing import audits_digest
from wardround_client.app import Node
from wardround_client.decision import approve_study
from wardround_client.gate import Policy
from wardround_client.session import CONFIRMED, CONFIRMED_BYTES, REVOKED, Session
from wardround_client.store import NodeStore, SeenHead
from wardround_common.sealing.identity import Identity
from wardround_common.sealing.mask import MaskingKey
from wardround_common.sealing.roster import fingerprint
from wardround_common.study import read_manifest

raw = bytes.fromhex


@lru_cache
def vectors(name: str) -> Any:
    """Return a file of vectors."""
    return json.loads((HERE / f"{name}.json").read_text("ascii"))


def ints(text: str) -> list[int]:
    """Return the whole numbers of a text."""
    return [int(one) for one in text.split()]


def value_of(shown: Any) -> Any:
    """Return what a value in JSON stands for, as the second implementation holds it."""
    if not isinstance(shown, dict):
        return shown
    if "array" in shown:
        number = float.fromhex if shown["array"] == 1 else int
        return Array(shown["array"], tuple(shown["shape"]), tuple(map(number, shown["values"].split())))
    if "record" in shown:
        return Record(shown["record"], tuple(map(value_of, shown["fields"])))
    ((kind, value),) = shown.items()
    ways: dict[str, Any] = {"int": int, "float": float.fromhex, "text": str, "bytes": raw}
    return tuple(map(value_of, value)) if kind == "list" else ways[kind](value)


def was_restarted(said: Mapping[str, Any], answer: Mapping[str, Any]) -> bool:
    """Tell whether a hospital was started again before it was told something: it is behind, and was asked."""
    return answer["message"] == "Behind" and bool(decode(raw(said["bytes"]))["questions"])


def epoch_of(shown: Mapping[str, Any]) -> Record:
    return record(
        "Epoch",
        binding=raw(shown["binding"]),
        number=shown["number"],
        hospitals=tuple(shown["hospitals"]),
        analyses=tuple(
            record("Membership", analysis=label, abstaining=tuple(names))
            for label, names in shown["analyses"]
        ),
        previous=raw(shown["previous"]),
        steps=shown["steps"],
        head=raw(shown["head"]),
        audits=audits_digest([raw(one) for one in shown["audit_heads"]]),
    )


def slow_group(shown: Mapping[str, Any]) -> slow_leaving.Group:
    """Return an epoch's hospitals as the second implementation holds them."""
    return slow_leaving.Group(shown["study"].encode(), shown["leaves"], shown["sets"])


def told_before(case: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return what a hospital was sent before the message that it refuses."""
    before = case["before"]
    if isinstance(before, list):
        return before
    said = [one for one in vectors(before["course"])["messages"] if one["to"] == case["hospital"]]
    return said[1 : 1 + before["messages"]]  # behind its invitation


def reader_of(state: Mapping[str, Any]) -> Reader:
    """Return the second implementation of a hospital that is in this state."""
    keys = raw(state["identity_private"]), raw(state["masking_private"])
    unsealed = {(analysis, index) for analysis, index in state["unsealed"]}
    return Reader(state["hospital"], *keys, state["manifest"], state["policy"], unsealed)


def state_of(data: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return a hospital of a course as a refusal names one."""
    own = next(one for one in data["hospitals"] if one["name"] == name)
    identities = {
        one["name"]: ed25519_public(raw(one["identity_private"])).hex() for one in data["hospitals"]
    }
    return {
        **own,
        "hospital": name,
        "manifest": data["manifest"],
        "identities": identities,
        "confirmed": [one for one in identities if one != name],
        "revoked": [],
        "own_audit_heads": [*own["audits_when_approving"], *own["audits_when_signing"]],
        "seen_audit_heads": {},
        "unsealed": [],
    }


def officer_says(state: Mapping[str, Any], store: NodeStore, whom: str, says: str) -> None:
    """Have the hospital's officer say something of another hospital; nothing: it is taken back."""
    store.say(whom, fingerprint(whom, raw(state["identities"][whom]))[:CONFIRMED_BYTES], says)


def _see(state: Mapping[str, Any], store: NodeStore) -> None:
    """Have the hospital have seen others' audit heads, in an epoch of another study."""
    heads = {
        raw(state["identities"][one]): SeenHead(raw(packed), bytes(32), "allow", bytes(64))
        for one, packed in state["seen_audit_heads"].items()
    }
    if heads:
        store.opened_epoch(bytes(32), 1, b"", heads)


def node_of(state: Mapping[str, Any], store: NodeStore, *, again: bool = False) -> Node:
    """Return the real client of a hospital that is in this state; ``again``: with the store it had."""
    study, name = read_manifest(state["manifest"].encode()), state["hospital"]
    identity = Identity.from_bytes(raw(state["identity_private"]))
    if not again:
        approve_study(store, identity, study, MaskingKey.from_bytes(raw(state["masking_private"])))
        for says, names in ((CONFIRMED, state["confirmed"]), (REVOKED, state["revoked"])):
            for one in names:
                officer_says(state, store, one, says)
        for packed in state["own_audit_heads"]:  # its log has other entries, with the time of this test
            store.forgive(raw(packed))
        _see(state, store)
    cohort = cohort_of(study, pd.DataFrame(state["rows"]), name)
    node = Node(store)
    node.open(Session(name, identity, Policy(**state["policy"]), store, study, cohort))
    return node
