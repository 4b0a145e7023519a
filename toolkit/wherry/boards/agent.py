"""The agent as it would be installed on a board: its files and the contract's, and no others."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from wherry import __version__
from wherry.runtimes import agent_packages

from .emulator import Place


@dataclass(frozen=True)
class BoardAgent:
    """The agent, installed on a board with one runtime.

    Attributes:
        place: the board.
        runtime: the folder of the runtime's modules.
        files: see `lay_out_agent`.
        name: the runtime's distribution.
    """

    place: Place
    runtime: Path
    files: Path
    name: str

    def command(self, *arguments: str) -> list[str]:
        """What starts it."""
        return [str(self.place.python), "-m", "wherry_agent", *arguments]

    @property
    def environment(self) -> dict[str, str]:
        """Environment variables for it."""
        return self.place.environment([self.runtime, self.files])


def lay_out_agent(folder: Path) -> None:
    """Copy what the wheel's agent part holds, with its metadata, so that it knows its version.

    Args:
        folder: to be made; it goes before the board's own modules.

    Raises:
        SetupError: H06, the agent is not installed here.
        OSError: no room or no right.
    """
    folder.mkdir(parents=True)
    for name, place in agent_packages().items():
        shutil.copytree(place, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    about = folder / f"wherry-{__version__}.dist-info"
    about.mkdir()
    metadata = f"Metadata-Version: 2.1\nName: wherry\nVersion: {__version__}\n"
    (about / "METADATA").write_text(metadata)
