"""Time, handed in: what an agent may know about now."""

from __future__ import annotations

import time
from typing import Final, Protocol

_SAYABLE: Final = (0.0, 4_102_444_800.0)  # 1970 to 2100: what a message may say
_BELIEVED_AHEAD: Final = 2 * 365.25 * 86_400.0
_AGREES: Final = 3600.0


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

    monotonic = staticmethod(time.monotonic)  # itself: it is asked twice for each payment


class TrustedClock:
    """The board's clock, held between what signed documents say.

    It is never earlier than the floor: some verified document was signed then. Two years
    and more beyond the floor it is not believed, and time goes on from the floor; the next
    verified metadata moves that on, so a device that lay in a drawer for longer heals by
    itself. Where a time key has told the time and the board disagrees, the key is right.
    """

    def __init__(self, system: Clock, floor: float = 0.0) -> None:
        """Take the board's clock, and what is known at the start (Unix seconds, 0 if nothing)."""
        self._system = system
        self._floor = self._told = (floor, system.monotonic())
        self._is_told = False
        self._questioned = False
        self.monotonic = system.monotonic

    def now(self) -> float:
        """Unix seconds."""
        system, held = self._system.now(), self._since(self._floor)
        told = self._since(self._told)
        if self._is_told and abs(system - told) > _AGREES:
            return max(told, self._floor[0])
        if self._floor[0] and system > held + _BELIEVED_AHEAD:
            return held
        return max(system, held)

    @property
    def doubtful(self) -> bool:
        """Whether the board's clock contradicts what is known, or nothing is."""
        if self._questioned:
            return True
        if self._is_told:
            return abs(self._system.now() - self._since(self._told)) > _AGREES
        ahead = self._system.now() - self._since(self._floor)
        return not self._floor[0] or not 0 <= ahead <= _BELIEVED_AHEAD

    def raise_floor(self, moment: float) -> None:
        """Take what a verified document says; an earlier one changes nothing."""
        if moment > self._floor[0]:
            self._floor = (moment, self._system.monotonic())

    def question(self) -> None:
        """Note that something looks out of date, until the time is told: it may be the clock."""
        self._questioned = True

    def tell(self, moment: float, asked: float) -> None:
        """Take what a time key has told.

        Args:
            moment: Unix seconds.
            asked: `monotonic` when it was asked: the answer can have been delayed since.
        """
        self._told, self._is_told, self._questioned = (moment, asked), True, False
        self.raise_floor(moment)

    def _since(self, known: tuple[float, float]) -> float:
        return known[0] + self._system.monotonic() - known[1]
