"""The way into the outbox: whoever has something to say never waits for the disk, nor fails.

Windows and events that the disk will not take now wait in memory, bounded, and are tried
again; what does not fit is dropped, oldest window first, and counted.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import Final

from wherry_agent.clock import Clock
from wherry_agent.serving.counter import Tally
from wherry_contract.compact import write_window
from wherry_contract.errors import StoreError
from wherry_contract.messages import Place

from .fact import Fact
from .log_ring import where
from .outbox import Outbox

_MOST_WAITING: Final = 64
_KEYS_LOGGED: Final = 1024

_log = logging.getLogger("wherry")
_LEVELS: Final = {"info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}


class Spool:
    """Takes windows and events from every thread and puts them into the outbox."""

    def __init__(self, outbox: Outbox, clock: Clock, *, compact: bool = False) -> None:
        """Take the outbox, the clock, and whether windows are written in the compact form."""
        self._compact = compact
        self._outbox = outbox
        self._clock = clock
        self._waiting: deque[Tally | tuple[Fact, float, str | None]] = deque()
        self._lock = threading.Lock()
        self._writing = threading.Lock()
        self.wake = threading.Event()
        self.lost = 0
        self._told_dropped = outbox.dropped

    def emit(self, tally: Tally) -> None:
        """Take a closed window."""
        self._append(tally)

    def tell(self, fact: Fact, *, key: str | None = None) -> None:
        """Take an event; one with a key is told once."""
        self._append((fact, self._clock.now(), key))

    def _append(self, item: Tally | tuple[Fact, float, str | None]) -> None:
        with self._lock:
            self._waiting.append(item)
            if len(self._waiting) > _MOST_WAITING:
                self._lose_one()
        self.wake.set()

    def _lose_one(self) -> None:
        """Drop the oldest window, else the oldest event; the first may be on its way to disk."""
        places = range(1, len(self._waiting))
        windows = (place for place in places if isinstance(self._waiting[place], Tally))
        del self._waiting[next(windows, 1)]
        self.lost += 1

    def _lose_first(self, error: Exception) -> None:
        """Drop the one that cannot be made into a message; never said of what says so."""
        with self._lock:
            item = self._waiting.popleft()
            self.lost += 1
        if isinstance(item, Tally):
            kind = type(error).__name__
            # not in its own words, as in `app`
            place = where(type(error), error.__traceback__)
            fact = Fact("agent.crash", f"a window was dropped: {place}"[:500], "error")
            self.tell(fact, key=f"unsayable:{kind}:{int(self._clock.now() // 3600)}")

    def record(self, fact: Fact, *, key: str) -> None:
        """Store an event now; when this returns it is on the medium.

        Raises:
            StoreError: D01 or D06.
        """
        self._store((fact, self._clock.now(), key))

    def flush(self) -> bool:
        """Store what waits; false if the disk will not have it now."""
        with self._writing:
            while self._waiting:
                item = self._waiting[0]
                try:
                    self._store(item)
                except StoreError:
                    return False
                except Exception as error:  # noqa: BLE001 - a bug in one must not block the others
                    self._lose_first(error)
                    continue
                with self._lock:
                    self._waiting.popleft()
            return self._tell_dropped()

    def _store(self, item: Tally | tuple[Fact, float, str | None]) -> int:
        if isinstance(item, Tally):
            return self._outbox.add(
                "window", lambda place: self._write(item, place), now=self._clock.monotonic()
            )
        fact, at, key = item
        return self._outbox.add(
            "event",
            lambda place: fact.event(place, at).to_bytes(),
            now=self._clock.monotonic(),
            key=key,
        )

    def _write(self, tally: Tally, place: Place) -> bytes:
        """A window in the form that is wanted; what the compact form cannot say is JSON."""
        window = tally.window(place)
        short = write_window(window, tally.profile) if self._compact and tally.profile else None
        return short or window.to_bytes()

    def _tell_dropped(self) -> bool:
        dropped = self._outbox.dropped + self.lost
        if dropped <= self._told_dropped:
            return True
        now = self._clock.now()
        fact = Fact("D05", f"{dropped} messages so far", "warning")
        try:
            # once an hour: what says that there is no room must not fill it
            told = self._store((fact, now, f"dropped:{int(now // 3600)}"))
        except StoreError:
            return False
        if told:
            self._told_dropped = dropped
        return True


class LoggedSpool(Spool):
    """A spool that also writes what it is told to the log, each key once."""

    def __init__(self, outbox: Outbox, clock: Clock, *, compact: bool = False) -> None:
        super().__init__(outbox, clock, compact=compact)
        self._logged: dict[str, None] = {}
        self._logging = threading.Lock()

    def tell(self, fact: Fact, *, key: str | None = None) -> None:
        """Take an event, and log it."""
        if key is None or self._is_new(key):
            _write_log(fact)
        super().tell(fact, key=key)

    def _is_new(self, key: str) -> bool:
        with self._logging:
            if key in self._logged:
                return False
            self._logged[key] = None
            if len(self._logged) > _KEYS_LOGGED:
                del self._logged[next(iter(self._logged))]
            return True

    def record(self, fact: Fact, *, key: str) -> None:
        """Store an event now, and log it."""
        super().record(fact, key=key)
        _write_log(fact)


def _write_log(fact: Fact) -> None:
    _log.log(_LEVELS[fact.severity], "%s %s", fact.code, fact.text)
