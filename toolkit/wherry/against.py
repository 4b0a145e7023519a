"""Which bundles deltas are made from: those that the fleet runs, and those that a person names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from .client import Client
from .deltas import MOST_SOURCES, OldBundle, bundle_file, bundle_in, most_run


def running_here(data: Path, family: str) -> list[str]:
    """What most devices of a family report, by the data folder of a server; it may run.

    Raises:
        StoreError: D01 or D06.
    """
    from .server.database import Database
    from .server.depot import Depot
    from .server.place import place_of
    from .server.store import Store

    place = place_of(data)
    if isinstance(place, Path) and not place.is_file():
        return []
    store = Store(Database(place), Depot(data / "depot", data / "keys"))
    try:
        return most_run(store.devices(), family)
    finally:
        store.close()


def running_there(client: Client, family: str) -> list[str]:
    """The same, as a server tells it.

    Raises:
        LinkError, RolloutError: it does not.
    """
    states = [
        row.get("state") or {}
        for row in client.get("devices")["devices"]
        if row.get("family") == family
    ]
    running = Counter(str(state["bundle"]) for state in states if state.get("bundle"))
    return [digest for digest, _ in running.most_common(MOST_SOURCES)]


def old_bundles(
    depot: Path, running: Iterable[str], files: Sequence[Path]
) -> tuple[list[OldBundle], list[str]]:
    """Bundles to start from, and the digests of those whose blobs are not here.

    Args:
        depot: looked into for what runs.
        running: digests.
        files: bundle files that a person names; each is taken once.

    Raises:
        BundleError, ManifestError, InputError, SetupError: a file is no usable bundle.
    """
    found = {old.digest: old for old in map(bundle_file, files)}
    lacking = []
    for digest in running:
        old = found.get(digest) or bundle_in(depot, digest)
        if old:
            found[digest] = old
        else:
            lacking.append(digest)
    return list(found.values()), lacking
