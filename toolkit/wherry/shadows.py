"""What shadows have said of a bundle, added up: how often it decides otherwise. Pure.

The interval takes the device as the unit: rows of one shop are alike. It is the wider of two: of
the ratio of sums, with the spread between devices (Cochran 1977, 6.4; a jackknife's variance to
first order), and Wilson's for all rows as one sample, which is honest where no row differs, or
where there is one device.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from wherry_contract.histograms import latency_quantile
from wherry_contract.shadow import COARSE_BINS, ShadowCounts

_Z: Final = 1.959964  # 95 %
# quantiles 0.975 of Student's t with 1 to 10 degrees of freedom; beyond, near enough 2.2
_T: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Disagreement:
    """How a shadow compares with what serves, over devices.

    Attributes:
        shadow_devices: that have counts.
        shadow_rows: scored by both models.
        differing: of those, decided otherwise.
        share: the same as a share; 0 without rows.
        low: end of its 95 % interval.
        high: likewise.
        only_shadow: rows that the shadow flags and the other model does not.
        only_live: likewise the other way.
        shadow_failed: rows that the shadow could not score.
        dropped: rows that it was not asked.
        psi: of the scores in 16 bins; the rows are the same on both sides.
        shadow_p95_us: within which the shadow scores 95 % of requests; 0 without any.
    """

    shadow_devices: int = 0
    shadow_rows: int = 0
    differing: int = 0
    share: float = 0.0
    low: float = 0.0
    high: float = 1.0
    only_shadow: int = 0
    only_live: int = 0
    shadow_failed: int = 0
    dropped: int = 0
    psi: float = 0.0
    shadow_p95_us: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """As figures of a decision."""
        rounded = {"share": 6, "low": 6, "high": 6, "psi": 4, "shadow_p95_us": 1}
        return {
            name: round(value, rounded[name]) if name in rounded else value
            for name, value in asdict(self).items()
        }


def add_to(found: dict[str, ShadowCounts], device: str, counts: ShadowCounts) -> None:
    """Add a window's counts to a device's; of a model with other decisions they begin anew."""
    before = found.get(device)
    alike = before and (before.bundle, before.side) == (counts.bundle, counts.side)
    found[device] = before + counts if before and alike else counts


def sum_up(counts: Mapping[str, ShadowCounts]) -> Disagreement:
    """One figure of all devices.

    Args:
        counts: of one bundle's shadows, by device.
    """
    known = [item for item in counts.values() if item.rows or item.failed or item.dropped]
    rows, differing = sum(c.rows for c in known), sum(c.differing for c in known)
    low, high = interval([(c.differing, c.rows) for c in known if c.rows])
    latency = [sum(cells) for cells in zip(*(c.latency for c in known), strict=True)]
    return Disagreement(
        shadow_devices=len(known),
        shadow_rows=rows,
        differing=differing,
        share=differing / rows if rows else 0.0,
        low=low,
        high=high,
        only_shadow=sum(c.flips[0] for c in known),
        only_live=sum(c.flips[1] for c in known),
        shadow_failed=sum(c.failed for c in known),
        dropped=sum(c.dropped for c in known),
        psi=_psi(known),
        shadow_p95_us=latency_quantile(latency, 0.95) if sum(latency) else 0.0,
    )


def interval(devices: list[tuple[int, int]]) -> tuple[float, float]:
    """A 95 % interval of the share of rows that differ.

    Args:
        devices: differing and all rows of each; rows not 0.
    """
    rows, hits = sum(n for _, n in devices), sum(d for d, _ in devices)
    if not rows:
        return 0.0, 1.0
    share, many = hits / rows, len(devices)
    middle = (share + _Z**2 / (2 * rows)) / (1 + _Z**2 / rows)
    spread = share * (1 - share) / rows + (_Z / (2 * rows)) ** 2
    half = _Z * math.sqrt(spread) / (1 + _Z**2 / rows)
    low, high = middle - half, middle + half
    if many > 1:
        between = sum((d - share * n) ** 2 for d, n in devices) * many / (many - 1)
        quantile = _T[many - 2] if many - 2 < len(_T) else 2.2
        wide = quantile * math.sqrt(between) / rows
        low, high = min(low, share - wide), max(high, share + wide)
    return max(0.0, low), min(1.0, high)


def _psi(counts: list[ShadowCounts]) -> float:
    """Of both models' scores of the same rows; the mean under no change is not taken off.

    The rows are paired, so that there is no sampling error between the sides to correct for.
    """
    live = [sum(c.live_coarse[bin_] for c in counts) for bin_ in range(COARSE_BINS)]
    shadow = [sum(c.coarse[bin_] for c in counts) for bin_ in range(COARSE_BINS)]
    some = [(a + 0.5, b + 0.5) for a, b in zip(live, shadow, strict=True) if a + b]
    whole = sum(a for a, _ in some)
    other = sum(b for _, b in some)
    return sum((b / other - a / whole) * math.log((b / other) / (a / whole)) for a, b in some)
