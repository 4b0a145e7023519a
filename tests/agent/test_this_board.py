"""What the agent says that its board is: wheels go by the interpreter, whatever the kernel is."""

from __future__ import annotations

import platform
import sys

import pytest

from wherry_agent.core import this_board
from wherry_agent.serving.runtime import architecture, installed


@pytest.mark.parametrize(
    ("machine", "bits", "found"),
    [
        ("aarch64", 64, "aarch64"),
        ("aarch64", 32, "armv7l"),  # Raspberry Pi OS, 32 bits, on its 64-bit kernel
        ("armv8l", 32, "armv7l"),  # the same, under a 32-bit personality
        ("armv7l", 32, "armv7l"),
        ("x86_64", 64, "x86_64"),
        ("x86_64", 32, "i686"),
        ("riscv64", 64, "riscv64"),
    ],
)
def test_architecture(machine: str, bits: int, found: str) -> None:
    assert architecture(machine, bits) == found


def test_this_one() -> None:
    board = this_board()
    assert (board.runtime, board.runtime_version) == installed()
    if sys.maxsize > 2**32:
        assert board.architecture == platform.machine()
    else:
        assert board.architecture == "armv7l"
