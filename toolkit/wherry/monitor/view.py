"""What the monitor says: cells, each with the figures and the rule that it was decided by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

from wherry.documents import Moment
from wherry_contract.errors import RolloutError
from wherry_contract.histograms import latency_quantile

from .quality import Forecast, Performance

DAY: Final = 86_400.0
WEEK: Final = 7 * DAY
MONDAY: Final = 4 * DAY  # the Unix epoch was a Thursday


class Kind(StrEnum):
    """What about a feature, or about the model's answers, is compared."""

    SHAPE = "shape"  # how the values are spread over the bins
    MISSING = "missing"  # the share of gaps
    RANGE = "range"  # the share below the contract's minimum or above its maximum
    UNSEEN = "unseen"  # the share of categories that the contract does not list
    PAIR = "pair"  # how two features go together
    SCORE = "score"  # how the model's scores are spread
    FLAGGED = "flagged"  # the share that the model flags
    CLASSES = "classes"  # how often the model decides each class


class Decision(StrEnum):
    """What follows from a comparison."""

    ACT = "act"  # moved, by much, in two of three
    WARN = "warn"  # moved, by more than a little, in two of three
    WATCH = "watch"  # seen once
    STABLE = "stable"
    CALENDAR = "calendar"  # the week moves it, and this is not a whole one
    NO_BASELINE = "no baseline yet"
    WAITING = "not enough data"


ALERTS: Final = (Decision.ACT, Decision.WARN)
JUDGED: Final = (*ALERTS, Decision.WATCH, Decision.STABLE)


@dataclass(frozen=True)
class Policy:
    """What is judged how. The defaults are those of docs/drift.md.

    Attributes:
        bucket_seconds: length of a time bucket, by the time of the payments, UTC; it divides
            a week, or is a multiple of one.
        fdr: the share of false ones among the cells that are called changed.
        warn: a PSI that is certainly above this is material.
        act: a PSI that is certainly above this calls for action.
        warn_share: likewise for a share that moves, as 0.01 for one point of a hundred.
        act_share: likewise.
        certainty: the chance of error that "certainly" leaves.
        times: how often a cell must be raised to be an alert ...
        of: ... among so many judged one after the other.
        prior_rows: rows of the other devices' counts that a device's baseline begins with.
        baseline_spans: how many quiet spans a device's baseline remembers; the oldest half
            goes at once.
        fewest: smaller cells are not shown, so that no single payment can be made out.
        same_hours: what the week moves is compared, at single devices, with the same hours of
            earlier weeks, not by whole weeks: sooner, but only true where windows end with
            the buckets.
    """

    bucket_seconds: float = DAY
    fdr: float = 0.05
    warn: float = 0.05
    act: float = 0.10
    warn_share: float = 0.01
    act_share: float = 0.05
    certainty: float = 0.01
    times: int = 2
    of: int = 3
    prior_rows: int = 50
    baseline_spans: int = 28
    fewest: int = 5
    same_hours: bool = False

    def check(self) -> None:
        """Refuse buckets that do not fit into weeks.

        Raises:
            RolloutError: R06.
        """
        longer, shorter = max(WEEK, self.bucket_seconds), min(WEEK, self.bucket_seconds)
        if shorter < 60 or longer % shorter:
            raise RolloutError("R06", "a bucket divides a week, or is a multiple of one")

    def bucket(self, moment: float) -> float:
        """The start of the bucket that a moment lies in; weeks begin on Monday."""
        return (moment - MONDAY) // self.bucket_seconds * self.bucket_seconds + MONDAY


@dataclass(frozen=True)
class Evidence:
    """The figures of one comparison.

    Attributes:
        n: rows of the span.
        m: rows that it was compared with.
        value: the PSI, with +0.5 in every slot; for a share, how far it moved.
        corrected: the PSI less its mean under no drift; for a share, the same as `value`.
        low: lower end of the 95 % interval of the true value.
        high: upper end.
        p: chance of such counts if nothing had changed.
        p_warn: chance of them if the true value were the policy's `warn`.
        p_act: likewise for `act`.
        slots: how many were compared; 2 for a share.
        expected: the share it was compared with; nothing for a PSI.
        actual: the share of the span; nothing for a PSI.
        q: the smallest false discovery rate at which this cell is called changed, among all
            of its tick (Benjamini and Hochberg).
        design: how much more this place's spans differ from one another than chance makes
            them; p, interval and `corrected` are those of n and m divided by it.
    """

    n: int
    m: int
    value: float
    corrected: float
    low: float
    high: float
    p: float
    p_warn: float
    p_act: float
    slots: int
    expected: float | None = None
    actual: float | None = None
    q: float = 1.0
    design: float = 1.0


@dataclass(frozen=True)
class SlotShare:
    """The shares of one slot; what fewer rows hold than may be shown is nothing."""

    label: str
    expected: float
    actual: float | None


@dataclass(frozen=True)
class Cell:
    """One thing at one place over one span of time.

    Attributes:
        edges: names the edges that were counted against.
        device: its id; "" for all selected devices together; the name of a segment, as
            ``site=paris``.
        subject: the feature; "score" or "flagged" for the model's answers.
        bundle: the model, where the subject is its answers; else "".
        opened: start of the span, by the time of the payments.
        closed: its end.
        rows: counted in it.
        needed: rows without which nothing is said.
        against: ``reference`` or ``baseline``.
        decision: what follows.
        rule: why, in words.
        current: whether this cell is what is held for true now.
        since: start of the first span that was raised, of those that are now; 0 if none is.
        evidence: nothing where nothing was compared.
        slots: what moved, for cells that were raised.
        explained_by: features or slots that moved the most, at most three.
    """

    edges: str
    device: str
    subject: str
    kind: Kind
    bundle: str
    opened: Moment
    closed: Moment
    rows: int
    needed: int
    against: str
    decision: Decision
    rule: str
    current: bool = False
    since: Moment = 0.0
    evidence: Evidence | None = None
    slots: tuple[SlotShare, ...] = ()
    explained_by: tuple[str, ...] = ()


