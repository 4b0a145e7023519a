"""The distributions of a tick, for many comparisons at once. Pure; tested against `stats`.

A tick of 1,000 devices compares some 90,000 things, so p-values are made by the array. What only
a few need, the interval and the materiality of what has changed, is made one by one with
`wherry_contract.stats`.
"""

from __future__ import annotations

import math
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry_contract.stats import rates_differ

Floats = NDArray[np.float64]
Row = NDArray[np.int64]
_AT_ONCE: Final = 1 << 20  # numbers in one block of tables
_FAR: Final = 8.0  # standard deviations, beyond which tables are summed one by one
_SAME: Final = 1e-9  # relative, within which two chances are one


def psi_rows(expected: Row, actual: Row) -> Floats:
    """The PSI of each row, with half a row more in every slot (SPEC-drift.md, section 4).

    Args:
        expected: int64, shape (comparisons, slots).
        actual: likewise.
    """
    slots = expected.shape[1]
    e = (expected + 0.5) / (expected.sum(axis=1, keepdims=True) + slots / 2)
    a = (actual + 0.5) / (actual.sum(axis=1, keepdims=True) + slots / 2)
    return np.asarray(((a - e) * np.log(a / e)).sum(axis=1), np.float64)


def chi2_sf_rows(x: Floats, freedom: int) -> Floats:
    """P(X > x) for chi-square with whole degrees of `freedom` (Abramowitz and Stegun 26.4.4, 5).

    Args:
        x: shape (comparisons,).
        freedom: >= 1.
    """
    half, shift = np.maximum(x, 0.0) / 2, freedom % 2 / 2
    total = np.zeros_like(half)
    if shift:
        total += [math.erfc(math.sqrt(value)) for value in half.tolist()]
    with np.errstate(divide="ignore"):
        logs = np.log(half)
    for step in range(freedom // 2):
        j = step + shift
        total += np.exp((j * logs if j else 0.0) - half - math.lgamma(j + 1))
    return np.minimum(1.0, np.where(half > 0, total, 1.0))


def rates_differ_rows(hits: Row, rows: Row, before: Row, all_before: Row) -> Floats:
    """Fisher's exact test, two-sided, for each pair of shares; p is 1 where all rows are alike.

    Args:
        hits: int64, shape (comparisons,), how often it was seen in `rows`.
        rows: of the span.
        before: how often it was seen in `all_before`.
        all_before: what the span is compared with.
    """
    found = np.ones(len(hits))
    together, total = hits + before, rows + all_before
    asked = np.flatnonzero((together > 0) & (together < total) & (rows > 0) & (all_before > 0))
    share = rows[asked] / total[asked]
    left = (total - together)[asked] / np.maximum(1, total[asked] - 1)
    deviation = np.sqrt(together[asked] * share * (1 - share) * left)
    far = np.abs(hits[asked] - together[asked] * share) > _FAR * deviation
    for place in asked[far].tolist():
        table = (hits[place], rows[place], before[place], all_before[place])
        found[place] = rates_differ(*map(int, table))
    reach = np.ceil((_FAR + 2) * deviation + 4).astype(np.int64)
    order = np.argsort(reach[~far], kind="stable")
    near, reach = asked[~far][order], reach[~far][order]
    while len(near):
        many = int(np.searchsorted(reach, 2 * reach[0] + 8))
        many = min(many, max(1, _AT_ONCE // int(reach[many - 1])))
        part = near[:many]
        found[part] = _tables(hits[part], rows[part], together[part], total[part], reach[many - 1])
        near, reach = near[many:], reach[many:]
    return found


def _tables(hits: Row, rows: Row, together: Row, total: Row, reach: int) -> Floats:
    """The chance of all tables that are no likelier than the one seen.

    Chances are relative to that of the likeliest, outwards by the ratio of neighbours; those
    that are out of reach are too small to count.
    """
    mode = (together + 1) * (rows + 1) // (total + 2)
    steps = np.arange(reach)
    others = total - rows - together  # >= -k for every k that there is

    def up(k: Row) -> Floats:
        ratio = (together[:, None] - k) * (rows[:, None] - k)
        under = (k + 1) * (others[:, None] + k + 1)
        return np.asarray(np.maximum(0, ratio) / np.maximum(1, under), np.float64)

    def down(k: Row) -> Floats:
        ratio = k * (others[:, None] + k)
        under = (together[:, None] - k + 1) * (rows[:, None] - k + 1)
        return np.asarray(np.maximum(0, np.where(k > 0, ratio, 0)) / np.maximum(1, under), float)

    right = np.cumprod(up(mode[:, None] + steps), axis=1)
    left = np.cumprod(down(mode[:, None] - steps), axis=1)
    every = np.concatenate([left[:, ::-1], np.ones((len(hits), 1)), right], axis=1)
    seen = np.take_along_axis(every, (hits - mode + reach)[:, None], axis=1)
    counted = np.where(every <= seen * (1 + _SAME), every, 0.0).sum(axis=1)
    return np.asarray(np.minimum(1.0, counted / every.sum(axis=1)), np.float64)


def adjust(chances: Floats) -> Floats:
    """For each hypothesis the smallest rate at which it is rejected (Benjamini and Hochberg)."""
    order = np.argsort(chances, kind="stable")
    scaled = chances[order] * len(chances) / np.arange(1, len(chances) + 1)
    found = np.empty(len(chances))
    found[order] = np.minimum(1.0, np.minimum.accumulate(scaled[::-1])[::-1])
    return found


def apportion(counts: Row, rows: int) -> Row:
    """`rows` rows shared out as each row of `counts` is, by largest remainders; none for none.

    Args:
        counts: int64, shape (places, slots).
        rows: how many.
    """
    total = counts.sum(axis=1, keepdims=True)
    exact = counts * (rows / np.maximum(total, 1))
    found = np.floor(exact).astype(np.int64)
    left = np.where(total[:, 0] > 0, rows - found.sum(axis=1), 0)
    order = np.argsort(found - exact, axis=1, kind="stable")
    ranks = np.empty_like(order)
    np.put_along_axis(ranks, order, np.arange(counts.shape[1])[None, :], axis=1)
    return np.asarray(found + (ranks < left[:, None]), np.int64)


def unrest(ratios: Floats, known: Row, freedom: int, *, least: int = 5) -> Floats:
    """How much more a place's spans differ from one another than chance makes them: 1 or more.

    Customers come again and days are not alike, so that 1,000 rows may say no more than 400
    independent ones: the design effect. It is the median of the statistic over neighbouring
    spans, relative to its median under chance. One jump between quiet times moves the median
    little, so that a drift does not excuse itself. With few pairs it is held towards 1.

    Args:
        ratios: shape (places, pairs), each the statistic of two neighbouring spans; those that
            are not known yet are infinite.
        known: how many are, by place.
        freedom: of the statistic.
        least: pairs under which it is 1.
    """
    ordered = np.sort(ratios, axis=1)
    rank = np.maximum(known - 1, 0)
    pick = np.stack([rank // 2, (rank + 1) // 2], axis=1)
    middle = np.take_along_axis(ordered, pick, axis=1)
    median = np.where(np.isfinite(middle).all(axis=1), middle.mean(axis=1), 1.0)
    by_chance = freedom * (1 - 2 / (9 * freedom)) ** 3  # Wilson and Hilferty 1931
    more = np.maximum(0.0, median / by_chance - 1) * known / (known + 4)
    return np.where(known >= least, 1 + more, 1.0)
