"""Which quantized candidate is kept, and why each of the others lost: decided here, in pure code."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .parity import Difference


@dataclass(frozen=True)
class Budgets:
    """What quantization may cost; None for no limit.

    Attributes:
        flips: decisions that may differ from the float model's.
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
class Measured:
    """One way of quantizing, and what it costs.

    Attributes:
        method: its name in `METHODS`.
        floats: which layers stay in float, in words.
        bytes: size of the file.
        difference: against the float model, on the calibration rows.
        metric_drop: of the business metric; None if none was given.
        latency_ratio: time for one row in times of the float model's; None if not measured.
    """

    method: str
    floats: str
    bytes: int
    difference: Difference
    metric_drop: float | None = None
    latency_ratio: float | None = None


def exceeded(found: Measured, budgets: Budgets, float_bytes: int) -> list[str]:
    """Each budget that a candidate exceeds, in words; being no smaller is one of them."""
    difference = found.difference
    distinct = difference.distinct_found / max(1, difference.distinct_reference)
    words = []
    if found.bytes >= float_bytes:
        words.append("not smaller than the float file")
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


def choose(found: Sequence[Measured], budgets: Budgets, float_bytes: int) -> int | None:
    """The place of the candidate to keep, or None.

    With a budget of flips it is the smallest that keeps all budgets; without one, that with
    the fewest flips. Those that keep half of the distinct scores come first.
    """
    fit = [place for place, item in enumerate(found) if not exceeded(item, budgets, float_bytes)]
    return min(fit, key=lambda place: (_rank(found[place], budgets), place), default=None)


def _rank(item: Measured, budgets: Budgets) -> tuple[float, ...]:
    flips, gap = item.difference.flips, item.difference.largest
    coarse = item.difference.distinct_found * 2 < item.difference.distinct_reference
    if budgets.flips is None:
        return (coarse, flips, item.bytes, gap)
    return (coarse, item.bytes, flips, gap)


def reason(item: Measured, kept: Measured | None, budgets: Budgets, float_bytes: int) -> str:
    """Why a candidate lost; "" for the one that is kept."""
    if item is kept:
        return ""
    words = exceeded(item, budgets, float_bytes)
    if words or kept is None:
        return "; ".join(words)
    for ours, theirs, text in zip(
        _rank(item, budgets), _rank(kept, budgets), _texts(budgets), strict=True
    ):
        if ours > theirs:
            return text
    return "as good, and tried later"


def _texts(budgets: Budgets) -> tuple[str, ...]:
    coarse, gap = "fewer than half of the distinct scores", "larger differences"
    more, larger = "more flips than the one kept", "larger than the one kept"
    order = (more, larger) if budgets.flips is None else (larger, more)
    return (coarse, *order, gap)


def pareto(found: Sequence[Measured]) -> set[int]:
    """Places of the candidates that no other beats in bytes and flips at once."""
    points = [(item.bytes, item.difference.flips, item.difference.largest) for item in found]
    return {
        place
        for place, own in enumerate(points)
        if not any(other[0] <= own[0] and other[1:] <= own[1:] and other != own for other in points)
    }
