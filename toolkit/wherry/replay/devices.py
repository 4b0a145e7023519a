"""Devices that live in the past: the agent's own scorer, with a clock that history turns."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_contract.bundle import Parts
from wherry_contract.errors import ServingError
from wherry_contract.histograms import LATENCY_BINS
from wherry_contract.messages import Place
from wherry_contract.window import Window

from .history import Batch

_SPOOL: Final = "0" * 16


class _Clock:
    """Both clocks of a device at one moment of the past."""

    moment = 0.0

    def now(self) -> float:
        """Unix seconds."""
        return self.moment

    def monotonic(self) -> float:
        """The same: history does not go back."""
        return self.moment


class _Device:
    """One device: its scorer, and where its next window will stand."""

    def __init__(self, name: str, served: Served, limits: Limits, fleet: Devices) -> None:
        self._name, self._limits, self._fleet = name, limits, fleet
        self._seq = self._rows = 0
        self._begun = 0.0
        self.scorer = Scorer(limits, fleet.clock, self._emit)
        self.scorer.swap(served)
        self._served = served

    def _emit(self, tally: Tally) -> None:
        self._rows, self._seq = 0, self._seq + 1
        # nobody waited for an answer here, so there is no latency to tell
        window = replace(tally, latency=(0,) * LATENCY_BINS)
        self._fleet.sent.append(window.window(Place(self._name, _SPOOL, self._seq, 1)))

    def play(self, batch: Batch) -> None:
        """Score and count its rows; windows end by rows and by time, as on a board."""
        times = np.maximum.accumulate(batch.times)
        start = 0
        while start < len(times):
            clock = self._fleet.clock
            clock.moment = max(clock.moment, float(times[start]))
            self.scorer.tick()
            if not self._rows:
                self._begun = float(times[start])
            over = self._begun + 60 * self._limits.window_minutes
            room = start + self._limits.window_rows - self._rows
            end = max(start + 1, min(room, int(np.searchsorted(times, over))))
            # the last row alone, so that the window knows when it ended
            for part in (slice(start, end - 1), slice(end - 1, end)):
                if part.stop > part.start:
                    self._answer(batch, part, float(times[part.start]))
            start = end

    def _answer(self, batch: Batch, part: slice, moment: float) -> None:
        clock = self._fleet.clock
        clock.moment = max(clock.moment, moment)
        self._rows += part.stop - part.start
        try:
            raw = batch.raw[part]
            self.scorer.answer(raw, self._served, started=clock.moment, at=moment)
        except ServingError:  # S05: the scorer has counted them
            pass


class Devices:
    """All devices of a history.

    Attributes:
        clock: of all of them.
        sent: windows since somebody took them.
        refused: rows by the code that they were refused with.
    """

    def __init__(self, digest: str, parts: Parts, rows: int, minutes: float) -> None:
        """Load the bundle's model.

        Args:
            digest: of the bundle.
            parts: of the bundle.
            rows: after which a window closes.
            minutes: after which it closes.

        Raises:
            ProbeError: P04.
        """
        self._served = Served.by_model(load_model(digest, parts))
        self._limits = Limits(window_rows=rows, window_minutes=minutes)
        self._devices: dict[str, _Device] = {}
        self.clock = _Clock()
        self.sent: list[Window] = []
        self.refused: dict[str, int] = {}

    @property
    def names(self) -> tuple[str, ...]:
        """Their ids."""
        return tuple(self._devices)

    def play(self, batch: Batch) -> None:
        """Live through some rows, device by device."""
        begun = self.clock.moment
        order = np.argsort(batch.devices, kind="stable")
        ids, firsts = np.unique(batch.devices[order], return_index=True)
        latest = begun
        for name, rows in zip(ids.tolist(), np.split(order, firsts[1:]), strict=True):
            self.clock.moment = begun
            self._play(self._device(name), _rows(batch, rows))
            latest = max(latest, self.clock.moment)
        self.clock.moment = latest

    def _play(self, device: _Device, mine: Batch) -> None:
        for code in sorted(set(mine.refused.tolist()) - {""}):
            number = int((mine.refused == code).sum())
            self.clock.moment = max(self.clock.moment, float(mine.times[0]))
            device.scorer.refuse(code, number)
            self.refused[code] = self.refused.get(code, 0) + number
        device.play(_rows(mine, np.flatnonzero(mine.refused == "")))

    def _device(self, name: str) -> _Device:
        if name not in self._devices:
            self._devices[name] = _Device(name, self._served, self._limits, self)
        return self._devices[name]

    def stop(self) -> None:
        """End: what is counted is sent."""
        for device in self._devices.values():
            device.scorer.stop()


def _rows(batch: Batch, rows: np.ndarray[tuple[int, ...], np.dtype[np.intp]]) -> Batch:
    return Batch(batch.raw[rows], batch.refused[rows], batch.times[rows], batch.devices[rows])
