"""A lab's own certificate authority, and the certificate of its broker."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from nrp_common.errors import SettingsError

AUTHORITY_LASTS: Final = timedelta(days=3650)

CERTIFICATE_LASTS: Final = timedelta(days=825)
"""Longer ones are refused by some clients."""

CLOCKS_DIFFER: Final = timedelta(days=1)
"""How much earlier than now a certificate is valid already."""


def new_key() -> ec.EllipticCurvePrivateKey:
    """A private key. Small and quick: the broker signs with it at each connection."""
    return ec.generate_private_key(ec.SECP256R1())


def key_as_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    """A private key as a file holds it, without a passphrase."""
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def as_pem(certificate: x509.Certificate) -> bytes:
    """A certificate as a file holds it."""
    return certificate.public_bytes(serialization.Encoding.PEM)


def read_key(pem: bytes, where: object) -> ec.EllipticCurvePrivateKey:
    """The private key in a file that this module wrote.

    Raises:
        SettingsError: it holds none; names `where`.
    """
    key = _load_key(pem, where)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SettingsError(f"{where} holds a private key of another kind than this program makes")
    return key


def read_certificate(pem: bytes, where: object) -> x509.Certificate:
    """The first certificate in a file.

    Raises:
        SettingsError: it holds none; names `where`.
    """
    try:
        return x509.load_pem_x509_certificate(pem)
    except ValueError as error:
        raise SettingsError(f"{where} holds no certificate: {error}") from error


def new_authority(key: ec.EllipticCurvePrivateKey) -> x509.Certificate:
    """A certificate authority that signs certificates of hosts, and no further authorities."""
    now = datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"NRP broker authority {now:%Y-%m-%d %H:%M:%S}")])
    return (
        _certificate(name, name, key.public_key(), now, AUTHORITY_LASTS)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage(signs_certificates=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )


def new_certificate(
    key: ec.EllipticCurvePrivateKey,
    hosts: Sequence[str],
    authority: x509.Certificate,
    authority_key: ec.EllipticCurvePrivateKey,
) -> x509.Certificate:
    """The certificate of a broker.

    Args:
        key: the broker's.
        hosts: names and addresses under which clients reach it.
        authority: signs it.
        authority_key: its.
    """
    now = datetime.now(UTC)
    lasts = min(CERTIFICATE_LASTS, authority.not_valid_after_utc - now)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "NRP broker")])
    return (
        _certificate(name, authority.subject, key.public_key(), now, lasts)
        .add_extension(x509.SubjectAlternativeName([_general_name(each) for each in hosts]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )


def hosts_of(certificate: x509.Certificate) -> list[str]:
    """The names and addresses that a certificate is for."""
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return []
    addresses = [str(each) for each in names.get_values_for_type(x509.IPAddress)]
    return [*names.get_values_for_type(x509.DNSName), *addresses]


def is_signed_by(certificate: x509.Certificate, authority: x509.Certificate) -> bool:
    """Whether an authority has signed a certificate."""
    try:
        certificate.verify_directly_issued_by(authority)
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def is_for(certificate: x509.Certificate, key_pem: bytes, where: object) -> bool:
    """Whether a certificate is for the private key, of whatever kind, in a file.

    Raises:
        SettingsError: the file holds none; names `where`.
    """
    return certificate.public_key() == _load_key(key_pem, where).public_key()


def days_left(certificate: x509.Certificate) -> int:
    """How many days a certificate is valid still; below 0 when it has expired."""
    return (certificate.not_valid_after_utc - datetime.now(UTC)).days


def _certificate(
    subject: x509.Name,
    issuer: x509.Name,
    public_key: ec.EllipticCurvePublicKey,
    now: datetime,
    lasts: timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCKS_DIFFER)
        .not_valid_after(now + lasts)
    )


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
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


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as error:
        raise SettingsError(f"'{host}' is no name of a host: {error}") from error


def _load_key(pem: bytes, where: object) -> PrivateKeyTypes:
    try:
        return serialization.load_pem_private_key(pem, password=None)
    except (ValueError, TypeError) as error:
        raise SettingsError(f"{where} holds no private key that can be read: {error}") from error
