"""Which rows become golden vectors: few, and the ones that find a broken runtime.

Chosen without chance: on both sides of the operating threshold, but not so close that the
tolerance could flip them; rows with gaps, unseen categories, values out of range and values
one float step beside a model's cut; and the rest spread evenly over log-odds and ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.decision import TIE, winning
from wherry_contract.errors import SetupError
from wherry_contract.features import Feature, InputContract, RawMatrix, RawValue
from wherry_contract.golden import MAX_SCORES, GoldenVectors

from .gate import CLEAN
from .project import Golden

_PER_CLASS: Final = 64  # candidates of each made class
_LEAST_MARGIN: Final = 1e-9
_LEAST_SCORE: Final = 1e-6

Scorer = Callable[[RawMatrix], NDArray[np.float64]]


def choose_vectors(
    classes: Mapping[str, RawMatrix],
    scorer: Scorer,
    contract: InputContract,
    *,
    threshold: float,
    settings: Golden,
) -> GoldenVectors:
    """Choose rows and record the scores that the runtime here gives them.

    Args:
        classes: rows by class, float64 (rows, features) each; ``clean`` among them.
        scorer: scores raw rows with the very runtime that devices use.
        contract: names, and the categories' names.
        threshold: the operating threshold.
        settings: how many, and the tolerance.

    Raises:
        SetupError: H10, no row is far enough from the threshold.
        ProbeError: P01, rows alone do not score as they do together.
    """
    clean = classes[CLEAN]
    every = scorer(clean)
    width = every.shape[1] if every.ndim > 1 else 1
    scores, count = winning(every), min(settings.rows, MAX_SCORES // width)
    safe = np.flatnonzero(_far(every, threshold, settings))
    places = [*_near(scores, safe, threshold, count // 8), *_spread(scores, safe, count)]
    half = places[: 2 * (count // 8)]
    rows = [clean[place] for place in half]
    rows += _edges(classes, scorer, threshold, settings)[: count // 4]
    rows += [clean[place] for place in places[len(half) :]]
    chosen = _distinct(rows, count)
    if not len(chosen):
        raise SetupError("H10", "every check row scores within the tolerance of the threshold")
    vectors = GoldenVectors(
        features=contract.names,
        rows=tuple(raw_row(row, contract) for row in chosen),
        scores=tuple(scorer(chosen).ravel().tolist()),
        tolerance=settings.tolerance,
        width=width,
    )
    check_vectors(vectors, scorer, contract, threshold)
    return vectors


def check_vectors(
    vectors: GoldenVectors, scorer: Scorer, contract: InputContract, threshold: float
) -> float:
    """Score golden vectors here, together and one by one, and return the largest difference.

    Raises:
        ProbeError: P01, they disagree.
        InputError: a row does not fit the contract.
    """
    raw = vectors.matrix(contract)
    together = vectors.judge(scorer(raw), threshold)
    alone = np.concatenate([scorer(raw[place : place + 1]) for place in range(len(raw))])
    return max(together, vectors.judge(alone, threshold))


def _far(scores: NDArray[np.float64], threshold: float, settings: Golden) -> NDArray[np.bool_]:
    margin = max(2 * settings.tolerance, _LEAST_MARGIN)
    if scores.ndim > 1:  # far from another class as well
        first, second = np.sort(scores, axis=1)[:, :-3:-1].T
        alone = first - second > margin + TIE
        return np.asarray(alone & _far(first, threshold, settings))
    return np.asarray(np.isfinite(scores) & (np.abs(scores - threshold) > margin))


def _near(
    scores: NDArray[np.float64], safe: NDArray[np.int64], threshold: float, each: int
) -> list[int]:
    """The nearest rows below and above the threshold, with scores of their own."""
    found: list[int] = []
    values, first = np.unique(scores[safe], return_index=True)
    border = int(np.searchsorted(values, threshold))
    for places in (range(border - 1, -1, -1), range(border, len(values))):
        found += [int(safe[first[place]]) for place in list(places)[:each]]
    return found


def _spread(scores: NDArray[np.float64], safe: NDArray[np.int64], count: int) -> list[int]:
    """Rows even in log-odds from the lowest score to the highest, then even in rank."""
    values, first = np.unique(scores[safe], return_index=True)
    if not len(values):
        return []
    bounded = np.clip(values, _LEAST_SCORE, 1 - _LEAST_SCORE)
    odds = np.log(bounded / (1 - bounded))
    even = np.linspace(odds[0], odds[-1], count // 2)
    by_value = np.unique(np.searchsorted(odds, even).clip(0, len(values) - 1))
    by_rank = np.unique(np.linspace(0, len(values) - 1, count).astype(np.int64))
    return [int(safe[first[place]]) for place in [*_halving(by_value), *_halving(by_rank)]]


def _halving(places: NDArray[np.int64]) -> list[int]:
    """The same places in an order whose every beginning is spread."""
    order = sorted(range(len(places)), key=lambda place: (int(f"{place:012b}"[::-1], 2), place))
    return [int(places[place]) for place in order]


def _edges(
    classes: Mapping[str, RawMatrix], scorer: Scorer, threshold: float, settings: Golden
) -> list[NDArray[np.float64]]:
    """Rows of the made classes in turn: one of each, then the next of each."""
    sets = []
    for name, rows in classes.items():
        if name != CLEAN:
            sample = rows[np.unique(np.linspace(0, len(rows) - 1, _PER_CLASS).astype(np.int64))]
            sets.append(sample[_far(scorer(sample), threshold, settings)])
    return [
        rows[turn] for turn in range(max(map(len, sets), default=0)) for rows in sets
        if turn < len(rows)
    ]  # fmt: skip


def _distinct(rows: Iterable[NDArray[np.float64]], count: int) -> RawMatrix:
    kept: dict[bytes, NDArray[np.float64]] = {}
    for row in rows:
        if len(kept) < count:
            kept.setdefault(row.tobytes(), row)
    return np.array(list(kept.values()))


def raw_row(row: NDArray[np.float64], contract: InputContract) -> tuple[RawValue, ...]:
    """A row of the raw matrix as the values that an application would send."""
    return tuple(
        _value(feature, cell) for feature, cell in zip(contract.features, row.tolist(), strict=True)
    )


def _value(feature: Feature, cell: float) -> RawValue:
    if np.isnan(cell):
        return None
    if feature.dtype != "category":
        return float(cell)
    if cell >= 0:
        return feature.categories[int(cell)]
    name = "?"
    while name in feature.categories:
        name += "?"
    return name
