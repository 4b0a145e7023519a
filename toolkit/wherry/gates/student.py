"""Student's t distribution, for means of few devices; scipy is not asked of a host for this."""

from __future__ import annotations

import math


def cdf(value: float, freedom: int) -> float:
    """The chance of a value of t as small, or smaller; to 1e-15 or so, not relatively.

    The finite series for whole degrees of freedom: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.

    Args:
        value: of t.
        freedom: degrees of freedom, 1 or more.
    """
    angle = math.atan2(value, math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term = math.cos(angle) if odd else 1.0
    total = 0.0
    for power in range(2 + odd, freedom + 1, 2):
        total += term
        term *= square * (power - 1) / power
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2
