"""Golden vectors: rows of raw values with the scores they must get, on every board.

They are made on the host with the runtime that the bundle names, travel in the bundle and
are scored again by the device before it switches, at every start and after any upgrade of
the runtime: runtimes break correct files (onnxruntime 1.26.0 and forests, #28557).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .decision import decide
from .errors import ProbeError
from .features import InputContract, RawMatrix, RawValue
from .wire import Fields, canonical, parse_json

SCHEMA: Final = "wherry/golden"
LIMIT_BYTES: Final = 4 * 2**20
MAX_ROWS: Final = 4096
MAX_SCORES: Final = 65_536


@dataclass(frozen=True)
class GoldenVectors:
    """Rows and their scores.

    Attributes:
        features: the columns' names, in the input contract's order.
        rows: raw values; null is missing.
        scores: what the model must answer; of several classes all scores of the first row,
            then those of the next.
        tolerance: the largest difference that passes; 0 demands equality.
        width: scores of a row: 1, or one for each class.
    """

    features: tuple[str, ...]
    rows: tuple[tuple[RawValue, ...], ...]
    scores: tuple[float, ...]
    tolerance: float
    extra: Mapping[str, Any] = field(default_factory=dict)
    width: int = 1

    @classmethod
    def from_bytes(cls, data: bytes) -> GoldenVectors:
        """Read `golden.json`.

        Raises:
            ManifestError: M01 to M04.
        """
        fields = Fields(parse_json(data, limit=LIMIT_BYTES, what="golden"), "golden")
        fields.schema(SCHEMA)
        names = fields.texts("features")
        rows = fields.items("rows", limit=MAX_ROWS)
        scores = fields.numbers("scores", limit=MAX_SCORES)
        width = fields.integer("width", 1, low=1, high=MAX_SCORES)
        if not rows or width * len(rows) != len(scores):
            raise fields.error("rows", "as many as there are scores, and at least one")
        if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
            raise fields.error("rows", "lists with one value for each feature")
        tolerance = fields.number("tolerance")
        if tolerance < 0:
            raise fields.error("tolerance", "not negative")
        table = tuple(tuple(row) for row in rows)
        return cls(names, table, scores, tolerance, fields.rest(), width)

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        document = {
            "schema": f"{SCHEMA}/1",
            "features": list(self.features),
            "rows": [list(row) for row in self.rows],
            "scores": list(self.scores),
            "tolerance": self.tolerance,
        }
        if self.width > 1:
            document["width"] = self.width
        return canonical(document | dict(self.extra))

    def matrix(self, contract: InputContract) -> RawMatrix:
        """The rows as the raw matrix.

        Raises:
            InputError: a row does not fit the contract.
        """
        return contract.matrix([dict(zip(self.features, row, strict=True)) for row in self.rows])

    def judge(self, scores: NDArray[np.float64], threshold: float) -> float:
        """Compare what the model answers here with what it must answer.

        Args:
            scores: float64, shape (rows,), or (rows, classes).
            threshold: the operating threshold; a row that is decided otherwise fails even
                within the tolerance.

        Returns:
            The largest difference.

        Raises:
            ProbeError: P01, with the first vector that fails.
        """
        wanted = np.array(self.scores)
        if self.width > 1:
            wanted = wanted.reshape(-1, self.width)
        if scores.shape != wanted.shape:
            raise ProbeError("P01", f"{scores.shape} scores for {len(wanted)} vectors")
        gap = np.abs(scores - wanted).reshape(len(wanted), -1).max(axis=1)
        bad = ~(gap <= self.tolerance) | (decide(scores, threshold) != decide(wanted, threshold))
        if bad.any():
            first = int(np.argmax(bad))
            detail = (
                f"{int(bad.sum())} of {len(wanted)} vectors; the first is {first}: "
                f"expected {_words(wanted[first])}, got {_words(scores[first])}"
            )
            raise ProbeError("P01", detail)
        return float(gap.max())


def _words(scores: Any) -> str:
    return " ".join(f"{score:.9g}" for score in np.atleast_1d(scores)[:8])
