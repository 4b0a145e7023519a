"""Carries the update table out: one action for each state, each of which may be repeated.

An action looks at the record and the world, does its work, and returns what came of it;
`updater.step` alone decides what follows, and the new record is on the medium before
anything acts on it. Runs in one thread.
"""

from __future__ import annotations

import hashlib
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Final

from wherry_contract.assignment import Assignment
from wherry_contract.bundle import (
    MANIFEST_FILE,
    STATEMENT_LIMIT_BYTES,
    check_size,
    load_parts,
)
from wherry_contract.errors import (
    BundleError,
    InputError,
    LinkError,
    ManifestError,
    ProbeError,
    StoreError,
    TrustError,
    UpdateError,
    WherryError,
)
from wherry_contract.manifest import Manifest, Soak
from wherry_contract.messages import unwrap_assignment
from wherry_contract.oci import LIMIT_BYTES as OCI_LIMIT_BYTES
from wherry_contract.oci import Descriptor, OciManifest
from wherry_contract.states import SlotTrust
from wherry_contract.states import UpdateState as S
from wherry_contract.wire import sha256_digest

from .clock import Clock
from .config import AgentConfig
from .fetch import Depot
from .record import DeviceRecord, Slot, Update
from .scoring import Scorer
from .shelf import Shelf, without_active
from .spool import Fact, Spool
from .store import BlobStore, StatePair
from .trust import Trust
from .updater import (
    E,
    Result,
    accept,
    free_slot,
    is_new,
    judge_offer,
    resume,
    retry_delay,
    step,
)

_DONE: Final = Result(E.DONE)
_SOAK_LOOKS_SECONDS: Final = 1.0
_LEAST_FAILURES: Final = 5  # so that one odd row among the first few ends no soak


@dataclass(frozen=True)
class Board:
    """What this board is: found once, at start."""

    architecture: str
    runtime: str
    runtime_version: str

    @property
    def runtime_id(self) -> str:
        """Names the runtime and its version."""
        return f"{self.runtime} {self.runtime_version}"


@dataclass(frozen=True)
class Reach:
    """What the updater works with."""

    blobs: BlobStore
    shelf: Shelf
    trust: Trust
    depot: Depot
    scorer: Scorer
    spool: Spool
    clock: Clock


