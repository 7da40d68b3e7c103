"""A coordinator's home: one folder with its configuration, certificates, registry and studies."""

from __future__ import annotations

import ipaddress
import os
import pwd
from functools import cached_property
from pathlib import Path
from typing import Literal

from wardround_common.enrolment import check_name, split_address
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.files import read_private, write_file, write_private
from wardround_common.home import Address, Home, Name, Part, make_folders, read_toml, toml_text
from wardround_common.sealing.identity import Identity
from wardround_server.certificates import make_ca, make_server, server_fault
from wardround_server.database import COORDINATOR
from wardround_server.registry import Registry

CONTROL_PORT = 9091


class CoordinatorPart(Part):
    """`[coordinator]`.

    ``address`` is what hospitals dial, ``listen`` where this machine listens for them, ``control_port``
    where Flower's own APIs are, on loopback only. ``database``: Flower's state, a file of the home, or
    `:memory:`.
    """

    name: Name
    address: Address
    listen: Address
    control_port: int = CONTROL_PORT
    database: str = "superlink.db"


class AccessPart(Part):
    """`[access]`.

    ``tokens``: `optional` takes whoever can read the home for an operator, `required` asks for a user's
    token first.
    """

    tokens: Literal["optional", "required"] = "optional"


class CoordinatorConfig(Part):
    """config.toml of a coordinator."""

    coordinator: CoordinatorPart
    access: AccessPart = AccessPart()


class CoordinatorHome(Home):
    """Paths and contents of a home."""

    whose = "coordinator's"
    made_by = "wardround coordinator init"
    _actor = COORDINATOR

    @property
    def ca_key_file(self) -> Path:
        """The CA's key, which may be kept elsewhere."""
        return self.path / "ca" / "ca.key"

    @property
    def ca_file(self) -> Path:
        """The CA's certificate, which hospitals pin."""
        return self.path / "ca" / "ca.crt"

    @property
    def server_key_file(self) -> Path:
        """The server's key."""
        return self.path / "keys" / "server.key"

    @property
    def server_file(self) -> Path:
        """The server's certificate."""
        return self.path / "keys" / "server.crt"

    @property
    def audit_key_file(self) -> Path:
        """The key that signs the audit log's checkpoints."""
        return self.path / "keys" / "audit.key"

    @property
    def audit_key(self) -> Identity:
        """The audit log's key. WardroundError where it can't be had."""
        try:
            return Identity.from_pem(read_private(self.audit_key_file))
        except ProtocolError as error:
            raise WardroundError(f"{self.audit_key_file}: {error}; restore it from your back-up") from None

    @property
    def log_file(self) -> Path:
        """The log of `coordinator serve`."""
        return self.path / "logs" / "serve.log"

    @property
    def flower_home(self) -> Path:
        """Where Flower keeps the apps that it unpacks."""
        return self.path / "flower"

    @property
    def studies(self) -> Path:
        """A folder for each study."""
        return self.path / "studies"

    @cached_property
    def config(self) -> CoordinatorPart:
        """The configuration."""
        found = self._config.coordinator
        if not 0 < found.control_port < 1 << 16:
            raise WardroundError(f"{self.config_file}: coordinator.control_port: a port is from 1 to 65535")
        return found

    @property
    def access(self) -> AccessPart:
        """Who has to show a token."""
        return self._config.access

    @cached_property
    def _config(self) -> CoordinatorConfig:
        return read_toml(self.config_file, CoordinatorConfig, "deploy/samples/coordinator-advanced.toml")

    @cached_property
    def registry(self) -> Registry:
        """Who was invited and admitted, the users, and the audit log."""
        return Registry(self.path / "coordinator.db", actor=self._actor)

    def act_for(self, actor: str) -> None:
        """Put what is done from now on down to this one in the audit log."""
        self._actor = actor
        if self.has_opened_registry:
            self.registry.actor = actor

    @property
    def has_opened_registry(self) -> bool:
        """Whether the registry is open, which it is from when it was needed."""
        return "registry" in self.__dict__

    @property
    def database(self) -> str:
        """Flower's database as it names it."""
        named = self.config.database
        return ":flwr-in-memory:" if named == ":memory:" else str(self.path / named)

    @property
    def ca_pem(self) -> str:
        """The CA's certificate. WardroundError where it is not there."""
        return _certificate(self.ca_file).decode("ascii", "replace")

    def check_certificates(self) -> None:
        """Raise WardroundError unless the CA's certificate is there and the server's can be served."""
        _certificate(self.ca_file)
        fault = server_fault(read_private(self.server_key_file), _certificate(self.server_file))
        if fault:
            raise WardroundError(
                f"{self.server_file}: {fault}; make a new one: wardround coordinator renew-certificate"
            )

    def renew_certificate(self) -> None:
        """Make a new server key and certificate. WardroundError where the CA's key is not there."""
        if not self.ca_key_file.exists():
            raise WardroundError(
                f"{self.ca_key_file}: not there; bring the CA's key back for as long as this takes"
            )
        host, _ = split_address(self.config.address)
        key, certificate = make_server(read_private(self.ca_key_file), _certificate(self.ca_file), host)
        write_private(self.server_key_file, key)
        write_file(self.server_file, certificate)


def make_home(
    path: Path, name: str, address: str, listen: str | None, control_port: int, database: str = ""
) -> CoordinatorHome:
    """Make a coordinator's home with a CA of its own. WardroundError if there is one already."""
    check_name(name)
    host, port = split_address(address)
    home = CoordinatorHome(path)
    if home.config_file.exists():
        raise WardroundError(f"{path}: there is a home already; leave it as it is, or choose another folder")
    place = listen or f"{'127.0.0.1' if _is_loopback(host) else '0.0.0.0'}:{port}"  # noqa: S104 (it is a server)
    split_address(place)
    make_folders(path, "ca", "keys", "logs", "studies", "flower")
    key, certificate = make_ca(name)
    write_private(home.ca_key_file, key)
    write_file(home.ca_file, certificate)
    if not home.audit_key_file.exists():  # a registry that is there still may hold what it signed
        write_private(home.audit_key_file, Identity.generate().to_pem())
    lines = [
        "[coordinator]",
        f"name = {toml_text(name)}",
        f"address = {toml_text(address)}",
        f"listen = {toml_text(place)}",
        f"control_port = {control_port}",
        *([f"database = {toml_text(database)}"] if database else []),
        "",
    ]
    write_file(home.config_file, "\n".join(lines))
    home.renew_certificate()
    home.registry.audit("init", detail=f"audit key {home.audit_key.public.hex()}", actor=owner())
    home.registry.close()
    del home.registry
    return home


def owner() -> str:
    """Return what the audit log calls whoever uses the home's files and shows no token."""
    try:
        return f"home:{pwd.getpwuid(os.geteuid()).pw_name}"
    except KeyError:  # a container's user may have no name
        return f"home:{os.geteuid()}"


def _certificate(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise WardroundError(
            f"{path}: cannot be read ({error.strerror}); restore it from your back-up"
        ) from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
