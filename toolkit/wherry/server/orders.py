"""Signs assignments with the server's own key, made at its first start."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wherry_contract.assignment import PAYLOAD_TYPE, Assignment
from wherry_contract.signature import PublicKey
from wherry_contract.wire import TRUST, Fields, canonical, parse_json

from .files import write_durably

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

VALID_SECONDS: Final = 30 * 86_400.0  # an order; one that is not echoed is signed anew before
_KEY_LIMIT_BYTES: Final = 4096


class AssignmentSigner:
    """The key that tells devices of this fleet what to run."""

    def __init__(self, folder: Path) -> None:
        """Load the key, or make it.

        Raises:
            StoreError: D01 or D06.
            TrustError: T09, the public key's file is damaged.
        """
        self._signer, self.public = _load(folder / "assignment.key")

    def sign(self, order: Assignment) -> bytes:
        """The envelope of an order."""
        from securesystemslib.dsse import Envelope

        envelope = Envelope(order.to_bytes(), PAYLOAD_TYPE, {})
        envelope.sign(self._signer)
        return json.dumps(envelope.to_dict(), separators=(",", ":")).encode()


def _load(path: Path) -> tuple[CryptoSigner, PublicKey]:
    from securesystemslib.signer import CryptoSigner

    beside = path.with_suffix(".pub.json")
    if path.exists() and beside.exists():
        document = parse_json(
            beside.read_bytes(), limit=_KEY_LIMIT_BYTES, what=beside.name, domain=TRUST
        )
        public = PublicKey.from_fields(Fields(document, beside.name, TRUST))
        uri = f"file2:{path.absolute()}"
        return CryptoSigner.from_priv_key_uri(uri, public.load()), public
    signer = CryptoSigner.generate_ed25519()
    key = signer.public_key
    public = PublicKey(key.keyid, key.keyval["public"])
    # the second file completes the pair; an interrupted first start makes both anew
    write_durably(path, signer.private_bytes, mode=0o600)
    write_durably(beside, canonical(public.to_dict()))
    return signer, public
