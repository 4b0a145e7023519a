"""The device's TUF metadata on disk: a cache that may be lost, and floors that may not.

    <folder>/<role>.json           the newest verified metadata, the role's name quoted
    <folder>/roots/<n>.root.json   every root since the embedded one
    <folder>/floors.0, floors.1    the floors, in a pair of which one is always whole
    <folder>/fleet-keys            the newest verified fleet/keys.json

Every write is durable before the next begins: floors first, then what raised them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final
from urllib.parse import quote

from wherry_agent.store import StatePair, as_store_error, durable_write, make_folder
from wherry_contract.wire import sha256_digest

from .tuf_floors import Floors

ROOT_LIMIT_BYTES: Final = 512 * 1024


class MetadataStore:
    """Verified metadata and floors in one folder.

    Attributes:
        floors: as they are on the medium.
        damaged: files of floors that were set aside when it was opened.
    """

    def __init__(self, folder: Path) -> None:
        """Open it, making it if need be.

        Raises:
            StoreError: D01 or D06.
        """
        self._folder = folder
        self._pair = StatePair(folder, "floors")
        try:
            make_folder(folder / "roots")
        except OSError as error:
            raise as_store_error(error, str(folder)) from error
        saved = self._pair.load()
        self.damaged = tuple(path.name for path in self._pair.damaged)
        self.floors = Floors.from_dict(saved) if saved else Floors()

    def save_floors(self, floors: Floors) -> None:
        """Make floors durable; nothing is written if they are the same.

        Raises:
            StoreError: D01 or D06.
        """
        if floors != self.floors:
            self._pair.save(floors.to_dict())
            self.floors = floors

    def read(self, role: str, limit: int) -> bytes | None:
        """Cached metadata, or nothing: a cache that cannot be read is none."""
        return _read(self._folder / f"{quote(role, '')}.json", limit)

    def write(self, role: str, data: bytes) -> None:
        """Keep verified metadata.

        Raises:
            StoreError: D01 or D06.
        """
        durable_write(self._folder / f"{quote(role, '')}.json", data)

    def read_root(self, version: int) -> bytes | None:
        """A cached root, or nothing."""
        return _read(self._folder / "roots" / f"{version}.root.json", ROOT_LIMIT_BYTES)

    def write_root(self, version: int, data: bytes) -> None:
        """Keep a verified root.

        Raises:
            StoreError: D01 or D06.
        """
        durable_write(self._folder / "roots" / f"{version}.root.json", data)

    def read_fleet_keys(self) -> bytes | None:
        """The `fleet/keys.json` last verified, or nothing if it is not what was verified."""
        data = _read(self._folder / "fleet-keys", ROOT_LIMIT_BYTES)
        right = data is not None and sha256_digest(data) == self.floors.fleet_keys
        return data if right else None

    def save_fleet_keys(self, data: bytes) -> None:
        """Keep a verified `fleet/keys.json`; its digest goes into the floors.

        Raises:
            StoreError: D01 or D06.
        """
        durable_write(self._folder / "fleet-keys", data)
        self.save_floors(replace(self.floors, fleet_keys=sha256_digest(data)))


def peek_floors(folder: Path) -> Floors:
    """The floors of a folder, for an onlooker: changes nothing.

    Raises:
        StoreError: D06.
        TrustError: T08 or T09, they are not of our making.
    """
    saved = StatePair(folder, "floors").peek()
    return Floors.from_dict(saved) if saved else Floors()


def _read(path: Path, limit: int) -> bytes | None:
    try:
        with path.open("rb") as stream:
            data = stream.read(limit + 1)
    except OSError:
        return None
    return data if len(data) <= limit else None
