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
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wherry_contract.assignment import Assignment
from wherry_contract.bundle import Bundle, open_bundle
from wherry_contract.errors import LinkError, SetupError, TrustError, UpdateError, coded_error
from wherry_contract.messages import unwrap_assignment
from wherry_contract.oci import Descriptor
from wherry_contract.states import Outcome
from wherry_contract.states import UpdateState as S
from wherry_contract.wire import parse_json

from .app import build_core, open_outbox
from .clock import Clock, SystemClock, TrustedClock
from .config import AgentConfig
from .pace import Pace
from .record import Update
from .store import BlobStore, folder_lock
from .tuf_fetch import METADATA_FOLDER
from .tuf_trust import open_clock
from .update_io import Updater

ORDERS_FOLDER: Final = "assignments"
_ORDER_LIMIT_BYTES: Final = 64 * 1024
_VALID_SECONDS: Final = 3600.0  # so that one that was interrupted does not linger
_MOST_RETRIES: Final = 3
_PAUSE_SECONDS: Final = 1.0


class FileSource:
    """A bundle file in the place of a depot."""

    def __init__(self, bundle: Bundle, folder: Path) -> None:
        """Take the bundle, and the folder where its file lies."""
        self._bundle = bundle
        self._folder = folder

    def place(self) -> Mapping[str, Any]:
        """The file's folder, if `wherry export` has put the metadata there too."""
        drop = self._folder.absolute()
        return {"folder": str(drop)} if (drop / METADATA_FOLDER).is_dir() else {}

    def blob(self, digest: str, limit: int) -> bytes:
        """The bundle's OCI manifest."""
        if digest != self._bundle.digest or len(self._bundle.manifest) > limit:
            raise LinkError("L05", f"the file does not hold {digest}")
        return self._bundle.manifest

    def statement(self, digest: str, limit: int) -> bytes:
        """The bundle's signatures."""
        if digest != self._bundle.digest or len(self._bundle.statement) > limit:
            raise LinkError("L05", f"the file does not hold the signatures of {digest}")
        if not self._bundle.statement:
            raise TrustError("T02", "the file carries no signatures")
        return self._bundle.statement

    def deltas(self, digest: str, limit: int) -> bytes:  # noqa: ARG002 - as `Source` has it
        """None: everything is here."""
        return b""

    def fetch(
        self,
        wanted: Descriptor,
        store: BlobStore,
        stop: Callable[[], bool],
        pace: Pace | None = None,  # noqa: ARG002 - as `Source` has it
    ) -> bool:
        """Copy a part into the store; what is here needs no pace."""
        if stop():
            return False
        store.put(wanted.digest, self._bundle.blob(wanted))
        return True


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
            parts = bundle.parts()
            believed = open_clock(config, clock or SystemClock())
            name = rollout or f"local-{secrets.token_hex(4)}"
            state = _install(config, bundle, path.parent, believed, rollout=name)
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}") from error
    return Installed(bundle.digest, parts.manifest.name, parts.manifest.version, state)


def install_folder(config: AgentConfig, folder: Path, clock: Clock | None = None) -> Installed:
    """Carry out the order for this device in a folder that `wherry export` has written.

    Raises:
        SetupError: H02, the folder has no order for this device, or not its bundle.
        TrustError: T04, the order was carried out before; the other codes of an order.
        WherryError: as `install_file`.
    """
    place = folder / ORDERS_FOLDER / f"{config.device}.json"
    try:
        with place.open("rb") as stream:
            payload = stream.read(_ORDER_LIMIT_BYTES)
        path = _bundle_of(folder, _ordered_digest(payload))
        with path.open("rb") as stream:
            bundle = open_bundle(stream)
            parts = bundle.parts()
            believed = open_clock(config, clock or SystemClock())
            state = _install(config, bundle, folder, believed, payload=payload)
    except OSError as error:
        cure = "ask for a stick with an order for it, or install a bundle's file"
        raise SetupError("H02", f"{place}: {error.strerror}", cure=cure) from error
    return Installed(bundle.digest, parts.manifest.name, parts.manifest.version, state)


def _ordered_digest(payload: bytes) -> str:
    """Which bundle an order says it is for; nothing is verified here."""
    envelope = parse_json(unwrap_assignment(payload), limit=_ORDER_LIMIT_BYTES, what="order")
    try:
        said = base64.b64decode(str(envelope.get("payload", "")), validate=True)
    except binascii.Error as error:
        raise TrustError("T09", "the order is no envelope") from error
    return Assignment.from_bytes(said).digest


def _bundle_of(folder: Path, digest: str) -> Path:
    for path in sorted(folder.glob("*.wherry")):
        with path.open("rb") as stream:
            if open_bundle(stream).digest == digest:
                return path
    raise SetupError("H02", f"{folder} has no bundle {digest[:19]}, which the order names")


def _install(
    config: AgentConfig,
    bundle: Bundle,
    folder: Path,
    clock: TrustedClock,
    *,
    payload: bytes = b"",
    rollout: str = "",
) -> str:
    with folder_lock(config.state_dir):
        outbox = open_outbox(config)
        try:
            core = build_core(config, outbox, clock, FileSource(bundle, folder))
            core.updater.start()
            if not payload:
                core.updater.install(_order(config, bundle, clock.now(), rollout))
            elif not core.updater.judge(payload):
                raise TrustError("T04", "the order on the stick was carried out before")
            update = _carry_out(core.updater, bundle.digest)
            core.spool.flush()
            state = core.updater.record.state
        finally:
            outbox.close()
    if update.outcome not in ("", Outcome.COMMITTED):
        raise coded_error(update.code, update.detail)
    return state


def _order(config: AgentConfig, bundle: Bundle, now: float, rollout: str) -> Assignment:
    return Assignment(
        device=config.device,
        rollout=rollout,
        family=config.family,
        digest=bundle.digest,
        size=len(bundle.manifest),
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
