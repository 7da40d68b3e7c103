"""A coordinator's home: one folder with its configuration, certificates, registry and studies."""

from __future__ import annotations

import ipaddress
from functools import cached_property
from pathlib import Path

from wardround_common.enrolment import check_name, split_address
from wardround_common.errors import WardroundError
from wardround_common.files import read_private, write_file, write_private
from wardround_common.home import Address, Home, Name, Part, make_folders, read_toml, toml_text
from wardround_server.certificates import make_ca, make_server, server_fault
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


class CoordinatorConfig(Part):
    """config.toml of a coordinator."""

    coordinator: CoordinatorPart


class CoordinatorHome(Home):
    """Paths and contents of a home."""

    whose = "coordinator's"
    made_by = "wardround coordinator init"

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
        found = read_toml(
            self.config_file, CoordinatorConfig, "deploy/samples/coordinator-advanced.toml"
        ).coordinator
        if not 0 < found.control_port < 1 << 16:
            raise WardroundError(f"{self.config_file}: coordinator.control_port: a port is from 1 to 65535")
        return found

    @cached_property
    def registry(self) -> Registry:
        """Who was invited and admitted."""
        return Registry(self.path / "coordinator.db")

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
    home.registry.close()
    del home.registry
    return home


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
