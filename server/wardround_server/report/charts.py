"""The curves of a model that tells who has the outcome: ROC, precision-recall, calibration, decision.

Held-out rows are a solid blue line with circles, training rows a dashed vermillion one with squares, so
that a grey print and a colour-blind reader tell them apart too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from wardround_server.report.drawing import BLUE, GREEN, GREY, INK, VERMILLION, WIDTH, Sheet, Sheets
from wardround_server.report.forms import fixed, is_number, percent
from wardround_server.report.parts import Picture

HEIGHT = 312
Z95 = 1.959963984540054
_LOOK: dict[str, dict[str, Any]] = {
    "test": {"color": BLUE, "linestyle": "-", "marker": "o"},
    "train": {"color": VERMILLION, "linestyle": "--", "marker": "s", "markerfacecolor": "white"},
}
NAMES = {"test": "Held-out rows", "train": "Training rows"}
Parts = Mapping[str, Mapping[str, Any]]  # a model's metrics by part of the rows


@dataclass(frozen=True)
class _Curves:
    threshold: np.ndarray[Any, np.dtype[np.float64]]
    tpr: np.ndarray[Any, np.dtype[np.float64]]
    fpr: np.ndarray[Any, np.dtype[np.float64]]
    precision: np.ndarray[Any, np.dtype[np.float64]]
    net_benefit: np.ndarray[Any, np.dtype[np.float64]]


def _curves(found: Mapping[str, Any]) -> _Curves | None:
    """Return a part's curves if there are some and their lists belong together."""
    given = found.get("curves") or {}
    names = ("threshold", "tpr", "fpr", "precision", "net_benefit")
    lists = [given.get(name) or [] for name in names]
    if len({len(one) for one in lists}) != 1:
        return None
    arrays = [np.array([x if is_number(x) else np.nan for x in one], float) for one in lists]
    return _Curves(*arrays) if np.isfinite(arrays[1] + arrays[2]).any() else None


