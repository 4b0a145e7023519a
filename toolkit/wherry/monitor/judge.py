"""The judgement: what has drifted, where, and by which rule. Pure; see docs/drift.md.

windows --(add_up)--> buckets --(Series)--> comparisons of a tick
        --(false discovery rate)--> raised --(two of three)--> decisions
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Final

from wherry.rows import StoredWindow

from .compare import Row
from .series import Compared, Series
from .subjects import (
    CLASSES,
    FLAGGED,
    SCORE,
    Key,
    Reference,
    Subject,
    answer_subjects,
    feature_subjects,
)
from .tally import FLEET, Tally, add_up
from .view import (
    ALERTS,
    JUDGED,
    Baseline,
    Cell,
    Decision,
    Evidence,
    FleetView,
    Kind,
    Policy,
    ScorePair,
)

_MOST_NAMED: Final = 3


def judge(
    references: Mapping[str, Reference],
    windows: Iterable[StoredWindow],
    policy: Policy | None = None,
) -> FleetView:
    """Judge windows.

    Args:
        references: by the digest of the bundle.
        windows: of the devices that are looked at; together they are "the fleet".
        policy: the defaults if nothing.

    Raises:
        RolloutError: R06, the policy makes no sense.
    """
    policy = policy or Policy()
    policy.check()
    tally = add_up(references, windows, policy)
    subjects = _subjects(references, tally)
    places = (FLEET, *tally.devices)
    every = [Series(subject, place, policy) for subject in subjects for place in places]
    for start, counted in tally.buckets.items():
        _tick(every, start, counted, policy)
    for series in every:
        series.close()
    cells = _explained([cell for series in _marked(every) for cell in series.cells])
    return FleetView(
        policy=policy,
        newest=max(tally.buckets) + policy.bucket_seconds if tally.buckets else 0.0,
        windows=tally.windows,
        devices=tally.devices,
        references=_baselines(references, tally),
        cells=tuple(sorted(cells, key=lambda cell: (cell.opened, cell.device, cell.subject))),
        health=tally.health,
        scores=tuple(_score_pairs(every, policy)),
        refusals=tally.refusals,
    )


# --- what there is to judge --------------------------------------------------------------


def _subjects(references: Mapping[str, Reference], tally: Tally) -> list[Subject]:
    """Features once for each set of edges, by the reference of the model that served last."""
    found: dict[str, list[Subject]] = {}
    answers: list[Subject] = []
    for bundle in _by_age(tally):
        reference = references[bundle]
        found.setdefault(reference.profile.edges_id, feature_subjects(reference))
        answers += answer_subjects(reference, bundle)
    subjects = [subject for group in found.values() for subject in group] + answers
    return [subject for subject in subjects if subject.tests]


def _by_age(tally: Tally) -> list[str]:
    return sorted(tally.latest, key=lambda bundle: (tally.latest[bundle], bundle), reverse=True)


def _baselines(references: Mapping[str, Reference], tally: Tally) -> tuple[Baseline, ...]:
    groups: dict[str, list[str]] = {}
    for bundle in _by_age(tally):
        groups.setdefault(references[bundle].profile.edges_id, []).append(bundle)
    found = []
    for edges, bundles in groups.items():
        profile = references[bundles[0]].profile
        found.append(
            Baseline(edges, profile.contract, profile.version, profile.rows, tuple(bundles))
        )
    return tuple(found)


# --- one tick ----------------------------------------------------------------------------


def _tick(
    every: Sequence[Series],
    start: float,
    counted: Mapping[str, Mapping[Key, Row]],
    policy: Policy,
) -> None:
    """Judge all that is due in one bucket, by one false discovery rate."""
    fleet: dict[Key, Row] = {}
    for series in every:
        if series.own is not None:
            key = series.subject.key
            fleet[key] = fleet[key] + series.own if key in fleet else series.own
    due = [
        series.advance(
            start,
            counted.get(series.device, {}).get(series.subject.key),
            fleet.get(series.subject.key),
        )
        for series in every
    ]
    chances = [item.evidence.p for found in due for item in found if item.evidence]
    adjusted = iter(adjust(chances))
    for series, found in zip(every, due, strict=True):
        series.settle([_raised(item, adjusted, policy) for item in found])


def adjust(chances: Sequence[float]) -> list[float]:
    """For each hypothesis the smallest rate at which it is rejected (Benjamini and Hochberg)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    found, least = [1.0] * len(chances), 1.0
    for place in range(len(order), 0, -1):
        least = min(least, chances[order[place - 1]] * len(order) / place)
        found[order[place - 1]] = least
    return found


