"""Giving memory back that the start needed and nothing needs any more."""

from __future__ import annotations

import ctypes
import gc
from contextlib import suppress


def give_back() -> None:
    """Return free pages to the kernel: after the imports that is near a MiB (glibc's malloc_trim)."""
    gc.collect()
    with suppress(AttributeError):  # another C library, which has no such call
        ctypes.CDLL(None).malloc_trim(0)
