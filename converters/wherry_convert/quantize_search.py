"""Which layers to leave in float: a search whose steps depend on nothing but the figures.

For each method first all layers, then, while decisions flip, each layer alone in float; the
layers that helped most are added up until flips keep the budget. The first and the last
layer together are always tried: they cost few bytes and often decide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final

from .quantize_budget import Measured

MOST_ALONE: Final = 10  # layers that are tried alone
MOST_TOGETHER: Final = 6  # steps of adding up

# places of the layers that stay in float -> what it costs; None if it cannot be made
Try = Callable[[tuple[int, ...]], Measured | None]


def leave_out(layers: int, attempt: Try, flips: int) -> None:
    """Try sets of layers to leave in float, by one method.

    Args:
        layers: how many there are.
        attempt: tries one set; called once for each.
        flips: as many are good enough.
    """
    plain = attempt(())
    if plain is None or plain.difference.flips <= flips or layers < 2:
        return
    alone = {place: attempt((place,)) for place in _some(layers)}
    done = {(), *((place,) for place in alone)}
    order = sorted(alone, key=lambda place: _cost(alone[place], place))
    ends = (0, layers - 1)
    for chosen in _growing(order, ends, layers):
        if chosen not in done:
            done.add(chosen)
            found = attempt(chosen)
            enough = found is not None and found.difference.flips <= flips
            if enough and chosen != ends:
                return


def _some(layers: int) -> list[int]:
    if layers <= MOST_ALONE:
        return list(range(layers))
    half = MOST_ALONE // 2
    return [*range(half), *range(layers - half, layers)]


def _cost(found: Measured | None, place: int) -> tuple[float, float, int]:
    if found is None:
        return (float("inf"), float("inf"), place)
    return (found.difference.flips, found.difference.largest, place)


def _growing(order: Sequence[int], ends: tuple[int, int], layers: int) -> Iterable[tuple[int, ...]]:
    if layers > 2:
        yield ends
    for count in range(2, min(len(order), layers - 1, MOST_TOGETHER) + 1):
        yield tuple(sorted(order[:count]))


def words(floats: Sequence[int], layers: int) -> str:
    """The layers that stay in float, in words."""
    last = layers - 1
    if not floats:
        return "no layer"
    named = {(0,): "first layer", (last,): "last layer", (0, last): "first and last layer"}
    listed = ", ".join(str(place + 1) for place in floats)
    return named.get(tuple(floats), f"layer{'s' * (len(floats) > 1)} {listed}")
