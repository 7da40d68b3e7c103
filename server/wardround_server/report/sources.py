"""The same figure by where it comes from: learned together, pooled or alone; and by single hospitals."""

from __future__ import annotations

from collections.abc import Mapping

from wardround_server.report.drawing import Sheets
from wardround_server.report.forms import count, fixed, foreign, is_number, significant
from wardround_server.report.lines import Line, dots
from wardround_server.report.names import Names
from wardround_server.report.parts import Block, Found, Picture, Row, Table, row

_LOOKS = (("federated", "first"), ("pooled", "second"))


def compared(sheets: Sheets, found: Found | None) -> Block | None:
    """Return a simulation's comparison: federated, pooled, and every hospital alone, on the same rows."""
    scores = (found or {}).get("scores") or {}
    if not found or not scores:
        return None
    lines: list[Line] = []
    rows: list[Row] = []
    for name, one in scores.items():
        look = next((look for word, look in _LOOKS if name.startswith(word)), "third")
        auc = fixed(one.get("auc"), missing="no fit")
        value = one["auc"] if is_number(one.get("auc")) else None
        lines.append(Line(foreign(name), auc, value, look=look))
        rows.append(
            row(
                foreign(name),
                count(one.get("rows")),
                auc,
                fixed(one.get("accuracy"), missing=""),
                absent=("no fit",),
            )
        )
    text = (
        "AUC of models learned from different rows, all on the same "
        f"{count(found.get('test_rows'))} rows of all hospitals. Circles: federated; diamonds: one "
        "table with all rows; triangles: one hospital alone. The dashed line is the first row's AUC; the "
        "axis does not begin at 0."
    )
    says = "AUC by source. " + "; ".join(f"{line.name}: {line.figures}" for line in lines)
    picture = Picture(dots(sheets, lines, "AUC", says), "AUC by source of the training rows", text)
    told = []
    if is_number(found.get("furthest_coefficient")):
        told.append(
            "Federated and pooled coefficients differ by "
            f"{significant(found['furthest_coefficient'], 2)} at most."
        )
    if any(line.value is None for line in lines):
        told.append("no fit: the training rows there admit none, as where all have the same outcome.")
    head = ("Learned from", "Training rows", "AUC", "Accuracy")
    return Block(
        "", pictures=(picture,), tables=(Table("The same in figures", head, tuple(rows), tuple(told)),)
    )


def spread_over(sheets: Sheets, names: Names, found: Found | None) -> list[Block]:
    """Return the figures of those hospitals whose policy allows a statement, by model.

    ``found`` holds them by hospital, or by model and then by hospital.
    """
    found = {name: one for name, one in (found or {}).items() if one}
    if not found:
        return []
    nested = all(isinstance(figures, Mapping) for one in found.values() for figures in one.values())
    text = (
        "These hospitals' policies allow a statement of how a model of this study does on their own held-out "
        "rows, rounded. Hospitals that don't allow it, or have too few rows, are not listed."
    )
    blocks = [
        _stated(sheets, names.analysis(label) if label else "", one)
        for label, one in (found.items() if nested else [("", found)])
    ]
    return [Block("", (text,)), *blocks]


def _stated(sheets: Sheets, title: str, found: Found) -> Block:
    keys = list(dict.fromkeys(key for one in found.values() for key in one))
    heads = {"auc": "AUC", "rows": "Rows", "brier": "Brier score"}
    rows = tuple(
        row(
            foreign(name),
            *(count(one.get(key), "") if key == "rows" else fixed(one.get(key), 2, "") for key in keys),
        )
        for name, one in found.items()
    )
    head = ("Hospital", *(heads.get(key, foreign(key.replace("_", " "))) for key in keys))
    known = [(name, one["auc"]) for name, one in found.items() if is_number(one.get("auc"))]
    pictures: tuple[Picture, ...] = ()
    if known:
        lines = [Line(foreign(name), fixed(auc, 2), auc, look="other") for name, auc in known]
        says = "AUC by hospital. " + "; ".join(f"{one.name}: {one.figures}" for one in lines)
        reading = "The axis does not begin at 0."
        pictures = (Picture(dots(sheets, lines, "AUC", says), "AUC by hospital", reading),)
    return Block(title, pictures=pictures, tables=(Table("Statements of single hospitals", head, rows),))
