"""Start a program that ends when we do: ``python leash.py PARENT PROGRAM ARGUMENTS``.

The kernel sends it SIGTERM when the process that started it ends (Linux prctl(2)), however
that happens, so that not even a killed parent leaves a broker or an agent behind.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from typing import Final

LEASH: Final = os.fsencode(__file__)  # stands in a process's command line until the leash is on
_PR_SET_PDEATHSIG: Final = 1


def leashed(arguments: Sequence[str]) -> list[str]:
    """The command that starts a program on a leash.

    Args:
        arguments: the program, as a path or a name, and what it is told.
    """
    # as a file, without site: a third of the time that `-m wherry.leash` takes, at every start
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), *arguments]


def _main(parent: int, arguments: list[str]) -> None:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the leash was on
        sys.exit(0)
    os.execvp(arguments[0], arguments)  # noqa: S606 - the caller names the program


if __name__ == "__main__":
    _main(int(sys.argv[1]), sys.argv[2:])