class Updater:
    """Owns the device's record and moves it on."""

    def __init__(self, config: AgentConfig, board: Board, pair: StatePair, reach: Reach) -> None:
        self._config = config
        self._board = board
        self._pair = pair
        self._reach = reach
        self._offers: list[bytes] = []
        self._lock = threading.Lock()
        self._seen = ""
        self._stopped = False
        self.wake = threading.Event()
        self.changed: Callable[[], None] = lambda: None
        self.record = DeviceRecord()
        self._actions: Mapping[S, Callable[[Update], Result]] = {
            S.OFFERED: self._offered,
            S.ADMIT: self._admit,
            S.FETCH: self._fetch,
            S.VERIFY: self._verify,
            S.STAGE: self._stage,
            S.PROBE: self._probe,
            S.SWITCH: self._switch,
            S.SOAK: self._soak,
            S.COMMIT: self._clean,
            S.DISCARD: self._clean,
            S.REVERT: self._revert,
            S.VERIFY_REVERT: self._verify_revert,
            S.REPORT: self._report,
        }

    # --- from outside -------------------------------------------------------------------

    def offer(self, payload: bytes) -> None:
        """Take a payload of the assignment topic; only the latest is looked at."""
        with self._lock:
            self._offers[:] = [payload]
        self.wake.set()

    def stop(self) -> None:
        """Interrupt a download at its next chunk."""
        self._stopped = True
        self.wake.set()

    def start(self) -> None:
        """Read the record and serve with what it says, before any network is looked for.

        Raises:
            StoreError: D06, the record cannot be read.
        """
        document = self._pair.load()
        for path in self._pair.damaged:
            self._tell(Fact("D02", f"{path.name} was set aside", "error"))
        if document is not None:
            try:
                self.record = DeviceRecord.from_dict(document)
            except WherryError as error:  # whole, but not of our making: begin anew
                self._tell(Fact("D02", f"the record has another form: {error}", "error"))
        self._serve_first()

    def _serve_first(self) -> None:
        upgraded = self.record.runtime != self._board.runtime_id
        choice = self._reach.shelf.choose(self.record, probed=upgraded)
        for digest, error in choice.failures:
            self._tell(Fact.of(error, bundle=digest))
        if not choice.record.active and self.record.active:
            self._tell(Fact.of(UpdateError("U08")))
        self._reach.scorer.swap(choice.served)
        self.record = resume(replace(choice.record, runtime=self._board.runtime_id))
        self._save_if_possible(self.record)

    def check_active(self) -> None:
        """Probe what serves since the start; take it out of service if it fails."""
        if not self.record.active:
            return
        digest = self.record.serving.digest
        try:
            self._reach.shelf.probe(digest)
        except WherryError as error:
            self._tell(Fact.of(error, bundle=digest))
            self._fall_back()

    def _fall_back(self) -> None:
        choice = self._reach.shelf.choose(without_active(self.record), probed=True)
        self._reach.scorer.swap(choice.served)
        if not choice.record.active:
            self._tell(Fact.of(UpdateError("U08")))
        self._save_if_possible(choice.record)

    def run_once(self) -> float:
        """Take one step; returns how many seconds to wait for the next, unless woken."""
        self._take_offer()
        if self.record.state == S.IDLE or self.record.update is None:
            return 3600.0
        before = S(self.record.state)
        result = self._act(before, self.record.update)
        following = step(self.record, result)
        if not self._save_if_possible(following):
            return 1.0 + retry_delay(4, random.random())  # noqa: S311 - jitter, no secret
        self._tell_step(before, result)
        if result.event == E.WAIT:
            return _SOAK_LOOKS_SECONDS
        if result.event == E.RETRY and following.update:
            return retry_delay(following.update.retries, random.random())  # noqa: S311 - jitter
        return 0.0

    # --- orders -------------------------------------------------------------------------

    def _take_offer(self) -> None:
        with self._lock:
            payload = self._offers.pop() if self._offers else b""
        if not payload or hashlib.sha256(payload).hexdigest() == self._seen:
            return
        try:
            assignment = self._reach.trust.assignment(unwrap_assignment(payload))
            if is_new(assignment, self.record, self._config.device):
                self._save(accept(self.record, assignment))
        except StoreError as error:
            self._tell(Fact.of(error))
            with self._lock:
                self._offers[:] = self._offers or [payload]
            return
        except WherryError as error:
            self._reach.spool.tell(
                Fact.of(error), key=f"refused:{hashlib.sha256(payload).hexdigest()[:16]}"
            )
        self._seen = hashlib.sha256(payload).hexdigest()
        self.changed()

    def _pending(self) -> bool:
        return self.record.pending is not None

    # --- the record ---------------------------------------------------------------------

    def _save(self, record: DeviceRecord) -> None:
        self._pair.save(record.to_dict())
        self.record = record

    def _save_if_possible(self, record: DeviceRecord) -> bool:
        try:
            self._save(record)
        except StoreError as error:
            self._tell(Fact.of(error), key=f"disk:{int(self._reach.clock.now() // 3600)}")
            return False
        self.changed()
        return True

    # --- telling ------------------------------------------------------------------------

    def _tell(self, fact: Fact, key: str | None = None) -> None:
        self._reach.spool.tell(fact, key=key)

    def _tell_step(self, before: S, result: Result) -> None:
        """One event for each step forward, one for each new kind of trouble."""
        update = self.record.update
        if update is None or result.event == E.WAIT:
            return
        order = update.assignment
        about = f"{order.rollout}:{order.sequence}"
        if result.event == E.RETRY:
            fact = Fact(result.code, result.detail, "warning", order.rollout, order.digest)
            self._tell(fact, key=f"retry:{about}:{before}:{result.code}")
        elif self.record.state != S.IDLE:
            text = f"{before} -> {self.record.state}"
            text += f": {result.code} {result.detail}" if result.code else ""
            text += f": {result.detail}" if result.detail and not result.code else ""
            severity = "error" if result.event == E.FAIL else "info"
            fact = Fact(
                f"update.{self.record.state}", text[:1000], severity, order.rollout, order.digest
            )
            self._tell(fact)

    # --- actions ------------------------------------------------------------------------

    def _act(self, state: S, update: Update) -> Result:
        try:
            return self._actions[state](update)
        except (LinkError, StoreError) as error:
            return Result(E.RETRY, error.code, error.detail)
        except (
            BundleError,
            InputError,
            ManifestError,
            ProbeError,
            TrustError,
            UpdateError,
        ) as error:
            return Result(E.FAIL, error.code, error.detail)

    def _check_order(self, update: Update) -> None:
        judge_offer(
            update.assignment,
            self.record,
            family=self._config.family,
            now=self._reach.clock.now(),
        )

    def _offered(self, update: Update) -> Result:
        self._check_order(update)
        return _DONE

    def _admit(self, update: Update) -> Result:
        if self._pending():
            return Result(E.NEWER, "U02")
        self._check_order(update)
        order = update.assignment
        listed = OciManifest.from_bytes(self._oci_manifest(order))
        for blob in listed.blobs:
            check_size(blob)
        envelope = self._reach.depot.statement(order.digest, STATEMENT_LIMIT_BYTES)
        self._reach.trust.statement(envelope, family=order.family, digest=order.digest)
        self._check_disk(listed)
        layer = listed.layer(MANIFEST_FILE)
        blobs = self._reach.blobs
        if not blobs.has(layer.digest) and not self._reach.depot.fetch(layer, blobs, self._halted):
            return Result(E.WAIT)
        self._check_manifest(Manifest.from_bytes(blobs.read(layer.digest)), order)
        return _DONE

    def _oci_manifest(self, order: Assignment) -> bytes:
        blobs = self._reach.blobs
        if blobs.has(order.digest):
            data = blobs.read(order.digest)
            if sha256_digest(data) == order.digest:
                return data
        data = self._reach.depot.blob(order.digest, OCI_LIMIT_BYTES)
        if sha256_digest(data) != order.digest:
            raise LinkError("L06", f"other content than {order.digest}")
        blobs.put(order.digest, data)
        return data

    def _check_disk(self, listed: OciManifest) -> None:
        missing = sum(blob.size for blob in self._missing(listed))
        needed = int(missing * 1.2 + self._config.limits.reserve_mib * 2**20)
        free = self._reach.blobs.free_bytes()
        if missing and free < needed:
            raise UpdateError("U01", f"{needed} bytes needed, {free} free")

    def _missing(self, listed: OciManifest) -> list[Descriptor]:
        return [blob for blob in listed.blobs if not self._reach.blobs.has(blob.digest)]

    def _check_manifest(self, manifest: Manifest, order: Assignment) -> None:
        if manifest.family != order.family:
            raise TrustError("T06", f"the bundle is of {manifest.family}")
        board = self._board
        manifest.check_fits(
            runtime=board.runtime, version=board.runtime_version, architecture=board.architecture
        )
        declared = self._config.features
        lacking = sorted(set(manifest.input.names) - declared) if declared else []
        if lacking:
            raise UpdateError("U07", ", ".join(lacking)[:300])

    def _halted(self) -> bool:
        return self._stopped or bool(self._offers)

    def _fetch(self, update: Update) -> Result:
        if self._pending():
            return Result(E.NEWER, "U02")
        self._check_order(update)
        listed = OciManifest.from_bytes(self._reach.blobs.read(update.assignment.digest))
        for blob in self._missing(listed):
            if not self._reach.depot.fetch(blob, self._reach.blobs, self._halted):
                return Result(E.WAIT)
        return _DONE

    def _verify(self, update: Update) -> Result:
        blobs = self._reach.blobs
        load_parts(blobs.read(update.assignment.digest), lambda item: blobs.read(item.digest))
        return _DONE

    def _stage(self, update: Update) -> Result:
        order = update.assignment
        listed = OciManifest.from_bytes(self._reach.blobs.read(order.digest))
        layer = listed.layer(MANIFEST_FILE)
        manifest = Manifest.from_bytes(self._reach.blobs.read(layer.digest))
        size = sum(blob.size for blob in listed.blobs)
        slot = Slot(order.digest, size, manifest.name, manifest.version, SlotTrust.UNPROVEN)
        name = free_slot(self.record)
        self._save(self.record.with_slot(name, slot).with_update(slot=name))
        return _DONE

    def _probe(self, update: Update) -> Result:
        found = self._reach.shelf.probe(update.assignment.digest)
        detail = f"p95 {found['p95_us']:.0f} us a row, {found['peak_mib']:.0f} MiB"
        return Result(E.DONE, "", detail)

    def _switch(self, update: Update) -> Result:
        if self._pending():
            return Result(E.NEWER, "U02")
        served = self._reach.shelf.load(update.assignment.digest)
        self._save(self.record.with_update(soak_since=self._reach.clock.now()))
        self._reach.scorer.swap(served)
        return _DONE

    def _soak(self, update: Update) -> Result:
        if self._pending():
            return Result(E.NEWER, "U02")
        served = self._reach.scorer.served
        if served is None or served.digest != update.assignment.digest or not served.model:
            return Result(E.FAIL, "U06", "the model no longer serves")
        soak = _soak_of(served.manifest, update.assignment)
        progress = self._reach.scorer.progress
        if progress.failures >= max(_LEAST_FAILURES, soak.error_share * progress.rows):
            detail = f"{progress.failures} of {progress.rows} rows failed: {progress.failure}"
            return Result(E.FAIL, "U06", detail[:500])
        age = self._reach.clock.now() - update.soak_since
        if progress.rows >= soak.rows and age >= soak.seconds:
            return Result(E.DONE, "", f"{progress.rows} rows in {age:.0f} s")
        if age > soak.longest_seconds and not update.undecided:
            detail = f"{progress.rows} of {soak.rows} rows in {age:.0f} s"
            order = update.assignment
            self._tell(Fact("U10", detail, "warning", order.rollout, order.digest))
            self._save(self.record.with_update(undecided=True))
        return Result(E.WAIT)

    def _clean(self, _: Update) -> Result:
        self._reach.shelf.keep_only(self.record.digests)
        return _DONE

    def _revert(self, _: Update) -> Result:
        choice = self._reach.shelf.choose(self.record, probed=False)
        for digest, error in choice.failures:
            self._tell(Fact.of(error, bundle=digest))
        self._save(choice.record)
        self._reach.scorer.swap(choice.served)
        return _DONE

    def _verify_revert(self, _: Update) -> Result:
        if not self.record.active:
            raise UpdateError("U08")
        try:
            self._reach.shelf.probe(self.record.serving.digest)
        except WherryError:
            self._fall_back()
            raise
        return _DONE

    def _report(self, update: Update) -> Result:
        order = update.assignment
        good = update.outcome in ("committed", "withdrawn")
        text = f"{update.code} {update.detail}".strip() or update.outcome
        fact = Fact(
            code=update.code or f"update.{update.outcome}",
            text=text[:1000],
            severity="info" if good else "error",
            rollout=order.rollout,
            bundle=order.digest,
            outcome=update.outcome,
        )
        self._reach.spool.record(fact, key=f"report:{order.rollout}:{order.sequence}")
        return _DONE


def _soak_of(manifest: Manifest, order: Assignment) -> Soak:
    """The bundle's soak, with what the order says otherwise."""
    soak = manifest.soak
    rows = order.soak_rows if order.soak_rows >= 0 else soak.rows
    seconds = order.soak_seconds if order.soak_seconds >= 0 else soak.seconds
    return replace(soak, rows=rows, seconds=seconds)
