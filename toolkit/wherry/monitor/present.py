"""From what was judged to what is said: cells with all their figures. Pure.

Cells are made when somebody looks, and only those that are asked for: a fleet of 1,000 devices
has some 90,000 of them in every tick.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from .compare import Share
from .rowmath import Floats
from .rules import explain
from .state import DECISIONS, LEVELS, Record
from .subjects import CLASSES, FLAGGED, SCORE, Reference
from .tally import Sheet
from .track import BASELINE, REFERENCE, Track
from .view import (
    ALERTS,
    Baseline,
    Cell,
    Decision,
    FleetView,
    Kind,
    Policy,
    ScorePair,
    Standing,
)

_MOST_NAMED: Final = 3
_ANSWERS: Final = (SCORE, FLAGGED, CLASSES)
_LOUD: Final = (*ALERTS, Decision.WATCH)


def present(
    tracks: Sequence[Track],
    places: Mapping[str, int],
    sheet: Sheet,
    references: Mapping[str, Reference],
    policy: Policy,
    *,
    since: float | None,
    brief: bool,
    slots: bool = False,
) -> FleetView:
    """Everything that a view holds; see `Watch.look`."""
    starts = sheet.starts()
    newest = starts[-1] + policy.bucket_seconds if starts else 0.0
    early = -1.0 if since is None else newest - since
    teller = _Teller(tracks, places, policy, slots=slots)
    cells = [cell for track in tracks for cell in teller.cells(track, early, brief=brief)]
    kept = [start for start in starts if start + policy.bucket_seconds > early]
    return FleetView(
        policy=policy,
        newest=newest,
        windows=sheet.windows,
        devices=sheet.devices,
        references=_baselines(references, sheet),
        cells=tuple(sorted(cells, key=lambda cell: (cell.opened, cell.device, cell.subject))),
        health=sheet.health(kept, brief=brief),
        scores=tuple(teller.scores()),
        refusals=sheet.refusals,
        standing=tuple(sorted(teller.standing(), key=_order)),
    )


def _order(item: Standing) -> tuple[int, str]:
    """All together, then segments, then devices."""
    return (2 - ("=" in item.device) if item.device else 0, item.device)


def _baselines(references: Mapping[str, Reference], sheet: Sheet) -> tuple[Baseline, ...]:
    groups: dict[str, list[str]] = {}
    for bundle in sheet.by_age():
        groups.setdefault(references[bundle].profile.edges_id, []).append(bundle)
    found = []
    for edges, bundles in groups.items():
        profile = references[bundles[0]].profile
        names = (edges, profile.contract, profile.version, profile.rows)
        found.append(Baseline(*names, tuple(bundles)))
    return tuple(found)


class _Teller:
    """Makes cells of records."""

    def __init__(
        self, tracks: Sequence[Track], places: Mapping[str, int], policy: Policy, *, slots: bool
    ) -> None:
        self._slots = slots
        self._tracks, self._policy = tracks, policy
        self._places = list(places)
        self._filling = {track.subject.key: _filling(track) for track in tracks}
        self._newest: dict[str, Floats] = {}
        for track in tracks:
            name, seen = track.subject.key.name, track.state.seen
            self._newest[name] = np.maximum(self._newest.get(name, 0.0), seen)

    def _serves(self, track: Track) -> NDArray[np.bool_]:
        """Where a place's newest rows are of this track: what serves no more has none."""
        seen = track.state.seen
        return np.asarray((seen > 0) & (seen == self._newest[track.subject.key.name]), np.bool_)

    # --- which cells there are --------------------------------------------------------------

    def cells(self, track: Track, early: float, *, brief: bool) -> Iterator[Cell]:
        """The cells of one subject.

        Args:
            track: of the subject.
            early: what closed before is left out, unless it stands.
            brief: of single places, only what moved and stands.
        """
        loud = np.flatnonzero(track.state.levels.any(axis=(1, 2)))
        places = [0, *loud[loud > 0].tolist()] if brief else range(len(self._places))
        standing = {(place, test): record for place, test, record in self._standing(track, places)}
        if brief:
            for (place, test), record in standing.items():
                at = record.position(place)
                if place and at is not None and _decision(record, test, at) in _LOUD:
                    yield self._cell(track, record, test, at, current=True)
        for record in (*track.records, *self._filling[track.subject.key]):
            for at, place in enumerate(record.who.tolist()):
                if place and brief:
                    break
                for test in _told(record, at):
                    current = standing.get((place, test)) is record
                    if current or float(record.closed[at]) > early:
                        yield self._cell(track, record, test, at, current=current)

    def _standing(self, track: Track, places: Iterable[int]) -> Iterator[tuple[int, int, Record]]:
        """What is held for true now: by place and test, the record that says so.

        What was judged last stands, while newer rows gather; where nothing was judged yet,
        what there is.
        """
        state, serves = track.state, self._serves(track)
        filling = self._filling[track.subject.key]
        for place in places:
            if not serves[place]:
                continue
            for test in range(len(track.subject.tests)):
                stands, said = int(state.stands[place, test]), int(state.said[place])
                if stands >= 0:
                    yield place, test, track.records[stands]
                elif not test:
                    waits = [item for item in filling if item.position(place) is not None]
                    known = [track.records[said]] if said >= 0 else []
                    for record in (waits or known)[-1:]:
                        yield place, test, record

    # --- one cell ---------------------------------------------------------------------------

    def _cell(self, track: Track, record: Record, number: int, at: int, *, current: bool) -> Cell:
        subject, place = track.subject, int(record.who[at])
        test = subject.tests[number]
        cell = Cell(
            edges=subject.key.edges,
            device=self._places[place],
            subject=subject.key.name,
            kind=test.kind,
            bundle=subject.key.bundle,
            opened=float(record.opened[at]),
            closed=float(record.closed[at]),
            rows=int(record.rows[at]),
            needed=subject.needed,
            against=BASELINE if place else REFERENCE,
            decision=record.said or Decision.WAITING,
            rule=record.text or f"{record.rows[at]} of {subject.needed} rows; counting goes on",
            current=current,
        )
        return cell if record.said else self._judged(track, record, number, at, cell)

    def _judged(self, track: Track, record: Record, number: int, at: int, cell: Cell) -> Cell:
        test, policy = track.subject.tests[number], self._policy
        q = float(record.q[number][at])
        evidence = test.evidence(record.figures[number], at, policy, q)
        raised = LEVELS[int(record.raised[number][at])]
        decision = _decision(record, number, at)
        cell = replace(
            cell,
            decision=decision,
            rule=explain(evidence, raised, decision, policy),
            evidence=evidence,
            since=float(record.since[number][at]),
        )
        seen = record.seen.get(int(record.who[at]))
        quiet = decision == Decision.STABLE and not self._slots
        if quiet or isinstance(test, Share) or seen is None:
            movers = self._movers(cell) if decision in _LOUD else ()
            return replace(cell, explained_by=movers)
        slots = test.shares(*seen, policy.fewest)
        most = sorted(slots, key=lambda slot: -abs((slot.actual or 0) - slot.expected))
        names = tuple(slot.label for slot in most[:_MOST_NAMED])
        return replace(cell, slots=slots, explained_by=self._movers(cell) or names)

    def _movers(self, of: Cell) -> tuple[str, ...]:
        """The features that moved the most in the time in which the model's answers have moved."""
        if of.subject not in _ANSWERS:
            return ()
        place, moved = self._places.index(of.device), []
        for track in self._tracks:
            kind = track.subject.tests[0].kind
            if track.subject.key.edges != of.edges or kind != Kind.SHAPE:
                continue
            for record in reversed(track.records):
                at = record.position(place)
                if at is None or record.said:
                    continue
                if record.closed[at] <= of.opened:
                    break
                found = record.figures[0]
                if record.opened[at] < of.closed and not np.isnan(found.p[at]):
                    evidence = track.subject.tests[0].evidence(found, at, self._policy, 1.0)
                    if evidence.low > 0:
                        moved.append((-evidence.corrected, track.subject.key.name))
        return tuple(dict.fromkeys(name for _, name in sorted(moved)))[:_MOST_NAMED]

    # --- in short ---------------------------------------------------------------------------

    def standing(self) -> list[Standing]:
        """How each place stands, in numbers."""
        counts = np.zeros((len(self._places), len(DECISIONS)), np.int64)
        waits = np.zeros((len(self._places), 2), np.int64)
        for track in self._tracks:
            state, serves = track.state, self._serves(track)
            for test in range(len(track.subject.tests)):
                who = np.flatnonzero(serves & (state.stands[:, test] >= 0))
                np.add.at(counts, (who, state.verdicts[who, test]), 1)
            new = np.flatnonzero(serves & (state.stands[:, 0] < 0))
            for place, _, record in self._standing(track, new.tolist()):
                at = record.position(place)
                said = record.said or Decision.WAITING
                counts[place, DECISIONS.index(said)] += 1
                if said == Decision.WAITING and at is not None:
                    rows = (int(record.rows[at]), track.subject.needed)
                    waits[place] = max((int(waits[place, 0]), int(waits[place, 1])), rows)
        return [
            Standing(name, {str(DECISIONS[i]): int(row[i]) for i in np.flatnonzero(row)}, *wait)
            for name, row, wait in zip(self._places, counts, waits.tolist(), strict=True)
            if row.any()
        ]

    def scores(self) -> Iterator[ScorePair]:
        """The latest scores of all together, and of places where they have moved."""
        for track in self._tracks:
            if track.subject.key.name != SCORE:
                continue
            state = track.state
            loud = np.isin(state.verdicts[:, 0], [DECISIONS.index(x) for x in ALERTS])
            loud &= state.stands[:, 0] >= 0
            places = [0, *(place for place in np.flatnonzero(loud).tolist() if place)]
            for place, _, record in self._standing(track, places):
                at = record.position(place)
                if at is not None and not record.said:
                    yield self._pair(track, record, place, at)

    def _pair(self, track: Track, record: Record, place: int, at: int) -> ScorePair:
        expected = track.subject.reference
        actual = record.seen[place][1] if place in record.seen else track.state.before[place, 0]
        rows = int(actual.sum())
        few = self._policy.fewest
        return ScorePair(
            device=self._places[place],
            bundle=track.subject.key.bundle,
            opened=float(record.opened[at]),
            closed=float(record.closed[at]),
            rows=rows,
            expected=tuple(float(x) for x in expected / expected.sum()),
            actual=tuple(None if 0 < x < few else x / rows for x in actual.tolist()),
            edges=track.subject.edges,
        )


def _decision(record: Record, test: int, at: int) -> Decision:
    return record.said or DECISIONS[int(record.decisions[test][at])]


def _told(record: Record, at: int) -> list[int]:
    """Of which tests a record has something to say at a position."""
    if record.said:
        return [0]
    return [n for n, found in enumerate(record.figures) if not np.isnan(found.p[at])]


def _filling(track: Track) -> list[Record]:
    """What still waits for rows, or for the end of a week."""
    found, state = list[Record](), track.state
    who = np.flatnonzero(state.week_days)
    if len(who):
        text = "the week moves it, and has not ended"
        span = (state.week_opened[who], state.week_closed[who])
        rows = state.week[who].sum(axis=1)
        found.append(Record(who, *span, rows, said=Decision.CALENDAR, text=text))
    counts = state.filled.sum(axis=2)
    every = np.arange(len(counts))
    phase = np.where(counts > 0, state.closed, -1.0).argmax(axis=1)
    who = np.flatnonzero(counts[every, phase])
    at = (who, phase[who])
    span = (state.opened[at], state.closed[at])
    return [*found, Record(who, *span, counts[at], said=Decision.WAITING)]
