"""The judgement: what has drifted, where, and by which rule. Pure; see docs/drift.md.

windows --(Tally)--> buckets --(Track)--> comparisons of a tick
        --(false discovery rate)--> raised --(two of three)--> decisions
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import numpy as np

from wherry.rows import StoredWindow

from .present import present
from .rowmath import Floats, adjust
from .subjects import Key, Reference, Subject, answer_subjects, feature_subjects
from .tally import FLEET, Sheet, Tally
from .track import Track
from .view import DAY, FleetView, Policy

_OPEN: Final = 3  # newest buckets that windows still come for
_MOST_CELLS: Final = 2_000_000  # of history, some 150 MB
Segments = Mapping[str, tuple[str, ...]]
"""Names of groups of devices, as ``site=paris``, with the devices in them."""


def judge(
    references: Mapping[str, Reference],
    windows: Iterable[StoredWindow],
    policy: Policy | None = None,
    segments: Segments | None = None,
) -> FleetView:
    """Judge windows.

    Args:
        references: by the digest of the bundle.
        windows: of the devices that are looked at; together they are "the fleet".
        policy: the defaults if nothing.
        segments: groups of devices that are judged like devices.

    Raises:
        RolloutError: R06, the policy makes no sense.
    """
    policy = policy or Policy()
    policy.check()
    tally = Tally(references, policy.bucket_seconds)
    tally.add(windows)
    return Watch(references, tally, policy).look(segments=segments)


class Watch:
    """Judges a tally again and again; only what has changed since is judged anew.

    What it says is what judging all from the start would say. It goes on from before the
    oldest bucket that has changed, if that is among the newest few, and else begins again.
    """

    def __init__(
        self,
        references: Mapping[str, Reference],
        tally: Tally,
        policy: Policy,
        *,
        most_cells: int = _MOST_CELLS,
    ) -> None:
        """Watch a tally.

        Args:
            references: by the digest of the bundle.
            tally: its buckets are as long as the policy's.
            policy: how it is judged.
            most_cells: so many comparisons are remembered whole; of older ones what was raised
                and those of all devices together.
        """
        self._most_cells = most_cells
        self._references = references
        self._tally = tally
        self._policy = policy
        self._kept: list[_Court] = []  # as it stood after some of the buckets, the newest last

    def look(
        self,
        *,
        devices: frozenset[str] | None = None,
        segments: Segments | None = None,
        since: float | None = None,
        brief: bool = False,
        slots: bool = False,
    ) -> FleetView:
        """The judgement as of now.

        Args:
            devices: that are looked at; all if nothing. Together they are "the fleet".
            segments: groups of devices that are judged like devices.
            since: seconds before the end of the newest bucket; what closed earlier is left
                out, but for what is held for true now.
            brief: of single devices, only what moved, and their health as one sum.
            slots: of all devices together, the slots of what did not move, too.
        """
        sheet = self._tally.of(devices)
        court = self._judged(sheet, segments or {})
        return present(
            court.tracks,
            court.places,
            sheet,
            self._references,
            self._policy,
            since=since,
            brief=brief,
            slots=slots,
        )

    def _judged(self, sheet: Sheet, segments: Segments) -> _Court:
        subjects, starts = subjects_of(self._references, sheet), sheet.starts()
        while self._kept and not self._kept[-1].stands(sheet, subjects, segments):
            self._kept.pop()
        court = (
            self._kept[-1]
            if self._kept
            else _Court(self._policy, segments, sheet, self._most_cells)
        )
        for start in starts[court.ticks :]:
            court = court.copy()
            court.admit(sheet, subjects)
            court.tick(start, sheet)
            self._keep(court)
        return court

    def _keep(self, court: _Court) -> None:
        """Keep what later looks may go on from: the newest few, and now and then an older one."""
        late = 1 + int(DAY // self._policy.bucket_seconds)
        self._kept = [
            item
            for item in (*self._kept, court)
            if (age := court.ticks - item.ticks) <= _OPEN
            or (item.ticks % late == 0 and age < 2 * late)
        ]


class _Court:
    """All subjects at all places, up to some bucket."""

    def __init__(self, policy: Policy, segments: Segments, sheet: Sheet, most_cells: int) -> None:
        self._policy = policy
        self._most_cells = most_cells
        self._segments = segments
        self._ahead = sheet.ahead
        self._clocks: dict[float, int] = {}
        self._by_key: dict[Key, Track] = {}
        self._cells: list[int] = []  # of each tick whose history is whole
        self.chosen = frozenset[str]()
        self.places: dict[str, int] = {FLEET: 0}
        for name in segments:
            self.places[name] = len(self.places)

    @property
    def tracks(self) -> tuple[Track, ...]:
        """One for each subject."""
        return tuple(self._by_key.values())

    @property
    def ticks(self) -> int:
        """How many buckets it has judged."""
        return len(self._clocks)

    def stands(self, sheet: Sheet, subjects: Iterable[Subject], segments: Segments) -> bool:
        """Whether what was judged would be judged the same again."""
        wanted = {subject.key: subject for subject in subjects}
        return (
            segments == self._segments
            and sheet.ahead == self._ahead
            and self.chosen <= sheet.chosen
            and not sheet.counted(self._clocks, sheet.chosen - self.chosen)
            and all(key in wanted for key in self._by_key)
            and all(
                np.array_equal(track.subject.reference, wanted[key].reference)
                for key, track in self._by_key.items()
            )
            and self._untouched(sheet)
        )

    def _untouched(self, sheet: Sheet) -> bool:
        known = [start for start in sheet.starts() if start <= max(self._clocks, default=-1.0)]
        return {start: sheet.changed(start) for start in known} == self._clocks

    def admit(self, sheet: Sheet, subjects: Iterable[Subject]) -> None:
        """Take what is new: devices and subjects."""
        for device in sorted(sheet.chosen - self.chosen):
            self.places[device] = len(self.places)
        self.chosen = sheet.chosen
        for subject in subjects:
            if subject.key not in self._by_key:
                track = Track(subject, self._policy, len(self._segments))
                self._by_key[subject.key] = track
        for track in self._by_key.values():
            track.grow(len(self.places))

    def copy(self) -> _Court:
        """A copy that goes its own way."""
        found = _Court.__new__(_Court)
        found.__dict__.update(self.__dict__)
        found.places, found._clocks = dict(self.places), dict(self._clocks)  # noqa: SLF001 - its own class
        found._cells = list(self._cells)  # noqa: SLF001 - its own class
        found._by_key = {key: track.copy() for key, track in self._by_key.items()}  # noqa: SLF001 - its own class
        return found

    def tick(self, start: float, sheet: Sheet) -> None:
        """Judge all that is due in one bucket, by one false discovery rate."""
        self._clocks[start] = sheet.changed(start)
        first, due = 1 + len(self._segments), []
        members = [
            [self.places[name] for name in names if name in self.places]
            for names in self._segments.values()
        ]
        for group in sorted(sheet.groups(start)):
            tracks = [track for track in self.tracks if track.subject.group == group]
            if not tracks:
                continue
            rows = sheet.matrix(start, group, self.places)
            for number, places in enumerate(members, start=1):
                rows[number] = rows[places].sum(axis=0)
            rows[0] = rows[first:].sum(axis=0)
            for track in tracks:
                due += track.advance(start, rows[:, track.subject.columns])
        chances = [figures.p for item in due for figures in item.record.figures]
        adjusted = iter(_adjusted(chances))
        for item in due:
            item.track.settle(item, [next(adjusted) for _ in item.record.figures])
        self._cells.append(sum(map(len, chances)))
        while sum(self._cells) > self._most_cells and len(self._cells) > 1:
            self._cells.pop(0)
        for track in self.tracks:
            track.mark()
            track.thin(len(self._cells))


def _adjusted(chances: list[Floats]) -> list[Floats]:
    """Benjamini and Hochberg over all that was compared; what was not stays NaN."""
    if not chances:
        return []
    together = np.concatenate(chances)
    there = ~np.isnan(together)
    together[there] = adjust(together[there])
    return np.split(together, np.cumsum([len(part) for part in chances])[:-1])


def subjects_of(references: Mapping[str, Reference], sheet: Sheet) -> list[Subject]:
    """Features once for each set of edges, by the reference of the model that served last."""
    found: dict[str, list[Subject]] = {}
    answers: list[Subject] = []
    for bundle in sheet.by_age():
        reference = references[bundle]
        found.setdefault(reference.profile.edges_id, feature_subjects(reference))
        answers += answer_subjects(reference, bundle)
    subjects = [subject for group in found.values() for subject in group] + answers
    return [subject for subject in subjects if subject.tests]
