"""Comparing counts: spreads by PSI, shares by Fisher's exact test. Pure.

A test compares many places at once (`figures`); what one comparison says in full, with interval
and materiality, is made of its figures when somebody looks at it (`evidence`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.profile import LEAST_SHARE
from wherry_contract.psi import LEAST_ROWS, ROWS_PER_SLOT
from wherry_contract.stats import ncx2_centre, ncx2_sf

from .rowmath import Floats, Row, chi2_sf_rows, psi_rows, rates_differ_rows
from .view import Evidence, Kind, Policy, SlotShare

_Z95: Final = 1.959964


@dataclass(frozen=True, eq=False)
class Figures:
    """What a test found at several places; each array has the shape (places,).

    Attributes:
        n: rows of the span.
        m: rows that it was compared with.
        value: the PSI; for a share, how far it moved.
        p: chance of such counts if nothing had changed; NaN where nothing was compared.
        design: what n and m are divided by, since rows are not independent.
        expected: rows of this kind in m; 0 for a PSI.
        actual: rows of this kind in n; likewise.
    """

    n: Row
    m: Row
    value: Floats
    p: Floats
    design: Floats
    expected: Row
    actual: Row

    def only(self, kept: NDArray[np.bool_]) -> Figures:
        """The same at some of the places."""
        return Figures(**{item.name: getattr(self, item.name)[kept] for item in fields(self)})


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

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the statistic."""
        return max(1, len(self.labels) - 1)

    def _fold(self, rows: Row) -> Row:
        """Shape (places, slots) to (places, compared slots)."""
        places = np.arange(len(self.labels))
        one = (np.array(self.group)[:, None] == places).astype(np.int64)
        return np.asarray(rows @ one, np.int64)

    def statistic(self, expected: Row, actual: Row) -> Floats:
        """PSI / (1/n + 1/m): chi-square with `freedom` under no change."""
        before, now = self._fold(expected), self._fold(actual)
        n, m = np.maximum(1, now.sum(axis=1)), np.maximum(1, before.sum(axis=1))
        return np.asarray(psi_rows(before, now) / (1 / n + 1 / m), np.float64)

    def figures(self, expected: Row, actual: Row, design: Floats) -> Figures:
        """Compare.

        Args:
            expected: int64, shape (places, slots).
            actual: likewise.
            design: shape (places,).
        """
        before, now = self._fold(expected), self._fold(actual)
        n, m = now.sum(axis=1), before.sum(axis=1)
        enough = (np.minimum(n, m) >= self.needed) & (len(self.labels) > 1)
        value = psi_rows(before, now)
        scale = design * (1 / np.maximum(1, n) + 1 / np.maximum(1, m))
        p = np.where(enough, chi2_sf_rows(value / scale, self.freedom), np.nan)
        none = np.zeros_like(n)
        return Figures(n, m, value, p, design, none, none)

    def evidence(self, found: Figures, place: int, policy: Policy, q: float) -> Evidence:
        """All that one comparison says."""
        n, m, value = int(found.n[place]), int(found.m[place]), float(found.value[place])
        design = float(found.design[place])
        scale, freedom = design * (1 / n + 1 / m), self.freedom
        low, high = _interval(value / scale, freedom)
        return Evidence(
            n=n,
            m=m,
            value=value,
            corrected=value - freedom * scale,
            low=low * scale,
            high=high * scale,
            p=float(found.p[place]),
            p_warn=_material(value / scale, freedom, policy.warn / scale),
            p_act=_material(value / scale, freedom, policy.act / scale),
            slots=len(self.labels),
            q=q,
            design=design,
        )

    def certain(self, found: Figures, place: int, policy: Policy) -> tuple[float, float]:
        """The chances of so much if the true value were the limit: to warn, and to act."""
        n, m = int(found.n[place]), int(found.m[place])
        scale = float(found.design[place]) * (1 / n + 1 / m)
        x = float(found.value[place]) / scale
        limits = (policy.warn, policy.act)
        first, second = (_material(x, self.freedom, limit / scale) for limit in limits)
        return first, second

    def shares(self, expected: Row, actual: Row, fewest: int) -> tuple[SlotShare, ...]:
        """The shares of the compared slots, in their order; small cells are left out.

        Args:
            expected: int64, shape (slots,).
            actual: likewise.
            fewest: smaller cells are not shown.
        """
        before = self._fold(expected[None])[0].tolist()
        now = self._fold(actual[None])[0].tolist()
        m, n = max(1, sum(before)), max(1, sum(now))
        return tuple(
            SlotShare(label, a / m, None if 0 < b < fewest else b / n)
            for label, a, b in zip(self.labels, before, now, strict=True)
        )


