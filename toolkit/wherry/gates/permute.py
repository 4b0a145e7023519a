"""A permutation test over devices: canary against control, nothing assumed of distributions.

Under "the model makes no difference" the devices' differences could have come to any of them,
since a hash chose the canary. So the chance of a difference of means at least as large is the
share of all choices of as many devices that have one. Few choices are all counted; of many,
random ones, until that chance is known well enough (Besag and Clifford, Biometrika 78, 1991,
301-304), which is a valid test at every length.
"""

from __future__ import annotations

import itertools
import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

MOST_DRAWS: Final = 20_000
_LEAST_DRAWS: Final = 1_000
_ENOUGH: Final = 50  # choices at least as extreme; more of them say nothing new
_EXACT: Final = 5_000
_BLOCK: Final = 250
_ROUNDING: Final = 1e-9


def upper_tail(
    canary: NDArray[np.float64], control: NDArray[np.float64], seed: int, level: float = 0.0
) -> float:
    """The chance of a mean of the canary above that of the control by so much, or more.

    Args:
        canary: one number for each device, shape (m,), m > 0.
        control: likewise, shape (n,), n > 0.
        seed: the same gives the same answer.
        level: what the chance will be held against: five times as many choices are drawn as
            it takes to be below it, at least 1,000 and at most 20,000; 0 for the most.

    Returns:
        Above 0; at the least 1 / (draws + 1).
    """
    values = np.concatenate([canary, control])
    m = len(canary)
    # the whole sum is the same for every choice: a larger sum is a larger difference
    bar = float(canary.sum()) - _ROUNDING * (1.0 + float(np.abs(values).sum()))
    if math.comb(len(values), m) <= _EXACT:
        sums = [values[list(some)].sum() for some in itertools.combinations(range(len(values)), m)]
        return float(np.mean(np.asarray(sums) >= bar))
    chance = np.random.default_rng(seed)
    seen = drawn = 0
    most = min(MOST_DRAWS, max(_LEAST_DRAWS, math.ceil(5 / level))) if level else MOST_DRAWS
    while drawn < most:
        keys = chance.random((_BLOCK, len(values)), dtype=np.float32)
        some = np.argpartition(keys, m, axis=1)[:, :m]
        seen += int(np.count_nonzero(values[some].sum(axis=1) >= bar))
        drawn += _BLOCK
        if seen >= _ENOUGH:
            return seen / drawn
    return (seen + 1) / (drawn + 1)


def least_chance(canary: int, control: int) -> float:
    """The smallest chance that so many devices can show at all."""
    choices = math.comb(canary + control, canary)
    return 1 / choices if choices <= _EXACT else 1 / (MOST_DRAWS + 1)
