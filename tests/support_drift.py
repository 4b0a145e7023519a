"""What tests of the method share: windows whose counts are drawn, not counted."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from wherry.monitor import Reference
from wherry.monitor.rowmath import Floats
from wherry.rows import StoredWindow
from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS
from wherry_contract.messages import Place
from wherry_contract.profile import FeatureProfile, ReferenceProfile
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

DAY = 86_400.0
MONDAY = 1_532_304_000.0  # 2018-07-23
BUNDLE = "sha256:" + "b" * 64


def shares_of_psi(truth: float, slots: int) -> Floats:
    """Shares at a true PSI of `truth` from even ones: tilted, exp(t x), with t found by halving."""
    x, low, high = np.linspace(-1, 1, slots), 0.0, 20.0
    for _ in range(80):
        middle = (low + high) / 2
        found = np.exp(middle * x)
        found /= found.sum()
        far = ((found - 1 / slots) * np.log(found * slots)).sum()
        low, high = (middle, high) if far < truth else (low, middle)
    return found


@dataclass
class Counted:
    """A fleet of ten-bin features with an even reference."""

    features: int = 1
    reference_rows: int = 100_000
    seed: int = 1
    windows: list[StoredWindow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        names = [f"f{number}" for number in range(self.features)]
        self.contract = InputContract("drawn", 1, tuple(Feature(name) for name in names))
        profiles = tuple(
            FeatureProfile(
                name,
                tuple(float(x) for x in range(1, 10)),
                self._draw(np.full(10, 0.1), self.reference_rows),
            )
            for name in names
        )
        self.profile = ReferenceProfile("drawn", 1, profiles)
        self.references = {BUNDLE: Reference(self.profile, self.contract)}

    def _draw(self, shares: Floats, count: int) -> FeatureCounts:
        return FeatureCounts(tuple(self.rng.multinomial(count, shares).tolist()))

    def send(self, device: str, day: float, shares: Floats, count: int) -> None:
        """One window of a day; `shares` has the shape (features, 10)."""
        counts = {f"f{n}": self._draw(row, count) for n, row in enumerate(shares)}
        start = MONDAY + day * DAY
        window = Window(
            place=Place(device, "0" * 16, len(self.windows) + 1, 1),
            bundle=BUNDLE,
            edges=self.profile.edges_id,
            opened=start + 0.4 * DAY,
            closed=start + 0.6 * DAY,
            rows=count,
            flagged=0,
            fallback=count,
            errors={},
            features=counts,
            scores=(0,) * SCORE_BINS,
            latency=(0,) * LATENCY_BINS,
            reason="time",
        )
        self.windows.append(StoredWindow(device, {}, window.closed, window))
