"""A hospital's own policy: what a study must promise, and how much may be asked.

It can only be stricter than the study, and is held against it twice: at review, and again at every release.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, model_validator

from wardround_client import ledger
from wardround_client.store import NodeStore
from wardround_common.errors import Refused, WardroundError, listed
from wardround_common.home import read_toml
from wardround_common.study import KINDS, Study

Leave = Literal["allow", "group", "never"]
# Published cells as their authors ask; keys that are written beside a profile go before it.
# cms11: US Centers for Medicare and Medicaid Services, cell size suppression policy: no cell of 1 to 10.
# nhs7: NHS England, disclosure control of hospital data: no cell of 1 to 7, others to the nearest 5.
# ohdsi5: OHDSI network studies, `minCellCount` 5. datashield3: DataSHIELD, `nfilter.tab` and
# `nfilter.subset` 3.
PROFILES: Final[Mapping[str, Mapping[str, int]]] = {
    "cms11": {"min_cell": 11},
    "nhs7": {"min_cell": 8, "round_to": 5},
    "ohdsi5": {"min_cell": 5},
    "datashield3": {"min_cell": 3},
}


class Standing(BaseModel):
    """`[standing]`: studies that this node approves by itself, where the whole policy allows them.

    ``coordinators``: who asks; ``analyses``: of these kinds alone; ``variables``: of these alone;
    ``max_numbers``: numbers that would leave at most, as `review` counts them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    coordinators: Annotated[tuple[str, ...], Field(min_length=1)]
    analyses: Annotated[tuple[str, ...], Field(min_length=1)]
    variables: Annotated[tuple[str, ...], Field(min_length=1)]
    max_numbers: Annotated[int, Field(ge=1)] = 10_000


