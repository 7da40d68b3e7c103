"""The same figure by where it comes from: learned together, pooled or alone; and by single hospitals."""

from __future__ import annotations

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
    """Return the figures of those hospitals whose policy allows a statement.

    ``found`` holds them by model, and then by hospital.
    """
    found = {name: one for name, one in (found or {}).items() if one}
    if not found:
        return []
    text = (
        "These hospitals' policies allow a statement of how a model of this study does on their own held-out "
        "rows, rounded. Hospitals that don't allow it, or have too few rows, are not listed."
    )
    return [Block("", (text,)), *(_stated(sheets, names.analysis(m), one) for m, one in found.items())]


def _stated(sheets: Sheets, title: str, found: Found) -> Block:
    told = [(foreign(name), fixed(one["auc"], 2), one) for name, one in found.items()]
    table = Table(
        "Statements of single hospitals",
        ("Hospital", "AUC", "Rows"),
        tuple(row(name, auc, count(one["rows"])) for name, auc, one in told),
    )
    lines = [Line(name, auc, one["auc"], look="other") for name, auc, one in told]
    says = "AUC by hospital. " + "; ".join(f"{one.name}: {one.figures}" for one in lines)
    picture = Picture(dots(sheets, lines, "AUC", says), "AUC by hospital", "The axis does not begin at 0.")
    return Block(title, pictures=(picture,), tables=(table,))
