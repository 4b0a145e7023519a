"""A folder for a stick: what is listed, the bundle's own file, and an order for each device.

tuf/, targets/         as in the depot, with snapshot and timestamp that live longer
fraud-1.4.0.wherry     the bundle, byte by byte; not in a thin one
blobs/, deltas/        if asked for, what differs from a bundle that devices have
assignments/ID.json    the signed order for one device, as on its topic
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry.deltas import DeltaVerdict, OldBundle, list_path, make_deltas, read_list
from wherry.files import as_store_error, write_durably
from wherry.repository.lab import online_signers
from wherry.repository.repository import Repository
from wherry.repository.state import (
    LINK,
    ROOT,
    TARGETS,
    file_name,
    keys_path,
    root_versions,
    to_bytes,
)
from wherry_contract.assignment import Assignment
from wherry_contract.bundle import open_bundle
from wherry_contract.delta import write_deltas
from wherry_contract.errors import RolloutError, SetupError, TrustError
from wherry_contract.fleet_keys import TARGET
from wherry_contract.messages import wrap_assignment
from wherry_contract.oci import OciManifest, blob_path

from .depot import Depot
from .orders import ListedSigner
from .place import open_database
from .registry import Registry
from .store import Store

ORDERS_FOLDER: Final = "assignments"
_DAY: Final = 86_400.0


@dataclass(frozen=True)
class Exported:
    """What a folder holds now.

    Attributes:
        verdicts: of each delta that was asked for.
        size: bytes of parts of the bundle in it.
    """

    digest: str
    devices: tuple[str, ...]
    verdicts: tuple[DeltaVerdict, ...] = ()
    size: int = 0


def export(
    data: Path,
    out: Path,
    bundle: Path,
    devices: Collection[str] = (),
    select: Mapping[str, str] | None = None,
    *,
    days: float = 90.0,
    olds: Sequence[OldBundle] = (),
    thin: bool = False,
    clock: Callable[[], float] = time.time,
) -> Exported:
    """Write a folder for a stick.

    Args:
        data: the server's data folder; the server may run.
        out: the folder; what it has of an earlier export is replaced.
        bundle: the file; it must be released.
        devices: for whom; all of its family if none are named.
        select: labels that they must have.
        days: for how long the list on it counts as fresh, and orders are good.
        olds: bundles that devices have, from which deltas are wanted.
        thin: leave out what they have, and the bundle's file.
        clock: Unix seconds.

    Raises:
        SetupError: H02, there is no repository, or no such file.
        TrustError: T10 no key for it is here, T12 the bundle is not released.
        RolloutError: R02, no device matches.
        StoreError: D01 or D06.
    """
    if thin and not olds:
        cure = "name with --from what the devices have"
        raise SetupError("H08", "a thin folder is thin against something", cure=cure)
    repository, keys = Repository(data, clock), data / "keys"
    try:
        content = bundle.read_bytes()
        with bundle.open("rb") as stream:
            opened = open_bundle(stream)
    except OSError as error:
        raise SetupError("H02", f"{bundle}: {error.strerror}") from error
    listed = repository.listed(opened.digest)
    if listed is None:
        raise TrustError("T12", opened.digest[:19], cure="release it with `wherry publish` first")
    family = listed[0]
    database = open_database(data)
    store = Store(database, Depot(repository.depot, keys, repository))
    try:
        wanted = _devices(store, Registry(database), family, devices, select or {})
    finally:
        store.close()
    signer = ListedSigner(keys, repository, clock, drop=True)
    with repository.locked():
        sequence, now = _next_sequence(data), clock()
        _write_list(repository, keys, out, days)
    verdicts = _write_deltas(repository.depot, out, opened.digest, olds)
    if thin:
        size = _write_thin(repository.depot, out, opened.digest, olds)
    else:
        write_durably(out / bundle.name, content)
        size = len(content)
    for device, key in wanted.items():
        order = Assignment(
            device=device,
            rollout=f"drop-{sequence}",
            family=family,
            digest=opened.digest,
            size=len(opened.manifest),
            sequence=sequence,
            issued_at=now,
            expires=now + days * _DAY,
            device_key=key,
        )
        write_durably(out / ORDERS_FOLDER / f"{device}.json", wrap_assignment(signer.sign(order)))
    return Exported(opened.digest, tuple(wanted), tuple(verdicts), size)


def _write_deltas(
    depot: Path, out: Path, digest: str, olds: Sequence[OldBundle]
) -> list[DeltaVerdict]:
    """Put the deltas from bundles into a folder, as a depot has them."""
    verdicts = make_deltas(depot, digest, olds)
    pairs = {(item.old, item.new) for item in verdicts}
    rows = [row for row in read_list(depot, digest)[0] if (row.source, row.result) in pairs]
    for row in rows:
        _copy_blob(depot, out, row.digest)
    if rows:
        write_durably(out / list_path(digest), write_deltas(rows))
    return verdicts


def _write_thin(depot: Path, out: Path, digest: str, olds: Sequence[OldBundle]) -> int:
    """Put a bundle's list of parts into a folder, and what a device with one of `olds` lacks."""
    path = depot / blob_path(digest)
    parts = OciManifest.from_bytes(path.read_bytes()).blobs
    made = {(row.source, row.result): row for row in read_list(depot, digest)[0]}
    wanted, size = {digest}, path.stat().st_size
    for old in olds:
        held = {part.digest for part in old.parts}
        for part in parts:
            if part.digest not in held and not any((item, part.digest) in made for item in held):
                wanted.add(part.digest)
    for name in sorted(wanted):
        _copy_blob(depot, out, name)
    sizes = {part.digest: part.size for part in parts}
    delta_sizes = [row.size for row in made.values() if (out / blob_path(row.digest)).is_file()]
    return size + sum(sizes.get(name, 0) for name in wanted) + sum(delta_sizes)


