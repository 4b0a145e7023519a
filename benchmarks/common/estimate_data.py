"""Scores of rows whose labels are known to the benchmark alone, for tools that estimate without."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import numpy as np

ROWS: Final = 10_000  # a chunk
CHUNKS: Final = 20
REFERENCE: Final = 100_000
# how inputs move, and what a row's chance of being positive then is made of
CASES: Final = {
    "nothing moved": (0.0, 1.0, 1.0),
    "inputs moved by half": (0.5, 1.0, 1.0),
    "inputs spread 1.3 times": (0.0, 1.3, 1.0),
    "inputs spread 0.7 times": (0.0, 0.7, 1.0),
    "the ranking lost worth": (0.0, 1.0, 0.4),
}


def make_scores(path: Path, seed: int = 6) -> None:
    """Write for each case scores and truth, float64 (rows,); of ``reference`` with labels to use.

    About two rows of a hundred are positive. The scores are not calibrated: both tools have
    to find out from the reference what a score means.
    """
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {}
    for name, case in {"reference": (0.0, 1.0, 1.0), **CASES}.items():
        count = REFERENCE if name == "reference" else ROWS * CHUNKS
        score, truth = _rows(rng, count, *case)
        found[f"{name}/score"], found[f"{name}/truth"] = score, truth
    np.savez(path, **found)


def _rows(
    rng: np.random.Generator, count: int, shift: float, spread: float, worth: float
) -> tuple[Any, Any]:
    x = rng.normal(shift, spread, count)
    truth = rng.random(count) < 1 / (1 + np.exp(4.9 - 1.5 * worth * x))
    return 1 / (1 + np.exp(3.2 - 1.1 * x)), truth
