"""One subject at one place over time: spans that fill up, and what they are compared with.

Pure. A span grows bucket by bucket until it holds rows enough; what the week moves grows
by whole weeks alone. All of a tick's comparisons are decided together (`judge`), since
the false discovery rate is theirs in common.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .compare import Row, Share, Spread
from .subjects import Subject
from .view import DAY, MONDAY, WEEK, Cell, Decision, Evidence, Kind, Policy
from .words import chance

REFERENCE = "reference"
BASELINE = "baseline"
_DAYS = 7


@dataclass(frozen=True, eq=False)
class Span:
    """Counts of neighbouring buckets, and the days of the week on which there were any."""

    opened: float
    closed: float
    row: Row
    days: frozenset[int]

    @property
    def rows(self) -> int:
        """How many rows it holds."""
        return int(self.row.sum())

    def __add__(self, other: Span) -> Span:
        opened, closed = min(self.opened, other.opened), max(self.closed, other.closed)
        return Span(opened, closed, self.row + other.row, self.days | other.days)


@dataclass(frozen=True, eq=False)
class Compared:
    """A test of one span; without evidence it said nothing."""

    series: Series
    test: Spread | Share
    span: Span
    expected: Row
    evidence: Evidence | None


@dataclass(eq=False)
class Series:
    """Follows one subject at one place.

    Attributes:
        device: "" for all devices together, which are compared with the reference; a device
            is compared with its own quiet spans.
        span: that is filling up.
        week: likewise, where only whole weeks are comparable.
        quiet: the device's latest quiet spans.
        own: their sum; nothing for all devices together.
        levels: for each kind, what the latest judged spans were raised to.
        since: for each kind, the start of the first of those that are raised now.
        last: the span that was judged last.
        seen: start of the newest bucket with rows.
        cells: by time.
    """

    subject: Subject
    device: str
    policy: Policy
    span: Span | None = None
    week: Span | None = None
    quiet: deque[Span] = field(default_factory=deque)
    own: Row | None = None
    levels: dict[Kind, list[Decision]] = field(default_factory=dict)
    since: dict[Kind, float] = field(default_factory=dict)
    last: Span | None = None
    seen: float = 0.0
    cells: list[Cell] = field(default_factory=list)

    @property
    def against(self) -> str:
        """What it is compared with."""
        return BASELINE if self.device else REFERENCE

    def advance(self, start: float, row: Row | None, fleet: Row | None) -> list[Compared]:
        """Go on to a bucket; returns the comparisons that are due.

        Args:
            start: of the bucket; each is visited once, in their order.
            row: what was counted in it, if anything.
            fleet: the sum of all devices' quiet spans, if there are any.
        """
        bucket = None
        if row is not None and row.any():
            length = self.policy.bucket_seconds
            days = frozenset({int((start - MONDAY) % WEEK // DAY)})
            bucket = Span(start, start + length, row, days)
            self.seen = start
        if self.subject.weekly and self.policy.bucket_seconds < WEEK:
            bucket = self._whole_week(start, bucket)
        return self._grow(bucket, fleet) if bucket is not None else []

    def _whole_week(self, start: float, bucket: Span | None) -> Span | None:
        """The week that has ended by this bucket, if it is whole."""
        begun = self.week and (self.week.opened - MONDAY) // WEEK
        done = None
        if self.week and begun != (start - MONDAY) // WEEK:
            done, self.week = self._take_week(self.week), None
        if bucket is not None:
            self.week = bucket if self.week is None else self.week + bucket
        ends = (start + self.policy.bucket_seconds - MONDAY) % WEEK == 0
        if self.week and ends:
            done, self.week = self._take_week(self.week), None
        return done

    def _take_week(self, week: Span) -> Span | None:
        """The week, if it is whole: for all devices together, with rows on every day.

        A single device may be closed on some: its weeks are compared with those that have
        rows on the same days.
        """
        if self.device or len(week.days) == _DAYS:
            return week
        self._say(week, Decision.CALENDAR, "the week moves it, and this week is not whole")
        return None

    def _grow(self, span: Span, fleet: Row | None) -> list[Compared]:
        if self.span and self.subject.weekly and self.span.days != span.days:
            self._say(self.span, Decision.CALENDAR, "too few rows on the same days of the week")
            self.span = None
        self.span = span = self.span + span if self.span else span
        if span.rows < self.subject.needed:
            return []
        self.span, self.last = None, span
        expected = self._expected(span, fleet)
        if expected is None:
            self._say(span, Decision.NO_BASELINE, "its first rows: they begin the baseline")
            self._keep(span)
            return []
        return [
            Compared(self, test, span, expected, test.compare(expected, span.row, self.policy))
            for test in self.subject.tests
        ]

    def _expected(self, span: Span, fleet: Row | None) -> Row | None:
        """The reference; for a device its quiet spans, shrunk to those of the other devices.

        Where devices differ like draws from a Dirichlet distribution around the fleet with
        the concentration c, own counts and c rows of the fleet's are the posterior.
        """
        if not self.device:
            return self.subject.reference
        if self.subject.weekly:
            alike = [quiet.row for quiet in self.quiet if quiet.days == span.days]
            return np.asarray(np.sum(alike, axis=0), np.int64) if alike else None
        if self.own is None or fleet is None or int(self.own.sum()) < self.subject.needed:
            return None
        return self.own + apportion(fleet - self.own, self.policy.prior_rows)

    def _keep(self, span: Span) -> None:
        if not self.device:
            return
        self.quiet.append(span)
        self.own = span.row if self.own is None else self.own + span.row
        while len(self.quiet) > self.policy.baseline_spans:
            self.own = self.own - self.quiet.popleft().row

    def settle(self, decided: Sequence[tuple[Compared, Decision]]) -> None:
        """Take what the tick's comparisons were raised to, and say what follows."""
        for item, raised in decided:
            if item.evidence is None:
                self._say_nothing_compared(item)
                continue
            kind = item.test.kind
            levels = self.levels.setdefault(kind, [])
            levels.append(raised)
            del levels[: -self.policy.of]
            if raised != Decision.STABLE:
                self.since.setdefault(kind, item.span.opened)
            elif all(level == Decision.STABLE for level in levels):
                self.since.pop(kind, None)
            self.cells.append(self._judged(item, raised, decide(levels, self.policy)))
        if decided and all(raised == Decision.STABLE for _, raised in decided):
            self._keep(decided[0][0].span)

    def _say_nothing_compared(self, item: Compared) -> None:
        """A share without a single such row on either side needs no words."""
        if isinstance(item.test, Share):
            return
        if len(item.test.labels) < 2:
            self._say(item.span, Decision.STABLE, "one value fills the reference: all is alike")
        else:
            self._say(item.span, Decision.WAITING, "too few rows on one of the two sides")

    def _judged(self, item: Compared, raised: Decision, decision: Decision) -> Cell:
        evidence, test = item.evidence, item.test
        assert evidence is not None  # noqa: S101 - settle has looked
        text = explain(evidence, raised, decision, self.policy)
        cell = self._cell(item.span, test.kind, decision, text)
        if decision == Decision.STABLE or isinstance(test, Share):
            since = 0.0 if decision == Decision.STABLE else self.since.get(test.kind, 0.0)
            return replace(cell, evidence=evidence, since=since)
        slots = test.shares(item.expected, item.span.row, self.policy.fewest)
        most = sorted(slots, key=lambda slot: -abs((slot.actual or 0) - slot.expected))[:3]
        return replace(
            cell,
            evidence=evidence,
            since=self.since.get(test.kind, 0.0),
            slots=slots,
            explained_by=tuple(slot.label for slot in most),
        )

    def close(self) -> None:
        """Say what is still filling up."""
        if self.week is not None:
            self._say(self.week, Decision.CALENDAR, "the week moves it, and has not ended")
        if self.span is not None:
            text = f"{self.span.rows} of {self.subject.needed} rows; counting goes on"
            self._say(self.span, Decision.WAITING, text)

    def _say(self, span: Span, decision: Decision, text: str) -> None:
        self.cells.append(self._cell(span, self.subject.tests[0].kind, decision, text))

    def _cell(self, span: Span, kind: Kind, decision: Decision, text: str) -> Cell:
        key = self.subject.key
        return Cell(
            edges=key.edges,
            device=self.device,
            subject=key.name,
            kind=kind,
            bundle=key.bundle,
            opened=span.opened,
            closed=span.closed,
            rows=span.rows,
            needed=self.subject.needed,
            against=self.against,
            decision=decision,
            rule=text,
        )


