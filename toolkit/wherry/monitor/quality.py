"""What is said of how well a model does, and until when. Plain values, as `FleetView` holds them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

from wherry.documents import Moment


@dataclass(frozen=True)
class Figure:
    """A value with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Quality:
    """How well the model does.

    Attributes:
        recall_decile: of all positives, the share among the highest tenth of the scores.
        precision_decile: of that tenth, the share that is positive.
        recall: of all positives, the share that is flagged.
        precision: of what is flagged, the share that is positive; nothing if none is.
    """

    recall_decile: Figure
    precision_decile: Figure | None
    recall: Figure
    precision: Figure | None


class Verdict(StrEnum):
    """What is known of a model's performance over a span."""

    CONCEPT = "concept drift"  # labels speak against the estimate, in two of three spans
    WATCH = "watch"  # once
    CONFIRMED = "as estimated"
    ESTIMATED = "estimate only"
    WAITING = "not enough data"
    UNKNOWN = "no calibration"


@dataclass(frozen=True)
class Performance:
    """One model over one span.

    Attributes:
        bundle: the model.
        opened: start of the span, by the time of the payments.
        closed: its end.
        rows: that the model scored.
        expected: positives among them, by the calibration.
        verdict: what is known.
        rule: why, in words, with what it assumes.
        estimated: from the scores alone; nothing if that cannot be.
        labels: rows of the days since `since` whose label is known.
        positives: of them.
        since: start of the first day whose labels are looked at; 0 without enough labels.
        covered: the share of rows in score bins from which any label came.
        realised: from labels; where none came, from the calibration.
        ratio: positives found for each that was to be expected.
        p: chance of such labels if a score meant what it meant; nothing without labels.
    """

    bundle: str
    opened: Moment
    closed: Moment
    rows: int
    expected: float
    verdict: Verdict
    rule: str
    estimated: Quality | None = None
    labels: int = 0
    positives: int = 0
    since: Moment = 0.0
    covered: float = 0.0
    realised: Quality | None = None
    ratio: Figure | None = None
    p: float | None = None


class Outlook(StrEnum):
    """What can be said of when a drift will have become too large."""

    PAST = "past the limit"
    DUE = "due"
    OPEN = "not determined"


@dataclass(frozen=True)
class Forecast:
    """When a PSI will have grown to the limit at which to act, if it goes on like this.

    Attributes:
        subject: the feature, or "score".
        bundle: the model, where it is about its scores; else "".
        outlook: whether there is a date.
        limit: of the PSI.
        value: bias-corrected PSI of the latest whole week.
        weeks: how many whole weeks it is from.
        rule: why, in words.
        earliest: of the 95 % interval; 0 without a date.
        date: when it is most likely to be reached; where it has been, the week in which it was.
        latest: of the interval.
        since: when the drift began, by the fit.
    """

    subject: str
    bundle: str
    outlook: Outlook
    limit: float
    value: float
    weeks: int
    rule: str
    earliest: Moment = 0.0
    date: Moment = 0.0
    latest: Moment = 0.0
    since: Moment = 0.0

    def named(self, subject: str, bundle: str) -> Forecast:
        """The same of a subject."""
        return replace(self, subject=subject, bundle=bundle)
