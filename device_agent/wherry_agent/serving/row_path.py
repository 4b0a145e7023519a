"""One row's short way through a model: read, encoded and scored in memory laid out beforehand.

It answers what `Model.answer` answers, for a quarter of the work (docs/benchmarks.md). Whatever
it cannot do, the general way does: rows of several classes, a score that is none, a runtime that
fails.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Final

import numpy as np

from wherry_contract.features import RawValue
from wherry_contract.histograms import SCORE_EDGES
from wherry_contract.one_row import OneRow

from .inference import Model

_EDGES: Final = SCORE_EDGES.tolist()
Row = Mapping[str, RawValue] | Sequence[float]


class RowPath:
    """The short way of one model, for one thread at a time: its memory is one row's.

    Attributes:
        model: what scores.
        one: where the row lies.
    """

    def __init__(self, model: Model, also: frozenset[str] = frozenset()) -> None:
        """Lay the memory out.

        Args:
            model: of one score.
            also: names that a row may carry besides the contract's.
        """
        output = model.manifest.output
        self.model = model
        self.one = OneRow(model.manifest.encoder, also)
        self.copy: Callable[[], bytes] = self.one.raw.tobytes
        self.threshold = output.threshold
        self.edges: list[float] = list(output.edges) or _EDGES
        self._bound: Callable[[], float] | None = None
        self._tried = bool(output.classes)

    def read(self, row: Row) -> None:
        """Check a row and encode it.

        Raises:
            InputError: C01 to C06.
        """
        if isinstance(row, Mapping):
            self.one.named(row)
        else:
            self.one.listed(row)

    def score(self) -> float:
        """The score of the row that was read; NaN if the general way has to look."""
        bound = self._bound
        if bound is None:
            return self._first()
        try:
            return bound()
        except Exception:  # noqa: BLE001 - whatever a runtime throws, the general way says what
            self._bound = None
            return math.nan

    def _first(self) -> float:
        """Bind the memory, once a row has shown that the model answers."""
        if self._tried:
            return math.nan
        self._tried = True
        try:
            score = float(self.model.scores(np.array(self.one.raw))[0])
            self._bound = self.model.bind(self.one.tensor)
        except Exception:  # noqa: BLE001 - as above
            return math.nan
        return score if self._bound else math.nan
