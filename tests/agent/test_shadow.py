"""A shadow scores what was answered, counts it beside the answers, and keeps to its budget."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import wait_for
from support_agent import (
    Depot,
    Made,
    contract,
    make_bundle,
    order_for,
    running_depot,
    signed_order,
)
from support_device import Device, HandClock

from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally
from wherry_agent.serving.inference import Answers, Model, load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_agent.serving.shadow import QUEUE_ROWS, Shadow, ShadowProgress, translation
from wherry_agent.update.shadowing import SHADOWED, Total, is_to_be_noted, judge_shadow
from wherry_agent.update.updater import E
from wherry_contract.assignment import ShadowPlan
from wherry_contract.features import UNSEEN, Feature, InputContract, RawMatrix
from wherry_contract.manifest import Soak
from wherry_contract.shadow import COARSE, ShadowCounts

LIVE = make_bundle("1.0.0")
SAME = make_bundle("2.0.0")
OTHER = make_bundle("3.0.0", bias=-1.5)
FAILING = make_bundle("4.0.0", flaw="nan")


def model_of(made: Made) -> Model:
    return load_model(made.digest, made.parts)


@dataclass
class Bench:
    """A scorer with a shadow that works when it is told to, in this thread."""

    made: Made
    clock: HandClock = field(default_factory=HandClock)
    limits: Limits = field(default_factory=lambda: Limits(window_rows=10**6))
    cpu: float = 0.0
    memory: float | None = 50.0

    def __post_init__(self) -> None:
        self.tallies: list[Tally] = []
        self.scorer = Scorer(self.limits, self.clock, self.tallies.append)
        self.served = Served.by_model(model_of(LIVE))
        self.scorer.swap(self.served)
        self.shadow = Shadow(
            model_of(self.made), self.limits, self.clock,
            memory=lambda: self.memory, before_mib=self.memory, cpu=lambda: self.cpu,
        )  # fmt: skip
        self.scorer.compare(self.shadow)

    def pay(self, raw: RawMatrix) -> Answers:
        """Rows that are answered."""
        return self.scorer.answer(raw, self.served, started=self.clock.monotonic(), at=None)

    def counts(self) -> ShadowCounts:
        """What the last window says of the shadow."""
        self.shadow.work()
        self.scorer.stop()
        found = [tally.shadow for tally in self.tallies if tally.shadow]
        return found[-1]


def rows(count: int, seed: int = 1) -> RawMatrix:
    chance = np.random.default_rng(seed)
    return np.column_stack([chance.uniform(0, 300, count), chance.uniform(0, 3, (count, 2))])


@pytest.mark.parametrize("made", [SAME, OTHER], ids=["the same", "another"])
@pytest.mark.parametrize("at_once", [1, 7])
def test_every_row_is_compared_with_what_it_was_told(made: Made, at_once: int) -> None:
    bench, raw = Bench(made), rows(140)
    told = [bench.pay(raw[start : start + at_once]) for start in range(0, len(raw), at_once)]
    live = np.concatenate([answers.flagged for answers in told])
    was = np.concatenate([answers.bins for answers in told])
    alone = model_of(made).answer(raw)
    assert not isinstance(alone, str)
    counts = bench.counts()
    cells = [
        int(np.count_nonzero((live == before) & (alone.flagged == after)))
        for before in (False, True)
        for after in (False, True)
    ]
    assert counts.bundle == made.digest
    assert (counts.rows, list(counts.decisions)) == (140, cells)
    assert (counts.differing == 0) == (made is SAME)
    assert list(counts.scores) == np.bincount(alone.bins, minlength=64).tolist()
    joint = np.zeros((16, 16), int)
    np.add.at(joint, (was // COARSE, alone.bins // COARSE), 1)
    assert list(counts.joint) == joint.ravel().tolist()
    assert sum(counts.latency) == 140 // at_once
    assert (counts.failed, counts.dropped, counts.off) == (0, 0, "")


def test_a_window_is_cut_around_a_shadow_and_carries_what_was_counted_since_the_last() -> None:
    bench = Bench(OTHER, limits=Limits(window_rows=10))
    for _ in range(25):
        bench.pay(rows(1))
        bench.shadow.work()
    bench.scorer.compare(None)
    bench.pay(rows(1))
    bench.scorer.stop()
    assert [tally.rows for tally in bench.tallies] == [10, 10, 5, 1]
    shadowed = [tally.shadow.rows if tally.shadow else 0 for tally in bench.tallies]
    assert sum(shadowed) == 25
    assert shadowed[-1] == 0


def test_what_is_left_when_nothing_was_paid_has_a_window_of_its_own() -> None:
    bench = Bench(OTHER, limits=Limits(window_rows=10))
    for _ in range(10):
        bench.pay(rows(1))
    bench.shadow.work()
    bench.clock.pass_by(5)
    bench.scorer.compare(None)
    last = bench.tallies[-1]
    assert (last.rows, last.opened, last.closed) == (0, bench.clock.now(), bench.clock.now())
    assert last.shadow
    assert last.shadow.rows == 10


def test_rows_that_the_model_did_not_answer_are_not_compared() -> None:
    bench = Bench(SAME)
    bench.served = replace(bench.served, model=None)
    bench.scorer.swap(bench.served)
    bench.pay(rows(20))
    bench.shadow.work()
    assert bench.shadow.progress.rows == 0


def test_another_model_that_answers_begins_other_counts() -> None:
    bench = Bench(SAME)
    bench.pay(rows(30))
    bench.shadow.work()
    bench.served = Served.by_model(model_of(OTHER))
    bench.scorer.swap(bench.served)
    bench.pay(rows(12))
    bench.shadow.work()
    bench.scorer.stop()
    first, second = (tally.shadow for tally in bench.tallies)
    assert first
    assert second
    assert (first.rows, first.differing) == (30, 0)
    assert second.rows == 12
    assert second.differing > 0
    assert [tally.bundle for tally in bench.tallies] == [LIVE.digest, OTHER.digest]


class Thirds:
    """A session that finds the first of three classes most likely."""

    def score(self, tensor: RawMatrix) -> RawMatrix:
        """The same for every row."""
        return np.tile([0.6, 0.3, 0.1], (len(tensor), 1))

    def bind(self, tensor: RawMatrix) -> None:
        """There is no shorter way."""


def test_counts_of_classes_add_up_also_where_a_window_has_none() -> None:
    manifest = SAME.parts.manifest
    output = replace(manifest.output, column=-1, classes=("a", "b", "c"))
    parts = replace(SAME.parts, manifest=replace(manifest, output=output))
    model = Model(SAME.digest, parts, Thirds())
    shadow = Shadow(model, Limits(), HandClock(), memory=lambda: None, before_mib=None)
    answers = model.answer(rows(2))
    assert isinstance(answers, Answers)
    shadow.offer(rows(2), answers, LIVE.digest, parts.manifest)
    shadow.work()
    counted = shadow.take(LIVE.digest)
    assert counted
    shadow.offer(rows(QUEUE_ROWS), answers, LIVE.digest, parts.manifest)
    shadow.offer(rows(1), answers, LIVE.digest, parts.manifest)  # it is behind
    dropped = shadow.take(LIVE.digest)
    assert dropped
    assert (counted + dropped).dropped == 1


# --- what it cannot do ----------------------------------------------------------------------


def test_a_shadow_that_is_behind_drops_rows_and_counts_them() -> None:
    bench, row = Bench(SAME), rows(1)
    for _ in range(QUEUE_ROWS + 300):
        bench.pay(row)
    counts = bench.counts()
    assert (counts.rows, counts.dropped) == (QUEUE_ROWS, 300)


def test_a_row_is_copied() -> None:
    bench, row = Bench(SAME), np.array([[10.0, 1.0, 1.0]])
    flagged = bench.pay(row).flagged
    bench.scorer.tick()  # what is counted of the row itself, first
    row[:] = 1e6
    counts = bench.counts()
    assert counts.differing == 0
    assert not flagged.any()


def test_rows_that_it_fails_are_counted_and_touch_no_answer() -> None:
    bench = Bench(FAILING)
    raw = np.array([[5000.0, 1.0, 1.0]])
    assert np.isfinite(bench.pay(raw).scores).all()
    for _ in range(9):
        bench.pay(raw)
    counts = bench.counts()
    assert counts.failed == 10
    assert counts.rows == 0
    assert "finite" in bench.shadow.progress.failure


def test_a_shadow_over_its_share_of_the_processor_is_switched_off() -> None:
    bench = Bench(SAME)
    for share in (0.9, 0.1, 0.9, 0.3):  # of a core, for six seconds each; 0.25 may be
        assert bench.shadow.progress.off == ""
        bench.pay(rows(5))
        bench.clock.pass_by(6)
        bench.cpu += 6 * share
        bench.shadow.work()
    assert bench.shadow.progress.off == "cpu"
    assert "30 % of a core, 25 %" in bench.shadow.progress.detail
    bench.pay(rows(50))
    counts = bench.counts()
    assert (counts.rows, counts.dropped, counts.off) == (15, 0, "cpu")


@pytest.mark.parametrize(("memory", "off"), [(150.0, ""), (200.0, "memory"), (None, "")])
def test_a_shadow_over_its_memory_is_switched_off(memory: float | None, off: str) -> None:
    bench = Bench(SAME)
    bench.pay(rows(5))
    bench.memory = memory
    bench.clock.pass_by(6)
    bench.shadow.work()
    assert bench.shadow.progress.off == off


def test_why_it_was_switched_off_is_said_in_one_window() -> None:
    bench = Bench(SAME, limits=Limits(window_rows=10))
    bench.memory = 999.0
    bench.shadow.check_memory()
    for _ in range(30):
        bench.pay(rows(1))
    said = [tally.shadow.off if tally.shadow else "" for tally in bench.tallies]
    assert said == ["memory", "", ""]


def test_a_bug_of_ours_switches_it_off_and_is_told() -> None:
    others = set(threading.enumerate())  # of tests before
    bench = Bench(SAME)
    broken = Shadow(
        model_of(SAME), bench.limits, bench.clock,
        memory=lambda: 1 / 0, before_mib=1.0, cpu=lambda: 0.0,
    )  # fmt: skip
    bench.scorer.compare(broken)
    broken.start()
    bench.clock.pass_by(6)
    bench.pay(rows(1))
    wait_for(lambda: broken.progress.off == "crashed", seconds=60)
    assert "ZeroDivisionError" in broken.progress.detail
    bench.pay(rows(1))
    wait_for(
        lambda: "shadow" not in {item.name for item in set(threading.enumerate()) - others},
        seconds=60,
    )


# --- rows of another contract ---------------------------------------------------------------

KIND = Feature("KIND", "category", categories=("a", "b", "c"))
AMOUNT, NIGHTS = Feature("AMOUNT"), Feature("NIGHTS", missing="allow")


def of(*features: Feature) -> InputContract:
    return InputContract("shop", 1, features)


@pytest.mark.parametrize(
    ("shadow", "wanted"),
    [
        pytest.param(of(AMOUNT, NIGHTS, KIND), [[5.0, np.nan, 1.0], [6.0, 2.0, UNSEEN]], id="same"),
        pytest.param(of(KIND, AMOUNT), [[1.0, 5.0], [UNSEEN, 6.0]], id="fewer, another order"),
        pytest.param(
            of(replace(KIND, categories=("b", "a")), AMOUNT), [[0.0, 5.0], [UNSEEN, 6.0]],
            id="another order of categories",
        ),
        pytest.param(
            of(replace(KIND, categories=("x", "c"))), [[UNSEEN], [UNSEEN]], id="a category less"
        ),
        pytest.param(of(AMOUNT, Feature("AGE")), None, id="a feature that is not there"),
        pytest.param(of(Feature("KIND")), None, id="of another kind"),
    ],
)  # fmt: skip
def test_rows_are_laid_out_for_the_shadow(
    shadow: InputContract, wanted: list[list[float]] | None
) -> None:
    way = translation(of(AMOUNT, NIGHTS, KIND), shadow)
    assert (way is None) == (wanted is None)
    if way:
        found = way(np.array([[5.0, np.nan, 1.0], [6.0, 2.0, UNSEEN]]))
        np.testing.assert_array_equal(found, np.array(wanted))


def test_a_shadow_that_wants_other_features_is_switched_off() -> None:
    bench = Bench(make_bundle("5.0.0", features=5))
    bench.pay(rows(3))
    assert bench.counts().off == "inputs"
    assert contract(5).names != contract(3).names


# --- what follows: pure ---------------------------------------------------------------------

ORDER = order_for(SAME.digest, 7, mode="shadow", shadow=ShadowPlan(100, 60))
SWITCHING = replace(ORDER, shadow=ShadowPlan(100, 60, "switch"))
ENOUGH = Total(100, 60.0)

JUDGED = [
    ("it has not scored enough", ORDER, ShadowProgress(rows=99), Total(99, 999), E.WAIT, ""),
    ("nor for long enough", ORDER, ShadowProgress(rows=500), Total(500, 59), E.WAIT, ""),
    ("it waits for the live order", ORDER, ShadowProgress(rows=100), ENOUGH, E.WAIT, SHADOWED),
    ("or goes on", SWITCHING, ShadowProgress(rows=100), ENOUGH, E.DONE, SHADOWED),
    ("the rest was before a restart", SWITCHING, ShadowProgress(), ENOUGH, E.DONE, SHADOWED),
    ("the live order is here", replace(ORDER, mode="live"), ShadowProgress(), Total(), E.DONE, ""),
    ("off, it waits", SWITCHING, ShadowProgress(rows=100, off="cpu"), ENOUGH, E.WAIT, "U16"),
    ("four odd rows", ORDER, ShadowProgress(rows=1, failed=4), Total(1, 1), E.WAIT, ""),
    ("five of few", ORDER, ShadowProgress(rows=9, failed=5), Total(9, 1), E.FAIL, "U15"),
    ("five of many", ORDER, ShadowProgress(rows=900, failed=5), Total(9, 1), E.WAIT, ""),
    (
        "failing rows go live on no order",
        replace(ORDER, mode="live"), ShadowProgress(failed=5), Total(), E.FAIL, "U15",
    ),
]  # fmt: skip


@pytest.mark.parametrize(
    ("order", "done", "total", "event", "code"),
    [row[1:] for row in JUDGED],
    ids=[row[0] for row in JUDGED],
)
def test_what_follows_from_a_look(
    order: Any, done: ShadowProgress, total: Total, event: E, code: str
) -> None:
    found = judge_shadow(order, done, total, Soak(error_share=0.01))
    assert (found.event, found.code) == (event, code)


def test_progress_is_written_down_four_times_at_most() -> None:
    noted, writes = Total(), 0
    for at in range(1000):
        total = Total(at, at / 2)
        if is_to_be_noted(ORDER, noted, total):
            noted, writes = total, writes + 1
    assert 2 <= writes <= 8
    assert noted.rows >= 100
    assert noted.seconds >= 60


# --- an update with a shadow ----------------------------------------------------------------


@pytest.fixture(scope="module")
def depot(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Depot]:
    folder = tmp_path_factory.mktemp("depot")
    with running_depot(folder, LIVE, SAME, OTHER, FAILING) as running:
        yield running


@pytest.fixture
def device(tmp_path: Path, depot: Depot) -> Iterator[Device]:
    with Device(tmp_path, depot=depot.url) as started:
        started.updater.start()
        started.updater.offer(signed_order(order_for(LIVE.digest, 1)))
        started.settle()
        yield started


def shadowing(device: Device, made: Made, then: str = "wait", rows: int = 40) -> None:
    order = order_for(
        made.digest, 2, rollout="r2", mode="shadow", shadow=ShadowPlan(rows, 10, then)
    )
    device.updater.offer(signed_order(order))
    device.step_to("shadow")
    device.step()


def pay(device: Device, rows: int, amount: float = 50.0) -> None:
    device.pay(rows, amount)
    device.until_shadowed()
    device.clock.pass_by(1)
    device.step()


def codes(device: Device) -> list[str]:
    return [event.code for event in device.events()]


def test_a_shadow_that_has_scored_enough_waits_for_the_live_order(device: Device) -> None:
    shadowing(device, SAME)
    for _ in range(12):
        pay(device, 5)
    assert (device.state, device.serves) == ("shadow", LIVE.digest)
    assert codes(device).count(SHADOWED) == 1
    device.updater.offer(signed_order(order_for(SAME.digest, 3, rollout="r2")))
    device.settle()
    assert device.serves == SAME.digest
    assert device.scorer.shadow is None
    assert device.outcomes()[-1] == ("r2", "committed", "update.committed")


def test_a_shadow_may_go_on_by_itself(device: Device) -> None:
    shadowing(device, SAME, "switch")
    device.settle()
    assert device.serves == SAME.digest


def test_a_live_order_is_not_kept_waiting(device: Device) -> None:
    shadowing(device, SAME, rows=10**6)
    device.updater.offer(signed_order(order_for(SAME.digest, 3, rollout="r2")))
    device.settle()
    assert device.serves == SAME.digest


def test_a_newer_order_ends_a_shadow(device: Device) -> None:
    shadowing(device, SAME)
    device.updater.offer(signed_order(order_for(OTHER.digest, 3, rollout="r3")))
    device.settle()
    assert device.serves == OTHER.digest
    assert device.scorer.shadow is None
    assert [item[:2] for item in device.outcomes()][-2:] == [("r2", "refused"), ("r3", "committed")]


def test_a_withdrawn_shadow_leaves_no_trace(device: Device) -> None:
    shadowing(device, SAME)
    device.updater.offer(signed_order(order_for("", 3, rollout="r2")))
    device.settle()
    assert (device.serves, device.scorer.shadow) == (LIVE.digest, None)
    assert device.outcomes()[-1][1] == "withdrawn"
    assert not device.blobs.has(SAME.digest)


def test_a_shadow_that_fails_live_rows_is_refused(device: Device) -> None:
    shadowing(device, FAILING)
    pay(device, 20, amount=5000.0)
    device.settle()
    assert (device.serves, device.outcomes()[-1][1:]) == (LIVE.digest, ("refused", "U15"))


def test_a_shadow_goes_on_after_a_restart_where_it_was(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        device.updater.offer(signed_order(order_for(LIVE.digest, 1)))
        device.settle()
        shadowing(device, SAME, rows=60)
        for _ in range(10):
            pay(device, 5)
        update = device.updater.record.update
        assert update
        assert 40 <= update.shadow_rows <= 50
        noted = update.shadow_rows
        device.scorer.stop()
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        assert (device.state, device.serves) == ("shadow", LIVE.digest)
        device.step()
        pay(device, 60 - noted)
        assert SHADOWED in codes(device)
        device.scorer.stop()


def test_a_shadow_without_a_model_beside_it_waits_and_says_so(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        shadowing(device, SAME)
        assert (device.state, device.serves) == ("shadow", "")
        assert codes(device).count("U16") == 1
        device.updater.offer(signed_order(order_for(SAME.digest, 3, rollout="r2")))
        device.settle()
        assert device.serves == SAME.digest


def test_starts_while_a_shadow_waits_for_a_model_are_no_fault_of_it(
    tmp_path: Path, depot: Depot
) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        shadowing(device, SAME)
    for _ in range(6):
        with Device(tmp_path, depot=depot.url) as device:
            device.updater.start()
            device.step()
            assert device.state == "shadow"


def test_after_ten_quiet_minutes_starts_are_forgotten(tmp_path: Path, depot: Depot) -> None:
    with Device(tmp_path, depot=depot.url) as device:
        device.updater.start()
        device.updater.offer(signed_order(order_for(LIVE.digest, 1)))
        device.settle()
        shadowing(device, SAME)
        device.scorer.stop()
    for _ in range(8):
        with Device(tmp_path, depot=depot.url) as device:
            device.updater.start()
            assert device.state == "shadow"
            device.step()
            device.clock.pass_by(601)
            device.step()
            device.scorer.stop()
