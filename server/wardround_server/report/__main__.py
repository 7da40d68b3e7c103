"""`python -m wardround_server.report`: read what `render` takes as JSON, write the page; see ``apart``."""

from __future__ import annotations

import json
import sys

from wardround_server.report import ReportMissing, render
from wardround_server.report.apart import MISSING


def main() -> int:
    """Draw one report from standard input to standard output."""
    told = json.loads(sys.stdin.buffer.read())
    try:
        page = render(
            told["results"], command=told["command"], comparison=told["comparison"], spread=told["spread"]
        )
    except ReportMissing as error:
        sys.stderr.write(f"{error}\n")
        return MISSING
    sys.stdout.buffer.write(page.encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
