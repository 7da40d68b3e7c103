"""The command line in this process, for what goes wrong before any connection is made."""

from __future__ import annotations

import contextlib
import io
import signal
import sys
from unittest import mock

from wardround_common.cli import main


def refused(*arguments: object) -> str:
    """Run `wardround ARGUMENTS`, which must end with exit code 2 and one line; return the line."""
    code, out, err = ran(*arguments)
    assert code == 2, out + err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    return err.removeprefix("error: ").rstrip("\n")


def done(*arguments: object) -> str:
    """Run `wardround ARGUMENTS`, which must succeed; return what it prints."""
    code, out, err = ran(*arguments)
    assert code == 0, out + err
    return out + err


def ran(*arguments: object) -> tuple[int, str, str]:
    """Run `wardround ARGUMENTS`; return exit code, what it prints, and what it says beside that."""
    out, err = io.StringIO(), io.StringIO()
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    command = mock.patch.object(sys, "argv", ["wardround", *map(str, arguments)])
    width = mock.patch.dict("os.environ", {"NO_COLOR": "1", "COLUMNS": "400"})
    code = 0
    try:
        with command, width, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main()
    except SystemExit as ended:
        code = int(ended.code or 0)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return code, out.getvalue(), err.getvalue()
