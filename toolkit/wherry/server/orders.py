"""Signs assignments and commands, and tells the time: with keys that the fleet lists, or one of the server's own."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from wherry.keys import generate, list_keys, load_signer, public_path, sign_envelope
from wherry.repository.lab import open_keys
from wherry.repository.repository import Repository
from wherry.rows import Order
from wherry_contract.assignment import PAYLOAD_TYPE, Assignment
from wherry_contract.command import PAYLOAD_TYPE as COMMAND_TYPE
from wherry_contract.command import Command
from wherry_contract.errors import TrustError
from wherry_contract.signature import AssignmentKey, PublicKey
from wherry_contract.told_time import PAYLOAD_TYPE as TIME_TYPE
from wherry_contract.told_time import ToldTime

if TYPE_CHECKING:
    from securesystemslib.signer import CryptoSigner

VALID_SECONDS: Final = 30 * 86_400.0  # an order; one that is not echoed is signed anew before


class AssignmentSigner:
    """The key that tells devices of a laboratory what to run: the server's own, which they pin."""

    def __init__(self, folder: Path) -> None:
        """Load the key, or make it.

        Raises:
            StoreError: D01 or D06.
            SetupError, TrustError: the key's files are damaged.
        """
        path = folder / "assignment.key"
        if not public_path(path).exists():
            generate(path)
        self._own = load_signer(path)

    @property
    def public(self) -> PublicKey:
        """The key that signs orders now."""
        key = self._signer("assignment").public_key
        return PublicKey(key.keyid, key.keyval["public"])

    def sign(self, order: Assignment) -> bytes:
        """The envelope of an order."""
        return sign_envelope(order.to_bytes(), PAYLOAD_TYPE, [self._signer("assignment")])

    def sign_command(self, command: Command) -> bytes:
        """The envelope of a command, by the key that signs orders."""
        return sign_envelope(command.to_bytes(), COMMAND_TYPE, [self._signer("assignment")])

    def tell_time(self, nonce: str, at: float) -> bytes:
        """The envelope of the time, for who asked with this nonce."""
        return sign_envelope(ToldTime(nonce, at).to_bytes(), TIME_TYPE, [self._signer("time")])

    def _signer(self, use: str) -> CryptoSigner:  # noqa: ARG002 - the laboratory has one for all
        return self._own


class ListedSigner(AssignmentSigner):
    """The keys that the fleet lists in `fleet/keys.json`, as far as they are here.

    The list is looked at again when something was published, so that an exchanged key is
    used at once.
    """

    def __init__(
        self,
        keys: Path,
        repository: Repository,
        clock: Callable[[], float] = time.time,
        *,
        drop: bool = False,
    ) -> None:
        """Take the folder of keys, and who lists them.

        Args:
            keys: the folder.
            repository: lists them.
            clock: Unix seconds.
            drop: for a stick: keys whose names begin with ``drop``, and no others.

        Raises:
            TrustError: T10, none that is listed and valid is here.
        """
        self._keys = keys
        self._repository = repository
        self._clock = clock
        self._drop = drop
        self._seen = 0
        self._signers: dict[str, CryptoSigner] = {}
        self._signer("assignment")

    def _signer(self, use: str) -> CryptoSigner:
        seen = self._repository.stamp
        if seen != self._seen:
            listed, now = self._repository.fleet_keys(), self._clock()
            self._signers = {
                "assignment": self._pick("assignment", listed.assignment_keys, now),
                "time": self._pick("time", listed.time_keys, now),
            }
            self._seen = seen
        return self._signers[use]

    def _pick(self, use: str, listed: tuple[AssignmentKey, ...], now: float) -> CryptoSigner:
        valid = [key for key in listed if key.not_before <= now <= key.not_after]
        names = {item.public.keyid: item.name for item in list_keys(self._keys)}
        here = [
            key
            for key in valid
            if (self._keys / f"{names.get(key.keyid)}.key").is_file()
            and (use != "assignment" or names[key.keyid].startswith("drop") == self._drop)
        ]
        if not here:
            cure = f"list a new one: `wherry key rotate {use} --new NAME`"
            raise TrustError("T10", f"no key for {use} that is listed and valid is here", cure=cure)
        newest = max(here, key=lambda key: key.not_after)
        return open_keys(self._keys, [names[newest.keyid]])[0]


def named_key(order: Order) -> str:
    """Which device key an order of ours names; "" for any."""
    payload = base64.b64decode(json.loads(order.envelope)["payload"])
    return Assignment.from_bytes(payload, order.keyid).device_key
