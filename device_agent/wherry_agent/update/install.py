"""`wherry-agent install FILE|DIR`: a bundle, as from a USB stick, through the same update table.

The order for a FILE is a person's, so it needs no signature; for a DIR, as `wherry export`
writes it, it is the signed one for this device that lies there. Everything about the bundle
itself is checked as if it came over the network: signers, family, counter, digests, board, probe.
After the switch it soaks on live traffic when the agent runs again.
"""

from __future__ import annotations

import base64
import binascii
import secrets
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry_agent.clock import Clock, SystemClock, TrustedClock
from wherry_agent.config import AgentConfig
from wherry_agent.core import build_core, open_outbox
from wherry_agent.store import folder_lock
from wherry_agent.trust.tuf_trust import open_clock
from wherry_contract.assignment import Assignment
from wherry_contract.bundle import Bundle, open_bundle
from wherry_contract.errors import SetupError, TrustError, UpdateError, coded_error
from wherry_contract.messages import unwrap_assignment
from wherry_contract.oci import blob_path
from wherry_contract.states import Outcome
from wherry_contract.states import UpdateState as S
from wherry_contract.wire import parse_json

from .record import Update
from .stick import Stick
from .update_io import Updater

ORDERS_FOLDER: Final = "assignments"
_ORDER_LIMIT_BYTES: Final = 64 * 1024
_VALID_SECONDS: Final = 3600.0  # so that one that was interrupted does not linger
_MOST_RETRIES: Final = 3
_PAUSE_SECONDS: Final = 1.0


@dataclass(frozen=True)
class Installed:
    """What came of it.

    Attributes:
        state: ``soak`` while it waits for live traffic, ``idle`` if it was committed already.
    """

    digest: str
    name: str
    version: str
    state: str


def install_file(
    config: AgentConfig, path: Path, clock: Clock | None = None, *, rollout: str = ""
) -> Installed:
    """Install a bundle file on a device whose agent is not running.

    Args:
        config: of the device.
        path: of the file.
        clock: of the board.
        rollout: what it is reported as; "" for a name of its own.

    Raises:
        SetupError: H02, the file cannot be read.
        StoreError: D03 the agent is running, D01 or D06 the disk does not take it.
        UpdateError: U03, a step does not succeed.
        WherryError: the bundle is refused, with the code of the first check that failed.
    """
    try:
        with path.open("rb") as stream:
            bundle = open_bundle(stream)
            bundle.parts()
            name = rollout or f"local-{secrets.token_hex(4)}"
            job = _Job(config, bundle.digest, len(bundle.manifest), rollout=name)
            return job.do(Stick(path.parent, bundle), open_clock(config, clock or SystemClock()))
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error


def install_folder(config: AgentConfig, folder: Path, clock: Clock | None = None) -> Installed:
    """Carry out the order for this device in a folder that `wherry export` has written.

    Raises:
        SetupError: H02, the folder has no order for this device, or not its bundle.
        TrustError: T04, the order was carried out before; the other codes of an order.
        UpdateError: U14, the folder is thin, and what it builds on is not here.
        WherryError: as `install_file`.
    """
    place = folder / ORDERS_FOLDER / f"{config.device}.json"
    try:
        with place.open("rb") as stream, ExitStack() as stack:
            payload = stream.read(_ORDER_LIMIT_BYTES)
            digest = _ordered_digest(payload)
            stick = Stick(folder, _bundle_of(folder, digest, stack))
            believed = open_clock(config, clock or SystemClock())
            return _Job(config, digest, payload=payload).do(stick, believed)
    except OSError as error:
        cure = "ask for a stick with an order for it, or install a bundle's file"
        raise SetupError("H02", f"{place}: {error.strerror}", cure=cure) from error


def _ordered_digest(payload: bytes) -> str:
    """Which bundle an order says it is for; nothing is verified here."""
    envelope = parse_json(unwrap_assignment(payload), limit=_ORDER_LIMIT_BYTES, what="order")
    try:
        said = base64.b64decode(str(envelope.get("payload", "")), validate=True)
    except binascii.Error as error:
        raise TrustError("T09", "the order is no envelope") from error
    return Assignment.from_bytes(said).digest


def _bundle_of(folder: Path, digest: str, stack: ExitStack) -> Bundle | None:
    """The bundle of an order, open until the stack ends; nothing in a folder that is thin.

    Raises:
        SetupError: H02, it has neither its file nor its list of parts.
    """
    for path in sorted(folder.glob("*.wherry")):
        bundle = open_bundle(stack.enter_context(path.open("rb")))
        if bundle.digest == digest:
            bundle.parts()
            return bundle
    if (folder / blob_path(digest)).is_file():
        return None
    raise SetupError("H02", f"{folder} has no bundle {digest[:19]}, which the order names")


@dataclass(frozen=True)
class _Job:
    """One install: by a signed order, or by a person's for a bundle, reported as a rollout."""

    config: AgentConfig
    digest: str
    size: int = 0
    payload: bytes = b""
    rollout: str = ""

    def do(self, stick: Stick, clock: TrustedClock) -> Installed:
        with folder_lock(self.config.state_dir):
            outbox = open_outbox(self.config)
            try:
                core = build_core(self.config, outbox, clock, stick)
                core.updater.start()
                if not self.payload:
                    core.updater.install(self._order(clock.now()))
                elif not core.updater.judge(self.payload):
                    raise TrustError("T04", "the order on the stick was carried out before")
                update = _carry_out(core.updater, self.digest)
                core.spool.flush()
                record = core.updater.record
            finally:
                outbox.close()
        if update.outcome not in ("", Outcome.COMMITTED):
            raise coded_error(update.code, update.detail)
        slot = record.serving
        return Installed(self.digest, slot.name, slot.version, record.state)

    def _order(self, now: float) -> Assignment:
        return Assignment(
            device=self.config.device,
            rollout=self.rollout,
            family=self.config.family,
            digest=self.digest,
            size=self.size,
            sequence=max(1, int(now)),
            issued_at=now,
            expires=now + _VALID_SECONDS,
        )


def _carry_out(updater: Updater, digest: str) -> Update:
    """Take steps until the bundle soaks or its update has ended; what is in its way unwinds."""
    seen: Update | None = None
    left = _MOST_RETRIES  # of ours: what a network update has used up is not counted
    while True:
        update = updater.record.update
        if update and update.assignment.digest == digest:
            seen = update
            if updater.record.state == S.SOAK:
                return seen
        elif seen:
            return seen
        before = updater.record.state
        pause = updater.run_once()
        if updater.record.state == S.IDLE and seen:
            return seen
        left = left - 1 if pause and updater.record.state == before else _MOST_RETRIES
        if left < 0:
            cure = "see `wherry-agent status`, then try again"
            raise UpdateError("U03", f"{before} does not succeed", cure=cure)
        if pause:
            time.sleep(min(pause, _PAUSE_SECONDS))
