"""Does the converted model decide as the source does, and on which rows does it not?

"Accuracy did not drop" is not the question: decisions that flip at the operating threshold
are, on rows as they come and on rows made to be hard: each value missing, out of range,
and one float step to either side of every threshold near the data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.decision import decide, winning
from wherry_contract.errors import ConvertError
from wherry_contract.features import LARGEST, UNSEEN, Feature, InputContract, RawMatrix

from .sources.base import Scores

MAX_MADE_ROWS: Final = 4096  # for each made class
RESOLUTION: Final = 4e-6  # of a score: sums of float32 leaves differ by less
NEAR: Final = 1e-4
_SEED: Final = 20_180_701


@dataclass(frozen=True)
class Difference:
    """What two models make of the same rows.

    Attributes:
        rows: how many.
        flips: rows on which the two decide otherwise.
        largest: largest difference of scores.
        distinct_reference: how many different scores the reference gives.
        distinct_found: how many the other gives.
    """

    rows: int
    flips: int
    largest: float
    distinct_reference: int
    distinct_found: int


def compare(reference: Scores, found: Scores, threshold: float) -> Difference:
    """Count flips and measure differences.

    Args:
        reference: float64, shape (rows,) or (rows, classes), from the source.
        found: likewise, from the other; a score that is not finite counts
            as a flip and as an infinite difference.
        threshold: a score at or above it is flagged (`wherry_contract.decision`).

    Raises:
        ConvertError: K07, the shapes differ.
    """
    if reference.shape != found.shape:
        raise ConvertError("K07", f"{len(found)} scores against {len(reference)}")
    odd = ~np.isfinite(found) | ~np.isfinite(reference)
    bad = odd if odd.ndim == 1 else odd.any(axis=1)
    flips = (decide(reference, threshold) != decide(found, threshold)) | bad
    gaps = np.where(odd, np.inf, np.abs(np.where(odd, 0, reference) - np.where(odd, 0, found)))
    return Difference(
        rows=len(reference),
        flips=int(flips.sum()),
        largest=float(gaps.max(initial=0.0)),
        distinct_reference=len(np.unique(winning(reference))),
        distinct_found=len(np.unique(winning(found))),
    )


def between_scores(scores: Scores, threshold: float) -> float:
    """The nearest threshold that no score lies on.

    Scores of trees are few and tied, and a threshold taken from the data is one of them;
    then the last bit of a float32 sum decides for all rows of the tie. Halfway between
    two scores it decides for none. Scores closer than `RESOLUTION` count as tied; the
    nearest gap that is wider is taken, the lower of two. Where scores are so dense that
    there is none within `NEAR` of the threshold, it is the widest one there.

    Args:
        scores: float64, shape (rows,), of the source on reference rows.
        threshold: the one that is wanted.
    """
    ordered = np.unique(scores)
    low, high = ordered[:-1], ordered[1:]
    close = np.flatnonzero((high >= threshold - NEAR) & (low <= threshold + NEAR))
    if not len(close):
        return threshold
    width = (high - low)[close]
    wide = close[width >= RESOLUTION]
    if len(wide):
        here = int(np.searchsorted(ordered, threshold)) - 1
        chosen = int(wide[np.argmin(np.abs(wide - here))])
    else:
        chosen = int(close[np.argmax(width)])
    return float(low[chosen] + (high[chosen] - low[chosen]) / 2)


def row_classes(
    raw: RawMatrix,
    contract: InputContract,
    *,
    cuts: Mapping[str, NDArray[np.float64]] | None = None,
    limit: int = MAX_MADE_ROWS,
) -> dict[str, RawMatrix]:
    """Rows as they come, and rows made from them to be hard.

    Args:
        raw: float64, shape (rows, features).
        contract: decides which gaps, ranges and unlisted categories may occur.
        cuts: where the model's decisions change, in raw values, by feature (`Converted.cuts`).
        limit: most rows of each made class.

    Returns:
        By class: ``clean``; ``missing <feature>`` and ``unseen <feature>`` where the contract
        allows them; ``out of range`` where a range is stated; ``near a threshold``. Classes
        without rows are left out.
    """
    found = {"clean": raw}
    sample = raw[np.linspace(0, len(raw) - 1, min(limit, len(raw))).astype(np.int64)]
    outside = []
    for place, feature in enumerate(contract.features):
        for word, allowed, value in (
            ("missing", feature.missing == "allow", np.nan),
            ("unseen", feature.dtype == "category" and feature.unseen == "allow", UNSEEN),
        ):
            if allowed:
                found[f"{word} {feature.name}"] = _with(sample, place, value)
        outside += [_with(sample, place, value) for value in _outside(feature)]
    if outside:
        found["out of range"] = _thin(np.concatenate(outside), limit)
    near = _near(sample, contract, cuts or {}, limit)
    if len(near):
        found["near a threshold"] = near
    return {name: rows for name, rows in found.items() if len(rows)}


def _with(rows: RawMatrix, place: int, value: float) -> RawMatrix:
    changed = rows.copy()
    changed[:, place] = value
    return changed


def _thin(rows: RawMatrix, limit: int) -> RawMatrix:
    if len(rows) <= limit:
        return rows
    chosen = np.random.default_rng(_SEED).permutation(len(rows))[:limit]
    return rows[np.sort(chosen)]


def _outside(feature: Feature) -> list[float]:
    if feature.dtype == "category":
        return []
    low, high = feature.minimum, feature.maximum
    width = (high - low) if low is not None and high is not None else 0.0
    found = []
    if low is not None:
        found.append(low - max(1.0, abs(low), width))
    if high is not None:
        found.append(high + max(1.0, abs(high), width))
    return found


def _near(
    sample: RawMatrix, contract: InputContract, cuts: Mapping[str, NDArray[np.float64]], limit: int
) -> RawMatrix:
    """Rows of the data with one value put on, and one step to either side of, a cut."""
    places, values = [], []
    for place, feature in enumerate(contract.features):
        edges = cuts.get(feature.name, np.empty(0))
        if feature.dtype == "category" or not len(edges):
            continue
        steps = np.clip(steps_around(edges), -LARGEST, LARGEST)
        places.append(np.full(len(steps), place))
        values.append(steps)
    if not places or not len(sample):
        return np.empty((0, sample.shape[1]))
    at, value = np.concatenate(places), np.concatenate(values)
    chosen = np.sort(np.random.default_rng(_SEED).permutation(len(at))[:limit])
    rows = sample[np.arange(len(chosen)) % len(sample)].copy()
    rows[np.arange(len(chosen)), at[chosen]] = value[chosen]
    return rows


def steps_around(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    """Each edge, and its neighbours one float64 and one float32 step below and above."""
    with np.errstate(over="ignore"):
        near = edges.astype(np.float32)
        down, up = np.nextafter(near, np.float32(-np.inf)), np.nextafter(near, np.float32(np.inf))
    neighbours = [
        edges,
        np.nextafter(edges, -np.inf),
        np.nextafter(edges, np.inf),
        near.astype(np.float64),
        down.astype(np.float64),
        up.astype(np.float64),
    ]
    return np.concatenate(neighbours)
