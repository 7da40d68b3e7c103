"""The coordinator's own certificate authority: hospitals trust it alone, so no public one can replace it.

ECDSA on P-256. The CA's key is needed for a new server certificate only and may be kept elsewhere.
"""

from __future__ import annotations

import ipaddress
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InternalError, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import (
    SECP256R1,
    EllipticCurvePrivateKey,
    generate_private_key,
)
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wardround_common.errors import WardroundError

BAD_PEM = (ValueError, TypeError, UnsupportedAlgorithm, InternalError, x509.InvalidVersion)
CA_DAYS = 3650
SERVER_DAYS = 398
_SKEW = timedelta(hours=1)  # a hospital's clock may be behind


def make_ca(name: str) -> tuple[bytes, bytes]:
    """Return a new CA's key and certificate, PEM."""
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"{name[:40]} Wardround CA")])
    certificate = (
        _certificate(subject, subject, key, CA_DAYS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return _pem(key), certificate.public_bytes(Encoding.PEM)


def make_server(
    ca_key: bytes, ca_certificate: bytes, host: str, days: int = SERVER_DAYS
) -> tuple[bytes, bytes]:
    """Return a new key and certificate for a server that hospitals reach as ``host``; PEM.

    It is valid for this machine's loopback too, where the coordinator's own processes talk. WardroundError
    if the key is not that of the CA.
    """
    try:
        signing = load_pem_private_key(ca_key, password=None)
        authority = x509.load_pem_x509_certificate(ca_certificate)
        belong = signing.public_key() == authority.public_key()
    except BAD_PEM:
        raise WardroundError(
            "the CA's key or certificate is not PEM; restore both from your back-up"
        ) from None
    if not isinstance(signing, EllipticCurvePrivateKey) or not belong:
        raise WardroundError(
            "the CA's key does not belong to its certificate; restore both from your back-up"
        )
    key = generate_private_key(SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host[:64])])
    names = list(dict.fromkeys([_alternative(host), _alternative("localhost"), _alternative("127.0.0.1")]))
    certificate = (
        _certificate(subject, authority.subject, key, days)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signing.public_key()), critical=False
        )
        .sign(signing, hashes.SHA256())
    )
    return _pem(key), certificate.public_bytes(Encoding.PEM)


def server_fault(key: bytes, certificate: bytes) -> str:
    """Return why a server can't use this key and certificate (PEM), or nothing."""
    try:
        public = load_pem_private_key(key, password=None).public_key()
        found = x509.load_pem_x509_certificate(certificate)
        belong = public == found.public_key()
    except BAD_PEM:
        return "the server's key or certificate is not PEM"
    if not belong:
        return "the server's key does not belong to its certificate"
    if found.not_valid_after_utc < datetime.now(UTC):
        return f"expired on {found.not_valid_after_utc:%Y-%m-%d} by this machine's clock"
    return ""


def expires(certificate: bytes) -> datetime:
    """Return when a PEM certificate ends. WardroundError if it is none."""
    try:
        return x509.load_pem_x509_certificate(certificate).not_valid_after_utc
    except BAD_PEM:
        raise WardroundError("the certificate is not PEM; make a new one: renew-certificate") from None


def _certificate(
    subject: x509.Name, issuer: x509.Name, key: EllipticCurvePrivateKey, days: int
) -> x509.CertificateBuilder:
    now = datetime.now(UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _SKEW)
        .not_valid_after(now + timedelta(days=days))
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return x509.DNSName(host)


def _pem(key: EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
