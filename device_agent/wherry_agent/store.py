"""Files that survive a pulled plug: durable writes, state records in pairs, blobs by digest.

Every durable write of the agent goes through `durable_write`: temp, fsync, rename, fsync
of the folder. What cannot be read is set aside, never deleted and never fatal.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import BundleError, StoreError, WherryError
from wherry_contract.oci import LIMIT_BYTES as OCI_LIMIT
from wherry_contract.oci import blob_path
from wherry_contract.wire import Fields, compact, parse_json, sha256_digest

_STATE_LIMIT_BYTES: Final = 1 << 20
_SET_ASIDE_KEPT: Final = 8  # damaged files; a medium that goes bad must not fill itself


def as_store_error(error: OSError, what: str) -> StoreError:
    """Name the disk's failure: D01 for a full disk, D06 for every other."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    return StoreError("D01" if full else "D06", f"{what}: {error.strerror or error}")


def durable_write(path: Path, data: bytes) -> None:
    """Replace a file as a whole; after return it is on the medium, whatever happens next.

    Raises:
        StoreError: D01 or D06; the old file is untouched.
    """
    temporary = path.with_name(f".{path.name}.new")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(descriptor, data)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)  # on a full disk, a part of a file is in the way
        raise as_store_error(error, path.name) from error


