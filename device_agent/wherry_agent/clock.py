"""Time, handed in: what an agent may know about now."""

from __future__ import annotations

import time
from typing import Final, Protocol

_SAYABLE: Final = (0.0, 4_102_444_800.0)  # 1970 to 2100: what a message may say


class Clock(Protocol):
    """Wall time for records and expiry, monotonic time for durations."""

    def now(self) -> float:
        """Unix seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds that never go back."""
        ...


class SystemClock:
    """The board's own clocks."""

    def now(self) -> float:
        """Unix seconds; a clock that says what cannot be says the nearest that can."""
        return min(max(time.time(), _SAYABLE[0]), _SAYABLE[1])

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return time.monotonic()
