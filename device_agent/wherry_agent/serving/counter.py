"""Counting what went by: one window after the other.

Buffered: rows are kept with what they were told, and counted a block at a time: when there are
as many, when the agent is idle and when the window closes. So a row costs about a microsecond,
and no payment waits for more than a block (benchmarks/drift_counting.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from wherry_agent.clock import Clock, SystemClock
from wherry_contract.decision import class_counts
from wherry_contract.features import RawMatrix
from wherry_contract.histograms import (
    LATENCY_BINS,
    MEMORY_BINS,
    NEAR_BINS,
    SCORE_BINS,
    TEMPERATURE_BINS,
    latency_bins,
    memory_bin,
    score_bins,
    temperature_bin,
    value_bins,
)
from wherry_contract.manifest import Manifest
from wherry_contract.messages import Place
from wherry_contract.profile import ReferenceProfile
from wherry_contract.shadow import ShadowCounts
from wherry_contract.slots import FeatureCounts
from wherry_contract.window import Window

from .inference import Answers

BLOCK_ROWS: Final = 256  # what a flush counts at most
_RULE: Final = SCORE_BINS  # the bin of rows that the rule answered; it is not sent
# what one row is kept as, by whether it was flagged and its bin: nothing is made while one waits
_ONES: Final = tuple(
    tuple(
        (np.array([flag]).tobytes(), np.array([place], np.intp).tobytes())
        for place in range(SCORE_BINS)
    )
    for flag in (False, True)
)


@dataclass(frozen=True)
class Tally:
    """A closed window that has no place in an outbox yet.

    Attributes:
        profile: what it was counted against, for the compact form.

    The other fields are `Window`'s.
    """

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
    flagged_scores: tuple[int, ...] = ()
    near: int = 0
    memory: tuple[int, ...] = ()
    temperature: tuple[int, ...] = ()
    pairs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    probing: Mapping[str, int] = field(default_factory=dict)
    profile: ReferenceProfile | None = None
    shadow: ShadowCounts | None = None

    def window(self, place: Place) -> Window:
        """The message."""
        known = {name: value for name, value in self.__dict__.items() if name != "profile"}
        return Window(place=place, **known)


# raw rows, flags, bins, decisions, when it was (or nothing, and monotonic time), latency in us
_Held = tuple[Any, Any, Any, NDArray[np.int64] | None, float | None, float, float]

Look = Callable[
    [RawMatrix, NDArray[np.uint8], NDArray[np.intp], NDArray[np.bool_]], Mapping[str, int]
]
"""Sees raw rows, their slots, their scores' bins and flags; says what of that is to be counted."""


