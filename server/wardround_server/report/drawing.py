"""From a Matplotlib figure to an SVG that can stand in a page of strict rules.

Matplotlib's own file has style attributes, clip paths, a style sheet, namespaces and a font list. Here
styles become presentation attributes, so a Content-Security-Policy need not allow any, text takes the
page's font, and nothing that looks like an address is left. No foreign text goes into Matplotlib, which
would read its dollars as formulas and miss its glyphs: a mark stands for it until the end.
"""

from __future__ import annotations

import io
import itertools
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib as mpl
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

# Okabe and Ito's colours that stand out on white; each goes with a marker and a dash of its own
BLUE, VERMILLION, GREEN, INK, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#1F2933", "#6B7280", "#D9DEE5"
WIDTH = 340  # a phone's column, in CSS pixels: there the letters keep their size
LETTERS = 11.0

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.size": LETTERS,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "axes.unicode_minus": True,
    "grid.color": PALE,
    "grid.linewidth": 0.8,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "xtick.major.size": 3.0,
    "ytick.major.size": 3.0,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 5.5,
}
_LOCK = threading.Lock()
_NO_METADATA: dict[str, Any] = {"Date": None, "Creator": None, "Format": None, "Type": None}
_DROPPED = re.compile(
    r"<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>"
    r"|<clipPath.*?</clipPath>| clip-path=\"[^\"]*\"|<defs>\s*</defs>",
    re.DOTALL,
)
_ROOT = re.compile(r"<svg [^>]*>")
_STYLED = re.compile(r' style="([^"]*)"')
_MARK = re.compile("@([0-9]+)@")


@contextmanager
def drawing() -> Iterator[None]:
    """Draw with our own settings, whatever the machine's; the process gets its own back."""
    with _LOCK, mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update(_STYLE)
        yield


class Sheet:
    """One figure of a page. ``number`` keeps its marks apart from those of the page's other figures."""

    def __init__(self, number: int, height: float) -> None:
        self._number, self.height = number, height
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72, facecolor="none")
        FigureCanvasSVG(self.figure)
        self._texts: list[str] = []

    def axes(self, left: float, top: float, right: float, bottom: float) -> Axes:
        """Return axes within margins, in CSS pixels."""
        wide, high = (WIDTH - left - right) / WIDTH, (self.height - top - bottom) / self.height
        made = self.figure.add_axes((left / WIDTH, bottom / self.height, wide, high))
        made.patch.set_visible(False)
        return made

    def mark(self, text: str) -> str:
        """Return what stands for a text that is not ours."""
        self._texts.append(text)
        return f"@{len(self._texts) - 1}@"

    def svg(self, says: str) -> Markup:
        """Return the figure for a page; ``says`` is what it shows, in words."""
        held = io.StringIO()
        with mpl.rc_context({"svg.hashsalt": str(self._number)}):
            self.figure.savefig(held, format="svg", metadata=_NO_METADATA, facecolor="none")
        text = _DROPPED.sub("", held.getvalue())
        text = re.sub(r' id="(?!m[0-9a-f]{8,}")[^"]*"', "", text.replace("xlink:href", "href"))
        text = re.sub(r"<g>\s*<path d=\"[^\"]*\" style=\"fill: none\"/>\s*</g>", "", text)
        text = re.sub(r"\s*\n\s*", " ", _STYLED.sub(_attributes, text)).replace("> <", "><")
        root = (
            f'<svg class="chart" viewBox="0 0 {WIDTH} {self.height:g}" role="img" stroke-linejoin="round" '
            f'font-size="{LETTERS:g}" fill="{INK}" aria-label="{escape(says)}">'
        )
        text = re.sub(
            r"<text (?=[^>]*>@)", '<text stroke="#fff" stroke-width="3" paint-order="stroke" ', text
        )
        text = _ROOT.sub(lambda found: root, text, count=1)
        return Markup(_MARK.sub(lambda found: escape(self._texts[int(found[1])]), text).strip())  # noqa: S704


def _attributes(found: re.Match[str]) -> str:
    pairs = (one.split(":", 1) for one in found[1].split(";") if ":" in one)
    kept = {name.strip(): value.strip() for name, value in pairs}
    kept.pop("font-family", None)
    return "".join(f' {name}="{value}"' for name, value in kept.items())


class Sheets:
    """Hands out a page's figures."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def new(self, height: float) -> Sheet:
        """Return an empty figure of this height, in CSS pixels."""
        return Sheet(next(self._numbers), height)
