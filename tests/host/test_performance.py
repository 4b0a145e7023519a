"""Performance without labels, and what labels say of it: on worlds whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support_labels import (
    THRESHOLD,
    History,
    Scores,
    Truth,
    World,
    answers,
    histogram,
    labels_of,
)

from wherry.monitor import Figure, Labels, Quality, Verdict, concept_drift
from wherry.monitor.concept import against, realised
from wherry.monitor.estimate import Belief, flagged_bins, highest, isotonic
from wherry_contract.calibration import Calibration
from wherry_contract.histograms import SCORE_BINS, score_bins


def _truth(scores: Scores, truth: Truth) -> list[float]:
    """Recall and precision of the highest tenth, and of what is flagged."""
    top = np.argsort(-scores)[: len(scores) // 10]
    flagged = scores >= THRESHOLD
    whole = truth.sum()
    return [
        truth[top].sum() / whole,
        truth[top].mean(),
        truth[flagged].sum() / whole,
        truth[flagged].mean(),
    ]


def _values(found: Quality) -> list[Figure]:
    wanted = (found.recall_decile, found.precision_decile, found.recall, found.precision)
    return [figure for figure in wanted if figure]


def _estimate(seed: int, world: World, rows: int) -> tuple[Quality, list[float]]:
    rng = np.random.default_rng(seed)
    belief = Belief.of(Calibration.of(*World().payments(rng, rows)))
    scores, truth = world.payments(rng, rows)
    given = answers(scores)
    return belief.quality(given.scores, given.caught(THRESHOLD)), _truth(scores, truth)


@pytest.mark.parametrize(
    "world",
    [
        pytest.param(World(), id="nothing changes"),
        pytest.param(World(mean=0.5), id="more risk"),
        pytest.param(World(mean=-0.5), id="less risk"),
        pytest.param(World(spread=0.7), id="narrower"),
        pytest.param(World(spread=1.3), id="wider"),
    ],
)
def test_unbiased_whatever_the_inputs_do(world: World) -> None:
    """Over 8 worlds of 100,000 rows: bias under 0.01, and the interval holds the truth."""
    apart, held = list[list[float]](), list[bool]()
    for seed in range(8):
        found, truth = _estimate(seed, world, 100_000)
        apart.append(
            [figure.value - true for figure, true in zip(_values(found), truth, strict=True)]
        )
        held += [f.low <= true <= f.high for f, true in zip(_values(found), truth, strict=True)]
    assert np.abs(np.mean(apart, axis=0)).max() < 0.01
    assert np.mean(held) >= 0.85


def test_blind_to_a_changed_meaning_until_labels_come() -> None:
    """The ranking loses most of its worth: the estimate stays where it was, labels show it."""
    same, before = _estimate(3, World(), 100_000)
    found, truth = _estimate(3, World(slope=0.4), 100_000)
    assert found.recall_decile.value == pytest.approx(same.recall_decile.value, abs=0.02)
    assert truth[0] < before[0] - 0.2
    rng = np.random.default_rng(3)
    belief = Belief.of(Calibration.of(*World().payments(rng, 100_000)))
    scores, positive = World(slope=0.4).payments(rng, 100_000)
    given = answers(scores)
    fact = realised(belief, labels_of(scores, positive), given.scores, given.caught(THRESHOLD))
    for figure, true in zip(_values(fact), _truth(scores, positive), strict=True):
        assert figure.value == pytest.approx(true, abs=0.005), "all labels: the fact itself"


def test_a_sample_of_labels_by_weight() -> None:
    """All flagged payments and one in ten of the others: as good as all labels, but for chance."""
    rng = np.random.default_rng(5)
    belief = Belief.of(Calibration.of(*World().payments(rng, 50_000)))
    scores, truth = World(level=0.7).payments(rng, 100_000)
    asked = scores >= THRESHOLD
    rest = ~asked & (rng.random(len(scores)) < 0.1)
    sample = labels_of(scores[asked], truth[asked]) + labels_of(scores[rest], truth[rest], 10.0)
    given = answers(scores)
    found = realised(belief, sample, given.scores, given.caught(THRESHOLD))
    for figure, true in zip(_values(found), _truth(scores, truth), strict=True):
        assert figure.low - 0.005 <= true <= figure.high + 0.005
    test = against(belief, sample)
    assert test.p < 1e-6
    assert 1.3 < test.ratio.low < test.ratio.value < test.ratio.high < 2.0


def test_labels_add_up_in_any_order() -> None:
    rng = np.random.default_rng(6)
    scores, truth = World().payments(rng, 3000)
    parts = [labels_of(scores[i::7], truth[i::7], w) for i, w in enumerate((1, 2, 5, 1, 1, 3, 1))]
    there, back = Labels(), Labels()
    for one, other in zip(parts, reversed(parts), strict=True):
        there, back = there + one, back + other
    assert np.array_equal(there.rows, back.rows)
    assert np.array_equal(there.positives, back.positives)
    assert (there.counted, there.hits) == (3000, int(truth.sum()))


def test_silent_while_a_score_means_what_it_meant() -> None:
    """15 models, 12 days each, under changed inputs: no alarm, and at most 2 % of days watched."""
    alarms = watched = days = 0
    for seed in range(15):
        rng = np.random.default_rng(100 + seed)
        history = History.begin(rng)
        for day in range(12):
            history.add(rng, World(mean=(0.0, 0.4, -0.3)[day % 3]), 8000)
        found = history.judged()
        alarms += sum(item.verdict == Verdict.CONCEPT for item in found)
        watched += sum(item.verdict == Verdict.WATCH for item in found)
        days += len(found)
    assert alarms == 0
    assert watched <= 0.02 * days


@pytest.mark.parametrize("world", [World(slope=0.5), World(level=0.8)], ids=["ranking", "level"])
def test_concept_drift_is_seen_in_the_second_span(world: World) -> None:
    rng = np.random.default_rng(8)
    history = History.begin(rng)
    for _ in range(3):
        history.add(rng, World(), 8000)
    assert [item.verdict for item in history.judged()] == [Verdict.CONFIRMED] * 3
    for _ in range(3):
        history.add(rng, world, 8000)
    found = history.judged()
    assert [item.verdict for item in found[3:]] == [Verdict.WATCH, *[Verdict.CONCEPT] * 2]
    assert concept_drift(found) == (found[-1],)
    assert all("declined payments yield no label" in item.rule for item in found)


def test_labels_that_are_late_wait_with_their_days() -> None:
    """The latest days are estimated; few labels are held against nothing until there are more."""
    rng = np.random.default_rng(9)
    history = History.begin(rng)
    for _ in range(4):
        history.add(rng, World(), 4000, labelled=0.3)
    for _ in range(2):
        history.add(rng, World(), 4000, labelled=0.0)
    found = history.judged()
    assert [item.verdict for item in found] == [
        Verdict.ESTIMATED,
        Verdict.CONFIRMED,
        Verdict.ESTIMATED,
        Verdict.CONFIRMED,
        Verdict.ESTIMATED,
        Verdict.ESTIMATED,
    ]
    assert found[1].since == found[0].opened
    assert found[1].labels == 2400
    assert "blind to concept drift" in found[-1].rule


@pytest.mark.parametrize(
    ("calibrated", "rows", "verdict", "word"),
    [
        pytest.param(None, 8000, Verdict.UNKNOWN, "built without labels", id="no labels"),
        pytest.param(500, 8000, Verdict.UNKNOWN, "50 are needed", id="few labels"),
        pytest.param(20_000, 300, Verdict.WAITING, "50 are needed", id="few rows"),
    ],
)
def test_not_enough(calibrated: int | None, rows: int, verdict: Verdict, word: str) -> None:
    rng = np.random.default_rng(10)
    history = History.begin(rng, calibrated or 100)
    if calibrated is None:
        history.calibration = None
    history.add(rng, World(), rows)
    (found,) = history.judged()
    assert (found.verdict, found.estimated) == (verdict, None)
    assert word in found.rule


counts = st.lists(st.integers(0, 50), min_size=SCORE_BINS, max_size=SCORE_BINS)


@given(counts, counts)
def test_shares_never_fall_and_keep_the_total(first: list[int], second: list[int]) -> None:
    rows = np.array(first, np.float64) + second
    if not rows.sum():
        return
    positives = np.array(first, np.float64)
    found = isotonic(positives, rows)
    assert (np.diff(found) >= -1e-12).all()
    assert 0 <= found.min() <= found.max() <= 1
    assert found @ rows <= positives.sum() + 1e-6


@given(counts)
def test_the_highest_tenth_is_a_tenth(found: list[int]) -> None:
    scores: NDArray[np.float64] = np.array(found, np.float64)
    part = highest(scores)
    assert part @ scores == pytest.approx(0.1 * scores.sum())


def test_flagged_rows_by_bin_are_exact() -> None:
    scores, _ = World().payments(np.random.default_rng(11), 5000)
    flagged = scores >= THRESHOLD
    found = flagged_bins(histogram(scores).astype(float), float(flagged.sum()), THRESHOLD)
    assert found.tolist() == histogram(scores[flagged]).tolist()
    assert found[: int(score_bins(THRESHOLD))].sum() == 0
