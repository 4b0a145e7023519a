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

from .errors import ProbeError
from .features import InputContract, RawMatrix, RawValue
from .wire import Fields, canonical, parse_json

SCHEMA: Final = "wherry/golden"
LIMIT_BYTES: Final = 4 * 2**20
MAX_ROWS: Final = 4096


@dataclass(frozen=True)
class GoldenVectors:
    """Rows and their scores.

    Attributes:
        features: the columns' names, in the input contract's order.
        rows: raw values; null is missing.
        scores: what the model must answer.
        tolerance: the largest difference that passes; 0 demands equality.
    """

    features: tuple[str, ...]
    rows: tuple[tuple[RawValue, ...], ...]
    scores: tuple[float, ...]
    tolerance: float
    extra: Mapping[str, Any] = field(default_factory=dict)

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
        scores = fields.numbers("scores", limit=MAX_ROWS)
        if not rows or len(rows) != len(scores):
            raise fields.error("rows", "as many as there are scores, and at least one")
        if not all(isinstance(row, list) and len(row) == len(names) for row in rows):
            raise fields.error("rows", "lists with one value for each feature")
        tolerance = fields.number("tolerance")
        if tolerance < 0:
            raise fields.error("tolerance", "not negative")
        return cls(names, tuple(tuple(row) for row in rows), scores, tolerance, fields.rest())

    def to_bytes(self) -> bytes:
        """The canonical JSON form."""
        return canonical(
            {
                "schema": f"{SCHEMA}/1",
                "features": list(self.features),
                "rows": [list(row) for row in self.rows],
                "scores": list(self.scores),
                "tolerance": self.tolerance,
            }
            | dict(self.extra)
        )

    def matrix(self, contract: InputContract) -> RawMatrix:
        """The rows as the raw matrix.

        Raises:
            InputError: a row does not fit the contract.
        """
        return contract.matrix([dict(zip(self.features, row, strict=True)) for row in self.rows])

    def judge(self, scores: NDArray[np.float64], threshold: float) -> float:
        """Compare what the model answers here with what it must answer.

        Args:
            scores: float64, shape (rows,).
            threshold: the operating threshold; a row on the other side of it fails even
                within the tolerance.

        Returns:
            The largest difference.

        Raises:
            ProbeError: P01, with the first vector that fails.
        """
        wanted = np.array(self.scores)
        if scores.shape != wanted.shape:
            raise ProbeError("P01", f"{scores.shape} scores for {len(wanted)} vectors")
        gap = np.abs(scores - wanted)
        bad = ~(gap <= self.tolerance) | ((scores >= threshold) != (wanted >= threshold))
        if bad.any():
            first = int(np.argmax(bad))
            detail = (
                f"{int(bad.sum())} of {len(wanted)} vectors; the first is {first}: "
                f"expected {wanted[first]:.9g}, got {scores[first]:.9g}"
            )
            raise ProbeError("P01", detail)
        return float(gap.max())
