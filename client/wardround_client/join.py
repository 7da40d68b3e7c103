"""How a hospital comes into a network: keys, the coordinator's CA pinned, an enrolment file, and HTTPS."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import httpx

from wardround_client.home import HospitalHome
from wardround_client.tls import of_home, use_proxy
from wardround_common.enrolment import (
    PROTOCOL,
    PROTOCOL_HEADER,
    Enrolment,
    EnrolmentReply,
    EnrolmentRequest,
    Invite,
    make_enrolment,
)
from wardround_common.errors import LinkError, ProtocolError, WardroundError
from wardround_common.files import write_file

_TIMEOUT_S = 20.0
_MOST_REPLY = 8 << 10
_NOT_NOW = {
    429: "the coordinator has refused many enrolments just now; wait a minute and join again",
    503: "the coordinator is not ready; join again in a minute",
}


@dataclass(frozen=True)
class Joined:
    """What ``join`` did: the enrolment, the file it stands in, and why it is not taken yet ("" if it is)."""

    enrolment: Enrolment
    file: Path
    pending: str


def read_invite(path: Path) -> Invite:
    """Read an invitation's file. WardroundError where it can't be read or is none."""
    try:
        with path.open("rb") as file:
            return Invite.from_text(file.read(64 << 10))
    except OSError as error:
        raise WardroundError(f"{path}: cannot be read ({error.strerror})") from None
    except WardroundError as error:
        raise WardroundError(f"{path}: {error}") from None


def join(home: HospitalHome, invite: Invite, now: float, *, online: bool, file: Path | None = None) -> Joined:
    """Make the keys, trust the coordinator of the invitation from now on, and enrol with it.

    Without ``online``, or where the coordinator can't be reached, the enrolment's file has to be brought to
    it. WardroundError, with nobody trusted who was not before, for another hospital's invitation, an expired
    one, one that the coordinator does not take, or if this hospital belongs to another coordinator.
    """
    invite.check(now)
    if invite.hospital != home.name:
        raise WardroundError(
            f"the invitation is for `{invite.hospital}`, and this home is `{home.name}`'s; ask the "
            "coordinator for one of this name, or make a home of that name"
        )
    if home.coordinator_file.exists() and home.coordinator.address != invite.address:
        raise WardroundError(
            f"{home.path}: this hospital belongs to {home.coordinator.address}; "
            "first: wardround hospital leave"
        )
    home.make_keys()
    enrolment = make_enrolment(home.name, home.identity, home.node_key)
    place = file or Path(f"{home.name}.enrolment.json")
    write_file(place, enrolment.to_json())
    pending = "" if online else "it was asked not to go over the network"
    if online:
        try:
            _enrol(home, invite, enrolment)
        except LinkError as error:
            pending = str(error)
    home.write_coordinator(invite.coordinator, invite.address, invite.ca_pem)
    return Joined(enrolment, place, pending)


def _enrol(home: HospitalHome, invite: Invite, enrolment: Enrolment) -> None:
    """Send the enrolment with the one-time token.

    LinkError if there is no connection, EnrolmentRefused if the coordinator says no.
    """
    use_proxy(home)
    headers = {"content-type": "application/json", PROTOCOL_HEADER: str(PROTOCOL)}
    try:
        with (
            httpx.Client(verify=of_home(home, invite.ca_pem), timeout=_TIMEOUT_S) as client,
            client.stream(
                "POST",
                f"https://{invite.address}/wardround/enrol",
                content=EnrolmentRequest(enrolment, invite.token).to_json(),
                headers=headers,
            ) as response,
        ):
            body = b"".join(_limited(response))
    except (httpx.RequestError, OSError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise LinkError(f"{invite.address}: no connection ({reason})") from None
    if response.status_code in _NOT_NOW:
        raise LinkError(f"{invite.address}: {_NOT_NOW[response.status_code]}")
    try:
        reply = EnrolmentReply.from_json(body)
    except ProtocolError:
        raise LinkError(
            f"{invite.address}: what answers there is no coordinator (HTTP {response.status_code})"
        ) from None
    reply.check(enrolment)


def _limited(response: httpx.Response) -> list[bytes]:
    parts, size = [], 0
    for part in response.iter_bytes():
        size += len(part)
        if size > _MOST_REPLY:
            raise LinkError("what answers is no coordinator: it says too much")
        parts.append(part)
    return parts
