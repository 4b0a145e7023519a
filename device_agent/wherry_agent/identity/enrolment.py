"""A device's identity: enrolment with a claim code, renewal by proof of possession.

The private key is made here by the `openssl` program and never leaves. A certificate that
has expired is no more than an old one: whoever can still sign with its key gets the next,
unless it was revoked. So a terminal that was switched off for years comes back by itself.
"""

from __future__ import annotations

import base64
import http.client
import random
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from wherry_agent.clock import Clock
from wherry_agent.link.fact import Fact
from wherry_agent.store import durable_write
from wherry_contract.errors import (
    CODES,
    IdentityError,
    LinkError,
    SetupError,
    WherryError,
    coded_error,
)
from wherry_contract.identity import (
    LIMIT_BYTES,
    ClaimCode,
    EnrolRequest,
    Papers,
    RenewRequest,
    proof_text,
)
from wherry_contract.when import to_text
from wherry_contract.wire import SETTINGS, Fields, parse_json

from . import openssl
from .certificate import Certificate, read_certificate, to_der
from .tls import Identity, Tls, fleet_context, tls_error

KEY_FILE: Final = "device.key"
_CONFIG_FILE: Final = "agent.toml"
_SECONDS: Final = 10.0  # without a byte; two requests fit between two pings of the broker
_RENEW_AFTER: Final = 2 / 3  # of a certificate's life
_RETRY_SECONDS: Final = (60.0, 6 * 3600.0)  # doubled each time, with jitter
_REFUSALS: Final = 3  # connections lost without a word that are taken for a refusal


@dataclass(frozen=True)
class Enrolment:
    """What `wherry-agent enroll` was told.

    Attributes:
        url: of the server's enrolment, as ``https://host:port/enrol``.
        claim: the claim code.
        device: the id that is wanted; "" for the one that the claim names.
        listen: the serving port; "" for the default.
        folder: where the files go.
        again: whether a device that has an identity here may get another, with a new key.
    """

    url: str
    claim: str
    device: str
    listen: str
    folder: Path
    again: bool


def enrol(order: Enrolment) -> Path:
    """Make a key, let the fleet's authority certify it, and write what the agent needs.

    The claim code names the authority, so the certificate's dates are not looked at: a
    board that is new need not know the time. Called again after a failure it goes on with
    the same key, and the same claim code is good for it.

    Returns:
        The path of agent.toml, which is written last.

    Raises:
        IdentityError: I01 to I04, I08.
        LinkError: L08, L09.
        SetupError: H03 there is an identity already, H05, H06 no openssl, H08.
        StoreError: D01 or D06.
        RolloutError: R06, R08.
    """
    code = ClaimCode.from_text(order.claim)
    config, key = order.folder / _CONFIG_FILE, order.folder / KEY_FILE
    if config.exists() and not order.again:
        cure = "choose another folder, or say --again"
        raise SetupError("H03", f"{config} is there already", cure=cure)
    authority = _authority(order.url, code)
    order.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = key.with_name(f"{KEY_FILE}.new") if order.again else key
    if not fresh.exists():
        durable_write(fresh, openssl.make_key())  # which only its owner can read
    csr = openssl.make_request(fresh).decode()
    request = EnrolRequest(order.claim, order.device, csr, order.listen)
    trusted = order.folder / ".fleet-ca.pem"
    durable_write(trusted, authority.encode())
    try:
        context = fleet_context(trusted, None)
        answer = _ask(order.url, "claim", request.to_bytes(), context)
    finally:
        trusted.unlink(missing_ok=True)
    _write_papers(order.folder, Papers.from_bytes(answer), fresh)
    return config


def _authority(url: str, code: ClaimCode) -> str:
    """The authority that the claim code names, fetched from whoever is there."""
    blind = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    blind.minimum_version = ssl.TLSVersion.TLSv1_3
    blind.check_hostname = False
    blind.verify_mode = ssl.CERT_NONE  # what comes is public, and held against the code
    pem = _ask(url, "authority", None, blind).decode(errors="replace")
    try:
        right = code.names(to_der(pem))
    except ValueError:
        right = False
    if not right:
        raise IdentityError("I03", f"{url} has another authority")
    return pem


