"""Fixed bins that every device shares: scores on log-odds, latencies on powers of two.

Bin edges are part of the contract: changing one makes old and new counts incomparable.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import ArrayLike, NDArray

SCORE_BINS: Final = 64
LATENCY_BINS: Final = 40
MEMORY_BINS: Final = 40
TEMPERATURE_BINS: Final = 32
NEAR_BINS: Final = 2  # below the threshold's own

# 63 inner edges at log-odds -7.75, -7.5 … 7.75; a score on an edge belongs to the bin above
SCORE_EDGES: Final = np.array(
    [1 / (1 + math.exp(-(place + 1) / 4 + 8)) for place in range(SCORE_BINS - 1)]
)
# 39 inner edges at 2**(i/2) microseconds, i = 1 … 39: from 1.4 us to 0.74 s
LATENCY_EDGES_US: Final = np.array([2 ** (place / 2) for place in range(1, LATENCY_BINS)])


def score_bins(scores: ArrayLike) -> NDArray[np.int64]:
    """The bin of each probability.

    Args:
        scores: probabilities, any shape.

    Returns:
        int64 of the same shape, each 0 to 63; bin b covers log-odds
        [b/4 - 8, b/4 - 7.75), the first and last reach to 0 and 1.
    """
    return np.searchsorted(SCORE_EDGES, np.asarray(scores, np.float64), side="right")


def value_bins(values: ArrayLike, edges: ArrayLike) -> NDArray[np.int64]:
    """The bin of each value of a regressor, whose edges are its bundle's own.

    Args:
        values: any shape.
        edges: ascending inner edges, at most 63.

    Returns:
        int64 of the same shape; bin i holds [edge[i-1], edge[i]), the first and last all else.
    """
    return np.searchsorted(np.asarray(edges, np.float64), np.asarray(values), side="right")


def latency_bin(microseconds: float) -> int:
    """The bin of one latency in microseconds, 0 to 39."""
    if microseconds <= 1:
        return 0
    return min(LATENCY_BINS - 1, max(0, int(2 * math.log2(microseconds))))


def latency_bins(microseconds: ArrayLike) -> NDArray[np.intp]:
    """`latency_bin` of many.

    Args:
        microseconds: shape (n,).

    Returns:
        intp, shape (n,), each 0 to 39.
    """
    values = np.asarray(microseconds, np.float64)
    steps = 2 * np.log2(np.maximum(values, 1.0))
    bins: NDArray[np.intp] = np.minimum(steps, LATENCY_BINS - 1).astype(np.intp)
    # numpy's logarithm may differ from the C library's in the last bit: edges are looked at again
    for place in np.flatnonzero(np.abs(steps - np.rint(steps)) < 1e-9):
        bins[place] = latency_bin(float(values[place]))
    return bins


def memory_bin(mebibytes: float) -> int:
    """The bin of one look at the memory, 0 to 39: quarter octaves of MiB, up to 1 GiB."""
    if mebibytes <= 1:
        return 0
    return min(MEMORY_BINS - 1, int(4 * math.log2(mebibytes)))


def temperature_bin(celsius: float) -> int:
    """The bin of one temperature in degrees Celsius, 0 to 31: 5 degrees each, from -40 on."""
    return min(TEMPERATURE_BINS - 1, max(0, math.floor(celsius / 5) + 8))


def latency_quantile(counts: ArrayLike, share: float) -> float:
    """The upper edge, in microseconds, of the bin that holds the `share` quantile.

    Args:
        counts: int, shape (40,).
        share: 0 to 1.

    Returns:
        NaN without counts; the last bin answers its lower edge.
    """
    cells = np.asarray(counts, np.int64)
    total = int(cells.sum())
    if total == 0:
        return math.nan
    place = int(np.searchsorted(np.cumsum(cells), share * total))
    return float(LATENCY_EDGES_US[min(place, LATENCY_BINS - 2)])
