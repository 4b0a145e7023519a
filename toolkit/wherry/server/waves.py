"""Who goes when: every wave a fair sample of the fleet. Pure."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wherry_contract.errors import RolloutError


@dataclass(frozen=True)
class Candidate:
    """A device that a rollout may reach; those that are away come last."""

    device: str
    labels: Mapping[str, str]
    away: bool = False


def wave_ends(shares: Sequence[str], devices: int) -> tuple[int, ...]:
    """How many devices each wave reaches in all.

    Args:
        shares: counts like ``1`` or shares like ``10%``, ascending; all devices come last
            in any case.
        devices: how many there are.

    Raises:
        RolloutError: R06, a share cannot be read or does not ascend.
    """
    ends: list[int] = []
    before: dict[bool, float] = {}
    for share in shares:
        value, percent = _share(share)
        end = min(math.ceil(value / 100 * devices) if percent else int(value), devices)
        if value < before.get(percent, 0) or (ends and end < ends[-1]):
            raise RolloutError("R06", f"wave {share} is smaller than the one before it")
        before[percent] = value
        ends.append(end)
    return tuple(sorted({*ends, devices}))


def _share(text: str) -> tuple[float, bool]:
    """A count, or a share in percent."""
    number, percent = text.removesuffix("%"), text.endswith("%")
    try:
        value = float(number) if percent else float(int(number))
    except (ValueError, OverflowError) as error:
        raise RolloutError("R06", f"wave {text[:20]!r}") from error
    if not math.isfinite(value) or value <= 0 or (percent and value > 100):
        raise RolloutError("R06", f"wave {text[:20]!r}")
    return value, percent


def plan_waves(
    candidates: Iterable[Candidate], shares: Sequence[str], seed: str
) -> tuple[tuple[str, ...], ...]:
    """Who is in which wave: every group of equal labels in proportion, at every length.

    Within a group a hash decides; between groups the seats go by the divisor method of
    Sainte-Lague, so that the waves of any shares are beginnings of one and the same order.

    Args:
        candidates: in any order, which does not matter.
        shares: as `wave_ends` takes them.
        seed: another one gives another order.

    Raises:
        RolloutError: R06.
    """
    strata: dict[tuple[Any, ...], list[str]] = defaultdict(list)
    for item in candidates:
        strata[item.away, *sorted(item.labels.items())].append(item.device)
    order = [
        (stratum[0], (2 * rank + 1) / (2 * len(names)), _hash(seed, name), name)
        for stratum, names in strata.items()
        for rank, name in enumerate(sorted(names, key=lambda name: _hash(seed, name)))
    ]
    names = [entry[-1] for entry in sorted(order)]
    ends = wave_ends(shares, len(names))
    starts = (0, *ends[:-1])
    return tuple(tuple(names[a:b]) for a, b in zip(starts, ends, strict=True) if b > a)


def _hash(seed: str, name: str) -> str:
    return hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()
