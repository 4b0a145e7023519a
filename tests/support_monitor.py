"""What tests of the monitor share: a fleet in a few lines, counted by the real counter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry.monitor import Cell, FleetView, Reference
from wherry.rows import StoredWindow
from wherry_contract.features import Feature, InputContract, RawMatrix
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS, score_bins
from wherry_contract.messages import Place
from wherry_contract.profile import build_profile
from wherry_contract.window import Window

DAY = 86_400.0
MONDAY = 1_532_304_000.0  # 2018-07-23
BUNDLE = "sha256:" + "b" * 64
NEWER = "sha256:" + "c" * 64
THRESHOLD = 0.5


def inputs(**changes: Any) -> InputContract:
    """An amount, a count that may be missing, a kind of shop."""
    features = (
        Feature("AMOUNT", minimum=0.0, maximum=1000.0),
        Feature("COUNT", minimum=0.0, missing="allow"),
        Feature("KIND", "category", categories=("food", "fuel", "other"), unseen="allow"),
    )
    return InputContract("shop", 1, tuple(replace(item, **changes) for item in features))


def rows(rng: np.random.Generator, count: int, *, shift: float = 1.0) -> RawMatrix:
    """Plausible rows; `shift` multiplies the amounts."""
    raw = np.empty((count, 3))
    raw[:, 0] = np.minimum(shift * rng.gamma(2.0, 30.0, count), 1000.0)
    raw[:, 1] = rng.poisson(4, count)
    raw[:, 2] = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    return raw


def scores(raw: RawMatrix) -> NDArray[np.float64]:
    """A model that looks at the amount alone."""
    return np.asarray(1 / (1 + np.exp(-(raw[:, 0] - 160) / 30)), np.float64)


@dataclass
class Fleet:
    """Counts rows into windows as devices do.

    Attributes:
        windows: of all devices, in the order in which they were made.
    """

    contract: InputContract = field(default_factory=inputs)
    reference_rows: int = 20_000
    seed: int = 1
    pairs: tuple[tuple[str, str], ...] = ()
    windows: list[StoredWindow] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(self.seed)
        raw = rows(self.rng, self.reference_rows)
        self.profile = build_profile(self.contract, raw, scores(raw), THRESHOLD, pairs=self.pairs)
        self.counter = self.profile.counter(self.contract)

    @property
    def references(self) -> dict[str, Reference]:
        """Two models over the same edges."""
        known = Reference(self.profile, self.contract)
        return {BUNDLE: known, NEWER: known}

    def send(self, device: str, day: float, raw: RawMatrix, **changes: Any) -> None:
        """One window of a day, counted from Monday, 23 July 2018."""
        slots = self.counter.zeros()
        self.counter.add(slots, raw)
        flags = scores(raw)
        start = MONDAY + day * DAY
        latency = [0] * LATENCY_BINS
        latency[20] = len(raw)
        window = Window(
            place=Place(device, "0" * 16, len(self.windows) + 1, 1),
            bundle=BUNDLE,
            edges=self.profile.edges_id,
            opened=start + 0.4 * DAY,
            closed=start + 0.6 * DAY,
            rows=len(raw),
            flagged=int((flags >= THRESHOLD).sum()),
            fallback=0,
            errors={},
            features=dict(zip(self.contract.names, self.counter.split(slots), strict=True)),
            scores=tuple(np.bincount(score_bins(flags), minlength=SCORE_BINS).tolist()),
            latency=tuple(latency),
            reason="time",
            pairs=dict(
                zip(
                    [pair.name for pair in self.profile.pairs],
                    self.counter.split_pairs(slots),
                    strict=True,
                )
            ),
        )
        self.windows.append(StoredWindow(device, {}, 0.0, replace(window, **changes)))

    def quiet_days(self, devices: Sequence[str], first: int, last: int, count: int = 400) -> None:
        """Days on which nothing happens."""
        for day in range(first, last):
            for device in devices:
                self.send(device, day, rows(self.rng, count))


def by_rule(window: Window) -> Window:
    """The same window if the fallback rule had answered it all."""
    return replace(window, fallback=window.rows, scores=(0,) * SCORE_BINS)


def alerts(view: FleetView) -> set[tuple[str, str, str]]:
    """What has drifted: device, subject and kind."""
    return {(cell.device, cell.subject, str(cell.kind)) for cell in view.alerts}


def cells(view: FleetView, subject: str, device: str = "", kind: str = "shape") -> list[Cell]:
    """The cells of one thing at one place, by time."""
    return [
        cell
        for cell in view.cells
        if (cell.subject, cell.device, cell.kind) == (subject, device, kind)
    ]


def decisions(view: FleetView, subject: str, device: str = "", kind: str = "shape") -> list[str]:
    """Their decisions."""
    return [str(cell.decision) for cell in cells(view, subject, device, kind)]
