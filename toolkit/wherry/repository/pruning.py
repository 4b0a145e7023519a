"""What of old metadata may go from a depot.

Kept are every root, what the present snapshot names, and what was replaced less than a day
before the present timestamp was written: a device in the middle of an update may still ask
for it, and so may a copy of the depot. Nothing that is kept leads to what goes, so a prune
may be cut off anywhere, and goes on with the next one. Times are those of the files
themselves: no clock can make it take more.
"""

from __future__ import annotations

import logging
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote

from wherry.files import as_store_error
from wherry_contract.errors import StoreError, TrustError
from wherry_contract.fleet_keys import TARGET

from .state import GENERATIONS, LINK, ROOT, SNAPSHOT, TARGETS, Disk, State, parse, read_state

GRACE_SECONDS: Final = 86_400.0
_VERSIONED: Final = re.compile(r"([0-9]{1,9})\.([^.]+)\.json")
_UNFINISHED: Final = ".new-"  # what a write that was cut off has left

_log = logging.getLogger("wherry")


def prune(disk: Disk, depot: Path, pending: Iterable[str] = ()) -> tuple[str, ...]:
    """Remove what no device can need any more; an error is logged, and left for the next time.

    Args:
        disk: removes.
        depot: its folder; something is published in it.
        pending: hashes of fleet keys that staged documents name.

    Returns:
        The files that went, by their paths below the depot.
    """
    gone = []
    try:
        for path in _old(depot, set(pending)):
            disk.remove(path)
            gone.append(str(path.relative_to(depot)))
        _remove_empty(depot)
    except (StoreError, TrustError) as error:
        _log.warning("old metadata was not pruned: %s", error)
    except OSError as error:
        _log.warning("old metadata was not pruned: %s", as_store_error(error, str(depot)))
    return tuple(gone)


def _old(depot: Path, pending: set[str]) -> list[Path]:
    state, here = read_state(depot), depot / LINK
    before = (here / "timestamp.json").stat().st_mtime - GRACE_SECONDS
    found = list(_replaced(here, _present(state), before))
    found += _other_generations(depot, before)
    found += _unused_keys(depot, set(found), pending, before)
    for folder in (here, depot / "targets/fleet", depot / "blobs/sha256", depot / "deltas"):
        found += [path for path in folder.glob(f"{_UNFINISHED}*") if _is_older(path, before)]
    return found


def _present(state: State) -> dict[str, int]:
    """Versions in force by role; roots are none of them, since all of them are kept."""
    roles = (SNAPSHOT, TARGETS, *state.models)
    return {role: state.document(role).signed.version for role in roles}


def _replaced(here: Path, present: dict[str, int], before: float) -> Iterator[Path]:
    """Versions below the present one whose successor is older than the grace."""
    versions: dict[str, dict[int, Path]] = defaultdict(dict)
    for path in here.iterdir():
        match = _VERSIONED.fullmatch(path.name)
        if match and match[2] != ROOT:
            versions[unquote(match[2])][int(match[1])] = path
    newest = here / "timestamp.json"
    for role, files in versions.items():
        ordered = sorted(files)
        for version, following in zip(ordered, [*ordered[1:], None], strict=True):
            successor = newest if following is None else files[following]
            if version < present.get(role, 0) and _is_older(successor, before):
                yield files[version]


def _other_generations(depot: Path, before: float) -> Iterator[Path]:
    """Files of generations before the present one, once that has been the present one for long."""
    link = depot / LINK
    if not link.is_symlink() or link.lstat().st_mtime >= before:
        return
    present = link.readlink().name
    for folder in sorted((depot / GENERATIONS).iterdir()):
        if folder.name.isdecimal() and int(folder.name) < int(present):
            yield from (path for path in folder.iterdir() if path.is_file())


def _unused_keys(depot: Path, gone: set[Path], pending: set[str], before: float) -> list[Path]:
    """Files of fleet keys that no kept targets name."""
    folder, used = depot / "targets/fleet", set(pending)
    for path in (depot / LINK).glob(f"*.{TARGETS}.json"):
        if path not in gone:
            named = parse(path.read_bytes(), path.name).signed.targets.get(TARGET)
            used |= {named.hashes["sha256"]} if named else set()
    return [
        path
        for path in folder.glob("*.keys.json")
        if path.name.partition(".")[0] not in used and _is_older(path, before)
    ]


def _is_older(path: Path, before: float) -> bool:
    return path.lstat().st_mtime < before


def _remove_empty(depot: Path) -> None:
    for folder in (depot / GENERATIONS).glob("*"):
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
