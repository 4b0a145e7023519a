"""Tells hooks while the server runs: alerts, and which model should be trained anew.

What `wherry watch alerts` and `wherry retrain check` do when they are called, in threads of their own,
with the same ledgers; a training may take hours, and holds up no alert.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from wherry.endure import LOG, Enduring
from wherry.hooks import Hooks, Ledger, Told, alerts, causes, read_hooks, tell, tell_alerts
from wherry.monitor import FleetView
from wherry_contract.errors import WherryError

from .watching import Watching

ALERTS_FILE: Final = "alerts.json"
RETRAINING_FILE: Final = "retraining.json"


@dataclass(frozen=True)
class Telling:
    """Who is told by the server itself.

    Attributes:
        alerts: a hooks file for alerts; nothing for nobody.
        retrain: likewise for models that should be trained anew.
        seconds: between two looks.
    """

    alerts: Path | None = None
    retrain: Path | None = None
    seconds: float = 60.0


class Teller:
    """Looks at the judgement now and then, and tells whom the files name."""

    def __init__(self, telling: Telling, watching: Watching, data: Path) -> None:
        """Read the files, so that a mistake in them is told at the start.

        Args:
            telling: who is told.
            watching: judges.
            data: the server's folder.

        Raises:
            SetupError: H01, H02 or H12.
        """
        self._watching, self._data = watching, data
        self._seconds = telling.seconds
        self._stop = threading.Event()
        looks: list[tuple[str, Callable[[], tuple[Told, ...]]]] = []
        if telling.alerts:
            hooks = read_hooks(telling.alerts)
            looks.append(("alerts", lambda: self._alerts(hooks)))
        if telling.retrain:
            trainers = read_hooks(telling.retrain)
            looks.append(("retraining", lambda: self._retrain(trainers)))
        self._threads = [
            Enduring(name, partial(self._run, name, look), self._stop) for name, look in looks
        ]

    @property
    def alive(self) -> bool:
        """Whether all of it goes on."""
        return all(thread.alive for thread in self._threads)

    @property
    def idle(self) -> bool:
        """Whether nobody is to be told."""
        return not self._threads

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End it; a command under way is not waited for, and is told again by the next start."""
        self._stop.set()
        for thread in self._threads:
            thread.join(5.0)

    def _run(self, name: str, look: Callable[[], tuple[Told, ...]]) -> None:
        while not self._stop.wait(self._seconds):
            try:
                told = look()
            except WherryError as error:
                LOG.error("%s: nobody was told: %s", name, error)
                continue
            for item in told:
                if item.state in ("told", "failed"):
                    LOG.info("%s: %s %s: %s", name, item.hook, item.state, item.outcome)

    def _view(self, since: float | None) -> FleetView:
        return self._watching.look(brief=True, since=since)

    def _alerts(self, hooks: Hooks) -> tuple[Told, ...]:
        ledger = Ledger(self._data / ALERTS_FILE)
        return tell_alerts(alerts(self._view(1.0)), hooks.ways, ledger, time.time)

    def _retrain(self, hooks: Hooks) -> tuple[Told, ...]:
        ledger = Ledger(self._data / RETRAINING_FILE)
        return tell(causes(self._view(None), hooks.lead_seconds), hooks, ledger, time.time)
