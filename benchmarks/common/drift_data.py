"""The table that all drift tools are given: a reference, rows without drift, and rows with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

NUMBERS: Final = 24
CATEGORIES: Final = 6
LEVELS: Final = 8
REFERENCE: Final = 100_000
CURRENT: Final = 40_000
SIZES: Final = (250, 1000, 10_000)
# what moves in the rows with drift: 11 of 30
MOVED: Final = (*range(9), NUMBERS, NUMBERS + 1)


def make_table(path: Path, seed: int = 6) -> None:
    """Write ``reference``, ``null`` and ``drifted``: float64, shape (rows, 30); NaN is missing.

    Of the numbers, six move by 0.3 of their deviation, two spread by 1.3, one goes from 2 % to
    10 % missing; of the categories one has its levels reversed, one gets 3 % of a new level.
    """
    rng = np.random.default_rng(seed)
    np.savez(
        path,
        reference=_rows(rng, REFERENCE, drifted=False),
        null=_rows(rng, CURRENT, drifted=False),
        drifted=_rows(rng, CURRENT, drifted=True),
    )


def _rows(rng: np.random.Generator, count: int, *, drifted: bool) -> Any:
    raw = rng.normal(size=(count, NUMBERS + CATEGORIES))
    raw[:, 12:NUMBERS] = np.exp(raw[:, 12:NUMBERS])  # half of them skewed
    shares = 1 / np.arange(2, 2 + LEVELS)
    codes = rng.choice(LEVELS, (count, CATEGORIES), p=shares / shares.sum())
    raw[:, NUMBERS:] = codes
    gone = 0.02
    if drifted:
        raw[:, :6] += 0.3
        raw[:, 6:8] *= 1.3
        gone = 0.10
        raw[:, NUMBERS] = LEVELS - 1 - raw[:, NUMBERS]
        raw[rng.random(count) < 0.03, NUMBERS + 1] = LEVELS
    raw[rng.random(count) < gone, 8] = np.nan
    return raw
