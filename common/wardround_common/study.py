"""The study file: who asks what of which variables, under which protection.

Everything that is not said gets its default here, and all of it is written into the results. The
manifest that hospitals sign is the canonical JSON (RFC 8785) of the whole, defaults included.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import date, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import rfc8785
import yaml
from pydantic import Discriminator, Field, Tag, ValidationError, field_validator, model_validator

from wardround_common.analyses import CATALOGUE
from wardround_common.analyses.flow import LABEL
from wardround_common.analysis import (
    AnalysisSpec,
    ModelSpec,
    OnModelSpec,
    Strict,
    check_decided,
    with_threshold,
)
from wardround_common.dictionary import Dictionary, Variable, check_name
from wardround_common.errors import ProtocolError, StudyError, did_you_mean, listed
from wardround_common.predicate import check_predicate

MOST_BYTES = 4 << 20
KINDS = {analysis.kind: analysis for analysis in CATALOGUE}


class Closed(Strict):
    """That a cohort takes no rows dated after ``by``, the last day, in a column of the table (ISO 8601)."""

    column: Annotated[str, Field(min_length=1, max_length=200)]
    by: str

    @field_validator("by", mode="before")
    @classmethod
    def _day(cls, value: Any) -> Any:
        if isinstance(value, date) and not isinstance(value, datetime):  # as YAML reads it
            return value.isoformat()
        try:
            if value != date.fromisoformat(value).isoformat():
                raise ValueError
        except (ValueError, TypeError):
            raise ValueError("a day, as in 2026-01-31") from None
        return value


class CohortSpec(Strict):
    """Who is in: an SQL predicate over the dictionary's variables, in an allow-listed subset of SQL.

    ``closed``: rows that came later than a day are not in, so that a table that grows gives the same cohort.
    """

    where: str | None = None
    closed: Closed | None = None


class SeedSplit(Strict):
    """Held-out rows drawn by row key."""

    test: Annotated[float, Field(gt=0, lt=1)]
    seed: Annotated[int, Field(ge=0, lt=2**53)] = 0  # RFC 8785 knows no larger integers


class ColumnSplit(Strict):
    """Held-out rows named by a column of the table: those whose cell reads ``test``."""

    column: str
    test: str = "test"

    @field_validator("test", mode="before")
    @classmethod
    def _text(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _which_split(value: Any) -> str:
    by_column = "column" in value if isinstance(value, dict) else isinstance(value, ColumnSplit)
    return "ColumnSplit" if by_column else "SeedSplit"


Split = Annotated[
    Annotated[SeedSplit, Tag("SeedSplit")] | Annotated[ColumnSplit, Tag("ColumnSplit")],
    Discriminator(_which_split),
]


class Privacy(Strict):
    """Floors that every hospital enforces; its own policy may only raise them.

    ``round_to``: published counts are rounded to multiples of it, once small ones are suppressed.
    """

    min_hospitals: Annotated[int, Field(ge=2, le=10_000)] = 3
    min_rows: Annotated[int, Field(ge=1, le=2**31)] = 10
    min_cell: Annotated[int, Field(ge=1, le=2**31)] = 11
    round_to: Annotated[int, Field(ge=1, le=1000)] = 1
    plan: Literal["verified", "trusted"] = "verified"
    seal: Literal["sums", "none"] = "sums"
    differential_privacy: None = None


class Study(Strict):
    """A study, checked: names exist, hyperparameters are in range, nothing is left unread.

    ``question``: what it wants to know; ``asked_by``: the persons or institutions who answer for it.
    """

    wardround: Literal[1]
    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,62}$")]
    title: str | None = None
    question: Annotated[str, Field(max_length=2000)] | None = None
    asked_by: Annotated[str, Field(max_length=500)] | None = None
    variables: dict[str, Variable]
    outcome: str | None = None
    predictors: tuple[str, ...] = ()
    cohort: CohortSpec = CohortSpec()
    rows: Literal["one_per_person", "many"] = "one_per_person"
    ids: Literal["hospital", "shared"] = "hospital"
    max_rows: Annotated[int, Field(ge=1, le=2**31)] = 10_000_000
    out_of_range: Literal["missing", "drop", "refuse"] = "missing"
    missing: Literal["impute", "drop"] = "impute"
    split: Split | None = None
    analyses: tuple[AnalysisSpec, ...]
    privacy: Privacy = Privacy()

    @field_validator("variables")
    @classmethod
    def _names(cls, value: dict[str, Any]) -> dict[str, Any]:
        if not value:
            raise ValueError("a study needs at least one variable")
        for name in value:
            check_name(name)
        return value

    @field_validator("analyses", mode="before")
    @classmethod
    def _by_kind(cls, value: Any) -> Any:
        if not isinstance(value, (list, tuple)) or not value:
            raise ValueError("a list of analyses, each as {kind: ...}")
        return tuple(_analysis(i, item) for i, item in enumerate(value))

    @model_validator(mode="before")
    @classmethod
    def _inherited(cls, data: Any) -> Any:
        """Write down what an analysis takes from the study, so that the manifest says it."""
        if not isinstance(data, dict) or not isinstance(data.get("variables"), dict):
            return data
        data = dict(data)
        outcome = data.get("outcome")
        if data.get("predictors") is None:
            data["predictors"] = [name for name in data["variables"] if name != outcome]
        return data

    @model_validator(mode="after")
    def _whole(self) -> Study:
        known = Dictionary(self.variables)
        _outcome(known, "outcome", self.outcome)
        _predictors(known, "predictors", self.predictors, self.outcome)
        analyses = tuple(
            _resolve(self, known, f"analyses[{i}]", spec) for i, spec in enumerate(self.analyses)
        )
        names = [spec.label for spec in analyses]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise ValueError(f"analyses[{i}].name: `{name}` stands there twice; give each its own `name`")
        if LABEL in names:
            where = f"analyses[{names.index(LABEL)}].name"
            raise ValueError(f"{where}: `{LABEL}` is what counting rows is called; choose another name")
        models = {spec.label: spec for spec in analyses if isinstance(spec, ModelSpec)}
        analyses = tuple(
            _on_model(known, f"analyses[{i}]", spec, models) if isinstance(spec, OnModelSpec) else spec
            for i, spec in enumerate(analyses)
        )
        _seal(self.privacy, analyses)
        if self.cohort.where is not None:
            try:
                check_predicate(self.cohort.where, known)
            except StudyError as error:
                raise ValueError(f"cohort.where: {error}") from None
        object.__setattr__(self, "analyses", analyses)
        return self

    @property
    def dictionary(self) -> Dictionary:
        """The variables as a mapping with typed access."""
        return Dictionary(self.variables)

    def manifest(self) -> bytes:
        """Return the study as canonical JSON (RFC 8785): what is hashed and signed."""
        return rfc8785.dumps(self.model_dump(mode="json", serialize_as_any=True))

    @property
    def digest(self) -> bytes:
        """SHA-256 of the manifest, 32 bytes."""
        return hashlib.sha256(self.manifest()).digest()


def study_key(study: Study) -> bytes:
    """Return the key of the study's row keys, 32 bytes: the same at every hospital, and for every version."""
    return hashlib.sha256(b"wardround row keys v1 " + study.name.encode()).digest()


