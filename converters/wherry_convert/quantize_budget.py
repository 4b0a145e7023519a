"""Which quantized candidate is kept, and why each of the others lost: decided here, in pure code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .parity import Difference


@dataclass(frozen=True)
class Budgets:
    """What quantization may cost; None for no limit.

    Attributes:
        flips: decisions that may differ from the float model's, on the rows that judge.
        bytes: largest file.
        distinct_share: least share of the float model's distinct scores; without it, half is
            preferred.
        metric_drop: how much lower than the float model's the business metric may be.
        latency_ratio: longest time for one row, in times of the float model's, measured in
            turns. It is measured where the build runs, so the choice is that machine's.
    """

    flips: int | None = None
    bytes: int | None = None
    distinct_share: float | None = None
    metric_drop: float | None = None
    latency_ratio: float | None = None


@dataclass(frozen=True)
class Ahead:
    """The gate after the search, which judges other rows.

    Attributes:
        rows: how many.
        flips: how many of their decisions may flip.
    """

    rows: int
    flips: int

    def likely(self, found: Difference) -> tuple[float, float]:
        """Flips to expect there, and one standard deviation of that.

        Both counts are Poisson, the one that was seen and the one that will be: with k flips
        on n rows, k m / n are expected on m, with a variance of k m / n (1 + m / n).
        """
        scale = self.rows / max(1, found.rows)
        mean = found.flips * scale
        return mean, math.sqrt(mean * (1 + scale))

    def is_tight(self, found: Difference) -> bool:
        """Whether two deviations above what is to be expected exceed the gate's budget.

        Two, not one: of many candidates the one that was lucky here is kept.
        """
        mean, deviation = self.likely(found)
        return mean + 2 * deviation > self.flips


@dataclass(frozen=True)
class Measured:
    """One way of quantizing, and what it costs.

    Attributes:
        method: its name in the workshop's methods.
        floats: which layers stay in float, in words.
        bytes: size of the file.
        difference: against the float model, on rows that no range was taken from.
        metric_drop: of the business metric; None if none was given.
        latency_ratio: time for one row in times of the float model's; None if not measured.
        calibrated_flips: flips on the rows that ranges were taken from.
        doubts: runtimes that it may not claim though the float file does, each with why.
        unfit: why it cannot be shipped where it should go; "" if it can.
    """

    method: str
    floats: str
    bytes: int
    difference: Difference
    metric_drop: float | None = None
    latency_ratio: float | None = None
    calibrated_flips: int = 0
    doubts: tuple[str, ...] = ()
    unfit: str = ""


def exceeded(found: Measured, budgets: Budgets, float_bytes: int) -> list[str]:
    """Each budget that a candidate exceeds, in words; being no smaller is one of them."""
    difference = found.difference
    distinct = difference.distinct_found / max(1, difference.distinct_reference)
    words = []
    if found.bytes >= float_bytes:
        words.append("not smaller than the float file")
    if found.unfit:
        words.append(found.unfit)
    for value, limit, text in (
        (difference.flips, budgets.flips, "{} flips, budget {}"),
        (found.bytes, budgets.bytes, "{:,} bytes, budget {:,}"),
        (found.metric_drop, budgets.metric_drop, "metric drops {:.4f}, budget {:g}"),
        (found.latency_ratio, budgets.latency_ratio, "{:.2f} times as slow, budget {:g}"),
    ):
        if value is not None and limit is not None and value > limit:
            words.append(text.format(value, limit))
    least = budgets.distinct_share
    if least is not None and distinct < least:
        words.append(f"{distinct:.3f} of the distinct scores, budget {least:g}")
    return words


def choose(
    found: Sequence[Measured], budgets: Budgets, float_bytes: int, ahead: Ahead | None = None
) -> int | None:
    """The place of the candidate to keep, or None.

    With a budget of flips it is the smallest that keeps all budgets; without one, that with
    the fewest flips. First come those that run wherever the float file does, then those
    that keep half of the distinct scores, then those that leave room for the gate `ahead`.
    """
    fit = [place for place, item in enumerate(found) if not exceeded(item, budgets, float_bytes)]
    return min(fit, key=lambda place: (_rank(found[place], budgets, ahead), place), default=None)


def _rank(item: Measured, budgets: Budgets, ahead: Ahead | None) -> tuple[float, ...]:
    flips, gap = item.difference.flips, item.difference.largest
    coarse = item.difference.distinct_found * 2 < item.difference.distinct_reference
    tight = ahead is not None and ahead.is_tight(item.difference)
    order = (flips, item.bytes) if budgets.flips is None else (item.bytes, flips)
    return (bool(item.doubts), coarse, tight, *order, gap)


def reason(
    item: Measured,
    kept: Measured | None,
    budgets: Budgets,
    float_bytes: int,
    ahead: Ahead | None = None,
) -> str:
    """Why a candidate lost; "" for the one that is kept."""
    if item is kept:
        return ""
    words = exceeded(item, budgets, float_bytes)
    if words or kept is None:
        return "; ".join(words)
    ours, theirs = _rank(item, budgets, ahead), _rank(kept, budgets, ahead)
    for own, other, text in zip(ours, theirs, _texts(item, budgets, ahead), strict=True):
        if own > other:
            return text
    return "as good, and tried later"


def _texts(item: Measured, budgets: Budgets, ahead: Ahead | None) -> tuple[str, ...]:
    coarse, gap = "fewer than half of the distinct scores", "larger differences"
    more, larger = "more flips than the one kept", "larger than the one kept"
    order = (more, larger) if budgets.flips is None else (larger, more)
    return ("; ".join(item.doubts), coarse, _room(item, ahead), *order, gap)


def _room(item: Measured, ahead: Ahead | None) -> str:
    if ahead is None:
        return ""
    mean, deviation = ahead.likely(item.difference)
    return (
        f"no room for the gate: {mean:.1f} flips expected on its {ahead.rows:,} rows, "
        f"give or take {deviation:.1f}; its budget is {ahead.flips}"
    )


def pareto(found: Sequence[Measured]) -> set[int]:
    """Places of the candidates that no other beats in bytes and flips at once."""
    points = [(item.bytes, item.difference.flips, item.difference.largest) for item in found]
    return {
        place
        for place, own in enumerate(points)
        if not any(other[0] <= own[0] and other[1:] <= own[1:] and other != own for other in points)
    }
