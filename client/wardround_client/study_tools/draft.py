"""Drafts a study file from example tables: variables, bounds and codes, with a comment on every guess.

The draft parses and runs as it stands, over the tables that it was made from. What may go into it is
decided in `decide.py`; here it is put into words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass

import yaml

from wardround_client.study_tools.columns import Column, Seen, columns_of, of_kind
from wardround_client.study_tools.decide import Drafted, Fold, LeftOut
from wardround_common.dictionary import CategoryVariable, NumberVariable
from wardround_common.errors import StudyError, did_you_mean, listed
from wardround_common.study import Privacy

_PLAIN = re.compile(r"(?!(?:null|true|false)$)[A-Za-z_][A-Za-z0-9_]*", re.IGNORECASE)
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,62}")
_SPLIT_FROM = 100  # rows; in fewer, a share held out says little
_FLOORS = ("min_hospitals", "min_rows", "min_cell")
_OUTCOME = re.compile(  # what a column is often called that a study asks about
    r"(?<![a-z])(?:outcome|target|label|class|disease|diagnosis|dead|died|death|mortality|event|relapse"
    r"|readmitted|readmission)(?![a-z])",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class Draft:
    """A study file's text, and what it is about, for whoever has to say so."""

    text: str
    variables: tuple[str, ...]
    left_out: tuple[str, ...]
    outcome: str | None


def draft(seen: Seen, name: str, outcome: str | None = None) -> Draft:
    """Write the study file. ``outcome`` names a column or variable; None guesses one.

    StudyError if the name is none, the outcome is no variable, or no column can be one.
    """
    if not _NAME.fullmatch(name):
        raise StudyError(f"--name {name}: use lower-case letters, digits and hyphens, as in stroke-risk")
    columns = columns_of(seen)
    drafted = of_kind(columns, Drafted)
    if not drafted:
        why = "; ".join(f"`{one.column}` {left.why}" for one, left in of_kind(columns, LeftOut)[:3])
        raise StudyError(f"no column can be a variable of a study: {_one_line(why) or 'none has a name'}")
    variables = [one for one, _ in drafted]
    needed = min(Privacy().min_hospitals, len(seen.files))
    target = _named(columns, outcome) if outcome is not None else _guess(variables, needed)
    lines = [
        f"# Drafted by `wardround study draft` from {_one_line(', '.join(seen.files))}.",
        "# Read every line before you send it: names, levels and codes are those of the tables.",
        "# Ids, dates, free text and rare texts were left out, and bounds are rounded.",
        "# Add `unit` and `label`, and make each range as narrow as medicine allows.",
        "wardround: 1",
        f"name: {name}",
        "variables:",
        *(line for one, decision in drafted for line in _variable(one, decision)),
        *_left_out(columns),
        *_model(variables, target, outcome is None, needed),
        *_rows(columns, seen, target),
        f"privacy: {{{', '.join(f'{key}: {getattr(Privacy(), key)}' for key in _FLOORS)}}}",
    ]
    return Draft(
        "\n".join(lines) + "\n",
        tuple(one.name for one in variables),
        tuple(one.column for one in columns if one not in variables),
        None if target is None else target.name,
    )


def _named(columns: list[Column], outcome: str) -> Column:
    one = next((one for one in columns if outcome in (one.column, one.name)), None)
    if one is None:
        near = did_you_mean(outcome, [one.column for one in columns])
        raise StudyError(f"--outcome {outcome}: no file has such a column{near}")
    if isinstance(one.decision, LeftOut):
        raise StudyError(f"--outcome {outcome}: this column was left out: {_one_line(one.decision.why)}")
    if isinstance(one.decision, Fold):
        raise StudyError(f"--outcome {outcome}: this column says which rows are held out; name another")
    return one


def _guess(variables: list[Column], needed: int) -> Column | None:
    """Return the last column of two values that is called like an outcome, else the last of two values."""
    fit = [one for one in variables if one.binary and one.varied and one.observed_at >= needed]
    called_so = [one for one in fit if _OUTCOME.search(one.column)]
    return (called_so or fit)[-1] if fit else None


