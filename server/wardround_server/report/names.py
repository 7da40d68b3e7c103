"""What variables, terms and analyses are called in a text, and the step that a number is told by."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from wardround_server.report.forms import count, cut, foreign, is_number, plain, unit

_STEPS = (1.0, 2.0, 5.0, 10.0)
KINDS = {
    "summary": "Summary",
    "logistic": "Logistic regression",
    "linear": "Linear regression",
    "poisson": "Poisson regression",
    "cox": "Cox regression",
    "forest": "Random forest",
    "fedavg": "Federated averaging",
    "evaluate": "Evaluation",
    "importance": "Importance of the variables",
}
EFFECTS = {"logistic": "Odds ratio", "poisson": "Rate ratio", "cox": "Hazard ratio"}
LONGEST, SHORT = 200, 48  # a label in a table, and in a sentence


class Names:
    """Reads the manifest. Whatever it lacks falls back to the name itself."""

    def __init__(self, results: Mapping[str, Any]) -> None:
        self.manifest: Mapping[str, Any] = results.get("manifest") or {}
        self.variables: Mapping[str, Any] = self.manifest.get("variables") or {}
        specs = self.manifest.get("analyses") or ()
        self.specs = {str(one.get("name") or one.get("kind")): one for one in specs}
        self.patients = self.manifest.get("rows", "one_per_person") == "one_per_person"
        self._deviations: dict[str, float] = {}
        for found in (results.get("analyses") or {}).values():
            for name, one in (found.get("variables") or {}).items():
                if is_number(one.get("sd")) and one["sd"] > 0 and "quantiles" in one:
                    self._deviations[name] = one["sd"]

    def people(self, number: Any) -> str:
        """Return a count of rows as patients, or as records where a patient may have several."""
        one = "patient" if self.patients else "record"
        return f"{count(number)} {one if number == 1 else one + 's'}"

    def spec(self, label: str) -> Mapping[str, Any]:
        """Return an analysis as the study asked for it."""
        spec: Mapping[str, Any] = self.specs.get(label, {})
        return spec

    def kind(self, label: str, found: Mapping[str, Any] | None = None) -> str:
        """Return an analysis's kind, by the study or else by what its result holds."""
        kind = self.spec(label).get("kind")
        if kind:
            return str(kind)
        for key, guess in (("trees", "forest"), ("strategy", "fedavg"), ("deviance", "logistic")):
            if found and key in found:
                return guess
        return label

    def analysis(self, label: str) -> str:
        """Return an analysis's heading."""
        kind = self.kind(label)
        word = KINDS.get(kind, foreign(kind))
        return word if label == kind else f"{foreign(label)} ({word[0].lower()}{word[1:]})"

    def label(self, name: str) -> str:
        """Return a variable's label."""
        return foreign(self._label(name, LONGEST))

    def short(self, term: str) -> str:
        """Return a predictor's label for a sentence, without what it says in brackets at its end."""
        bare = (re.sub(r"(?<=\S)\s*\([^()]*\)$", "", self._label(one, LONGEST)) for one in term.split(":"))
        return " × ".join(foreign(cut(one, SHORT)) for one in bare)

    def _label(self, name: str, most: int) -> str:
        return cut(str((self.variables.get(name) or {}).get("label") or name), most)

    def unit(self, name: str) -> str:
        """Return a variable's unit."""
        return unit((self.variables.get(name) or {}).get("unit"))

    def with_unit(self, name: str) -> str:
        """Return label and unit."""
        shown = self.unit(name)
        return f"{self.label(name)}, {shown}" if shown else self.label(name)

    def two_levels(self, outcome: str | None) -> bool:
        """Return whether an outcome is of the yes-or-no kind."""
        return len((self.variables.get(outcome or "") or {}).get("levels") or ()) == 2

    def event(self, outcome: str | None, most: int = LONGEST) -> str:
        """Return what a model predicts, as `Coronary disease = 1`."""
        if outcome is None:
            return "the outcome"
        levels: Sequence[Any] = (self.variables.get(outcome) or {}).get("levels") or ()
        label = foreign(self._label(outcome, most))
        return f"{label} = {foreign(cut(str(levels[1]), most))}" if len(levels) == 2 else label

    def predictor(self, term: str) -> str:
        """Return a predictor's label; of an interaction, both."""
        return " × ".join(self.label(name) for name in term.split(":"))

    def step(self, term: str) -> float:
        """Return the step by which a term's effect is told: 1 but for numbers, whose steps multiply."""
        return math.prod(self._step(name) for name, level in self._factors(term) if level is None)

    def steps(self, term: str) -> str:
        """Return the step in words, as `per 10 years`; empty where there is none."""
        told = [
            f"{plain(self._step(name))} {self.unit(name)}".strip()
            for name, level in self._factors(term)
            if level is None
        ]
        return f"per {' × '.join(told)}" if told else ""

    def _step(self, name: str) -> float:
        """Return about a standard deviation, or else an eighth of the declared range: 1, 2 or 5 × 10^k."""
        variable = self.variables.get(name) or {}
        low, high = variable.get("range") or (0.0, 0.0)
        size = self._deviations.get(name) or (high - low) / 8
        if not is_number(size) or size <= 0:
            return 1.0
        power: float = 10.0 ** math.floor(math.log10(size))
        nearest = min(_STEPS, key=lambda one: abs(math.log(size / power / one)))
        return float(f"{nearest * power:.1g}")

    def _factors(self, term: str) -> list[tuple[str, str | None]]:
        """Return a term's variables, each with its level if it is a category."""
        found: list[tuple[str, str | None]] = []
        for piece in term.split(":"):
            name, mark, level = piece.partition("=")
            if name in self.variables:
                found.append((name, level if mark else None))
            elif found and found[-1][1] is not None:  # a level that holds a colon
                found[-1] = (found[-1][0], f"{found[-1][1]}:{piece}")
            else:
                found.append((piece, ""))
        return found

    def term(self, term: str, most: int = LONGEST) -> str:
        """Return a coefficient's name in words; its labels are cut to ``most`` characters."""
        if term == "intercept":
            return "Intercept"
        return " × ".join(self._factor(name, level, most) for name, level in self._factors(term))

    def _factor(self, name: str, level: str | None, most: int) -> str:
        if name not in self.variables:
            return foreign(cut(name, most))
        label = foreign(self._label(name, most))
        if level is None:
            return label
        if level == "missing":
            return f"{label}: not recorded"
        levels = self.variables[name].get("levels") or ("the reference",)
        one, reference = (foreign(cut(str(text), most)) for text in (level, levels[0]))
        return f"{label}: {one} vs {reference}"
