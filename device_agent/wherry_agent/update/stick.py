"""A bundle's file, or what `wherry export` wrote, in the place of a depot.

A thin folder holds no file but only what a device with a certain other bundle lacks: small
parts, and deltas. What it has is believed by its digest, as with a depot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from wherry_agent.store import BlobStore
from wherry_agent.trust.tuf_fetch import METADATA_FOLDER, FolderReader
from wherry_contract.bundle import Bundle
from wherry_contract.errors import LinkError, TrustError, UpdateError
from wherry_contract.oci import Descriptor, blob_path
from wherry_contract.wire import sha256_digest

from .pace import Pace


class Stick:
    """A `fetch.Source` that reads from a folder."""

    def __init__(self, folder: Path, bundle: Bundle | None = None) -> None:
        """Take the folder, and the bundle whose file lies in it; nothing if it is thin."""
        self._folder = folder
        self._reader = FolderReader(folder)
        self._bundle = bundle

    def place(self) -> Mapping[str, Any]:
        """The folder, if `wherry export` has put the metadata there too."""
        drop = self._folder.absolute()
        return {"folder": str(drop)} if (drop / METADATA_FOLDER).is_dir() else {}

    def blob(self, digest: str, limit: int) -> bytes:
        """The bundle's OCI manifest.

        Raises:
            LinkError: L05, it is not here; L06, it is too long.
            StoreError: D06.
        """
        if self._bundle and digest == self._bundle.digest and len(self._bundle.manifest) <= limit:
            return self._bundle.manifest
        found = self._reader.read(blob_path(digest), limit)
        if found is None:
            raise LinkError("L05", f"the file does not hold {digest}")
        return found

    def statement(self, digest: str, limit: int) -> bytes:
        """The bundle's signatures.

        Raises:
            LinkError: L05, the bundle is another one.
            TrustError: T02, there are none.
        """
        bundle = self._bundle
        if bundle is None or digest != bundle.digest or len(bundle.statement) > limit:
            raise LinkError("L05", f"the file does not hold the signatures of {digest}")
        if not bundle.statement:
            raise TrustError("T02", "the file carries no signatures")
        return bundle.statement

    def deltas(self, digest: str, limit: int) -> bytes:
        """The list of deltas that lead to the bundle; nothing if there are none.

        Raises:
            LinkError: L06.
            StoreError: D06.
        """
        return self._reader.read(f"deltas/{digest.partition(':')[2]}.json", limit) or b""

    def fetch(
        self,
        wanted: Descriptor,
        store: BlobStore,
        stop: Callable[[], bool],
        pace: Pace | None = None,  # noqa: ARG002 - what is here needs no pace
    ) -> bool:
        """Copy a part into the store.

        Raises:
            LinkError: L06, it has other content than it should.
            StoreError: D01 or D06.
            UpdateError: U14, the folder holds only what differs from another bundle.
        """
        if stop():
            return False
        store.put(wanted.digest, self._read(wanted))
        return True

    def _read(self, wanted: Descriptor) -> bytes:
        if self._bundle and wanted.digest in {blob.digest for blob in self._bundle.oci.blobs}:
            return self._bundle.blob(wanted)
        found = self._reader.read(blob_path(wanted.digest), wanted.size)
        if found is None:
            what = wanted.file_name or wanted.digest
            cure = "ask for a stick that is not thin"
            raise UpdateError("U14", f"the stick does not hold {what} whole", cure=cure)
        if sha256_digest(found) != wanted.digest:
            raise LinkError("L06", f"{wanted.file_name or wanted.digest} has other content")
        return found
