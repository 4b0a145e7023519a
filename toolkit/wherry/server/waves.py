"""Who goes when: every wave a fair sample of the fleet. Pure."""

from __future__ import annotations

import hashlib
import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from wherry_contract.errors import RolloutError

_GOLDEN: Final = (5**0.5 - 1) / 2


@dataclass(frozen=True)
class Candidate:
    """A device that a rollout may reach; those that are away come last."""

    device: str
    labels: Mapping[str, str]
    away: bool = False
    groups: tuple[str, ...] = ()


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
    """Who is in which wave: every board, site and group in proportion, at every length.

    Devices stand in one line, by board, site and group, and within those by a hash; the
    waves take places that are spread evenly over it (multiples of the golden ratio, whose
    every beginning is spread evenly: van der Corput and Steinhaus). So the waves of any
    shares are beginnings of one and the same order, and no uplink, board type or site is
    in a wave for itself.

    Args:
        candidates: in any order, which does not matter.
        shares: as `wave_ends` takes them.
        seed: another one gives another order.

    Raises:
        RolloutError: R06.
    """
    order: list[tuple[bool, float, str]] = []
    found = list(candidates)
    for away in (False, True):
        line = sorted(
            (
                (*stratum(item), _hash(seed, item.device), item.device)
                for item in found
                if item.away is away
            ),
        )
        start = int(_hash(seed, "start")[:8], 16) / 2**32
        order += [
            (away, (start + place * _GOLDEN) % 1.0, entry[-1]) for place, entry in enumerate(line)
        ]
    names = [entry[-1] for entry in sorted(order)]
    ends = wave_ends(shares, len(names))
    starts = (0, *ends[:-1])
    return tuple(tuple(names[a:b]) for a, b in zip(starts, ends, strict=True) if b > a)


def stratum(item: Candidate) -> tuple[str, str, str]:
    """A device's board, site and group; "" where it says nothing."""
    groups = "+".join(sorted({*item.groups, *filter(None, [item.labels.get("group")])}))
    return item.labels.get("board", ""), item.labels.get("site", ""), groups


def shares_of(
    candidates: Iterable[Candidate], waves: Sequence[Sequence[str]]
) -> list[tuple[tuple[str, str, str], tuple[int, ...]]]:
    """How many devices of each stratum are in each wave, strata in order."""
    wave_of = {name: place for place, names in enumerate(waves) for name in names}
    counts: dict[tuple[str, str, str], list[int]] = defaultdict(lambda: [0] * len(waves))
    for item in candidates:
        counts[stratum(item)][wave_of[item.device]] += 1
    return [(name, tuple(found)) for name, found in sorted(counts.items())]


def _hash(seed: str, name: str) -> str:
    return hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()
