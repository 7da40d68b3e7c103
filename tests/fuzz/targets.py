"""Every decoder of the project, by name; see ``target.Target``."""

from __future__ import annotations

from tests.fuzz import decoders, kept, peers
from tests.fuzz.target import TARGETS

__all__ = ["TARGETS", "decoders", "kept", "peers"]
