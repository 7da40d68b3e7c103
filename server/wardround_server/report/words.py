"""Plain-language texts: what a model is, what a figure means, what protected the data, what limits it.

What is said about protection is what SECURITY.md says, no more; the two change together.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround_server.report.forms import count, foreign, many
from wardround_server.report.names import Names

MODELS = {
    "logistic": (
        "A logistic regression: each predictor shifts the odds of the outcome by a factor of its own, and "
        "the factors multiply. It was fitted by Newton's method on sums over all hospitals and is the model "
        "that a fit on one table of all rows would give."
    ),
    "linear": (
        "A linear regression: each predictor shifts the expected outcome by an amount of its own, and the "
        "amounts add up. It was fitted on sums over all hospitals and is the model that a fit on one table "
        "of all rows would give."
    ),
    "forest": (
        "A random forest: many decision trees, each grown on a random draw of the rows from counts over all "
        "hospitals; the forest's prediction is the mean of its trees'. It can follow curves and combinations "
        "that a regression misses, and has no coefficients that could be read."
    ),
    "fedavg": (
        "Federated averaging: in each round every hospital improves the current model on its own rows, and "
        "the hospitals' changes are brought together. Unlike the other models here, its result depends on "
        "how the rows are spread over the hospitals and on the number of rounds."
    ),
    "evaluate": "A model of this study, evaluated at another threshold or on another part of the rows.",
}
METRICS = {
    "n": ("Rows", "on which these figures rest"),
    "prevalence": ("With the outcome", "the share of these rows that has it"),
    "auc": (
        "AUC",
        (
            "in how many of all pairs of one row with and one without the outcome the first got the higher "
            "risk; 0.5 is chance, 1 is perfect"
        ),
    ),
    "accuracy": ("Accuracy", "the share of calls at the threshold that were right"),
    "brier": ("Brier score", "the mean squared error of the predicted risk; 0 is perfect, lower is better"),
    "threshold": ("Threshold", "the predicted risk from which a row is called"),
    "sensitivity": ("Sensitivity", "of those with the outcome, the share that is called"),
    "specificity": ("Specificity", "of those without the outcome, the share that is not called"),
    "calibration_intercept": ("Calibration intercept", "0 is ideal; above it, the outcome is underrated"),
    "calibration_slope": ("Calibration slope", "1 is ideal; below it, predictions are too extreme"),
    "rmse": ("RMSE", "the typical size of an error, in the outcome's unit; large errors weigh more"),
    "mae": ("Mean absolute error", "the average size of an error, in the outcome's unit"),
    "r2": (
        "R²",
        "the share of the outcome's variance that is explained; 1 is perfect, 0 no better than the mean",
    ),
}
SUPPRESSED_NOTE = (
    "suppressed: a count from 1 to {last}, or one from which such a count could be worked out. "
    "It is hidden so that nobody can be recognised in a small group."
)
NOT_SHOWN_NOTE = (
    "not shown: too few rows, or rows of too few hospitals, stand behind this figure, or behind another that "
    "it would give away."
)


def model(kind: str) -> str:
    """Return what a kind of model is."""
    return MODELS.get(kind, f"A model of the kind “{foreign(kind)}”.")


def simulated(command: str) -> bool:
    """Return whether the command runs all hospitals on one machine."""
    return command.split()[:2] in (["wardround", "simulate"], ["wardround", "demo"])


def no_own_figures(names: Names, compared: bool) -> str:
    """Return why no hospital's own figures are shown."""
    text = (
        "No hospital's own figures are shown: every number was masked before it left its hospital, only sums "
        "over all hospitals taking part were opened, and no statement about a single hospital was released."
    )
    if _unsealed(names):
        text = (
            "No hospital's own figures are shown: but for the updates of federated averaging, only sums over "
            "all hospitals taking part were opened, and no statement about a single hospital was released."
        )
    if compared:
        text += (
            " The comparison with hospitals that learn alone is possible only because this is a "
            "simulation that holds all tables; a real study never makes it."
        )
    return text


def _unsealed(names: Names) -> bool:
    return bool((names.manifest.get("privacy") or {}).get("seal") == "none")


def protected(names: Names, command: str, stated: bool) -> list[str]:
    """Return what protected the data, in plain words. ``stated``: single hospitals made statements."""
    privacy = names.manifest.get("privacy") or {}
    hospitals, rows, cell = (privacy.get(k) for k in ("min_hospitals", "min_rows", "min_cell"))
    texts = [
        (
            "Rows stay where they are. A hospital answers questions with sums, and adds a mask to each "
            "number before it leaves. The masks cancel only when the answers of all hospitals are added up, "
            "so the sum can be read and a single hospital's answer cannot."
        ),
        (
            "One gate. Numbers leave a hospital through a single place, which checks their bounds and the "
            "hospital's policy, keeps a ledger and an audit entry of what was released, and masks it. The "
            "coordinator's code never runs at a hospital: a study is data, not a program."
        ),
    ]
    if privacy.get("plan") == "verified":
        texts.append(
            "No question of the coordinator's choosing. Each hospital checks every sum that it is told, "
            "works out itself what the approved study asks next, and answers nothing else."
        )
    if _unsealed(names):
        texts.append(
            "The exception: updates of federated averaging were opened one by one, so that the server could "
            "leave out a hospital whose update lies far from the others': this study says `seal: none`, and "
            "each hospital's policy allowed it. All other answers were masked."
        )
    if hospitals:
        texts.append(
            f"Never fewer than {many(hospitals, 'hospital')}. A hospital answers only if at least "
            f"{count(hospitals)} take part in an analysis, and abstains if it has fewer than "
            f"{many(rows or 1, 'usable row')} itself. A hospital's own policy can only raise these floors."
        )
    if cell:
        texts.append(
            f"No small groups in print. Counts from 1 to {count(cell - 1)}, and counts that would give them "
            "away, are suppressed; curves are drawn in steps that are large enough; the smallest and the "
            "largest value of a variable are never shown."
        )
    if privacy.get("differential_privacy") is None:
        texts.append("No noise was added: differential privacy was off in this study.")
    if stated:
        texts.append(
            "Statements, the one exception to the masks: where a hospital's policy allows it, a rounded "
            "figure of its own leaves in the clear through the same gate. Those that did are shown above."
        )
    if simulated(command):
        texts.append(
            "This run was a simulation: one machine held all tables and played every hospital. It shows the "
            "protocol, and protects nothing from whoever ran it."
        )
    return texts