class Counter:
    """Counts one window after the other for one bundle; not to be shared by threads."""

    def __init__(
        self,
        bundle: str,
        manifest: Manifest,
        profile: ReferenceProfile,
        look: Look | None = None,
        clock: Clock | None = None,
    ) -> None:
        """Take the model's bundle, who else looks at each block that is counted, and the time."""
        self._clock = clock or SystemClock()
        self._width = len(manifest.input.features)
        self._look_at = look
        self._bundle = bundle
        self._profile = profile
        self._slots = profile.counter(manifest.input)
        self._names = len(manifest.output.classes)
        self._nearest = threshold_bin(manifest)
        self._begin()

    def _begin(self) -> None:
        self.rows = self._filled = self._flagged = self._near = 0
        self._held: list[_Held] = []
        self._counts = self._slots.zeros()
        # twice the bins, and one for the rule: of rows that passed, and of those that were flagged
        self._scores = np.zeros(2 * (SCORE_BINS + 1), np.int64)
        self._classes = np.zeros(self._names + 1, np.int64)
        self._latency = np.zeros(LATENCY_BINS, np.int64)
        self._memory = np.zeros(MEMORY_BINS, np.int64)
        self._temperature = np.zeros(TEMPERATURE_BINS, np.int64)
        self._errors: dict[str, int] = {}
        self._probing: dict[str, int] = {}
        self._first = self._last = 0.0
        self.since = 0.0  # monotonic; of the first thing counted

    @property
    def empty(self) -> bool:
        """Whether there is nothing to tell."""
        return not self.rows and not self._errors

    @property
    def seen(self) -> int:
        """Rows that were answered or refused."""
        return self.rows + sum(self._errors.values())

    def add(self, raw: RawMatrix, answers: Answers, at: float, latency_us: float) -> None:
        """Count answered rows.

        Args:
            raw: float64, shape (rows, features); nobody may change it any more.
            answers: what they were told.
            at: when they happened, Unix seconds.
            latency_us: from request to answer.
        """
        rows = len(raw)
        if self._filled + rows > BLOCK_ROWS:
            self.flush()
        bins = _bins(answers) if answers.fallback else answers.bins
        told = np.asarray(bins, np.intp)
        # what has no score here has no class either: the two add up to the same
        decided = None if answers.fallback else answers.decisions
        self._held.append((raw, answers.flagged, told, decided, at, 0.0, latency_us))
        self._filled += rows
        self.rows += rows

    def add_one(  # noqa: PLR0917 - keywords would cost every payment some tenths of a microsecond
        self,
        raw: bytes,
        score_bin: int,
        flagged: bool,  # noqa: FBT001 - likewise
        at: float | None,
        done: float,
        latency_us: float,
    ) -> None:
        """Count one row that a model of one score answered.

        Args:
            raw: its float64 values.
            score_bin: 0 to 63.
            flagged: whether the score reaches the threshold.
            at: when it happened, Unix seconds; nothing for `done`.
            done: monotonic seconds when it was answered.
            latency_us: from request to answer.
        """
        if self._filled >= BLOCK_ROWS:
            self.flush()
        flag, place = _ONES[flagged][score_bin]
        self._held.append((raw, flag, place, None, at, done, latency_us))
        self._filled += 1
        self.rows += 1

    def refuse(self, code: str, rows: int, at: float) -> None:
        """Count rows that could not be answered; they stretch no window that has others."""
        if self.empty:
            self._first = self._last = at
        self._errors[code] = self._errors.get(code, 0) + rows

    def look(self, memory_mib: float | None, celsius: float | None) -> None:
        """Count a look at the agent's memory, and at the board's temperature if it has a sensor."""
        if memory_mib is not None:
            self._memory[memory_bin(memory_mib)] += 1
        if celsius is not None:
            self._temperature[temperature_bin(celsius)] += 1

    def flush(self) -> None:
        """Count what is buffered: at most a block, or one large request."""
        if not self._held:
            return
        raws, flags, bins, decisions, moments, done, latencies = zip(*self._held, strict=True)
        moments = self._dated(moments, done)
        known = self.rows > self._filled
        self._first = min(self._first, *moments) if known else min(moments)
        self._last = max(self._last, *moments) if known else max(moments)
        self._held.clear()
        self._filled = 0
        np.add.at(self._latency, latency_bins(latencies), 1)
        raw = _joined(raws, np.float64).reshape(-1, self._width)
        self._count(raw, _joined(flags, np.bool_), _joined(bins, np.intp))
        if self._names:
            for decided in decisions:
                if decided is not None:
                    self._classes += class_counts(decided, self._names)

    def _dated(
        self, moments: tuple[float | None, ...], done: tuple[float, ...]
    ) -> tuple[float, ...]:
        """Unix seconds of each; the clock is asked once, and not while a payment waits."""
        if None not in moments:
            return moments  # type: ignore[return-value]  # just looked
        shift = self._clock.now() - self._clock.monotonic()
        pairs = zip(moments, done, strict=True)
        return tuple(shift + then if at is None else at for at, then in pairs)

    def _count(self, raw: RawMatrix, flagged: NDArray[np.bool_], bins: NDArray[np.intp]) -> None:
        places = np.empty(raw.shape, np.uint8) if self._look_at else None
        self._slots.add(self._counts, raw, places)
        self._flagged += int(np.count_nonzero(flagged))
        near = (bins >= self._nearest - NEAR_BINS) & (bins <= self._nearest) & ~flagged
        self._near += int(np.count_nonzero(near))
        cells = bins + flagged * (SCORE_BINS + 1)
        self._scores += np.bincount(cells, minlength=len(self._scores))
        if self._look_at and places is not None:
            for name, count in self._look_at(raw, places, bins, flagged).items():
                self._probing[name] = self._probing.get(name, 0) + count

    def close(self, reason: str, shadow: ShadowCounts | None = None, at: float = 0.0) -> Tally:
        """End the window and begin the next.

        Args:
            reason: why.
            shadow: what was counted beside it.
            at: Unix seconds, for a window that has nothing else.
        """
        if self.empty:
            self._first = self._last = at
        self.flush()
        names = (feature.name for feature in self._profile.features)
        pairs = (pair.name for pair in self._profile.pairs)
        passed, flagged = np.split(self._scores, 2)
        tally = Tally(
            bundle=self._bundle,
            edges=self._profile.edges_id,
            opened=self._first,
            closed=self._last,
            rows=self.rows,
            flagged=self._flagged,
            fallback=int(passed[_RULE] + flagged[_RULE]),
            errors=self._errors,
            features=dict(zip(names, self._slots.split(self._counts), strict=True)),
            scores=tuple((passed + flagged)[:SCORE_BINS].tolist()),
            latency=tuple(self._latency.tolist()),
            reason=reason,
            classes=tuple(self._classes.tolist()) if self._names else (),
            flagged_scores=tuple(flagged[:SCORE_BINS].tolist()),
            near=self._near,
            memory=_if_any(self._memory),
            temperature=_if_any(self._temperature),
            pairs=dict(zip(pairs, self._slots.split_pairs(self._counts), strict=True)),
            probing=self._probing,
            profile=self._profile,
            shadow=shadow,
        )
        self._begin()
        return tally


def threshold_bin(manifest: Manifest) -> int:
    """The score bin in which a model's threshold lies."""
    output = manifest.output
    if output.edges:
        return int(value_bins([output.threshold], output.edges)[0])
    return int(score_bins([output.threshold])[0])


def _bins(answers: Answers) -> NDArray[np.intp]:
    """A rule has no score."""
    return np.full(len(answers.flagged), _RULE, np.intp)


def _joined(parts: Sequence[NDArray[Any] | bytes], dtype: type[np.generic]) -> NDArray[Any]:
    """Arrays of one type in a row; for many small ones ten times as fast as `concatenate`."""
    try:
        return np.frombuffer(b"".join(parts), dtype)  # type: ignore[arg-type]  # they are buffers
    except TypeError:  # one is no stretch of memory, as a part of another's columns
        whole = (part if isinstance(part, bytes) else part.tobytes() for part in parts)
        return np.frombuffer(b"".join(whole), dtype)


def _if_any(counts: NDArray[np.int64]) -> tuple[int, ...]:
    return tuple(counts.tolist()) if counts.any() else ()
