"""What a subject's track remembers: records of what was found, and arrays of what fills up. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .compare import Figures
from .rowmath import Floats, Row
from .view import Decision, Policy

LEVELS: Final = (Decision.STABLE, Decision.WARN, Decision.ACT)
DECISIONS: Final = tuple(Decision)
PAIRS: Final = 28  # neighbouring spans from which a place's unrest is known


@dataclass(frozen=True, eq=False)
class Record:
    """What was found, or only said, of one subject at several places in one tick.

    Attributes:
        who: ascending places.
        opened: start of each place's span.
        closed: its end.
        rows: counted in it.
        figures: for each test; empty where something is only said.
        q: for each test, shape (places,).
        raised: for each test, places in `LEVELS`.
        decisions: for each test, places in `DECISIONS`.
        since: for each test, when what is raised now began; 0 if nothing is.
        seen: expected and actual counts by place, of those that may be looked at.
        said: what was said instead.
        text: why.
    """

    who: Row
    opened: Floats
    closed: Floats
    rows: Row
    figures: tuple[Figures, ...] = ()
    q: tuple[Floats, ...] = ()
    raised: tuple[NDArray[np.int8], ...] = ()
    decisions: tuple[NDArray[np.int8], ...] = ()
    since: tuple[Floats, ...] = ()
    seen: dict[int, tuple[Row, Row]] = field(default_factory=dict)
    said: Decision | None = None
    text: str = ""

    def only(self, kept: NDArray[np.bool_]) -> Record:
        """The same of some of its places."""
        return replace(
            self,
            who=self.who[kept],
            opened=self.opened[kept],
            closed=self.closed[kept],
            rows=self.rows[kept],
            figures=tuple(item.only(kept) for item in self.figures),
            q=tuple(item[kept] for item in self.q),
            raised=tuple(item[kept] for item in self.raised),
            decisions=tuple(item[kept] for item in self.decisions),
            since=tuple(item[kept] for item in self.since),
        )

    def position(self, place: int) -> int | None:
        """Where a place stands in it, if it does."""
        at = int(self.who.searchsorted(place))
        return at if at < len(self.who) and self.who[at] == place else None


@dataclass(eq=False)
class State:
    """What is remembered of one subject: arrays, their first axis is the place.

    Attributes:
        week: (places, slots), the week that is filling up.
        week_opened: (places,), its start.
        week_closed: (places,), its end.
        week_days: (places,), one bit for each day on which there were rows.
        masks: (places, phases), the days of the weeks that lie in a phase.
        filled: (places, phases, slots), the span that is filling up.
        opened: (places, phases), its start.
        closed: its end.
        quiet: (places, phases, slots), the sum of the quiet spans of the block that fills up.
        older: (places, phases, slots), the sum of the block before: the oldest go by the block.
        kept: (places, phases), how many spans are in the block that fills up.
        before: (places, phases, slots), the span before.
        pairs: (places, tests, pairs), the statistic of neighbouring spans; infinite if none.
        paired: (places,), how many there ever were.
        levels: (places, tests, spans), what the latest were raised to, the newest last.
        since: (places, tests), start of the first that is raised now; 0 if none is.
        seen: (places,), start of the newest bucket with rows.
        stands: (places, tests), number of the record that was judged last; -1 for none.
        verdicts: (places, tests), what it decided, in `DECISIONS`.
        said: (places,), of the record that only said something.
    """

    week: Row
    week_opened: Floats
    week_closed: Floats
    week_days: Row
    masks: Row
    filled: Row
    opened: Floats
    closed: Floats
    quiet: Row
    older: Row
    kept: Row
    before: Row
    pairs: NDArray[np.float16]
    paired: Row
    levels: NDArray[np.int8]
    since: Floats
    seen: Floats
    stands: Row
    verdicts: NDArray[np.int8]
    said: Row

    @classmethod
    def empty(cls, places: int, phases: int, slots: int, tests: int, policy: Policy) -> State:
        """Nothing remembered."""
        whole = (places, phases, slots)
        return cls(
            week=np.zeros((places, slots), np.int64),
            week_opened=np.zeros(places),
            week_closed=np.zeros(places),
            week_days=np.zeros(places, np.int64),
            masks=np.zeros((places, phases), np.int64),
            filled=np.zeros(whole, np.int64),
            opened=np.zeros((places, phases)),
            closed=np.zeros((places, phases)),
            quiet=np.zeros(whole, np.int64),
            older=np.zeros(whole, np.int64),
            kept=np.zeros((places, phases), np.int64),
            before=np.zeros(whole, np.int64),
            pairs=np.full((places, tests, PAIRS), np.inf, np.float16),
            paired=np.zeros(places, np.int64),
            levels=np.zeros((places, tests, policy.of), np.int8),
            since=np.zeros((places, tests)),
            seen=np.zeros(places),
            stands=np.full((places, tests), -1),
            verdicts=np.zeros((places, tests), np.int8),
            said=np.full(places, -1),
        )

    def copy(self) -> State:
        """A copy that goes its own way."""
        return State(**{item.name: getattr(self, item.name).copy() for item in fields(self)})

    def more(self, added: State) -> None:
        """Take further places."""
        for item in fields(self):
            both: Any = (getattr(self, item.name), getattr(added, item.name))
            setattr(self, item.name, np.concatenate(both))
