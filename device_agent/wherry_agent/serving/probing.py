"""Is somebody feeling for the threshold? What can be seen of it in fixed, small memory.

Three signs, each on blocks of scored rows (docs/drift.md says what they find and what not):

- **repeats**: a row near the threshold that is nearly, but not quite, like several others near
  the threshold of late. Either alone means nothing: customers come back, and some scores are
  near the threshold. Rows are kept as slot numbers, which say of what kind they were.
- **share**: more rows pass just under the threshold than used to (a Bernoulli CUSUM,
  Page 1954).
- **velocity**: one kind of row comes far more often than any kind used to within some minutes
  (a count-min sketch, Cormode and Muthukrishnan 2005, of salted hashes, decaying).

Only counts of alarms leave the device. What is kept is under 4 KB, in memory, and gone with
the process.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.histograms import NEAR_BINS, SCORE_BINS
from wherry_contract.profile import ReferenceProfile

REPEATS, SHARE, VELOCITY = "repeats", "share", "velocity"
SIGNS: Final = {
    REPEATS: "rows nearly like each other, near the threshold",
    SHARE: "many more rows than usual pass just under the threshold",
    VELOCITY: "one kind of row comes far more often than any used to",
}

_RING: Final = 64
_COLUMNS: Final = 32  # features that are looked at, spread over all
_LIFE_ROWS: Final = 512  # for which a row in the ring counts
_ENOUGH: Final = 4  # others that are nearly the same
_LIKE: Final = 0.8  # of what a row says must be the same, counted in bits
_LEAST_BITS: Final = 20.0  # so unlikely must it be that two rows agree by chance

_LEVEL: Final = 10.0  # of the CUSUM
_SLOW: Final = 1 / 20_000  # with which the usual share follows a row

_CELLS: Final = 127  # a prime
_PERIOD_MINUTES: Final = 5.0  # half of all is forgotten in each
_WARM_PERIODS: Final = 6  # in which nothing is said yet
_LEAST_COUNT: Final = 30
_TIMES: Final = 3.0  # the most that was usual
_FADING: Final = 0.99  # of what was usual, with each period

Slots = NDArray[np.uint8]
Flags = NDArray[np.bool_]


class Probing:
    """Looks at blocks of rows for one model; not to be shared by threads."""

    def __init__(self, profile: ReferenceProfile, nearest: int) -> None:
        """Take what is usual.

        Args:
            profile: of the model's bundle.
            nearest: the score bin of its threshold.
        """
        counts = [item.counts.slots for item in profile.features]
        spread = np.linspace(0, len(counts) - 1, min(_COLUMNS, len(counts)))
        self._columns = np.array(sorted(set(spread.astype(np.intp).tolist())), np.int16)
        bits = [_bits(counts[place]) for place in self._columns.tolist()]
        self._weights = np.array(bits, np.float32)
        self._need = max(_LEAST_BITS, _LIKE * sum(bits))
        self._nearest = nearest
        self._ring = np.zeros((_RING, len(self._columns)), np.uint8)
        self._born = np.full(_RING, -_LIFE_ROWS, np.int32)
        self._told = np.zeros(_RING, np.uint32)  # hashes of the raw rows
        self._next = self._rows = 0
        self._usual = self._first_share = _share_under(profile, nearest)
        self._sum = 0.0
        self._sketch = np.zeros((2, _CELLS), np.uint16)
        # so small that float32 adds them up exactly, which is by far the quickest
        salts = [[secrets.randbits(11) | 1 for _ in range(2)] for _ in self._columns]
        self._salts = np.array(salts, np.float32)
        self._period = self._periods = 0
        self._peak = self._most = 0.0

    @property
    def bytes(self) -> int:
        """What is kept, in bytes; plain numbers count eight each."""
        arrays = [value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray)]
        numbers = [value for value in vars(self).values() if isinstance(value, int | float)]
        return sum(arrays) + 8 * len(numbers)

    def see(
        self,
        raw: NDArray[np.float64],
        slots: Slots,
        bins: NDArray[np.intp],
        flagged: Flags,
        minutes: float,
    ) -> dict[str, int]:
        """Look at a block of scored rows.

        Args:
            raw: float64, shape (rows, features); only whether two are the same is looked at.
            slots: shape (rows, features), slot numbers.
            bins: shape (rows,), of the scores.
            flagged: shape (rows,).
            minutes: of a clock that never goes back.

        Returns:
            What was found, by word: alarms, and ``repeated`` rows near the threshold.
        """
        kinds = slots if len(self._columns) == slots.shape[1] else slots[:, self._columns]
        near = (np.abs(bins - self._nearest) <= NEAR_BINS) & (bins < SCORE_BINS)
        under = near & ~flagged & (bins <= self._nearest)
        repeated, alarms = self._look_for_repeats(raw, kinds, np.flatnonzero(near).tolist())
        found = {
            "repeated": repeated,
            REPEATS: alarms,
            SHARE: self._look_at_share(under),
            VELOCITY: self._look_at_velocity(kinds, minutes),
        }
        self._rows += len(slots)
        return {name: count for name, count in found.items() if count}

    def _look_for_repeats(
        self, raw: NDArray[np.float64], kinds: Slots, places: Sequence[int]
    ) -> tuple[int, int]:
        repeated = alarms = 0
        for place in places:
            now, told = self._rows + place, hash(raw[place].tobytes()) & 0xFFFFFFFF
            same = (self._ring == kinds[place]) @ self._weights
            alike = (same >= self._need) & (self._born > now - _LIFE_ROWS)
            if (alike & (self._told == told)).any():
                continue  # the very same row again: nobody learns anything from it
            others = int(np.count_nonzero(alike))
            repeated += others > 0
            if others >= _ENOUGH:
                alarms += 1
                self._born[alike] = now - _LIFE_ROWS  # the next alarm needs as many new ones
            self._ring[self._next] = kinds[place]
            self._born[self._next], self._told[self._next] = now, told
            self._next = (self._next + 1) % _RING
        return repeated, alarms

    def _look_at_share(self, under: Flags) -> int:
        usual = self._usual
        raised = min(0.5, max(4 * usual, usual + 0.03))
        up, down = math.log(raised / usual), math.log((1 - raised) / (1 - usual))
        path = self._sum + np.cumsum(np.where(under, up, down))
        level = path - np.minimum(0.0, np.minimum.accumulate(path))
        if (level >= _LEVEL).any():
            self._sum = 0.0
            return 1
        self._sum = float(level[-1])
        # it follows the device's own share, but not so far that it could be led away
        share = float(np.count_nonzero(under)) / len(under)
        followed = usual + (share - usual) * min(1.0, _SLOW * len(under))
        self._usual = min(max(followed, self._first_share / 4), 4 * self._first_share, 0.4)
        return 0

    def _look_at_velocity(self, kinds: Slots, minutes: float) -> int:
        period = int(minutes / _PERIOD_MINUTES)
        if period != self._period:
            self._begin_period(period)
        # `bincount` takes indices of the machine's own width alone, which is 32 bits on some boards
        cells = (kinds.astype(np.float32) @ self._salts).astype(np.intp) % _CELLS
        counts = []
        for count, hashed in zip(self._sketch, cells.T, strict=True):
            found = np.bincount(hashed, minlength=_CELLS)
            count[:] += np.minimum(found, 0xFFFF - count).astype(np.uint16)
            counts.append(count[hashed])
        most = float(np.minimum(*counts).max())
        if self._periods >= _WARM_PERIODS and most > max(_LEAST_COUNT, _TIMES * self._peak):
            self._sketch[:] = 0
            return 1
        self._most = max(self._most, most)
        return 0

    def _begin_period(self, period: int) -> None:
        """Learn from the one that is over, not while it lasts: else what grows is always usual."""
        self._periods += self._most > 0
        self._peak = max(self._peak * _FADING, self._most)
        self._sketch >>= min(16, max(1, period - self._period))
        self._period, self._most = period, 0.0


def _bits(counts: Sequence[int]) -> float:
    """How much it says that two rows agree here: less, where most rows do."""
    total = sum(counts) or 1
    return -math.log2(max(sum((count / total) ** 2 for count in counts), 2**-10))


def _share_under(profile: ReferenceProfile, nearest: int) -> float:
    """The share of rows that pass just under the threshold, by the reference."""
    total = sum(profile.scores) or 1
    below = sum(profile.scores[: max(0, nearest - NEAR_BINS)])
    return min(0.25, max(0.005, (total - profile.flagged - below) / total))
