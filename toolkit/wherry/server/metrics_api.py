"""`/metrics`: gathers facts, and answers a scraper."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from prometheus_client.core import Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from .metrics import Facts, families
from .store import Store
from .traffic import Traffic
from .watching import Watching

PATH: Final = "/metrics"
MOST_DEVICES: Final = 200
_FRESH_SECONDS: Final = 3.0  # for all who scrape: a judgement of many devices is no small work


class MetricsApi:
    """Makes the page, at most once in a few seconds."""

    def __init__(
        self,
        store: Store,
        watching: Watching,
        life: Callable[[], Mapping[str, bool]],
        most_devices: int = MOST_DEVICES,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what is asked for facts.

        Args:
            store: the fleet's memory.
            watching: judges.
            life: the server's parts by name, and whether they go on.
            most_devices: a larger fleet has no series for single devices.
            steady: a clock that never goes back, seconds.
        """
        self._store = store
        self._watching = watching
        self._life = life
        self._most_devices = most_devices
        self._steady = steady
        self._traffic = Traffic(store)
        self._lock = threading.Lock()
        self._made_at = -_FRESH_SECONDS
        self._page = b""

    def routes(self) -> list[Route]:
        """The one route."""
        return [Route(PATH, self.metrics, methods=["GET"])]

    def metrics(self, _: Request) -> Response:
        """The page, in Prometheus' text format."""
        return Response(self.page(), media_type=CONTENT_TYPE_LATEST)

    def page(self) -> bytes:
        """The same as bytes.

        Raises:
            StoreError: D01 or D06.
        """
        with self._lock:
            if self._steady() - self._made_at >= _FRESH_SECONDS:
                self._page = text_of(self.facts(), self._most_devices)
                self._made_at = self._steady()
            return self._page

    def facts(self) -> Facts:
        """What there is to say now."""
        store = self._store
        devices = store.devices()
        few = len(devices) <= self._most_devices
        return Facts(
            parts=dict(self._life()),
            devices=devices,
            lost={row.device: store.lost(row.device) for row in devices} if few else {},
            running=store.ledger.rollouts(running=True),
            rollouts=store.ledger.states(),
            counters=store.counters(),
            told=self._traffic.told(),
            view=self._watching.look(brief=True, since=1.0),
        )


def text_of(facts: Facts, most_devices: int) -> bytes:
    """Facts in Prometheus' text format."""

    class Found(Collector):
        """Hands the families over."""

        def collect(self) -> Iterator[Metric]:
            return families(facts, most_devices)

    return generate_latest(Found())
