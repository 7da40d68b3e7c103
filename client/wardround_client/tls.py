"""Whom a hospital trusts on the network: the coordinator's own CA, and its own inspecting proxy if it says so."""

from __future__ import annotations

import ssl
from pathlib import Path

from wardround_client.home import HospitalHome
from wardround_common.errors import WardroundError


def trusting(ca_pem: str, inspection_ca: Path | None = None) -> ssl.SSLContext:
    """Return a context that accepts certificates of these CAs alone, none of the system's. TLS 1.3, or 1.2
    through a proxy that inspects.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3 if inspection_ca is None else ssl.TLSVersion.TLSv1_2
    try:
        context.load_verify_locations(cadata=ca_pem)
    except ssl.SSLError:
        raise WardroundError("the coordinator's CA certificate cannot be read; join again") from None
    if inspection_ca is not None:
        try:
            context.load_verify_locations(cafile=str(inspection_ca))
        except (OSError, ssl.SSLError):
            raise WardroundError(
                f"{inspection_ca}: cannot be read as a CA certificate (`network.inspection_ca`); it is a PEM file"
            ) from None
    return context


def of_home(home: HospitalHome) -> ssl.SSLContext:
    """Return the context of a hospital that has joined."""
    named = home.config.network.inspection_ca
    try:
        pem = home.ca_file.read_text("ascii")
    except (OSError, UnicodeDecodeError):
        raise WardroundError(f"{home.ca_file}: cannot be read; join again") from None
    return trusting(pem, None if named is None else home.path / named)