class Policy(BaseModel):
    """``policy.toml``. ``analyses``, ``variables``, ``coordinators``: which may be; None allows all.

    ``profile`` sets the keys of ``PROFILES``. ``max_queries`` may be answered of one study, and
    ``max_queries_month`` of all in a month; None sets no limit. ``max_share``: no answer where this hospital
    has more of an analysis's rows than this, since the sum would be nearly its own.
    ``statements``: which rounded facts about this hospital alone may be told; none by default.
    ``plan``: `trusted` allows studies whose questions the coordinator chooses. ``seal``: `none` allows
    studies in which an update of this hospital alone leaves. ``differential_privacy``: `required` refuses
    studies without it. ``leave``: whether sums may be opened over a set of hospitals and over nearly the
    same one without this: `allow`, `group` (only where min_hospitals or more are the difference) or `never`
    (besides, a study never goes on without it). Without `allow` it takes part in all analyses of a study or
    in none. ``max_epochs``: how many sets may be nearly the same as another, over all studies. ``hold``:
    every release waits for a person. ``standing``: which studies need none; None: all do.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profile: Literal["cms11", "nhs7", "ohdsi5", "datashield3"] | None = None
    min_hospitals: Annotated[int, Field(ge=2)] = 3
    min_rows: Annotated[int, Field(ge=1)] = 10
    min_cell: Annotated[int, Field(ge=1)] = 11
    round_to: Annotated[int, Field(ge=1)] = 1
    analyses: tuple[str, ...] | None = None
    variables: tuple[str, ...] | None = None
    coordinators: tuple[str, ...] | None = None
    max_queries: Annotated[int, Field(ge=1)] | None = 1000
    max_queries_month: Annotated[int, Field(ge=1)] | None = 10_000
    max_share: Annotated[float, Field(gt=0, le=1)] = 0.9
    statements: tuple[Literal["metrics"], ...] = ()
    plan: Literal["verified", "trusted"] = "verified"
    seal: Literal["sums", "none"] = "sums"
    differential_privacy: Literal["none", "required"] = "none"
    leave: Leave = "group"
    max_epochs: Annotated[int, Field(ge=0)] = 3
    hold: StrictBool = False
    standing: Standing | None = None

    @model_validator(mode="before")
    @classmethod
    def _of_profile(cls, data: Any) -> Any:
        profile = data.get("profile") if isinstance(data, dict) else None
        return {**PROFILES[profile], **data} if isinstance(profile, str) and profile in PROFILES else data

    @classmethod
    def of(cls, study: Study, leave: Leave = "group") -> Policy:
        """Return a policy that asks just what the study promises, for simulations."""
        asked = study.privacy.model_dump(
            include={"min_hospitals", "min_rows", "min_cell", "round_to", "plan", "seal"}
        )
        return cls(**asked, leave=leave, max_queries=None, max_queries_month=None, max_share=1.0)

    def floor(self, key: Literal["min_hospitals", "min_rows", "min_cell"], study: Study) -> int:
        """Return the stricter of what this policy and the study ask for."""
        return int(max(getattr(self, key), getattr(study.privacy, key)))

    def check(self, study: Study) -> None:
        """Raise Refused, naming the key, where a study protects less or asks for more than this allows."""
        for refusal in self.refusals(study):
            raise Refused("policy", refusal)

    def refusals(self, study: Study) -> list[str]:
        """Return all that this policy has against a study, each with its key."""
        found = []
        for key in ("min_hospitals", "min_rows", "min_cell"):
            asked, floor = getattr(study.privacy, key), getattr(self, key)
            if asked < floor:
                found.append(
                    f"the study's `privacy.{key}` is {asked}, this hospital's policy asks for {floor}"
                )
        if study.privacy.round_to % self.round_to:
            found.append(
                f"the study's `privacy.round_to` is {study.privacy.round_to}, this hospital's policy asks "
                f"for a multiple of {self.round_to}"
            )
        for key, strict, why in (
            ("plan", "verified", "hospitals could not check what they are asked"),
            ("seal", "sums", "numbers of this hospital alone would leave it"),
        ):
            asked, allowed = getattr(study.privacy, key), getattr(self, key)
            if asked != strict and allowed == strict:
                found.append(
                    f"the study's `privacy.{key}` is `{asked}`: {why}; this hospital's policy refuses that "
                    f'(allow it with {key} = "{asked}")'
                )
        if self.differential_privacy == "required" and study.privacy.differential_privacy is None:
            found.append(
                "the study has no `privacy.differential_privacy`, which this hospital's policy requires "
                "(`differential_privacy`)"
            )
        for key, names in (
            ("analyses", [spec.kind for spec in study.analyses]),
            ("variables", list(study.variables)),
        ):
            allowed = getattr(self, key)
            refused = [] if allowed is None else list(dict.fromkeys(n for n in names if n not in allowed))
            if refused:
                found.append(f"this hospital's policy does not allow {listed(refused)} (`{key}`)")
        return found

    def check_coordinator(self, name: str) -> None:
        """Raise Refused unless this coordinator may ask."""
        if self.coordinators is not None and name not in self.coordinators:
            raise Refused("policy", f"this hospital's policy takes no studies from `{name}` (`coordinators`)")

    def check_queries(self, store: NodeStore, study: bytes) -> None:
        """Raise Refused where a study, or all in this month, have been answered as often as they may be."""
        if self.max_queries is None and self.max_queries_month is None:
            return
        of_study, this_month = ledger.queries(store, study, time.time())
        for key, answered, most, of in (
            ("max_queries", of_study, self.max_queries, "of this study"),
            ("max_queries_month", this_month, self.max_queries_month, "in this month"),
        ):
            if most is not None and answered >= most:
                raise Refused(
                    key,
                    f"{answered} queries were answered {of}; this hospital's policy allows {most} (`{key}`)",
                )

    def check_share(self, own: int, total: int) -> None:
        """Raise Refused where this hospital's rows are nearly all of an analysis's."""
        if own > self.max_share * total:
            raise Refused(
                "max_share",
                f"this hospital has more than {self.max_share:.0%} of the rows, so the sum is nearly its "
                "own; its policy refuses that (`max_share`)",
            )


def read_policy(path: Path) -> Policy:
    """Read policy.toml. WardroundError names the file and key at fault."""
    policy = read_toml(path, Policy, "deploy/samples/policy.toml")
    standing = () if policy.standing is None else policy.standing.analyses
    for key, kinds in (("analyses", policy.analyses or ()), ("standing.analyses", standing)):
        unknown = [kind for kind in kinds if kind not in KINDS]
        if unknown:
            raise WardroundError(
                f"{path}: {key}: {listed(unknown)} is no analysis; there are {listed(KINDS)}"
            )
    return policy
