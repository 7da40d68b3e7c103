"""What a page is made of: tables and pictures, ready for the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from markupsafe import Markup

Found = Mapping[str, Any]  # an analysis, or a part of one, as results.json holds it


@dataclass(frozen=True)
class Cell:
    """A table's cell; ``note`` is a smaller line beneath, ``absent`` says that no figure stands there."""

    text: str
    note: str = ""
    absent: bool = False


@dataclass(frozen=True)
class Row:
    """A ``group`` heads the ``sub`` rows that follow."""

    cells: tuple[Cell, ...]
    kind: Literal["plain", "group", "sub"] = "plain"

    @property
    def span(self) -> int:
        """Over how many columns a group's name reaches: those that are empty beside it."""
        filled = (i for i, cell in enumerate(self.cells) if i and cell.text)
        return next(filled, len(self.cells)) if self.kind == "group" else 1


@dataclass(frozen=True)
class Table:
    """Its first column names the row. ``folded``: closed until the reader opens it."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()
    folded: bool = False


@dataclass(frozen=True)
class Picture:
    """A chart with what it shows and how to read it."""

    svg: Markup
    title: str
    text: str


@dataclass(frozen=True)
class Fact:
    """A line of a list of facts."""

    name: str
    value: str


@dataclass(frozen=True)
class Block:
    """A part of the page under a heading of its own."""

    title: str
    text: tuple[str, ...] = ()
    facts: tuple[Fact, ...] = ()
    pictures: tuple[Picture, ...] = ()
    tables: tuple[Table, ...] = ()


def row(
    *cells: str | Cell, kind: Literal["plain", "group", "sub"] = "plain", absent: Sequence[str] = ()
) -> Row:
    """Return a row of texts; those that are one of ``absent`` are marked as no figures."""
    made = (one if isinstance(one, Cell) else Cell(one, absent=one in absent) for one in cells)
    return Row(tuple(made), kind)
