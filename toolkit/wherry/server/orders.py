"""Signs assignments with the server's own key, made at its first start."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Final

from wherry.keys import generate, load_signer, public_path, read_public, sign_envelope
from wherry.rows import Order
from wherry_contract.assignment import PAYLOAD_TYPE, Assignment
from wherry_contract.told_time import PAYLOAD_TYPE as TIME_TYPE
from wherry_contract.told_time import ToldTime

VALID_SECONDS: Final = 30 * 86_400.0  # an order; one that is not echoed is signed anew before


class AssignmentSigner:
    """The key that tells devices of this fleet what to run."""

    def __init__(self, folder: Path) -> None:
        """Load the key, or make it.

        Raises:
            StoreError: D01 or D06.
            SetupError, TrustError: the key's files are damaged.
        """
        path = folder / "assignment.key"
        if not path.exists():
            # the public file is written first: left alone by an interrupted start, it is nobody's
            public_path(path).unlink(missing_ok=True)
            generate(path)
        self._signer = load_signer(path)
        self.public = read_public(public_path(path))

    def sign(self, order: Assignment) -> bytes:
        """The envelope of an order."""
        return sign_envelope(order.to_bytes(), PAYLOAD_TYPE, [self._signer])

    def tell_time(self, nonce: str, at: float) -> bytes:
        """The envelope of the time, for who asked with this nonce."""
        return sign_envelope(ToldTime(nonce, at).to_bytes(), TIME_TYPE, [self._signer])


def named_key(order: Order) -> str:
    """Which device key an order of ours names; "" for any."""
    payload = base64.b64decode(json.loads(order.envelope)["payload"])
    return Assignment.from_bytes(payload, order.keyid).device_key
