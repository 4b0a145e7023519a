"""Comparing counts: spreads by PSI, shares by Fisher's exact test. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.profile import LEAST_SHARE
from wherry_contract.psi import LEAST_ROWS, ROWS_PER_SLOT, assess
from wherry_contract.stats import rates_differ

from .view import Evidence, Kind, Policy, SlotShare

Row = NDArray[np.int64]
_Z95: Final = 1.959964


@dataclass(frozen=True)
class Spread:
    """Compares how rows are spread over slots.

    Attributes:
        group: for each slot, which of the compared slots it belongs to; -1 for none.
        labels: of the compared slots.
    """

    kind: Kind
    group: tuple[int, ...]
    labels: tuple[str, ...]

    @property
    def needed(self) -> int:
        """Rows below which nothing is said."""
        return max(LEAST_ROWS, ROWS_PER_SLOT * (len(self.labels) - 1))

    def _fold(self, row: Row) -> list[int]:
        group = np.array(self.group)
        inside = group >= 0
        folded = np.bincount(group[inside], row[inside], minlength=len(self.labels))
        return [int(count) for count in folded]

    def compare(self, expected: Row, actual: Row, policy: Policy) -> Evidence | None:
        """The PSI and its statistics; nothing if there are too few slots, or rows in them."""
        before, now = self._fold(expected), self._fold(actual)
        if len(self.labels) < 2 or min(sum(now), sum(before)) < self.needed:
            return None
        found = assess(before, now)
        return Evidence(
            n=found.n,
            m=found.m,
            value=found.psi,
            corrected=found.corrected,
            low=found.low,
            high=found.high,
            p=found.p,
            p_warn=found.p_material(policy.warn),
            p_act=found.p_material(policy.act),
            slots=found.slots,
        )

    def shares(self, expected: Row, actual: Row, fewest: int) -> tuple[SlotShare, ...]:
        """The shares of the compared slots, in their order; small cells are left out."""
        before, now = self._fold(expected), self._fold(actual)
        m, n = max(1, sum(before)), max(1, sum(now))
        return tuple(
            SlotShare(label, a / m, None if 0 < b < fewest else b / n)
            for label, a, b in zip(self.labels, before, now, strict=True)
        )


@dataclass(frozen=True)
class Share:
    """Compares the share of rows in some of the slots."""

    kind: Kind
    places: tuple[int, ...]

    @property
    def needed(self) -> int:
        """Rows below which nothing is said."""
        return LEAST_ROWS

    def compare(self, expected: Row, actual: Row, policy: Policy) -> Evidence | None:
        """Fisher's exact test of two shares; nothing if neither side has such a row.

        Materiality and the interval are Agresti and Caffo's (2000): one row of either
        kind is added to both sides, then the normal approximation.
        """
        places = list(self.places)
        hits, rows = int(actual[places].sum()), int(actual.sum())
        before, all_before = int(expected[places].sum()), int(expected.sum())
        if min(rows, all_before) < self.needed or not hits + before:
            return None
        a, b = (hits + 1) / (rows + 2), (before + 1) / (all_before + 2)
        error = math.sqrt(a * (1 - a) / (rows + 2) + b * (1 - b) / (all_before + 2))
        moved = hits / rows - before / all_before
        return Evidence(
            n=rows,
            m=all_before,
            value=moved,
            corrected=moved,
            low=a - b - _Z95 * error,
            high=a - b + _Z95 * error,
            p=rates_differ(hits, rows, before, all_before),
            p_warn=_normal_sf((abs(a - b) - policy.warn_share) / error),
            p_act=_normal_sf((abs(a - b) - policy.act_share) / error),
            slots=2,
            expected=before / all_before,
            actual=hits / rows,
        )


def _normal_sf(z: float) -> float:
    return math.erfc(z / math.sqrt(2)) / 2


# --- which slots are compared ------------------------------------------------------------


def join_neighbours(counts: Sequence[int], least: float) -> tuple[int, ...]:
    """Groups of neighbouring bins such that each holds at least `least` rows, if any can."""
    group, found, filled = 0, [], 0
    for count in counts:
        found.append(group)
        filled += count
        if filled >= least:
            group, filled = group + 1, 0
    last = max(0, group - 1)  # what is left over joins the last full group
    return tuple(min(place, last) for place in found)


def join_rare(counts: Sequence[int], least: float) -> tuple[int, ...]:
    """Groups of categories: each of its own, but those under `least` rows share one.

    If even together they hold less, they join the smallest of the others: none is left
    out, since a name that was rare may become frequent.
    """
    often = [place for place, count in enumerate(counts) if count >= least]
    if not often:
        return (0,) * len(counts)
    numbers = {place: number for number, place in enumerate(often)}
    rare = sum(count for place, count in enumerate(counts) if place not in numbers)
    smallest = min(often, key=counts.__getitem__)
    rest = len(often) if rare >= least else numbers[smallest]
    return tuple(numbers.get(place, rest) for place in range(len(counts)))


def equal_groups(counts: Sequence[int], groups: int) -> tuple[int, ...]:
    """At most `groups` groups of neighbouring bins of nearly equal content."""
    total, found, used, filled, group = sum(counts), [], 0, 0, 0
    least = LEAST_SHARE * total
    for count in counts:
        found.append(group)
        filled += count
        wanted = max((total - used) / (groups - group), least)
        if filled >= wanted and total - used - filled >= least and group < groups - 1:
            group, used, filled = group + 1, used + filled, 0
    return tuple(found)