def not_protected(names: Names) -> list[str]:
    """Return what is not protected yet, and what is not by design."""
    privacy = names.manifest.get("privacy") or {}
    texts = []
    if privacy.get("plan") != "verified":
        texts.append(
            "This study says `plan: trusted`: hospitals checked that a question's kind belongs to the study, "
            "and not which question comes next. A malicious coordinator could have chosen its parameters so "
            "as to learn more than the study publishes, down to single patients."
        )
    if _unsealed(names):
        texts.append(
            "Coordinator and all members saw each hospital's own updates and its number of training rows, "
            "and what can be inferred from them."
        )
    return [
        *texts,
        (
            "What true sums reveal is meant to be learned: a coefficient or a mean says something about "
            "everyone in it. Coordinator and transcript see sums with small groups; suppression governs "
            "what is published."
        ),
        (
            "Row counts of the study and of its training part are published exactly, and who knows the id of "
            "a patient can work out whether that row was held out."
        ),
        (
            "All hospitals but one, acting together, can work out the last one's share of a sum. False data "
            "put in by a hospital are not noticed. A hospital that works together with the coordinator can "
            "have the others told false sums."
        ),
    ]


def limits(names: Names, parts: set[str], subgroups: bool, analyses: Mapping[str, Any]) -> list[str]:
    """Return the limits of the analysis, in the spirit of TRIPOD+AI. ``parts``: rows that were scored."""
    manifest = names.manifest
    texts = []
    if parts:
        texts.append(_split(manifest.get("split"), "test" in parts))
        texts.append(
            "No external validation: held-out rows come from the hospitals that the model was learned from. "
            "Performance elsewhere, or in later years, may be worse."
        )
    if any("metrics" in one or "coefficients" in one for one in analyses.values()):
        texts.append(_missing(names, analyses))
    out = {
        "missing": "was treated as missing",
        "drop": "took its row out of the study",
        "refuse": "would have stopped the study",
    }.get(str(manifest.get("out_of_range", "")))
    if out:
        texts.append(f"A value outside its declared range {out}.")
    if any("coefficients" in one for one in analyses.values()):
        texts.append(
            "Coefficients describe association, not cause, each with the other predictors held equal. "
            "Intervals and p values are not adjusted for the number of predictors."
        )
    if any(names.spec(label).get("ridge") for label in analyses):
        texts.append(
            "A ridge penalty pulls coefficients towards zero; their intervals and p values follow from the "
            "penalised fit and should be read with that in mind."
        )
    if parts:
        texts.append(
            "Fairness: performance by subgroup is given above; small groups are not shown, so their "
            "performance is unknown."
            if subgroups
            else "Fairness: performance was not examined by subgroup; it may differ between groups."
        )
        texts.append(
            "Figures are given without a confidence interval unless one is stated; with few rows they vary."
        )
    texts.append(
        "This report describes a study. It is not medical advice, and the models are no medical device."
    )
    return texts


def _split(split: Any, held_out: bool) -> str:
    if not split or not held_out:
        return (
            "No rows were held out: performance was measured on the rows that the model was learned from, so "
            "it is too favourable and does not say how the model does on new patients."
        )
    text = "Performance is told on held-out rows, which no model had seen while it was learned"
    if "column" in split:
        return f"{text}; the column “{foreign(str(split['column']))}” of the tables named them."
    return (
        f"{text}: about {100 * float(split['test']):g} % of the rows, drawn at random by row "
        f"(seed {split.get('seed', 0)}), the same for every model. A random split is the mildest test."
    )


def _missing(names: Names, analyses: Mapping[str, Any]) -> str:
    ways = {names.spec(label).get("missing") for label in analyses} - {None}
    ways = ways or {names.manifest.get("missing", "impute")}
    impute = (
        "missing predictors were filled with the mean or the most frequent level of all hospitals' training "
        "rows, with an indicator of its own where enough rows lacked the value"
    )
    if any(names.kind(label) == "forest" for label in analyses):
        impute += " (trees send missing values to a branch of their own instead)"
    drop = "rows that lacked a value an analysis uses were left out of it"
    told = [text for way, text in (("impute", impute), ("drop", drop)) if way in ways]
    text = "; in other analyses, ".join(told) or impute
    return (
        f"Missing data: {text}. Rows without the outcome were left out. A single imputation understates "
        "uncertainty."
    )
