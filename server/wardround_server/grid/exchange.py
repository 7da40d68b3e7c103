"""One step's messages and replies: sent again to a node that came back, waited for up to a deadline.

A node that was killed after it took a message never answers it, and Flower delivers a message once. So a
message is sent again when its node came online anew, when Flower says that there will be no reply, and
now and then in case a reply was lost on the way. A hospital sends again what it kept, so an answer that
arrives twice is the same twice.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass

from wardround_common.errors import ProtocolError
from wardround_server.grid.post import Post

_AGAIN_AT_MOST_S = 120.0
Address = tuple[str, int]  # an action, and the node that is to act


class Late(ProtocolError):
    """Some nodes have not replied by the deadline; ``replies`` are those of the others."""

    def __init__(self, nodes: Set[int], seconds: float, replies: Mapping[Address, bytes]) -> None:
        one = len(nodes) == 1
        super().__init__(f"{len(nodes)} hospital{'' if one else 's'} did not answer within {seconds:g} s")
        self.nodes, self.replies = frozenset(nodes), replies


@dataclass(frozen=True)
class Patience:
    """How long a step waits, in seconds.

    ``look_s``: how often it looks for nodes that came back; ``again_s``: after how long it asks again
    without a sign, doubling each time; ``waiting`` is told now and then which nodes are waited for.
    """

    first_s: float = 0.01
    most_s: float = 0.1
    look_s: float = 1.0
    again_s: float = 15.0
    deadline_s: float = 600.0
    waiting: Callable[[frozenset[int]], None] = lambda nodes: None


@dataclass
class _Open:
    """A message without a reply yet: when it was last sent, and after how long it is sent again."""

    sent_at: float
    again_s: float
    failed: bool = False


def exchange(
    way: Post, bodies: Mapping[Address, bytes], patience: Patience = Patience()
) -> dict[Address, bytes]:
    """Send each node its body under its action; return the replies' bodies by the same addresses.

    A reply of another form is empty. Raises Late when nodes have not replied by the deadline.
    """
    ids: dict[str, Address] = {}
    still: dict[Address, _Open] = {}
    replies: dict[Address, bytes] = {}
    _send(way, bodies, still, ids, patience.again_s)
    pause, end = patience.first_s, time.monotonic() + patience.deadline_s
    looked = time.monotonic()
    while still:
        for letter in way.collect([one for one, address in ids.items() if address in still]):
            address = ids[letter.message_id]
            if address not in still:
                continue  # asked twice, and the other reply came first
            if letter.body is None:
                still[address].failed = True
            elif letter.node != address[1]:
                raise ProtocolError("a reply comes from another node than was asked")
            else:
                del still[address]
                replies[address] = letter.body
        if not still:
            break
        if time.monotonic() > end:
            raise Late({node for _, node in still}, patience.deadline_s, replies)
        if time.monotonic() - looked > patience.look_s:
            looked = time.monotonic()
            patience.waiting(frozenset(node for _, node in still))
            due = _due(still, way.nodes())
            _send(way, {address: bodies[address] for address in due}, still, ids, 0.0)
        time.sleep(pause)
        pause = min(1.2 * pause, patience.most_s)
    return replies


def _due(still: Mapping[Address, _Open], online: Mapping[int, float]) -> list[Address]:
    """Return the addresses to ask again, of nodes that are there now."""
    now = time.time()
    return [
        address
        for address, one in still.items()
        if address[1] in online
        and (one.failed or online[address[1]] > one.sent_at or now - one.sent_at > one.again_s)
    ]


def _send(
    way: Post,
    bodies: Mapping[Address, bytes],
    still: dict[Address, _Open],
    ids: dict[str, Address],
    again_s: float,
) -> None:
    """Send bodies by action; ``again_s`` 0 doubles what each message had."""
    by_action: dict[str, dict[int, bytes]] = {}
    for (action, node), body in bodies.items():
        by_action.setdefault(action, {})[node] = body
    for action, by_node in by_action.items():
        for node, message_id in way.send(action, by_node).items():
            address = action, node
            ids[message_id] = address
            still[address] = _Open(time.time(), again_s or min(2 * still[address].again_s, _AGAIN_AT_MOST_S))
