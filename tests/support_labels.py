"""A world in which a model scores payments whose truth is known, and may change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from support_drift import DAY, MONDAY

from wherry.monitor import Labels, Performance, Reference, perform
from wherry.monitor.performance import Answers, ByDay
from wherry_contract.calibration import Calibration
from wherry_contract.features import Feature, InputContract
from wherry_contract.histograms import SCORE_BINS, score_bins
from wherry_contract.manifest import Output
from wherry_contract.profile import ReferenceProfile

BUNDLE = "sha256:" + "b" * 64
THRESHOLD = 0.12
Scores = NDArray[np.float64]
Truth = NDArray[np.bool_]
BASE = -4.6  # log-odds of a fraud, of the middle payment


@dataclass(frozen=True)
class World:
    """Payments whose log-odds of fraud are normal; the model's scores are bent a little.

    Attributes:
        mean: how far payments have moved, in standard deviations.
        spread: how much wider they are spread.
        slope: how much of what the score says is still true.
        level: how many log-odds more fraud there is at the same score.
    """

    mean: float = 0.0
    spread: float = 1.0
    slope: float = 1.0
    level: float = 0.0

    def payments(self, rng: np.random.Generator, count: int) -> tuple[Scores, Truth]:
        """Scores and truth of some payments, shape (count,) each."""
        odds = BASE + 1.5 * (self.mean + self.spread * rng.normal(size=count))
        true = self.slope * (odds - BASE) + BASE + self.level
        bent = odds + 0.3 * np.sin(odds)
        return 1 / (1 + np.exp(-bent)), rng.random(count) < 1 / (1 + np.exp(-true))


def histogram(scores: Scores) -> NDArray[np.int64]:
    """Rows by score bin."""
    return np.bincount(score_bins(scores), minlength=SCORE_BINS)


def labels_of(scores: Scores, truth: Truth, weight: float = 1.0) -> Labels:
    """Labels as counts."""
    return Labels.of(histogram(scores[~truth]), histogram(scores[truth]), weight)


def reference(calibration: Calibration | None) -> Reference:
    """A model that knows how it did on labelled rows."""
    contract = InputContract("world", 1, (Feature("AMOUNT"),))
    profile = ReferenceProfile("world", 1, (), calibration=calibration)
    return Reference(profile, contract, replace(Output("score", -1, 0.5), threshold=THRESHOLD))


def answers(scores: Scores) -> Answers:
    """What the model answered."""
    count = float(len(scores))
    found = histogram(scores).astype(np.float64)
    return Answers(found, float((scores >= THRESHOLD).sum()), count)


@dataclass
class History:
    """Days of a world."""

    calibration: Calibration | None
    days: dict[float, Answers]
    labels: dict[float, Labels]

    @classmethod
    def begin(cls, rng: np.random.Generator, rows: int = 20_000) -> History:
        """A model that was calibrated when nothing had changed."""
        return cls(Calibration.of(*World().payments(rng, rows)), {}, {})

    def add(
        self, rng: np.random.Generator, world: World, rows: int, *, labelled: float = 1.0
    ) -> tuple[Scores, Truth]:
        """One more day, of which the first part of the payments has labels."""
        day = MONDAY + len(self.days) * DAY
        scores, truth = world.payments(rng, rows)
        self.days[day] = answers(scores)
        known = int(labelled * rows)
        if known:
            self.labels[day] = labels_of(scores[:known], truth[:known])
        return scores, truth

    def judged(self) -> tuple[Performance, ...]:
        """What is said of it."""
        labels: Mapping[str, Mapping[float, Labels]] = {BUNDLE: self.labels}
        known = {BUNDLE: reference(self.calibration)}
        return perform(ByDay(DAY, {BUNDLE: self.days}), labels, known)
