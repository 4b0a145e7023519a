"""From a device's windows, before and after, to one number for each gate. Pure.

A number is what changed on one device: after minus before, in units in which shops that
differ may be compared (shares, doublings, PSI). What the whole fleet went through
meanwhile, a Friday or a holiday, the control devices went through as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

_GROUPS: Final = 10
_DIGITS: Final = 6
_EVEN_ROWS: Final = 300
_LEAST_FLAGGED: Final = 0.001
Counts = NDArray[np.int64]
Numbers = dict[str, list[tuple[float, float]]]
"""By gate, a number and its weight for each device."""


@dataclass
class Side:
    """Sums over a device's windows of one span.

    Attributes:
        failed: rows that were refused or failed, which are not among `rows`.
        fallback: rows that the rule answered.
        features: slots by name: bins, below, above, missing.
    """

    rows: int = 0
    flagged: int = 0
    failed: int = 0
    fallback: int = 0
    scores: Counts = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    latency: Counts = field(default_factory=lambda: np.zeros(LATENCY_BINS, np.int64))
    memory: Counts = field(default_factory=lambda: np.zeros(MEMORY_BINS, np.int64))
    features: dict[str, Counts] = field(default_factory=dict)
    edges: str = ""

    def add(self, window: Window) -> None:
        """Add a window; its inputs count only while the edges stay the same."""
        self.rows += window.rows
        self.flagged += window.flagged
        self.failed += sum(window.errors.values())
        self.fallback += window.fallback
        self.scores += window.scores
        self.latency += window.latency
        if window.memory:
            self.memory += window.memory
        if self.edges in ("", window.edges):
            self.edges = window.edges
            for name, counts in window.features.items():
                slots = _slots(counts)
                self.features[name] = self.features.get(name, np.zeros_like(slots)) + slots


def _slots(counts: FeatureCounts) -> Counts:
    return np.array([*counts.bins, counts.below, counts.above, counts.missing], np.int64)


@dataclass(frozen=True)
class Pair:
    """A device's traffic before and after."""

    before: Side
    after: Side

    def is_enough(self, rows: int) -> bool:
        """Whether both sides have so many, rows that failed among them.

        A device whose rows all fail must count: it is the one that the gate is there for.
        """
        return min(_asked(self.before), _asked(self.after)) >= rows


def collect(windows: Iterable[tuple[str, Window]], spans: Mapping[str, Span]) -> dict[str, Pair]:
    """The traffic of devices, each in its own spans.

    Args:
        windows: by device, in any order.
        spans: what is before and what is after, by device; others are left out.
    """
    found = {device: Pair(Side(), Side()) for device in spans}
    for device, window in windows:
        span = spans.get(device)
        if span and (side := span.side(window)):
            getattr(found[device], side).add(window)
    return found


@dataclass(frozen=True)
class Span:
    """Which windows of a device are before, and which after.

    Attributes:
        new: the bundle on trial.
        split: for a device of the control, where after begins, Unix seconds; 0 for one that
            has the new bundle, whose windows say by themselves which model scored.
        since: windows that closed earlier are left out.
    """

    new: str
    split: float
    since: float

    def side(self, window: Window) -> str:
        """``before``, ``after``, or "" for neither."""
        is_new = window.bundle == self.new
        if self.split:
            if is_new or (window.opened < self.split < window.closed):
                return ""
            is_new = window.opened >= self.split
        if window.closed < self.since:
            return ""
        return "after" if is_new else "before"


