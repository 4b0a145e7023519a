"""The agent as it is installed on a board: the agent's part of the real wheel, and nothing else."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass
from pathlib import Path

from .emulator import Place
from .wheel import Files, files_of_wheel, installed_files, source, wheel


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
    """Install the agent's part of the wheel: agent, contract, and the metadata with the version.

    In a checkout the wheel is built, once for each state of its files. Where Wherry was
    installed from a wheel, the files are those that pip recorded, checked by its digests.

    Args:
        folder: to be made; it goes before the board's own modules.

    Raises:
        SetupError: H06, files are not as they were installed; H15, the wheel cannot be built.
        OSError: no room or no right.
    """
    checkout = source()
    if checkout is None:
        _write(folder, installed_files())
        return
    with zipfile.ZipFile(wheel(checkout)) as archive:
        _write(folder, files_of_wheel(archive))


def _write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
