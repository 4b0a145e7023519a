"""Slots: the counts of a feature, and the kernel that counts blocks of rows into them.

Specification: SPEC-drift.md. The kernel is the device's hot path and the host's alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .features import Feature, RawMatrix
from .wire import Fields, all_counts

MAX_BINS: Final = 4096
MAX_PAIRS: Final = 8
MAX_PAIR_CELLS: Final = 400

_SLOTS: Final = {"bins", "below", "above", "missing"}
_BLOCK_ROWS: Final = 256
_NARROW: Final = 24  # edges; a feature with more is searched by itself

Counts = NDArray[np.int64]


@dataclass(frozen=True)
class FeatureCounts:
    """The counts of one feature: exclusive slots.

    Attributes:
        bins: values in each bin, or rows of each category.
        below: numbers under the contract's minimum, or categories that are not listed.
        above: numbers over the contract's maximum.
        missing: gaps.
    """

    bins: tuple[int, ...]
    below: int = 0
    above: int = 0
    missing: int = 0

    @classmethod
    def from_fields(cls, fields: Fields) -> FeatureCounts:
        """Read the counts of one feature."""
        return cls(
            bins=fields.counts("bins", limit=MAX_BINS),
            below=fields.integer("below", 0),
            above=fields.integer("above", 0),
            missing=fields.integer("missing", 0),
        )

    @classmethod
    def read(cls, fields: Fields, name: str) -> FeatureCounts:
        """Read the counts of one feature of a table.

        What is as it should be, and nearly all is, is seen in a few loops in C; anything else
        is read field by field, for its own error.
        """
        found = fields.peek(name)
        if type(found) is dict and found.keys() <= _SLOTS and type(found.get("bins")) is list:
            bins = found["bins"]
            rest = {slot: count for slot, count in found.items() if slot != "bins"}
            if len(bins) <= MAX_BINS and all_counts(bins) and all_counts([*rest.values()]):
                return cls(tuple(bins), **rest)
        return cls.from_fields(fields.table(name))

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; a slot that holds nothing is left out."""
        document: dict[str, Any] = {"bins": list(self.bins)}
        for name in ("below", "above", "missing"):
            if getattr(self, name):
                document[name] = getattr(self, name)
        return document

    @property
    def slots(self) -> tuple[int, ...]:
        """All of them in a row: below, the bins, above, missing."""
        return (self.below, *self.bins, self.above, self.missing)

    @property
    def rows(self) -> int:
        """How many rows were counted."""
        return sum(self.bins) + self.below + self.above + self.missing

    def __add__(self, other: FeatureCounts) -> FeatureCounts:
        return FeatureCounts(
            tuple(a + b for a, b in zip(self.bins, other.bins, strict=True)),
            self.below + other.below,
            self.above + other.above,
            self.missing + other.missing,
        )


def pair_name(first: str, second: str) -> str:
    """What a pair of features is called; no feature's name holds a star."""
    return f"{first}*{second}"


def split_pair(name: str) -> tuple[str, str]:
    """The two features of a pair; the second is empty if it is none."""
    first, _, second = name.partition("*")
    return first, second


