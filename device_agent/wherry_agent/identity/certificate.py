"""The few facts of a certificate that the agent needs: whose key, and from when to when.

Reads just enough of DER (X.690) to walk to them (RFC 5280, 4.1); whether a certificate is
to be trusted is OpenSSL's to say.
"""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from wherry_contract.errors import IdentityError

_SEQUENCE: Final = 0x30
_VERSION: Final = 0xA0
_UTC_TIME: Final = 0x17
_FORMS: Final = {0x17: "%y%m%d%H%M%SZ", 0x18: "%Y%m%d%H%M%SZ"}
_BEFORE_VALIDITY: Final = 3  # serial number, signature, issuer


@dataclass(frozen=True)
class Certificate:
    """What a certificate says.

    Attributes:
        fingerprint: SHA-256 of the public key (SubjectPublicKeyInfo, DER), hexadecimal.
        not_before: Unix seconds.
        not_after: Unix seconds.
    """

    fingerprint: str
    not_before: float
    not_after: float


def read_certificate(pem: str) -> Certificate:
    """Read the first certificate of a PEM text.

    Raises:
        IdentityError: I06, it is none.
    """
    try:
        der = to_der(pem)
        certificate = _inside(der, 0)
        body = _inside(der, certificate[0])
        at = body[0]
        if der[at] == _VERSION:
            at = _span(der, at)[1]
        for _ in range(_BEFORE_VALIDITY):
            at = _span(der, at)[1]
        validity = _inside(der, at)
        first = _time(der, validity[0])
        last = _time(der, _span(der, validity[0])[1])
        subject = _span(der, at)[1]
        key = _span(der, subject)[1]
        whole = der[key : _span(der, key)[1]]
    except (ValueError, IndexError, KeyError) as error:
        raise IdentityError("I06", "the certificate cannot be read") from error
    return Certificate(hashlib.sha256(whole).hexdigest(), first, last)


def to_der(pem: str) -> bytes:
    """The first certificate of a PEM text as DER.

    Raises:
        ValueError: there is none.
    """
    begin, end = pem.find(ssl.PEM_HEADER), pem.find(ssl.PEM_FOOTER)
    if begin < 0 or end < begin:
        raise ValueError("no certificate")
    return ssl.PEM_cert_to_DER_cert(pem[begin : end + len(ssl.PEM_FOOTER)])


def _span(der: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at `at` begins, and where it ends."""
    length, at = der[at + 1], at + 2
    if length > 0x80:
        count = length & 0x7F
        length, at = int.from_bytes(der[at : at + count], "big"), at + count
    if at + length > len(der):
        raise ValueError("cut off")
    return at, at + length


def _inside(der: bytes, at: int) -> tuple[int, int]:
    if der[at] != _SEQUENCE:
        raise ValueError("no sequence")
    return _span(der, at)


def _time(der: bytes, at: int) -> float:
    begin, end = _span(der, at)
    text = der[begin:end].decode("ascii")
    moment = datetime.strptime(text, _FORMS[der[at]]).replace(tzinfo=UTC)
    if der[at] == _UTC_TIME and moment.year >= 2050:  # RFC 5280, 4.1.2.5.1
        moment = moment.replace(year=moment.year - 100)
    return moment.timestamp()
