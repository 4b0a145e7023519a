"""Trust by TUF: what exists is listed by the repository, who may order by `fleet/keys.json`.

The verifier is a short-lived child, ``python -m wherry_agent.trust.tuf_trust``, which also fetches
the metadata: whatever a depot serves ends with that process. The rules:
contract/SPEC-trust.md.
"""

from __future__ import annotations

import base64
import logging
import secrets
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from wherry_agent.child import ChildFailure, cap_memory, child_main, run_child
from wherry_agent.clock import Clock, TrustedClock
from wherry_agent.identity.tls import Identity
from wherry_agent.link.fact import Fact
from wherry_contract.assignment import Assignment
from wherry_contract.command import Command
from wherry_contract.errors import LinkError, StoreError, TrustError, WherryError, coded_error
from wherry_contract.signature import BundleStatement
from wherry_contract.told_time import write_nonce
from wherry_contract.wire import parse_json

from .seam import PinnedTrust, Trust
from .tuf_store import ROOT_LIMIT_BYTES, peek_floors

if TYPE_CHECKING:
    from wherry_agent.config import AgentConfig
    from wherry_agent.update.fetch import Source

FOLDER: Final = "trust"  # in the state folder
_SECONDS: Final = 420.0  # the metadata's own deadline, and a minute for signatures
# over what the child begins with: a family's list as large as is taken, 14,500 releases, fits
# (measured), and what is made to take more memory than bytes does not
_MEMORY_MIB: Final = 96
_ASK_AGAIN_SECONDS: Final = 600.0
_DATED_AHEAD_SECONDS: Final = 86_400.0
_PERHAPS_THE_CLOCK: Final = ("T11", "L11")  # a stale list, a certificate out of its dates

_log = logging.getLogger("wherry")


class TufTrust:
    """Trusts a TUF root, and what it leads to."""

    def __init__(
        self,
        root: Path,
        state_dir: Path,
        clock: TrustedClock,
        source: Source,
        identity: Identity | None = None,
    ) -> None:
        """Take what this device was given at enrolment.

        Args:
            root: the root metadata.
            state_dir: the agent's state folder.
            clock: learns from what is verified.
            source: where metadata comes from when nothing else is said.
            identity: who this device is; nothing in a laboratory without TLS.
        """
        self._root = root
        self._folder = state_dir / FOLDER
        self._clock = clock
        self._source = source
        self._identity = identity
        self._asked_time = float("-inf")
        self.tell: Callable[[Fact], None] = lambda _fact: None
        self._verifying = threading.Lock()  # its floors and its cache are one verifier's at a time

    def assignment(self, envelope: bytes) -> Assignment:
        """The order in a verified envelope.

        Raises:
            TrustError: T01, T02, T03 for another device key, T08 to T14.
            LinkError: the keys are not here, or the time is not known, and cannot be had now.
            StoreError: D01, D06, D07.
        """
        answer = self._open("assignment", envelope)
        order = Assignment.from_bytes(answer["payload"].encode(), answer["keyid"])
        self._check(order, answer["offline"])
        return order

    def command(self, envelope: bytes) -> Command:
        """The command in a verified envelope; likewise."""
        answer = self._open("command", envelope)
        command = Command.from_bytes(answer["payload"].encode(), answer["keyid"])
        self._check(command, answer["offline"])
        return command

    def _open(self, task: str, envelope: bytes) -> dict[str, Any]:
        request = {"task": task, "envelope": base64.b64encode(envelope).decode()}
        return self._ask(request, self._source)

    def _check(self, signed: Assignment | Command, offline: str) -> None:
        if signed.device_key != self._own_key():
            raise TrustError("T03", "it names another device's key")
        if signed.issued_at > self._clock.now() + _DATED_AHEAD_SECONDS:
            if offline:  # perhaps it is our clock that is late
                raise LinkError("L04", f"the time is not known: {offline}")
            raise TrustError("T14", "it is dated more than a day ahead")

    def admit(self, order: Assignment, source: Source) -> BundleStatement:
        """What the repository lists of a bundle, by metadata that is fresh now.

        Raises:
            TrustError: T02 the order's key was taken back, T03, T07 to T13.
            LinkError: L04 to L06, L09 to L11.
            StoreError: D01, D06, D07.
        """
        request = {
            "task": "admit",
            "family": order.family,
            "digest": order.digest,
            "size": order.size,
            "keyid": order.keyid,
            "issued_at": order.issued_at,
        }
        answer = self._ask(request, source)
        return BundleStatement.from_bytes(answer["payload"].encode())

    def settle(self) -> float:
        """Learn the time if there is doubt about it.

        Returns:
            Seconds after which to ask again; for ever if there is no doubt, or nobody to ask.
        """
        if not self._clock.doubtful or self._identity is None or self._learn_time():
            return float("inf")
        return _ASK_AGAIN_SECONDS

    def _own_key(self) -> str:
        if self._identity is None:
            return ""
        from wherry_agent.identity.enrolment import fingerprint

        return fingerprint(self._identity)

    def _ask(self, request: Mapping[str, Any], source: Source) -> dict[str, Any]:
        """Ask the verifier; where the clock may be wrong, ask for the time too."""
        self.settle()
        try:
            return self._run(request, source)
        except (LinkError, TrustError) as error:
            if error.code not in _PERHAPS_THE_CLOCK or not self._learn_time():
                raise
        return self._run(request, source)

    def _run(self, request: Mapping[str, Any], source: Source) -> dict[str, Any]:
        about = {
            "root": str(self._root.absolute()),
            "folder": str(self._folder.absolute()),
            "now": self._clock.now(),
            "place": dict(source.place()),
            "identity": self._identity and {k: str(v) for k, v in asdict(self._identity).items()},
        }
        try:
            with self._verifying:
                answer = run_child(__name__, dict(request) | about, seconds=_SECONDS)
            return self._told(answer)
        except ChildFailure as failure:
            # nobody's signature is to blame, so it is tried again
            raise StoreError("D07", f"the verifier: {failure}") from failure
        finally:
            self._clock.raise_floor(floor_of(self._folder))

    def _told(self, answer: dict[str, Any]) -> dict[str, Any]:
        for name in answer.get("damaged", ()):
            self.tell(Fact("D02", f"{FOLDER}/{name} was set aside", "error"))
        if refused := answer.get("refused"):
            raise coded_error(*refused)
        return answer

    def _learn_time(self) -> bool:
        """Ask the fleet for the time, seldom; whether it told."""
        asked = self._clock.monotonic()
        if self._identity is None or asked < self._asked_time + _ASK_AGAIN_SECONDS:
            return False
        from wherry_agent.identity.enrolment import ask_time

        self._asked_time = asked
        nonce = secrets.token_hex(16)
        try:
            envelope = ask_time(self._identity, write_nonce(nonce))
            encoded = base64.b64encode(envelope).decode()
            request = {"task": "time", "nonce": nonce, "envelope": encoded}
            answer = self._run(request, self._source)
        except WherryError as error:
            _log.warning("the time was not told: %s", error)
            return False
        self._clock.tell(answer["at"], asked)
        return True