def _raised(item: Compared, adjusted: Iterator[float], policy: Policy) -> tuple[Compared, Decision]:
    if item.evidence is None:
        return item, Decision.STABLE
    evidence = replace(item.evidence, q=next(adjusted))
    return replace(item, evidence=evidence), level(evidence, policy)


def level(evidence: Evidence, policy: Policy) -> Decision:
    """What one span is raised to: it must be changed, and certainly by more than the limit."""
    if evidence.q > policy.fdr or evidence.p_warn > policy.certainty:
        return Decision.STABLE
    return Decision.ACT if evidence.p_act <= policy.certainty else Decision.WARN


# --- what is held for true now -----------------------------------------------------------


def _marked(every: Sequence[Series]) -> Sequence[Series]:
    """Mark in each series the cells that stand; a model that no longer serves has none.

    What was judged last stands, while newer rows gather; where nothing was judged yet, what
    there is.
    """
    newest: dict[tuple[str, str], float] = {}
    for series in every:
        place = (series.device, series.subject.key.name)
        newest[place] = max(newest.get(place, 0.0), series.seen)
    for series in every:
        if series.seen == newest[series.device, series.subject.key.name]:
            for number in _standing(series.cells):
                series.cells[number] = replace(series.cells[number], current=True)
    return every


def _standing(cells: Sequence[Cell]) -> Iterable[int]:
    found: dict[Kind, int] = {}
    for number, cell in enumerate(cells):
        before = found.get(cell.kind)
        if before is None or cell.decision in JUDGED or cells[before].decision not in JUDGED:
            found[cell.kind] = number
    return found.values()


def _explained(cells: Sequence[Cell]) -> list[Cell]:
    """Name the features that moved the most where the model's answers have moved."""
    return [
        replace(cell, explained_by=_movers(cells, cell))
        if cell.subject in (SCORE, FLAGGED, CLASSES) and cell.decision in (*ALERTS, Decision.WATCH)
        else cell
        for cell in cells
    ]


def _movers(cells: Sequence[Cell], of: Cell) -> tuple[str, ...]:
    moved = [
        cell
        for cell in cells
        if cell.device == of.device
        and cell.edges == of.edges
        and cell.kind == Kind.SHAPE
        and cell.evidence is not None
        and cell.opened < of.closed
        and cell.closed > of.opened
    ]
    moved.sort(key=lambda cell: -(cell.evidence.corrected if cell.evidence else 0.0))
    names = dict.fromkeys(cell.subject for cell in moved if _is_over_noise(cell))
    return tuple(names)[:_MOST_NAMED]


def _is_over_noise(cell: Cell) -> bool:
    return cell.evidence is not None and cell.evidence.low > 0


def _score_pairs(every: Sequence[Series], policy: Policy) -> Iterable[ScorePair]:
    for series in every:
        key, span = series.subject.key, series.last
        standing = [cell for cell in series.cells if cell.current]
        if key.name != SCORE or span is None or not standing:
            continue
        if series.device == FLEET or any(cell.decision in ALERTS for cell in standing):
            expected, actual = series.subject.reference, span.row
            yield ScorePair(
                device=series.device,
                bundle=key.bundle,
                opened=span.opened,
                closed=span.closed,
                rows=span.rows,
                expected=tuple(float(x) for x in expected / expected.sum()),
                actual=tuple(_shown(int(x), span.rows, policy) for x in actual),
                edges=series.subject.edges,
            )


def _shown(count: int, rows: int, policy: Policy) -> float | None:
    return None if 0 < count < policy.fewest else count / rows
