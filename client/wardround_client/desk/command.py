"""`wardround hospital desk`."""

from __future__ import annotations

import signal
from typing import Annotated

import typer
from rich.console import Console

from wardround_client.command_options import HomeOption
from wardround_client.home import HospitalHome
from wardround_common.errors import WardroundError
from wardround_common.home import locked


def desk_command(
    port: Annotated[int, typer.Option(min=0, max=65535, help="The port; 0 takes a free one.")] = 0,
    minutes: Annotated[int, typer.Option(min=1, max=480, help="How long one may stay logged in.")] = 60,
    home: HomeOption = None,
) -> None:
    """Review and decide in a browser: pages on this machine alone, for whoever has the printed URL.

    The URL serves once, within five minutes; who opened it stays logged in for --minutes. It ends with
    Ctrl-C, or with "Close the desk" on its pages. From another machine, by way of ssh:
    ssh -L PORT:127.0.0.1:PORT HOST, with the same PORT at both ends.

    Examples:
      wardround hospital desk

      wardround hospital desk --port 8600 --minutes 20
    """
    from wardround_client.desk.door import GUESSED, Door
    from wardround_client.desk.guard import ENTER, Guard
    from wardround_client.desk.pages import Pages, denied
    from wardround_client.desk.server import LOOPBACK, DeskServer, listen

    opened = HospitalHome.open(home)
    console = Console(soft_wrap=True, highlight=False, markup=False)
    with locked(opened.path / "desk.lock", "a desk"), listen(port) as listener:
        opened.store.actor += " (desk)"
        port = listener.getsockname()[1]
        door = Door(minutes)
        pages = Pages(opened, door)
        server = DeskServer(Guard(pages.app(), door, port, denied), door)
        before = {
            number: signal.signal(number, lambda *_: door.close())
            for number in (signal.SIGTERM, signal.SIGINT)
        }
        try:
            console.print("Open this once, within five minutes; Ctrl-C closes the desk:")
            console.print(f"http://{LOOPBACK}:{port}{ENTER}?token={door.token()}")
            server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        why = door.over()
    if why == GUESSED:
        opened.store.audit("desk", "", why)
        raise WardroundError(
            f"the desk stopped: {why}; find out who else uses this machine, then start it again"
        )
    console.print(f"The desk is closed: {why}.")
