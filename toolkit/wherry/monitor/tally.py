"""Adding windows up: each once, into its bucket, if it belongs to a known reference.

A `Tally` is told windows as they arrive and keeps sums, so that nobody has to add all of
history up again to know what has changed since. Sums are of integers, hence exact: order,
repeats, and how rows were cut into windows change nothing. No clock, file or network.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wherry.rows import StoredWindow
from wherry_contract.histograms import LATENCY_BINS
from wherry_contract.window import Window

from .rowmath import Row
from .subjects import Group, Reference, window_rows
from .view import DAY, WEEK, Health, Policy, Refusal

FLEET = ""  # the id of no device: all of them together
_MOST_BUCKETS = 7  # that one window may span, or a week
_HEALTH = Group("", "")  # windows, rows, flagged, fallback, and latency
_COUNTS = 4


class Seen:
    """Numbers that were there, as ranges: what arrives in order takes no room."""

    def __init__(self) -> None:
        self._firsts: list[int] = []
        self._lasts: list[int] = []

    def add(self, number: int) -> bool:
        """Note a number; whether it is new."""
        place = bisect_right(self._firsts, number)
        if place and number <= self._lasts[place - 1]:
            return False
        after = place < len(self._firsts) and self._firsts[place] == number + 1
        if place and self._lasts[place - 1] == number - 1:
            self._lasts[place - 1] = self._lasts.pop(place) if after else number
            if after:
                del self._firsts[place]
        elif after:
            self._firsts[place] = number
        else:
            self._firsts.insert(place, number)
            self._lasts.insert(place, number)
        return True


@dataclass(eq=False)
class _Bucket:
    """Sums of one stretch of time, by group and device, and when they last changed."""

    rows: dict[Group, dict[str, NDArray[Any]]] = field(default_factory=dict)
    errors: dict[str, Counter[str]] = field(default_factory=dict)
    changed: int = 0

    def add(self, device: str, window: Window, rows: Mapping[Group, Row]) -> None:
        counts = [1, window.rows, window.flagged, window.fallback, *window.latency]
        for group, row in (*rows.items(), (_HEALTH, np.array(counts, np.int64))):
            sums = self.rows.setdefault(group, {})
            before = sums.get(device)
            sums[device] = _narrow(row if before is None else row + before)
        if window.errors:
            self.errors.setdefault(device, Counter()).update(window.errors)


def _narrow(row: NDArray[Any]) -> NDArray[Any]:
    """The same counts in a quarter of the bytes, where they fit; most do, and there are many."""
    return row.astype(np.uint16 if int(row.max(initial=0)) < 2**16 else np.int64)


class Tally:
    """Sums of windows, by bucket, device and what counts alike.

    Windows that run ahead of the server's clock are summed apart: whether they are a wrong
    clock or a fleet that replays another time shows only when all are known.
    """

    def __init__(self, references: Mapping[str, Reference], bucket_seconds: float) -> None:
        """Begin with nothing.

        Args:
            references: by bundle.
            bucket_seconds: length of a bucket.
        """
        self._references = references
        self._policy = Policy(bucket_seconds=bucket_seconds)
        self._seen: dict[tuple[str, str], Seen] = {}
        self._books: tuple[dict[float, _Bucket], dict[float, _Bucket]] = ({}, {})
        self._arrived: dict[str, list[int]] = {}  # by device: in time, ahead
        self._latest: dict[tuple[str, bool], dict[str, tuple[float, str]]] = {}
        self._refused: dict[tuple[bool, str, str, str, str], list[int]] = {}
        self.clock = 0  # counts what was added

    def add(self, windows: Iterable[StoredWindow]) -> None:
        """Add windows; each (device, spool, seq) counts once.

        What counted against other edges than its bundle's reference is refused: its sums
        would be nonsense. So is a window of no one time: one payment with a wild time would
        take all the others of its window along.
        """
        for stored in windows:
            place = stored.window.place
            if self._seen.setdefault((stored.device, place.spool), Seen()).add(place.seq):
                self._take(stored)

    def _take(self, stored: StoredWindow) -> None:
        window, device = stored.window, stored.device
        ahead = window.closed > stored.received_at + DAY
        self._arrived.setdefault(device, [0, 0])[ahead] += 1
        self.clock += 1
        reference = self._references.get(window.bundle)
        reason = _reason_against(reference, window) or _reason_of_time(window, self._policy)
        if reason or reference is None:
            key = (False, device, reason, window.bundle, window.edges)
            _count(self._refused.setdefault(key, [0, 0]), window)
            return
        if ahead:
            reason = "its payments lie in the future: look for a wrong clock"
            key = (True, device, reason, window.bundle, window.edges)
            _count(self._refused.setdefault(key, [0, 0]), window)
        start = self._policy.bucket((window.opened + window.closed) / 2)
        bucket = self._books[ahead].setdefault(start, _Bucket())
        bucket.add(device, window, window_rows(window, reference))
        bucket.changed = self.clock
        latest = self._latest.setdefault((device, ahead), {})
        newest = max(latest.get(window.bundle, (0.0, "")), (window.closed, window.edges))
        latest[window.bundle] = newest

    def of(self, devices: Collection[str] | None = None) -> Sheet:
        """What devices have counted, all or some of them."""
        chosen = [name for name in self._arrived if devices is None or name in devices]
        every = sum(sum(self._arrived[name]) for name in chosen)
        ahead = 2 * sum(self._arrived[name][1] for name in chosen) >= every > 0
        books = self._books if ahead else self._books[:1]
        latest: dict[str, tuple[float, str]] = {}
        for name in chosen:
            for late in range(len(books)):
                for bundle, newest in self._latest.get((name, bool(late)), {}).items():
                    latest[bundle] = max(latest.get(bundle, (0.0, "")), newest)
        refusals = [
            Refusal(*key[1:], *counts)
            for key, counts in sorted(self._refused.items())
            if key[1] in chosen and not (key[0] and ahead)
        ]
        return Sheet(books, frozenset(chosen), latest, tuple(refusals), ahead, self._policy)


def _count(counts: list[int], window: Window) -> None:
    counts[0] += 1
    counts[1] += window.rows


def _reason_against(reference: Reference | None, window: Window) -> str:
    if reference is None:
        return "the bundle is not in the depot"
    profile = reference.profile
    if window.edges != profile.edges_id:
        return "counted against other edges"
    if len(window.classes) != len(profile.classes):
        return "other classes than its bundle has"
    slots = {item.name: len(item.counts.bins) for item in profile.features}
    if {name: len(counts.bins) for name, counts in window.features.items()} != slots:
        return "other features or bins than its edges have"
    cells = {pair.name: len(pair.counts) for pair in profile.pairs}
    if any(len(counts) != cells.get(name) for name, counts in window.pairs.items()):
        return "other pairs than its bundle has"
    return ""


def _reason_of_time(window: Window, policy: Policy) -> str:
    if window.closed - window.opened > max(WEEK, _MOST_BUCKETS * policy.bucket_seconds):
        return "its payments lie too far apart for one window: look for a wrong time among them"
    return ""


@dataclass(frozen=True, eq=False)
class Sheet:
    """What some devices have counted: a look at a tally, not a copy.

    Attributes:
        chosen: the devices that were asked for, of those that ever sent anything.
        latest: bundle -> when its newest window closed, with the edges it counted against.
        refusals: windows that were left out.
        ahead: whether most windows run ahead of the server's clock, so that they all count.
    """

    _books: tuple[dict[float, _Bucket], ...]
    chosen: frozenset[str]
    latest: Mapping[str, tuple[float, str]]
    refusals: tuple[Refusal, ...]
    ahead: bool
    _policy: Policy

    def by_age(self) -> list[str]:
        """Bundles, the one that served last before the others."""
        latest = self.latest
        return sorted(latest, key=lambda bundle: (latest[bundle], bundle), reverse=True)

    @property
    def windows(self) -> int:
        """How many count."""
        rows = (row for start in self.starts() for _, row in self._rows(start, _HEALTH))
        return sum(int(row[0]) for row in rows)

    def starts(self) -> list[float]:
        """Of the buckets that hold anything, by time."""
        found = {start for book in self._books for start in book}
        return sorted(start for start in found if any(True for _ in self._rows(start, _HEALTH)))

    def changed(self, start: float) -> int:
        """The tally's clock when a bucket was last added to."""
        return max(book[start].changed for book in self._books if start in book)

    def groups(self, start: float) -> set[Group]:
        """What was counted in a bucket."""
        found = {g for book in self._books if start in book for g in book[start].rows}
        return {g for g in found - {_HEALTH} if any(True for _ in self._rows(start, g))}

    def counted(self, starts: Iterable[float], devices: Collection[str]) -> bool:
        """Whether any of these devices counted in any of these buckets."""
        return bool(devices) and any(
            device in devices for start in starts for device, _ in self._rows(start, _HEALTH)
        )

    def matrix(self, start: float, group: Group, places: Mapping[str, int]) -> Row:
        """The counts of a bucket: int64, shape (places, counts).

        Args:
            start: of the bucket.
            group: which counts; somebody must have counted them.
            places: for each device, its row.
        """
        rows = list(self._rows(start, group))
        found = np.zeros((len(places), len(rows[0][1])), np.int64)
        for device, row in rows:
            found[places[device]] += row
        return found

    def _rows(self, start: float, group: Group) -> Iterator[tuple[str, Row]]:
        for book in self._books:
            if start in book:
                for device, row in book[start].rows.get(group, {}).items():
                    if device in self.chosen:
                        yield device, row.astype(np.int64)

    @property
    def devices(self) -> tuple[str, ...]:
        """Those whose windows count, by id."""
        found = {name for start in self.starts() for name, _ in self._rows(start, _HEALTH)}
        return tuple(sorted(found))

    def health(self, starts: Iterable[float], *, brief: bool) -> tuple[Health, ...]:
        """How all did in each bucket, and each device: in each, or (brief) in all of them."""
        fleet, alone, length = list[Health](), list[Health](), self._policy.bucket_seconds
        sums: dict[str, _Sum] = {}
        for start in starts:
            found = self._sums(start)
            fleet.append(sum(found.values(), _Sum()).health(FLEET, start, start + length))
            if not brief:
                alone += [item.health(name, start, start + length) for name, item in found.items()]
                continue
            for name, item in found.items():
                before = sums.get(name, _Sum(opened=start))
                sums[name] = before + item
                sums[name].closed = start + length
        alone += [item.health(name, item.opened, item.closed) for name, item in sums.items()]
        return tuple(sorted([*fleet, *alone], key=lambda item: (item.opened, item.device)))

    def _sums(self, start: float) -> dict[str, _Sum]:
        found: dict[str, _Sum] = {}
        for name, row in self._rows(start, _HEALTH):
            found[name] = found.get(name, _Sum()) + _Sum(row)
        for book in self._books:
            for name, errors in book[start].errors.items() if start in book else ():
                if name in found:
                    found[name] += _Sum(errors=errors)
        return found


@dataclass(eq=False)
class _Sum:
    """A row of health, and what failed."""

    row: Row = field(default_factory=lambda: np.zeros(_COUNTS + LATENCY_BINS, np.int64))
    errors: Mapping[str, int] = field(default_factory=dict)
    opened: float = 0.0
    closed: float = 0.0

    def __add__(self, other: _Sum) -> _Sum:
        both = Counter(self.errors) + Counter(other.errors) if other.errors else self.errors
        return _Sum(self.row + other.row, both, self.opened, self.closed)

    def health(self, device: str, opened: float, closed: float) -> Health:
        """As it is shown."""
        windows, rows, flagged, fallback, *latency = self.row.tolist()
        return Health(
            device=device,
            opened=opened,
            closed=closed,
            windows=windows,
            rows=rows,
            flagged=flagged,
            fallback=fallback,
            errors=dict(sorted(self.errors.items())),
            latency=tuple(latency),
        )
