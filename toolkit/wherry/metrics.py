"""Business metrics of a fraud model, from labels and scores, in numpy alone.

AUC: Fawcett, "An introduction to ROC analysis", Pattern Recognition Letters 27 (2006).
Average precision: the step-wise sum that scikit-learn documents, without interpolation
(Davis and Goadrich, ICML 2006, on why not to interpolate).
Card precision@k: Le Borgne, Siblini, Lebichot, Bontempi, Fraud Detection Handbook (2022),
chapter 4, section "Precision top-k metrics".
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

Scores = NDArray[np.float64]
Labels = NDArray[np.bool_]
Codes = NDArray[np.int64]

SHARE: Final = 0.1  # of rows: the first decile
CARDS: Final = 100  # that investigators can look at in a day


@dataclass(frozen=True)
class Metrics:
    """What a model is worth on some rows.

    Attributes:
        auc: chance that a random positive row scores above a random negative one.
        average_precision: precision, averaged over the positive rows.
        recall_first_decile: share of positive rows among the tenth with the highest scores.
        card_precision_100: share of the 100 most suspicious cards of a day that are
            defrauded, mean over days; None without cards and days.
        flagged: share of rows at or above the operating threshold.
        precision: share of flagged rows that are positive; 0 if none is flagged.
        recall: share of positive rows that are flagged.
    """

    auc: float
    average_precision: float
    recall_first_decile: float
    card_precision_100: float | None
    flagged: float
    precision: float
    recall: float

    def ranked(self) -> dict[str, float]:
        """The ones that judge the order of scores, by name."""
        found = {
            "auc": self.auc,
            "average_precision": self.average_precision,
            "recall_first_decile": self.recall_first_decile,
        }
        if self.card_precision_100 is not None:
            found["card_precision_100"] = self.card_precision_100
        return found

    def to_dict(self) -> dict[str, float]:
        """All of them, by name; one that was not measured is left out."""
        points = {"flagged": self.flagged, "precision": self.precision, "recall": self.recall}
        return self.ranked() | points


def measure(
    labels: Labels, scores: Scores, threshold: float, *, cards: Codes | None, days: Codes | None
) -> Metrics:
    """Every metric.

    Args:
        labels: bool, shape (rows,), with both classes.
        scores: float64, shape (rows,).
        threshold: a score at or above it is flagged.
        cards: int64, shape (rows,), or None.
        days: int64, shape (rows,), or None.
    """
    by_card = None if cards is None or days is None else (cards, days)
    flags = scores >= threshold
    hits = int((flags & labels).sum())
    return Metrics(
        auc=auc(labels, scores),
        average_precision=average_precision(labels, scores),
        recall_first_decile=recall_at(labels, scores),
        card_precision_100=card_precision_at(labels, scores, *by_card) if by_card else None,
        flagged=float(flags.mean()),
        precision=hits / max(1, int(flags.sum())),
        recall=hits / int(labels.sum()),
    )


def auc(labels: Labels, scores: Scores) -> float:
    """Area under the ROC curve; a tie counts one half.

    Args:
        labels: bool, shape (rows,), with both classes.
        scores: float64, shape (rows,).
    """
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    # the mean rank of a run of equal scores, counted from 1
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[place]
    positive = int(labels.sum())
    negative = len(labels) - positive
    return float((ranks[labels].sum() - positive * (positive + 1) / 2) / (positive * negative))


def average_precision(labels: Labels, scores: Scores) -> float:
    """Sum of precision times the step in recall, over the distinct scores, from the top.

    Args:
        labels: bool, shape (rows,), with at least one positive row.
        scores: float64, shape (rows,).
    """
    hits, rows = _from_the_top(labels, scores)
    steps = np.diff(hits, prepend=0) / hits[-1]
    return float((steps * hits / rows).sum())


def _from_the_top(labels: Labels, scores: Scores) -> tuple[Codes, Codes]:
    """Positive rows and rows at or above each distinct score, highest first."""
    order = np.argsort(-scores, kind="stable")
    ordered = scores[order]
    ends = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    return np.cumsum(labels[order], dtype=np.int64)[ends], (ends + 1).astype(np.int64)


def recall_at(labels: Labels, scores: Scores, share: float = SHARE) -> float:
    """Share of the positive rows among the `share` of rows with the highest scores.

    Where a tie crosses the border, its positive rows count in proportion: the mean over
    all orders of the tied rows.

    Args:
        labels: bool, shape (rows,), with at least one positive row.
        scores: float64, shape (rows,).
        share: 0 to 1.
    """
    hits, rows = _from_the_top(labels, scores)
    found = np.interp(share * len(labels), np.insert(rows, 0, 0), np.insert(hits, 0, 0))
    return float(found / hits[-1])


def card_precision_at(
    labels: Labels, scores: Scores, cards: Codes, days: Codes, k: int = CARDS
) -> float:
    """Card precision@k, as the Fraud Detection Handbook defines it.

    For each day, a card's score is its highest and it is defrauded if any of its rows is.
    The k cards with the highest scores are looked at, and the day's figure is the share of
    k that is defrauded; a defrauded card that was looked at is blocked and does not count
    on later days. The result is the mean over the days. Ties go to the lower card number
    (the book leaves them to its sort).

    Args:
        labels: bool, shape (rows,).
        scores: float64, shape (rows,).
        cards: int64, shape (rows,).
        days: int64, shape (rows,).
        k: how many cards are looked at.
    """
    blocked = np.empty(0, np.int64)
    found: list[float] = []
    for day in np.unique(days):
        here = (days == day) & ~np.isin(cards, blocked)
        detected = _detected(labels[here], scores[here], cards[here], k)
        found.append(len(detected) / k)
        blocked = np.append(blocked, detected)
    return _mean(found)


def _detected(labels: Labels, scores: Scores, cards: Codes, k: int) -> Codes:
    """The defrauded cards among the k most suspicious ones of a day."""
    names, place = np.unique(cards, return_inverse=True)
    highest = np.full(len(names), -np.inf)
    np.maximum.at(highest, place, scores)
    defrauded = np.zeros(len(names), np.bool_)
    np.logical_or.at(defrauded, place, labels)
    looked_at = np.argsort(-highest, kind="stable")[:k]
    return names[looked_at[defrauded[looked_at]]]


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)
