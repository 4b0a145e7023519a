"""The monitor's view for pages: judged at most every few seconds, whoever looks how often."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from wherry.monitor import FleetView
from wherry.server.watching import Watching

DAY: Final = 86_400.0
DAYS: Final = (14, 28, 56)
_FRESH_SECONDS: Final = 10.0


class Judged:
    """Keeps the latest view of each length."""

    def __init__(self, watching: Watching, steady: Callable[[], float]) -> None:
        """Take who judges, and a clock that never goes back, seconds."""
        self._watching = watching
        self._steady = steady
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, tuple[float, FleetView]] = OrderedDict()

    def view(self, days: int = DAYS[1]) -> FleetView:
        """The judgement: all devices over so many days, of single ones what moved.

        Args:
            days: to look back from the newest payment; one of `DAYS`.

        Raises:
            StoreError: D01 or D06.
        """
        with self._lock:
            at, view = self._kept.get(days, (-_FRESH_SECONDS, None))
            if view is None or self._steady() - at >= _FRESH_SECONDS:
                view = self._watching.look(since=days * DAY, brief=True, slots=True)
                self._kept[days] = (self._steady(), view)
            return view
