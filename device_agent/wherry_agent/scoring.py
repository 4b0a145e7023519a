"""Scoring live traffic, and counting what went by.

One `Scorer` holds what serves: a model with its bundle's rule behind it, or the rule
alone. Counting is buffered: rows are copied into a block, and a full block is counted at
once, which costs a few microseconds a row (benchmarks/drift_counting.py).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

from wherry_contract.decision import class_counts
from wherry_contract.errors import ServingError
from wherry_contract.features import RawMatrix
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS, latency_bin
from wherry_contract.manifest import Manifest
from wherry_contract.messages import Place
from wherry_contract.profile import ReferenceProfile
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

from .clock import Clock
from .config import Limits
from .inference import Answers, Model, rule_answer

_BLOCK_ROWS: Final = 256
_PLAUSIBLE: Final = (946_684_800.0, 4_102_444_800.0)  # 2000 to 2100, which the wire can say


@dataclass(frozen=True)
class Tally:
    """A closed window that has no place in an outbox yet; the fields are `Window`'s."""

    bundle: str
    edges: str
    opened: float
    closed: float
    rows: int
    flagged: int
    fallback: int
    errors: Mapping[str, int]
    features: Mapping[str, FeatureCounts]
    scores: tuple[int, ...]
    latency: tuple[int, ...]
    reason: str
    classes: tuple[int, ...] = ()

    def window(self, place: Place) -> Window:
        """The message."""
        return Window(place=place, **self.__dict__)


class Counter:
    """Counts one window after the other for one bundle."""

    def __init__(self, bundle: str, manifest: Manifest, profile: ReferenceProfile) -> None:
        self._bundle = bundle
        self._profile = profile
        self._slots = profile.counter(manifest.input)
        self._raw = np.empty((_BLOCK_ROWS, len(manifest.input.features)))
        self._bins = np.empty(_BLOCK_ROWS, np.intp)  # what `bincount` takes on 32 bits
        self._names = len(manifest.output.classes)
        self._begin()

    def _begin(self) -> None:
        self._filled = self.rows = self._flagged = self._fallback = 0
        self._counts = self._slots.zeros()
        self._scores = np.zeros(SCORE_BINS + 1, np.int64)
        self._classes = np.zeros(self._names + 1, np.int64)
        self._latency = [0] * LATENCY_BINS
        self._errors: dict[str, int] = {}
        self._first = self._last = 0.0
        self.since = 0.0  # monotonic; of the first thing counted

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not self.rows and not self._errors

    def add(self, raw: RawMatrix, answers: Answers, at: float, latency_us: float) -> None:
        """Count answered rows.

        Args:
            raw: float64, shape (rows, features).
            answers: what they were told.
            at: when they happened, Unix seconds.
            latency_us: from request to answer.
        """
        self._see(at)
        self.rows += len(raw)
        self._flagged += int(np.count_nonzero(answers.flagged))
        self._latency[latency_bin(latency_us)] += 1
        if answers.decisions is not None:
            self._classes += class_counts(answers.decisions, self._names)
        # a rule has no score: its rows go to a slot of their own, which is not sent
        bins = np.full(len(raw), SCORE_BINS) if answers.fallback else answers.bins
        self._fallback += len(raw) if answers.fallback else 0
        for start in range(0, len(raw), _BLOCK_ROWS):
            self._keep(raw[start : start + _BLOCK_ROWS], bins[start : start + _BLOCK_ROWS])

    def _keep(self, raw: RawMatrix, bins: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
        if self._filled + len(raw) > _BLOCK_ROWS:
            self._flush()
        end = self._filled + len(raw)
        self._raw[self._filled : end] = raw
        self._bins[self._filled : end] = bins
        self._filled = end

    def refuse(self, code: str, rows: int, at: float) -> None:
        """Count rows that could not be answered; they stretch no window that has others."""
        if self.empty:
            self._first = self._last = at
        self._errors[code] = self._errors.get(code, 0) + rows

    def _see(self, at: float) -> None:
        if not self.rows:
            self._first = self._last = at
        self._first, self._last = min(self._first, at), max(self._last, at)

    def _flush(self) -> None:
        self._slots.add(self._counts, self._raw[: self._filled])
        self._scores += np.bincount(self._bins[: self._filled], minlength=SCORE_BINS + 1)
        self._filled = 0

    def close(self, reason: str) -> Tally:
        """End the window and begin the next."""
        self._flush()
        names = (feature.name for feature in self._profile.features)
        tally = Tally(
            bundle=self._bundle,
            edges=self._profile.edges_id,
            opened=self._first,
            closed=self._last,
            rows=self.rows,
            flagged=self._flagged,
            fallback=self._fallback,
            errors=self._errors,
            features=dict(zip(names, self._slots.split(self._counts), strict=True)),
            scores=tuple(self._scores[:SCORE_BINS].tolist()),
            latency=tuple(self._latency),
            reason=reason,
            classes=tuple(self._classes.tolist()) if self._names else (),
        )
        self._begin()
        return tally


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

    def __init__(self, limits: Limits, clock: Clock, emit: Callable[[Tally], None]) -> None:
        self._limits = limits
        self._clock = clock
        self._emit = emit
        self._lock = threading.Lock()
        self._served: Served | None = None
        self._counter: Counter | None = None
        self._progress = Progress()

    @property
    def served(self) -> Served | None:
        """What serves now."""
        return self._served

    @property
    def progress(self) -> Progress:
        """How many rows were scored since the last swap, and how many failed."""
        return self._progress

    def swap(self, served: Served | None) -> None:
        """Serve with something else from the next row on; the window is cut."""
        with self._lock:
            self._close("switch")
            self._counter = (
                Counter(served.digest, served.manifest, served.profile) if served else None
            )
            self._served = served
            self._progress = Progress(self._clock.monotonic())

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
        answers = served.model.answer(raw) if served.model else "no model is loaded"
        failure = answers if isinstance(answers, str) else ""
        if isinstance(answers, str):
            answers = self._by_rule(raw, served, answers)
        moment = at if at is not None and _PLAUSIBLE[0] <= at < _PLAUSIBLE[1] else self._clock.now()
        with self._lock:
            latency = (self._clock.monotonic() - started) * 1e6
            if served is self._served and self._counter:
                self._count(self._counter, raw, answers, moment, latency)
                self._advance(len(raw), failure)
            else:  # it was swapped while it answered: its rows get a window of their own
                late = Counter(served.digest, served.manifest, served.profile)
                late.add(raw, answers, moment, latency)
                self._emit(late.close("switch"))
        return answers

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
        """Close a window whose time is up; to be called now and then."""
        with self._lock:
            if self._counter and not self._counter.empty:
                age = self._clock.monotonic() - self._counter.since
                if age >= self._limits.window_minutes * 60:
                    self._close("time")

    def stop(self) -> None:
        """Close the last window."""
        with self._lock:
            self._close("stop")

    def _close(self, reason: str) -> None:
        if self._counter and not self._counter.empty:
            self._emit(self._counter.close(reason))
