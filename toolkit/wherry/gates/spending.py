"""How much of an error each look may spend, so that several looks err no more often than one.

Spending functions of Lan and DeMets (Biometrika 70, 1983, 659-663): of the whole error, at a
share `t` of the looks,

    pocock           a ln(1 + (e - 1) t)              nearly evenly
    obrien-fleming   2 (1 - Phi(z(1 - a/2) / sqrt t)) hardly anything early

Each look gets the increment. By Bonferroni's inequality the increments add up to the whole
whatever the dependence between looks; boundaries from the joint normal distribution would be a
little less strict, and would need it to be normal.
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Final

POCOCK: Final = "pocock"
OBRIEN_FLEMING: Final = "obrien-fleming"
SPENDINGS: Final = (POCOCK, OBRIEN_FLEMING)


def spent(error: float, share: float, kind: str) -> float:
    """The error that may have been spent by a share of the looks.

    Args:
        error: the whole, above 0 and below 1.
        share: 0 to 1.
        kind: one of `SPENDINGS`.
    """
    if share <= 0:
        return 0.0
    if kind == POCOCK:
        return min(error, error * math.log(1 + (math.e - 1) * share))
    normal = NormalDist()
    z = -normal.inv_cdf(error / 2)
    return min(error, 2 * normal.cdf(-z / math.sqrt(share)))


def at_look(error: float, look: int, looks: int, kind: str) -> float:
    """The error that one look may spend; `look` counts from 1."""
    return spent(error, look / looks, kind) - spent(error, (look - 1) / looks, kind)
