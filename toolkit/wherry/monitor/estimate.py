"""How well the model does, estimated from scores alone: what its calibration lets expect. Pure.

Method: confidence-based performance estimation (NannyML's CBPE) on counts. Of the rows of a score
bin a certain share was positive among labelled rows that the model was not trained on; if that
share is unchanged, sums over the bins say how many positives there are and how many of them lie
among the highest tenth, or were flagged. The interval takes in that the shares are estimates
themselves (a bootstrap of the labelled rows) and that labels are drawn by chance.

It is blind to concept drift: if the same score comes to mean another chance, nothing here can know.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

from wherry_contract.calibration import Calibration
from wherry_contract.histograms import SCORE_BINS, score_bins

from .quality import Figure, Quality
from .rowmath import Floats

DECILE: Final = 0.1  # the highest tenth of all rows: what people can look at
LEAST_POSITIVES: Final = 50  # expected in a span, and there in the calibration
DRAWS: Final = 200
_SEED: Final = 20_180_401  # fixed: judging again gives the same interval
_STEEPEST: Final = 0.25  # a bin is a quarter wide in log-odds, so shares rise by no more a bin
_TAILS: Final = (2.5, 97.5)


@dataclass(frozen=True, eq=False)
class Belief:
    """What share of each score bin is positive, as far as is known.

    Attributes:
        shares: shape (64,).
        draws: shape (draws, 64): the same from labelled rows that might as well have been.
        positives: how many positive rows are behind it.
    """

    shares: Floats
    draws: Floats
    positives: int

    @classmethod
    def of(cls, calibration: Calibration) -> Belief:
        """From labelled rows by score bin."""
        rows = np.array(calibration.rows, np.float64)
        positives = np.array(calibration.positives, np.float64)
        shares = isotonic(positives, rows)
        rng = np.random.default_rng(_SEED)
        drawn = rng.binomial(np.array(calibration.rows), shares, (DRAWS, SCORE_BINS))
        draws = np.array([isotonic(row.astype(np.float64), rows) for row in drawn])
        return cls(shares, draws, int(positives.sum()))

    def expected(self, scores: Floats) -> float:
        """How many of these rows are positive."""
        return float(scores @ self.shares)

    def quality(self, scores: Floats, flagged: Floats) -> Quality:
        """What is to be expected of rows whose labels nobody knows.

        Args:
            scores: rows by score bin, shape (64,); some positive must be expected.
            flagged: of them, those at or above the threshold.
        """
        rng = np.random.default_rng(_SEED)
        rows = np.rint(scores).astype(np.int64)
        draws = rng.binomial(rows, self.draws).astype(np.float64)
        return quality(scores * self.shares, draws, scores, flagged)


def isotonic(positives: Floats, rows: Floats) -> Floats:
    """Shares that never fall from bin to bin, near to what was counted.

    Neighbours that are out of order are pooled (Ayer and others 1955); between the middles of
    the pools shares lie on a line, for a pool as wide as three bins is no step in truth. All
    together are as many positives as were counted.

    Args:
        positives: shape (bins,).
        rows: shape (bins,); some must hold any.
    """
    blocks: list[list[float]] = []  # positives, rows, rows times bin
    for place in np.flatnonzero(rows).tolist():
        blocks.append([positives[place], rows[place], rows[place] * place])
        while len(blocks) > 1 and blocks[-2][0] * blocks[-1][1] >= blocks[-1][0] * blocks[-2][1]:
            last = blocks.pop()
            blocks[-1] = [a + b for a, b in zip(blocks[-1], last, strict=True)]
    middles, shares = zip(*((sums / n, a / n) for a, n, sums in blocks), strict=True)
    found = np.interp(np.arange(len(rows)), middles, shares)
    found *= positives.sum() / max(1e-12, float(found @ rows))
    return np.asarray(np.minimum(1.0, found), np.float64)


def highest(scores: Floats, share: float = DECILE) -> Floats:
    """Of each bin, which part lies among the highest `share` of all rows; shape as `scores`."""
    wanted = share * scores.sum()
    above = np.cumsum(scores[::-1])[::-1] - scores
    part = (wanted - above) / np.maximum(scores, 1e-12)
    return np.asarray(np.clip(part, 0.0, 1.0), np.float64)


def quality(positives: Floats, draws: Floats, scores: Floats, flagged: Floats) -> Quality:
    """Recall and precision from positives by score bin.

    A bin of which only the upper part is meant has more positives there than below: their share
    is taken to rise within it as it does between its neighbours.

    Args:
        positives: shape (64,).
        draws: shape (draws, 64): how they might have fallen out; the interval is theirs.
        scores: rows by score bin.
        flagged: of them, those that were flagged.
    """
    caught = np.divide(flagged, scores, out=np.zeros_like(flagged), where=scores > 0)
    rates = np.divide(positives, scores, out=np.zeros_like(positives), where=scores > 0)
    rise = np.gradient(rates) / np.maximum(rates, 1e-12)
    slope = np.where(rates > 0, np.clip(rise, 0.0, _STEEPEST), 0.0)
    whole, wholes = float(positives.sum()), draws.sum(axis=1)
    recalls, precise = list[Figure](), list[Figure | None]()
    for part in (highest(scores), caught):
        fine = part * (1 + slope * (1 - part) / 2)
        hits, drawn, rows = float(positives @ fine), draws @ fine, float(scores @ part)
        recalls.append(_figure(hits / whole, drawn / np.maximum(1e-12, wholes)))
        precise.append(_figure(hits / rows, drawn / rows) if rows else None)
    return Quality(recalls[0], precise[0], recalls[1], precise[1])


def _figure(value: float, draws: Floats) -> Figure:
    low, high = np.percentile(np.minimum(1.0, draws), _TAILS)
    return Figure(min(1.0, value), min(value, float(low)), max(min(1.0, value), float(high)))


def flagged_bins(scores: Floats, flagged: float, threshold: float) -> Floats:
    """How many rows of each bin were flagged, from how many were in all.

    Bins above the threshold's are flagged whole; of the threshold's own the rest was.

    Args:
        scores: rows by score bin, shape (64,).
        flagged: rows at or above the threshold.
        threshold: a probability.
    """
    place = int(score_bins(threshold))
    found = np.where(np.arange(SCORE_BINS) > place, scores, 0.0)
    found[place] = min(max(flagged - found.sum(), 0.0), scores[place])
    return found