def read_manifest(manifest: bytes) -> Study:
    """Take up a study from its canonical JSON, as it was sent. ProtocolError for anything else."""
    if len(manifest) > MOST_BYTES:
        raise ProtocolError("a study of more bytes than any has")
    try:
        study = parse_study(json.loads(manifest), "the study")
    except (ValueError, RecursionError):
        raise ProtocolError("a study that is not JSON") from None
    except StudyError as error:
        raise ProtocolError(f"a study that cannot be read ({error})") from None
    if study.manifest() != manifest:
        raise ProtocolError("a study that is not in its canonical form")
    return study


def _analysis(index: int, item: Any) -> AnalysisSpec:
    if isinstance(item, AnalysisSpec):
        return item
    where = f"analyses[{index}]"
    if not isinstance(item, dict) or not isinstance(item.get("kind"), str):
        raise ValueError(f"{where}: an analysis is written as {{kind: ...}}, one of {listed(KINDS)}")
    kind = item["kind"]
    if kind not in KINDS:
        raise ValueError(
            f"{where}.kind: `{kind}` is no analysis{did_you_mean(kind, KINDS)}; there are {listed(KINDS)}"
        )
    try:
        return KINDS[kind].spec.model_validate(item)
    except ValidationError as error:
        raise ValueError(_first(error, where, set(KINDS[kind].spec.model_fields))) from None