# history is looked at again and again, and its figures never change
@lru_cache(65536)
def _material(statistic: float, freedom: int, centre: float) -> float:
    return ncx2_sf(statistic, freedom, centre)


@lru_cache(65536)
def _interval(statistic: float, freedom: int) -> tuple[float, float]:
    return (
        ncx2_centre(statistic, freedom, 0.025),
        ncx2_centre(statistic, freedom, 0.975),
    )


@dataclass(frozen=True)
class Share:
    """Compares the share of rows in some of the slots.

    The test of change is Fisher's exact one. Materiality, the interval, and the statistic of
    neighbouring spans are Agresti and Caffo's (2000): one row of either kind is added to both
    sides, then the normal approximation.
    """

    kind: Kind
    places: tuple[int, ...]

    @property
    def needed(self) -> int:
        """Rows below which nothing is said."""
        return LEAST_ROWS

    @property
    def freedom(self) -> int:
        """Degrees of freedom of the statistic."""
        return 1

    def _hits(self, rows: Row) -> Row:
        return np.asarray(rows[:, list(self.places)].sum(axis=1), np.int64)

    def statistic(self, expected: Row, actual: Row) -> Floats:
        """The square of the difference over its error: chi-square with one degree of freedom."""
        moved, error = _apart(
            self._hits(actual), actual.sum(axis=1), self._hits(expected), expected.sum(axis=1)
        )
        return (moved / error) ** 2

    def figures(self, expected: Row, actual: Row, design: Floats) -> Figures:
        """Compare; nothing is compared where neither side has such a row.

        Where rows are not independent, p is that of the normal test with a wider error, if it
        is larger.

        Args:
            expected: int64, shape (places, slots).
            actual: likewise.
            design: shape (places,).
        """
        hits, rows = self._hits(actual), actual.sum(axis=1)
        before, all_before = self._hits(expected), expected.sum(axis=1)
        there = (np.minimum(rows, all_before) >= self.needed) & (hits + before > 0)
        p = np.full(len(hits), np.nan)
        where = np.flatnonzero(there)
        table = (hits[where], rows[where], before[where], all_before[where])
        moved, error = _apart(*table)
        p[where] = rates_differ_rows(*table)
        wide = chi2_sf_rows((moved / error) ** 2 / design[where], 1)
        p[where] = np.where(design[where] > 1, np.maximum(p[where], wide), p[where])
        value = hits / np.maximum(1, rows) - before / np.maximum(1, all_before)
        return Figures(rows, all_before, value, p, design, before, hits)

    def evidence(self, found: Figures, place: int, policy: Policy, q: float) -> Evidence:
        """All that one comparison says."""
        n, m = int(found.n[place]), int(found.m[place])
        hits, before = int(found.actual[place]), int(found.expected[place])
        design = float(found.design[place])
        between, error = _between(hits, n, before, m, design)
        moved = float(found.value[place])
        p_warn, p_act = self.certain(found, place, policy)
        return Evidence(
            n=n,
            m=m,
            value=moved,
            corrected=moved,
            low=between - _Z95 * error,
            high=between + _Z95 * error,
            p=float(found.p[place]),
            p_warn=p_warn,
            p_act=p_act,
            slots=2,
            expected=before / m,
            actual=hits / n,
            q=q,
            design=design,
        )

    def certain(self, found: Figures, place: int, policy: Policy) -> tuple[float, float]:
        """The chances of so much if the true move were the limit: to warn, and to act."""
        between, error = _between(
            int(found.actual[place]),
            int(found.n[place]),
            int(found.expected[place]),
            int(found.m[place]),
            float(found.design[place]),
        )
        return (
            _normal_sf((abs(between) - policy.warn_share) / error),
            _normal_sf((abs(between) - policy.act_share) / error),
        )


def _apart(hits: Row, rows: Row, before: Row, all_before: Row) -> tuple[Floats, Floats]:
    a, b = (hits + 1) / (rows + 2), (before + 1) / (all_before + 2)
    return a - b, np.sqrt(a * (1 - a) / (rows + 2) + b * (1 - b) / (all_before + 2))


def _between(hits: int, n: int, before: int, m: int, design: float) -> tuple[float, float]:
    a, b = (hits + 1) / (n + 2), (before + 1) / (m + 2)
    return a - b, math.sqrt(design * (a * (1 - a) / (n + 2) + b * (1 - b) / (m + 2)))


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
