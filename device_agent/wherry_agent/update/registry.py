"""Bundles from an OCI registry, and from the depot what a registry has no place for.

The registry's address stands in agent.toml and in nothing that is signed: digests are
pinned, so it is no matter of trust, and an order that could name hosts would let a stolen
order key send a shop's devices, and their registry's password, to any of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from wherry_agent.config import RegistryPlace
from wherry_agent.link.fact import Fact
from wherry_agent.store import BlobStore
from wherry_contract.errors import LinkError
from wherry_contract.oci import MANIFEST_TYPE, Descriptor

from .distribution import Distribution
from .fetch import Depot
from .pace import Pace
from .transfer import bring, read_small

_SECONDS: Final = 20.0  # without a byte


class Registry:
    """A `fetch.Source`: parts of bundles from a registry, all else from the depot."""

    def __init__(
        self,
        registry: Distribution,
        depot: Depot,
        tell: Callable[[Fact, str], None],
        *,
        fallback: bool = True,
        seconds: float = _SECONDS,
    ) -> None:
        """Take both.

        Args:
            registry: has the bundles.
            depot: has the metadata, the lists of deltas, and what the registry lacks.
            tell: told, with a key, of what came from the depot instead.
            fallback: whether anything may.
            seconds: without a byte.
        """
        self._registry = registry
        self._depot = depot
        self._tell = tell
        self._fallback = fallback
        self._seconds = seconds

    def place(self) -> Mapping[str, Any]:
        """The depot's."""
        return self._depot.place()

    def statement(self, digest: str, limit: int) -> bytes:
        """The signatures of a bundle, from the depot."""
        return self._depot.statement(digest, limit)

    def deltas(self, digest: str, limit: int) -> bytes:
        """The list of deltas that lead to a bundle, from the depot."""
        return self._depot.deltas(digest, limit)

    def blob(self, digest: str, limit: int) -> bytes:
        """A bundle's OCI manifest; the caller checks its digest.

        Raises:
            LinkError: L04 to L06, L09 to L11.
        """
        path = f"manifests/{digest}"
        try:
            return read_small(
                lambda at: self._registry.open(path, at, MANIFEST_TYPE), path, limit, self._seconds
            )
        except LinkError as error:
            self._turn_away(error, digest)
        return self._depot.blob(digest, limit)

    def fetch(
        self,
        wanted: Descriptor,
        store: BlobStore,
        stop: Callable[[], bool],
        pace: Pace | None = None,
    ) -> bool:
        """Bring a blob into the store; as `transfer.bring`.

        What the depot or a stick has begun is gone on with here, and the other way round.
        """
        path = f"blobs/{wanted.digest}"
        try:
            return bring(lambda at: self._registry.open(path, at), wanted, store, stop, pace)
        except LinkError as error:
            self._turn_away(error, wanted.digest)
        return self._depot.fetch(wanted, store, stop, pace)

    def _turn_away(self, error: LinkError, digest: str) -> None:
        """Tell that the depot is asked; raises if it may not be, or if it is no refusal."""
        if error.code != "L05" or not self._fallback:
            raise error
        self._tell(Fact("update.depot", f"{digest}: {error.detail}"[:1000]), f"depot:{digest}")


def open_registry(
    place: RegistryPlace,
    family: str,
    depot: Depot,
    now: Callable[[], float],
    tell: Callable[[Fact, str], None],
) -> Registry:
    """The registry of agent.toml; a family's bundles lie in the repository of its name.

    Args:
        place: where it is.
        family: of the device.
        depot: has what a registry has not.
        now: the clock that certificates' dates are held against, Unix seconds.
        tell: told, with a key, of what came from the depot instead.
    """
    found = Distribution(place, family, now, _SECONDS)
    return Registry(found, depot, tell, fallback=place.fallback)
