"""Scoring live traffic, and counting what went by.

One `Scorer` holds what serves: a model with its bundle's rule behind it, or the rule alone.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from math import isfinite, nan
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_agent.clock import Clock
from wherry_agent.config import Limits
from wherry_contract.errors import InputError, ServingError
from wherry_contract.features import RawMatrix, RawValue, to_table
from wherry_contract.reaction import PREVIOUS, InputWatch, Verdict

from .counter import Counter, Tally, threshold_bin
from .inference import Answer, Answers, rule_answer
from .probing import SIGNS, Probing
from .row_path import Row, RowPath
from .senses import Senses
from .served import Progress, Served
from .shadow import Shadow
from .stand_in import NoStrays, StandIn, Strays

_LOOK_SECONDS: Final = 60.0
_new: Final = tuple.__new__
_PLAUSIBLE: Final = (946_684_800.0, 4_102_444_800.0)  # 2000 to 2100, which the wire can say


class Scorer:
    """Answers rows with what serves, and hands closed windows on. Safe to call from threads."""

    def __init__(
        self,
        limits: Limits,
        clock: Clock,
        emit: Callable[[Tally], None],
        *,
        senses: Senses | None = None,
        alarm: Callable[[str], None] = lambda _: None,
        strays: Strays | None = None,
        also: frozenset[str] = frozenset(),
    ) -> None:
        """Take what it works with.

        Args:
            limits: when windows close.
            clock: time.
            emit: takes closed windows.
            senses: looks at the board.
            alarm: told when somebody seems to feel for the threshold, and by which sign.
            strays: remembers whether inputs are trusted, and finds who answers if not.
            also: names that a row may carry besides the contract's.
        """
        self._senses = senses
        self._alarm = alarm
        self._strays = strays or NoStrays()
        self._watch: InputWatch | None = None
        self._stand_in: StandIn | None = None
        self._unsettled = False
        self._looked = clock.monotonic()
        self._limits = limits
        self._clock = clock
        self._emit = emit
        self._lock = threading.Lock()
        self._served: Served | None = None
        self._counter: Counter | None = None
        self._progress = Progress()
        self._shadow: Shadow | None = None
        self._also = also
        self._paths: list[RowPath] = []  # the short way, while no row is on it
        self._one_by_one = 0  # rows of the short way that `_progress` does not have yet
        self._monotonic = clock.monotonic

    @property
    def served(self) -> Served | None:
        """What serves now."""
        return self._served

    @property
    def progress(self) -> Progress:
        """How many rows were scored since the last swap, and how many failed."""
        with self._lock:
            self._advance(0, "")
            return self._progress

    @property
    def shadow(self) -> Shadow | None:
        """What scores beside it, unused."""
        return self._shadow

    def memory_mib(self) -> float | None:
        """The agent's memory now, in MiB; nothing where it cannot be told."""
        return self._senses.memory_mib() if self._senses else None

    def compare(self, shadow: Shadow | None) -> None:
        """Let a shadow score beside what answers from the next row on; the window is cut.

        Args:
            shadow: started by the caller; nothing ends the one that there is.
        """
        former = self._shadow
        if former:
            former.stop()
        with self._lock:
            self._close("switch")
            self._shadow = shadow

    @property
    def away(self) -> str:
        """Why the model is not asked: inputs that left the contract; or nothing."""
        watch = self._watch
        return watch.away if watch else ""

    def swap(self, served: Served | None) -> None:
        """Serve with something else from the next row on; the window is cut."""
        with self._lock:
            self._close("switch")
            self._watch, self._stand_in, self._unsettled = None, None, True
            self._counter = self._counter_of(served) if served else None
            self._paths = _paths_of(served, self._also)
            self._served = served
            self._one_by_one = 0
            self._progress = Progress(self._clock.monotonic())

    def _counter_of(self, served: Served) -> Counter:
        probing = Probing(served.profile, threshold_bin(served.manifest))
        reaction = served.manifest.reaction if served.model else None
        known = self._strays.recall(served.digest)
        watch = InputWatch(reaction, served.profile, known) if reaction else None
        self._watch = watch

        def look(
            raw: RawMatrix,
            places: NDArray[np.uint8],
            bins: NDArray[np.intp],
            flagged: NDArray[np.bool_],
        ) -> Mapping[str, int]:
            found = probing.see(raw, places, bins, flagged, self._clock.monotonic() / 60)
            for sign in found.keys() & SIGNS.keys():
                self._alarm(sign)
            if watch and watch.see(raw, places):
                self._unsettled = True
            return found

        return Counter(served.digest, served.manifest, served.profile, look, self._clock)

    def answer_one(
        self,
        row: Row,
        served: Served | None = None,
        started: float | None = None,
        at: float | None = None,
    ) -> Answer:
        """Score one row and count it: `answer`, by the short way where there is one.

        Args:
            row: named values, or numbers in the contract's order with NaN for missing.
            served: what is asked, what serves now if it is not said; if it was swapped
                meanwhile, it still answers.
            started: as for `answer`; now if it is not said.
            at: likewise.

        Raises:
            InputError: C01 to C06; it is counted.
            ServingError: S05, neither a model nor a rule can answer.
        """
        began = self._monotonic() if started is None else started
        served = served or self._served
        if served is None:
            raise ServingError("S05")
        paths, watch = self._paths, self._watch
        others = self._shadow is not None or (watch is not None and watch.away)
        if others or served is not self._served:
            return self._one_of_many(row, served, began, at)
        try:
            path = paths.pop()  # under the interpreter's lock: no other thread gets the same one
        except IndexError:  # there is none, or its memory is another row's now
            return self._one_of_many(row, served, began, at)
        score, raw = nan, b""
        try:
            if path.model is served.model:  # or it is being swapped, and reads by another contract
                path.read(row)
                score, raw = path.score(), path.copy()
        except InputError as error:
            self.refuse(error.code, 1)
            raise
        finally:
            paths.append(path)
        if not isfinite(score):
            return self._one_of_many(row, served, began, at)
        flagged, place = score >= path.threshold, bisect_right(path.edges, score)
        at = at if at is None or _PLAUSIBLE[0] <= at < _PLAUSIBLE[1] else None
        with self._lock:
            counter, done = self._counter, self._monotonic()
            latency = (done - began) * 1e6
            if served is self._served and counter is not None:
                self._one_by_one += 1
                if not counter.rows and counter.empty:
                    counter.since = done
                counter.add_one(raw, place, flagged, at, done, latency)
                if counter.rows >= self._limits.window_rows:
                    self._close("rows")
            else:  # it was swapped while it answered: its row gets a window of its own
                late = Counter(served.digest, served.manifest, served.profile, None, self._clock)
                late.add_one(raw, place, flagged, at, done, latency)
                self._emit(late.close("switch"))
        # as `Answer(...)` makes it, for half of what that costs
        return _new(Answer, (score, flagged, place, "model", served.digest, None, (), ""))

    def answer_rows(
        self,
        rows: Sequence[Mapping[str, RawValue]] | RawMatrix,
        served: Served,
        *,
        started: float,
        at: float | None = None,
    ) -> Answers:
        """Check rows, score and count them.

        Args:
            rows: named values, or float64, shape (rows, features), with NaN for missing.
            served: as for `answer`.
            started: likewise.
            at: likewise.

        Raises:
            InputError: C01 to C06; they are counted.
            ServingError: S05.
        """
        contract = served.manifest.input
        try:
            if isinstance(rows, np.ndarray):
                raw = contract.check_matrix(to_table(rows))
            else:
                raw = contract.matrix(rows, also=self._also)
        except InputError as error:
            self.refuse(error.code, len(rows))
            raise
        if not len(raw):
            raise InputError("C06", "there are no rows")
        return self.answer(raw, served, started=started, at=at)

    def _one_of_many(self, row: Row, served: Served, started: float, at: float | None) -> Answer:
        try:
            rows = [row] if isinstance(row, Mapping) else to_table([row])
        except InputError as error:
            self.refuse(error.code, 1)
            raise
        answers = self.answer_rows(rows, served, started=started, at=at)
        return answers.first(served.manifest, served.digest)

    def answer(
        self, raw: RawMatrix, served: Served, *, started: float, at: float | None
    ) -> Answers:
        """Score rows and count them.

        Args:
            raw: float64, shape (rows, features), checked against `served`'s contract.
            served: what they were checked against; if it was swapped meanwhile, it still answers.
            started: monotonic seconds when the request began to be handled.
            at: when the payments happened, Unix seconds; now if the application does not say,
                or says what cannot be.

        Raises:
            ServingError: S05, neither a model nor a rule can answer.
        """
        away = self.away if served is self._served else ""
        answers = self._instead(raw, away) if away else _asked(served, raw)
        failure = answers if isinstance(answers, str) else ""
        if isinstance(answers, str):
            answers = self._by_rule(raw, served, answers)
        moment = at if at is not None and _PLAUSIBLE[0] <= at < _PLAUSIBLE[1] else self._clock.now()
        with self._lock:
            latency = (self._clock.monotonic() - started) * 1e6
            if served is self._served and self._counter:
                self._count(self._counter, raw, answers, moment, latency)
                if not away:  # what the model was not asked is not to its credit, nor its fault
                    self._advance(len(raw), failure)
                if self._shadow and not away:
                    self._shadow.offer(raw, answers, served.digest, served.manifest)
            else:  # it was swapped while it answered: its rows get a window of their own
                late = Counter(served.digest, served.manifest, served.profile)
                late.add(raw, answers, moment, latency)
                self._emit(late.close("switch"))
        return answers

    def _instead(self, raw: RawMatrix, away: str) -> Answers | str:
        """The previous model's answers, or why there are none."""
        why, stand_in = f"inputs left the contract: {away}", self._stand_in
        return stand_in.answer(raw, why) if stand_in else why

    def _by_rule(self, raw: RawMatrix, served: Served, failure: str) -> Answers:
        if served.manifest.fallback is None:
            self._fail(raw, served, failure)
            raise ServingError("S05", failure)
        return rule_answer(served.manifest.fallback, raw, served.manifest, failure)

    def _count(
        self, counter: Counter, raw: RawMatrix, answers: Answers, at: float, latency: float
    ) -> None:
        if counter.empty:
            counter.since = self._clock.monotonic()
        counter.add(raw, answers, at, latency)
        if counter.rows >= self._limits.window_rows:
            self._close("rows")

    def _advance(self, rows: int, failure: str) -> None:
        done, alone = self._progress, self._one_by_one
        self._one_by_one = 0
        failures = done.failures + (rows if failure else 0)
        self._progress = Progress(
            done.since, done.rows + alone + rows, failures, failure or done.failure
        )

    def _fail(self, raw: RawMatrix, served: Served, failure: str) -> None:
        """Count rows that the model should have answered, for the model that failed them."""
        with self._lock:
            if served is self._served:
                self._refuse("S05", len(raw))
                self._advance(len(raw), failure)
            else:  # it was swapped while it failed: its rows get a window of their own
                late = Counter(served.digest, served.manifest, served.profile)
                late.refuse("S05", len(raw), self._clock.now())
                self._emit(late.close("switch"))

    def refuse(self, code: str, rows: int) -> None:
        """Count rows that were not answered, by no fault of the model.

        Args:
            code: why.
            rows: how many.
        """
        with self._lock:
            self._refuse(code, rows)

    def _refuse(self, code: str, rows: int) -> None:
        if self._counter:
            if self._counter.empty:
                self._counter.since = self._clock.monotonic()
            self._counter.refuse(code, rows, self._clock.now())

    def tick(self) -> None:
        """Count what is buffered, and close a window whose time is up; to be called now and then.

        A verdict on inputs that has changed is acted upon here, where no payment waits for it.

        A window of a few rows says nothing yet and might tell of a single customer: it stays
        open until it has more, though not for ever.
        """
        with self._lock:
            if self._counter is None:
                return
            self._look(self._counter)
            self._counter.flush()
            if not self._counter.empty:
                self._close_in_time(self._counter)
            unsettled, self._unsettled = self._unsettled, False
            served, watch = self._served, self._watch
        if unsettled and served:
            self._settle(served, watch.verdict if watch else Verdict())

    def _close_in_time(self, counter: Counter) -> None:
        minutes = (self._clock.monotonic() - counter.since) / 60
        enough = counter.seen >= self._limits.window_least_rows
        if minutes >= self._limits.window_minutes and (
            enough or minutes >= self._limits.window_longest_minutes
        ):
            self._close("time")

    def _settle(self, served: Served, verdict: Verdict) -> None:
        """Find who answers, if the model is not to be asked, and have it told."""
        reaction, found = served.manifest.reaction, None
        if verdict.why and reaction and reaction.answer == PREVIOUS:
            found = self._strays.stand_in(served.manifest, verdict)
        with self._lock:
            if served is self._served:
                self._stand_in = found
        self._strays.note(served.digest, verdict, found.name if found else "the rule")

    def _look(self, counter: Counter) -> None:
        now = self._clock.monotonic()
        if self._senses and now - self._looked >= _LOOK_SECONDS:
            self._looked = now
            counter.look(self._senses.memory_mib(), self._senses.celsius())

    def stop(self) -> None:
        """Close the last window."""
        if self._shadow:
            self._shadow.stop()
        with self._lock:
            self._close("stop")

    def _close(self, reason: str) -> None:
        if self._counter is None:
            return
        shadow = self._shadow.take(self._served.digest) if self._shadow and self._served else None
        if shadow or not self._counter.empty:
            self._emit(self._counter.close(reason, shadow, self._clock.now()))


def _paths_of(served: Served | None, also: frozenset[str]) -> list[RowPath]:
    if served is None or served.model is None or served.manifest.output.classes:
        return []
    return [RowPath(served.model, also)]


def _asked(served: Served, raw: RawMatrix) -> Answers | str:
    """The model's answers, or why there are none."""
    return served.model.answer(raw) if served.model else "no model is loaded"
