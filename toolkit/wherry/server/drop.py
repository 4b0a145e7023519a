"""A folder for a stick: what is listed, the bundle's own file, and an order for each device.

tuf/, targets/         as in the depot, with snapshot and timestamp that live longer
fraud-1.4.0.wherry     the bundle, byte by byte
assignments/ID.json    the signed order for one device, as on its topic
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry.files import write_durably
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
from wherry_contract.errors import RolloutError, SetupError, TrustError
from wherry_contract.fleet_keys import TARGET
from wherry_contract.messages import wrap_assignment

from .database import Database
from .depot import Depot
from .orders import ListedSigner
from .registry import Registry
from .store import Store

ORDERS_FOLDER: Final = "assignments"
_DAY: Final = 86_400.0


@dataclass(frozen=True)
class Exported:
    """What a folder holds now."""

    digest: str
    devices: tuple[str, ...]


def export(
    data: Path,
    out: Path,
    bundle: Path,
    devices: Collection[str] = (),
    select: Mapping[str, str] | None = None,
    *,
    days: float = 90.0,
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
        clock: Unix seconds.

    Raises:
        SetupError: H02, there is no repository, or no such file.
        TrustError: T10 no key for it is here, T12 the bundle is not released.
        RolloutError: R02, no device matches.
        StoreError: D01 or D06.
    """
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
    database = Database(data / "fleet.sqlite")
    store = Store(database, Depot(repository.depot, keys, repository))
    try:
        wanted = _devices(store, Registry(database), family, devices, select or {})
    finally:
        store.close()
    signer = ListedSigner(keys, repository, clock, drop=True)
    with repository.locked():
        sequence, now = _next_sequence(data), clock()
        _write_list(repository, keys, out, days)
    write_durably(out / bundle.name, content)
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
    return Exported(opened.digest, tuple(wanted))


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
