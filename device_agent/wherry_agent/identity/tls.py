"""TLS 1.3 with the fleet's own authority, and what its failures mean.

Nothing but that authority is trusted, so no public one and no proxy can stand in between,
and little is loaded: the hundred authorities of a system would cost 1 MiB. Dates are held
against the agent's clock and not the board's, which may know nothing of the time; OpenSSL
offers no such clock, so its own check is off and ours follows at the end of the handshake,
before a byte is sent.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import LinkError
from wherry_contract.when import to_text

_NO_CHECK_TIME: Final = 0x200000  # X509_V_FLAG_NO_CHECK_TIME; Python has no name for it
_DATES: Final = (9, 10)  # X509_V_ERR_CERT_NOT_YET_VALID, X509_V_ERR_CERT_HAS_EXPIRED
_REFUSALS: Final = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")
_ALERT: Final = "_ALERT_"


@dataclass(frozen=True)
class Identity:
    """Who this device is.

    Attributes:
        key: its private key, PEM; made here, and never anywhere else.
        certificate: what the fleet's authority says of it, PEM.
        authority: certificates of the fleet's authority, PEM.
        enrol: where it renews and asks for the time.
    """

    key: Path
    certificate: Path
    authority: Path
    enrol: str


class OutOfDateError(ssl.SSLError):
    """A certificate of ours that is not valid at the hour that the agent's clock shows."""


class _Socket(ssl.SSLSocket):
    """Checks dates after the handshake, and keeps why it was refused."""

    def do_handshake(self, block: bool = False) -> None:  # noqa: FBT001, FBT002 - as ssl has it
        try:
            super().do_handshake(block)
            context = self.context
            if isinstance(context, FleetContext) and context.now:
                _check_dates(self.getpeercert() or {}, context.now())
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except OSError:
            self.close()  # paho forgets a socket whose handshake failed
            raise

    def read(self, len: int = 1024, buffer: Any = None) -> Any:  # noqa: A002 - as ssl has it
        try:
            return super().read(len, buffer)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            raise
        except ssl.SSLError as error:
            # with TLS 1.3 a refusal comes after our handshake, and a caller may swallow it
            if isinstance(self.context, FleetContext):
                self.context.refusal = error.reason or ""
            raise


class FleetContext(ssl.SSLContext):
    """TLS for this fleet.

    Attributes:
        now: the clock that dates are held against, Unix seconds; nothing leaves them out.
        refusal: OpenSSL's word for the last alert that came; "" for none.
    """

    sslsocket_class = _Socket
    now: Callable[[], float] | None = None
    refusal: str = ""


def fleet_context(
    authority: Path, now: Callable[[], float] | None, *, identity: Identity | None = None
) -> FleetContext:
    """A context that trusts one authority.

    Args:
        authority: its certificates, PEM.
        now: the clock for dates, Unix seconds; nothing leaves them out, which is right
            only where the time itself is asked for, and at enrolment.
        identity: whose certificate is shown; nothing shows none.

    Raises:
        LinkError: L13, a file is missing, cannot be read, or they do not belong together.
    """
    context = FleetContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.now = now
    try:
        context.load_verify_locations(authority)
        if identity:
            context.load_cert_chain(identity.certificate, identity.key)
    except OSError as error:  # ssl's own are of this kind
        shown = (identity.certificate, identity.key) if identity else ()
        raise _unusable((authority, *shown), error) from error
    return context


def registry_context(authority: Path | None, now: Callable[[], float]) -> FleetContext:
    """A context for a registry, which is not of this fleet and may not speak TLS 1.3.

    Args:
        authority: certificates that are trusted, PEM; nothing for the system's.
        now: the clock for dates, Unix seconds.

    Raises:
        LinkError: L09, the file cannot be read.
    """
    context = FleetContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_flags |= ssl.VerifyFlags(_NO_CHECK_TIME)
    context.now = now
    try:
        if authority:
            context.load_verify_locations(authority)
        else:
            context.load_default_certs()
    except OSError as error:  # ssl's own are of this kind
        detail = f"{authority}: {error.strerror or error}"
        raise LinkError("L09", detail, cure="check [registry] authority in agent.toml") from error
    return context


def _unusable(files: tuple[Path, ...], error: OSError) -> LinkError:
    """Which of our own files is to blame, and what to do about it."""
    for file in files:
        try:
            file.read_bytes()
        except FileNotFoundError:
            cure = "put it back from a copy, or enrol the device again: `wherry-agent enroll`"
            return LinkError("L13", f"{file} is missing", cure=cure)
        except OSError as found:
            cure = f"let the agent's user read it: chown or chmod {file.name}; check the medium"
            return LinkError("L13", f"{file} cannot be read: {found.strerror}", cure=cure)
    names = ", ".join(file.name for file in files)
    said = error.strerror or str(error)
    if isinstance(error, ssl.SSLError) and error.reason:
        said = error.reason.lower().replace("_", " ")
    return LinkError("L13", f"{names} in {files[0].parent} do not belong together: {said}")


def _check_dates(shown: Any, now: float) -> None:
    for name, late in (("notBefore", False), ("notAfter", True)):
        if name not in shown:
            raise OutOfDateError(0, f"the certificate has no {name}")
        moment = ssl.cert_time_to_seconds(shown[name])
        if (now > moment) if late else (now < moment):
            word = "to" if late else "from"
            raise OutOfDateError(
                0, f"it is valid {word} {to_text(moment)}, and the clock shows {to_text(now)}"
            )


def tls_error(error: BaseException, where: str) -> LinkError | None:
    """What an error of TLS means; nothing if it is none of TLS."""
    if isinstance(error, OutOfDateError):
        return LinkError("L11", f"{where}: {error.strerror}")
    if isinstance(error, ssl.SSLCertVerificationError):
        code = "L11" if error.verify_code in _DATES else "L09"
        return LinkError(code, f"{where}: {error.verify_message}")
    if isinstance(error, ssl.SSLError) and error.reason:
        return refused(error.reason, where) or LinkError("L09", f"{where}: {error.reason.lower()}")
    return None


def refused(reason: str, where: str) -> LinkError | None:
    """The error for an alert about our certificate; nothing for any other word of OpenSSL."""
    if _ALERT in reason and any(word in reason for word in _REFUSALS):
        said = reason.rpartition(_ALERT)[2].replace("_", " ").lower()
        return LinkError("L10", f"{where}: {said}")
    return None


class Tls:
    """The context of this device, made when it is first needed, and anew after a renewal."""

    def __init__(self, identity: Identity, now: Callable[[], float] | None) -> None:
        """Take who we are, and the clock that dates are held against (Unix seconds).

        No clock leaves dates out, as `fleet_context` has it.
        """
        self.identity = identity
        self._now = now
        self._context: FleetContext | None = None

    def context(self) -> FleetContext:
        """The context; connections share it.

        Raises:
            LinkError: L13.
        """
        if self._context is None:
            identity = self.identity
            self._context = fleet_context(identity.authority, self._now, identity=identity)
        return self._context

    def renewed(self) -> None:
        """Read the files anew for the next connection."""
        self._context = None

    def lost(self, where: str) -> LinkError | None:
        """Why the other side hung up, if it was about our certificate."""
        context = self._context
        reason, found = (context.refusal, None) if context else ("", None)
        if context and reason:
            found, context.refusal = refused(reason, where), ""
        return found
