"""A shadow: a model that scores live traffic beside the one that answers, its scores unused.

The path of a payment hands rows over and goes on; a thread of the shadow's own scores them a
moment later. What it cannot keep up with is dropped and counted. It has a budget of processor
time and of memory, and is switched off for good when it goes over one of them.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_agent.clock import Clock
from wherry_agent.config import Limits
from wherry_agent.thrift import trim
from wherry_contract.features import UNSEEN, Feature, InputContract, RawMatrix
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS, latency_bins
from wherry_contract.manifest import Manifest
from wherry_contract.shadow import COARSE, COARSE_BINS, JOINT_CELLS, MAX_DECISIONS, ShadowCounts

from .inference import Answers, Model

QUEUE_ROWS: Final = 1024  # that may wait
_PAUSE_SECONDS: Final = 0.02  # between looks at the queue: a payment wakes nobody
_PERIOD_SECONDS: Final = 5.0  # over which its share of the processor is taken
_STRIKES: Final = 2  # periods over the budget, one after the other
_JOIN_SECONDS: Final = 5.0
_COUNTED_AT_ONCE: Final = 64  # requests

Translate = Callable[[RawMatrix], RawMatrix]


@dataclass(frozen=True)
class ShadowProgress:
    """How a shadow is getting on, since it was begun in this process.

    Attributes:
        rows: scored by both models.
        failed: rows that it could not score.
        seconds: since it was begun.
        differing: rows that it decided otherwise.
        failure: the last reason of a failure, in words.
        off: why it was switched off; "" while it scores.
        detail: the same, with figures.
    """

    rows: int = 0
    failed: int = 0
    seconds: float = 0.0
    differing: int = 0
    failure: str = ""
    off: str = ""
    detail: str = ""


@dataclass
class _Counts:
    """What was counted beside one live model, until a window takes it."""

    live: str
    sides: int
    rows: int = 0
    failed: int = 0
    cpu: float = 0.0
    decisions: NDArray[np.int64] = field(init=False)
    scores: NDArray[np.int64] = field(default_factory=lambda: np.zeros(SCORE_BINS, np.int64))
    joint: NDArray[np.int64] = field(default_factory=lambda: np.zeros(JOINT_CELLS, np.int64))
    latency: NDArray[np.int64] = field(default_factory=lambda: np.zeros(LATENCY_BINS, np.int64))

    def __post_init__(self) -> None:
        self.decisions = np.zeros(self.sides**2, np.int64)


@dataclass(frozen=True)
class _Asked:
    """Rows that were answered, and by which model."""

    raw: RawMatrix
    answers: Answers
    digest: str
    manifest: Manifest


class Shadow:
    """Scores beside what answers, in a thread of its own once it is started."""

    def __init__(
        self,
        model: Model,
        limits: Limits,
        clock: Clock,
        *,
        memory: Callable[[], float | None],
        before_mib: float | None,
        cpu: Callable[[], float] = time.thread_time,
    ) -> None:
        """Take the model and its budget.

        Args:
            model: the one to be tried.
            limits: `shadow_cpu_percent` and `shadow_mib`.
            clock: time.
            memory: the agent's, in MiB; nothing where it is not known.
            before_mib: what it was before the model was loaded.
            cpu: processor seconds of the thread that asks.
        """
        self.digest = model.digest
        self._model: Model | None = model
        self._limits = limits
        self._clock = clock
        self._memory, self._before = memory, before_mib
        self._cpu = cpu
        self._queue: deque[_Asked] = deque()
        # each is written by one thread alone: payments take turns, and so no lock is needed
        self._taken_in = self._done = self._dropped = self._told_dropped = 0
        self._lock = threading.Lock()
        self._counts: _Counts | None = None
        self._last_sides = 2  # counts of other decisions do not add up, not even with none
        self._ways: tuple[str, Translate | None] = ("", None)
        self._began = self._since = clock.monotonic()
        self._progress = ShadowProgress()
        self._off_told = False
        self._cpu_since = 0.0
        self._strikes = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shadow", daemon=True)

    # --- the path of a payment ------------------------------------------------------------

    def offer(self, raw: RawMatrix, answers: Answers, digest: str, manifest: Manifest) -> None:
        """Take rows that were answered, or drop them; never waits. One caller at a time.

        Args:
            raw: float64, shape (rows, features); copied.
            answers: what they were told by the model.
            digest: of the model that answered.
            manifest: likewise.
        """
        if self._progress.off or answers.fallback:
            return
        rows, waiting = len(raw), self.waiting
        if waiting and waiting + rows > QUEUE_ROWS:
            self._dropped += rows
            return
        self._taken_in += rows
        self._queue.append(_Asked(raw.copy(), answers, digest, manifest))

    # --- the thread -----------------------------------------------------------------------

    def start(self) -> None:
        """Begin to score what is offered."""
        self._thread.start()

    def stop(self) -> None:
        """End it after the request that it is at; what waits is not scored any more."""
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join(_JOIN_SECONDS)

    def _run(self) -> None:
        self._cpu_since = self._cpu()
        while not self._stopping.wait(_PAUSE_SECONDS) and not self._progress.off:
            try:
                self.work()
            except Exception as error:  # noqa: BLE001 - a bug here must not pass for agreement
                self._switch_off("crashed", f"{type(error).__name__}: {error}"[:200])

    def work(self) -> None:
        """Score what waits, and look at the budget."""
        while not self._stopping.is_set() and not self._progress.off:
            self._look()
            batch = [self._queue.popleft() for _ in range(min(len(self._queue), _COUNTED_AT_ONCE))]
            if not batch or self._progress.off:
                return
            began = self._cpu()
            found = [(asked, *self._score(asked)) for asked in batch]
            self._count(found, self._cpu() - began)
            self._done += sum(len(asked.raw) for asked in batch)

    def _score(self, asked: _Asked) -> tuple[Answers | str, float]:
        """What the shadow says, or why it says nothing; and the microseconds that it took."""
        model = self._model
        if self._stopping.is_set() or model is None or self._progress.off:
            return "", 0.0
        if self._ways[0] != asked.manifest.input.digest:
            way = translation(asked.manifest.input, model.manifest.input)
            self._ways = (asked.manifest.input.digest, way)
        translate = self._ways[1]
        if translate is None:
            self._switch_off("inputs", "it wants features that the model which answers does not")
            return "", 0.0
        began = self._clock.monotonic()
        found = model.answer(translate(asked.raw))
        took = (self._clock.monotonic() - began) * 1e6
        self._look()
        return found, took

    def _count(self, found: Iterable[tuple[_Asked, Answers | str, float]], cpu: float) -> None:
        with self._lock:
            for asked, answers, took in found:
                if answers == "":
                    continue
                counts = self._counts_beside(asked)
                counts.cpu, cpu = counts.cpu + cpu, 0.0
                if isinstance(answers, str):
                    self._fail(counts, len(asked.raw), answers)
                else:
                    self._add(counts, asked, answers, took)

    def _counts_beside(self, asked: _Asked) -> _Counts:
        if self._counts is None or self._counts.live != asked.digest:
            if self._model:  # once it is off, what was counted last is of the same decisions
                self._last_sides = len(self._sides(asked.manifest)) or 2
            self._counts = _Counts(asked.digest, self._last_sides)
        return self._counts

    def _sides(self, live: Manifest) -> tuple[str, ...]:
        """Classes and none, where both models decide between the same, and few of them."""
        model = self._model
        own = model.manifest.output.classes if model else ()
        same = own == live.output.classes and 0 < len(own) < MAX_DECISIONS
        return (*own, "") if same else ()

    def _fail(self, counts: _Counts, rows: int, failure: str) -> None:
        counts.failed += rows
        self._advance(failed=rows, failure=failure)

    def _add(self, counts: _Counts, asked: _Asked, answers: Answers, took: float) -> None:
        rows = len(asked.raw)
        before, after = self._decided(counts, asked.answers), self._decided(counts, answers)
        np.add.at(counts.decisions, before * counts.sides + after, 1)
        np.add.at(counts.scores, answers.bins, 1)
        cells = asked.answers.bins // COARSE * COARSE_BINS + answers.bins // COARSE
        np.add.at(counts.joint, cells, 1)
        counts.latency[latency_bins([took])] += 1
        counts.rows += rows
        self._advance(rows=rows, differing=int(np.count_nonzero(before != after)))

    def _decided(self, counts: _Counts, answers: Answers) -> NDArray[np.int64]:
        if counts.sides > 2 and answers.decisions is not None:
            return np.where(answers.decisions < 0, counts.sides - 1, answers.decisions)
        return answers.flagged.astype(np.int64)

    def _advance(
        self, rows: int = 0, failed: int = 0, differing: int = 0, failure: str = ""
    ) -> None:
        done = self._progress
        self._progress = ShadowProgress(
            done.rows + rows,
            done.failed + failed,
            0.0,
            done.differing + differing,
            failure or done.failure,
            done.off,
            done.detail,
        )

    # --- the budget -----------------------------------------------------------------------

    def _look(self) -> None:
        now = self._clock.monotonic()
        if now - self._since < _PERIOD_SECONDS:
            return
        used = self._cpu()
        share = 100 * (used - self._cpu_since) / (now - self._since)
        self._since, self._cpu_since = now, used
        most = self._limits.shadow_cpu_percent
        self._strikes = self._strikes + 1 if share > most else 0
        if self._strikes >= _STRIKES:
            self._switch_off("cpu", f"{share:.0f} % of a core, {most:.0f} % may be")
        self.check_memory()

    def check_memory(self) -> None:
        """Switch it off if the agent has grown by more than it may since before it was loaded."""
        held = self._memory()
        if held is None or self._before is None:
            return
        grown, most = held - self._before, self._limits.shadow_mib
        if grown > most:
            self._switch_off("memory", f"the agent has grown by {grown:.0f} MiB, {most:g} may be")

    def _switch_off(self, why: str, detail: str) -> None:
        if self._progress.off:
            return
        done = self._progress
        self._progress = ShadowProgress(
            done.rows, done.failed, 0.0, done.differing, done.failure, why, detail
        )
        self._queue.clear()
        self._model = None
        trim()

    @property
    def waiting(self) -> int:
        """Rows that were taken and are not scored yet."""
        return 0 if self._progress.off else self._taken_in - self._done

    # --- what is told ---------------------------------------------------------------------

    @property
    def progress(self) -> ShadowProgress:
        """How it is getting on."""
        done, seconds = self._progress, self._clock.monotonic() - self._began
        return ShadowProgress(
            done.rows, done.failed, seconds, done.differing, done.failure, done.off, done.detail
        )

    def take(self, live: str) -> ShadowCounts | None:
        """What was counted beside a model since the last time; nothing if there is nothing.

        Args:
            live: digest of the model whose window takes it; what was counted beside another
                one is forgotten.
        """
        with self._lock:
            counts, self._counts = self._counts, None
            dropped, off = self._dropped - self._told_dropped, self._progress.off
        if counts and counts.live != live:
            counts = None
        if counts is None and not dropped and (not off or self._off_told):
            return None
        self._told_dropped += dropped
        self._off_told = bool(off)
        counts = counts or _Counts(live, self._last_sides)
        return ShadowCounts(
            bundle=self.digest,
            rows=counts.rows,
            failed=counts.failed,
            dropped=dropped,
            decisions=tuple(counts.decisions.tolist()),
            scores=tuple(counts.scores.tolist()),
            joint=tuple(counts.joint.tolist()),
            latency=tuple(counts.latency.tolist()),
            cpu_ms=round(counts.cpu * 1000),
            off=off,
        )


def translation(live: InputContract, shadow: InputContract) -> Translate | None:
    """How rows that were checked against one contract are laid out for another.

    Args:
        live: of the model that answers.
        shadow: of the other.

    Returns:
        Nothing if the other wants a feature that the rows do not have, or of another kind.
    """
    if live.digest == shadow.digest:
        return lambda raw: raw
    places = {feature.name: place for place, feature in enumerate(live.features)}
    columns: list[tuple[int, NDArray[np.float64] | None]] = []
    for feature in shadow.features:
        place = places.get(feature.name)
        if place is None or live.features[place].dtype != feature.dtype:
            return None
        columns.append((place, _codes(live.features[place], feature)))

    def translate(raw: RawMatrix) -> RawMatrix:
        found = np.empty((len(raw), len(columns)))
        for at, (place, codes) in enumerate(columns):
            column = raw[:, place]
            if codes is not None:
                gaps = np.isnan(column)
                index = np.where(gaps | (column < 0), len(codes) - 1, column).astype(np.intp)
                column = np.where(gaps, column, codes[index])
            found[:, at] = column
        return found

    return translate


def _codes(live: Feature, shadow: Feature) -> NDArray[np.float64] | None:
    """By a category's code in the one list its code in the other; unseen stands last."""
    if live.categories == shadow.categories:
        return None
    known = {name: float(code) for code, name in enumerate(shadow.categories)}
    return np.array([*(known.get(name, UNSEEN) for name in live.categories), UNSEEN])
