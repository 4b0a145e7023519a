"""The probing monitor: attacks are seen, honest customers are not, and praise must be earned."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support_agent import make_bundle, reference_rows
from support_device import HandClock
from support_probing import (
    BLOCK,
    AlwaysAlarm,
    Attack,
    Monitor,
    NeverAlarm,
    Replay,
    Till,
    grid_of_amounts,
    honest,
    replay,
    trying_cards,
    walking_the_boundary,
    watching,
)

from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally, threshold_bin
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.probing import SIGNS, Probing
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served

SEEDS = (1,)


def probes_until_seen(found: Replay) -> float:
    return found.first if found.first is not None else np.inf


ATTACKS = [
    pytest.param(walking_the_boundary, 1, 1.4, 64, id="walking the boundary, nobody else there"),
    pytest.param(walking_the_boundary, 11, 1.4, 30, id="walking the boundary between customers"),
    pytest.param(grid_of_amounts, 11, 1.4, 30, id="a grid of amounts"),
    pytest.param(grid_of_amounts, 50, 1.4, 30, id="a patient grid of amounts"),
    pytest.param(trying_cards, 2, 20.0, 150, id="testing cards in a hurry"),
]


def is_worth_something(
    make: type[Monitor] | None, attack: Attack, every: int, pace: float, most: int
) -> bool:
    """The measure: it sees the attack soon, and on honest days it holds its peace."""
    for seed in SEEDS:
        till = Till(seed)
        attacked = replay(
            till, make() if make else watching(till), 4000, attack=attack, every=every,
            rows_a_minute=pace,
        )  # fmt: skip
        quiet = replay(till, make() if make else watching(till), 4000, repeats=0.2)
        alarms = sum(count for name, count in quiet.alarms.items() if name in SIGNS)
        if probes_until_seen(attacked) > most or alarms > 0:
            return False
    return True


@pytest.mark.parametrize(("attack", "every", "pace", "most"), ATTACKS)
def test_attacks_are_seen_and_customers_are_not(
    attack: Attack, every: int, pace: float, most: int
) -> None:
    assert is_worth_something(None, attack, every, pace, most)


@pytest.mark.parametrize("dummy", [AlwaysAlarm, NeverAlarm])
def test_the_measure_refuses_who_looks_at_nothing(dummy: type[Monitor]) -> None:
    assert not is_worth_something(dummy, walking_the_boundary, 11, 1.4, 30)


def test_blind_spots_are_as_told() -> None:
    """docs/drift.md says so: who waits long between probes is not seen."""
    till = Till(1)
    found = replay(till, watching(till), 6000, attack=walking_the_boundary, every=250)
    assert found.first is None


@pytest.mark.parametrize("features", [1, 3, 30, 300])
def test_it_stays_under_four_kilobytes(features: int) -> None:
    made = make_bundle(features=max(3, features))
    monitor = Probing(made.parts.profile, threshold_bin(made.parts.manifest))
    before = monitor.bytes
    raw = reference_rows(made.parts.manifest.input, 2000)
    bins = np.full(BLOCK, threshold_bin(made.parts.manifest))
    slots = np.random.default_rng(0).integers(0, 12, raw.shape, np.uint8)
    for start in range(0, 1920, BLOCK):
        end = start + BLOCK
        monitor.see(raw[start:end], slots[start:end], bins, np.zeros(BLOCK, bool), start)
    assert monitor.bytes == before < 4096


def test_the_very_same_row_again_is_no_probe() -> None:
    """A till that asks again after a lost answer, or a customer who tries a card five times."""
    till = Till(3)
    row = next(row for row in honest(till, 5000, 0.0) if till.flags(row))
    slots = till.profile.counter(till.contract)
    raw = np.repeat(row[np.newaxis], BLOCK, axis=0)
    kinds = np.empty(raw.shape, np.uint8)
    slots.add(slots.zeros(), raw, kinds)
    monitor = watching(till)
    bins = np.full(BLOCK, monitor._nearest)
    for minute in range(5):
        assert monitor.see(raw, kinds, bins, np.ones(BLOCK, bool), minute * 10.0) == {}


def test_an_agent_tells_of_it(tmp_path: Path) -> None:
    """Through the scorer: alarms are told at once, and counted in the window."""
    made = make_bundle()
    told: list[str] = []
    windows: list[Tally] = []
    scorer = Scorer(Limits(), HandClock(), windows.append, alarm=told.append)
    served = Served.by_model(load_model(made.digest, made.parts))
    scorer.swap(served)
    # the share: half of all pass just under the threshold, where some 3 % used to
    raw = reference_rows(made.parts.manifest.input, 4000)
    scores = load_model(made.digest, made.parts).scores(raw)
    under = raw[(scores < 0.5) & (scores > 0.4)]
    assert len(under) > 10
    for start in range(0, 200, 4):
        rows = np.concatenate([under[[start % len(under)]], raw[start : start + 1]])
        scorer.answer(rows, served, started=0.0, at=1.8e9)
    scorer.stop()
    assert "share" in told
    assert windows[0].probing["share"] >= 1
