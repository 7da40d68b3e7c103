"""Who is in the cohort: boolean SQL over the dictionary's variables, in an allow-listed subset.

sqlglot parses, and nothing it parsed goes further: each node that is on the list is written anew, in full
parentheses, numbers as DOUBLE literals (DuckDB reads ``0.1`` as a DECIMAL, which rounds otherwise). What
is not on the list is refused by its name. The result means the same to every hospital's DuckDB: it calls
no function, reads no table, and raises no error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, NoReturn

import sqlglot
from sqlglot import TokenType, exp
from sqlglot.errors import SqlglotError

from wardround_common.dictionary import CategoryVariable, Dictionary
from wardround_common.errors import StudyError, did_you_mean, listed

MOST_CHARACTERS = 10_000
MOST_DEPTH = 60


def check_predicate(text: str, dictionary: Dictionary) -> str:
    """Return the normalised DuckDB SQL of a predicate; variables stand in it as quoted identifiers.

    Evaluate it over number variables as DOUBLE and category variables as their level's text, NULL where
    missing, with DuckDB's ``ieee_floating_point_ops`` and ``error_on_division_by_zero`` off, so that a
    division by zero is NULL. Normalising what is normalised changes nothing.

    Raises StudyError in one line, without a path, if the text is no boolean expression of the subset.
    """
    term = _Checker(dictionary).term(_parsed(text))
    if term.kind != "boolean":
        raise StudyError(f"the predicate is a {term.kind}; compare it with something, as in `age >= 18`")
    return term.sql


def variables_of(text: str, dictionary: Dictionary) -> tuple[str, ...]:
    """Return the variables that a predicate reads, in the dictionary's order. StudyError as above."""
    check_predicate(text, dictionary)
    used = {column.name for column in _parsed(text).find_all(exp.Column)}
    return tuple(name for name in dictionary if name in used)


@dataclass(frozen=True)
class _Term:
    """An expression that was checked. ``value`` is a category's variable, or a text's value."""

    kind: Literal["boolean", "number", "category", "text"]
    sql: str
    value: str = ""
    atom: bool = False

    @property
    def inner(self) -> str:
        return self.sql if self.atom else f"({self.sql})"


_COMPARISONS = {exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">="}
_ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
_CONNECTORS = {exp.And: " AND ", exp.Or: " OR "}
_NAMED: tuple[tuple[type[exp.Expr], str], ...] = (
    (exp.Cast, "a cast"),
    (exp.Query, "a subquery"),
    (exp.Exists, "a subquery"),
    (exp.Placeholder, "a parameter"),
    (exp.Parameter, "a parameter"),
    (exp.Star, "`*`"),
    (exp.Block, "a second statement"),
    (exp.Tuple, "a list outside of IN"),
    (exp.Null, "NULL outside of IS NULL"),
    (exp.Case, "CASE"),
    (exp.RegexpLike, "a regular expression"),
    (exp.Mod, "`%`"),
    (exp.DPipe, "`||`"),
    (exp.IntDiv, "`//`"),
    (exp.NullSafeEQ, "IS NOT DISTINCT FROM"),
    (exp.NullSafeNEQ, "IS DISTINCT FROM"),
)


