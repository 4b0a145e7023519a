"""When a modelled device is there, and how long it takes to do what it is told. Pure."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

HOUR: Final = 3600.0
DAY: Final = 24 * HOUR
_DOWN: Final = 600.0  # seconds of each hour for which a flaky line is down
_NIGHT: Final = 10 * HOUR
_TRIES: Final = 4
REQUESTS: Final = 12
"""HTTP requests of one installation: metadata of the release, manifest, and blobs."""


@dataclass(frozen=True)
class Habits:
    """What share of devices is how.

    Attributes:
        flaky: line down for ten minutes of every hour.
        nightly: switched off for ten hours of every day.
        absent: away all the time.
        refusing: refuses whatever comes: a full disk, a broken card.
        bytes_per_second: median of what a device fetches.
        probe_seconds: from the last byte to the switch.
        jitter_seconds: between an order and the first request.
    """

    flaky: float = 0.14
    nightly: float = 0.0
    absent: float = 0.01
    refusing: float = 0.0
    bytes_per_second: float = 200_000.0
    probe_seconds: float = 30.0
    jitter_seconds: float = 5.0


class Links:
    """The lines of all devices."""

    def __init__(self, devices: int, habits: Habits, seed: int) -> None:
        """Draw them; the same seed draws the same lines."""
        chance = np.random.default_rng([seed, 3])
        shares = [habits.flaky, habits.nightly, habits.absent]
        kinds = chance.choice(4, devices, p=[1 - sum(shares), *shares])
        self._kind: list[int] = kinds.tolist()
        self._phase: list[float] = chance.random(devices).tolist()
        self._speed = (habits.bytes_per_second * chance.lognormal(0, 0.7, devices)).tolist()
        self._jitter = (habits.jitter_seconds * chance.random(devices)).tolist()
        self._refuses = (chance.random(devices) < habits.refusing).tolist()
        self._probe = habits.probe_seconds

    def refuses(self, device: int) -> bool:
        """Whether it refuses every bundle."""
        return bool(self._refuses[device])

    def fetch_at(self, device: int, order: float) -> float:
        """When it asks for the first byte, having heard of an order."""
        return float(order + self._jitter[device])

    def switch_at(self, device: int, fetch: float, size: int) -> float:
        """When the new model is live."""
        return float(fetch + size / self._speed[device] + self._probe)

    def is_up(self, device: int, at: float) -> bool:
        """Whether it is connected at a moment, seconds."""
        return self.next_up(device, at) == at

    def next_up(self, device: int, at: float) -> float:
        """When it is connected next; infinity for never."""
        period, down = self._rhythm(device)
        if not down:
            return at
        if down == math.inf:
            return math.inf
        into = (at / period + self._phase[device]) % 1.0 * period
        return at if into >= down else float(at + (down - into))

    def next_change(self, device: int, at: float) -> float:
        """When it comes or goes next; infinity for never."""
        period, down = self._rhythm(device)
        if down in (0.0, math.inf):
            return math.inf
        into = (at / period + self._phase[device]) % 1.0 * period
        return float(at + (down - into if into < down else period - into))

    def _rhythm(self, device: int) -> tuple[float, float]:
        rhythms = ((HOUR, 0.0), (HOUR, _DOWN), (DAY, _NIGHT), (HOUR, math.inf))
        return rhythms[self._kind[device]]
