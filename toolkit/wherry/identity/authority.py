"""The fleet's own certificate authority: one key, made at the first start, that signs for nobody else.

    fleet-ca.pem    its certificate, 20 years
    fleet-ca.key    its key, mode 0600; encrypted if a passphrase was set
    server.pem/.key what the listeners show; it lasts as long as the authority, because a
                    thief of the one has the other: both lie on this machine

Devices trust this authority and no other, and it signs for this fleet and no other, so no
public authority and no proxy can stand in between. ECDSA on P-256 with SHA-256 (RFC 5280,
RFC 8446): every TLS library and every secure element has it.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from wherry.broker_settings import SERVER
from wherry.files import write_durably
from wherry.keys import PASSPHRASE
from wherry_contract.errors import IdentityError, SetupError
from wherry_contract.wire import SLUG

CERTIFICATE_SECONDS: Final = 5 * 365 * 86_400.0  # of a device; renewed after two thirds of it
_AUTHORITY_DAYS: Final = 20 * 365
_SKEW: Final = timedelta(days=1)  # a device's clock may lag so far behind ours
_PEM: Final = serialization.Encoding.PEM
_HASH: Final = hashes.SHA256()


@dataclass(frozen=True)
class Issued:
    """A device's certificate.

    Attributes:
        pem: the certificate.
        serial: hexadecimal, as TLS shows it.
        fingerprint: SHA-256 of the public key (SubjectPublicKeyInfo, DER), hexadecimal.
        not_after: Unix seconds.
    """

    pem: str
    serial: str
    fingerprint: str
    not_after: float


@dataclass(frozen=True)
class Shown:
    """A certificate that this authority signed, however old."""

    device: str
    serial: str
    fingerprint: str
    key: ec.EllipticCurvePublicKey


class Authority:
    """Signs certificates of devices and of the server."""

    def __init__(self, folder: Path, *, passphrase: str | None = None) -> None:
        """Load the authority, or make it.

        Args:
            folder: where its files lie.
            passphrase: of its key; by default `$WHERRY_KEY_PASSPHRASE`.

        Raises:
            SetupError: H02, its key cannot be opened.
            StoreError: D01 or D06.
        """
        self.folder = folder
        secret = os.environ.get(PASSPHRASE, "") if passphrase is None else passphrase
        if not self._key_file.exists():
            _make(self._key_file, self.file, secret)
        self._key = _load_key(self._key_file, secret)
        try:
            self._certificate = x509.load_pem_x509_certificate(self.file.read_bytes())
        except (OSError, ValueError) as error:
            raise SetupError("H02", f"{self.file}: {error}") from error

    @property
    def file(self) -> Path:
        """The certificate's file, PEM."""
        return self.folder / "fleet-ca.pem"

    @property
    def _key_file(self) -> Path:
        return self.folder / "fleet-ca.key"

    @property
    def pem(self) -> str:
        """The certificate."""
        return self._certificate.public_bytes(_PEM).decode()

    @property
    def der(self) -> bytes:
        """The certificate, as claim codes name it."""
        return self._certificate.public_bytes(serialization.Encoding.DER)

    # --- certificates -------------------------------------------------------------------

    def issue(
        self, key: ec.EllipticCurvePublicKey, device: str, now: float, seconds: float
    ) -> Issued:
        """Certify a device's key for `seconds` from `now` (Unix seconds)."""
        start = _moment(now) - _SKEW
        end = min(_moment(now + seconds), self._certificate.not_valid_after_utc)
        certificate = self._sign(
            _named(device), key, (min(start, end), end), [ExtendedKeyUsageOID.CLIENT_AUTH]
        )
        return Issued(
            certificate.public_bytes(_PEM).decode(),
            _serial(certificate),
            fingerprint(key),
            end.timestamp(),
        )

    def serve_as(self, names: Iterable[str], now: float) -> tuple[Path, Path]:
        """The server's certificate and key for these host names and addresses.

        Made anew when the names changed, or the authority did.

        Raises:
            StoreError: D01 or D06.
        """
        wanted = [_general(name) for name in sorted(set(names))]
        paths = self.folder / "server.pem", self.folder / "server.key"
        if not self._serves(paths, wanted):
            key = ec.generate_private_key(ec.SECP256R1())
            whole = (_moment(now) - _SKEW, self._certificate.not_valid_after_utc)
            alternative = x509.SubjectAlternativeName(wanted)
            both = [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            name = _named(SERVER)
            certificate = self._sign(name, key.public_key(), whole, both, alternative)
            write_durably(paths[1], _private(key, ""), mode=0o600)
            write_durably(paths[0], certificate.public_bytes(_PEM))
        return paths

    def _serves(self, paths: tuple[Path, Path], wanted: Sequence[Any]) -> bool:
        try:
            certificate = x509.load_pem_x509_certificate(paths[0].read_bytes())
            key = _load_key(paths[1], "")
        except (OSError, ValueError, SetupError):
            return False
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        mine = fingerprint(key.public_key()) == fingerprint(certificate.public_key())
        return mine and self._signed(certificate) and list(names) == list(wanted)

    def _sign(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        valid: tuple[datetime, datetime],
        uses: list[x509.ObjectIdentifier],
        alternative: x509.SubjectAlternativeName | None = None,
    ) -> x509.Certificate:
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._certificate.subject)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(valid[0])
            .not_valid_after(valid[1])
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(signs=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage(uses), critical=False)
            .add_extension(_issuer_key(self._certificate), critical=False)
        )
        if alternative:
            builder = builder.add_extension(alternative, critical=False)
        return builder.sign(self._key, _HASH)

    # --- what devices bring -------------------------------------------------------------

    def shown(self, pem: str) -> Shown:
        """Read a certificate that this authority signed; its dates do not matter here.

        Raises:
            IdentityError: I05, it is none of ours.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pem.encode())
            key = certificate.public_key()
            name = str(certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value)
        except (ValueError, TypeError, IndexError) as error:
            raise IdentityError("I05", "the certificate cannot be read") from error
        if not isinstance(key, ec.EllipticCurvePublicKey) or not self._signed(certificate):
            raise IdentityError("I05", "this fleet's authority did not sign the certificate")
        return Shown(name, _serial(certificate), fingerprint(key), key)

    def _signed(self, certificate: x509.Certificate) -> bool:
        try:
            certificate.verify_directly_issued_by(self._certificate)
        except (InvalidSignature, ValueError, TypeError):
            return False
        return True

    def revocations(self, serials: Iterable[str], number: int) -> bytes:
        """The list of certificates that are no longer good (RFC 5280, CRL), PEM.

        Args:
            serials: hexadecimal.
            number: grows with each list. Of two lists with one date OpenSSL keeps the
                first that it saw, so each list is a second younger than the one before.
        """
        made = self._certificate.not_valid_before_utc + timedelta(seconds=number)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._certificate.subject)
            .last_update(made)
            # a list that expires would lock the whole fleet out
            .next_update(self._certificate.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
        )
        for serial in serials:
            revoked = x509.RevokedCertificateBuilder().serial_number(int(serial, 16))
            builder = builder.add_revoked_certificate(revoked.revocation_date(made).build())
        return builder.sign(self._key, _HASH).public_bytes(_PEM)


def requested_key(csr: str) -> ec.EllipticCurvePublicKey:
    """The key of a certificate request whose own signature is right.

    The name in it is not looked at: who somebody is is said by the claim.

    Raises:
        IdentityError: I08.
    """
    try:
        request = x509.load_pem_x509_csr(csr.encode())
        key = request.public_key()
    except (ValueError, TypeError) as error:
        raise IdentityError("I08", "it is no PEM certificate request") from error
    if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
        raise IdentityError("I08", "the key should be an ECDSA key on P-256")
    if not request.is_signature_valid:
        raise IdentityError("I08", "its signature is wrong")
    return key


def make_request() -> tuple[bytes, str]:
    """A key (PEM) and its certificate request, for a device on this very machine."""
    key = ec.generate_private_key(ec.SECP256R1())
    nobody = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    request = nobody.sign(key, _HASH)
    return _private(key, ""), request.public_bytes(_PEM).decode()


def proves(key: ec.EllipticCurvePublicKey, signature: bytes, text: bytes) -> bool:
    """Whether a signature over a text was made with the private half of a key."""
    try:
        key.verify(signature, text, ec.ECDSA(_HASH))
    except InvalidSignature:
        return False
    return True


def fingerprint(key: Any) -> str:
    """SHA-256 of a public key (SubjectPublicKeyInfo, DER), hexadecimal."""
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(key.public_bytes(serialization.Encoding.DER, form)).hexdigest()


def _make(key_file: Path, file: Path, passphrase: str) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _named(f"Wherry fleet {fingerprint(key.public_key())[:16]}")
    start = datetime.now(UTC) - _SKEW
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=_AUTHORITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_usage(signs=True), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, _HASH)
    )
    # the key last: a certificate whose start was interrupted is made anew with its key
    write_durably(file, certificate.public_bytes(_PEM))
    write_durably(key_file, _private(key, passphrase), mode=0o600)


def _load_key(path: Path, passphrase: str) -> ec.EllipticCurvePrivateKey:
    try:
        secret = passphrase.encode() if passphrase else None
        data = path.read_bytes()
        key = serialization.load_pem_private_key(data, secret if b"ENCRYPTED" in data else None)
    except (OSError, ValueError, TypeError) as error:
        cure = f"set ${PASSPHRASE} to its passphrase, or put the file back"
        raise SetupError("H02", f"{path} cannot be opened", cure=cure) from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise SetupError("H02", f"{path} is no ECDSA key")
    return key


def _private(key: ec.EllipticCurvePrivateKey, passphrase: str) -> bytes:
    lock: serialization.KeySerializationEncryption = serialization.NoEncryption()
    if passphrase:
        lock = serialization.BestAvailableEncryption(passphrase.encode())
    return key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, lock)


def _named(name: str) -> x509.Name:
    assert re.fullmatch(f"{SLUG}|{SERVER}|Wherry fleet [0-9a-f]+", name), name  # noqa: S101 - ours
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


def _general(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _usage(*, signs: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs,
        crl_sign=signs,
        encipher_only=False,
        decipher_only=False,
    )


def _issuer_key(authority: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    found = authority.extensions.get_extension_for_class(x509.SubjectKeyIdentifier)
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(found.value)


def _serial(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:X}"


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC).replace(microsecond=0)
