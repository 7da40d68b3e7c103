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
    ``plan``: `trusted` allows studies whose questions the coordinator chooses. ``seal``: `none` allows
    studies in which an update of this hospital alone leaves. ``leave``: whether sums may be opened over a
    set of hospitals and over nearly the same one without this: `allow`, `group` (only where min_hospitals
    or more are the difference) or `never` (besides, a study never goes on without it). Without `allow` it
    takes part in all analyses of a study or in none. ``max_epochs``: how many sets may be nearly the same
    as another, over all studies.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    min_hospitals: Annotated[int, Field(ge=2)] = 3
    min_rows: Annotated[int, Field(ge=1)] = 10
    min_cell: Annotated[int, Field(ge=1)] = 11
    analyses: tuple[str, ...] | None = None
    statements: tuple[Literal["metrics"], ...] = ()
    plan: Literal["verified", "trusted"] = "verified"
    seal: Literal["sums", "none"] = "sums"
    leave: Literal["allow", "group", "never"] = "group"
    max_epochs: Annotated[int, Field(ge=0)] = 3

    @classmethod
    def of(cls, study: Study, leave: Literal["allow", "group", "never"] = "group") -> Policy:
        """Return a policy that asks just what the study promises, for simulations."""
        asked = study.privacy.model_dump(include={"min_hospitals", "min_rows", "min_cell", "plan", "seal"})
        return cls(**asked, leave=leave)

    def check(self, study: Study) -> None:
        """Raise Refused, naming the key, where a study protects less than this hospital does."""
        for key in ("min_hospitals", "min_rows", "min_cell"):
            asked, floor = getattr(study.privacy, key), getattr(self, key)
            if asked < floor:
                raise Refused(
                    "policy",
                    f"the study's `privacy.{key}` is {asked}, this hospital's policy asks for {floor}",
                )
        for key, strict, why in (
            ("plan", "verified", "hospitals could not check what they are asked"),
            ("seal", "sums", "numbers of this hospital alone would leave it"),
        ):
            asked, allowed = getattr(study.privacy, key), getattr(self, key)
            if asked != strict and allowed == strict:
                raise Refused(
                    "policy",
                    f"the study's `privacy.{key}` is `{asked}`: {why}; this hospital's policy refuses that "
                    f'(allow it with {key} = "{asked}")',
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
