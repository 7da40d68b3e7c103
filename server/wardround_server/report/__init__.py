"""The report of a finished study: one HTML page that a clinician can read, on paper and on a phone too.

It shows what results.json holds and nothing more, so what may be published is decided in ``publish.py``
alone. The page needs nothing from elsewhere: no script, font or picture. Its structure follows TRIPOD+AI
(Collins et al. 2024): who was in, how the model was learned, how well it does and for whom, its limits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wardround_common.errors import WardroundError

_EXTRA = ("jinja2", "markupsafe", "matplotlib")


class ReportMissing(WardroundError):
    """The extra that draws the report is not installed, or drawing failed; the results are whole."""


def render(
    results: Mapping[str, Any],
    *,
    command: str,
    comparison: Mapping[str, Any] | None = None,
    spread: Mapping[str, Any] | None = None,
) -> str:
    """Return the report as a self-contained HTML page; equal input gives equal bytes.

    ``results`` is what results.json holds and ``command`` what makes it again. ``comparison`` is the
    demo's, with models learned elsewhere; ``spread`` holds figures of single hospitals, by name or by model
    and name, and only of those whose policy allows them. ReportMissing if the extra `report` is not
    installed.
    """
    try:
        from wardround_server.report.page import page  # drawing takes long to import
    except ImportError as error:
        if (error.name or "").split(".")[0] not in _EXTRA:
            raise
        raise ReportMissing(
            f"the report needs {error.name}, which is not installed; run: pip install 'wardround[report]'"
        ) from None
    return page(results, command, comparison, spread)
