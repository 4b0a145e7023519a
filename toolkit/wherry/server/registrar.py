"""Lets devices in: claims, certificates, renewal, revocation.

Plain calls; `doors` makes HTTPS of those that devices make, `api` of those of operators.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from wherry.identity.authority import (
    CERTIFICATE_SECONDS,
    Authority,
    fingerprint,
    proves,
    requested_key,
)
from wherry_contract.errors import IdentityError, RolloutError
from wherry_contract.identity import ClaimCode, EnrolRequest, Papers, RenewRequest, proof_text

from .office import Office, check_words, quoted
from .office import Papers as OfficePapers
from .registry import Claim, Identity, Registry

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey

_NONCE_SECONDS: Final = 300.0
_MOST_CLAIMS: Final = 100_000
_NAMES: Final[Mapping[str, str]] = {
    "agent_toml": "agent.toml",
    "root_json": "root.json",
    "trust_json": "trust.json",
}


@dataclass(frozen=True)
class ClaimOrder:
    """What claims are wanted.

    Attributes:
        count: how many.
        family: the model family that the devices are pinned to.
        labels: theirs.
        device: the id of the one device; "" leaves ids to the devices.
        again: whether a device that is enrolled may use it.
        seconds: how long they are good.
    """

    count: int
    family: str
    labels: Mapping[str, str]
    device: str
    again: bool
    seconds: float


class Registrar:
    """Acts on registry, office and authority."""

    def __init__(
        self,
        office: Office,
        registry: Registry,
        authority: Authority,
        clock: Callable[[], float],
        changed: Callable[[str], None],
    ) -> None:
        """Take the parts, the clock, and whom to tell that something was revoked.

        Args:
            office: takes devices into the fleet.
            registry: remembers who is who.
            authority: signs certificates.
            clock: Unix seconds.
            changed: called with a device's id when its older certificates are no longer
                good, or it came back; by then the registry knows.
        """
        self.registry = registry
        self.authority = authority
        self._office = office
        self._clock = clock
        self._changed = changed
        self._secret = secrets.token_bytes(32)  # a nonce does not outlive the server
        self.certificate_seconds = CERTIFICATE_SECONDS

    # --- for operators ------------------------------------------------------------------

    def claim(self, order: ClaimOrder) -> list[str]:
        """Make claim codes; only their digests are kept.

        Raises:
            RolloutError: R06 a word is not allowed, or one code cannot be for many devices.
        """
        if not 1 <= order.count <= _MOST_CLAIMS or (order.device and order.count != 1):
            raise RolloutError("R06", f"{order.count} codes", cure="one for each device")
        if order.again and not order.device:
            raise RolloutError("R06", "--again without --device", cure="name the device")
        check_words(order.device or "any", order.family, order.labels)
        now = self._clock()
        codes = [ClaimCode.new(self.authority.der) for _ in range(order.count)]
        self.registry.add_claims(
            Claim(
                code.digest,
                order.device,
                order.family,
                order.labels,
                order.again,
                now,
                now + order.seconds,
            )
            for code in codes
        )
        return [code.text for code in codes]

    def add(
        self,
        order: ClaimOrder,
        csr: str,
        listen: str = "",
        state_dir: str = "",
    ) -> Papers:
        """Take a device in at once, for an operator who is at the device.

        Raises:
            IdentityError: I08.
            RolloutError, TrustError: as `Office.enrol`.
        """
        check_words(order.device, order.family, order.labels)
        key = requested_key(csr)
        papers = self._office.enrol(
            order.device, order.family, order.labels, listen, state_dir, again=order.again
        )
        return self._certify(order.device, key, papers)

    def revoke(self, device: str) -> Identity:
        """Revoke a device's identity: at once, and for good.

        Raises:
            RolloutError: R07.
        """
        found = self.registry.revoke(device, self._clock())
        self._changed(device)
        return found

    # --- for devices --------------------------------------------------------------------

    def enrol(self, request: EnrolRequest) -> Papers:
        """Let a device in that has a claim code; asked twice, answered twice.

        Raises:
            IdentityError: I01, I02, I03 a code of another fleet, I08.
            RolloutError: R06, R08.
            TrustError: as `Office.enrol`.
        """
        code = ClaimCode.from_text(request.claim)
        if not code.names(self.authority.der):
            raise IdentityError("I03", "the code belongs to another fleet")
        key = requested_key(request.csr)
        print_ = fingerprint(key)
        quoted(request.listen)  # refused before the code is used up
        claim = self.registry.use(code.digest, request.device, print_, self._clock())
        # used before for the same key, or for a new one of a device that is known: both may
        papers = self._office.enrol(
            claim.used_by, claim.family, claim.labels, request.listen, again=True
        )
        held = self.registry.identity(claim.used_by)
        if held and held.revoked_at and held.fingerprint == print_:
            raise IdentityError("I04", claim.used_by)
        return self._certify(claim.used_by, key, papers)

    def _certify(
        self, device: str, key: EllipticCurvePublicKey, papers: OfficePapers | None
    ) -> Papers:
        issued = self.authority.issue(key, device, self._clock(), self.certificate_seconds)
        if self.registry.note(device, issued, self._clock()):
            self._changed(device)
        files = {"device.pem": issued.pem, "fleet-ca.pem": self.authority.pem}
        return Papers(device, files | (files_of(papers) if papers else {}))

    def nonce(self) -> str:
        """What a device must sign to renew; the server keeps nothing of it."""
        body = f"{int(self._clock() * 1000):016x}" + secrets.token_hex(16)
        return body + self._sealed(body)

    def _sealed(self, body: str) -> str:
        return hmac.new(self._secret, body.encode(), hashlib.sha256).hexdigest()[:32]

    def renew(self, request: RenewRequest) -> Papers:
        """Give a device that shows its key a new certificate for it, however old the last.

        Raises:
            IdentityError: I04 revoked, I05 the proof is wrong.
        """
        shown = self.authority.shown(request.certificate)
        self._check_nonce(request.nonce)
        try:
            signature = base64.b64decode(request.signature, validate=True)
        except binascii.Error as error:
            raise IdentityError("I08", "the signature is no base64") from error
        if not proves(shown.key, signature, proof_text(request.nonce, shown.device)):
            raise IdentityError("I05", "the signature is not of the certificate's key")
        held = self.registry.identity(shown.device)
        if held is None or held.revoked_at or held.fingerprint != shown.fingerprint:
            raise IdentityError("I04", shown.device)
        return self._certify(shown.device, shown.key, None)

    def _check_nonce(self, nonce: str) -> None:
        body, seal = nonce[:-32], nonce[-32:]
        right = hmac.compare_digest(self._sealed(body), seal)
        made = int(body[:16], 16) / 1000 if re.fullmatch("[0-9a-f]{48}", body) else 0.0
        if not right or not 0 <= self._clock() - made <= _NONCE_SECONDS:
            raise IdentityError("I05", "the nonce is old or not ours", cure="ask for another")


def files_of(papers: OfficePapers) -> dict[str, str]:
    """What an office gives a device, by file name."""
    return {_NAMES[name]: text for name, text in vars(papers).items() if text}
