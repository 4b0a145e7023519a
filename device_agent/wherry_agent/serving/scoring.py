"""Scoring live traffic, and counting what went by.

One `Scorer` holds what serves: a model with its bundle's rule behind it, or the rule alone.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_agent.clock import Clock
from wherry_agent.config import Limits
from wherry_contract.errors import ServingError
from wherry_contract.features import RawMatrix
from wherry_contract.manifest import Manifest
from wherry_contract.profile import ReferenceProfile
from wherry_contract.reaction import PREVIOUS, InputWatch, Verdict

from .counter import Counter, Tally, threshold_bin
from .inference import Answers, Model, rule_answer
from .probing import SIGNS, Probing
from .senses import Senses
from .shadow import Shadow
from .stand_in import NoStrays, StandIn, Strays

_LOOK_SECONDS: Final = 60.0
_PLAUSIBLE: Final = (946_684_800.0, 4_102_444_800.0)  # 2000 to 2100, which the wire can say


@dataclass(frozen=True)
class Served:
    """What serves now.

    Attributes:
        digest: of the bundle.
        model: nothing if only its rule may answer.
    """

    digest: str
    manifest: Manifest
    profile: ReferenceProfile
    model: Model | None

    @classmethod
    def by_model(cls, model: Model) -> Served:
        """A model, with its bundle's rule behind it."""
        return cls(model.digest, model.manifest, model.profile, model)


@dataclass(frozen=True)
class Progress:
    """How a soak is getting on, since the last swap.

    Attributes:
        since: monotonic seconds of that swap.
        rows: scored, or tried.
        failures: rows that the model did not score.
        failure: the last reason, in words.
    """

    since: float = 0.0
    rows: int = 0
    failures: int = 0
    failure: str = ""


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
    ) -> None:
        """Take what it works with.

        Args:
            limits: when windows close.
            clock: time.
            emit: takes closed windows.
            senses: looks at the board.
            alarm: told when somebody seems to feel for the threshold, and by which sign.
            strays: remembers whether inputs are trusted, and finds who answers if not.
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

    @property
    def served(self) -> Served | None:
        """What serves now."""
        return self._served

    @property
    def progress(self) -> Progress:
        """How many rows were scored since the last swap, and how many failed."""
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
            self._served = served
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

        return Counter(served.digest, served.manifest, served.profile, look)

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
        done = self._progress
        failures = done.failures + (rows if failure else 0)
        self._progress = Progress(done.since, done.rows + rows, failures, failure or done.failure)

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


def _asked(served: Served, raw: RawMatrix) -> Answers | str:
    """The model's answers, or why there are none."""
    return served.model.answer(raw) if served.model else "no model is loaded"
