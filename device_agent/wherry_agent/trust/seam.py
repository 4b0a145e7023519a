"""The seam behind which trust stands: who may order, which bundles are released.

What a device was given at enrolment decides which of two it is, never what comes over the
network: a TUF root (`tuf_trust`), or pinned keys in a `trust.json` as in a laboratory.
Either way verification runs in a short-lived child, here ``python -m wherry_agent.trust.seam``,
so that the resident agent carries no cryptography.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

from wherry_agent.child import ChildFailure, child_main, run_child
from wherry_contract.assignment import Assignment, open_assignment
from wherry_contract.command import Command, open_command
from wherry_contract.errors import StoreError, TrustError
from wherry_contract.signature import ENVELOPE_LIMIT_BYTES, BundleStatement, TrustRoot

if TYPE_CHECKING:
    from wherry_agent.identity.tls import Identity
    from wherry_agent.update.fetch import Source

_SECONDS: Final = 60.0  # plain Python takes 20 ms a signature on a PC, and a board is slower


class Trust(Protocol):
    """What the updater asks."""

    def assignment(self, envelope: bytes) -> Assignment:
        """The order in a verified envelope, or a `TrustError`."""
        ...

    def command(self, envelope: bytes) -> Command:
        """The command in a verified envelope, or a `TrustError`."""
        ...

    def settle(self) -> float:
        """Learn the time if there is doubt; returns seconds after which to ask again."""
        ...

    def admit(self, order: Assignment, source: Source) -> BundleStatement:
        """What the signers say of the bundle that is ordered, or a `TrustError`.

        Args:
            order: verified, for this device, and of its family.
            source: where the bundle and what is signed about it come from.
        """
        ...


class PinnedTrust:
    """Trusts the keys in a `trust.json`."""

    def __init__(self, path: Path, identity: Identity | None = None) -> None:
        """Take the file, and who this device is; nothing where it has a password."""
        self._path = path
        self._identity = identity

    def assignment(self, envelope: bytes) -> Assignment:
        """The order in a verified envelope.

        Raises:
            TrustError: T01, T02, T03 it names another device's key, T08 to T10.
            StoreError: D07, the verifier did not do its work.
        """
        answer = self._ask({"envelope": _encode(envelope)})
        order = Assignment.from_bytes(answer["payload"].encode(), answer["keyid"])
        self._check_key(order.device_key)
        return order

    def command(self, envelope: bytes) -> Command:
        """The command in a verified envelope; likewise."""
        answer = self._ask({"envelope": _encode(envelope), "command": True})
        command = Command.from_bytes(answer["payload"].encode(), answer["keyid"])
        self._check_key(command.device_key)
        return command

    def _check_key(self, named: str) -> None:
        if named and self._identity:
            from wherry_agent.identity.enrolment import fingerprint

            if named != fingerprint(self._identity):
                raise TrustError("T03", "it names another device's key")

    def admit(self, order: Assignment, source: Source) -> BundleStatement:
        """What the signers say of a bundle, by the statement that lies beside it.

        Raises:
            TrustError: T01 to T03, T06 to T10.
            LinkError: L04 to L06, the statement cannot be had.
            StoreError: D07, the verifier did not do its work.
        """
        envelope = source.statement(order.digest, ENVELOPE_LIMIT_BYTES)
        return self.statement(envelope, family=order.family, digest=order.digest)

    def settle(self) -> float:
        """Never asks: pinned keys tell no time."""
        return float("inf")

    def statement(self, envelope: bytes, *, family: str, digest: str) -> BundleStatement:
        """What a statement says of a bundle.

        Raises:
            TrustError: T01 to T03, T06 to T10.
            StoreError: D07, the verifier did not do its work.
        """
        answer = self._ask({"envelope": _encode(envelope), "family": family, "digest": digest})
        return BundleStatement.from_bytes(answer["payload"].encode())

    def _ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        trust = {"trust": str(self._path.absolute())}
        try:
            return run_child(__name__, dict(request) | trust, seconds=_SECONDS)
        except ChildFailure as failure:
            # nobody's signature is to blame, so it is tried again
            raise StoreError("D07", f"the verifier: {failure}") from failure


def _encode(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _work(request: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        root = TrustRoot.from_bytes(Path(request["trust"]).read_bytes())
    except OSError as error:
        raise TrustError("T10", f"{request['trust']}: {error.strerror}") from error
    envelope = base64.b64decode(request["envelope"])
    if "digest" in request:
        statement = root.open_bundle_statement(
            envelope, family=request["family"], digest=request["digest"]
        )
        return {"payload": statement.to_bytes().decode()}
    signed: Assignment | Command
    if "command" in request:
        signed = open_command(envelope, root.keys, root.assignment_keys)
    else:
        signed = open_assignment(envelope, root)
    return {"payload": signed.to_bytes().decode(), "keyid": signed.keyid}


if __name__ == "__main__":
    sys.exit(child_main(_work))
