"""Which profile a compact window was counted against: of a bundle that lies in the depot."""

from __future__ import annotations

from typing import Final

from wherry_contract.errors import ManifestError, MessageError, RolloutError
from wherry_contract.profile import ReferenceProfile

from .store import Store

_MOST: Final = 256


class KnownProfiles:
    """Finds profiles by the first bytes of their bundles' digests; remembers the latest."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[bytes, tuple[str, ReferenceProfile]] = {}

    def find(self, first: bytes) -> tuple[str, ReferenceProfile]:
        """The digest of a bundle, and its profile.

        Raises:
            MessageError: G08, there is no such bundle, or more than one.
        """
        if first not in self._held:
            found = self._look_for(first)
            if len(self._held) >= _MOST:
                del self._held[next(iter(self._held))]
            self._held[first] = found
        return self._held[first]

    def _look_for(self, first: bytes) -> tuple[str, ReferenceProfile]:
        begin = f"sha256:{first.hex()}"
        digests = [row.digest for row in self._store.bundles() if row.digest.startswith(begin)]
        if len(digests) != 1:
            raise MessageError("G08", f"{begin}: {len(digests) or 'no'} such bundles")
        try:
            return digests[0], self._store.profile(digests[0])
        except (RolloutError, ManifestError) as error:
            raise MessageError("G08", f"{begin}: {error}") from error