def _groups(found: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Return a part's calibration groups that have all figures."""
    keys = ("n", "predicted", "observed")
    return [one for one in found.get("calibration") or () if all(is_number(one.get(key)) for key in keys)]


def of_parts(sheets: Sheets, metrics: Parts, outcome: str) -> list[Picture]:
    """Return the pictures that these metrics have the figures for. ``outcome``: what is predicted."""
    parts = {part: metrics[part] for part in ("test", "train") if part in metrics}
    curves = {part: found for part, one in parts.items() if (found := _curves(one)) is not None}
    pictures = []
    if curves:
        pictures += [_roc(sheets, curves, parts), _precision_recall(sheets, curves, parts)]
    if any(_groups(one) for one in parts.values()):
        pictures.append(_calibration(sheets, parts, outcome))
    if curves and (decision := _decision(sheets, curves, parts)) is not None:
        pictures.append(decision)
    return pictures


def _square(sheets: Sheets, across: str, up: str) -> tuple[Sheet, Axes]:
    sheet, axes = _framed(sheets, across, up, (0.0, 1.0))
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    return sheet, axes


def _framed(sheets: Sheets, across: str, up: str, y: tuple[float, float]) -> tuple[Sheet, Axes]:
    """Return axes over risks or shares; what goes ``up`` stands above them, where it can be read upright."""
    sheet = sheets.new(HEIGHT)
    axes = sheet.axes(46, 26, 22, 40)
    axes.set(xlim=(0, 1), ylim=y, xlabel=across)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    sheet.figure.text(4 / WIDTH, 1 - 12 / HEIGHT, up, ha="left", va="baseline")
    return sheet, axes


def _line(axes: Axes, part: str, x: Any, y: Any, label: str) -> None:
    every = max(1, len(x) // 8)
    axes.plot(x, y, label=label, markevery=(every // 2, every), clip_on=False, **_LOOK[part])


def _score(name: str, value: Any) -> str:
    return f" (AUC {fixed(value)})" if name == "auc" and is_number(value) else ""


def _roc(sheets: Sheets, curves: Mapping[str, _Curves], parts: Parts) -> Picture:
    sheet, axes = _square(sheets, "False alarms among those without it", "Found among those with it")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="Tossing a coin")
    says = []
    for part, found in curves.items():
        label = NAMES[part] + _score("auc", parts[part].get("auc"))
        _line(axes, part, [0.0, *found.fpr, 1.0], [0.0, *found.tpr, 1.0], label)
        says.append(label)
    axes.legend(loc="lower right")
    text = (
        "Each point is a cut-off of the predicted risk: how many of those with the outcome it finds, and how "
        "many of those without it it also calls. The nearer to the upper left corner, the better. Either is "
        "counted in steps that describe no small group, and drawn straight between them; the AUC is of all "
        "rows, so it can differ a little from the area that is drawn."
    )
    return Picture(sheet.svg(f"ROC curve. {'; '.join(says)}."), "ROC curve", text)


def _precision_recall(sheets: Sheets, curves: Mapping[str, _Curves], parts: Parts) -> Picture:
    sheet, axes = _square(sheets, "Found among those with it (recall)", "Correct among those called")
    says = []
    for part, found in curves.items():
        prevalence = parts[part].get("prevalence")
        ends = [[1.0], [prevalence]] if is_number(prevalence) else [[], []]
        _line(axes, part, [*found.tpr, *ends[0]], [*found.precision, *ends[1]], NAMES[part])
        if is_number(prevalence):
            axes.plot([0, 1], [prevalence] * 2, color=_LOOK[part]["color"], linewidth=1, linestyle=":")
            says.append(f"{NAMES[part].lower()}: {percent(prevalence)} have the outcome")
    axes.legend(loc="lower left")
    text = (
        "Of those whom the model calls, how many do have the outcome (precision), against how many of those "
        "with it are found (recall)."
    )
    if says:
        text += " Dotted: what calling everyone would reach, which is the share that has the outcome."
    alt = f"Precision-recall curve. {'; '.join(says)}".rstrip() + "."
    return Picture(sheet.svg(alt.replace("..", ".")), "Precision and recall", text)


def _calibration(sheets: Sheets, parts: Parts, outcome: str) -> Picture:
    sheet, axes = _square(sheets, "Predicted risk", "Observed share with the outcome")
    axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle=":", label="Perfect")
    says = []
    for part, found in parts.items():
        groups = _groups(found)
        if not groups:
            continue
        x = np.array([one["predicted"] for one in groups])
        y = np.array([one["observed"] for one in groups])
        low, high = np.array([wilson(one["observed"], one["n"]) for one in groups]).T
        axes.vlines(x, low, high, color=_LOOK[part]["color"], linewidth=1)
        axes.plot(x, y, label=NAMES[part], clip_on=False, **_LOOK[part])
        told = ", ".join(f"{percent(a)} against {percent(b)}" for a, b in zip(x, y, strict=True))
        says.append(f"{NAMES[part]}, predicted against observed: {told}")
    axes.legend(loc="upper left")
    text = (
        f"Rows grouped by predicted risk: how many of a group had {outcome}, against how many the model "
        "expected. On the dotted line, what it says comes true; above it, risks are understated. Upright "
        "lines are 95 % intervals (Wilson's) of the observed share."
    )
    return Picture(sheet.svg(f"Calibration. {'. '.join(says)}."), "Calibration", text)


def wilson(share: float, n: float) -> tuple[float, float]:
    """Return Wilson's 95 % interval of a share of ``n`` rows (Wilson 1927)."""
    z2 = Z95 * Z95
    centre = (share + z2 / (2 * n)) / (1 + z2 / n)
    half = Z95 / (1 + z2 / n) * math.sqrt(max(share * (1 - share) / n + z2 / (4 * n * n), 0.0))
    return max(centre - half, 0.0), min(centre + half, 1.0)


def _decision(sheets: Sheets, curves: Mapping[str, _Curves], parts: Parts) -> Picture | None:
    part = next(iter(curves))
    found, prevalence = curves[part], parts[part].get("prevalence")
    inside = (found.threshold > 0) & (found.threshold < 1) & np.isfinite(found.net_benefit)
    t, benefit = found.threshold[inside][::-1], found.net_benefit[inside][::-1]
    if len(t) < 2:
        return None
    most = max(float(benefit.max()), prevalence if is_number(prevalence) else 0.0, 0.02) * 1.12
    least = -most / 4
    sheet, axes = _framed(sheets, "Risk from which one would act", "Net benefit", (least, most))
    axes.axhline(0, color=INK, linewidth=1.2, linestyle=":", label="Treat nobody")
    if is_number(prevalence):
        every = _treat_all(float(prevalence), least)
        axes.plot(*every, color=GREEN, linestyle="-.", label="Treat everybody")
    x, y = _above(t, benefit, least)
    _line(axes, part, x, y, "By the model")
    axes.legend(loc="upper right")
    text = (
        f"Decision curve on {NAMES[part].lower()}: correct calls, less the false alarms weighed by the risk "
        "from which one would act, per patient. Where the model's line is highest, deciding by it does more "
        "good than treating everybody or nobody. Drawn over the risks for which figures may be shown."
    )
    best = int(np.argmax(y))
    alt = f"Decision curve: the model's net benefit is highest, {fixed(y[best])}, at {percent(x[best])}."
    return Picture(sheet.svg(alt), "Decision curve", text)


def _treat_all(prevalence: float, least: float) -> tuple[Any, Any]:
    t = np.linspace(0.0, 0.99, 100)
    return _above(t, prevalence - (1 - prevalence) * t / (1 - t), least)


def _above(x: Any, y: Any, least: float) -> tuple[Any, Any]:
    """Return a line's part down to ``least``, cut where it crosses, so that nothing is drawn outside."""
    points: list[tuple[float, float]] = []
    pairs: Sequence[tuple[float, float]] = [(float(a), float(b)) for a, b in zip(x, y, strict=True)]
    for i, (a, b) in enumerate(pairs):
        before = pairs[i - 1] if i else None
        if before is not None and (before[1] >= least) != (b >= least):
            share = (least - before[1]) / (b - before[1])
            points.append((before[0] + share * (a - before[0]), least))
        elif before is not None and b < least:
            points.append((a, math.nan))
        if b >= least:
            points.append((a, b))
    if not points:
        return np.array([x[0]]), np.array([math.nan])
    xs, ys = zip(*points, strict=True)
    return np.array(xs), np.array(ys)
