"""What the page states about a model's scores, as figures. Pure, but for one stopwatch.

Calibration: the reliability curve of Murphy and Winkler, Applied Statistics 26 (1977), in
groups that grow thinner towards the top, where a fraud model decides; intervals of a rate
by Wilson, JASA 22 (1927).
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry.metrics import Labels, Scores
from wherry_contract.features import RawMatrix
from wherry_contract.psi import PsiResult, assess

_CUTS: Final = (0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
_PSI_GROUPS: Final = 10
_Z: Final = 1.959964  # of a 95 % interval
_ROUNDS: Final = 100
_SECONDS: Final = 1.0
_TOP: Final = 0.1


@dataclass(frozen=True)
class Group:
    """Rows whose scores are close: what was promised, and what came.

    Attributes:
        rows: how many.
        positives: rows of the positive class.
        promised: mean score.
        low: lower end of the rate's 95 % interval.
        high: upper end.
    """

    rows: int
    positives: int
    promised: float
    low: float
    high: float

    @property
    def rate(self) -> float:
        """Share of rows that are positive."""
        return self.positives / self.rows


@dataclass(frozen=True)
class Resolution:
    """How finely scores tell rows apart.

    Attributes:
        distinct: different scores.
        distinct_top: likewise, among the tenth of rows with the highest scores.
        tied: rows that share their score with another row.
        largest_tie: most rows that share one score.
    """

    distinct: int
    distinct_top: int
    tied: int
    largest_tie: int


@dataclass(frozen=True)
class Shift:
    """Scores of the bundle against those of the source, in groups of equal source rows.

    Attributes:
        edges: inner edges of the groups.
        source: rows of each group.
        bundle: likewise.
        psi: the index and its statistics; None if the source has too few scores for groups.
    """

    edges: tuple[float, ...]
    source: tuple[int, ...]
    bundle: tuple[int, ...]
    psi: PsiResult | None


@dataclass(frozen=True)
class Pace:
    """Time for one row, microseconds, on the machine that builds."""

    median: float
    slow: float


def calibration_edges(scores: Scores) -> NDArray[np.float64]:
    """Inner edges of the calibration groups, from the source's scores."""
    return np.unique(np.quantile(scores, _CUTS))


def calibration(labels: Labels, scores: Scores, edges: NDArray[np.float64]) -> list[Group]:
    """Groups of rows by score; those without rows are left out.

    Args:
        labels: bool, shape (rows,).
        scores: float64, shape (rows,).
        edges: float64, shape (groups - 1,), rising; a score on an edge is above it.
    """
    place = np.searchsorted(edges, scores, side="right")
    found = []
    for number in range(len(edges) + 1):
        inside = place == number
        rows, positives = int(inside.sum()), int(labels[inside].sum())
        if rows:
            low, high = wilson(positives, rows)
            found.append(Group(rows, positives, float(scores[inside].mean()), low, high))
    return found


def wilson(hits: int, rows: int) -> tuple[float, float]:
    """The 95 % interval of a rate that was seen as `hits` of `rows`, of which there are some."""
    rate, spread = hits / rows, _Z**2 / rows
    middle = rate + spread / 2
    half = _Z * math.sqrt(rate * (1 - rate) / rows + spread / (4 * rows))
    return max(0.0, (middle - half) / (1 + spread)), min(1.0, (middle + half) / (1 + spread))


def calibration_error(groups: Sequence[Group]) -> float:
    """Mean distance of promise and rate, weighted by rows."""
    rows = sum(group.rows for group in groups)
    return sum(group.rows * abs(group.promised - group.rate) for group in groups) / rows


def brier(labels: Labels, scores: Scores) -> float:
    """Mean squared distance of score and label (Brier 1950)."""
    return float(np.mean((scores - labels) ** 2))


def resolution(scores: Scores) -> Resolution:
    """Count distinct scores and ties; float64, shape (rows,), at least one row."""
    _, counts = np.unique(scores, return_counts=True)
    top = np.sort(scores)[-max(1, round(_TOP * len(scores))) :]
    return Resolution(
        distinct=len(counts),
        distinct_top=len(np.unique(top)),
        tied=int(counts[counts > 1].sum()),
        largest_tie=int(counts.max()),
    )


def shift(source: Scores, bundle: Scores) -> Shift:
    """PSI of the bundle's scores (n) against the source's (m) on the same rows.

    Args:
        source: float64, shape (rows,).
        bundle: likewise.
    """
    edges = np.unique(np.quantile(source, np.arange(1, _PSI_GROUPS) / _PSI_GROUPS))
    edges = edges[edges > source.min()]  # a score on an edge is above it: none below the lowest
    counts = [
        tuple(np.bincount(np.searchsorted(edges, scores, "right"), minlength=len(edges) + 1))
        for scores in (source, bundle)
    ]
    before, now = (tuple(map(int, part)) for part in counts)
    found = assess(before, now) if len(edges) else None
    return Shift(tuple(map(float, edges)), before, now, found)


def pace(score: Callable[[RawMatrix], object], raw: RawMatrix) -> Pace:
    """Time single rows, for at most a second.

    Args:
        score: scores raw rows.
        raw: float64, shape (rows, features), at least one row.
    """
    score(raw[:1])  # what is made at the first call is not the model's pace
    times: list[float] = []
    end = time.perf_counter() + _SECONDS
    for turn in range(_ROUNDS):
        row = raw[turn % len(raw)][np.newaxis]
        start = time.perf_counter()
        score(row)
        now = time.perf_counter()
        times.append((now - start) * 1e6)
        if now > end:
            break
    return Pace(float(np.quantile(times, 0.5)), float(np.quantile(times, 0.95)))