def _write_all(descriptor: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(descriptor, left) :]


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and its parents durably.

    Raises:
        OSError: it cannot be made.
    """
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir(exist_ok=True)
        sync_folder(place.parent)


def set_aside(path: Path) -> Path:
    """Move a damaged file out of the way, keeping it for analysis; the last few are kept.

    Raises:
        OSError: it cannot be moved.
    """
    folder = path.parent / "set-aside"
    make_folder(folder)
    place = folder / f"{path.name}.{time.time_ns():x}"
    path.replace(place)
    for old in sorted(folder.iterdir(), key=lambda item: item.stat().st_mtime)[:-_SET_ASIDE_KEPT]:
        old.unlink(missing_ok=True)
    sync_folder(folder)
    sync_folder(path.parent)
    return place


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Hold a state folder for one agent.

    Raises:
        StoreError: D03, another process holds it; D06, it cannot be made or opened.
    """
    try:
        make_folder(folder)
        descriptor = os.open(folder / "lock", os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise as_store_error(error, str(folder)) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if not isinstance(error, BlockingIOError):
            raise as_store_error(error, str(folder)) from error
        raise StoreError("D03", str(folder)) from error
    try:
        yield
    finally:
        os.close(descriptor)


class StatePair:
    """One record in two files that are written in turn, so that one of them is always whole.

    Each file is a line with the sha256 of the rest, then JSON with a generation that grows.
    """

    def __init__(self, folder: Path, name: str = "state") -> None:
        self._paths = (folder / f"{name}.0", folder / f"{name}.1")
        self._generation = 0
        self.damaged: tuple[Path, ...] = ()

    def load(self) -> dict[str, Any] | None:
        """The newest whole record, or nothing; damaged files are set aside and listed.

        Raises:
            StoreError: D06, the files belong to somebody else.
        """
        found, damaged = [], []
        for path in self._paths:
            try:
                record = _open_record(_read_some(path, _STATE_LIMIT_BYTES + 1))
            except FileNotFoundError:
                continue
            except PermissionError as error:
                raise as_store_error(error, str(path)) from error
            except OSError:  # a bad block: the other file is there for this
                record = None
            if record is None:
                damaged.append(_out_of_the_way(path))
            else:
                found.append(record)
        self.damaged = tuple(damaged)
        if not found:
            return None
        self._generation, body = max(found, key=lambda item: item[0])
        return body

    def peek(self) -> dict[str, Any] | None:
        """The newest whole record, or nothing; changes no file, so it suits an onlooker.

        Raises:
            StoreError: D06.
        """
        found = []
        for path in self._paths:
            try:
                record = _open_record(path.read_bytes())
            except FileNotFoundError:
                continue
            except OSError as error:
                raise as_store_error(error, path.name) from error
            found += [record] if record else []
        return max(found, key=lambda item: item[0])[1] if found else None

    def save(self, body: dict[str, Any]) -> None:
        """Write the next generation.

        Raises:
            StoreError: D01 or D06; the former record stays.
        """
        following = self._generation + 1
        text = compact({"generation": following, "body": body})
        line = hashlib.sha256(text).hexdigest().encode() + b"\n"
        durable_write(self._paths[following % 2], line + text)
        self._generation = following


def _read_some(path: Path, most: int) -> bytes:
    with path.open("rb") as stream:
        return stream.read(most)


def _out_of_the_way(path: Path) -> Path:
    try:
        return set_aside(path)
    except OSError:  # a full disk: it stays, and the next save replaces it
        return path


def _open_record(data: bytes) -> tuple[int, dict[str, Any]] | None:
    line, _, text = data.partition(b"\n")
    if len(data) > _STATE_LIMIT_BYTES or hashlib.sha256(text).hexdigest().encode() != line:
        return None
    try:
        fields = Fields(parse_json(text, limit=_STATE_LIMIT_BYTES, what="state"), "state")
        return fields.integer("generation"), fields.mapping("body")
    except WherryError:  # whole, but not written by `save`
        return None


class BlobStore:
    """Blobs by digest, each whole or not there; beside them the parts of unfinished ones."""

    def __init__(self, folder: Path) -> None:
        """Open the store in a state folder.

        Raises:
            StoreError: D01 or D06.
        """
        self._folder = folder
        with _coded("blobs"):
            make_folder(self._home)

    @property
    def _home(self) -> Path:
        return self._folder / "blobs" / "sha256"

    def path(self, digest: str) -> Path:
        """Where a blob lies when it is whole."""
        return self._folder / blob_path(digest)

    def part(self, digest: str) -> Path:
        """Where the beginning of an unfinished blob lies."""
        path = self.path(digest)
        return path.with_name(f"{path.name}.part")

    def has(self, digest: str) -> bool:
        """Whether the blob is there, whole."""
        return self.path(digest).exists()

    def read(self, digest: str) -> bytes:
        """A blob's bytes; whoever uses them checks the digest.

        Raises:
            StoreError: D06.
        """
        with _coded(digest):
            return self.path(digest).read_bytes()

    def read_whole(self, digest: str) -> bytes:
        """A blob's bytes, checked against their digest.

        Raises:
            StoreError: D06.
            BundleError: B04.
        """
        data = self.read(digest)
        if sha256_digest(data) != digest:
            raise BundleError("B04", f"it should be {digest}")
        return data

    def is_whole(self, digest: str) -> bool:
        """Whether the blob is there with the right bytes; one that went bad is removed.

        One that cannot be read now is left: what is fetched takes its place, and it may be
        part of what serves.

        Raises:
            StoreError: D06.
        """
        path = self.path(digest)
        with _coded(digest):
            if not path.exists():
                return False
            try:
                with path.open("rb") as stream:
                    found = _digest_of(stream)
            except OSError:
                return False
            if found == digest:
                return True
            path.unlink(missing_ok=True)
        return False

    def is_gone(self, digest: str) -> bool:
        """Whether the medium says that there is no such blob, and not only that it cannot tell."""
        try:
            self.path(digest).stat()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return False

    def manifests(self) -> list[str]:
        """Digests of the whole blobs that may be OCI manifests, the oldest first.

        Raises:
            StoreError: D06.
        """
        with _coded("blobs"):
            small = [
                (path.stat().st_mtime_ns, path)
                for path in self._home.iterdir()
                if re.fullmatch(r"[0-9a-f]{64}", path.name) and path.stat().st_size <= OCI_LIMIT
            ]
        digests = [f"sha256:{path.name}" for _, path in sorted(small)]
        return [digest for digest in digests if sha256_digest(self.read(digest)) == digest]

    def put(self, digest: str, data: bytes) -> None:
        """Store a small blob that was checked."""
        durable_write(self.path(digest), data)

    def adopt(self, digest: str) -> bool:
        """Make a finished part the blob; false if it has the wrong bytes, and is removed.

        Raises:
            StoreError: D01 or D06.
        """
        part = self.part(digest)
        with _coded(digest):
            with part.open("rb") as stream:
                found = _digest_of(stream)
                os.fsync(stream.fileno())
            if found != digest:
                part.unlink()
                return False
            part.replace(self.path(digest))
            sync_folder(self._home)
        return True

    def keep_only(self, digests: set[str]) -> int:
        """Remove every other blob, and its part; returns how many went.

        Raises:
            StoreError: D06.
        """
        kept = {place(digest).name for digest in digests for place in (self.path, self.part)}
        with _coded("blobs"):
            others = [path for path in self._home.iterdir() if path.name not in kept]
            for path in others:
                path.unlink(missing_ok=True)
            if others:
                sync_folder(self._home)
        return len(others)

    def free_bytes(self) -> int:
        """How much an ordinary user may still write here.

        Raises:
            StoreError: D06.
        """
        with _coded("blobs"):
            usage = os.statvfs(self._folder)
        return usage.f_bavail * usage.f_frsize


def _digest_of(stream: BufferedReader) -> str:
    return "sha256:" + hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def _coded(what: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise as_store_error(error, what) from error


def read_json(path: Path, limit: int) -> dict[str, Any]:
    """A small JSON file of the agent's own.

    Raises:
        StoreError: D06.
        ManifestError: M01 or M02.
    """
    try:
        return parse_json(path.read_bytes(), limit=limit, what=path.name)
    except OSError as error:
        raise as_store_error(error, path.name) from error
