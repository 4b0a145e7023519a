"""What is missing for emulating boards here, and whether a board's environment works."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from wherry.profiles import Board
from wherry_contract.errors import SetupError

from .emulator import Place, check_cpu, cpu_models, find_emulator, run_python
from .recipe import KEYRING
from .root import place_on_disk

_MACHINES: Final = ("aarch64", "armv7l")
_PROGRAMS: Final = {"apt-get": "apt", "dpkg-deb": "dpkg", "tar": "tar"}
_SECONDS: Final = 120.0


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    what: str
    fine: bool
    found: str
    cure: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return asdict(self)


def examine(board: Board | None, called: str = "") -> list[Finding]:
    """Look at this machine, and at one board's environment if one is named.

    Args:
        board: its profile; nothing for the machine alone.
        called: as it was named, by a path perhaps: what the cures repeat.
    """
    found = [*_tools(), *(_emulator(machine) for machine in _MACHINES)]
    return [*found, *_environment(board, called or board.name)] if board else found


def _tools() -> Iterator[Finding]:
    for program, package in _PROGRAMS.items():
        where = shutil.which(program)
        yield Finding(program, bool(where), where or "missing", _install(package, where))
    there = Path(KEYRING).exists()
    yield Finding(
        "Debian's keys",
        there,
        KEYRING if there else "missing",
        _install("debian-archive-keyring", there),
    )


def _install(package: str, there: object) -> str:
    return "" if there else f"sudo apt-get install {package}"


def _emulator(machine: str) -> Finding:
    try:
        emulator = find_emulator(machine)
        known = cpu_models(emulator)
    except SetupError as error:
        return Finding(f"emulator of {machine}", False, error.detail, error.cure)
    return Finding(f"emulator of {machine}", True, f"{emulator}, {len(known)} CPU models")


def _environment(board: Board, called: str) -> Iterator[Finding]:
    place = place_on_disk(board)
    make = f"wherry board create {called}"
    if place is None:
        yield Finding(board.name, False, "its profile has no [emulation]", "add the section")
        return
    unknown = _cpu(board)
    if unknown:
        yield unknown
        return
    if not place.ready:
        yield Finding(board.name, False, "its environment is not made", f"run: {make}")
        return
    yield _starts(place, f"remove {place.folder} and {place.base}, then: {make}")


def _cpu(board: Board) -> Finding | None:
    """What is wrong with the CPU that a profile names."""
    try:
        emulator = find_emulator(board.architecture)
    except SetupError:
        return None  # told already, with the tools of this machine
    try:
        check_cpu(emulator, board.cpu)
    except SetupError as error:
        return Finding(board.name, False, error.detail, error.cure)
    return None


def _starts(place: Place, cure: str) -> Finding:
    code = "import platform, numpy, ssl, sqlite3; print(platform.machine(), numpy.__version__)"
    try:
        done = run_python(place, ["-c", code], seconds=_SECONDS)
    except (subprocess.TimeoutExpired, OSError) as error:
        return Finding(place.board, False, str(error)[:200], cure)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no word"])[-1]
        return Finding(place.board, False, last[:200], cure)
    machine, numpy = done.stdout.decode().split()
    return Finding(place.board, True, f"Python {place.version} on {machine}, numpy {numpy}")