def _outcome(known: Dictionary, where: str, outcome: str | None) -> None:
    if outcome is not None and outcome not in known:
        raise ValueError(f"{where}: `{outcome}` is not in `variables`{did_you_mean(outcome, known)}")


def _predictors(known: Dictionary, where: str, terms: tuple[str, ...], outcome: str | None) -> None:
    before: set[tuple[str, ...]] = set()
    for i, term in enumerate(terms):
        for name in term.split(":"):
            if name not in known:
                raise ValueError(f"{where}[{i}]: `{name}` is not in `variables`{did_you_mean(name, known)}")
            if name == outcome:
                raise ValueError(f"{where}[{i}]: `{name}` is the outcome")
        if len(set(term.split(":"))) != len(term.split(":")):
            raise ValueError(f"{where}[{i}]: `{term}` multiplies a variable with itself")
        factors = tuple(sorted(term.split(":")))
        if factors in before:
            raise ValueError(f"{where}[{i}]: `{term}` stands there twice")
        before.add(factors)


def _resolve(study: Study, known: Dictionary, where: str, spec: AnalysisSpec) -> AnalysisSpec:
    """Fill what an analysis inherits, and check its variables by the rules of its kind."""
    able = KINDS[spec.kind].on_change
    if spec.on_change == "continue" != able:
        raise ValueError(
            f"{where}.on_change: a `{spec.kind}` can't go on from where it is with other hospitals; write "
            "`restart` or `fail`"
        )
    spec = spec.model_copy(update={"on_change": spec.on_change or able})
    if isinstance(spec, ModelSpec):
        outcome = spec.outcome if spec.outcome is not None else study.outcome
        predictors = spec.predictors
        if predictors is None:
            predictors = tuple(t for t in study.predictors if outcome not in t.split(":"))
        _outcome(known, f"{where}.outcome", outcome)
        _predictors(known, f"{where}.predictors", predictors, outcome)
        missing = spec.missing if spec.missing is not None else study.missing
        spec = spec.model_copy(update={"outcome": outcome, "predictors": predictors, "missing": missing})
    if getattr(spec, "variables", ()) is None:  # said in full, since the manifest sorts the dictionary
        spec = spec.model_copy(update={"variables": tuple(known)})
    try:
        spec.check(known)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None
    return spec.resolved(known)


def _on_model(known: Dictionary, where: str, spec: OnModelSpec, models: dict[str, ModelSpec]) -> OnModelSpec:
    """Check that the model is one of the study."""
    if spec.model not in models:
        raise ValueError(
            f"{where}.model: `{spec.model}` is no model of this study{did_you_mean(spec.model, models)}"
        )
    outcome = str(models[spec.model].outcome)
    try:
        check_decided(spec, outcome, known)
    except ValueError as error:
        raise ValueError(f"{where}.{error}") from None
    return with_threshold(spec, outcome, known)


def _seal(privacy: Privacy, analyses: tuple[AnalysisSpec, ...]) -> None:
    """Check that what needs to open one hospital's numbers alone is said, and only where it is needed."""
    needs = [(i, spec) for i, spec in enumerate(analyses) if getattr(spec, "unsealed", False)]
    if needs and privacy.seal != "none":
        i, spec = needs[0]
        raise ValueError(
            f"analyses[{i}].strategy: `{getattr(spec, 'strategy', '')}` compares single hospitals' updates; "
            "the study has to say `privacy: {seal: none}`, and its hospitals' policies to allow it"
        )
    if privacy.seal == "none" and not needs:
        raise ValueError(
            "privacy.seal: no analysis here needs `none`, only `fedavg` with a robust `strategy` does; "
            "leave it out"
        )
    if privacy.seal == "none" and privacy.plan != "verified":
        raise ValueError(
            "privacy.plan: with `seal: none` it is `verified`, since only hospitals that follow the program "
            "know which answer leaves unsealed"
        )