def _variable(one: Column, decision: Drafted) -> Iterator[str]:
    variable = decision.variable
    for note in (*one.notes, *decision.notes):
        yield f"  # {_one_line(note)}"
    keys: dict[str, str] = {"kind": variable.kind}
    if isinstance(variable, NumberVariable):
        keys["range"] = f"[{', '.join(f'{bound:.15g}' for bound in variable.range)}]"
    elif isinstance(variable, CategoryVariable):
        keys["levels"] = f"[{', '.join(map(_quoted, variable.levels))}]"
    if variable.missing:
        codes = (_quoted(code) if isinstance(code, str) else f"{code:.0f}" for code in variable.missing)
        keys["missing"] = f"[{', '.join(codes)}]"
    if one.name != one.column:
        keys["column"] = _quoted(one.column)
    yield f"  {_key(one.name)}: {{{', '.join(f'{key}: {value}' for key, value in keys.items())}}}"


def _left_out(columns: list[Column]) -> Iterator[str]:
    for one, decision in of_kind(columns, LeftOut):
        yield f"# Left out: {_one_line('; '.join((f'`{one.column}` {decision.why}', *one.notes)))}"


def _model(variables: list[Column], target: Column | None, guessed: bool, needed: int) -> Iterator[str]:
    """Write outcome, predictors and analyses; a predictor must vary, and be there in enough files."""
    if target is None:
        yield "# outcome: NAME  # nothing to guess it from; with one, {kind: logistic, ridge: 1} can be added"
        yield from ("analyses:", "  - {kind: summary}")
        return
    others = [one for one in variables if one is not target]
    predictors = [one for one in others if one.varied and one.observed_at >= needed]
    if guessed:
        yield "# A guess, by its name or its place. Name another, or draft again with --outcome."
    yield f"outcome: {_key(target.name)}"
    left = listed([one.column for one in others if one not in predictors], 12)
    if left:
        yield f"# No predictors, since almost all rows agree or too few files have them: {_one_line(left)}"
    if predictors:
        yield f"predictors: [{', '.join(_key(one.name) for one in predictors)}]"
    yield from ("analyses:", "  - {kind: summary}")
    if not target.binary:
        yield "  # {kind: logistic, ridge: 1} takes an outcome of two levels; a level may gather codes, as in"
        yield '  # levels: {no: ["0"], yes: ["1", "2", "3"]}'
    elif predictors and target.varied and target.observed_at >= needed:
        yield "  - {kind: logistic, ridge: 1}"
    else:
        yield "  # {kind: logistic, ridge: 1} needs an outcome and a predictor that vary, in enough files"


def _rows(columns: list[Column], seen: Seen, target: Column | None) -> Iterator[str]:
    if seen.many:
        yield "rows: many  # an id stands in several rows"
    yield "out_of_range: missing  # | drop | refuse"
    yield "missing: impute  # | drop"
    for one, fold in of_kind(columns, Fold):
        split = f"split: {{column: {_quoted(one.column)}, test: {_quoted(fold.test)}}}"
        yield f"# {_one_line(split)}  # a column that may say which rows to hold out"
    if target is not None and seen.rows >= _SPLIT_FROM:
        yield "split: {test: 0.3, seed: 1}"


def _key(name: str) -> str:
    return name if _PLAIN.fullmatch(name) else _quoted(name)


def _quoted(text: str) -> str:
    """Return a text as YAML, in double quotes."""
    written: str = yaml.safe_dump(text, default_style='"', allow_unicode=True, width=float("inf"))
    return written.strip()


def _one_line(text: str) -> str:
    """Return a text that can stand in a comment: whatever a table's header holds, it ends with the line."""
    words = " ".join(text.split())
    return "".join("?" if unicodedata.category(character)[0] == "C" else character for character in words)
