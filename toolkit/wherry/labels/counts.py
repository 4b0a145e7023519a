"""Labels as counts that add up: by bundle, day, sampling weight and score bin."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from wherry.documents import Moment
from wherry_contract.histograms import SCORE_BINS
from wherry_contract.oci import DIGEST

DAY: Final = 86_400.0
BATCH: Final = r"[A-Za-z0-9][A-Za-z0-9._:-]{0,119}"
MOST_ROWS: Final = 20_000
_MOST_WEIGHT: Final = 1e6


@dataclass(frozen=True)
class LabelRow:
    """Labelled payments of one bundle, one day and one sampling weight.

    Attributes:
        bundle: digest of the model that answered.
        day: start of the day of the payments, UTC.
        weight: how many payments each of them stands for; 1 if none was left out by chance.
        negatives: int, by score bin.
        positives: likewise.
    """

    bundle: str
    day: Moment
    weight: float
    negatives: tuple[int, ...]
    positives: tuple[int, ...]


@dataclass(frozen=True)
class LabelBatch:
    """Labels that came together, and count once.

    Attributes:
        batch: names them; a batch of this name is not taken again.
        source: name of the file.
    """

    batch: str
    source: str
    rows: tuple[LabelRow, ...]

    @property
    def labels(self) -> int:
        """How many payments have a label."""
        return sum(sum(row.negatives) + sum(row.positives) for row in self.rows)

    @property
    def positives(self) -> int:
        """How many of them are positive."""
        return sum(sum(row.positives) for row in self.rows)

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ValueError: with the reason.
        """
        if not re.fullmatch(BATCH, self.batch):
            raise ValueError(f"batch should be like {BATCH}")
        if len(self.rows) > MOST_ROWS:
            raise ValueError(f"at most {MOST_ROWS} bundles, days and weights come together")
        for row in self.rows:
            if not re.fullmatch(DIGEST, row.bundle):
                raise ValueError(f"bundle {row.bundle[:80]!r} is no digest")
            if not 0 < row.weight <= _MOST_WEIGHT or row.day % DAY or row.day < 0:
                raise ValueError("day should be the start of a day, weight a positive number")
            for counts in (row.negatives, row.positives):
                if len(counts) != SCORE_BINS or not all(0 <= n < 2**40 for n in counts):
                    raise ValueError(f"negatives and positives should be {SCORE_BINS} counts")
        keys = {(row.bundle, row.day, row.weight) for row in self.rows}
        if len(keys) != len(self.rows):
            raise ValueError("a bundle, day and weight occurs twice")


class Counting:
    """Counts labels one by one."""

    def __init__(self) -> None:
        self._cells: dict[tuple[str, float, float], tuple[list[int], list[int]]] = {}

    def add(
        self, bundle: str, day: float, place: int, weight: float, *, label: bool, count: int = 1
    ) -> None:
        """Count a label, or several."""
        key = (bundle, math.floor(day / DAY) * DAY, weight)
        cells = self._cells.setdefault(key, ([0] * SCORE_BINS, [0] * SCORE_BINS))
        cells[label][place] += count

    def rows(self) -> tuple[LabelRow, ...]:
        """What was counted, in an order of its own."""
        return tuple(
            LabelRow(*key, tuple(negatives), tuple(positives))
            for key, (negatives, positives) in sorted(self._cells.items())
        )


def merged(rows: Iterable[LabelRow]) -> tuple[LabelRow, ...]:
    """Rows of the same bundle, day and weight as one; in any order the same."""
    counting = Counting()
    for row in rows:
        for label, counts in ((False, row.negatives), (True, row.positives)):
            for place, count in enumerate(counts):
                if count:
                    counting.add(row.bundle, row.day, place, row.weight, label=label, count=count)
    return counting.rows()
