"""What is answered is counted, once, exactly as a host would count it."""

from __future__ import annotations

import resource
import threading
from collections import Counter as Tallies
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import examples
from support_agent import WEIGHTS, expected_scores, make_bundle, reference_rows
from support_device import HandClock

from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally
from wherry_agent.serving.inference import load_model, rule_answer
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.senses import Senses
from wherry_agent.serving.served import Served
from wherry_contract.errors import ServingError
from wherry_contract.features import RawMatrix
from wherry_contract.histograms import (
    SCORE_BINS,
    latency_bin,
    memory_bin,
    score_bins,
    temperature_bin,
)
from wherry_contract.messages import Place
from wherry_contract.window import Window

PLAIN = make_bundle(category=True)
OTHER = make_bundle("2.0.0", category=True, bias=-2.0)
BROKEN = make_bundle("3.0.0", flaw="nan")
RULELESS = make_bundle("4.0.0", flaw="nan", rule=False)
INPUTS = PLAIN.parts.manifest.input


def served(made: object) -> Served:
    return Served.by_model(load_model(made.digest, made.parts))  # type: ignore[attr-defined]


class Bench:
    """A scorer whose windows are collected."""

    def __init__(self, **limits: float) -> None:
        self.clock = HandClock()
        self.windows: list[Tally] = []
        self.scorer = Scorer(Limits(**limits), self.clock, self.windows.append)  # type: ignore[arg-type]

    def answer(self, raw: RawMatrix, at: float | None = None) -> object:
        """Score rows with what serves now."""
        now = self.scorer.served
        assert now
        return self.scorer.answer(raw, now, started=self.clock.monotonic(), at=at)


def by_hand(raw: RawMatrix) -> dict[str, list[int]]:
    """Counting as one would on paper: value by value against the profile's edges."""
    found = {}
    for place, feature in enumerate(INPUTS.features):
        edges = PLAIN.parts.profile.features[place].edges
        bins = len(PLAIN.parts.profile.features[place].counts.bins)
        cells: Tallies[object] = Tallies()
        for value in raw[:, place].tolist():
            if value != value:  # noqa: PLR0124 - NaN
                cells["missing"] += 1
            elif feature.dtype == "category":
                cells["below" if value < 0 else int(value)] += 1
            elif feature.minimum is not None and value < feature.minimum:
                cells["below"] += 1
            elif feature.maximum is not None and value > feature.maximum:
                cells["above"] += 1
            else:
                cells[sum(value > edge for edge in edges)] += 1
        slots: Sequence[object] = [*range(bins), "below", "above", "missing"]
        found[feature.name] = [cells[slot] for slot in slots]
    return found


def odd_rows(rows: int, seed: int) -> RawMatrix:
    """Rows with gaps, values out of range, on edges, and unseen categories."""
    chance = np.random.default_rng(seed)
    raw = reference_rows(INPUTS, rows, seed)
    raw[chance.random(rows) < 0.1, 1] = np.nan
    raw[chance.random(rows) < 0.1, 0] = -2e6
    raw[chance.random(rows) < 0.1, 0] = 2e6
    raw[chance.random(rows) < 0.1, 0] = 1e6
    raw[chance.random(rows) < 0.1, 2] = PLAIN.parts.profile.features[2].edges[0]
    raw[chance.random(rows) < 0.1, 3] = -1
    return raw


@settings(max_examples=examples(40), deadline=None)
@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.integers(0, 10**6))
def test_a_window_is_what_a_host_would_count(batches: list[int], seed: int) -> None:
    bench = Bench(window_rows=10**6)
    bench.scorer.swap(served(PLAIN))
    raw = odd_rows(sum(batches), seed)
    start = 0
    for size in batches:
        bench.answer(raw[start : start + size])
        start += size
    bench.scorer.stop()
    (tally,) = bench.windows
    window = Window.from_bytes(tally.window(Place("shop-1", "0" * 16, 1, 1)).to_bytes())
    counted = {
        name: [*item.bins, item.below, item.above, item.missing]
        for name, item in window.features.items()
    }
    assert counted == by_hand(raw)
    scores = expected_scores(PLAIN.parts.manifest.encoder, raw, [*WEIGHTS, 0.5], -3.0)
    assert window.rows == len(raw)
    assert sum(window.latency) == len(batches)
    near = np.abs(scores - 0.5) < 1e-6
    assert abs(window.flagged - int((scores >= 0.5).sum())) <= int(near.sum())
    histogram = np.bincount(score_bins(scores), minlength=SCORE_BINS)
    assert np.abs(np.array(window.scores) - histogram).sum() <= 2 * len(raw) // 100
    # the threshold is one half: where bin 32 begins
    assert window.flagged_scores == (0,) * 32 + window.scores[32:]
    assert window.near == sum(window.scores[30:32])