def apportion(counts: Row, rows: int) -> Row:
    """`rows` rows, shared out as `counts` are, by largest remainders; none for no counts."""
    total = int(counts.sum())
    if not total:
        return np.zeros_like(counts)
    exact = counts * (rows / total)
    found = np.floor(exact).astype(np.int64)
    left = rows - int(found.sum())
    found[np.argsort(found - exact, kind="stable")[:left]] += 1
    return np.asarray(found, np.int64)


def decide(levels: Sequence[Decision], policy: Policy) -> Decision:
    """What follows from what the latest spans were raised to, the newest last.

    An alert needs `times` of the last `of`; its level is the highest that so many reached.
    """
    recent = levels[-policy.of :]
    if recent.count(Decision.ACT) >= policy.times:
        return Decision.ACT
    if len(recent) - recent.count(Decision.STABLE) >= policy.times:
        return Decision.WARN
    return Decision.STABLE if recent[-1] == Decision.STABLE else Decision.WATCH


def explain(evidence: Evidence | None, raised: Decision, decision: Decision, policy: Policy) -> str:
    """The rule that led to a decision, in words."""
    if evidence is None:
        return "nothing to compare"
    if raised == Decision.STABLE:
        changed = evidence.q <= policy.fdr
        small = "changed, but not certainly by more than the limit"
        now = small if changed else "no change that chance would not explain"
        return now if decision == Decision.STABLE else f"{now}; raised before"
    share = evidence.expected is not None
    warn, act = (policy.warn_share, policy.act_share) if share else (policy.warn, policy.act)
    limit, p = (act, evidence.p_act) if raised == Decision.ACT else (warn, evidence.p_warn)
    how = f"changed (q {chance(evidence.q)}) and by more than {limit:g} (p {chance(p)})"
    if decision == Decision.WATCH:
        return f"{how}, seen once: an alert needs {policy.times} of {policy.of}"
    return f"{how}, in {policy.times} of {policy.of}"
