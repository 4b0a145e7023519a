"""`[output]` of a project file: what is decided, and how. Reference: docs/project.md."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.histograms import SCORE_BINS
from wherry_contract.manifest import MAX_CLASSES
from wherry_contract.profile import value_edges
from wherry_contract.wire import Fields
from wherry_convert.sources.outputs import DECISIONS, ONE_PROBABILITY, Wanted

NAMES: Final = (
    "decision", "threshold", "flag_share", "positive", "positive_class", "classes", "least",
    "low", "high",
)  # fmt: skip
_EVERY: Final = ("positive", "classes")
# what each decision may be told beside its name
_KNOWN: Final = {
    "threshold": ("threshold", "flag_share", "positive_class", *_EVERY),
    "class": ("least", "classes"),
    "value": ("threshold", "flag_share", "low", "high", "positive"),
}

_OF_VALUES: Final = ', or any number beside decision = "value", if the model is a regressor'


@dataclass(frozen=True)
class Threshold:
    """What is decided by: a threshold, given or from a share of the reference; or a class.

    Attributes:
        score: the threshold; of classes the least probability of a decision. None if it
            comes from `flag_share`.
        flag_share: of the reference, that is flagged.
        positive: what a flag means.
        wanted: what of the model's output is looked at.
        span: between what a value's histogram lies; None for bins by the reference.
    """

    score: float | None
    flag_share: float | None
    positive: str
    wanted: Wanted = ONE_PROBABILITY
    span: tuple[float, float] | None = None

    def edges(self, scores: NDArray[np.float64]) -> tuple[float, ...]:
        """Edges of the histogram of values; none for probabilities.

        Args:
            scores: float64, shape (rows,), of the bundle on reference rows.
        """
        if self.wanted.decision != "value":
            return ()
        if self.span is None:
            return value_edges(scores)
        return tuple(np.linspace(*self.span, SCORE_BINS + 1)[1:-1].tolist())

    def tolerance(self, tolerance: float, scores: NDArray[np.float64]) -> float:
        """How far a board's score may be from ours: of values, in units of the largest.

        Args:
            tolerance: what the project says.
            scores: float64, shape (rows,), of the bundle on reference rows.
        """
        if self.wanted.decision != "value":
            return tolerance
        return tolerance * max(1.0, float(np.abs(scores).max(initial=0.0)))


def read_output(fields: Fields) -> Threshold:
    """Read `[output]`.

    Raises:
        SetupError: H01.
    """
    decision = fields.choice("decision", DECISIONS, DECISIONS[0])
    for name in NAMES[1:]:
        if name in fields.rest() and name not in _KNOWN[decision]:
            raise fields.error(name, f'absent with decision = "{decision}"')
    if decision == "class":
        return _of_classes(fields)
    score, share = fields.optional_number("threshold"), fields.optional_number("flag_share")
    if (score is None) == (share is None):
        raise fields.error("threshold", "there, or flag_share instead, and not both")
    bounded = {"flag_share": share} | ({} if decision == "value" else {"threshold": score})
    for name, value in bounded.items():
        if value is not None and not 0 < value < 1:
            also = "" if name != "threshold" or decision == "value" else _OF_VALUES
            raise fields.error(name, f"between 0 and 1{also}")
    if decision == "value":
        positive = fields.text("positive", "positive", limit=64)
        return Threshold(score, share, positive, Wanted("value"), _span(fields))
    name = fields.text("positive_class", "", limit=64)
    positive = fields.text("positive", name or "positive", limit=64)
    return Threshold(score, share, positive, Wanted("threshold", name, _classes(fields)))


def _of_classes(fields: Fields) -> Threshold:
    least = fields.number("least", 0.0)
    if not 0 <= least < 1:
        raise fields.error("least", "from 0 to 1")
    return Threshold(least, None, "decided", Wanted("class", "", _classes(fields)))


def _classes(fields: Fields) -> tuple[str, ...]:
    names = fields.texts("classes", [], limit=MAX_CLASSES)
    if len(set(names)) != len(names) or not all(0 < len(name) <= 64 for name in names):
        raise fields.error("classes", "different names of at most 64 characters")
    return names


def _span(fields: Fields) -> tuple[float, float] | None:
    low, high = fields.optional_number("low"), fields.optional_number("high")
    if low is None and high is None:
        return None
    if low is None or high is None or not low < high:
        raise fields.error("low", "there with high, and below it")
    return low, high
