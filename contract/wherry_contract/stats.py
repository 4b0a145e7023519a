"""The few distributions that drift needs, in plain Python, so that the contract stays light.

Sources: Abramowitz and Stegun 26.4.4, 26.4.5 (chi-square with whole degrees of freedom),
26.4.25 (non-central chi-square as a Poisson mixture), Fisher's exact test (conditional on
both margins). Tested against scipy.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

_TINY = 1e-17
_LEAST = 1e-300
_STEPS = 100
_EXACT = 1e-9
_NORMAL = NormalDist()


def chi2_sf(x: float, freedom: int) -> float:
    """P(X > x) for the chi-square distribution with whole degrees of `freedom` >= 1."""
    if x < _LEAST:
        return 1.0
    # the sum runs over half**j / Gamma(j + 1) for j = shift + step; from its largest term
    # outwards, since the first one underflows where x is large
    half, shift, last = x / 2, freedom % 2 / 2, freedom // 2 - 1
    total = math.erfc(math.sqrt(half)) if shift else 0.0
    if last < 0:
        return total
    peak = min(last, int(half))
    j = peak + shift
    largest = math.exp(j * math.log(half) - half - math.lgamma(j + 1))
    return min(1.0, total + _below(largest, half, j) + _above(largest, half, j, last + shift))


def _below(term: float, half: float, j: float) -> float:
    total = 0.0
    while j >= 0 and term > _TINY * total:
        total += term
        term *= j / half
        j -= 1
    return total


def _above(largest: float, half: float, j: float, last: float) -> float:
    total, term = 0.0, largest
    while j < last and term > _TINY * largest:
        j += 1
        term *= half / j
        total += term
    return total


def ncx2_sf(x: float, freedom: int, centre: float) -> float:
    """P(X > x) for the non-central chi-square with non-centrality `centre` >= 0."""
    if centre <= 0:
        return chi2_sf(x, freedom)
    mean = centre / 2
    first = max(0, int(mean - 10 * math.sqrt(mean) - 20))
    last = int(mean + 10 * math.sqrt(mean) + 20)
    weight = (
        math.exp(first * math.log(mean) - mean - math.lgamma(first + 1))
        if first
        else math.exp(-mean)
    )
    tail = chi2_sf(x, freedom + 2 * first)
    half = x / 2
    shape = freedom / 2 + first
    # sf at freedom + 2 is sf at freedom plus this term; one pass, no inner sums
    step = math.exp(shape * math.log(half) - half - math.lgamma(shape + 1)) if half > 0 else 0.0
    total = 0.0
    for place in range(first, last + 1):
        total += weight * tail
        tail = min(1.0, tail + step)
        step *= half / (shape + 1 + place - first)
        weight *= mean / (place + 1)
    return min(1.0, max(0.0, total))


def ncx2_centre(x: float, freedom: int, tail: float) -> float:
    """The non-centrality at which P(X > x) = `tail`; 0 if even the central one exceeds it."""
    if chi2_sf(x, freedom) >= tail:
        return 0.0
    bar, least = _NORMAL.inv_cdf(tail), 1e-300

    def height(root: float) -> float:
        # the normal quantile of the tail is nearly straight over the root of the centre, so
        # that a chord meets the answer in a few steps
        chance = ncx2_sf(x, freedom, root * root)
        return _NORMAL.inv_cdf(min(1 - 1e-16, max(least, chance))) - bar

    low, high = 0.0, math.sqrt(max(x, 1.0))
    below, above, last = height(low), height(high), 0.0
    while above < 0:
        low, below, high = high, above, 2 * high
        above = height(high)
    for _ in range(_STEPS):
        middle = (low * above - high * below) / (above - below)
        here = height(middle)
        if abs(here) < _EXACT:
            break
        # an end that stays twice is halved: Dowell and Jarratt 1971
        if here < 0:
            low, below, above = middle, here, above / 2 if last < 0 else above
        else:
            high, above, below = middle, here, below / 2 if last > 0 else below
        last = here
    return middle * middle


def rates_differ(hits: int, rows: int, reference_hits: int, reference_rows: int) -> float:
    """Fisher's exact test, two-sided: p that two rates are one rate.

    Args:
        hits: how often it was seen in `rows` rows.
        rows: rows of the window.
        reference_hits: how often it was seen in the reference.
        reference_rows: rows of the reference.

    Returns:
        The sum over all tables with the same margins that are no likelier than this one.
    """
    together, total = hits + reference_hits, rows + reference_rows
    if together in (0, total) or not rows or not reference_rows:
        return 1.0
    low, high = max(0, together - reference_rows), min(together, rows)

    def log_chance(k: int) -> float:
        return (
            _log_choose(rows, k)
            + _log_choose(reference_rows, together - k)
            - _log_choose(total, together)
        )

    bar = log_chance(hits) + 1e-9
    mode = (together + 1) * (rows + 1) // (total + 2)
    below = _sum_tail(log_chance, range(min(max(mode, low), high), low - 1, -1), bar)
    above = _sum_tail(log_chance, range(min(max(mode, low), high) + 1, high + 1), bar)
    return min(1.0, below + above)


def _sum_tail(log_chance: object, places: range, bar: float) -> float:
    total = 0.0
    for place in places:
        chance = log_chance(place)  # type: ignore[operator]
        if chance <= bar:
            part = math.exp(chance)
            total += part
            if part < _TINY:  # chances only shrink away from the mode
                break
    return total


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def false_discovery(chances: Sequence[float], rate: float) -> list[bool]:
    """Which hypotheses are rejected at false discovery `rate` (Benjamini and Hochberg 1995)."""
    order = sorted(range(len(chances)), key=chances.__getitem__)
    cut = 0
    for place, index in enumerate(order, start=1):
        if chances[index] <= rate * place / len(chances):
            cut = place
    rejected = [False] * len(chances)
    for index in order[:cut]:
        rejected[index] = True
    return rejected