def _write_papers(folder: Path, papers: Papers, key: Path) -> None:
    """Write what the server gave, agent.toml last.

    A new key keeps its own file until the end, so that an enrolment which is interrupted
    here goes on with it.
    """
    files = dict(papers.files)
    if not {_CONFIG_FILE, "device.pem", "fleet-ca.pem"} <= set(files):
        raise IdentityError("I08", "the server's answer lacks a file")
    read_certificate(files["device.pem"])
    config = files.pop(_CONFIG_FILE)
    if key.name != KEY_FILE:
        durable_write(folder / KEY_FILE, key.read_bytes())
    for name, text in files.items():
        durable_write(folder / name, text.encode())
    durable_write(folder / _CONFIG_FILE, config.encode())
    if key.name != KEY_FILE:
        key.unlink()


def ask_time(identity: Identity, question: bytes) -> bytes:
    """Ask the fleet's server for the time; the answer is signed, and the caller verifies it.

    Dates of certificates are not looked at here: they cannot be, before the time is known.

    Args:
        identity: where, and which authority to trust.
        question: the body (`wherry_contract.told_time`).

    Raises:
        LinkError: L08 to L10, L13.
        WherryError: as the server raised it.
    """
    return _ask(identity.enrol, "time", question, fleet_context(identity.authority, None))


def renew(identity: Identity, device: str, now: Callable[[], float]) -> Certificate:
    """Get a new certificate for our key, by showing that we have it.

    Args:
        identity: who we are; our certificate may have expired long ago.
        device: our id.
        now: the clock that the server's certificate is held against, Unix seconds.

    Raises:
        IdentityError: I04 revoked, I05, I06 the files do not belong together.
        LinkError: L08 to L11.
        SetupError: H05, H06.
        StoreError: D01 or D06.
    """
    held = _read(identity.certificate)
    old = read_certificate(held)
    context = fleet_context(identity.authority, now)
    nonce = _ask(identity.enrol, "nonce", b"", context).decode(errors="replace").strip()
    signature = base64.b64encode(openssl.sign(identity.key, proof_text(nonce, device))).decode()
    request = RenewRequest(held, nonce, signature)
    files = Papers.from_bytes(_ask(identity.enrol, "renew", request.to_bytes(), context)).files
    fresh = read_certificate(files.get("device.pem", ""))
    read_certificate(files.get("fleet-ca.pem", ""))
    if fresh.fingerprint != old.fingerprint:
        raise IdentityError("I06", "the new certificate is for another key")
    durable_write(identity.authority, files["fleet-ca.pem"].encode())
    durable_write(identity.certificate, files["device.pem"].encode())
    return fresh


def fingerprint(identity: Identity) -> str:
    """SHA-256 of this device's public key (SubjectPublicKeyInfo, DER), hexadecimal.

    Raises:
        IdentityError: I06.
    """
    return read_certificate(_read(identity.certificate)).fingerprint


def check(identity: Identity) -> str:
    """Look at an identity without a network; returns what was seen.

    Raises:
        IdentityError: I06.
        LinkError: L13, a file is missing, or they do not belong together.
        SetupError: H05, H06 no openssl.
    """
    held = read_certificate(_read(identity.certificate))
    fleet_context(identity.authority, None, identity=identity)
    openssl.sign(identity.key, b"self-test")
    return f"good to {to_text(held.not_after)}, key {held.fingerprint[:16]}"


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise IdentityError("I06", f"{path.name}: {error}") from error


