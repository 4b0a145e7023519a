"""A runtime for a board: each version in a folder of its own, which goes before the board's wheels.

A runtime that is a package of the board's Debian is there already.

Versions that profiles name have a list with digests. A version that a user asks for has none:
it is fetched over TLS from the package index and nothing else vouches for it.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Final

from wherry.profiles import Board

from .recipe import LOCKS, Recipe
from .root import folder, install_wheels

# what a version without a list needs beside it; the newest that all of them take
_BESIDE: Final = MappingProxyType(
    {
        "onnxruntime": ("flatbuffers", "packaging", "protobuf<7"),
        "ai-edge-litert": ("flatbuffers", "numpy>=2,<3", "protobuf<7"),
    }
)


@dataclass(frozen=True)
class Pin:
    """A version of a runtime."""

    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def pins_of(board: Board) -> list[Pin]:
    """The runtimes of a board; its own is the first."""
    return [Pin(name, version) for name, found in board.runtimes.items() for version in found]


def overlay(pin: Pin, recipe: Recipe, progress: Callable[[str], None]) -> Path:
    """The folder that holds a version, made if it is not there; the board's own for Debian's.

    Args:
        pin: the version.
        recipe: of the board.
        progress: is told what is fetched.

    Raises:
        SetupError: H15, there is no such wheel for the board, or it cannot be fetched.
        OSError: no room or no right.
    """
    own = folder() / recipe.folder_name / "root/usr/lib/python3/dist-packages"
    if list(own.glob(f"{pin.name}-{pin.version}.*-info")):
        return own
    lock = LOCKS / f"{recipe.machine}-{pin.name}-{pin.version}.txt"
    beside = _BESIDE.get(pin.name, ())
    text = lock.read_text() if lock.exists() else "\n".join((f"{pin.name}=={pin.version}", *beside))
    target = folder() / f"{recipe.machine}-py{recipe.emulation.python}-{pin.name}-{pin.version}"
    if not target.exists():
        progress(f"fetching {pin} for {recipe.machine}")
        half = target.with_name(f"{target.name}.new")
        shutil.rmtree(half, ignore_errors=True)
        half.mkdir(parents=True)
        requirements = half / "lock.txt"
        requirements.write_text(text + "\n")
        install_wheels(recipe, half / "site", requirements, hashes=lock.exists())
        half.rename(target)
    return target / "site"
