"""The catalogue: every analysis that a study may name. A new one is a new file and one line here."""

from __future__ import annotations

from typing import Any

from wardround_common.analyses import evaluate, fedavg, flow, forest, importance, logistic, summary
from wardround_common.analysis import Analysis
from wardround_common.query import Query

CATALOGUE: tuple[Analysis, ...] = (
    summary.ANALYSIS,
    logistic.ANALYSIS,
    forest.ANALYSIS,
    fedavg.ANALYSIS,
    evaluate.ANALYSIS,
    importance.ANALYSIS,
)
QUERIES: tuple[type[Query[Any]], ...] = (
    flow.FlowQuery,
    *(query for analysis in CATALOGUE for query in analysis.queries),
)
