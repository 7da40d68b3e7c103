"""The dictionary: what every hospital supplies, in which units, within which public bounds.

Ranges and levels are constants that the study declares, so they may shape a query's layout; nothing
about a hospital's own values does. A variable's range bounds its row contribution and with it the
precision of every sum, so it should be as narrow as medicine allows.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

RESERVED_LEVEL = "missing"  # the name of the indicator term, `cp=missing`
MOST_LEVELS = 1_000


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def _text(value: Any) -> str:
    """Accept what YAML makes of an unquoted code: `1` is meant as "1"; a bool never was."""
    if isinstance(value, bool):
        raise ValueError('YAML read true or false here; put the code in quotes, as "true"')
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, (int, float, str)):
        return str(value).strip()
    raise ValueError("expected a text or a number")


class NumberVariable(_Strict):
    """A measured quantity. ``range`` is inclusive, in ``unit``; ``missing`` are codes that mean missing."""

    kind: Literal["number"]
    unit: str | None = None
    range: tuple[float, float]
    missing: tuple[float | str, ...] = ()
    column: str | None = None
    label: str | None = None

    @field_validator("range")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            raise ValueError("the lower bound must be below the upper bound")
        if not math.isfinite(value[1] - value[0]) or max(map(abs, value)) > 1e12:
            raise ValueError("bounds must lie within -1e12 and 1e12")
        return value

    @field_validator("missing", mode="before")
    @classmethod
    def _codes(cls, value: Any) -> Any:
        codes = value if isinstance(value, (list, tuple)) else [value]
        for code in codes:
            _text(code)
        return tuple(codes)

    @property
    def span(self) -> float:
        """Width of the range, in the variable's unit."""
        return self.range[1] - self.range[0]

    def at(self, share: float) -> float:
        """Return the value at a share of the range, within it whatever rounding does."""
        low, high = self.range
        return min(max(low + self.span * share, low), high)


class CategoryVariable(_Strict):
    """A coded attribute. ``levels`` are in order, the first is the reference of a regression.

    ``levels`` may also be a mapping from level to the codes that are read as it, as in
    ``{"0": ["0"], "1": ["1", "2", "3", "4"]}``.
    """

    kind: Literal["category"]
    levels: tuple[str, ...]
    codes: tuple[tuple[str, ...], ...] = ()
    missing: tuple[str, ...] = ()
    column: str | None = None
    label: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _mapped_levels(cls, data: Any) -> Any:
        if not isinstance(data, dict) or "levels" not in data:
            return data
        data = dict(data)
        levels, missing = data["levels"], data.get("missing", ())
        if isinstance(levels, Mapping):
            data["codes"] = [
                [_text(code) for code in (codes if isinstance(codes, (list, tuple)) else [codes])]
                for codes in levels.values()
            ]
            data["levels"] = [_text(level) for level in levels]
        elif isinstance(levels, (list, tuple)):
            data["levels"] = [_text(level) for level in levels]
            data.setdefault("codes", [[level] for level in data["levels"]])
        data["missing"] = [_text(c) for c in (missing if isinstance(missing, (list, tuple)) else [missing])]
        return data

    @model_validator(mode="after")
    def _distinct(self) -> CategoryVariable:
        codes = [code for group in self.codes for code in group]
        if not 2 <= len(self.levels) <= MOST_LEVELS:
            raise ValueError(f"levels: a category needs 2 to {MOST_LEVELS} levels")
        if len(self.codes) != len(self.levels):
            raise ValueError("levels: each level needs its codes")
        for name, found in (("levels", self.levels), ("levels", codes)):
            if len(set(found)) != len(found):
                raise ValueError(f"{name}: a level or code stands there twice")
        if RESERVED_LEVEL in self.levels or "" in codes:
            raise ValueError(f"levels: `{RESERVED_LEVEL}` and the empty text are reserved")
        if set(codes) & set(self.missing):
            raise ValueError("missing: a code cannot be a level and mean missing as well")
        return self


Variable = Annotated[NumberVariable | CategoryVariable, Field(discriminator="kind")]


class Dictionary(Mapping[str, NumberVariable | CategoryVariable]):
    """The study's variables by name, in the order of the study file."""

    def __init__(self, variables: Mapping[str, NumberVariable | CategoryVariable]) -> None:
        self._variables = dict(variables)

    def __getitem__(self, name: str) -> NumberVariable | CategoryVariable:
        return self._variables[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._variables)

    def __len__(self) -> int:
        return len(self._variables)

    def number(self, name: str) -> NumberVariable:
        """Return the number variable ``name``; KeyError or TypeError if there is none."""
        variable = self._variables[name]
        if not isinstance(variable, NumberVariable):
            raise TypeError(f"`{name}` is a category")
        return variable

    def category(self, name: str) -> CategoryVariable:
        """Return the category variable ``name``; KeyError or TypeError if there is none."""
        variable = self._variables[name]
        if not isinstance(variable, CategoryVariable):
            raise TypeError(f"`{name}` is a number")
        return variable


def check_name(name: str) -> str:
    """Return a name if it can stand in terms such as ``cp=2`` and ``age:chol``; else ValueError."""
    printable = all(not unicodedata.category(c).startswith("C") for c in name)
    if not name or len(name) > 64 or name != name.strip() or not printable or set(name) & set(":=\"`'"):
        raise ValueError(
            f"`{name[:64]}` is no variable name: 1 to 64 printable characters, no quotes, `:` or `=`"
        )
    if name == "intercept":
        raise ValueError("`intercept` is reserved for the model's constant")
    return name
