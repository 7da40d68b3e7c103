"""The one gate: a number leaves a hospital only as a ``Sealed`` that ``release`` made."""

from wardround_client.gate.policy import Policy, read_policy
from wardround_client.gate.release import Request, Sealed, release

__all__ = ["Policy", "Request", "Sealed", "read_policy", "release"]