class _Checker:
    """Walks the tree of an expression and rewrites what is allowed."""

    def __init__(self, dictionary: Dictionary) -> None:
        self._dictionary = dictionary
        self._depth = 0
        self._rules: dict[type[exp.Expr], Callable[[Any], _Term]] = {
            exp.Paren: lambda node: self.term(node.this),
            exp.Not: lambda node: _Term("boolean", f"NOT {self._typed(node.this, 'boolean', 'NOT').inner}"),
            exp.Neg: lambda node: _Term("number", f"-{self._typed(node.this, 'number', '-').inner}"),
            exp.Boolean: lambda node: _Term("boolean", "TRUE" if node.this else "FALSE", atom=True),
            exp.Literal: _literal,
            exp.Column: self._column,
            exp.Is: self._is_null,
            exp.In: self._in,
            exp.Between: self._between,
            **dict.fromkeys(_CONNECTORS, self._connected),
            **dict.fromkeys(_ARITHMETIC, self._arithmetic),
            **dict.fromkeys(_COMPARISONS, self._compared),
        }

    def term(self, node: exp.Expr) -> _Term:
        rule = self._rules.get(type(node))
        if rule is None:
            _refuse(node)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise StudyError(_TOO_DEEP)
        term = rule(node)
        self._depth -= 1
        return term

    def _typed(self, node: exp.Expr, kind: str, operator: str) -> _Term:
        term = self.term(node)
        if term.kind != kind:
            raise StudyError(f"`{operator}` takes a {kind}, and {self._name(term)} stands there")
        return term

    def _name(self, term: _Term) -> str:
        if term.kind == "category":
            return f"the category `{term.value}`"
        return f"the text {_quoted(_shown(term.value))}" if term.kind == "text" else f"a {term.kind}"

    def _column(self, node: exp.Column) -> _Term:
        name = node.name
        if {key for key, value in node.args.items() if value} != {"this"} or isinstance(node.this, exp.Star):
            raise StudyError(f"`{_shown(node.sql('duckdb'))}`: write a variable's name alone, without `.`")
        if name not in self._dictionary:
            raise StudyError(f"`{_shown(name)}` is not in `variables`{self._near(name)}")
        twin = [other for other in self._dictionary if other.casefold() == name.casefold()]
        if len(twin) > 1:
            raise StudyError(f"SQL cannot tell {listed(twin)} apart; rename one of the variables")
        sql = '"' + name.replace('"', '""') + '"'
        if isinstance(self._dictionary[name], CategoryVariable):
            return _Term("category", sql, name, atom=True)
        return _Term("number", sql, atom=True)

    def _near(self, name: str) -> str:
        categories = [v for v in self._dictionary.values() if isinstance(v, CategoryVariable)]
        if any(name in variable.levels for variable in categories):
            return f"; a level is written in single quotes: {_quoted(name)}"
        for other in self._dictionary:
            if other.casefold() == name.casefold():
                return f" (did you mean `{other}`?)"
        return did_you_mean(name, self._dictionary)

    def _connected(self, node: exp.Connector) -> _Term:
        word = _CONNECTORS[type(node)]
        parts = [self._typed(part, "boolean", word.strip()).inner for part in _chain(node)]
        return _Term("boolean", word.join(parts))

    def _arithmetic(self, node: exp.Binary) -> _Term:
        sign = _ARITHMETIC[type(node)]
        left, right = (self._typed(side, "number", sign) for side in (node.left, node.right))
        return _Term("number", f"{left.inner} {sign} {right.inner}")

    def _compared(self, node: exp.Binary) -> _Term:
        sign = _COMPARISONS[type(node)]
        left, right = self.term(node.left), self.term(node.right)
        self._comparable(left, right, sign)
        return _Term("boolean", f"{left.inner} {sign} {right.inner}")

    def _comparable(self, left: _Term, right: _Term, sign: str) -> None:
        kinds = {left.kind, right.kind}
        if kinds == {"category", "text"}:
            category, text = (left, right) if left.kind == "category" else (right, left)
            if sign not in ("=", "<>", "IN"):
                raise StudyError(f"`{category.value}` is a category, which has no order; use =, <> or IN")
            levels = self._dictionary.category(category.value).levels
            if text.value not in levels:
                near = did_you_mean(text.value, levels)
                raise StudyError(
                    f"{_quoted(_shown(text.value))} is no level of `{category.value}`{near}; "
                    f"there are {listed(levels)}"
                )
        elif "category" in kinds:
            category, other = (left, right) if left.kind == "category" else (right, left)
            raise StudyError(
                f"`{category.value}` is a category; compare it with a level in single quotes, "
                f"not with {self._name(other)}"
            )
        elif kinds != {"number"}:
            raise StudyError(f"`{sign}` compares {self._name(left)} with {self._name(right)}")

    def _is_null(self, node: exp.Is) -> _Term:
        if not isinstance(node.expression, exp.Null):
            raise StudyError("IS stands only before NULL or NOT NULL")
        term = self.term(node.this)
        if term.kind == "text":
            raise StudyError(f"IS NULL takes a variable, and {self._name(term)} stands there")
        return _Term("boolean", f"{term.inner} IS NULL")

    def _in(self, node: exp.In) -> _Term:
        subject = self.term(node.this)
        parts = []
        for item in node.expressions:
            part = self.term(item)
            if not isinstance(item.this if isinstance(item, exp.Neg) else item, exp.Literal):
                raise StudyError(f"`{_shown(part.sql)}` in the list of IN; it takes numbers and texts only")
            self._comparable(subject, part, "IN")
            parts.append(part.sql)
        if not parts or any(node.args.get(key) for key in ("query", "unnest", "field")):
            raise StudyError("IN takes a list of numbers or texts in parentheses, no subquery")
        return _Term("boolean", f"{subject.inner} IN ({', '.join(parts)})")

    def _between(self, node: exp.Between) -> _Term:
        if node.args.get("symmetric"):
            raise StudyError("BETWEEN SYMMETRIC is not allowed in a predicate")
        terms = [self._typed(node.args[key], "number", "BETWEEN") for key in ("this", "low", "high")]
        return _Term("boolean", "{} BETWEEN {} AND {}".format(*(term.inner for term in terms)))


