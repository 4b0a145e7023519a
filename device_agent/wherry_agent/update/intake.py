"""Taking a bundle in: is the order to be carried out, does it fit here, and where are its bytes?

ADMIT and FETCH of the update. What is asked for is small and checked first (the order,
the bundle's list of parts, its signatures, the disk, its manifest); only then come the
parts, resumable, and only those that are missing.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from wherry_agent.config import AgentConfig
from wherry_contract.assignment import Assignment
from wherry_contract.bundle import MANIFEST_FILE, check_size
from wherry_contract.errors import LinkError, StoreError, TrustError, UpdateError
from wherry_contract.manifest import Manifest, RuntimeNeeds
from wherry_contract.oci import LIMIT_BYTES as OCI_LIMIT_BYTES
from wherry_contract.oci import Descriptor, OciManifest
from wherry_contract.wire import sha256_digest

from .deltas import Deltas
from .pace import Pace, Spent, left_over
from .reach import Reach
from .record import DeviceRecord
from .updater import judge_offer

_SPARE_BYTES: Final = 1 << 20


@dataclass(frozen=True)
class Board:
    """What this board is: found once, at start.

    Attributes:
        architecture: as ``aarch64``.
        runtime: the first inference runtime that is installed.
        runtime_version: of that one.
        also: versions of further runtimes, by name.
    """

    architecture: str
    runtime: str
    runtime_version: str
    also: Mapping[str, str] = field(default_factory=dict)

    @property
    def runtime_id(self) -> str:
        """Names the runtimes and their versions."""
        every = {self.runtime: self.runtime_version} | dict(self.also)
        return ", ".join(f"{name} {version}" for name, version in every.items())

    def runtime_for(self, needs: RuntimeNeeds) -> tuple[str, str]:
        """Name and version of the runtime that would run a model; the first if none does."""
        for name in needs.ranges:
            if name in self.also:
                return name, self.also[name]
        return self.runtime, self.runtime_version


class Intake:
    """Judges orders and brings the bundles in."""

    def __init__(self, config: AgentConfig, board: Board, reach: Reach) -> None:
        self._config = config
        self._board = board
        self._blobs = reach.blobs
        self._depot = reach.depot
        self._trust = reach.trust
        self._clock = reach.clock
        self.spent = Spent()
        self._deltas = Deltas(config, reach)

    def check(self, order: Assignment, record: DeviceRecord) -> None:
        """Refuse an order that must not be carried out, now.

        Raises:
            TrustError: T05 or T06.
            UpdateError: U09 or U12.
        """
        judge_offer(order, record, family=self._config.family, now=self._clock.now())

    def admit(self, order: Assignment, record: DeviceRecord, stop: Callable[[], bool]) -> bool:
        """Find out whether the bundle may come here and can run here; false if stopped.

        Raises:
            TrustError, BundleError, ManifestError, UpdateError: it must not, or cannot.
            LinkError, StoreError: that cannot be told now.
        """
        self.check(order, record)
        listed = self._listed(order)
        for blob in listed.blobs:
            check_size(blob)
        self._trust.admit(order, self._depot)
        self._check_disk(listed)
        layer = listed.layer(MANIFEST_FILE)
        if not self._bring(layer, order, record, stop):
            return False
        self._check_manifest(Manifest.from_bytes(self._blobs.read_whole(layer.digest)), order)
        return True

    def fetch(self, order: Assignment, record: DeviceRecord, stop: Callable[[], bool]) -> bool:
        """Bring in the parts that are missing; false if stopped.

        Raises:
            TrustError: T05, it expired meanwhile.
            UpdateError: U13 or U14, the order's policy or our limits forbid more.
            LinkError, StoreError: a part cannot be had now.
        """
        self.check(order, record)
        listed = self._listed(order)
        missing = [blob for blob in listed.blobs if not self._blobs.is_whole(blob.digest)]
        pace = self.pace(order, record)
        if not self._deltas.bring(order, missing, pace, stop):
            return False
        return all(self._bring(blob, order, record, stop) for blob in missing)

    def pace(self, order: Assignment, record: DeviceRecord) -> Pace:
        """How an order's bytes may come now.

        Raises:
            UpdateError: U13, it has had all that it may.
        """
        limits, update = self._config.limits, record.update
        total = sum(blob.size for blob in self._listed(order).blobs)
        count, seconds = left_over(
            int(limits.fetch_share * total) + _SPARE_BYTES,
            limits.fetch_hours,
            (update.fetched if update else 0) + self.spent.count,
            (update.fetch_seconds if update else 0.0) + self.spent.seconds,
        )
        return Pace(
            most=min(limits.fetch_bytes_per_second, order.policy.bytes_per_second or math.inf),
            least=min(
                limits.fetch_least_bytes_per_second, order.policy.bytes_per_second or math.inf
            ),
            most_bytes=count,
            seconds=seconds,
            spent=self.spent,
            room=self._check_room,
        )

    def _check_room(self) -> None:
        """Whoever else fills the disk: the reserve is never ours."""
        reserve = int(self._config.limits.reserve_mib * 2**20)
        free = self._blobs.free_bytes()
        if free < reserve:
            raise StoreError("D01", f"{free} bytes free, {reserve} are kept in reserve")

    def _bring(
        self, blob: Descriptor, order: Assignment, record: DeviceRecord, stop: Callable[[], bool]
    ) -> bool:
        if self._blobs.is_whole(blob.digest):
            return True
        return self._depot.fetch(blob, self._blobs, stop, self.pace(order, record))

    def _listed(self, order: Assignment) -> OciManifest:
        if not self._blobs.is_whole(order.digest):
            data = self._depot.blob(order.digest, OCI_LIMIT_BYTES)
            if sha256_digest(data) != order.digest:
                raise LinkError("L06", f"other content than {order.digest}")
            self._blobs.put(order.digest, data)
        return OciManifest.from_bytes(self._blobs.read_whole(order.digest))

    def _check_disk(self, listed: OciManifest) -> None:
        missing = sum(blob.size for blob in listed.blobs if not self._blobs.has(blob.digest))
        needed = int(missing * 1.2 + self._config.limits.reserve_mib * 2**20)
        free = self._blobs.free_bytes()
        if missing and free < needed:
            raise UpdateError("U01", f"{needed} bytes needed, {free} free")

    def _check_manifest(self, manifest: Manifest, order: Assignment) -> None:
        if manifest.family != order.family:
            raise TrustError("T06", f"the bundle is of {manifest.family}")
        runtime, version = self._board.runtime_for(manifest.runtime)
        manifest.check_fits(runtime=runtime, version=version, architecture=self._board.architecture)
        declared = self._config.features
        lacking = sorted(set(manifest.input.names) - declared) if declared else []
        if lacking:
            raise UpdateError("U07", ", ".join(lacking)[:300])
