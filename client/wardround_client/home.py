"""A hospital's home: one folder with its configuration, policy, keys and databases."""

from __future__ import annotations

import getpass
import os
import secrets
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP384R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
    load_ssh_private_key,
)
from pydantic import Field

from wardround_client.gate import Policy, read_policy
from wardround_client.store import NodeStore
from wardround_common.enrolment import check_name
from wardround_common.errors import ProtocolError, WardroundError
from wardround_common.files import read_private, write_file, write_private
from wardround_common.home import Address, Home, Name, Part, make_folders, read_toml, toml_text
from wardround_common.sealing.identity import Identity

K = TypeVar("K")
_ROW_KEY_BYTES = 32
_POLICY = """\
# What this hospital asks of every study; one that asks for less is refused. Every key is optional.
# profile = "cms11"   # small cells as others ask: cms11, nhs7, ohdsi5, datashield3; keys below go before it
min_hospitals = 3    # a sum is over this many hospitals at least
min_rows = 10        # this hospital abstains with fewer usable rows
min_cell = 11        # published counts from 1 to 10 are suppressed; nor may analyses differ by so few rows
max_share = 0.9      # no answer with more of an analysis's rows than this: the sum would be nearly its own
max_queries = 1000   # answered of one study at most
max_queries_month = 10000
plan = "verified"    # this node derives each question itself; "trusted": studies may run that ask at will
seal = "sums"        # only masked numbers leave; "none": studies may run in which this hospital's own do
# Sums over a set of hospitals and over the set without this one tell this one's part. May both be opened?
# "allow": yes; "group": only where min_hospitals or more are the difference; "never": nor does a study that
# has begun with this hospital ever go on without it. Without "allow", a hospital that has too few rows for
# one analysis of a study takes part in none of it.
leave = "group"
max_epochs = 3       # sets of hospitals that are nearly the same as another, over all studies
hold = false         # true: every release waits for a person (wardround hospital releases)
# analyses = ["summary", "logistic"]   # the kinds that may run here; all, if left out
# variables = ["age", "sex"]           # the variables that may be asked for; all, if left out
# coordinators = ["example"]           # who may ask; all that this hospital has joined, if left out
# statements = ["metrics"]             # rounded facts that may be told about this hospital alone; none
# differential_privacy = "required"    # refuse studies without it
"""


class HospitalPart(Part):
    """`[hospital]`."""

    name: Name


class DataPart(Part):
    """`[data]`: the table that studies read, unless `[data.studies]` names another for one of them."""

    table: str | None = None
    studies: dict[str, str] = Field(default_factory=dict)


class NetworkPart(Part):
    """`[network]`: a proxy to go out by (else HTTPS_PROXY), and the CA of a TLS-inspecting one."""

    proxy: str | None = None
    inspection_ca: str | None = None


class HospitalConfig(Part):
    """config.toml of a hospital."""

    hospital: HospitalPart
    data: DataPart = DataPart()
    network: NetworkPart = NetworkPart()


class CoordinatorPart(Part):
    """coordinator.toml, which `join` writes: whom this hospital belongs to."""

    name: str
    address: Address