class Keeper:
    """Keeps the certificate good: renews it before it ends, or whenever it is refused."""

    def __init__(
        self, tls: Tls, device: str, clock: Clock, tell: Callable[[Fact, str], None]
    ) -> None:
        """Take who we are, our id, the clock, and whom to tell.

        Args:
            tls: is told of a new certificate.
            device: our id.
            clock: trusted time, and durations.
            tell: takes an event, with a key for those that are told once.
        """
        self._tls = tls
        self._device = device
        self._clock = clock
        self._tell = tell
        self._refused = 0
        self._failed = 0
        self._next = 0.0

    def refused(self, *, silently: bool) -> None:
        """Note that the server hung up on our certificate, or on us without a word."""
        self._refused += 1 if silently else _REFUSALS

    def accepted(self) -> None:
        """Note that the server took our certificate."""
        self._refused = 0

    def keep(self) -> None:
        """Renew if it is time, and if the last try was long enough ago."""
        if self._clock.monotonic() < self._next or not self._is_due():
            return
        try:
            fresh = renew(self._tls.identity, self._device, self._clock.now)
        except WherryError as error:
            self._failed += 1
            hour = int(self._clock.now() // 3600)
            self._tell(Fact.of(error), f"identity:{error.code}:{hour}")
            least, most = _RETRY_SECONDS
            ceiling = min(most, least * 2 ** min(self._failed - 1, 20))
            chance = 0.5 + random.random() / 2  # noqa: S311 - jitter
            self._next = self._clock.monotonic() + chance * ceiling
            return
        self._refused = self._failed = 0
        self._next = self._clock.monotonic() + _RETRY_SECONDS[0]
        self._tls.renewed()
        self._tell(
            Fact("agent.renewed", f"the certificate is good to {to_text(fresh.not_after)}"), ""
        )

    def _is_due(self) -> bool:
        if self._refused >= _REFUSALS:
            return True
        try:
            held = read_certificate(_read(self._tls.identity.certificate))
        except IdentityError:
            return False  # connecting tells of it
        life = held.not_after - held.not_before
        return self._clock.now() > held.not_before + _RENEW_AFTER * life


# --- one request ----------------------------------------------------------------------------


def _ask(url: str, what: str, body: bytes | None, context: ssl.SSLContext) -> bytes:
    """Ask the enrolment server one thing."""
    parts = urlsplit(url)
    if parts.scheme != "https" or not parts.hostname:
        cure = "write it like https://host:8444/enrol"
        raise SetupError("H08", f"{url[:80]!r} is no https:// address", cure=cure)
    connection = http.client.HTTPSConnection(
        parts.hostname, parts.port, timeout=_SECONDS, context=context
    )
    method = "GET" if body is None else "POST"
    try:
        connection.request(method, f"{parts.path.rstrip('/')}/{what}", body)
        response = connection.getresponse()
        data = response.read(LIMIT_BYTES + 1)
    except (OSError, http.client.HTTPException) as error:
        raise _lost(error, parts.netloc, first=body is None) from error
    finally:
        connection.close()
    if response.status != HTTPStatus.OK:
        raise _told(response.status, data)
    return data


def _lost(error: Exception, where: str, *, first: bool) -> LinkError:
    """Why nothing was answered; the first question is asked by who has no certificate yet."""
    told = tls_error(error, where)
    if first and (isinstance(error, ConnectionResetError) or (told and told.code == "L10")):
        return LinkError(
            "L08",
            f"{where}: it hung up, as the depot's port does on who has no certificate",
            title="the server does not enrol there",
            cure="take the URL that `wherry device claim` prints: it ends in /enrol",
        )
    return told or LinkError("L08", f"{where}: {error or repr(error)}")


def _told(status: int, data: bytes) -> WherryError:
    """The error as the server raised it."""
    try:
        document = parse_json(data, limit=LIMIT_BYTES, what="answer", domain=SETTINGS)
        fields = Fields(document, "answer", SETTINGS)
        code, detail = fields.text("code", ""), fields.text("detail", "", limit=400)
    except SetupError:
        code = ""
    if code not in CODES:
        return LinkError("L07", f"HTTP {status}")
    return coded_error(code, detail)
