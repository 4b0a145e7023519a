"""When a device trusts its inputs no more, and who answers then. Specification: SPEC-drift.md, 8.

A model that gets gaps or values from beyond where it was trained says something all the same.
A bundle may ask that its rule answers instead while that lasts, or the model before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from .features import RawMatrix
from .profile import ReferenceProfile
from .wire import Fields

RULE: Final = "rule"
PREVIOUS: Final = "previous"


@dataclass(frozen=True)
class Reaction:
    """Where the model gives way.

    Attributes:
        missing_share: of a feature's values that may be missing beyond the reference's share.
        outside_share: that may lie below or above the range or be unseen, likewise.
        rows: over which the shares are taken; no verdict before.
        answer: ``rule``, or ``previous`` for the model before, if it reads none of the features
            that strayed; where there is none, the rule.
    """

    missing_share: float = 0.2
    outside_share: float = 0.2
    rows: int = 200
    answer: str = RULE
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_fields(cls, fields: Fields) -> Reaction:
        """Read the limits."""
        found = cls(
            missing_share=fields.number("missing_share", 0.2),
            outside_share=fields.number("outside_share", 0.2),
            rows=fields.integer("rows", 200, low=20, high=1_000_000),
            answer=fields.choice("answer", (RULE, PREVIOUS), RULE),
            extra=fields.rest(),
        )
        for name in ("missing_share", "outside_share"):
            if not 0 < getattr(found, name) <= 1:
                raise fields.error(name, "above 0, and at most 1")
        return found

    def to_dict(self) -> dict[str, Any]:
        """The JSON form; the rule is not named, so that what 0.1 wrote stays as it was."""
        found = {
            "missing_share": self.missing_share,
            "outside_share": self.outside_share,
            "rows": self.rows,
        }
        also = {} if self.answer == RULE else {"answer": self.answer}
        return found | also | dict(self.extra)


@dataclass(frozen=True)
class Verdict:
    """Whether inputs are trusted.

    Attributes:
        why: they are not; nothing if they are.
        strayed: the features that are not.
    """

    why: str = ""
    strayed: tuple[str, ...] = ()


class InputWatch:
    """Says whether inputs have left the contract; not to be shared by threads.

    They have left it when one share of one feature, over at least so many rows, lies above its
    limit, and are back when over as many rows all lie below half of it.

    Attributes:
        away: why inputs are not trusted, or nothing.
        strayed: the features that are not, as long as that lasts.
    """

    def __init__(
        self, reaction: Reaction, profile: ReferenceProfile, verdict: Verdict | None = None
    ) -> None:
        """Take the limits, what the reference had, and what was known before a restart."""
        self._reaction = reaction
        self._names = [item.name for item in profile.features]
        counts = [item.counts for item in profile.features]
        rows = max(1, profile.rows)
        self._usual = np.array(
            [[item.missing / rows, (item.below + item.above) / rows] for item in counts]
        )
        self._above = np.array([len(item.bins) + 1 for item in counts])
        self._limits = np.array([reaction.missing_share, reaction.outside_share])
        self._seen = np.zeros((len(counts), 2), np.int64)
        self._rows = 0
        known = verdict or Verdict()
        self.away, self.strayed = known.why, known.strayed

    def see(self, raw: RawMatrix, slots: NDArray[np.uint8]) -> bool:
        """Look at a block.

        Args:
            raw: float64, shape (rows, features).
            slots: of the same shape, from `SlotCounter.add`.

        Returns:
            Whether the verdict changed.
        """
        gaps = np.isnan(raw)
        outside = ((slots == 0) | (slots == self._above)) & ~gaps
        self._seen[:, 0] += gaps.sum(axis=0)
        self._seen[:, 1] += outside.sum(axis=0)
        self._rows += len(raw)
        if self._rows < self._reaction.rows:
            return False
        before = bool(self.away), self.strayed
        beyond = (self._seen / self._rows - self._usual) / self._limits
        self._seen[:] = 0
        self._rows = 0
        worst = int(beyond.argmax())
        if beyond.flat[worst] >= 1:
            word = "out of its range" if worst % 2 else "missing"
            self.away = f"{self._names[worst // 2]} is often {word}"
        elif beyond.flat[worst] < 0.5:
            self.away = ""
        far = np.flatnonzero(beyond.max(axis=1) >= 0.5) if self.away else ()
        self.strayed = tuple(self._names[place] for place in far)
        return (bool(self.away), self.strayed) != before

    @property
    def verdict(self) -> Verdict:
        """What is known now."""
        return Verdict(self.away, self.strayed)
