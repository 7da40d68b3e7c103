"""Charts with a line for each row: coefficients with intervals, importances, and figures by source.

A row's name stands above what is drawn for it, so that long names stay whole on a narrow screen.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullFormatter, NullLocator

from wardround_server.report.drawing import BLUE, GREEN, GREY, INK, VERMILLION, WIDTH, Sheet, Sheets
from wardround_server.report.forms import significant, width, wrapped

COLUMNS = 51.0  # mean letters in a line of a row's name
_LINE, _DRAWN, _GAP, _FOOT = 13.0, 15.0, 7.0, 40.0
_LETTER = 6.4  # the widest usual mean width of a letter
_MARKERS: dict[str, dict[str, Any]] = {
    "first": {"marker": "o", "color": BLUE},
    "second": {"marker": "D", "color": VERMILLION, "markerfacecolor": "white", "markeredgewidth": 1.6},
    "third": {"marker": "^", "color": GREEN},
    "other": {"marker": "s", "color": GREY, "markersize": 5},
}


@dataclass(frozen=True)
class Line:
    """A row of such a chart; what is None is not drawn."""

    name: str
    figures: str
    value: float | None
    low: float | None = None
    high: float | None = None
    look: str = "first"


class _Rows:
    """Lays rows out from the top; positions are CSS pixels from the top of the axes."""

    def __init__(self, sheets: Sheets, lines: Sequence[Line]) -> None:
        names = [wrapped(line.name, COLUMNS) for line in lines]
        heights = [len(name) * _LINE + _DRAWN + _GAP for name in names]
        self.sheet: Sheet = sheets.new(sum(heights) + _FOOT + 4)
        right = min(max(width(line.figures) for line in lines) * _LETTER + 14, WIDTH * 0.55)
        self.axes: Axes = self.sheet.axes(10, 2, right, _FOOT)
        self.axes.set_ylim(sum(heights), 0)
        self.axes.yaxis.set_major_locator(NullLocator())
        self.axes.spines["left"].set_visible(False)
        self.axes.tick_params(axis="x", length=3)
        self.at: list[float] = []
        top = 0.0
        for line, name, height in zip(lines, names, heights, strict=True):
            for i, text in enumerate(name):
                self._say(10, top + 11 + i * _LINE, text, "left")
            self.at.append(top + len(name) * _LINE + _DRAWN / 2 + 1)
            self._say(WIDTH - 4, self.at[-1] + 4, line.figures, "right")
            top += height

    def _say(self, x: float, y: float, text: str, side: Any) -> None:
        self.sheet.figure.text(
            x / WIDTH,
            1 - (y + 2) / self.sheet.height,
            self.sheet.mark(text),
            ha=side,
            va="baseline",
        )


def _ratio_ticks(low: float, high: float) -> list[float]:
    every = [a * 10.0**k for k in range(-12, 13) for a in (1, 2, 5)]
    shown = [one for one in every if low <= one <= high]
    if len(shown) > 7:
        shown = [10.0**k for k in range(-12, 13) if low <= 10.0**k <= high]
    return shown[:: max(1, math.ceil(len(shown) / 7))]


def _bounds(lines: Sequence[Line], ratio: bool, none: float) -> tuple[float, float]:
    """Return the axis: all estimates and ``none``; intervals as far as thrice the estimates' reach.

    One badly determined coefficient should not press all others into a line.
    """

    def put(value: float) -> float:
        return math.log(value) if ratio else value

    centre = put(none)
    known = [put(line.value) - centre for line in lines if line.value is not None]
    ends = [
        put(end) - centre for line in lines for end in (line.low, line.high) if end is not None and end > 0
    ]
    if not ratio:
        ends = [end - centre for line in lines for end in (line.low, line.high) if end is not None]
    reach = max([abs(one) for one in known] or [1.0]) or 1.0
    most = max(1.6 * reach, math.log(4) if ratio else 0.0)
    low = max(min([*ends, *known, 0.0]), -most)
    high = min(max([*ends, *known, 0.0]), most)
    edge = 0.05 * (high - low or 1.0)
    return (
        (math.exp(centre + low - edge), math.exp(centre + high + edge))
        if ratio
        else (centre + low - edge, centre + high + edge)
    )


def forest(sheets: Sheets, lines: Sequence[Line], axis: str, says: str, ratio: bool = True) -> Markup:
    """Return a forest plot; ratios on a log scale about 1, differences about 0."""
    rows, none = _Rows(sheets, lines), 1.0 if ratio else 0.0
    axes = rows.axes
    low, high = _bounds(lines, ratio, none)
    if ratio:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(FixedLocator(_ratio_ticks(low, high)))
        axes.xaxis.set_minor_locator(NullLocator())
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))
    else:
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: significant(x)))
    axes.set_xlim(low, high)
    axes.set_xlabel(axis)
    axes.axvline(none, color=INK, linewidth=1)
    for line, at in zip(lines, rows.at, strict=True):
        if line.value is None:
            continue
        if line.low is not None and line.high is not None:
            left, right = max(line.low, low), min(line.high, high)
            axes.plot([left, right], [at, at], color=BLUE, linewidth=1.6, solid_capstyle="butt")
            for end, beyond, arrow in ((left, line.low < low, "<"), (right, line.high > high, ">")):
                axes.plot([end], [at], arrow if beyond else "|", color=BLUE, markersize=6, clip_on=False)
        axes.plot([line.value], [at], "s", color=BLUE, markersize=6)
    return rows.sheet.svg(says)


def bars(sheets: Sheets, lines: Sequence[Line], axis: str, says: str) -> Markup:
    """Return bars from zero; ``low`` and ``high`` are a bar's spread."""
    rows = _Rows(sheets, lines)
    ends = [x for line in lines for x in (line.value, line.low, line.high) if x is not None]
    low, high = min([*ends, 0.0]), max([*ends, 0.0])
    edge = 0.04 * (high - low or 1.0)
    rows.axes.set_xlim(low - (edge if low < 0 else 0), high + edge)
    rows.axes.xaxis.set_major_locator(MaxNLocator(4))
    rows.axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: significant(x, 2)))
    rows.axes.set_xlabel(axis)
    rows.axes.axvline(0, color=INK, linewidth=1)
    for line, at in zip(lines, rows.at, strict=True):
        if line.value is not None:
            rows.axes.barh([at], [line.value], height=8, color=BLUE, alpha=0.75)
        if line.low is not None and line.high is not None:
            rows.axes.plot([line.low, line.high], [at, at], "|-", color=INK, linewidth=1.4, markersize=7)
    return rows.sheet.svg(says)


def dots(sheets: Sheets, lines: Sequence[Line], axis: str, says: str) -> Markup:
    """Return a dot plot whose axis runs over what is there, not from zero; a line marks a ``first``."""
    rows = _Rows(sheets, lines)
    known = [line.value for line in lines if line.value is not None]
    low, high = min(known, default=0.0), max(known, default=1.0)
    edge = max(0.08 * (high - low), 0.01)
    rows.axes.set_xlim(low - edge, high + edge)
    rows.axes.xaxis.set_major_locator(MaxNLocator(4))
    rows.axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: significant(x)))
    rows.axes.set_xlabel(axis)
    if lines and lines[0].value is not None and lines[0].look == "first":
        rows.axes.axvline(lines[0].value, color=BLUE, linewidth=1, linestyle="--")
    for line, at in zip(lines, rows.at, strict=True):
        rows.axes.plot([low - edge, high + edge], [at, at], color=GREY, linewidth=0.5, linestyle=":")
        if line.value is not None:
            rows.axes.plot([line.value], [at], linestyle="none", **_styled(line.look))
    return rows.sheet.svg(says)


def _styled(look: str) -> dict[str, Any]:
    return {"markersize": 7, **_MARKERS[look]}
