"""Plain IEEE 754 arithmetic, which counting and encoding stand on, on host and device alike."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from typing import Final

_DEFAULT: Final = ctypes.c_void_p(-1)  # FE_DFL_ENV in glibc and musl: how a program starts


def restore() -> None:
    """Turn denormal numbers on again in this thread and in those that it starts.

    Loading tflite-runtime 2.14 turns them off on ARM, though not on x86-64 (seen on emulated
    Cortex-A7 and A53). Then 0 is no longer above the number just below it, and windows count
    it as out of range. To be called when a library has been loaded that is compiled so.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).fesetenv(_DEFAULT)
