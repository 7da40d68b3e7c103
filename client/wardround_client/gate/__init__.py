"""The one gate: a number leaves a hospital only as a ``Sealed`` that ``release`` made.

Or as a ``Statement``, where the hospital's policy allows one.
"""

from wardround_client.gate.policy import Policy, read_policy
from wardround_client.gate.release import Bare, Masks, Request, Sealed, release
from wardround_client.gate.statement import Judged, state

__all__ = ["Bare", "Judged", "Masks", "Policy", "Request", "Sealed", "read_policy", "release", "state"]
