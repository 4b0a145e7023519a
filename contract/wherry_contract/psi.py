"""The population stability index, never without its statistics.

PSI = sum over slots of (a - e) ln(a / e), with the shares a (actual) and e (expected).
Without drift its mean is (K-1)(1/n + 1/m) for K slots, n actual and m expected rows
(Yurdakul 2018), so a bare "PSI > 0.1" on a hundred rows says nothing. Here a value comes
with n, m, the bias-corrected value, a 95 % interval and p, or with "not enough data".
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from .stats import chi2_sf, ncx2_centre, ncx2_sf

LEAST_ROWS: Final = 250
ROWS_PER_SLOT: Final = 20

ZeroRule = Literal["half", "none", "floor"]


def psi(
    expected: Sequence[int],
    actual: Sequence[int],
    *,
    zero: ZeroRule = "half",
    floor: float = 1e-4,
) -> float:
    """The index of two rows of counts over the same slots.

    Args:
        expected: reference counts, K of them.
        actual: window counts, K of them.
        zero: what to do about empty slots: ``half`` adds 0.5 to every slot on both sides
            (ours); ``none`` computes the bare formula, infinite if just one side of a slot
            is empty; ``floor`` puts the share `floor` for an empty slot and does not
            renormalise (feature-engine, probatus).
        floor: used by ``floor`` only.

    Raises:
        ValueError: the slots do not match, or a side has no rows.
    """
    a, e = _shares(actual, zero, floor), _shares(expected, zero, floor)
    if len(a) != len(e):
        raise ValueError(f"{len(a)} actual and {len(e)} expected slots")
    return sum(_term(x, y) for x, y in zip(a, e, strict=True))


def _shares(counts: Sequence[int], zero: ZeroRule, floor: float) -> list[float]:
    extra = 0.5 if zero == "half" else 0.0
    total = sum(counts) + extra * len(counts)
    if total <= 0:
        raise ValueError("no rows were counted")
    shares = [(count + extra) / total for count in counts]
    return [share or floor for share in shares] if zero == "floor" else shares


def _term(a: float, e: float) -> float:
    if a == e:
        return 0.0
    if a == 0 or e == 0:
        return math.inf
    return (a - e) * math.log(a / e)


@dataclass(frozen=True)
class PsiResult:
    """A PSI with what is needed to read it.

    Attributes:
        psi: with +0.5 in every slot.
        corrected: minus its mean under no drift, (K-1)(1/n + 1/m); may be negative.
        low: lower end of the 95 % interval of the true PSI.
        high: upper end.
        p: chance of so large a value without drift.
        n: rows of the window.
        m: rows of the reference.
        slots: K.
        needed: rows, of either side, below which the answer is "not enough data".
    """

    psi: float
    corrected: float
    low: float
    high: float
    p: float
    n: int
    m: int
    slots: int
    needed: int

    @property
    def enough(self) -> bool:
        """Whether there are rows enough to judge."""
        return min(self.n, self.m) >= self.needed

    def p_material(self, delta: float) -> float:
        """The chance of so large a value if the true PSI were `delta` (Potgieter 2023)."""
        scale = 1 / self.n + 1 / self.m
        return ncx2_sf(self.psi / scale, self.slots - 1, delta / scale)

    def to_dict(self) -> dict[str, Any]:
        """The JSON form, rounded to what the figures can carry."""
        return {
            "psi": round(self.psi, 6),
            "corrected": round(self.corrected, 6),
            "interval": [round(self.low, 6), round(self.high, 6)],
            "p": float(f"{self.p:.3g}"),
            "n": self.n,
            "m": self.m,
            "slots": self.slots,
            "enough": self.enough,
            "needed": self.needed,
        }


def assess(expected: Sequence[int], actual: Sequence[int]) -> PsiResult:
    """PSI and its statistics.

    The null distribution is chi-square with K-1 degrees of freedom for PSI / (1/n + 1/m)
    (Yurdakul and Naranjo 2020), the interval inverts the non-central one.

    Args:
        expected: reference counts, K of them, K >= 2.
        actual: window counts, K of them.

    Raises:
        ValueError: fewer than two slots, unequal slots, or a side without rows.
    """
    slots, n, m = len(expected), sum(actual), sum(expected)
    if slots < 2:
        raise ValueError("a PSI needs two slots")
    if not n or not m:
        raise ValueError("no rows were counted")
    value, scale = psi(expected, actual), 1 / n + 1 / m
    statistic, freedom = value / scale, slots - 1
    return PsiResult(
        psi=value,
        corrected=value - freedom * scale,
        low=ncx2_centre(statistic, freedom, 0.025) * scale,
        high=ncx2_centre(statistic, freedom, 0.975) * scale,
        p=chi2_sf(statistic, freedom),
        n=n,
        m=m,
        slots=slots,
        needed=max(LEAST_ROWS, ROWS_PER_SLOT * freedom),
    )