class SlotCounter:
    """Counts blocks of raw rows into slots. Not to be shared by threads: it has scratch memory.

    The edges of a feature are framed so that below, above and missing are slots like any
    other: the slot of a value is the number of edges that it is not at or below, and NaN is
    at or below none. For all narrow features at once that takes one comparison of the block
    for each edge, which is three times as fast as one search for each feature.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        edges: Sequence[Sequence[float]],
        pairs: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Lay the slots out.

        Args:
            features: ranges and categories.
            edges: of each feature, ascending inner ones.
            pairs: places of two features each, which are also counted together.
        """
        self._frames = [
            _frame(feature, inner) for feature, inner in zip(features, edges, strict=True)
        ]
        lengths = [len(frame) for frame in self._frames]
        self._wide = [place for place, length in enumerate(lengths) if length > _NARROW]
        high = max((length for length in lengths if length <= _NARROW), default=0)
        self._matrix = np.full((high, len(features)), math.inf)
        for place, frame in enumerate(self._frames):
            if len(frame) <= _NARROW:
                self._matrix[: len(frame), place] = frame
        # a narrow feature has as many cells as the widest of them; its gaps are in the last
        self._sizes = [1 + (length if length > _NARROW else high) for length in lengths]
        # indices are of the machine's own width: `bincount` takes no others on a 32-bit board
        self._starts = np.concatenate([[0], np.cumsum(self._sizes)]).astype(np.intp)
        self._last = self._starts[:-1] + high
        self._pairs = list(pairs)
        self._within = np.empty(self._matrix.shape, bool)
        self._met = self._within.view(np.uint8)
        self._scratch: tuple[NDArray[np.bool_], NDArray[np.uint8], NDArray[np.intp]] | None = None

    def zeros(self) -> Counts:
        """An empty row of cells for all features and pairs, to be handed to `add`."""
        cells = sum(self._sizes[first] * self._sizes[second] for first, second in self._pairs)
        return np.zeros(int(self._starts[-1]) + cells, np.int64)

    def add(self, counts: Counts, raw: RawMatrix, places: NDArray[np.uint8] | None = None) -> None:
        """Count a block into `counts`.

        Args:
            counts: int64, as `zeros` makes it; changed in place.
            raw: float64, shape (rows, features).
            places: uint8 of the same shape; if it is there, it is filled with the number of
                each value's slot, 255 for any that is higher.
        """
        if len(raw) == 1 and not self._wide and places is None:
            np.less_equal(raw, self._matrix, self._within)
            cells = self._last - np.add.reduce(self._met, 0, np.uint8)
            counts[cells] += 1
            if self._pairs:
                self._add_pairs(counts, cells[np.newaxis])
            return
        for start in range(0, len(raw), _BLOCK_ROWS):
            part = slice(start, start + _BLOCK_ROWS)
            self._add_block(counts, raw[part], None if places is None else places[part])

    def _add_block(self, counts: Counts, raw: RawMatrix, places: NDArray[np.uint8] | None) -> None:
        if self._scratch is None:
            shape = (_BLOCK_ROWS, raw.shape[1])
            self._scratch = (
                np.empty(shape, bool),
                np.empty(shape, np.uint8),
                np.empty(shape, np.intp),
            )
        rows = len(raw)
        within, met, cells = (
            self._scratch[0][:rows],
            self._scratch[1][:rows],
            self._scratch[2][:rows],
        )
        met.fill(0)
        for edges in self._matrix:
            np.less_equal(raw, edges, out=within)
            np.add(met, within.view(np.uint8), out=met)
        np.subtract(self._last, met, out=cells)
        for place in self._wide:
            cells[:, place] = self._frames[place].searchsorted(raw[:, place]) + self._starts[place]
        features = int(self._starts[-1])
        counts[:features] += np.bincount(cells.ravel(), minlength=features)
        self._add_pairs(counts, cells)
        if places is not None:
            np.subtract(np.uint8(len(self._matrix)), met, out=places)
            for place in self._wide:
                places[:, place] = np.minimum(cells[:, place] - self._starts[place], 255)

    def _add_pairs(self, counts: Counts, cells: NDArray[np.intp]) -> None:
        start = int(self._starts[-1])
        for first, second in self._pairs:
            size = self._sizes[first] * self._sizes[second]
            outer = cells[:, first] - self._starts[first]
            inner = cells[:, second] - self._starts[second]
            found = np.bincount(outer * self._sizes[second] + inner, minlength=size)
            counts[start : start + size] += found
            start += size

    def split(self, counts: Counts) -> tuple[FeatureCounts, ...]:
        """The counts of each feature, from the row of cells."""
        found = []
        for place, frame in enumerate(self._frames):
            start, end = self._starts[place], self._starts[place + 1]
            below, *bins, above = counts[start : start + len(frame)].tolist()
            found.append(FeatureCounts(tuple(bins), below, above, int(counts[end - 1])))
        return tuple(found)

    def split_pairs(self, counts: Counts) -> tuple[tuple[int, ...], ...]:
        """The counts of each pair: the first feature's slots, and in each the second's.

        Slots are in the order below, bins, above, missing.
        """
        found, start = [], int(self._starts[-1])
        for first, second in self._pairs:
            shape = self._sizes[first], self._sizes[second]
            size = shape[0] * shape[1]
            kept = [[*range(len(self._frames[place])), -1] for place in (first, second)]
            cells = counts[start : start + size].reshape(shape)[np.ix_(*kept)]
            found.append(tuple(cells.ravel().tolist()))
            start += size
        return tuple(found)


def _frame(feature: Feature, inner: Sequence[float]) -> NDArray[np.float64]:
    """Edges around the inner ones, such that slot 0 is below and the last is missing."""
    if feature.dtype == "category":
        last = len(feature.categories) - 0.5
        return np.array([-0.5, *(np.arange(len(feature.categories) - 1) + 0.5), last, math.inf])
    low = -math.inf if feature.minimum is None else np.nextafter(feature.minimum, -math.inf)
    high = math.inf if feature.maximum is None else feature.maximum
    # an edge outside the range would fold a bin into the wrong slot; it is pulled to the border
    clipped = np.clip(np.array(inner, np.float64), low, high)
    return np.array([low, *clipped, high, math.inf])
