"""What bounds a transfer: how fast, how slow, how long and how much; and when it may be.

Pure: time is handed in.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from wherry_contract.assignment import Assignment, MaintenanceWindow
from wherry_contract.errors import LinkError, UpdateError

_CHUNK_BYTES: Final = 64 * 1024
_ROOM_BYTES: Final = 256 * 1024
_SLOW_SECONDS: Final = 30.0  # for which a line may be slower than the least
_MINUTES: Final = 24 * 60


@dataclass
class Spent:
    """What transfers have cost; adds up until it is taken into the record."""

    count: int = 0
    seconds: float = 0.0

    def take(self) -> tuple[int, float]:
        """What came since the last time."""
        found = self.count, self.seconds
        self.count, self.seconds = 0, 0.0
        return found


@dataclass(frozen=True)
class Pace:
    """Bounds of one transfer.

    Attributes:
        most: bytes a second; 0 for no limit.
        least: bytes a second over half a minute; a slower line is given up for now.
        most_bytes: that may still come for this update; negative for no limit.
        seconds: that they may still take; negative for no limit.
        room: asked now and then; raises when the disk has no room for more.
        spent: where what comes is added up.
    """

    most: float = 0.0
    least: float = 0.0
    most_bytes: int = -1
    seconds: float = -1.0
    room: Callable[[], None] | None = None
    spent: Spent = field(default_factory=Spent)

    @property
    def chunk_bytes(self) -> int:
        """How much to read at once: no more than half a second's worth."""
        return max(256, min(_CHUNK_BYTES, int(self.most / 2))) if self.most else _CHUNK_BYTES


class Meter:
    """Measures one transfer against its pace."""

    def __init__(self, pace: Pace, now: float) -> None:
        """Begin, at a monotonic time in seconds.

        Raises:
            StoreError: D01, the disk has no room.
        """
        if pace.room:
            pace.room()
        self._pace = pace
        self._began = self._looked = self._last = now
        self._bytes = self._bytes_looked = self._bytes_stored = 0

    def took(self, count: int, now: float) -> float:
        """Count bytes that came; returns how many seconds to pause before the next.

        Raises:
            LinkError: L04, they come too slowly.
            StoreError: D01, the disk has no room.
            UpdateError: U13, this update has had all the bytes or time that it may.
        """
        pace = self._pace
        self._bytes += count
        pace.spent.count += count
        pace.spent.seconds += now - self._last
        self._last = now
        if 0 <= pace.most_bytes < self._bytes:
            raise UpdateError("U13", f"{self._bytes} bytes came where {pace.most_bytes} were left")
        if 0 <= pace.seconds < now - self._began:
            raise UpdateError("U13", f"it took the {pace.seconds:.0f} s that were left")
        if pace.room and self._bytes - self._bytes_stored > _ROOM_BYTES:
            self._bytes_stored = self._bytes
            pace.room()
        self._look(now)
        due = self._bytes / pace.most if pace.most else 0.0
        return max(0.0, self._began + due - now)

    def _look(self, now: float) -> None:
        since = now - self._looked
        if since < _SLOW_SECONDS:
            return
        rate = (self._bytes - self._bytes_looked) / since
        if rate < self._pace.least:
            raise LinkError("L04", f"too slow: {rate:.0f} bytes a second")
        self._looked, self._bytes_looked = now, self._bytes


def left_over(
    allowed: int, hours: float, spent_bytes: int, spent_seconds: float
) -> tuple[int, float]:
    """Bytes and seconds that an update may still take.

    Raises:
        UpdateError: U13, none.
    """
    count, seconds = allowed - spent_bytes, hours * 3600 - spent_seconds
    if count <= 0 or seconds <= 0:
        raise UpdateError("U13", f"{spent_bytes} bytes came in {spent_seconds:.0f} s")
    return count, seconds


def is_open(window: MaintenanceWindow, now: float) -> bool:
    """Whether a moment (Unix seconds) lies in a window of the local day."""
    minute = int(now // 60 + window.offset_minutes) % _MINUTES
    start, end = _minutes(window.start), _minutes(window.end)
    if start <= end:
        return start <= minute < end
    return minute >= start or minute < end


def _minutes(text: str) -> int:
    hours, _, minutes = text.partition(":")
    return int(hours) * 60 + int(minutes)


def bar(order: Assignment, now: float, *, held: bool, metered: bool) -> str:
    """Why an order must wait now; "" if it need not.

    Args:
        order: what is to be carried out.
        now: trusted time, Unix seconds.
        held: whether the application asked for quiet.
        metered: whether the link costs by the byte.
    """
    if held:
        return "the application asked for quiet"
    if order.policy.meter == "free" and metered:
        return "the order is for a link that is free of charge"
    bound = order.deadline is None or now < order.deadline
    if order.window and bound and not is_open(order.window, now):
        return f"it waits for {order.window.start}"
    return ""
