"""The ClientApp for a stock flower-supernode: `deploy/fab` points here, WARDROUND_HOME says whose it is.

Flower's SuperNode starts a process for each message and runs what code the coordinator sends. Such a
member's keys are the coordinator's for the taking, so its entry in the roster says `supernode`. Use
`wardround hospital serve` instead wherever you can.
"""

from __future__ import annotations

from wardround_client.app import Node, client_app
from wardround_client.approval import take_up
from wardround_client.home import HospitalHome

_home = HospitalHome.open(None)
app = client_app(Node(_home.store, lambda record: take_up(_home, record, "supernode")))
