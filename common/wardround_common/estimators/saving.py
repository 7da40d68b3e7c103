"""Estimators as bytes in the skops format, a zip of JSON and plain data; no pickle, nothing that runs code.

A file is looked through before skops builds anything: which members and how large, and that it holds one
estimator of this package whose state is texts and bytes. So a doctored file can at worst be refused.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from skops.io import dumps, loads

from wardround_common.errors import WardroundError
from wardround_common.estimators.base import FederatedModel
from wardround_common.estimators.catalogue import ESTIMATORS
from wardround_common.estimators.state import KINDS

MOST_BYTES = 512 << 20  # unpacked
_MOST_SCHEMA_BYTES = 16 << 20
_MOST_MEMBERS = 16
TRUSTED = [f"{one.__module__}.{one.__name__}" for one in ESTIMATORS]
_PLAIN = {
    "DictNode": ["builtins.dict"],
    "ListNode": ["builtins.list"],
    "TypeNode": ["builtins.str"],
    "JsonNode": ["builtins.str"],
    "BytesNode": ["builtins.bytes"],
}


def dump_estimator(estimator: FederatedModel) -> bytes:
    """Return the file's bytes; its name should end in ``.skops``."""
    data: bytes = dumps(estimator, compression=zipfile.ZIP_DEFLATED)
    return data


def load_estimator(data: bytes, source: str = "model") -> FederatedModel:
    """Return the estimator that ``dump_estimator`` saved. WardroundError, which names ``source``, if none."""
    if not zipfile.is_zipfile(io.BytesIO(data)):
        raise WardroundError(f"{source}: is not a .skops file, or is not whole; give the one beside the card")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as packed:
            _check_members(packed)
            _check_schema(json.loads(packed.read("schema.json")))
        estimator = loads(data, trusted=TRUSTED)
    except WardroundError as error:
        raise WardroundError(f"{source}: refused: {error}") from None
    except (
        *(zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, RecursionError),
        *(KeyError, ValueError, TypeError, AttributeError, OSError),
    ):
        raise WardroundError(f"{source}: is damaged, or no model of Wardround's; fetch it again") from None
    if not isinstance(estimator, FederatedModel) or not hasattr(estimator, "model_"):
        raise WardroundError(f"{source}: refused: it holds no fitted model")
    return estimator


def _check_members(packed: zipfile.ZipFile) -> None:
    """Raise WardroundError if there is more in it than a model needs; sizes are those announced."""
    members = packed.infolist()
    if len(members) > _MOST_MEMBERS or sum(one.file_size for one in members) > MOST_BYTES:
        raise WardroundError(f"it would unpack to more than {MOST_BYTES >> 20} MiB, or to too many parts")
    if packed.getinfo("schema.json").file_size > _MOST_SCHEMA_BYTES:
        raise WardroundError("its description is too long for a model's")


def _check_schema(schema: Any) -> None:
    """Raise WardroundError unless it is one of our estimators, and its state plain values."""
    _check_node(schema, {"ObjectNode": TRUSTED})
    _check_node(schema["content"], {"DictNode": ["builtins.dict"]})
    if set(schema["content"]["content"]) != set(KINDS):
        raise WardroundError("its state is not that of an estimator")
    _check_plain(schema["content"]["content"])
    _check_plain(schema["content"]["key_types"])


def _check_node(node: Any, allowed: Mapping[str, Sequence[str]]) -> None:
    """Raise WardroundError unless the node's loader is allowed, and its type to that loader."""
    loader, name = node["__loader__"], f"{node['__module__']}.{node['__class__']}"
    if name not in allowed.get(loader, ()):
        raise WardroundError("it holds other things than one model of Wardround's")


def _check_plain(value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check_plain(item)
    elif isinstance(value, dict):
        if "__loader__" in value or "__class__" in value:
            _check_node(value, _PLAIN)
        for item in value.values():
            _check_plain(item)
