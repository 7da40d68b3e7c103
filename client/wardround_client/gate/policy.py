"""A hospital's own floors.

They can only be stricter than the study's, and are checked twice: when the study is approved, and again
at every release.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from wardround_common.errors import Refused, WardroundError, listed
from wardround_common.home import read_toml
from wardround_common.study import KINDS, Study


class Policy(BaseModel):
    """``policy.toml``. ``analyses``: the kinds that may run here; None allows every kind.

    ``statements``: which rounded facts about this hospital alone may be told; none by default.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_hospitals: Annotated[int, Field(ge=2)] = 3
    min_rows: Annotated[int, Field(ge=1)] = 10
    min_cell: Annotated[int, Field(ge=1)] = 11
    analyses: tuple[str, ...] | None = None
    statements: tuple[Literal["metrics"], ...] = ()

    @classmethod
    def of(cls, study: Study) -> Policy:
        """Return a policy that asks just what the study promises, for simulations."""
        privacy = study.privacy
        return cls(min_hospitals=privacy.min_hospitals, min_rows=privacy.min_rows, min_cell=privacy.min_cell)

    def check(self, study: Study) -> None:
        """Raise Refused, naming the key, where a study protects less than this hospital does."""
        for key in ("min_hospitals", "min_rows", "min_cell"):
            asked, floor = getattr(study.privacy, key), getattr(self, key)
            if asked < floor:
                raise Refused(
                    "policy",
                    f"the study's `privacy.{key}` is {asked}, this hospital's policy asks for {floor}",
                )
        refused = [
            spec.kind
            for spec in study.analyses
            if self.analyses is not None and spec.kind not in self.analyses
        ]
        if refused:
            raise Refused("policy", f"this hospital's policy does not allow {listed(refused)} (`analyses`)")


def read_policy(path: Path) -> Policy:
    """Read policy.toml. WardroundError names the file and key at fault."""
    policy = read_toml(path, Policy, "deploy/samples/policy.toml")
    unknown = [kind for kind in policy.analyses or () if kind not in KINDS]
    if unknown:
        raise WardroundError(f"{path}: analyses: {listed(unknown)} is no analysis; there are {listed(KINDS)}")
    return policy
