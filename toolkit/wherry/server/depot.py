"""The depot: a folder of blobs and signatures that any HTTP server could serve.

``blobs/sha256/<hex>``, ``tuf/`` and ``targets/`` with what is released and by whom, and
``statements/<hex>.dsse.json``. A bundle is taken only when all of it was checked and it is
listed as released. In a laboratory with pinned keys a key of this fleet must have signed it
instead; then it is complete once its statement is there, which is written last.
"""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO, Final

from wherry.files import as_store_error, write_durably
from wherry.repository.repository import Repository
from wherry.repository.state import MODELS, served_name
from wherry.rows import BundleRow
from wherry_contract.bundle import MANIFEST_FILE, PROFILE_FILE, Bundle, open_bundle
from wherry_contract.errors import RolloutError, TrustError
from wherry_contract.manifest import Manifest
from wherry_contract.oci import DIGEST, OciManifest, blob_path
from wherry_contract.profile import ReferenceProfile
from wherry_contract.signature import FamilyTrust, PublicKey, TrustRoot
from wherry_contract.wire import TRUST, Fields, parse_json, sha256_digest

_SERVED: Final = re.compile(
    r"blobs/sha256/[0-9a-f]{64}|statements/[0-9a-f]{64}\.dsse\.json|deltas/[0-9a-f]{64}\.json"
)
_KEY_LIMIT_BYTES: Final = 4096


class Depot:
    """Adds bundles, and reads what is in them."""

    def __init__(self, folder: Path, keys: Path, repository: Repository | None = None) -> None:
        """Take the folder, and who says what is released.

        Args:
            folder: of blobs.
            keys: the folder of the public keys that may sign bundles, in a laboratory.
            repository: lists what is released; nothing in a laboratory with pinned keys.
        """
        self.folder = folder
        self._keys = keys
        self._repository = repository

    def trusted(self) -> dict[str, PublicKey]:
        """The keys of this fleet that may sign bundles, by key id.

        Raises:
            TrustError: T08 or T09, a file is not a public key.
            StoreError: D06.
        """
        return read_keys(self._keys)

    def add(self, stream: BinaryIO) -> BundleRow:
        """Check a bundle file wholly and take it; taking it twice changes nothing.

        Raises:
            BundleError, ManifestError, InputError: it is not a usable bundle.
            TrustError: T12, it is not listed; with pinned keys T01 to T03, T06, T08, T09.
            StoreError: D01 or D06; what is in the depot is whole.
        """
        bundle = open_bundle(stream)
        parts = bundle.parts()
        family = parts.manifest.family
        counter = self._check_released(bundle, family)
        for blob in bundle.oci.blobs:
            self._put(blob_path(blob.digest), bundle.blob(blob))
        self._put(blob_path(bundle.digest), bundle.manifest)
        if bundle.statement:
            write_durably(self.folder / statement_path(bundle.digest), bundle.statement)
        return BundleRow(
            digest=bundle.digest,
            name=parts.manifest.name,
            version=parts.manifest.version,
            family=family,
            counter=counter,
            size=len(bundle.manifest),
            total=sum(blob.size for blob in bundle.oci.blobs),
            edges=parts.profile.edges_id,
            added_at=time.time(),
        )

    def _check_released(self, bundle: Bundle, family: str) -> int:
        if self._repository is None:
            return self._check_signed(bundle, family)
        found = self._repository.listed(bundle.digest)
        if found is None or found[0] != family:
            cure = "release it with `wherry publish` first"
            raise TrustError("T12", f"{bundle.digest[:19]} of {family}", cure=cure)
        return int(found[1]["counter"])

    def _check_signed(self, bundle: Bundle, family: str) -> int:
        envelope = bundle.statement
        if not envelope:
            raise TrustError("T02", "the bundle is not signed")
        keys = self.trusted()
        root = TrustRoot(keys, {family: FamilyTrust(tuple(keys))}, ())
        return root.open_bundle_statement(envelope, family=family, digest=bundle.digest).counter

    def families(self) -> set[str]:
        """Those whose bundles somebody may release; none in a laboratory, where a key signs for any.

        Raises:
            SetupError: H02, nothing is published.
        """
        if self._repository is None:
            return set()
        return {role.removeprefix(MODELS) for role in self._repository.families(published=True)}

    def _put(self, name: str, data: bytes) -> None:
        path = self.folder / name
        try:
            if path.is_file() and sha256_digest(path.read_bytes()) == sha256_digest(data):
                return
        except OSError as error:
            raise as_store_error(error, path.name) from error
        write_durably(path, data)

    def served(self, name: str) -> Path | None:
        """The file that a request's path names; nothing for any other name.

        A name is a blob's or a statement's or it is none: no folder can be listed, and
        nothing outside can be reached, not even through a link.
        """
        found = name if _SERVED.fullmatch(name) else served_name(name)
        if not found:
            return None
        path = self.folder / found
        return path if path.is_file() and not path.is_symlink() else None

    def read(self, digest: str) -> bytes:
        """A blob.

        Raises:
            RolloutError: R04, it is not there or was damaged.
        """
        path = self.served(blob_path(digest)) if re.fullmatch(DIGEST, digest) else None
        data = path.read_bytes() if path else b""
        if path is None or sha256_digest(data) != digest:
            raise RolloutError("R04", digest)
        return data

    def holds(self, digest: str) -> bool:
        """Whether a bundle is here with all that belongs to it."""
        if not re.fullmatch(DIGEST, digest) or not self._released(digest):
            return False
        try:
            listed = OciManifest.from_bytes(self.read(digest))
        except RolloutError:
            return False
        return all(self.served(blob_path(blob.digest)) for blob in listed.blobs)

    def _released(self, digest: str) -> bool:
        if self._repository is None:
            return self.served(statement_path(digest)) is not None
        return self._repository.listed(digest) is not None

    def manifest(self, digest: str) -> Manifest:
        """What a bundle says of itself.

        Raises:
            RolloutError: R04.
        """
        return Manifest.from_bytes(self.file(digest, MANIFEST_FILE))

    def profile(self, digest: str) -> ReferenceProfile:
        """The reference profile of a bundle.

        Raises:
            RolloutError: R04.
        """
        return ReferenceProfile.from_bytes(self.file(digest, PROFILE_FILE))

    def file(self, digest: str, name: str) -> bytes:
        """One file of a bundle.

        Raises:
            RolloutError: R04.
            BundleError: there is none of this name.
        """
        listed = OciManifest.from_bytes(self.read(digest))
        return self.read(listed.layer(name).digest)


def statement_path(digest: str) -> str:
    """Where a bundle's signatures lie."""
    return f"statements/{digest.partition(':')[2]}.dsse.json"


def read_keys(folder: Path) -> dict[str, PublicKey]:
    """Public keys, `*.pub.json`, by key id.

    Raises:
        TrustError: T08 or T09, a file is not a public key.
        StoreError: D06.
    """
    found: dict[str, PublicKey] = {}
    try:
        files: Mapping[str, bytes] = {
            path.name: path.read_bytes() for path in sorted(folder.glob("*.pub.json"))
        }
    except OSError as error:
        raise as_store_error(error, str(folder)) from error
    for name, data in files.items():
        document = parse_json(data, limit=_KEY_LIMIT_BYTES, what=name, domain=TRUST)
        key = PublicKey.from_fields(Fields(document, name, TRUST))
        found[key.keyid] = key
    return found
