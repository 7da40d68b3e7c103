"""Whom a hospital trusts on the network, the coordinator's own CA, and which proxy it goes out by."""

from __future__ import annotations

import os
import ssl
from pathlib import Path

from wardround_client.home import HospitalHome
from wardround_common.errors import WardroundError


def trusting(ca_pem: str, inspection_ca: Path | None = None) -> ssl.SSLContext:
    """Return a context that accepts certificates of these CAs alone, none of the system's.

    TLS 1.3, or 1.2 through a proxy that inspects.
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
                f"{inspection_ca}: cannot be read as a CA certificate (`network.inspection_ca`); "
                "it is a PEM file"
            ) from None
    return context


def use_proxy(home: HospitalHome) -> None:
    """Go out by the proxy of the configuration, where it names one; it is passed where httpx looks for it."""
    if home.config.network.proxy is not None:
        os.environ["HTTPS_PROXY"] = os.environ["https_proxy"] = home.config.network.proxy


def of_home(home: HospitalHome, ca_pem: str | None = None) -> ssl.SSLContext:
    """Return the context of a hospital that has joined, or is about to trust ``ca_pem``."""
    named = home.config.network.inspection_ca
    try:
        pem = home.ca_file.read_text("ascii") if ca_pem is None else ca_pem
    except (OSError, UnicodeDecodeError):
        raise WardroundError(f"{home.ca_file}: cannot be read; join again") from None
    return trusting(pem, None if named is None else home.path / named)