def differences(pairs: Mapping[str, Pair], base: Baseline, rows: int) -> Numbers:
    """What changed, by gate: one number for each device that has enough, and its weight.

    A device with ten times the traffic says more of a model, but not ten times as much, for
    shops differ too: its weight is r / (r + 300), r rows being what both sides are worth.

    Args:
        pairs: by device; their order by name is the order of the numbers.
        base: what changes are measured by (`baseline`).
        rows: that both sides of a device must have.
    """
    found: Numbers = {}
    for _, pair in sorted(pairs.items()):
        if pair.is_enough(rows):
            worth = 1 / (1 / _asked(pair.before) + 1 / _asked(pair.after))
            weight = round(worth / (worth + _EVEN_ROWS), _DIGITS)
            changes = _changes(pair, base)
            if min(pair.before.rows, pair.after.rows) < rows:  # too few were scored for the rest
                changes = {"errors": changes["errors"]}
            for name, value in changes.items():
                found.setdefault(name, []).append((round(value, _DIGITS), weight))
    return found


@dataclass(frozen=True)
class Baseline:
    """What all devices together were like before: the measure for what changed on each.

    Attributes:
        groups: of each score bin, one of ten, about even.
        flagged: share of rows that were flagged.
    """

    groups: NDArray[np.intp]
    flagged: float


def baseline(pairs: Iterable[Pair]) -> Baseline:
    """Of canary and control together; the same for every device."""
    total, rows, flagged = np.zeros(SCORE_BINS, np.int64), 0, 0
    for pair in pairs:
        total += pair.before.scores
        rows += pair.before.rows
        flagged += pair.before.flagged
    middle = np.cumsum(total) - total / 2
    whole = max(1, int(total.sum()))
    groups = np.minimum(_GROUPS - 1, (_GROUPS * middle / whole)).astype(np.intp)
    return Baseline(groups, max(flagged / max(1, rows), _LEAST_FLAGGED))


def _changes(pair: Pair, base: Baseline) -> dict[str, float]:
    before, after = pair.before, pair.after
    found = {
        "errors": _failing(after) - _failing(before),
        "declines": (_flagged(after) - _flagged(before)) / base.flagged,
    }
    if before.scores.sum() and after.scores.sum():
        found["scores"] = _mean(after.scores) - _mean(before.scores)
        grouped = (np.bincount(base.groups, side.scores, _GROUPS) for side in (before, after))
        found["shape"] = corrected_psi(*grouped)
    for name in ("latency", "memory"):
        counts = [getattr(side, name) for side in (before, after)]
        if all(some.sum() for some in counts):
            per_doubling = 2 if name == "latency" else 4
            found[name] = (_p95(counts[1]) - _p95(counts[0])) / per_doubling
    names = before.features.keys() & after.features.keys()
    if names and before.edges == after.edges:
        psis = [corrected_psi(before.features[n], after.features[n]) for n in sorted(names)]
        found["drift"] = sum(psis) / len(psis)
    return found


def _asked(side: Side) -> int:
    """Rows that were to be scored; those that failed are not among a side's `rows`."""
    return side.rows + side.failed


def _failing(side: Side) -> float:
    return (side.failed + side.fallback) / max(1, _asked(side))


def _flagged(side: Side) -> float:
    return side.flagged / max(1, side.rows)


def _mean(counts: Counts) -> float:
    return float(np.arange(len(counts)) @ counts / counts.sum())


def _p95(counts: Counts) -> float:
    """The 95th percentile in bins, evenly within its bin."""
    below = np.cumsum(counts)
    wanted = 0.95 * below[-1]
    place = int(np.searchsorted(below, wanted))
    return place + 1 - float((below[place] - wanted) / counts[place])


def corrected_psi(expected: NDArray[np.generic], actual: NDArray[np.generic]) -> float:
    """The PSI minus its mean under no drift (SPEC-drift.md, 4); slots empty on both sides left out."""
    e, a = np.asarray(expected, np.float64), np.asarray(actual, np.float64)
    some = (e + a) > 0
    e, a = e[some], a[some]
    n, m, slots = e.sum(), a.sum(), len(e)
    if slots < 2 or not (n and m):
        return 0.0
    e, a = (e + 0.5) / (n + slots / 2), (a + 0.5) / (m + slots / 2)
    return float(((a - e) * np.log(a / e)).sum() - (slots - 1) * (1 / n + 1 / m))
