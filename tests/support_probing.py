"""Traffic at a till, honest and not, for the probing monitor: replayed through a real counter.

The model is a logistic regression whose weights nobody but its owner knows; who probes sees
decisions only. Rows have 30 features; customers come back with small differences.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from wherry_agent.serving.probing import Probing, Slots
from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import score_bins
from wherry_contract.profile import ReferenceProfile, build_profile

FEATURES = 30
BLOCK = 64
ROWS_A_DAY = 2000
Row = NDArray[np.float64]


class Monitor(Protocol):
    """What is put to the test."""

    def see(
        self,
        raw: Row,
        slots: Slots,
        bins: NDArray[np.intp],
        flagged: NDArray[np.bool_],
        minutes: float,
    ) -> dict[str, int]:
        """Look at a block."""
        ...


class AlwaysAlarm:
    """Catches every attack: whatever praises it measures nothing."""

    def see(self, *_: object) -> dict[str, int]:
        """An alarm in each block."""
        return {"repeats": 1}


class NeverAlarm:
    """Never wrong about honest customers."""

    def see(self, *_: object) -> dict[str, int]:
        """Nothing."""
        return {}


@dataclass
class Till:
    """A model, what it was trained on, and who comes by."""

    seed: int
    chance: np.random.Generator = field(init=False)
    weights: Row = field(init=False)
    threshold: float = field(init=False)
    profile: ReferenceProfile = field(init=False)
    contract: InputContract = field(init=False)

    def __post_init__(self) -> None:
        self.chance = np.random.default_rng(self.seed)
        self.weights = self.chance.normal(0, 0.35, FEATURES)
        self.contract = InputContract(
            "till", 1, tuple(Feature(f"X{place}") for place in range(FEATURES))
        )
        raw = self.customers(20_000)
        scores = self.scores(raw)
        self.threshold = float(np.quantile(scores, 0.97))
        self.profile = build_profile(self.contract, raw, scores, self.threshold)

    def customers(self, count: int) -> Row:
        """So many different ones."""
        return self.chance.normal(0, 1, (count, FEATURES))

    def scores(self, raw: Row) -> Row:
        """The model's."""
        return np.asarray(1 / (1 + np.exp(3.5 - raw @ self.weights)))

    def flags(self, row: Row) -> bool:
        """What somebody who pays is told."""
        return bool(self.scores(row[np.newaxis])[0] >= self.threshold)


def honest(till: Till, count: int, repeats: float) -> Iterator[Row]:
    """Customers, of whom some come back within the day with small differences."""
    regulars = till.customers(200)
    for fresh in till.customers(count):
        if till.chance.random() < repeats:
            yield regulars[till.chance.integers(len(regulars))] + till.chance.normal(
                0, 0.1, FEATURES
            )
        else:
            yield fresh


def walking_the_boundary(till: Till) -> Iterator[Row]:
    """Bisects between a flagged and a passing row, feels around the boundary, steps along it.

    As HopSkipJump does with decisions only (Chen, Jordan and Wainwright 2020).
    """
    flagged = next(row for row in till.customers(5000) if till.flags(row))
    passing = next(row for row in till.customers(5000) if not till.flags(row))
    while True:
        for _ in range(12):
            middle = (flagged + passing) / 2
            yield middle
            if till.flags(middle):
                flagged = middle
            else:
                passing = middle
        away = till.chance.normal(0, 1, (12, FEATURES))
        away /= np.linalg.norm(away, axis=1, keepdims=True)
        signs = []
        for direction in away:
            probe = passing + 0.2 * direction
            yield probe
            signs.append(1 if till.flags(probe) else -1)
        slope = (np.array(signs)[:, np.newaxis] * away).mean(axis=0)
        flagged = passing + slope / (np.linalg.norm(slope) or 1.0)
        if not till.flags(flagged):
            flagged = next(row for row in till.customers(5000) if till.flags(row))


def grid_of_amounts(till: Till) -> Iterator[Row]:
    """The same payment with one amount after the other, around where it is refused."""
    strongest = int(np.argmax(np.abs(till.weights)))
    base = till.customers(1)[0]
    wanted = np.log(till.threshold / (1 - till.threshold)) + 3.5
    rest = base @ till.weights - base[strongest] * till.weights[strongest]
    centre = (wanted - rest) / till.weights[strongest]
    step = 0.02
    place = 0
    while True:
        place += 1
        row = base.copy()
        row[strongest] = centre + step * ((place + 1) // 2) * (-1) ** place
        if place >= 40:
            place, step = 0, step * 0.9
        yield row


def trying_cards(till: Till) -> Iterator[Row]:
    """One small payment that differs by nothing to speak of, again and again."""
    base = till.customers(1)[0]
    while True:
        yield base + till.chance.normal(0, 1e-3, FEATURES)


Attack = Callable[[Till], Iterator[Row]]


@dataclass(frozen=True)
class Replay:
    """What came of one.

    Attributes:
        alarms: of blocks, by word.
        first: probes until the first alarm; nothing if there was none.
        days: of traffic.
    """

    alarms: dict[str, int]
    first: int | None
    days: float


def replay(
    till: Till,
    monitor: Monitor,
    count: int,
    *,
    repeats: float = 0.05,
    attack: Attack | None = None,
    every: int = 11,
    rows_a_minute: float = ROWS_A_DAY / 1440,
) -> Replay:
    """Send traffic by, a block at a time, and with it an attack after a first quarter.

    Args:
        till: whose model scores.
        monitor: what looks.
        count: rows.
        repeats: the share of customers who come back.
        attack: gives probes.
        every: one row of so many is a probe.
        rows_a_minute: of all rows.
    """
    slots = till.profile.counter(till.contract)
    cells = slots.zeros()
    others, probes = honest(till, count + BLOCK, repeats), attack(till) if attack else None
    sent, first, alarms = 0, None, {}
    for start in range(0, count, BLOCK):
        rows = []
        for place in range(start, start + BLOCK):
            if probes and place >= count // 4 and place % every == 0:
                rows.append(next(probes))
                sent += 1
            else:
                rows.append(next(others))
        raw = np.array(rows)
        kinds = np.empty(raw.shape, np.uint8)
        slots.add(cells, raw, kinds)
        scores = till.scores(raw)
        found = monitor.see(
            raw, kinds, score_bins(scores), scores >= till.threshold, start / rows_a_minute
        )
        for name, number in found.items():
            alarms[name] = alarms.get(name, 0) + number
        if first is None and any(name != "repeated" for name in found) and sent:
            first = sent
    return Replay(alarms, first, count / ROWS_A_DAY)


def watching(till: Till) -> Probing:
    """The agent's monitor for a till's model."""
    return Probing(till.profile, int(score_bins(np.array([till.threshold]))[0]))
