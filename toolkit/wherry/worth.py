"""What a model of several classes, or a regressor, is worth on some rows, in numpy alone.

Macro recall is the mean of the classes' recalls (balanced accuracy: Brodersen et al., "The
balanced accuracy and its posterior distribution", ICPR 2010). R2 is the share of the labels'
variance that the values explain.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wherry_contract.decision import decide


class Worth(Protocol):
    """Metrics of a model, of whatever kind."""

    def ranked(self) -> Mapping[str, float]:
        """The ones that a budget holds, without a unit; more is better."""
        ...

    def to_dict(self) -> Mapping[str, float]:
        """All of them, by name."""
        ...


@dataclass(frozen=True)
class ClassWorth:
    """Of a decision between classes.

    Attributes:
        accuracy: share of rows whose class is decided.
        macro_recall: mean over the classes of the labels of the share of their rows.
        decided: share of rows on which any class is.
    """

    accuracy: float
    macro_recall: float
    decided: float

    def ranked(self) -> dict[str, float]:
        """Accuracy and macro recall."""
        return {"accuracy": self.accuracy, "macro_recall": self.macro_recall}

    def to_dict(self) -> dict[str, float]:
        """All of them, by name."""
        return self.ranked() | {"decided": self.decided}


@dataclass(frozen=True)
class ValueWorth:
    """Of a regressor.

    Attributes:
        mae: mean absolute error, in the label's unit.
        rmse: root of the mean squared error, likewise.
        r2: share of the labels' variance that is explained.
        mae_saved: how much smaller `mae` is than that of the labels' median, as a share.
    """

    mae: float
    rmse: float
    r2: float
    mae_saved: float

    def ranked(self) -> dict[str, float]:
        """Those without a unit."""
        return {"r2": self.r2, "mae_saved": self.mae_saved}

    def to_dict(self) -> dict[str, float]:
        """All of them, by name."""
        return self.ranked() | {"mae": self.mae, "rmse": self.rmse}


def measure_classes(
    labels: NDArray[Any], scores: NDArray[np.float64], threshold: float, classes: Sequence[str]
) -> ClassWorth:
    """How often the decided class is the right one.

    Args:
        labels: strings, shape (rows,).
        scores: float64, shape (rows, classes).
        threshold: the least probability of a decision.
        classes: names of the columns.
    """
    names = np.array([*classes, None], object)  # the last is that of no decision
    decisions = decide(scores, threshold)
    right = names[decisions] == labels
    recalls = [float(right[labels == name].mean()) for name in np.unique(labels)]
    return ClassWorth(
        float(right.mean()), sum(recalls) / len(recalls), float((decisions >= 0).mean())
    )


def measure_values(labels: NDArray[np.float64], scores: NDArray[np.float64]) -> ValueWorth:
    """How far values are from the labels.

    Args:
        labels: float64, shape (rows,), not all the same.
        scores: float64, shape (rows,).
    """
    gaps = scores - labels
    spread = float(np.abs(labels - np.median(labels)).mean())
    mae, mse = float(np.abs(gaps).mean()), float((gaps**2).mean())
    return ValueWorth(mae, mse**0.5, 1 - mse / float(labels.var()), 1 - mae / spread)