_UNSAID = ("SeedSplit", "ColumnSplit", "number", "category")  # what pydantic adds to a path for a union


def _printable(key: str) -> str:
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in key)


def _first(error: ValidationError, where: str, known: set[str]) -> str:
    """Say the first fault of a validation in one line: the key's path, then what to do.

    Unknown keys come first, since a misspelt key is also a missing one.
    """
    faults = error.errors(include_url=False, include_input=False)
    fault = next((one for one in faults if one["type"] == "extra_forbidden"), faults[0])
    path = where
    for part in fault["loc"]:
        if part not in _UNSAID:
            path += f"[{part}]" if isinstance(part, int) else f".{_printable(part)}"
    path = path.lstrip(".")
    text = fault["msg"].removeprefix("Value error, ")
    if fault["type"] == "extra_forbidden":
        text = f"unknown key{did_you_mean(str(fault['loc'][-1]), known)}"
    elif fault["type"] in ("union_tag_invalid", "union_tag_not_found"):
        text = "`kind` must be `number` or `category`"
    elif fault["type"] == "missing":
        text = "this key is required"
    elif fault["type"] == "value_error" and (not path or text.startswith(("analyses[", "predictors["))):
        return text  # a check over the whole study says the path itself
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{path}: {text}{more}"


_KEYS = {
    *Study.model_fields,
    *Privacy.model_fields,
    *CohortSpec.model_fields,
    *Closed.model_fields,
    *SeedSplit.model_fields,
    *ColumnSplit.model_fields,
    "kind",
    "unit",
    "range",
    "levels",
    "label",
}


def parse_study(data: Any, source: str = "study") -> Study:
    """Check a study that was read from YAML or built in Python. StudyError names the key at fault."""
    if isinstance(data, Study):
        return data
    if not isinstance(data, dict):
        raise StudyError(f"{source}: a study file is a mapping of keys; the first is `wardround: 1`")
    if "wardround" not in data:
        raise StudyError(f"{source}: `wardround: 1` is missing; is this a study file?")
    try:
        json.dumps(data, ensure_ascii=False, skipkeys=True, default=str).encode()
    except UnicodeEncodeError:
        raise StudyError(f"{source}: a text holds half a character (a lone surrogate)") from None
    try:
        return Study.model_validate(data)
    except ValidationError as error:
        raise StudyError(f"{source}: {_first(error, '', _KEYS)}") from None


class _Loader(yaml.SafeLoader):
    """YAML without aliases (a small file could unfold into a huge one) and without doubled keys.

    As in YAML 1.2, only true and false are booleans: `no` and `yes` are levels that people do write.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.peek_event()  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases are not allowed", problem_mark=event.start_mark)
        return super().compose_node(parent, index)

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen: set[str] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise yaml.MarkedYAMLError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"the key `{str(key.value)[:64]}` stands there twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile("^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF")
)


def read_study(path: str | Path) -> Study:
    """Read and check a study file. StudyError says what is wrong, with the line or the key."""
    path = Path(path)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise StudyError(f"{path}: there is no such file") from None
    except OSError as error:
        raise StudyError(f"{path}: cannot be read ({error.strerror})") from None
    if len(raw) > MOST_BYTES:
        raise StudyError(f"{path}: larger than {MOST_BYTES >> 20} MiB; is this a study file?")
    try:
        data = yaml.load(raw.decode("utf-8"), _Loader)  # noqa: S506 (a SafeLoader)
    except UnicodeDecodeError as error:
        raise StudyError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except RecursionError:
        raise StudyError(f"{path}: nested too deeply") from None
    except yaml.MarkedYAMLError as error:
        line = f" line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise StudyError(f"{path}{line}: {error.problem}") from None
    except (yaml.YAMLError, ValueError, AttributeError) as error:  # AttributeError: `!!timestamp x`
        first = str(error).splitlines()[0]
        raise StudyError(f"{path}: not readable as YAML ({first})") from None
    return parse_study(data, str(path))
