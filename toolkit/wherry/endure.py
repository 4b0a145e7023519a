"""A thread that goes on: what its work throws is logged, and the work begins again."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Final

LOG: Final = logging.getLogger("wherry.server")
_PAUSES: Final = (0.1, 30.0)  # seconds; doubled each time, and the first again after a good while


class Enduring:
    """Work that runs in a thread of its own until an event is set, whatever happens in it."""

    def __init__(self, name: str, work: Callable[[], None], stop: threading.Event) -> None:
        """Take a name for log and thread, the work, and what ends it.

        Args:
            name: of the thread.
            work: returns once `stop` is set; begun again if it throws or returns before.
            stop: ends the thread.
        """
        self._name = name
        self._work = work
        self._stop = stop
        self._at_work = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the work goes on now; not while it waits to begin again."""
        return self._thread.is_alive() and self._at_work

    def start(self) -> None:
        """Start the thread."""
        self._at_work = True
        self._thread.start()

    def join(self, seconds: float) -> None:
        """Wait for the end of a thread that was started."""
        if self._thread.is_alive():
            self._thread.join(seconds)

    def _run(self) -> None:
        shortest, longest = _PAUSES
        pause = shortest
        while not self._stop.is_set():
            began = time.monotonic()
            self._at_work = True
            try:
                self._work()
            except Exception:  # a thread that ends unseen is worse than any bug that is logged
                LOG.exception("%s: begins again in %.1f s", self._name, pause)
            self._at_work = False
            self._stop.wait(pause)
            lived = time.monotonic() - began - pause
            pause = shortest if lived > longest else min(longest, pause * 2)
