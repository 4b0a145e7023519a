"""The metadata as it lies in the depot, and what its files are called.

    depot/tuf                    a link to the present generation of metadata
    depot/generations/<n>/       <n>.root.json, timestamp.json, <n>.snapshot.json, …
    depot/targets/fleet/         the fleet's keys
    depot/blobs/sha256/          what the targets are

A publication without a new root adds files to its generation, the timestamp last. One with
a new root becomes a generation of its own, since no order of single files would let a
client pass between a root and a timestamp of other keys; the link is exchanged last.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote

from wherry.files import as_store_error, sync_folder, write_durably
from wherry_contract.errors import SetupError, StoreError, TrustError

if TYPE_CHECKING:
    from tuf.api.metadata import Metadata, Root, Snapshot, Targets, Timestamp

ROOT, TARGETS, SNAPSHOT, TIMESTAMP = "root", "targets", "snapshot", "timestamp"
TOP: Final = (ROOT, TARGETS, SNAPSHOT, TIMESTAMP)
MODELS: Final = "models/"
FIELD: Final = "x-wherry"
STAGED: Final = "staged"  # beside the depot: what waits for signatures
LINK: Final = "tuf"
GENERATIONS: Final = "generations"
_LIMIT_BYTES: Final = 5 * 2**20


class Disk:
    """Changes files durably; tests give one that stops in between."""

    def put(self, path: Path, data: bytes) -> None:
        """Replace a file.

        Raises:
            StoreError: D01 or D06.
        """
        write_durably(path, data)

    def point(self, link: Path, to: str) -> None:
        """Exchange a symbolic link.

        Raises:
            StoreError: D01 or D06.
        """
        fresh = link.with_name(f".new-{link.name}")
        try:
            fresh.unlink(missing_ok=True)
            fresh.symlink_to(to)
            fresh.replace(link)
            sync_folder(link.parent)
        except OSError as error:
            raise as_store_error(error, link.name) from error

    def remove(self, path: Path) -> None:
        """Take a file away; it may be gone already.

        Raises:
            StoreError: D06.
        """
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise as_store_error(error, path.name) from error


def file_name(role: str, version: int) -> str:
    """What a role's metadata is called; the timestamp alone has no version in its name."""
    name = f"{quote(role, '')}.json"
    return name if role == TIMESTAMP else f"{version}.{name}"


def keys_path(digest: str) -> str:
    """Where the fleet's keys lie in the depot, by their sha256."""
    return f"targets/fleet/{digest}.keys.json"


def served_name(name: str) -> str:
    """The file below the depot that a request names, as it stands in a URL or unquoted; or ""."""
    if re.fullmatch(r"targets/fleet/[0-9a-f]{64}\.keys\.json", name):
        return name
    match = re.fullmatch(
        r"tuf/((?:\d{1,9}\.)?[a-z]+(?:(?:/|%2F|%252F)[a-z0-9-]{1,63})?\.json)", name
    )
    return f"{LINK}/{quote(unquote(unquote(match[1])), '')}" if match else ""


def parse(data: bytes, what: str) -> Metadata[Any]:
    """Read metadata; nothing is verified.

    Raises:
        TrustError: T09.
    """
    from tuf.api.metadata import Metadata
    from tuf.api.serialization import DeserializationError

    try:
        return Metadata.from_bytes(data)
    except DeserializationError as error:
        raise TrustError("T09", f"{what} is no TUF metadata") from error


def to_bytes(document: Metadata[Any]) -> bytes:
    """The bytes that are published."""
    from tuf.api.serialization.json import JSONSerializer

    return document.to_bytes(JSONSerializer())


@dataclass(frozen=True)
class State:
    """What is published now.

    Attributes:
        root: the newest.
        models: the delegated roles by name, as ``models/fraud``.
    """

    root: Metadata[Root]
    targets: Metadata[Targets]
    snapshot: Metadata[Snapshot]
    timestamp: Metadata[Timestamp]
    models: Mapping[str, Metadata[Targets]]

    def document(self, role: str) -> Metadata[Any]:
        """A role's metadata.

        Raises:
            TrustError: T06, there is no such role.
        """
        if role in self.models:
            return self.models[role]
        if role not in TOP:
            there = ", ".join((*TOP, *self.models))
            cure, title = "look for a typing error", "there is no such role here"
            raise TrustError("T06", f"{role[:80]!r}; known: {there}", cure=cure, title=title)
        found: Metadata[Any] = getattr(self, role)
        return found


def read_state(folder: Path) -> State:
    """Read what is published in a depot.

    Raises:
        SetupError: H02, there is nothing.
        TrustError: T09, a file is damaged.
        StoreError: D06.
    """
    here = folder / LINK
    if not (here / "timestamp.json").is_file():
        title = "nothing is published here yet"
        cure = "begin with `wherry publish --init`, or with the first `wherry serve`"
        if (folder.parent / STAGED / "root.json").is_file():
            cure = "its first documents wait for signatures: `wherry publish` says whose"
        raise SetupError("H02", f"{folder} holds no repository", cure=cure, title=title)
    timestamp = _read(here / "timestamp.json")
    snapshot = _read(here / file_name(SNAPSHOT, timestamp.signed.snapshot_meta.version))
    listed = {
        name.removesuffix(".json"): _read(
            here / file_name(name.removesuffix(".json"), meta.version)
        )
        for name, meta in snapshot.signed.meta.items()
    }
    targets = listed.pop(TARGETS)
    root = _read(here / file_name(ROOT, max(root_versions(here))))
    return State(root, targets, snapshot, timestamp, listed)


def root_versions(folder: Path) -> list[int]:
    """The versions of the roots in a generation."""
    return [int(path.name.partition(".")[0]) for path in folder.glob("*.root.json")]


def _read(path: Path) -> Metadata[Any]:
    try:
        with path.open("rb") as stream:
            return parse(stream.read(_LIMIT_BYTES), path.name)
    except OSError as error:
        raise StoreError("D06", f"{path.name}: {error.strerror}") from error


def publish(disk: Disk, folder: Path, documents: Mapping[str, Metadata[Any]]) -> None:
    """Put new metadata into a depot; cut off anywhere, the depot holds the old or the new.

    Args:
        disk: writes.
        folder: of the depot.
        documents: the new ones by role, whatever is below a document before it.

    Raises:
        StoreError: D01 or D06.
    """
    files = {
        file_name(role, item.signed.version): to_bytes(item) for role, item in documents.items()
    }
    link = folder / LINK
    if ROOT not in documents:
        for name, data in files.items():
            disk.put(link / name, data)
        return
    root = documents[ROOT].signed.version
    fresh = f"{GENERATIONS}/{root}"
    try:
        kept = {path.name: path.read_bytes() for path in sorted(link.glob("*.json"))}
    except OSError as error:
        raise as_store_error(error, LINK) from error
    for name, data in (kept | files | {"root.json": files[file_name(ROOT, root)]}).items():
        disk.put(folder / fresh / name, data)
    disk.point(link, fresh)
