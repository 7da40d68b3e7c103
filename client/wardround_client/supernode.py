"""The ClientApp for a stock flower-supernode: `deploy/fab` points here, WARDROUND_HOME says whose it is.

Flower's SuperNode starts a process for each message and runs what code the coordinator sends. Such a
member's keys are the coordinator's for the taking, so its entry in the roster says `supernode`. Use
`wardround hospital serve` instead wherever you can.
"""

from __future__ import annotations

from wardround_client.app import client_app, node_of
from wardround_client.home import HospitalHome

app = client_app(node_of(HospitalHome.open(None), "supernode"))
