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
_MORE_DRAWS: Final = 400_000
_LEAST_DRAWS: Final = 1_000
_ENOUGH: Final = 50  # choices at least as extreme; more of them say nothing new
_EXACT: Final = 5_000
_BLOCK: Final = 250
_ROUNDING: Final = 1e-9
Weighed = NDArray[np.float64]
"""A number and its weight for each device, shape (devices, 2)."""


def difference(canary: Weighed, control: Weighed) -> float:
    """The weighed mean of the canary less that of the control."""
    means = [float(some[:, 0] @ some[:, 1] / some[:, 1].sum()) for some in (canary, control)]
    return means[0] - means[1]


def upper_tail(canary: Weighed, control: Weighed, seed: int, level: float = 0.0) -> float:
    """The chance of a mean of the canary above that of the control by so much, or more.

    Args:
        canary: a number and its weight for each device, shape (m, 2), m > 0. A weight goes
            with its device wherever chance puts it, so the test stays exact.
        control: likewise, shape (n, 2), n > 0.
        seed: the same gives the same answer.
        level: what the chance will be held against: five times as many choices are drawn as
            it takes to be below it, at least 1,000 and at most 20,000; more, up to 400,000,
            where fewer could never be below it; 0 for 20,000.

    Returns:
        Above 0; at the least 1 / (draws + 1).
    """
    both = np.concatenate([canary, control])
    weights = both[:, 1]
    pulls = both[:, 0] * weights
    m, whole, pull = len(canary), float(weights.sum()), float(pulls.sum())
    bar = difference(canary, control) - _ROUNDING * (1.0 + float(np.abs(both[:, 0]).max()))

    def seen_in(some: NDArray[np.intp]) -> int:
        w, p = weights[some].sum(axis=1), pulls[some].sum(axis=1)
        return int(np.count_nonzero(p / w - (pull - p) / (whole - w) >= bar))

    if math.comb(len(both), m) <= _EXACT:
        choices = np.array(list(itertools.combinations(range(len(both)), m)))
        return seen_in(choices) / len(choices)
    chance = np.random.default_rng(seed)
    seen = drawn = 0
    most = _most_draws(level)
    while drawn < most:
        keys = chance.random((_BLOCK, len(both)), dtype=np.float32)
        seen += seen_in(np.argpartition(keys, m, axis=1)[:, :m])
        drawn += _BLOCK
        if seen >= _ENOUGH:
            return seen / drawn
    return (seen + 1) / (drawn + 1)


def _most_draws(level: float) -> int:
    """How many choices are drawn at the most; enough to get below the level, if any number is."""
    needed = 2 / level if level else math.inf
    if needed > _MORE_DRAWS:
        return MOST_DRAWS
    return max(_LEAST_DRAWS, min(MOST_DRAWS, math.ceil(5 / level)), math.ceil(needed))


def least_chance(canary: int, control: int, level: float = 0.0) -> float:
    """The smallest chance that so many devices can show at all, held against a level."""
    choices = math.comb(canary + control, canary)
    return 1 / choices if choices <= _EXACT else 1 / (_most_draws(level) + 1)
