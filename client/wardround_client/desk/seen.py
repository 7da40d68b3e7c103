"""What an officer saw of a study, and how that differs from what is there when he decides."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wardround_client.approval import Looked, look_at
from wardround_client.home import HospitalHome
from wardround_client.review import Change, Review, reviewed
from wardround_common.study import Study

KEY_BYTES: Final = 32


@dataclass(frozen=True, repr=False)
class Seen:
    """A study's review, with all that a decision on it depends on: also policy and rows.

    ``rows``: keyed digest of the rows that an approval would pin, and of those of the whole table. The rows
    themselves are not in it, so that it can be kept.
    """

    review: Review
    policy: Mapping[str, Any]
    rows: bytes

    def __repr__(self) -> str:
        return f"Seen({self.review.name!r}, ...)"

    def digest(self, key: bytes) -> str:
        """Return the keyed digest of everything that was shown, and of the rows behind it."""
        told = json.dumps([self.review.shown(), self.policy], sort_keys=True, default=str)
        return hashlib.blake2b(told.encode() + self.rows, digest_size=32, key=key).hexdigest()

    def changes(self, before: Seen) -> tuple[Change, ...]:
        """Return what differs from what was shown before."""
        was = _flat({**before.review.shown(), "policy.toml": before.policy})
        now = _flat({**self.review.shown(), "policy.toml": self.policy})
        found = [
            Change(key, was.get(key), now.get(key))
            for key in dict.fromkeys((*was, *now))
            if was.get(key) != now.get(key)
        ]
        if before.rows != self.rows:
            found.append(Change("rows of the table", "as they were read then", "other cells, or other rows"))
        return tuple(found)


def see(home: HospitalHome, study: Study, key: bytes) -> tuple[Looked, Seen]:
    """Hold a study against table and policy as they are now. DataError where the table cannot be read."""
    looked = look_at(home, study)
    return looked, Seen(reviewed(home, looked), home.policy.model_dump(mode="json"), _rows(looked, key))


def _rows(looked: Looked, key: bytes) -> bytes:
    cohort = looked.reading.cohort
    found = hashlib.blake2b(looked.pin.encoded(), digest_size=32, key=key)
    found.update(looked.sets.digest)
    found.update(cohort.keys.values.tobytes())
    for name in sorted(cohort.columns):
        found.update(cohort.columns[name].tobytes())
    if cohort.held_out is not None:
        found.update(cohort.held_out.tobytes())
    return found.digest()


def _flat(value: Any, path: str = "") -> dict[str, str]:
    """Return nested records as one text a key; those of a list by their names."""
    if isinstance(value, Mapping):
        pairs = [(str(key), one) for key, one in value.items()]
    elif isinstance(value, list | tuple):
        pairs = [(_name(one, number), one) for number, one in enumerate(value, 1)]
    else:
        return {path: str(value)}
    found: dict[str, str] = {}
    for key, one in pairs:
        found |= _flat(one, f"{path}: {key}" if path else key)
    return found


def _name(value: Any, number: int) -> str:
    named = value if isinstance(value, Mapping) else {}
    return str(named.get("name") or named.get("label") or number)
