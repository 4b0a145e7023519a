"""Which devices run an older agent or runtime than this host knows of.

Measured against this host and its files of boards, not against other devices: a device that
says it runs version 999 puts nobody behind.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wherry_contract.messages import State
from wherry_contract.versions import in_range

from . import __version__
from .profiles import known_boards, load_board


@dataclass(frozen=True)
class Known:
    """The newest versions that this host knows.

    Attributes:
        agent: the host's own, since both come in one release.
        runtimes: by architecture and distribution: the newest in any file of a board.
    """

    agent: str
    runtimes: Mapping[tuple[str, str], str]


def known_here() -> Known:
    """What this host knows.

    Raises:
        SetupError: H01 or H02, a file of a board is wrong.
    """
    newest: dict[tuple[str, str], str] = {}
    for name in known_boards():
        board = load_board(name, Path())
        for runtime, versions in board.runtimes.items():
            place = (board.architecture, runtime)
            for version in versions:
                if place not in newest or in_range(version, f">{newest[place]}"):
                    newest[place] = version
    return Known(__version__, newest)


def behind(state: State, known: Known) -> tuple[str, ...]:
    """In what a device is behind, in words; empty if in nothing, or if it cannot be told. Pure."""
    runtime = known.runtimes.get((state.architecture, state.runtime), "")
    found = (
        ("agent", state.agent, known.agent),
        (state.runtime, state.runtime_version, runtime),
    )
    return tuple(
        f"{what} {here}, known is {newest}" for what, here, newest in found if _older(here, newest)
    )


def _older(here: str, newest: str) -> bool:
    try:
        return bool(newest) and in_range(here, f"<{newest}")
    except ValueError:  # a version that is no version: nothing is known of it
        return False