@dataclass(frozen=True)
class Standing:
    """How many of a place's comparisons stand how; whatever else is left out of a view.

    Attributes:
        device: its id, the name of a segment, or "" for all devices together.
        counts: by decision.
        rows: the most that any of its comparisons that wait has.
        needed: of that one.
    """

    device: str
    counts: Mapping[str, int]
    rows: int = 0
    needed: int = 0


@dataclass(frozen=True)
class Health:
    """How a device, or all of them ("" for its id), did in one bucket, or in several.

    Attributes:
        rows: answered.
        flagged: of them.
        fallback: of them answered by the rule.
        errors: rows that were refused or failed, by code.
        latency: 40 bins of the time from request to answer.
    """

    device: str
    opened: Moment
    closed: Moment
    windows: int
    rows: int
    flagged: int
    fallback: int
    errors: Mapping[str, int]
    latency: tuple[int, ...]

    def __add__(self, other: Health) -> Health:
        """Both together, at the first one's device."""
        errors = Counter(self.errors) + Counter(other.errors)
        return Health(
            device=self.device,
            opened=min(self.opened, other.opened),
            closed=max(self.closed, other.closed),
            windows=self.windows + other.windows,
            rows=self.rows + other.rows,
            flagged=self.flagged + other.flagged,
            fallback=self.fallback + other.fallback,
            errors=dict(sorted(errors.items())),
            latency=tuple(a + b for a, b in zip(self.latency, other.latency, strict=True)),
        )

    def latency_us(self, share: float) -> float | None:
        """The `share` quantile of the latency, microseconds; nothing without requests."""
        return latency_quantile(self.latency, share) if any(self.latency) else None


@dataclass(frozen=True)
class ScorePair:
    """A model's scores in the latest judged span, beside those of its reference.

    Attributes:
        expected: 64 shares of bins: of log-odds, or between `edges`.
        actual: likewise; nothing where fewer rows fell than may be shown.
        edges: inner edges of the bins, if the model gives values; empty for probabilities.
    """

    device: str
    bundle: str
    opened: Moment
    closed: Moment
    rows: int
    expected: tuple[float, ...]
    actual: tuple[float | None, ...]
    edges: tuple[float, ...] = ()


@dataclass(frozen=True)
class Refusal:
    """Windows that could not be judged, and why."""

    device: str
    reason: str
    bundle: str
    edges: str
    windows: int
    rows: int


@dataclass(frozen=True)
class Baseline:
    """A reference that was used: its contract, and the models that share its edges."""

    edges: str
    contract: str
    version: int
    rows: int
    bundles: tuple[str, ...]


@dataclass(frozen=True)
class FleetView:
    """All that the monitor says.

    Attributes:
        policy: that it was judged by.
        newest: end of the newest bucket; 0 without any.
        windows: how many were judged.
        devices: that sent them, by id.
        references: that were used.
        cells: by time.
        health: by time.
        scores: for all devices, and for each device whose scores have moved.
        refusals: windows that were left out.
        standing: how each place stands, in short; all together, segments, devices.
        performance: how well each model does, span by span.
        forecasts: when scores and features will have drifted too far, if it goes on.
    """

    policy: Policy
    newest: Moment
    windows: int
    devices: tuple[str, ...]
    references: tuple[Baseline, ...]
    cells: tuple[Cell, ...]
    health: tuple[Health, ...]
    scores: tuple[ScorePair, ...]
    refusals: tuple[Refusal, ...]
    standing: tuple[Standing, ...] = ()
    performance: tuple[Performance, ...] = ()
    forecasts: tuple[Forecast, ...] = ()

    @property
    def current(self) -> tuple[Cell, ...]:
        """The cells that are held for true now."""
        return tuple(cell for cell in self.cells if cell.current)

    @property
    def alerts(self) -> tuple[Cell, ...]:
        """What has drifted, by now."""
        return tuple(cell for cell in self.current if cell.decision in ALERTS)

    def cut(self, seconds: float | None = None, *, brief: bool = False) -> FleetView:
        """A shorter view; nothing is judged anew.

        Args:
            seconds: what closed earlier before the newest bucket's end is left out, but
                for what is held for true now.
            brief: of single devices, only what is held for true now, and their health as
                one sum.

        `Watch.look` makes the short view at once.
        """
        start = -1.0 if seconds is None else self.newest - seconds
        cells = tuple(
            cell
            for cell in self.cells
            if cell.current or (cell.closed > start and not (brief and cell.device))
        )
        health = tuple(item for item in self.health if item.closed > start)
        performance = tuple(item for item in self.performance if item.closed > start)
        if brief:
            together = [item for item in health if not item.device]
            health = (*together, *totals(item for item in health if item.device))
        return replace(self, cells=cells, health=health, performance=performance)


def totals(health: Iterable[Health]) -> tuple[Health, ...]:
    """One sum for each device, by id."""
    found: dict[str, Health] = {}
    for item in health:
        found[item.device] = found[item.device] + item if item.device in found else item
    return tuple(found[device] for device in sorted(found))
