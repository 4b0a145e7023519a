"""How a device becomes a member of a fleet, and stays one: claim codes, requests, proofs.

    GET  <enrol>/authority   the fleet's certificate authority, as PEM; read by anybody
    POST <enrol>/claim       claim code and certificate request  -> certificate and papers
    POST <enrol>/nonce       -> a nonce that is good for a few minutes
    POST <enrol>/renew       certificate (expired or not), nonce and a signature over both
                             -> a new certificate for the same key

A claim code names the authority that it belongs to, so that a device which knows nothing
yet can tell its fleet's server from one that stands in between.
"""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from .errors import IdentityError
from .wire import SLUG, Domain, Fields, compact, parse_json

LIMIT_BYTES: Final = 64 * 1024
PEM_LIMIT: Final = 16 * 1024
_REQUEST: Final = Domain(IdentityError, "I08", "I08", "I08", "I08")
_SECRET_BYTES: Final = 10  # 80 bits, guessed over the network only
_NAMED_BYTES: Final = 14  # 112 bits of the authority's digest
_GROUP: Final = 5  # characters between two dashes
FILES: Final = ("agent.toml", "root.json", "trust.json", "device.pem", "fleet-ca.pem")


@dataclass(frozen=True)
class ClaimCode:
    """What lets one device in, once.

    Attributes:
        secret: known to whoever holds the code; the server keeps its digest.
        authority: the first bytes of the SHA-256 of the authority's certificate (DER).
    """

    secret: bytes
    authority: bytes

    @classmethod
    def new(cls, authority: bytes) -> ClaimCode:
        """A fresh code for the authority with this certificate (DER)."""
        return cls(secrets.token_bytes(_SECRET_BYTES), _named(authority))

    @classmethod
    def from_text(cls, text: str) -> ClaimCode:
        """Read a code as a person types it: case, dashes and spaces do not matter.

        Raises:
            IdentityError: I01; a last byte tells most slips of the pen.
        """
        plain = re.sub(r"[\s-]", "", text[:200]).upper()
        if not re.fullmatch(r"[A-Z2-7]{40}", plain):
            raise IdentityError("I01", "a claim code has 40 letters and digits from 2 to 7")
        data = base64.b32decode(plain)
        if _check(data[:-1]) != data[-1:]:
            raise IdentityError("I01", "a letter is wrong")
        return cls(data[:_SECRET_BYTES], data[_SECRET_BYTES:-1])

    @property
    def text(self) -> str:
        """The code in groups, to be read out or printed."""
        data = self.secret + self.authority
        plain = base64.b32encode(data + _check(data)).decode()
        return "-".join(plain[at : at + _GROUP] for at in range(0, len(plain), _GROUP))

    @property
    def digest(self) -> str:
        """What the server keeps of the secret, 64 hexadecimal digits."""
        return hashlib.sha256(b"wherry/claim/1\n" + self.secret).hexdigest()

    def names(self, authority: bytes) -> bool:
        """Whether this is the authority (DER) that the code belongs to."""
        return self.authority == _named(authority)


def _named(authority: bytes) -> bytes:
    return hashlib.sha256(authority).digest()[:_NAMED_BYTES]


def _check(data: bytes) -> bytes:
    return hashlib.sha256(b"wherry/claim-check/1\n" + data).digest()[:1]


def proof_text(nonce: str, device: str) -> bytes:
    """What a device signs with its key (ECDSA, SHA-256) to get a new certificate."""
    return f"wherry/renew/1\n{nonce}\n{device}\n".encode()


@dataclass(frozen=True)
class EnrolRequest:
    """A device that asks to be let in.

    Attributes:
        claim: the claim code.
        device: the id that it wants; "" for the one that the claim was made for.
        csr: its certificate request, PEM; the key was made on the device and stays there.
        listen: its serving port, "" for the agent's default.
    """

    claim: str
    device: str
    csr: str
    listen: str = ""

    @classmethod
    def from_bytes(cls, data: bytes) -> EnrolRequest:
        """Read it.

        Raises:
            IdentityError: I08.
        """
        fields = _read(data, "enrol", "wherry/enrol")
        return cls(
            claim=fields.text("claim", limit=200),
            device=fields.text("device", "", pattern=SLUG),
            csr=fields.text("csr", limit=PEM_LIMIT),
            listen=fields.text("listen", "", limit=256),
        )

    def to_bytes(self) -> bytes:
        """Write it."""
        return compact({"schema": "wherry/enrol/1"} | self.__dict__)


@dataclass(frozen=True)
class RenewRequest:
    """A device that shows that it still has its key.

    Attributes:
        certificate: its certificate, PEM; it may have expired.
        nonce: of the server.
        signature: over `proof_text`, base64 of DER.
    """

    certificate: str
    nonce: str
    signature: str

    @classmethod
    def from_bytes(cls, data: bytes) -> RenewRequest:
        """Read it.

        Raises:
            IdentityError: I08.
        """
        fields = _read(data, "renew", "wherry/renew")
        return cls(
            certificate=fields.text("certificate", limit=PEM_LIMIT),
            nonce=fields.text("nonce", pattern="[0-9a-f]{16,200}"),
            signature=fields.text("signature", pattern="[A-Za-z0-9+/=]{16,400}"),
        )

    def to_bytes(self) -> bytes:
        """Write it."""
        return compact({"schema": "wherry/renew/1"} | self.__dict__)


@dataclass(frozen=True)
class Papers:
    """What a device is given: files by name, of those in `FILES` alone."""

    device: str
    files: Mapping[str, str]

    @classmethod
    def from_bytes(cls, data: bytes) -> Papers:
        """Read them; a file of any other name is refused, wherever it would lie.

        Raises:
            IdentityError: I08.
        """
        fields = _read(data, "papers", "wherry/device-papers")
        files = fields.mapping("files")
        for name, text in files.items():
            if name not in FILES or not isinstance(text, str):
                raise fields.error(f"files.{name[:40]}", "one of " + ", ".join(FILES))
        return cls(fields.text("device", pattern=SLUG), files)

    def to_bytes(self) -> bytes:
        """Write them."""
        return compact(
            {"schema": "wherry/device-papers/1", "device": self.device, "files": dict(self.files)}
        )


def _read(data: bytes, what: str, schema: str) -> Fields:
    document: dict[str, Any] = parse_json(data, limit=LIMIT_BYTES, what=what, domain=_REQUEST)
    fields = Fields(document, what, _REQUEST)
    fields.schema(schema)
    return fields
