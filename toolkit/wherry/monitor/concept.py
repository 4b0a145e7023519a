"""Delayed labels against what scores let expect: has the meaning of a score changed? Pure.

Labels come as counts by score bin and sampling weight, so they add up like windows. Whether they
fit is a chi-square test on groups of neighbouring score bins: positives found less positives
expected *in the very same bins*, so that a change of inputs alone moves nothing. Its variance is
that of the labels and that of the calibration, which is an estimate too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from wherry_contract.histograms import SCORE_BINS
from wherry_contract.stats import chi2_sf

from .estimate import DRAWS, Belief, quality
from .quality import Figure, Quality
from .rowmath import Floats, Row

_GROUPS: Final = 8
_LEAST: Final = 10.0  # expected positives of a group, for the chi-square to hold
_SEED: Final = 20_180_408
_PRIOR: Final = 2.0  # rows of the calibration that a labelled bin begins with
_Z95: Final = 1.959964


def _zeros() -> Floats:
    return np.zeros(SCORE_BINS)


@dataclass(frozen=True, eq=False)
class Labels:
    """Labelled rows by score bin.

    Labels that were asked for by chance, one row in five say, carry the weight 5. Such rows are
    worth fewer: the counts here are (sum of weights)^2 / (sum of squared weights) rows (Kish).

    Attributes:
        weight: sums of weights, shape (64,).
        squares: of squared weights.
        hits_weight: of weights of positive rows.
        counted: how many rows there were.
        hits: how many positive ones.
    """

    weight: Floats = field(default_factory=_zeros)
    squares: Floats = field(default_factory=_zeros)
    hits_weight: Floats = field(default_factory=_zeros)
    counted: int = 0
    hits: int = 0

    @classmethod
    def of(cls, negatives: Row, positives: Row, weight: float = 1.0) -> Labels:
        """Counts of one weight: int64, shape (64,) each."""
        rows = (negatives + positives).astype(np.float64)
        hits = weight * positives.astype(np.float64)
        counted = int(negatives.sum() + positives.sum())
        return cls(weight * rows, weight**2 * rows, hits, counted, int(positives.sum()))

    def __add__(self, other: Labels) -> Labels:
        """All rows of both."""
        return Labels(
            self.weight + other.weight,
            self.squares + other.squares,
            self.hits_weight + other.hits_weight,
            self.counted + other.counted,
            self.hits + other.hits,
        )

    @property
    def rows(self) -> Floats:
        """How many rows they are worth, by score bin."""
        return self.weight**2 / np.maximum(self.squares, 1e-12)

    @property
    def positives(self) -> Floats:
        """Of them, the positive ones."""
        return self.rows * self.hits_weight / np.maximum(self.weight, 1e-12)


@dataclass(frozen=True)
class Test:
    """Whether labels fit.

    Attributes:
        p: chance of labels so far from what was to be expected, in level or by score.
        ratio: positives found for each that was to be expected.
    """

    p: float
    ratio: Figure


def against(belief: Belief, labels: Labels) -> Test:
    """Hold labels against what their scores let expect.

    Args:
        belief: from the calibration.
        labels: of rows of which some must be expected to be positive.
    """
    rows, shares = labels.rows, belief.shares
    group = _groups(rows * shares)
    one = (group[:, None] == np.arange(group.max() + 1)).astype(np.float64)
    apart = (labels.positives - rows * shares) @ one
    chance = np.diag((rows * shares * (1 - shares)) @ one)
    spread = np.atleast_2d(np.cov((belief.draws * rows) @ one, rowvar=False))
    whole = chance + spread
    shape = chi2_sf(float(apart @ np.linalg.solve(whole, apart)), len(apart))
    expected, error = float(rows @ shares), math.sqrt(float(whole.sum()))
    level = chi2_sf((float(apart.sum()) / error) ** 2, 1)
    found = float(labels.positives.sum())
    # the interval is that of the found ones, so its chance error is theirs
    error = math.sqrt(max(found, 1.0) + (found / expected) ** 2 * float(spread.sum()))
    low, high = (max(0.0, found + z * error) / expected for z in (-_Z95, _Z95))
    return Test(min(1.0, 2 * min(shape, level)), Figure(found / expected, low, high))


def _groups(expected: Floats) -> Row:
    """Groups of neighbouring bins of about as many expected positives; shape (64,)."""
    least = max(_LEAST, float(expected.sum()) / _GROUPS)
    found, number, filled = np.zeros(len(expected), np.int64), 0, 0.0
    for place, here in enumerate(expected.tolist()):
        found[place] = number
        filled += here
        if filled >= least:
            number, filled = number + 1, 0.0
    return np.minimum(found, max(0, number - 1))  # what is left over joins the last


def realised(belief: Belief, labels: Labels, scores: Floats, flagged: Floats) -> Quality:
    """Recall and precision as labels show them.

    Rows of a bin without a label are taken to be positive as often as the bin's labelled ones;
    in a bin without any label, as often as in the calibration. The interval is that of such
    payments coming again.

    Args:
        belief: from the calibration.
        labels: of some or all of these rows.
        scores: rows by score bin, shape (64,).
        flagged: of them, those that were flagged.
    """
    known = np.minimum(labels.rows, scores)
    part = known / np.maximum(labels.rows, 1e-12)
    hits = labels.positives * part
    shares = (hits + _PRIOR * belief.shares) / (known + _PRIOR)
    rest = scores - known
    rng = np.random.default_rng(_SEED)
    drawn = rng.binomial(np.rint(known).astype(np.int64), shares, (DRAWS, SCORE_BINS))
    again = np.clip((drawn + _PRIOR * belief.draws) / (known + _PRIOR), 0.0, 1.0)
    draws = drawn + rng.binomial(np.rint(rest).astype(np.int64), again)
    return quality(hits + rest * shares, draws.astype(np.float64), scores, flagged)
