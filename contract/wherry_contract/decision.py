"""From scores to decisions, one rule for source, bundle and board. Specification: SPEC-bundle.md.

A score is one number for each row, float64 (rows,), or one for each class, float64
(rows, classes). Of one number the decision is whether it reaches the threshold. Of classes it
is the likeliest one, or none if its probability is below the threshold.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

# Classes that are closer are tied, and the first of them is decided: forests have many ties,
# and the last bit of a float32 sum must not be what breaks them
TIE: Final = 1e-6
UNDECIDED: Final = -1

Scores = NDArray[np.float64]


def decide(scores: Scores, threshold: float) -> NDArray[np.int64]:
    """The decision on each row.

    Args:
        scores: float64, shape (rows,) or (rows, classes).
        threshold: the operating threshold; of classes the least probability of a decision.

    Returns:
        int64, shape (rows,): 1 for a score at or above the threshold, 0 for one below; of
        classes the place of the decided one, or `UNDECIDED`.
    """
    if scores.ndim == 1:
        return np.asarray(scores >= threshold, np.int64)
    highest = winning(scores)
    first = (scores >= highest[:, np.newaxis] - TIE).argmax(axis=1)
    return np.where(highest >= threshold, first, UNDECIDED).astype(np.int64)


def winning(scores: Scores) -> Scores:
    """The one number that a histogram counts: the score, or of classes the highest.

    Args:
        scores: float64, shape (rows,) or (rows, classes).
    """
    return scores if scores.ndim == 1 else np.asarray(scores.max(axis=1))


def class_counts(decisions: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """How often each class was decided, and behind them how often none was.

    Args:
        decisions: int64, shape (rows,), from `decide`.
        classes: how many there are.
    """
    # `bincount` takes indices of the machine's own width alone, which is 32 bits on some boards
    places = np.where(decisions < 0, classes, decisions).astype(np.intp)
    return np.bincount(places, minlength=classes + 1)
