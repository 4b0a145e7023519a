"""One subject at all places over time: spans that fill up, and what they are compared with.

Pure. A span grows bucket by bucket until it holds rows enough. What the week moves grows by whole
weeks alone, or is compared with the same hours of earlier weeks. All of a tick's comparisons are decided together (`judge`), since the false discovery rate is theirs in
common. State is kept in arrays whose first axis is the place: 0 is all devices together, then
come segments, then devices.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .compare import Figures, Share
from .rowmath import Floats, Row, apportion, unrest
from .rules import decide, level
from .state import DECISIONS, LEVELS, PAIRS, Record, State
from .subjects import Subject
from .view import DAY, MONDAY, WEEK, Decision, Policy

REFERENCE: Final = "reference"
BASELINE: Final = "baseline"
_EVERY_DAY: Final = 0b1111111
_KINDS_OF_WEEK: Final = 3  # by the days on which a shop is open, each with its own baseline
_FARTHEST: Final = 6e4  # what a half float holds
_FEW: Final = 4  # quiet spans that are remembered for each hour of the week, at the least


@dataclass(frozen=True, eq=False)
class Due:
    """A record whose comparisons have not been decided yet."""

    track: Track
    record: Record
    phase: Row
    expected: Row
    actual: Row


class Track:
    """Follows one subject at all places.

    Attributes:
        subject: what is compared.
        records: what was found, in order.
        state: what is remembered.
    """

    def __init__(self, subject: Subject, policy: Policy, segments: int) -> None:
        """Begin with nothing; segments stand between all devices together and single ones."""
        self.subject = subject
        self.records: list[Record] = []
        self._marks: list[int] = []  # how many records there were after each tick
        self._thinned = 0
        self._policy = policy
        self._first_device = 1 + segments
        self.weekly = subject.weekly and policy.bucket_seconds < WEEK
        self.hours = self.weekly and policy.same_hours
        every = int(WEEK // policy.bucket_seconds) if self.hours else _KINDS_OF_WEEK
        self.phases = every if self.weekly else 1
        self.state = self._empty(0)

    def _empty(self, places: int) -> State:
        slots, tests = len(self.subject.reference), len(self.subject.tests)
        return State.empty(places, self.phases, slots, tests, self._policy)

    def grow(self, places: int) -> None:
        """Have room for so many places."""
        if places > len(self.state.seen):
            self.state.more(self._empty(places - len(self.state.seen)))

    def copy(self) -> Track:
        """A copy that goes its own way; records are shared, since they never change."""
        found = Track.__new__(Track)
        found.__dict__.update(self.__dict__)
        found.records, found.state = list(self.records), self.state.copy()
        found._marks = list(self._marks)  # noqa: SLF001 - its own class
        return found

    def mark(self) -> None:
        """A tick has ended."""
        self._marks.append(len(self.records))

    def thin(self, ticks: int) -> None:
        """Of ticks but the latest so many, forget single places at which nothing was raised."""
        end = self._marks[-ticks - 1] if len(self._marks) > ticks else 0
        for number in range(self._thinned, end):
            record, state = self.records[number], self.state
            stands = (state.stands[record.who] == number).any(axis=1)
            kept = (record.who == 0) | stands | (state.said[record.who] == number)
            for decisions in record.decisions:
                kept |= decisions != DECISIONS.index(Decision.STABLE)
            self.records[number] = record.only(kept)
        self._thinned = max(self._thinned, end)

    # --- filling up -----------------------------------------------------------------------

    def advance(self, start: float, rows: Row) -> list[Due]:
        """Go on to a bucket; returns the comparisons that are due.

        Args:
            start: of the bucket; each is visited once, in their order.
            rows: int64, shape (places, slots): what was counted in it.
        """
        there = rows.any(axis=1)
        self.state.seen[there] = start
        who, ends = np.flatnonzero(there), start + self._policy.bucket_seconds
        if not self.weekly:
            return self._fill(who, rows[who], np.zeros_like(who), (start, ends))
        found = list[Due]()
        if self.hours:
            phase = int((start - MONDAY) % WEEK // self._policy.bucket_seconds)
            alone = who[who > 0]
            found = self._fill(alone, rows[alone], np.full_like(alone, phase), (start, ends))
            who = who[who == 0]
        return self._weeks(start, who, rows) + found

    def _weeks(self, start: float, who: Row, rows: Row) -> list[Due]:
        """Add a bucket to the weeks of some places, and take the weeks that have ended."""
        state, ends = self.state, start + self._policy.bucket_seconds
        number = (start - MONDAY) // WEEK
        begun = state.week_days > 0
        found = self._end(np.flatnonzero(begun & ((state.week_opened - MONDAY) // WEEK != number)))
        fresh = state.week_days[who] == 0
        state.week_opened[who] = np.where(fresh, start, state.week_opened[who])
        state.week_closed[who] = ends
        state.week_days[who] |= 1 << int((start - MONDAY) % WEEK // DAY)
        state.week[who] += rows[who]
        if (ends - MONDAY) % WEEK == 0:
            found += self._end(np.flatnonzero(state.week_days > 0))
        return found

    def _end(self, who: Row) -> list[Due]:
        """Weeks that are over; all devices together need rows on every day.

        A single device may be closed on some: its weeks are compared with those that have
        rows on the same days.
        """
        state = self.state
        days, rows = state.week_days[who], state.week[who]
        span = (state.week_opened[who], state.week_closed[who])
        state.week[who], state.week_days[who] = 0, 0
        broken = (who == 0) & (days != _EVERY_DAY)
        if broken.any():
            text = "the week moves it, and this week is not whole"
            times = (span[0][broken], span[1][broken])
            self._say(who[broken], times, rows[broken].sum(axis=1), Decision.CALENDAR, text)
        who, days, rows = who[~broken], days[~broken], rows[~broken]
        alike = state.masks[who] == days[:, None]
        oldest = state.closed[who].argmin(axis=1)
        phase = np.where(alike.any(axis=1), alike.argmax(axis=1), oldest)
        other = who[~alike.any(axis=1)]
        for kept in (state.filled, state.quiet, state.older, state.kept, state.before):
            kept[other, phase[~alike.any(axis=1)]] = 0
        state.masks[who, phase] = days
        return self._fill(who, rows, phase, (span[0][~broken], span[1][~broken]))

    def _fill(
        self, who: Row, rows: Row, phase: Row, span: tuple[Floats | float, Floats | float]
    ) -> list[Due]:
        state = self.state
        begun = state.filled[who, phase].any(axis=1)
        state.opened[who, phase] = np.where(begun, state.opened[who, phase], span[0])
        state.closed[who, phase] = span[1]
        state.filled[who, phase] += rows
        full = state.filled[who, phase].sum(axis=1) >= self.subject.needed
        who, phase = who[full], phase[full]
        if not len(who):
            return []
        actual = state.filled[who, phase]
        times = (state.opened[who, phase], state.closed[who, phase])
        state.filled[who, phase] = 0
        designs = [self._design(who, number) for number in range(len(self.subject.tests))]
        self._pair(who, phase, actual)
        expected, known = self._expected(who, phase)
        new = ~known
        if new.any():
            text = "its first rows: they begin the baseline"
            opened = (times[0][new], times[1][new])
            self._say(who[new], opened, actual[new].sum(axis=1), Decision.NO_BASELINE, text)
            self._keep(who[new], phase[new], actual[new])
        if not known.any():
            return []
        expected, actual = expected[known], actual[known]
        record = Record(
            who=who[known],
            opened=times[0][known],
            closed=times[1][known],
            rows=actual.sum(axis=1),
            figures=tuple(
                test.figures(expected, actual, design[known])
                for test, design in zip(self.subject.tests, designs, strict=True)
            ),
        )
        return [Due(self, record, phase[known], expected, actual)]

    def _expected(self, who: Row, phase: Row) -> tuple[Row, NDArray[np.bool_]]:
        """What each place is compared with, and whether there is enough of it.

        All together: the reference. A device: its quiet spans, shrunk to those of the others.
        Where devices differ like draws from a Dirichlet distribution around the fleet with
        the concentration c, own counts and c rows of the fleet's are the posterior.
        """
        every = self.state.quiet + self.state.older
        own = every[who, phase]
        known = own.sum(axis=1) >= self.subject.needed
        fleet = every[self._first_device :].sum(axis=0)[phase]
        # weeks of a phase have other days elsewhere
        prior = 0 if self.weekly and not self.hours else self._policy.prior_rows
        found = own + apportion(np.maximum(0, fleet - own), prior)
        found[who == 0] = self.subject.reference
        return found, known | (who == 0)

    def _design(self, who: Row, number: int) -> Floats:
        known = np.minimum(self.state.paired[who], PAIRS)
        pairs = np.asarray(self.state.pairs[who, number], np.float64)
        return unrest(pairs, known, self.subject.tests[number].freedom)

    def _pair(self, who: Row, phase: Row, actual: Row) -> None:
        """Remember how far each span is from the one before."""
        state = self.state
        before = state.before[who, phase]
        both = before.any(axis=1)
        mine = who[both]
        place = state.paired[mine] % PAIRS
        for number, test in enumerate(self.subject.tests):
            far = np.minimum(test.statistic(before[both], actual[both]), _FARTHEST)
            state.pairs[mine, number, place] = far
        state.paired[mine] += 1
        state.before[who, phase] = actual

    def _keep(self, who: Row, phase: Row, actual: Row) -> None:
        """Take quiet spans into the baselines; the oldest make room."""
        state = self.state
        state.quiet[who, phase] += actual
        state.kept[who, phase] += 1
        block = max(_FEW, self._policy.baseline_spans // self.phases) // 2
        done = state.kept[who, phase] >= block
        full = (who[done], phase[done])
        state.older[full] = state.quiet[full]
        state.quiet[full] = 0
        state.kept[full] = 0

    # --- what follows ---------------------------------------------------------------------

    def settle(self, due: Due, q: Sequence[Floats]) -> None:
        """Take the tick's false discovery rates, and say what follows.

        Args:
            due: what `advance` gave.
            q: for each test, shape (places,); NaN where nothing was compared.
        """
        record, state = due.record, self.state
        raised = [self._raised(record.figures[t], t, q[t]) for t in range(len(q))]
        decisions, since = [], []
        for number, found in enumerate(record.figures):
            there = ~np.isnan(found.p)
            who = record.who[there]
            levels = state.levels[who, number]
            levels = np.concatenate([levels[:, 1:], raised[number][there, None]], axis=1)
            state.levels[who, number] = levels
            begun = state.since[who, number]
            begun = np.where(begun > 0, begun, record.opened[there])
            state.since[who, number] = np.where(levels.any(axis=1), begun, 0.0)
            state.stands[who, number] = len(self.records)
            decisions.append(self._decided(record.who, number, there))
            state.verdicts[who, number] = decisions[-1][there]
            since.append(state.since[record.who, number].copy())
        loud = np.any(raised, axis=0)
        shown = np.flatnonzero(loud | (record.who == 0)).tolist()
        self.records.append(
            replace(
                record,
                q=tuple(q),
                raised=tuple(raised),
                decisions=tuple(decisions),
                since=tuple(since),
                seen={int(record.who[i]): (due.expected[i], due.actual[i]) for i in shown},
            )
        )
        self._say_nothing_compared(record)
        quiet = ~loud & (record.who > 0)
        self._keep(record.who[quiet], due.phase[quiet], due.actual[quiet])

    def _raised(self, found: Figures, number: int, q: Floats) -> NDArray[np.int8]:
        test, raised = self.subject.tests[number], np.zeros(len(q), np.int8)
        with np.errstate(invalid="ignore"):
            changed = np.flatnonzero(q <= self._policy.fdr)
        for place in changed.tolist():
            certain = test.certain(found, place, self._policy)
            raised[place] = LEVELS.index(level(float(q[place]), *certain, self._policy))
        return raised

    def _decided(self, who: Row, number: int, there: NDArray[np.bool_]) -> NDArray[np.int8]:
        levels = self.state.levels[who, number]
        found = np.full(len(who), DECISIONS.index(Decision.STABLE), np.int8)
        for place in np.flatnonzero(levels.any(axis=1) & there).tolist():
            decision = decide([LEVELS[i] for i in levels[place]], self._policy)
            found[place] = DECISIONS.index(decision)
        return found

    def _say_nothing_compared(self, record: Record) -> None:
        """A share without a single such row on either side needs no words."""
        first = self.subject.tests[0]
        none = np.isnan(record.figures[0].p)
        if isinstance(first, Share) or not none.any():
            return
        said, text = Decision.WAITING, "too few rows on one of the two sides"
        if len(first.labels) < 2:
            said, text = Decision.STABLE, "one value fills the reference: all is alike"
            self.state.stands[record.who[none], 0] = len(self.records)
            self.state.verdicts[record.who[none], 0] = DECISIONS.index(said)
        span = (record.opened[none], record.closed[none])
        self._say(record.who[none], span, record.rows[none], said, text)

    def _say(
        self, who: Row, span: tuple[Floats, Floats], rows: Row, said: Decision, text: str
    ) -> None:
        self.state.said[who] = len(self.records)
        self.records.append(Record(who, *span, rows, said=said, text=text))
