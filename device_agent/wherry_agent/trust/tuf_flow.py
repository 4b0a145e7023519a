"""TUF's client workflow over our store, our reader and our clock.

What metadata is and when it may be trusted is python-tuf's: `TrustedMetadataSet` checks
signatures, thresholds, versions, hashes and expiry (TUF specification 1.0, section 5).
Ours is the rest of its client, because that one does not sync its files, forgets versions
with a truncated cache, has no resume, and reads the system clock (ADR 0008).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from wherry_contract.errors import LinkError, TrustError, WherryError
from wherry_contract.when import to_seconds, to_text

from .tuf_fetch import Reader
from .tuf_store import ROOT_LIMIT_BYTES, MetadataStore

if TYPE_CHECKING:
    from tuf.api.metadata import TargetFile, Targets
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet

TIMESTAMP_LIMIT_BYTES: Final = 16 * 1024
SNAPSHOT_LIMIT_BYTES: Final = 2 * 2**20
TARGETS_LIMIT_BYTES: Final = 5 * 2**20
FIELD: Final = "x-wherry"  # ours in TUF metadata, signed with the rest
_MOST_ROOTS: Final = 256  # new ones in one refresh
_MOST_DELEGATIONS: Final = 32  # visited for one target


class TufFlow:
    """One pass of TUF's client workflow.

    Args:
        bootstrap: the root that the device was born with.
        store: what was verified before.
        reader: of the repository's metadata folder.
        now: trusted time, Unix seconds; expiry is judged by it throughout the pass.
    """

    def __init__(
        self, bootstrap: bytes, store: MetadataStore, reader: Reader, *, now: float
    ) -> None:
        self._store = store
        self._reader = reader
        self._now = now
        self._done = False
        self._trusted = open_root(bootstrap)
        self._trusted.reference_time = datetime.fromtimestamp(now, UTC)
        self._bootstrap = bootstrap

    @property
    def trusted(self) -> TrustedMetadataSet:
        """What was verified."""
        return self._trusted

    def refresh(self) -> None:
        """Bring root, timestamp, snapshot and targets up to date.

        Raises:
            LinkError: L04 to L06, the repository cannot be read now.
            TrustError: T11 expired, T13 older than seen, mixed, or not signed as it must be.
            StoreError: D01 or D06.
        """
        self._load_root()
        self._load_timestamp()
        self._load_snapshot()
        self.load_targets("targets", "root")
        self._note_time()
        self._done = True

    # --- the four roles -----------------------------------------------------------------

    def _load_root(self) -> None:
        """Newer roots one by one; each is kept at once, whatever comes after it."""
        newest = self._bootstrap
        try:
            while (cached := self._cached_root()) is not None:
                newest = cached
            for _ in range(_MOST_ROOTS):
                found = self._newer_root()
                if found is None:
                    break
                newest = found
        finally:
            if self._store.read("root", ROOT_LIMIT_BYTES) != newest:
                self._store.write("root", newest)
        self._store.floors.check("root", self._trusted.root.version, "")
        floors = self._store.floors.seen({"root": self._trusted.root.version}, "")
        self._store.save_floors(floors)

    def _cached_root(self) -> bytes | None:
        cached = self._store.read_root(self._trusted.root.version + 1)
        right = cached is not None and self._took(self._trusted.update_root, cached)
        return cached if right else None

    def _newer_root(self) -> bytes | None:
        version = self._trusted.root.version + 1
        data = self._reader.read(f"{version}.root.json", ROOT_LIMIT_BYTES)
        if data is None:
            return None
        with _coded("root"):
            self._trusted.update_root(data)
        self._store.write_root(version, data)
        return data

    def _load_timestamp(self) -> None:
        cached = self._store.read("timestamp", TIMESTAMP_LIMIT_BYTES)
        if cached is not None:
            self._took(self._trusted.update_timestamp, cached)
        data = self._reader.read("timestamp.json", TIMESTAMP_LIMIT_BYTES)
        newer = data is not None and self._is_newer(data)
        if "timestamp" not in self._trusted:
            raise self._absent("timestamp")
        version, keys = self._trusted.timestamp.version, self._keys("timestamp")
        self._store.floors.check("timestamp", version, keys)
        self._store.save_floors(self._store.floors.seen({"timestamp": version}, keys))
        if data is not None and newer:
            self._store.write("timestamp", data)
        self._judge_from(self._signed_at())

    def _is_newer(self, data: bytes) -> bool:
        from tuf.api.exceptions import EqualVersionNumberError

        try:
            with _coded("timestamp"):
                self._trusted.update_timestamp(data)
        except TrustError as error:
            if isinstance(error.__cause__, EqualVersionNumberError):
                return False
            raise
        return True

    def _load_snapshot(self) -> None:
        cached = self._store.read("snapshot", SNAPSHOT_LIMIT_BYTES)
        stands = cached is not None and self._took(
            self._trusted.update_snapshot, cached, trusted=True
        )
        data = None if stands else self._newer_snapshot()
        found, keys = self._trusted.snapshot, self._keys("snapshot")
        versions = {name.removesuffix(".json"): meta.version for name, meta in found.meta.items()}
        floors = self._store.floors
        floors.check("snapshot", found.version, keys)
        floors.check_all(versions, keys, ("root", "timestamp", "snapshot"))
        self._store.save_floors(floors.seen(versions | {"snapshot": found.version}, keys))
        if data is not None:
            self._store.write("snapshot", data)

    def _newer_snapshot(self) -> bytes:
        listed = self._trusted.timestamp.snapshot_meta
        limit = min(listed.length or SNAPSHOT_LIMIT_BYTES, SNAPSHOT_LIMIT_BYTES)
        data = self._fetch("snapshot", listed.version, limit)
        with _coded("snapshot"):
            self._trusted.update_snapshot(data)
        return data

    def load_targets(self, role: str, parent: str) -> Targets:
        """A targets role as its delegator lists it.

        Raises:
            LinkError: L04 to L06.
            TrustError: T11 or T13.
            StoreError: D01 or D06.
        """
        from tuf.api.metadata import Targets

        if not self._trusted.contains(role, parent):
            self._load_targets(role, parent)
        found = self._trusted[role]
        assert isinstance(found, Targets)  # noqa: S101 - only targets roles are loaded here
        return found

    def _load_targets(self, role: str, parent: str) -> None:
        def update(data: bytes) -> object:
            return self._trusted.update_delegated_targets(data, role, parent)

        cached = self._store.read(role, TARGETS_LIMIT_BYTES)
        if cached is not None and self._took(update, cached):
            return
        listed = self._trusted.snapshot.meta.get(f"{role}.json")
        if listed is None:
            raise TrustError("T13", f"{role} is delegated, and not in the snapshot")
        limit = min(listed.length or TARGETS_LIMIT_BYTES, TARGETS_LIMIT_BYTES)
        data = self._fetch(role, listed.version, limit)
        with _coded(role):
            update(data)
        self._store.write(role, data)

    def _fetch(self, role: str, version: int, limit: int) -> bytes:
        name = quote(role, "")
        numbered = self._trusted.root.consistent_snapshot
        path = f"{version}.{name}.json" if numbered else f"{name}.json"
        data = self._reader.read(path, limit)
        if data is None:
            raise self._absent(role)
        return data

    def _absent(self, role: str) -> WherryError:
        """Nothing new is to be had, and what is here does not do: say why it does not."""
        if self._trusted.root.is_expired(self._trusted.reference_time):
            return TrustError("T11", "root has expired")
        with _coded(role):
            if "timestamp" in self._trusted:
                self._trusted._check_final_timestamp()  # noqa: SLF001 - its own words
        return LinkError("L05", f"the repository has no {role} metadata")

    def _took(self, update: Callable[..., object], data: bytes, **how: bool) -> bool:
        """Whether cached metadata still stands; if it does not, there may be newer."""
        from tuf.api.exceptions import RepositoryError

        try:
            update(data, **how)
        except (RepositoryError, ValueError):
            return False
        return True

    def _keys(self, role: str) -> str:
        return keys_mark(self._trusted, role)

    def _signed_at(self) -> float | None:
        """When the timestamp says that it was signed, Unix seconds."""
        said = self._trusted.timestamp.unrecognized_fields.get(FIELD)
        text = said.get("signed_at") if isinstance(said, dict) else None
        if text is None:
            return None
        try:
            return to_seconds(str(text))
        except ValueError as error:
            raise TrustError("T13", f"timestamp: signed_at: {error}") from error

    def _judge_from(self, moment: float | None) -> None:
        """Judge what follows by the timestamp's own date, if the clock is behind that."""
        if moment is None:
            return
        if moment > self._trusted.timestamp.expires.timestamp():
            raise TrustError("T13", f"timestamp: signed at {to_text(moment)}, after its end")
        if moment > self._now:
            self._trusted.reference_time = datetime.fromtimestamp(moment, UTC)

    def _note_time(self) -> None:
        """The floor of the clock, never beyond what offline keys have signed for."""
        moment = self._signed_at()
        if moment is None:
            return
        signed = (self._trusted.root, self._trusted.targets, self._trusted.timestamp)
        if moment > min(role.expires.timestamp() for role in signed):
            raise TrustError("T13", f"timestamp: signed at {to_text(moment)}, after an end")
        floors = self._store.floors.signed_at(moment, self._keys("timestamp"))
        self._store.save_floors(floors)

    # --- targets ------------------------------------------------------------------------

    def find(self, path: str) -> TargetFile | None:
        """A target by its path: the delegations in order, depth first.

        Raises:
            LinkError: L04 to L06.
            TrustError: T11 or T13.
            StoreError: D01 or D06.
        """
        if not self._done:
            self.refresh()
        seen: set[str] = set()
        waiting = [("targets", "root")]
        while waiting and len(seen) <= _MOST_DELEGATIONS:
            role, parent = waiting.pop()
            if role in seen:
                continue
            seen.add(role)
            targets = self.load_targets(role, parent)
            if path in targets.targets:
                return targets.targets[path]
            children = []
            roles = targets.delegations.get_roles_for_target(path) if targets.delegations else ()
            for child, terminating in roles:
                children.append((child, role))
                if terminating:
                    waiting = []
                    break
            waiting += reversed(children)
        return None

    def target_path(self, target: TargetFile) -> str:
        """Where a target's file lies under the targets' base."""
        if not self._trusted.root.consistent_snapshot:
            return target.path
        folder, slash, name = target.path.rpartition("/")
        return f"{folder}{slash}{next(iter(target.hashes.values()))}.{name}"