def _copy_blob(depot: Path, out: Path, digest: str) -> None:
    try:
        data = (depot / blob_path(digest)).read_bytes()
    except OSError as error:
        raise as_store_error(error, digest) from error
    write_durably(out / blob_path(digest), data)


def _devices(
    store: Store,
    registry: Registry,
    family: str,
    named: Collection[str],
    select: Mapping[str, str],
) -> dict[str, str]:
    """Fingerprints of keys, by device."""
    rows = [row for row in store.devices(select) if row.family == family]
    found = {}
    for row in rows:
        held = registry.identity(row.device)
        if (named and row.device not in named) or (held and held.revoked_at):
            continue
        found[row.device] = held.fingerprint if held else ""
    lacking = sorted(set(named) - set(found))
    if lacking or not found:
        raise RolloutError("R02", f"family {family}: {', '.join(lacking) or 'nobody'}")
    return found


def _next_sequence(data: Path) -> int:
    """Grows with every export, and is on the medium before it is used."""
    path = data / "drop.sequence"
    number = int(path.read_text()) + 1 if path.exists() else 1
    write_durably(path, str(number).encode())
    return number


def _write_list(repository: Repository, keys: Path, out: Path, days: float) -> None:
    fresh = repository.list_for_stick(online_signers(keys), days)
    state, depot = repository.state, repository.depot
    names = [file_name(ROOT, version) for version in root_versions(depot / LINK)]
    names += [file_name(role, item.signed.version) for role, item in state.models.items()]
    names += [
        file_name(TARGETS, state.targets.signed.version),
        "root.json",
    ]
    fleet = keys_path(state.targets.signed.targets[TARGET].hashes["sha256"])
    write_durably(out / fleet, (depot / fleet).read_bytes())
    for name in names:
        write_durably(out / LINK / name, (depot / LINK / name).read_bytes())
    for role, document in fresh.items():
        write_durably(out / LINK / file_name(role, document.signed.version), to_bytes(document))