def test_rows_may_lie_in_memory_as_they_like() -> None:
    plain, strided = Bench(), Bench()
    raw = odd_rows(300, 5)
    for bench, rows in ((plain, raw), (strided, np.asfortranarray(raw))):
        bench.scorer.swap(served(PLAIN))
        for start in range(0, 300, 3):
            bench.answer(rows[start : start + 3])
        bench.scorer.stop()
    assert plain.windows[0].features == strided.windows[0].features


def test_windows_close_when_they_are_full() -> None:
    bench = Bench(window_rows=100)
    bench.scorer.swap(served(PLAIN))
    for _ in range(25):
        bench.answer(reference_rows(INPUTS, 10))
    bench.scorer.stop()
    assert [(item.rows, item.reason) for item in bench.windows] == [
        (100, "rows"),
        (100, "rows"),
        (50, "stop"),
    ]


def test_windows_close_when_their_time_is_up() -> None:
    bench = Bench(window_minutes=1, window_least_rows=1)
    bench.scorer.swap(served(PLAIN))
    bench.scorer.tick()
    bench.clock.pass_by(1000)
    bench.answer(reference_rows(INPUTS, 1))
    bench.scorer.tick()
    assert bench.windows == []  # time runs from the first row, not from the last close
    bench.clock.pass_by(60)
    bench.scorer.tick()
    assert [(item.rows, item.reason) for item in bench.windows] == [(1, "time")]


@pytest.mark.parametrize(
    ("rows", "refused", "minutes", "closed"),
    [
        pytest.param(19, 0, 60, [], id="a few wait for more"),
        pytest.param(20, 0, 60, [20], id="enough"),
        pytest.param(12, 8, 60, [12], id="what was refused counts too"),
        pytest.param(0, 20, 60, [0], id="nothing but refused"),
        pytest.param(1, 0, 359, [], id="one alone waits long"),
        pytest.param(1, 0, 360, [1], id="but not for ever"),
    ],
)
def test_small_windows_are_merged(rows: int, refused: int, minutes: int, closed: list[int]) -> None:
    bench = Bench()
    bench.scorer.swap(served(PLAIN))
    for _ in range(rows):
        bench.answer(reference_rows(INPUTS, 1))
    if refused:
        bench.scorer.refuse("C03", refused)
    bench.clock.pass_by(minutes * 60)
    bench.scorer.tick()
    assert [item.rows for item in bench.windows] == closed


def test_a_jump_of_the_wall_clock_closes_nothing() -> None:
    bench = Bench(window_minutes=1)
    bench.scorer.swap(served(PLAIN))
    bench.answer(reference_rows(INPUTS, 1))
    bench.clock.wall += 1e6
    bench.scorer.tick()
    assert bench.windows == []


def test_windows_are_cut_at_a_switch() -> None:
    bench = Bench()
    for made in (PLAIN, OTHER, PLAIN):
        bench.scorer.swap(served(made))
        bench.answer(reference_rows(INPUTS, 7))
    bench.scorer.swap(None)
    assert [(item.bundle, item.rows, item.reason) for item in bench.windows] == [
        (PLAIN.digest, 7, "switch"),
        (OTHER.digest, 7, "switch"),
        (PLAIN.digest, 7, "switch"),
    ]


