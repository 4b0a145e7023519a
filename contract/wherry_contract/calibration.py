"""How often labelled rows of each score bin were positive: what estimates without labels rest on.

Counts of rows that the model was not trained on; a model looks better on its own training rows
than it is. Specification: SPEC-bundle.md, 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .histograms import SCORE_BINS, score_bins
from .wire import Fields

_NAMES: Final = ("rows", "positives")


@dataclass(frozen=True)
class Calibration:
    """Labelled rows by score bin.

    Attributes:
        rows: int, 64 bins of log-odds.
        positives: of them.
    """

    rows: tuple[int, ...]
    positives: tuple[int, ...]
    extra: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @classmethod
    def of(cls, scores: NDArray[np.float64], labels: NDArray[np.bool_]) -> Calibration:
        """Count rows.

        Args:
            scores: probabilities, shape (rows,).
            labels: shape (rows,); whether each is positive.
        """
        places = score_bins(scores)
        rows, positives = (
            tuple(np.bincount(part, minlength=SCORE_BINS).tolist())
            for part in (places, places[labels])
        )
        return cls(rows, positives)

    @classmethod
    def from_fields(cls, fields: Fields) -> Calibration | None:
        """Read it; nothing if there is none.

        Raises:
            ManifestError: M01 to M04.
        """
        rows, positives = (fields.counts(name, [], limit=SCORE_BINS) for name in _NAMES)
        if not rows and not positives:
            return None
        if not len(rows) == len(positives) == SCORE_BINS or _exceeds(positives, rows):
            raise fields.error("positives", f"{SCORE_BINS} counts, in no bin more than rows")
        return cls(rows, positives, fields.rest())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        return {"rows": list(self.rows), "positives": list(self.positives)} | dict(self.extra)


def _exceeds(some: Sequence[int], others: Sequence[int]) -> bool:
    return any(a > b for a, b in zip(some, others, strict=True))
