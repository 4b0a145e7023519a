"""A shadow: a model that scores live traffic unused, and what is counted of it.

Specification: SPEC-mqtt.md, sections 7 and 8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from .histograms import LATENCY_BINS, SCORE_BINS
from .oci import DIGEST
from .wire import Fields

COARSE_BINS: Final = 16
COARSE: Final = SCORE_BINS // COARSE_BINS  # score bins in a coarse one
JOINT_CELLS: Final = COARSE_BINS**2
MAX_DECISIONS: Final = 16  # classes and none; models of more are compared as flagged or not
OFF_WORDS: Final = ("", "cpu", "memory", "inputs", "crashed")
_PLAIN: Final = 2


@dataclass(frozen=True)
class ShadowCounts:
    """What was counted of a shadow beside the model that answered; sums of them are exact.

    Attributes:
        bundle: the shadow's.
        rows: that both have scored.
        failed: rows that the live model scored and the shadow did not.
        dropped: rows that it was not asked, since it was behind.
        decisions: a square, row by row: cell (i, j) counts rows that the live model decided as
            i and the shadow as j. Passed, then flagged; of models that decide between the same
            classes, the classes in the manifest's order and none behind them.
        scores: 64 bins of the shadow's scores (`Output.bins` of its manifest).
        joint: 16 x 16, row by row: the live score's bin and the shadow's, each of four bins.
        latency: 40 bins of what the shadow took to score: one count for each request.
        cpu_ms: that it took of one core, in milliseconds.
        off: why it was switched off, ``cpu``, ``memory``, ``inputs`` or ``crashed``; "" if it
            was not.
    """

    bundle: str
    rows: int = 0
    failed: int = 0
    dropped: int = 0
    decisions: tuple[int, ...] = (0,) * _PLAIN**2
    scores: tuple[int, ...] = (0,) * SCORE_BINS
    joint: tuple[int, ...] = (0,) * JOINT_CELLS
    latency: tuple[int, ...] = (0,) * LATENCY_BINS
    cpu_ms: int = 0
    off: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> ShadowCounts:
        """Read the counts.

        Raises:
            MessageError: G01; also if they do not add up.
        """
        counts = cls(
            bundle=fields.text("bundle", pattern=DIGEST),
            rows=fields.integer("rows"),
            failed=fields.integer("failed", 0),
            dropped=fields.integer("dropped", 0),
            decisions=fields.counts("decisions", limit=MAX_DECISIONS**2),
            scores=fields.counts("scores", limit=SCORE_BINS),
            joint=fields.counts("joint", limit=JOINT_CELLS),
            latency=fields.counts("latency", limit=LATENCY_BINS),
            cpu_ms=fields.integer("cpu_ms", 0),
            off=fields.choice("off", OFF_WORDS, ""),
            extra=fields.rest(),
        )
        counts._check(fields)
        return counts

    def _check(self, fields: Fields) -> None:
        if self.side < _PLAIN or self.side**2 != len(self.decisions):
            raise fields.error("decisions", "a square")
        sizes = (len(self.scores), len(self.joint), len(self.latency))
        if sizes != (SCORE_BINS, JOINT_CELLS, LATENCY_BINS):
            raise fields.error("scores", f"{SCORE_BINS} bins, joint {JOINT_CELLS} cells, latency")
        if sum(self.decisions) != self.rows or sum(self.scores) != self.rows:
            raise fields.error("decisions", "counts that add up to rows, and scores too")
        if any(sum(self.joint[c::COARSE_BINS]) != total for c, total in enumerate(self.coarse)):
            raise fields.error("joint", "columns that add up to scores")

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; what is 0 is left out, but for rows."""
        document: dict[str, Any] = {"bundle": self.bundle, "rows": self.rows}
        for name in ("failed", "dropped", "cpu_ms", "off"):
            if getattr(self, name):
                document[name] = getattr(self, name)
        for name in ("decisions", "scores", "joint", "latency"):
            document[name] = list(getattr(self, name))
        return document | dict(self.extra)

    @property
    def side(self) -> int:
        """How many decisions there are."""
        return math.isqrt(len(self.decisions))

    @property
    def differing(self) -> int:
        """Rows that the two models decided otherwise."""
        return self.rows - sum(self.decisions[:: self.side + 1])

    @property
    def flips(self) -> tuple[int, int]:
        """Rows that only the shadow decided for a class, or flagged, and that only the live did."""
        last, side = self.side - 1, self.side
        none = 0 if side == _PLAIN else last  # passed comes first, none of several classes last
        cells = range(side)
        only_shadow = sum(self.decisions[none * side + j] for j in cells if j != none)
        only_live = sum(self.decisions[i * side + none] for i in cells if i != none)
        return only_shadow, only_live

    @property
    def coarse(self) -> tuple[int, ...]:
        """The shadow's scores in 16 bins."""
        return tuple(sum(self.scores[at : at + COARSE]) for at in range(0, SCORE_BINS, COARSE))

    @property
    def live_coarse(self) -> tuple[int, ...]:
        """The live model's scores of the same rows, in 16 bins."""
        return tuple(
            sum(self.joint[at : at + COARSE_BINS]) for at in range(0, JOINT_CELLS, COARSE_BINS)
        )

    def __add__(self, other: ShadowCounts) -> ShadowCounts:
        """The counts of both; of one bundle, beside models with the same decisions.

        Raises:
            ValueError: they are of two bundles, or of other decisions.
        """
        if self.bundle != other.bundle or self.side != other.side:
            raise ValueError("only counts of one bundle and the same decisions add up")

        def added(name: str) -> tuple[int, ...]:
            pairs = zip(getattr(self, name), getattr(other, name), strict=True)
            return tuple(a + b for a, b in pairs)

        return ShadowCounts(
            bundle=self.bundle,
            rows=self.rows + other.rows,
            failed=self.failed + other.failed,
            dropped=self.dropped + other.dropped,
            decisions=added("decisions"),
            scores=added("scores"),
            joint=added("joint"),
            latency=added("latency"),
            cpu_ms=self.cpu_ms + other.cpu_ms,
            off=self.off or other.off,
        )