def test_a_row_that_was_answered_across_a_switch_is_counted_for_its_own_model() -> None:
    bench = Bench()
    former = served(PLAIN)
    bench.scorer.swap(former)
    bench.scorer.swap(served(OTHER))
    bench.scorer.answer(reference_rows(INPUTS, 3), former, started=bench.clock.monotonic(), at=None)
    assert [(item.bundle, item.rows) for item in bench.windows] == [(PLAIN.digest, 3)]
    assert bench.scorer.progress.rows == 0


def test_threads_lose_and_double_nothing() -> None:
    bench = Bench(window_rows=97)
    bundles = [served(PLAIN), served(OTHER)]
    bench.scorer.swap(bundles[0])
    rows = reference_rows(INPUTS, 5)
    done = threading.Event()

    def pay() -> None:
        for _ in range(200):
            bench.answer(rows)

    def switch() -> None:
        turn = 0
        while not done.is_set():
            turn += 1
            bench.scorer.swap(bundles[turn % 2])
            bench.scorer.tick()

    payers = [threading.Thread(target=pay) for _ in range(4)]
    switcher = threading.Thread(target=switch)
    for thread in (*payers, switcher):
        thread.start()
    for thread in payers:
        thread.join()
    done.set()
    switcher.join()
    bench.scorer.stop()
    assert sum(item.rows for item in bench.windows) == 4 * 200 * 5
    for item in bench.windows:
        assert sum(item.scores) == item.rows
        assert {counts.rows for counts in item.features.values()} == {item.rows}
        assert sum(item.latency) * 5 == item.rows


def test_a_look_at_the_board_each_minute(tmp_path: Path) -> None:
    zone = tmp_path / "thermal_zone0"
    zone.mkdir()
    (tmp_path / "thermal_zone1").mkdir()  # a zone that is asleep cannot be read
    (tmp_path / "statm").write_text("9 25600 9 9 0 9 0\n")  # pages: 100 MiB
    (zone / "temp").write_text("54321\n")
    bench = Bench()
    bench.scorer = Scorer(
        Limits(), bench.clock, bench.windows.append, senses=Senses(tmp_path, tmp_path)
    )
    bench.scorer.swap(served(PLAIN))
    for _ in range(3):
        bench.clock.pass_by(60)
        bench.scorer.tick()
        bench.scorer.tick()
    assert bench.windows == []  # looks alone are no window
    bench.answer(reference_rows(INPUTS, 1))
    (zone / "temp").write_text("-273000\n")  # a sensor that is not connected
    bench.clock.pass_by(60)
    bench.scorer.tick()
    bench.scorer.stop()
    (tally,) = bench.windows
    pages = resource.getpagesize() / 4096
    assert tally.memory[memory_bin(100 * pages)] == sum(tally.memory) == 4
    assert tally.temperature[temperature_bin(54.321)] == sum(tally.temperature) == 3


def test_a_board_without_sensors_counts_no_temperature(tmp_path: Path) -> None:
    senses = Senses(tmp_path, tmp_path)
    assert (senses.memory_mib(), senses.celsius()) == (None, None)
    assert (Senses().memory_mib() or 0) > 1


# --- when a model fails ---------------------------------------------------------------------


def test_a_score_that_is_none_is_answered_by_the_rule() -> None:
    bench = Bench()
    bench.scorer.swap(served(BROKEN))
    answers = bench.answer(np.array([[2000.0, 1, 1], [100.0, 1, 1]]))
    assert answers.fallback  # type: ignore[attr-defined]
    assert answers.flagged.tolist() == [True, False]  # type: ignore[attr-defined]
    assert "finite" in answers.failure  # type: ignore[attr-defined]
    bench.answer(np.array([[50.0, 1, 1]]))
    bench.scorer.stop()
    (tally,) = bench.windows
    assert (tally.rows, tally.fallback, sum(tally.scores)) == (3, 2, 1)
    Window.from_bytes(tally.window(Place("shop-1", "0" * 16, 1, 1)).to_bytes())
    progress = bench.scorer.progress
    assert (progress.rows, progress.failures) == (3, 2)