class HospitalHome(Home):
    """Paths and contents of a home."""

    whose = "hospital's"
    made_by = "wardround hospital init --name NAME"

    @property
    def policy_file(self) -> Path:
        """policy.toml."""
        return self.path / "policy.toml"

    @property
    def coordinator_file(self) -> Path:
        """coordinator.toml, there once this hospital has joined."""
        return self.path / "coordinator.toml"

    @property
    def node_key_file(self) -> Path:
        """The key with which the node logs in to Flower."""
        return self.path / "keys" / "node.key"

    @property
    def identity_file(self) -> Path:
        """The key with which the hospital signs."""
        return self.path / "keys" / "identity.key"

    @property
    def row_key_file(self) -> Path:
        """The key under which rows are told apart and pinned cohorts are known again."""
        return self.path / "keys" / "rows.key"

    @property
    def ca_file(self) -> Path:
        """The coordinator's CA, the only one that is trusted."""
        return self.path / "keys" / "coordinator-ca.crt"

    def snapshot_file(self, digest: bytes) -> Path:
        """The cohort of an approved study."""
        return self.path / "cohorts" / f"{digest.hex()}.npz"

    @cached_property
    def config(self) -> HospitalConfig:
        """The configuration."""
        return read_toml(self.config_file, HospitalConfig, "deploy/samples/hospital-advanced.toml")

    @property
    def name(self) -> str:
        """The hospital's name."""
        return self.config.hospital.name

    @property
    def policy(self) -> Policy:
        """The hospital's floors; the defaults where there is no policy.toml."""
        return read_policy(self.policy_file) if self.policy_file.exists() else Policy()

    @cached_property
    def coordinator(self) -> CoordinatorPart:
        """Whom this hospital belongs to. WardroundError before it has joined."""
        if not self.coordinator_file.exists():
            raise WardroundError(
                f"{self.path}: this hospital has not joined a network; ask the coordinator for an "
                "invitation, then: wardround hospital join FILE"
            )
        return read_toml(self.coordinator_file, CoordinatorPart, "what `wardround hospital join` writes")

    @cached_property
    def store(self) -> NodeStore:
        """node.db, which only its owner may read."""
        path = self.path / "node.db"
        if path.exists() and path.stat().st_mode & 0o077:
            raise WardroundError(f"{path}: others on this machine can read it; chmod 600 {path}")
        return NodeStore(path, f"officer:{getpass.getuser()}")

    @cached_property
    def row_key(self) -> bytes:
        """The secret of row hashes and of pinned cohorts' digests, 32 bytes; it never leaves the home."""
        if not self.row_key_file.exists():  # a home from before there was one
            write_private(self.row_key_file, secrets.token_bytes(_ROW_KEY_BYTES))
        key = read_private(self.row_key_file)
        if len(key) != _ROW_KEY_BYTES:
            raise WardroundError(
                f"{self.row_key_file}: not {_ROW_KEY_BYTES} bytes; restore it from your back-up"
            )
        return key

    @cached_property
    def identity(self) -> Identity:
        """The signing key."""
        return _key(self.identity_file, Identity.from_pem)

    @cached_property
    def node_key(self) -> EllipticCurvePrivateKey:
        """Flower's key."""
        return _key(self.node_key_file, _node_key)

    def make_keys(self) -> None:
        """Make the keys that are not there yet; a key is never replaced."""
        if not self.identity_file.exists():
            write_private(self.identity_file, Identity.generate().to_pem())
        if not self.row_key_file.exists():
            write_private(self.row_key_file, secrets.token_bytes(_ROW_KEY_BYTES))
        if not self.node_key_file.exists():
            key = generate_private_key(SECP384R1())
            # in OpenSSH's form, the only one that Flower's own SuperNode reads
            write_private(
                self.node_key_file, key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
            )

    def table_of(self, study: str) -> Path:
        """Return the file that a study reads. WardroundError if the configuration names none."""
        data = self.config.data
        named = data.studies.get(study, data.table)
        if named is None:
            raise WardroundError(
                f'{self.config_file}: no table for `{study}`; write table = "FILE" under [data], or '
                "give --table FILE"
            )
        return self.path / named

    def write_coordinator(self, name: str, address: str, ca_pem: str) -> None:
        """Note whom this hospital belongs to, and the CA that it trusts from now on."""
        write_private(self.ca_file, ca_pem.encode())
        write_file(self.coordinator_file, f"name = {toml_text(name)}\naddress = {toml_text(address)}\n")


def make_home(path: Path, name: str, table: Path | None) -> HospitalHome:
    """Make a hospital's home. WardroundError if there is one already, or the name is no name."""
    check_name(name)
    home = HospitalHome(path)
    if home.config_file.exists():
        raise WardroundError(f"{path}: there is a home already; leave it as it is, or choose another folder")
    make_folders(path, "logs")
    lines = ["[hospital]", f"name = {toml_text(name)}", "", "[data]"]
    if table is None:
        lines.append('# table = "patients.csv"            # the CSV or Parquet file that studies read')
    else:
        lines.append(f"table = {toml_text(os.path.abspath(table))}")  # noqa: PTH100 (the link itself is meant)
    write_file(home.config_file, "\n".join([*lines, ""]))
    write_file(home.policy_file, _POLICY)
    home.make_keys()
    return home


def _key(path: Path, load: Callable[[bytes], K]) -> K:
    try:
        return load(read_private(path))
    except ProtocolError as error:
        raise WardroundError(f"{path}: {error}; restore it from your back-up") from None


def _node_key(pem: bytes) -> EllipticCurvePrivateKey:
    load = load_ssh_private_key if b"OPENSSH PRIVATE KEY" in pem else load_pem_private_key
    try:
        key = load(pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm, InternalError):
        raise ProtocolError("the node's key is not a PEM private key") from None
    if not isinstance(key, EllipticCurvePrivateKey) or not isinstance(key.curve, SECP384R1):
        raise ProtocolError("the node's key is not an ECDSA key on P-384")
    return key
