"""A TUF repository made with tuf.api alone: what tests of trust publish, spoil and roll back.

Laid out as a depot: ``tuf/`` holds metadata, ``targets/`` the fleet's keys. Everything can be
done wrong on purpose: sign with other keys, serve an old state again, skip versions.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import quote

from securesystemslib.signer import CryptoSigner
from support_agent import FAMILY, FAR_AHEAD, LONG_AGO, Made, public_key
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Key,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    TargetFile,
    Targets,
    Timestamp,
)
from tuf.api.serialization.json import JSONSerializer

from wherry_contract.fleet_keys import TARGET, FleetKeys
from wherry_contract.signature import AssignmentKey
from wherry_contract.when import to_text

DAY = 86_400.0
START = 1_796_000_000.0  # Unix seconds, in November 2026
LIVES = {"root": 730, "targets": 365, "snapshot": 30, "timestamp": 14}  # days


@cache
def signer(name: str) -> CryptoSigner:
    """A key, the same for each name within one run."""
    return CryptoSigner.generate_ed25519()


def key_of(name: str) -> Key:
    """The public half, as TUF has it."""
    return signer(name).public_key


@dataclass
class TufRepository:
    """A repository that can be moved on, and everything in it spoiled.

    Attributes:
        folder: the depot's.
        now: Unix seconds; what is signed next is signed then.
        roles: names of the keys of each role.
        order_keys: names of the keys that may sign assignments.
        time_keys: names of the keys that may tell the time.
        validity: of both, Unix seconds.
    """

    folder: Path
    now: float = START
    families: tuple[str, ...] = (FAMILY,)
    roles: dict[str, tuple[str, ...]] = field(
        default_factory=lambda: {
            "root": ("root-1", "root-2", "root-3"),
            "targets": ("targets-1", "targets-2"),
            "snapshot": ("online",),
            "timestamp": ("online",),
            "models": ("models-1", "models-2"),
        }
    )
    thresholds: dict[str, int] = field(
        default_factory=lambda: {
            "root": 2,
            "targets": 2,
            "snapshot": 1,
            "timestamp": 1,
            "models": 2,
        }
    )
    order_keys: tuple[str, ...] = ("order",)
    time_keys: tuple[str, ...] = ("time",)
    validity: tuple[float, float] = (LONG_AGO, FAR_AHEAD)
    versions: dict[str, int] = field(default_factory=dict)
    listed: dict[str, dict[str, TargetFile]] = field(default_factory=dict)
    floors: dict[str, int] = field(default_factory=dict)
    _signers_of_root: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        (self.folder / "tuf").mkdir(parents=True, exist_ok=True)

    # --- what an operator does ----------------------------------------------------------

    def release(self, made: Made, counter: int, family: str = FAMILY) -> None:
        """List a bundle; `publish` makes it known."""
        layout = made.layout
        target = TargetFile.from_data(self.path_of(made, family), layout.manifest, ["sha256"])
        says = {
            "name": made.parts.manifest.name,
            "version": made.parts.manifest.version,
            "counter": counter,
            "total": sum(len(data) for data in layout.blobs.values()),
        }
        target.unrecognized_fields["custom"] = {"wherry": says}
        self.listed.setdefault(family, {})[target.path] = target

    @staticmethod
    def path_of(made: Made, family: str = FAMILY) -> str:
        """A bundle's target path."""
        return f"models/{family}/{made.digest.partition(':')[2]}"

    def delist(self, made: Made, family: str = FAMILY) -> None:
        """Take a bundle back."""
        del self.listed[family][self.path_of(made, family)]

    def publish(self) -> None:
        """Sign everything anew, bottom up."""
        if "root" not in self.versions:
            self.sign_root()
        for family in self.families:
            self.sign_models(family)
        self.sign_targets()
        self.sign_online()

    def sign_root(self) -> None:
        """The next root, signed by the former keys and the present ones."""
        before = self.versions.get("root", 0)
        former = self._signers_of_root
        root = Root(
            version=before + 1,
            expires=self._expires("root"),
            keys={key_of(name).keyid: key_of(name) for names in self._top() for name in names},
            roles={
                role: Role([key_of(name).keyid for name in self.roles[role]], self.thresholds[role])
                for role in LIVES
            },
            consistent_snapshot=True,
        )
        self._signers_of_root = self.roles["root"][: self.thresholds["root"]]
        self.versions["root"] = before + 1
        data = self._write(
            f"{before + 1}.root", root, dict.fromkeys([*former, *self._signers_of_root])
        )
        self._put("root", data)

    def sign_models(self, family: str) -> None:
        """The next metadata of a family."""
        role = f"models/{family}"
        models = Targets(
            version=self._next(role),
            expires=self._expires("targets"),
            targets=dict(self.listed.get(family, {})),
        )
        if family in self.floors:
            models.unrecognized_fields["x-wherry"] = {"min_counter": self.floors[family]}
        self._sign(role, models, "models")

    def sign_targets(self) -> None:
        """The next top-level targets, with the fleet's keys."""
        data = self.fleet_keys().to_bytes()
        target = TargetFile.from_data(TARGET, data, ["sha256"])
        place = self.folder / "targets" / "fleet" / f"{target.hashes['sha256']}.keys.json"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(data)
        names = self.roles["models"]
        ids = [key_of(name).keyid for name in names]
        delegated = {
            f"models/{family}": DelegatedRole(
                f"models/{family}", ids, self.thresholds["models"], True, [f"models/{family}/*"]
            )
            for family in self.families
        }
        targets = Targets(
            version=self._next("targets"),
            expires=self._expires("targets"),
            targets={TARGET: target},
            delegations=Delegations(
                {key_of(name).keyid: key_of(name) for name in names}, delegated
            ),
        )
        self._sign("targets", targets, "targets")

    def sign_online(self) -> None:
        """The next snapshot and timestamp."""
        names = ["targets", *(f"models/{family}" for family in self.families)]
        meta = {f"{name}.json": MetaFile(self.versions[name]) for name in names}
        snapshot = Snapshot(
            version=self._next("snapshot"), expires=self._expires("snapshot"), meta=meta
        )
        self._sign("snapshot", snapshot, "snapshot")
        self.sign_timestamp()

    def sign_timestamp(self, dated: float | None = None) -> None:
        """The next timestamp alone, as a server does every few hours.

        Args:
            dated: says that it was signed then, Unix seconds; now if nothing.
        """
        timestamp = Timestamp(
            version=self._next("timestamp"),
            expires=self._expires("timestamp"),
            snapshot_meta=MetaFile(self.versions["snapshot"]),
        )
        at = self.now if dated is None else dated
        timestamp.unrecognized_fields["x-wherry"] = {"signed_at": to_text(at)}
        self._put("timestamp", self._bytes(timestamp, self.roles["timestamp"]))

    def fleet_keys(self) -> FleetKeys:
        """What `fleet/keys.json` says next."""
        keys = [
            public_key(signer(name)) for name in dict.fromkeys(self.order_keys + self.time_keys)
        ]
        return FleetKeys(
            {key.keyid: key for key in keys},
            self._valid(self.order_keys),
            self._valid(self.time_keys),
        )

    def _valid(self, names: Iterable[str]) -> tuple[AssignmentKey, ...]:
        return tuple(AssignmentKey(key_of(name).keyid, *self.validity) for name in names)

    # --- what an attacker does ----------------------------------------------------------

    def keep(self, name: str) -> Path:
        """Remember what is served now; returns the folder of the copy."""
        copy = self.folder.with_name(f"{self.folder.name}-{name}")
        shutil.copytree(self.folder / "tuf", copy)
        return copy

    def serve_again(self, copy: Path) -> None:
        """Serve an earlier state, whole."""
        shutil.rmtree(self.folder / "tuf")
        shutil.copytree(copy, self.folder / "tuf")

    def file(self, name: str) -> Path:
        """Where a metadata file lies."""
        return self.folder / "tuf" / f"{quote(name, '')}.json"

    # --- files --------------------------------------------------------------------------

    def root_file(self, version: int = 1) -> bytes:
        """A root, as enrolment gives it to a device."""
        return self.file(f"{version}.root").read_bytes()

    def _top(self) -> Sequence[tuple[str, ...]]:
        return [self.roles[role] for role in LIVES]

    def _next(self, role: str) -> int:
        self.versions[role] = self.versions.get(role, 0) + 1
        return self.versions[role]

    def _expires(self, role: str) -> datetime:
        return datetime.fromtimestamp(self.now, UTC).replace(microsecond=0) + timedelta(LIVES[role])

    def _sign(self, name: str, signed: Any, role: str) -> None:
        names = self.roles[role][: self.thresholds[role]]
        self._write(f"{signed.version}.{name}", signed, names)

    def _write(self, name: str, signed: Any, signers: Iterable[str]) -> bytes:
        data = self._bytes(signed, signers)
        self._put(name, data)
        return data

    def _bytes(self, signed: Any, signers: Iterable[str]) -> bytes:
        document = Metadata(signed)
        for name in signers:
            document.sign(signer(name), append=True)
        return document.to_bytes(JSONSerializer())

    def _put(self, name: str, data: bytes) -> None:
        self.file(name).write_bytes(data)