def test_without_a_rule_the_payment_is_told_so_and_the_row_is_counted() -> None:
    bench = Bench()
    bench.scorer.swap(served(RULELESS))
    with pytest.raises(ServingError, match="S05"):
        bench.answer(np.array([[2000.0, 1, 1]]))
    bench.scorer.stop()
    (tally,) = bench.windows
    assert (tally.rows, tally.errors) == (0, {"S05": 1})
    assert bench.scorer.progress.failures == 1


def test_a_row_that_failed_across_a_switch_is_charged_to_its_own_model() -> None:
    """A sick model that is taken out must not fail the soak of the one that replaces it."""
    bench = Bench()
    sick = served(RULELESS)
    bench.scorer.swap(sick)
    bench.scorer.swap(served(OTHER))
    with pytest.raises(ServingError, match="S05"):
        bench.scorer.answer(np.array([[2000.0, 1, 1]]), sick, started=0.0, at=None)
    assert (bench.scorer.progress.rows, bench.scorer.progress.failures) == (0, 0)
    bench.scorer.stop()
    assert [(item.bundle, item.errors) for item in bench.windows] == [(RULELESS.digest, {"S05": 1})]


def test_the_rule_alone() -> None:
    bench = Bench()
    parts = PLAIN.parts
    bench.scorer.swap(Served(PLAIN.digest, parts.manifest, parts.profile, None))
    answers = bench.answer(np.array([[201.0, 1, 1, 0], [199.0, 1, 1, 0]]))
    assert answers.flagged.tolist() == [True, False]  # type: ignore[attr-defined]


def test_a_tensor_that_a_runtime_cannot_take_is_no_crash() -> None:
    bench = Bench()
    bench.scorer.swap(served(RULELESS))
    model = bench.scorer.served
    assert model
    assert model.model
    assert isinstance(model.model.answer(np.zeros((2, 9))), str)


def test_refused_rows_open_a_window_of_their_own() -> None:
    bench = Bench(window_minutes=1, window_least_rows=1)
    bench.scorer.refuse("C02", 3)  # before there is a model nobody can say against which edges
    bench.scorer.swap(served(PLAIN))
    bench.scorer.refuse("C02", 3)
    bench.scorer.refuse("C05", 1)
    bench.scorer.refuse("C02", 1)
    bench.clock.pass_by(60)
    bench.scorer.tick()
    (tally,) = bench.windows
    assert (tally.rows, tally.errors) == (0, {"C02": 4, "C05": 1})
    assert bench.scorer.progress.failures == 0


# --- times ----------------------------------------------------------------------------------

TIMES = [
    ("the payments' own", [1.53e9, 1.5301e9, 1.5299e9], (1.5299e9, 1.5301e9)),
    ("none given", [None, None], (1.8e9, 1.8e9)),
    ("impossible ones are now", [-6e10, 2.5e11], (1.8e9, 1.8e9)),
]


@pytest.mark.parametrize(
    ("times", "wanted"), [row[1:] for row in TIMES], ids=[row[0] for row in TIMES]
)
def test_times(times: list[float | None], wanted: tuple[float, float]) -> None:
    bench = Bench()
    bench.scorer.swap(served(PLAIN))
    bench.scorer.refuse("C02", 1)  # happened now, and stretches no window of the past
    for at in times:
        bench.answer(reference_rows(INPUTS, 1), at)
    bench.scorer.refuse("C02", 1)
    bench.scorer.stop()
    assert (bench.windows[0].opened, bench.windows[0].closed) == wanted


@pytest.mark.parametrize(
    ("microseconds", "cell"), [(0, 0), (1, 0), (2, 2), (1000, 19), (1e9, 39), (-5, 0)]
)
def test_latency_bins(microseconds: float, cell: int) -> None:
    assert latency_bin(microseconds) == cell


def test_a_rule_beside_a_value_is_counted_between_the_values_edges() -> None:
    manifest = PLAIN.parts.manifest
    manifest = replace(manifest, output=replace(manifest.output, edges=(0.5, 2.0)))
    assert manifest.fallback
    found = rule_answer(manifest.fallback, reference_rows(INPUTS, 200, 1), manifest, "broken")
    assert 0 < found.flagged.sum() < 200
    assert np.array_equal(found.bins, found.flagged.astype(np.int64))
