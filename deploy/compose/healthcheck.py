"""Ask this machine's coordinator for /wardround/hello over TLS, trusting its own CA alone.

Exit code 1 if it fails. It asks the listener itself and not `address`, so that a coordinator counts as
healthy before nginx is up.
"""

from __future__ import annotations

import http.client
import os
import socket
import ssl
import sys
import tomllib
from pathlib import Path

TIMEOUT_S = 5.0


def hello(home: Path) -> int:
    """Return the HTTP status of /wardround/hello of this home's coordinator. OSError if there is none."""
    config = tomllib.loads((home / "config.toml").read_text("utf-8"))["coordinator"]
    name = config["address"].rpartition(":")[0].strip("[]")
    host, _, port = config.get("listen", "0.0.0.0:443").rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))  # noqa: S104
    tls = ssl.create_default_context(cafile=str(home / "ca" / "ca.crt"))
    tls.minimum_version = ssl.TLSVersion.TLSv1_3
    connection = http.client.HTTPConnection(name, timeout=TIMEOUT_S)
    connection.sock = tls.wrap_socket(
        socket.create_connection((host, int(port)), TIMEOUT_S), server_hostname=name
    )
    try:
        connection.request("GET", "/wardround/hello")
        return connection.getresponse().status
    finally:
        connection.close()


if __name__ == "__main__":
    try:
        status = hello(Path(os.environ["WARDROUND_HOME"]))
    except (OSError, KeyError, ValueError, http.client.HTTPException) as error:
        sys.exit(f"the coordinator does not answer: {error}")
    sys.exit(None if status == http.client.OK else f"the coordinator answers with HTTP {status}")
