"""Scoring inside the application's own process: `from wherry_agent import Scorer`.

    with Scorer("/var/lib/wherry/state") as scorer:
        answer = scorer.score({"AMOUNT": 12.5, "NIGHTS": 2, "RISK": 3})

The agent goes on to do all else: it takes updates and reports. A thread looks once a second at
the record in which the agent notes what serves, loads what is new beside what serves, and changes
over between two rows.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from wherry_contract.bundle import open_bundle
from wherry_contract.errors import ServingError, WherryError
from wherry_contract.features import RawValue

from .clock import SystemClock
from .config import Limits
from .serving.counter import Tally
from .serving.inference import Answer, Answers, load_model
from .serving.scoring import Scorer as Core
from .serving.served import Served
from .store import BlobStore, StatePair
from .update.record import DeviceRecord
from .update.shelf import Shelf

_LOOK_SECONDS: Final = 1.0
_KEPT_WINDOWS: Final = 256
_NAMES: Final = ("state.0", "state.1")

_log = logging.getLogger("wherry")


class Scorer:
    """Scores rows in this process with the bundle that the device serves. Safe to use from threads."""

    def __init__(
        self,
        source: str | Path,
        *,
        also: Sequence[str] = (),
        windows: Callable[[Tally], None] = lambda _: None,
        limits: Limits | None = None,
    ) -> None:
        """Load a model.

        Args:
            source: the agent's state folder, or a bundle file for a trial.
            also: names that a row may carry besides the model's features.
            windows: takes each closed window of counts; called by the scorer's own thread and by
                `close`, so that no row waits for it. Of those that it is behind with 256 are kept.
            limits: when windows close; the agent's defaults.

        Raises:
            ServingError: S05, the device serves nothing yet.
            WherryError: the bundle or the folder cannot be used.
        """
        self._source = Path(source)
        self._windows = windows
        self._waiting: deque[Tally] = deque(maxlen=_KEPT_WINDOWS)
        self._core = Core(
            limits or Limits(), SystemClock(), self._waiting.append, also=frozenset(also)
        )
        self._stop = threading.Event()
        self._loading = threading.Lock()
        self._seen: tuple[object, ...] = ()
        if self._source.is_dir():
            self.refresh()
        else:
            self._core.swap(_of_file(self._source))
        if self._core.served is None:
            raise ServingError("S05", f"{self._source} names no bundle that serves")
        self._thread = threading.Thread(target=self._follow, name="wherry-scorer", daemon=True)
        self._thread.start()

    @property
    def bundle(self) -> str:
        """Digest of the bundle that serves."""
        return self._serving().digest

    @property
    def features(self) -> tuple[str, ...]:
        """Names of its features, in the order of its columns."""
        return self._serving().manifest.input.names

    def score(
        self, row: Mapping[str, RawValue] | Sequence[float], *, at: float | None = None
    ) -> Answer:
        """Score one row and count it.

        Args:
            row: named values, where one that is not there is missing; or numbers in the order of
                `features`, with NaN for missing.
            at: when it happened, Unix seconds; now if it is not said.

        Returns:
            What the serving port answers.

        Raises:
            InputError: C01 to C06, the row does not fit the input contract; it is counted.
            ServingError: S05, neither the model nor a rule can answer.
        """
        return self._core.answer_one(row, None, None, at)

    def score_many(
        self,
        rows: Sequence[Mapping[str, RawValue]] | NDArray[np.float64],
        *,
        at: float | None = None,
    ) -> Answers:
        """Score many rows at once and count them; one that is refused refuses all.

        Args:
            rows: named values, or float64, shape (rows, features), with NaN for missing.
            at: as for `score`.

        Raises:
            InputError: C01 to C06.
            ServingError: S05.
        """
        started, served = SystemClock().monotonic(), self._serving()
        return self._core.answer_rows(rows, served, started=started, at=at)

    def refresh(self) -> bool:
        """Look now whether the device serves something else; whether it did.

        Raises:
            WherryError: what it serves cannot be loaded; what served before goes on.
        """
        with self._loading:
            before = self._core.served
            self._seen = _stamps(self._source)
            record = DeviceRecord.from_dict(StatePair(self._source).peek() or {})
            shelf = Shelf(self._source, BlobStore(self._source), Limits())
            digest = record.serving.digest
            if digest:
                found = None if _is(before, digest, model=True) else shelf.load(digest)
            else:  # the model was taken out of service: the rule answers, as at the port
                rule = shelf.choose(record, probed=False).served
                found = None if rule and _is(before, rule.digest, model=False) else rule
            if found is None:
                return False
            self._core.swap(found)
            return True

    def close(self) -> None:
        """Close the last window and look no more; rows are refused from now on."""
        self._stop.set()
        self._thread.join()
        self._core.stop()
        self._core.swap(None)
        self._hand_on()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _serving(self) -> Served:
        served = self._core.served
        if served is None:
            raise ServingError("S05", "the scorer is closed")
        return served

    def _follow(self) -> None:
        """Change over when the agent did, and count what is buffered, off every row's path."""
        while not self._stop.wait(_LOOK_SECONDS):
            self._core.tick()
            if self._source.is_dir() and _stamps(self._source) != self._seen:
                try:
                    self.refresh()
                except WherryError as error:  # the agent deals with it; what served goes on
                    _log.warning(
                        "the bundle that the agent serves cannot be loaded here: %s", error
                    )
            self._hand_on()

    def _hand_on(self) -> None:
        """Give windows to the application, whose fault ends nothing here."""
        while self._waiting:
            try:
                self._windows(self._waiting.popleft())
            except Exception:  # noqa: BLE001 - whatever it throws, models go on being followed
                _log.exception("the application did not take a window")


def _is(served: Served | None, digest: str, *, model: bool) -> bool:
    return served is not None and (served.digest, bool(served.model)) == (digest, model)


def _of_file(path: Path) -> Served:
    with path.open("rb") as stream:
        bundle = open_bundle(stream)
        return Served.by_model(load_model(bundle.layout().digest, bundle.parts()))


def _stamps(folder: Path) -> tuple[object, ...]:
    """What changes whenever the agent writes its record."""
    found: list[object] = []
    for name in _NAMES:
        try:
            state = (folder / name).stat()
        except OSError:
            found.append(None)
        else:
            found.append((state.st_ino, state.st_mtime_ns))
    return tuple(found)