def is_root(path: Path) -> bool:
    """Whether a file is a TUF root, right or wrong, and not a list of pinned keys."""
    try:
        with path.open("rb") as stream:
            document = parse_json(
                stream.read(ROOT_LIMIT_BYTES), limit=ROOT_LIMIT_BYTES, what="root"
            )
    except (OSError, WherryError):
        return False  # whoever is asked to trust it says what is wrong with it
    return "signed" in document


def check_root(path: Path) -> str:
    """Let the verifier look at a root; returns what it saw.

    Raises:
        TrustError: T10 or T13.
        LinkError: L06.
        StoreError: D07.
    """
    try:
        found = run_child(__name__, {"task": "root", "root": str(path.absolute())}, seconds=60)
    except ChildFailure as failure:
        raise StoreError("D07", f"the verifier: {failure}") from failure
    return f"root {found['version']}, {found['threshold']} of {found['keys']} keys sign the next"


def open_trust(
    config: AgentConfig,
    clock: TrustedClock,
    source: Source,
    tell: Callable[[Fact], None] = lambda _fact: None,
) -> Trust:
    """The trust that enrolment has put on this device: its file says which kind it is.

    Args:
        config: of the agent.
        clock: learns from what is verified.
        source: where metadata comes from when nothing else is said.
        tell: takes an event.
    """
    if is_root(config.trust):
        trust = TufTrust(config.trust, config.state_dir, clock, source, config.identity)
        trust.tell = tell
        return trust
    return PinnedTrust(config.trust, config.identity)


def open_clock(config: AgentConfig, system: Clock) -> TrustedClock:
    """The board's clock, with what the state folder knows of the time."""
    return TrustedClock(system, floor_of(config.state_dir / FOLDER))


def floor_of(folder: Path) -> float:
    """What is known of the time in a trust folder, Unix seconds; 0 if nothing is."""
    try:
        return peek_floors(folder).clock
    except WherryError as error:  # the verifier sets it aside, and says so
        _log.warning("the floors cannot be read: %s", error)
        return 0.0


def _work(request: Mapping[str, Any]) -> Mapping[str, Any]:
    cap_memory(_MEMORY_MIB)
    # only the child needs it, and only the child has it
    from .tuf_verify import Verifier, look_at_root

    if request["task"] == "root":
        return look_at_root(request)
    tasks: Mapping[str, Callable[[Verifier, Mapping[str, Any]], Mapping[str, Any]]] = {
        "assignment": Verifier.assignment,
        "command": Verifier.command,
        "admit": Verifier.admit,
        "time": Verifier.time,
    }
    with closing(Verifier.open(request)) as verifier:
        damaged = list(verifier.damaged)
        try:
            return {"damaged": damaged, **tasks[request["task"]](verifier, request)}
        except WherryError as error:
            return {"damaged": damaged, "refused": [error.code, error.detail]}
        except MemoryError as error:
            detail = f"the verifier: it needs more than {_MEMORY_MIB} MiB"
            raise StoreError("D07", detail) from error


if __name__ == "__main__":
    sys.exit(child_main(_work))
