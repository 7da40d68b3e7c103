"""Everything of the coordinator that touches flwr's internals; flwr is pinned exactly.

``local``: a Grid in one process. ``post``: how messages go over a Grid, in few requests over a network.
``exchange``: one step's messages and replies. ``superlink``: Flower's SuperLink behind a filter.
``control``: its Control API. ``tests/network/test_flower_contract.py`` tells when flwr changes under them.
"""

from wardround_server.grid.exchange import Address, Late, Patience, exchange
from wardround_server.grid.local import LocalGrid
from wardround_server.grid.post import Post, post

__all__ = ["Address", "Late", "LocalGrid", "Patience", "Post", "exchange", "post"]