def open_root(data: bytes) -> TrustedMetadataSet:
    """What a root leads to, after its own signatures were verified.

    Raises:
        TrustError: T13.
        LinkError: L06, it is no metadata.
    """
    from tuf.ngclient._internal.trusted_metadata_set import TrustedMetadataSet
    from tuf.ngclient.config import EnvelopeType

    with _coded("root"):
        return TrustedMetadataSet(data, EnvelopeType.METADATA)


def keys_mark(trusted: TrustedMetadataSet, role: str) -> str:
    """A mark of who may sign a role, by which a change of keys is noticed."""
    listed = trusted.root.roles[role]
    text = f"{listed.threshold} {' '.join(sorted(listed.keyids))}"
    return hashlib.sha256(text.encode()).hexdigest()


def check_target(target: TargetFile, data: bytes) -> None:
    """Refuse bytes that are not the target's.

    Raises:
        LinkError: L06.
    """
    with _coded(target.path):
        target.verify_length_and_hashes(data)


@contextmanager
def _coded(what: str) -> Iterator[None]:
    """Name python-tuf's refusals: what may be an accident of the network is tried again."""
    from tuf.api import exceptions as wrong
    from tuf.api.serialization import DeserializationError

    try:
        yield
    except wrong.ExpiredMetadataError as error:
        raise TrustError("T11", str(error)) from error
    except (wrong.LengthOrHashMismatchError, DeserializationError) as error:
        raise LinkError("L06", f"{what}: {_short(error)}") from error
    except (wrong.RepositoryError, ValueError) as error:
        raise TrustError("T13", f"{what}: {_short(error)}") from error


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
