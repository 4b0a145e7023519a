"""The monitor's memory: windows are read from the store once, and added up as they come.

What it says depends on the windows alone, as if all were judged anew. Windows that retention has
taken from the store stay in its sums for at most a day more.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Final

from wherry.monitor import (
    FleetSums,
    FleetView,
    Policy,
    Reference,
    Segments,
    Tally,
    Watch,
    with_outlook,
)
from wherry.rows import StoredWindow
from wherry_contract.errors import RolloutError

from .store import Store

_REBUILD_SECONDS: Final = 86_400.0
_MOST_LENGTHS: Final = 2  # of buckets, each with sums of its own
_MOST_LOOKS: Final = 3  # selections and segments, each judged by itself
_Look = tuple[tuple[tuple[str, str], ...], tuple[str, ...], bool]


class _Sums:
    """Windows by one length of bucket, and those who look at them."""

    def __init__(self, references: Mapping[str, Reference], bucket: float) -> None:
        self.tally = Tally(references, bucket)
        self.last = 0  # number of the newest window that was added
        self.looks: OrderedDict[_Look, tuple[Watch, FleetSums]] = OrderedDict()


class Watching:
    """Judges the store's windows whenever it is asked; may be asked from any thread."""

    def __init__(self, store: Store, steady: Callable[[], float] = time.monotonic) -> None:
        """Watch a store.

        Args:
            store: the fleet's memory.
            steady: a clock that never goes back, seconds.
        """
        self._store = store
        self._steady = steady
        self._lock = threading.Lock()
        self._references: dict[str, Reference] = {}  # what a digest names never changes
        self._unknown: set[str] = set()
        self._sums: OrderedDict[float, _Sums] = OrderedDict()
        self._purged, self._built_at = store.purged, steady()

    def look(
        self,
        *,
        bucket: float | None = None,
        same_hours: bool = False,
        select: Mapping[str, str] | None = None,
        by: Sequence[str] = (),
        since: float | None = None,
        brief: bool = False,
        slots: bool = False,
    ) -> FleetView:
        """The judgement as of now.

        Args:
            bucket: length of a bucket, seconds; a day if nothing.
            same_hours: compare what the week moves with the same hours of earlier weeks.
            select: labels that devices must have; together they are "the fleet".
            by: names of labels: devices that share a value are judged like a device.
            since: seconds to look back from the newest bucket's end.
            brief: of single devices, only what moved.
            slots: of all devices together, the slots of what did not move, too.

        Raises:
            RolloutError: R06, the bucket makes no sense, or no device has such a label.
            StoreError: D01 or D06.
        """
        policy = Policy()
        policy = replace(policy, bucket_seconds=bucket or policy.bucket_seconds)
        policy = replace(policy, same_hours=same_hours)
        policy.check()
        with self._lock:
            self._forget()
            sums = self._caught_up(policy.bucket_seconds)
            rows = {row.device: row.labels for row in self._store.devices(select)}
            _check_labels(rows, by)
            key = (tuple(sorted((select or {}).items())), tuple(by), same_hours)
            watch, kept = (
                sums.looks.pop(key)
                if key in sums.looks
                else (Watch(self._references, sums.tally, policy), FleetSums())
            )
            sums.looks[key] = watch, kept
            while len(sums.looks) > _MOST_LOOKS:
                sums.looks.popitem(last=False)
            segments, devices = segments_of(rows, by), frozenset(rows)
            view = watch.look(
                devices=devices, segments=segments, since=since, brief=brief, slots=slots
            )
            return with_outlook(
                view,
                sums.tally.of(devices),
                self._references,
                {} if select else self._store.labels.sums(),  # they name no device
                kept=kept,
                since=since,
                brief=brief,
            )

    def _forget(self) -> None:
        """Begin again if a bundle has become known, or, once a day, if windows were dropped."""
        known = self._unknown and self._known(self._unknown)
        old = self._steady() - self._built_at > _REBUILD_SECONDS
        if known or (old and self._store.purged != self._purged):
            self._sums.clear()
            self._unknown.clear()
            self._purged, self._built_at = self._store.purged, self._steady()

    def _caught_up(self, bucket: float) -> _Sums:
        sums = self._sums.pop(bucket, None) or _Sums(self._references, bucket)
        self._sums[bucket] = sums
        while len(self._sums) > _MOST_LENGTHS:
            self._sums.popitem(last=False)
        while True:
            last, windows = self._store.windows_after(sums.last)
            if not windows:
                return sums
            self._note(windows)
            sums.tally.add(windows)
            sums.last = last

    def _note(self, windows: Iterable[StoredWindow]) -> None:
        bundles = {item.window.bundle for item in windows} - self._references.keys()
        self._known(bundles)
        self._unknown |= bundles - self._references.keys()

    def _known(self, bundles: Iterable[str]) -> bool:
        """Take the references that the depot has; whether it has any."""
        found = {}
        for bundle in bundles:
            try:
                profile, manifest = self._store.profile(bundle), self._store.manifest(bundle)
            except RolloutError:  # R04: the monitor counts its windows as left out
                continue
            found[bundle] = Reference(profile, manifest.input, manifest.output)
        self._references |= found
        return bool(found)


def _check_labels(labels: Mapping[str, Mapping[str, str]], by: Sequence[str]) -> None:
    known = sorted({name for mine in labels.values() for name in mine})
    unknown = [name for name in by if name not in known]
    if unknown and labels:
        there = f"there are {', '.join(known[:20])}" if known else "no device has any"
        raise RolloutError("R06", f"no device has the label {', '.join(unknown)[:80]}; {there}")


def segments_of(labels: Mapping[str, Mapping[str, str]], by: Sequence[str]) -> Segments:
    """Devices that share a label's value, as ``site=paris``.

    Args:
        labels: by device.
        by: names of labels.
    """
    found: dict[str, list[str]] = {}
    for name in by:
        for device, mine in sorted(labels.items()):
            if name in mine:
                found.setdefault(f"{name}={mine[name]}", []).append(device)
    return {name: tuple(found[name]) for name in sorted(found)}
