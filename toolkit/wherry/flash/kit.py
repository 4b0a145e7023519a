"""The kit: everything of a board's agent that is not the device's own, as one tar.

The agent's modules, the wheels of the board's list with their digests, one runtime, and the
unit. Its name is made of all that went in, so equal boards share one, a board that has it is
sent nothing, and what runs is never changed under its feet.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry.boards.agent import lay_out_agent
from wherry.boards.overlay import Pin, overlay
from wherry.boards.recipe import LOCKS, Recipe
from wherry.boards.root import alone, folder, install_wheels
from wherry.runtimes import agent_packages
from wherry_contract.errors import SetupError

from .terminal import WHOLE

UNIT: Final = "wherry-agent.service"
HOME: Final = "/opt/wherry"
_FORMAT: Final = "2"  # changes when this code makes something else of the same parts
_PARTS: Final = ("agent", "runtime", "site")  # in the order in which Python looks
_KEY_DIGITS: Final = 16


@dataclass(frozen=True)
class Kit:
    """A kit that is ready.

    Attributes:
        key: its name on boards.
        file: the tar.
        runtime: name and version.
    """

    key: str
    file: Path
    runtime: str

    @property
    def size(self) -> int:
        """Of the tar, bytes."""
        return self.file.stat().st_size


def kit_of(recipe: Recipe, pin: Pin, progress: Callable[[str], None]) -> Kit:
    """The kit of a board, made if it is not here.

    Args:
        recipe: of the board.
        pin: its runtime.
        progress: is told each step in words.

    Raises:
        SetupError: H03 no room or no right, H06 the agent is not installed here, H15 a wheel
            cannot be fetched, or its digest is wrong.
    """
    key = key_of(recipe, pin)
    home = folder() / "kits"
    file = home / f"{key}.tar"
    try:
        home.mkdir(parents=True, exist_ok=True)
        with alone(home / "lock", progress):
            if not file.exists():
                _make(recipe, pin, key, file, progress)
    except OSError as error:
        raise SetupError("H03", f"{error.filename or home}: {error.strerror}") from error
    return Kit(key, file, str(pin))


def key_of(recipe: Recipe, pin: Pin) -> str:
    """The name of a board's kit, made or not."""
    found = hashlib.sha256()
    lock = LOCKS / f"{recipe.machine}-{pin.name}-{pin.version}.txt"
    wheels = lock.read_text() if lock.exists() else ""
    for text in (
        _FORMAT,
        recipe.architecture,
        recipe.emulation.python,
        recipe.lock,
        str(pin),
        wheels,
    ):
        found.update(text.encode() + b"\0")
    for name, place in agent_packages().items():
        for path in _files(place):
            found.update(f"{name}/{path.relative_to(place)}\0".encode())
            found.update(hashlib.sha256(path.read_bytes()).digest())
    return found.hexdigest()[:_KEY_DIGITS]


def _files(place: Path) -> Iterator[Path]:
    for path in sorted(place.rglob("*")):
        if path.is_file() and path.parent.name != "__pycache__":
            yield path


def _make(recipe: Recipe, pin: Pin, key: str, file: Path, progress: Callable[[str], None]) -> None:
    half = file.with_suffix(".new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir()
    lay_out_agent(half / "agent")
    shutil.copytree(overlay(pin, recipe, progress), half / "runtime")
    progress(f"fetching the agent's wheels for {recipe.machine}")
    requirements = half / "lock.txt"
    requirements.write_text(recipe.lock)
    install_wheels(recipe, half / "site", requirements)
    requirements.unlink()
    unit = agent_packages()["wherry_agent"] / UNIT
    # not by the link: an agent that runs must find its own modules when that is switched
    (half / UNIT).write_text(unit.read_text().replace(f"{HOME}/current/", f"{HOME}/{key}/"))
    _compile(recipe, half, key)
    progress("packing the kit")
    whole = half.with_suffix(".tar.new")
    with tarfile.open(whole, "w", format=tarfile.PAX_FORMAT) as tar:
        for name in (*_PARTS, UNIT):
            tar.add(half / name, name, filter=_owned_by_root)
        tar.addfile(tarfile.TarInfo(WHOLE))
    shutil.rmtree(half)
    whole.rename(file)


def _owned_by_root(item: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member as it should lie on a board: root's, and readable by all who may enter."""
    item.uid = item.gid = 0
    item.uname = item.gname = "root"
    item.mode = 0o755 if item.isdir() or item.mode & 0o100 else 0o644
    item.mtime = int(item.mtime)
    return item


def _compile(recipe: Recipe, half: Path, key: str) -> None:
    """Compile modules here if this Python is the board's: a small board takes seconds for it."""
    if f"{sys.version_info.major}.{sys.version_info.minor}" != recipe.emulation.python:
        return
    # by the sources' digests: dates of a board whose clock is wrong say nothing
    command = [sys.executable, "-m", "compileall", "-q", "-j", "0", "--invalidation-mode"]
    command += ["unchecked-hash", "-s", str(half), "-p", f"{HOME}/{key}"]
    subprocess.run(
        [*command, *(str(half / name) for name in _PARTS)],
        capture_output=True,
        check=False,  # some wheels carry templates that are no valid Python
    )
