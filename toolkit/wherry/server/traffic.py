"""What windows have brought since the server began, as sums that only grow."""

from __future__ import annotations

import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wherry.rows import StoredWindow
from wherry_contract.histograms import LATENCY_BINS

from .store import Store

OTHER: Final = "other"
MOST_MODELS: Final = 20
MOST_CODES: Final = 50
Model = tuple[str, str]  # name and version


@dataclass
class Sums:
    """Of one model: rows answered, of them flagged and by the rule; latencies by bin."""

    rows: int = 0
    flagged: int = 0
    by_rule: int = 0
    latency: tuple[int, ...] = (0,) * LATENCY_BINS

    def add(self, item: StoredWindow) -> None:
        """Count one window."""
        window = item.window
        self.rows += window.rows
        self.flagged += window.flagged
        self.by_rule += window.fallback
        self.latency = tuple(a + b for a, b in zip(self.latency, window.latency, strict=True))


@dataclass(frozen=True)
class Told:
    """The sums at one moment.

    Attributes:
        models: by name and version.
        errors: rows that were refused or failed, by code.
        devices: rows answered, by device.
    """

    models: Mapping[Model, Sums]
    errors: Mapping[str, int]
    devices: Mapping[str, int]


class Traffic:
    """Adds up windows as they arrive; a start of the server begins at nothing."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._last = store.newest_window()
        self._models: OrderedDict[Model, Sums] = OrderedDict()
        self._errors: Counter[str] = Counter()
        self._devices: Counter[str] = Counter()
        self._lock = threading.Lock()

    def told(self) -> Told:
        """The sums as of now.

        Raises:
            StoreError: D01 or D06.
        """
        with self._lock:
            while True:
                self._last, found = self._store.windows_after(self._last)
                if not found:
                    return Told(dict(self._models), dict(self._errors), dict(self._devices))
                names = {row.digest: (row.name, row.version) for row in self._store.bundles()}
                for item in found:
                    self._add(item, names.get(item.window.bundle, (OTHER, "")))

    def _add(self, item: StoredWindow, model: Model) -> None:
        sums = self._models.pop(model, None) or Sums()
        self._models[model] = sums  # the latest are kept: a sum that shrank would look like growth
        while len(self._models) > MOST_MODELS:
            self._models.popitem(last=False)
        sums.add(item)
        self._devices[item.device] += item.window.rows
        for code, rows in item.window.errors.items():
            known = code in self._errors or len(self._errors) < MOST_CODES
            self._errors[code if known else OTHER] += rows
