"""The two slots on disk: loading, probing and choosing what serves."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wherry_agent.config import Limits
from wherry_agent.serving.inference import Model, load_model
from wherry_agent.serving.probe import probe
from wherry_agent.serving.runtime import open_session
from wherry_agent.serving.served import Served
from wherry_agent.store import BlobStore
from wherry_contract.bundle import MANIFEST_FILE, PROFILE_FILE, Parts, load_parts
from wherry_contract.errors import BundleError, StoreError, WherryError
from wherry_contract.manifest import Manifest
from wherry_contract.oci import OciManifest
from wherry_contract.profile import ReferenceProfile
from wherry_contract.states import SlotTrust

from .record import DeviceRecord, Slot


@dataclass(frozen=True)
class Choice:
    """What serves after a start or a revert.

    Attributes:
        record: with slots that proved unusable marked bad.
        served: what to serve with; nothing if there is not even a rule.
        failures: what went wrong on the way, by bundle digest.
        unread: whether the active slot could not be read now, so that `served` only stands in.
    """

    record: DeviceRecord
    served: Served | None
    failures: tuple[tuple[str, WherryError], ...] = ()
    unread: bool = False


class Shelf:
    """Bundles of one device by digest."""

    def __init__(self, folder: Path, blobs: BlobStore, limits: Limits) -> None:
        self._folder = folder
        self._blobs = blobs
        self._limits = limits

    def parts(self, digest: str) -> Parts:
        """Read a bundle's blobs and check all of them.

        Raises:
            WherryError: it is damaged or contradicts itself.
        """
        manifest = self._blobs.read_whole(digest)
        return load_parts(manifest, lambda item: self._blobs.read(item.digest))

    def load(self, digest: str) -> Served:
        """Load a bundle into this process, ready to serve.

        Raises:
            WherryError: it is damaged, contradicts itself or cannot be loaded.
        """
        parts = self.parts(digest)
        return Served.by_model(load_model(digest, parts))

    def load_shadow(self, digest: str) -> Model:
        """Load a bundle that only scores beside another, by one thread: a core is all it gets.

        Raises:
            WherryError: it is damaged, contradicts itself or cannot be loaded.
        """
        parts = self.parts(digest)
        needs = replace(parts.manifest.runtime, threads=1)
        session = open_session(parts.model, needs, parts.manifest.output)
        return Model(digest, parts, session)

    def rule(self, digest: str) -> Served:
        """A bundle's rule alone: what answers when its model cannot.

        Raises:
            WherryError: its manifest or profile is damaged.
        """
        listed = OciManifest.from_bytes(self._blobs.read_whole(digest))
        manifest = self._blobs.read(listed.layer(MANIFEST_FILE).digest)
        profile = self._blobs.read(listed.layer(PROFILE_FILE).digest)
        return Served(
            digest, Manifest.from_bytes(manifest), ReferenceProfile.from_bytes(profile), None
        )

    def probe(self, digest: str) -> dict[str, float]:
        """Probe a bundle in a child process; latency in microseconds, memory in MiB.

        Raises:
            WherryError: P01 to P05, or it is damaged.
        """
        limits = self._limits
        return probe(self._folder, digest, seconds=limits.probe_seconds, mib=limits.probe_mib)

    def choose(self, record: DeviceRecord, *, probed: bool) -> Choice:
        """Serve with the active slot, else with the other good one, else with a rule.

        Only what was read and is wrong, or is not there, condemns a slot. Where the medium
        gives an error the record stays as it is, and something else serves for now.

        Args:
            record: what the device remembers.
            probed: whether the active slot must pass its probe first, as after an upgrade
                of the runtime; a slot that takes over always must.
        """
        failures: list[tuple[str, WherryError]] = []
        while record.active:
            digest = record.serving.digest
            try:
                if probed or failures:
                    self._probe_if_possible(digest)
                return Choice(record, self.load(digest), tuple(failures))
            except WherryError as error:
                failures.append((digest, error))
                if isinstance(error, StoreError) and not self._lacks_part(digest):
                    return Choice(record, self._for_now(record), tuple(failures), unread=True)
                record = without_active(record)
        return Choice(record, self._any_rule(record), tuple(failures))

    def _lacks_part(self, digest: str) -> bool:
        if self._blobs.is_gone(digest):
            return True
        try:
            listed = OciManifest.from_bytes(self._blobs.read_whole(digest))
        except WherryError:
            return False
        return any(self._blobs.is_gone(blob.digest) for blob in listed.blobs)

    def _for_now(self, record: DeviceRecord) -> Served | None:
        """The other slot if it is good, else a rule."""
        other = record.slots["b" if record.active == "a" else "a"]
        if other.trust == SlotTrust.GOOD:
            with suppress(WherryError):  # then the rule; it is told when it is to serve
                return self.load(other.digest)
        return self._any_rule(record)

    def _probe_if_possible(self, digest: str) -> None:
        with suppress(StoreError):  # no fault of the bundle's; if it cannot be read, `load` says so
            self.probe(digest)

    def salvage(self, family: str) -> DeviceRecord:
        """A record made from the bundles on disk, after the real one was lost.

        Only what was fetched for a verified order is here. The oldest whole bundle that
        passes its probe is taken: a younger one may be an update that was never proven.
        """
        for digest in self._blobs.manifests():
            try:
                parts = self.parts(digest)
                if parts.manifest.family != family:
                    continue
                self.probe(digest)
            except WherryError:  # no bundle, an unfinished one or a bad one: look at the next
                continue
            slot = slot_for(digest, parts.manifest, self._size(digest), SlotTrust.GOOD)
            return DeviceRecord(active="a").with_slot("a", slot)
        return DeviceRecord()

    def _size(self, digest: str) -> int:
        listed = OciManifest.from_bytes(self._blobs.read_whole(digest))
        return sum(blob.size for blob in listed.blobs)

    def _any_rule(self, record: DeviceRecord) -> Served | None:
        for slot in record.slots.values():
            if slot.digest:
                try:
                    return self.rule(slot.digest)
                except WherryError:  # a damaged bundle was reported when it failed to load
                    continue
        return None

    def keep_only(self, digests: set[str]) -> int:
        """Remove all blobs that these bundles do not need; returns how many went.

        Raises:
            StoreError: D06.
        """
        kept = set(digests)
        for digest in digests:
            if self._blobs.has(digest):
                try:
                    listed = OciManifest.from_bytes(self._blobs.read_whole(digest))
                except BundleError:  # what a damaged one needs is unknown, so nothing may go
                    return 0
                kept |= {blob.digest for blob in listed.blobs}
        return self._blobs.keep_only(kept)


def slot_for(digest: str, manifest: Manifest, size: int, trust: SlotTrust) -> Slot:
    """The slot that holds a bundle."""
    return Slot(digest, size, manifest.name, manifest.version, trust)


def without_active(record: DeviceRecord) -> DeviceRecord:
    """Mark the active slot bad and make the other one active if it is good."""
    bad = replace(record.serving, trust=SlotTrust.BAD)
    other = "b" if record.active == "a" else "a"
    good = record.slots[other].trust == SlotTrust.GOOD
    return replace(record.with_slot(record.active, bad), active=other if good else "")
