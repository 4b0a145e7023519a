"""Little memory, by what the C library is told: glibc's `mallopt` and `malloc_trim`."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress
from typing import Final

_ARENA_MAX: Final = -8  # M_ARENA_MAX of malloc.h


def share_memory() -> None:
    """Let threads allocate from one place, not one each: half a MiB less, since they take turns.

    To be called before they are started.
    """
    with suppress(AttributeError):  # another C library, which has no such call
        ctypes.CDLL(None).mallopt(_ARENA_MAX, 1)


def give_back() -> None:
    """Return free pages to the kernel: after the imports that is near a MiB."""
    gc.collect()
    trim()


def trim() -> None:
    """The same without looking for garbage, for which every thread would have to wait."""
    with suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