def _chain(node: exp.Connector) -> Iterator[exp.Expr]:
    """Yield the parts of ``a AND b AND c``, so that a long list is no deep tree."""
    parts: list[exp.Expr] = []
    left: exp.Expr = node
    while type(left) is type(node):
        parts.append(left.args["expression"])
        left = left.args["this"]
    yield left
    yield from reversed(parts)


def _literal(node: exp.Literal) -> _Term:
    if node.is_string:
        return _Term("text", _quoted(node.this), node.this, atom=True)
    try:
        number = float(node.this)
    except ValueError:
        raise StudyError(f"`{_shown(node.this)}` is no number") from None
    if not math.isfinite(number):
        raise StudyError(f"the number `{_shown(node.this)}` is too large")
    digits = repr(number).removesuffix(".0")
    return _Term("number", digits if "e" in digits else f"{digits}e0", atom=True)


def _refuse(node: exp.Expr) -> NoReturn:
    named = next((name for kind, name in _NAMED if isinstance(node, kind)), None)
    if named is None and isinstance(node, exp.Func) and not isinstance(node, exp.Connector | exp.Binary):
        function = node.name if isinstance(node, exp.Anonymous) else node.sql_name()
        named = f"the function `{_shown(function.lower())}`"
    raise StudyError(f"{named or node.key.upper()} is not allowed in a predicate")


_TOO_DEEP = f"the predicate is nested too deeply; {MOST_DEPTH} levels are allowed"
_PREFIXES = {TokenType.NOT, TokenType.DASH, TokenType.PLUS, TokenType.TILDE}
_OPERANDS = {TokenType.VAR, TokenType.IDENTIFIER, TokenType.NUMBER, TokenType.STRING}
_PLAIN = {TokenType.AND, TokenType.OR, TokenType.IN, TokenType.IS, TokenType.NULL, TokenType.BETWEEN}
_PLAIN |= {TokenType.EQ, TokenType.NEQ, TokenType.LT, TokenType.LTE, TokenType.GT, TokenType.GTE}
_PLAIN |= {TokenType.STAR, TokenType.SLASH, TokenType.TRUE, TokenType.FALSE, TokenType.COMMA}
_PLAIN |= {TokenType.L_PAREN, TokenType.R_PAREN, *_PREFIXES, *_OPERANDS}


def _parsed(text: str) -> exp.Expr:
    if len(text) > MOST_CHARACTERS:
        raise StudyError(f"the predicate is longer than {MOST_CHARACTERS} characters")
    if not text.strip():
        raise StudyError("the predicate is empty; leave `where` out to take every row")
    if any(ord(character) < 32 and character not in "\t\r\n" for character in text):
        raise StudyError("the predicate holds a control character")
    try:
        _check_depth(text)
        tree = sqlglot.parse_one(text, read="duckdb", into=exp.Condition)
    except RecursionError:
        raise StudyError(_TOO_DEEP) from None
    except SqlglotError as error:
        faults = getattr(error, "errors", None) or [{}]
        near = str(faults[0].get("highlight") or "")
        at = f" at `{_shown(near)}`" if near.strip() else ""
        raise StudyError(f"the predicate is not readable as SQL{at}") from None
    return tree


def _check_depth(text: str) -> None:
    """Refuse what would recurse deeply in the parser, which may be compiled and unguarded.

    What is no part of the subset counts as a level that is never closed.
    """
    level = run = odd = 0
    outer: list[int] = []
    for token in sqlglot.tokenize(text, read="duckdb"):
        kind = token.token_type
        if kind is TokenType.SEMICOLON:
            raise StudyError("a second statement is not allowed in a predicate; leave `;` out")
        if kind is TokenType.L_PAREN:
            outer.append(level)
            level, run = level + run + 1, 0
        elif kind is TokenType.R_PAREN:
            level, run = (outer.pop() if outer else 0), 0
        elif kind in _PREFIXES:
            run += 1
        elif kind in _OPERANDS:
            run = 0
        odd += kind not in _PLAIN
        if level + run + odd > MOST_DEPTH:
            raise StudyError(_TOO_DEEP)


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _shown(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 60 else f"{text[:60]}..."
