"""Traffic of shops that differ, counted as devices count it; and models that are bad. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from wherry.gates.evidence import Side
from wherry_contract.histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS

BOARDS: Final = ("pi3", "pi4", "pos-armv7")
_SLOWER: Final = np.array([1.6, 0.0, 2.0])  # doublings of the time to answer, by board
_THRESHOLD: Final = -1.0  # log-odds
_MOST_ROWS: Final = 1500  # drawn for one span; more would say hardly more


@dataclass(frozen=True)
class Model:
    """What a new model does that the one before did not.

    Attributes:
        about: for people.
        shift: log-odds that it adds to every score.
        failing: share of rows of which the score is no number.
        slower: doublings of the time to answer.
        mixed: share of rows that it scores as if their inputs were others'.
        moved: share of rows whose scores move by 2.5 log-odds, up or down.
        larger: doublings of the agent's memory.
    """

    about: str
    shift: float = 0.0
    failing: float = 0.0
    slower: float = 0.0
    mixed: float = 0.0
    moved: float = 0.0
    larger: float = 0.0


MODELS: Final[Mapping[str, Model]] = {
    "same": Model("makes no difference"),
    "calibration": Model("scores one in log-odds too high", shift=1.0),
    "nan": Model("no number for one row in 200", failing=0.005),
    "slow": Model("three times slower", slower=float(np.log2(3))),
    "swapped": Model("two features swapped", mixed=0.7),
    "categories": Model("categories in the wrong order", moved=0.6),
    "memory": Model("takes half as much memory again", larger=float(np.log2(1.5))),
}


class Shops:
    """As many shops as devices; each sells what it sells, to whom it sells.

    Rows an hour, the mean and the spread of scores, the mix of inputs, the speed and the
    memory of the board: all of them differ, by more than a model that is worth judging does.
    """

    def __init__(self, devices: int, seed: int) -> None:
        """Draw them; the same seed draws the same shops."""
        chance = np.random.default_rng([seed, 1])
        self.board = chance.choice(3, devices, p=[0.5, 0.3, 0.2])
        self.site = np.arange(devices) // 20
        self.rate = np.clip(chance.lognormal(np.log(60), 0.8, devices), 8, 2000)
        self.mean = chance.normal(-4.0, 1.0, devices)
        self.spread = chance.uniform(1.0, 2.0, devices)
        self.latency = 11 + _SLOWER[self.board] + chance.normal(0, 0.3, devices)
        self.memory = 22 + 2 * self.board + chance.integers(0, 3, devices)
        self.mix = chance.dirichlet(np.ones(8), devices)
        self._seed = seed

    def traffic(self, device: int, hours: float, at: float, model: Model) -> Side:
        """What a device counts of a span; the same span is the same traffic, whatever scores it.

        Args:
            device: its number.
            hours: how long.
            at: when it begins, hours since the simulation's beginning; may be negative.
            model: scores it.
        """
        chance = np.random.default_rng([self._seed, 2, device, round(1000 * (at + 1e6))])
        rows = min(_MOST_ROWS, int(chance.poisson(self.rate[device] * hours)))
        # what all shops go through together: the hours, a weekend, a campaign
        tide = 0.3 * np.sin(2 * np.pi * at / 24) + 0.2 * np.sin(2 * np.pi * at / 168)
        logits = chance.normal(self.mean[device] + tide, self.spread[device], rows)
        other = chance.normal(-2.0, 2.0, rows)
        what = chance.random(rows)
        logits = np.where(what < model.mixed, other, logits)
        logits += np.where(what < model.moved, np.where(what < model.moved / 2, 2.5, -2.5), 0.0)
        good = chance.random(rows) >= model.failing
        logits = logits[good] + model.shift
        latency = chance.normal(self.latency[device] + model.slower, 0.4, len(logits))
        memory = self.memory[device] + 4 * model.larger + chance.normal(0, 0.3, 30)
        return Side(
            rows=len(logits),
            flagged=int(np.count_nonzero(logits >= _THRESHOLD)),
            failed=rows - len(logits),
            scores=_counts(4 * (logits + 8), SCORE_BINS),
            latency=_counts(2 * latency, LATENCY_BINS),
            memory=_counts(memory, MEMORY_BINS),
            features={"mix": chance.multinomial(len(logits), self.mix[device])},
            edges="e",
        )


def _counts(values: NDArray[np.float64], bins: int) -> NDArray[np.int64]:
    places = np.clip(values, 0, bins - 1).astype(np.int64)
    return np.bincount(places, minlength=bins)


def together(first: Side, second: Side) -> Side:
    """The sum of two spans."""
    return Side(
        rows=first.rows + second.rows,
        flagged=first.flagged + second.flagged,
        failed=first.failed + second.failed,
        fallback=first.fallback + second.fallback,
        scores=first.scores + second.scores,
        latency=first.latency + second.latency,
        memory=first.memory + second.memory,
        features={name: first.features[name] + second.features[name] for name in first.features}
        if first.features and second.features
        else first.features or second.features,
        edges=first.edges or second.edges,
    )
