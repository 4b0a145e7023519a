"""Judging as windows come says what judging all at once says, and many at once what one by one."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_monitor import BUNDLE, DAY, NEWER, Fleet, alerts, cells, inputs, rows

from wherry.monitor import FleetView, Policy, Tally, Watch, judge
from wherry.monitor.compare import Spread
from wherry.monitor.rowmath import chi2_sf_rows, psi_rows, rates_differ_rows, unrest
from wherry.monitor.tally import Seen
from wherry.monitor.view import Kind
from wherry_contract.psi import assess, psi
from wherry_contract.stats import chi2_sf, rates_differ

POLICY = Policy()


@pytest.fixture(scope="module")
def month() -> Fleet:
    """Three shops over nine days, one of which drifts; a new model from the sixth day on."""
    fleet = Fleet(contract=inputs(period="week"), reference_rows=5000)
    for day in range(9):
        for device in ("a", "b", "c"):
            shift = 2.0 if device == "b" and day > 5 else 1.0
            bundle = NEWER if day > 5 else BUNDLE
            fleet.send(device, day, rows(fleet.rng, 300, shift=shift), bundle=bundle)
    return fleet


def _same(found: FleetView, plain: FleetView) -> None:
    assert found.cells == plain.cells
    assert found.scores == plain.scores
    assert found.health == plain.health
    assert found.standing == plain.standing
    assert (found.windows, found.devices, found.newest) == (
        plain.windows,
        plain.devices,
        plain.newest,
    )


@settings(max_examples=20)
@given(st.integers(0, 10**6))
def test_looking_in_between_changes_nothing(month: Fleet, seed: int) -> None:
    """Any order of arrival, repeats and losses; a look after each batch."""
    luck = random.Random(seed)
    kept = luck.sample(month.windows, luck.randint(3, len(month.windows)))
    said = [*kept, *luck.sample(kept, 3)]
    luck.shuffle(said)
    policy = replace(POLICY, same_hours=luck.random() < 0.5)
    groups = {"site=x": ("a", "b")} if luck.random() < 0.5 else {}
    tally = Tally(month.references, DAY)
    watch = Watch(month.references, tally, policy)
    cuts = sorted(luck.sample(range(len(said)), 2))
    for first, last in zip([0, *cuts], [*cuts, len(said)], strict=True):
        tally.add(said[first:last])
        found = watch.look(segments=groups)
    _same(found, judge(month.references, kept, policy, groups))


def test_what_comes_in_order_is_judged_once(month: Fleet) -> None:
    """The comparisons of days that are over are those that were made then, not made again."""
    tally = Tally(month.references, DAY)
    watch = Watch(month.references, tally, POLICY)
    tally.add(month.windows[:-3])
    watch.look()
    before = watch._kept[-1]
    tally.add(month.windows[-3:])
    watch.look()
    assert watch._kept[-2] is before
    assert watch._kept[-1].tracks[0].records[0] is before.tracks[0].records[0]
    place = replace(month.windows[0].window.place, seq=999)
    late = replace(month.windows[0], window=replace(month.windows[0].window, place=place))
    tally.add([late])
    found = watch.look()
    assert before not in watch._kept
    _same(found, judge(month.references, [*month.windows, late]))


def test_history_is_bounded_and_what_stands_stays(month: Fleet) -> None:
    """With room for one tick alone: of older ones what was raised, all together, what stands."""
    tally = Tally(month.references, DAY)
    tally.add(month.windows)
    whole = Watch(month.references, tally, POLICY).look()
    short = Watch(month.references, tally, POLICY, most_cells=1).look()
    assert short.current == whole.current
    assert (short.alerts, short.standing) == (whole.alerts, whole.standing)
    assert set(short.cells) < set(whole.cells)
    gone = set(whole.cells) - set(short.cells)
    assert all(cell.device and cell.decision == "stable" for cell in gone if cell.evidence)


@pytest.mark.parametrize("name", ["a", "c"])
def test_some_devices_are_a_fleet_of_their_own(month: Fleet, name: str) -> None:
    tally = Tally(month.references, DAY)
    tally.add(month.windows)
    found = Watch(month.references, tally, POLICY).look(devices=frozenset({name}))
    mine = [item for item in month.windows if item.device == name]
    _same(found, judge(month.references, mine))


def test_devices_that_share_a_label_are_judged_like_one() -> None:
    """Too few rows at each shop of a site, enough at all of them; each site has its own normal."""
    fleet = Fleet()
    for day in range(8):
        for number in range(12):
            site = "lyon" if number < 6 else "paris"
            moved = site == "paris" and day > 5
            raw = rows(fleet.rng, 100, shift=(1.5 if site == "lyon" else 1.0) * (2 if moved else 1))
            fleet.send(f"{site}-{number}", day, raw)
    sites = {
        f"site={site}": tuple(f"{site}-{n}" for n in range(12) if (n < 6) == (site == "lyon"))
        for site in ("lyon", "paris")
    }
    view = judge(fleet.references, fleet.windows, segments=sites)
    assert {device for device, subject, _ in alerts(view) if subject == "AMOUNT"} == {
        "",
        "site=paris",
    }
    assert cells(view, "AMOUNT", "site=lyon")[-1].decision == "stable"
    evidence = cells(view, "AMOUNT", "site=paris")[-1].evidence
    assert evidence
    assert evidence.n == 600


def test_a_short_view_says_what_moved_and_how_many_stand_how(month: Fleet) -> None:
    tally = Tally(month.references, DAY)
    tally.add(month.windows)
    watch = Watch(month.references, tally, POLICY)
    whole, short = watch.look(), watch.look(brief=True, since=2 * DAY)
    assert short.alerts == whole.alerts
    assert {cell.decision for cell in short.cells if cell.device} <= {"act", "warn", "watch"}
    assert short.standing == whole.standing
    for item in whole.standing:
        mine = [cell for cell in whole.current if cell.device == item.device]
        assert sum(item.counts.values()) == len(mine)


# --- many at once ---------------------------------------------------------------------------

COUNTS = st.lists(st.integers(0, 400), min_size=3, max_size=12).filter(any)


@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 500), st.integers(0, 300), st.integers(1, 5000)), min_size=1, max_size=20))  # fmt: skip
def test_fishers_test_of_many_is_that_of_each(tables: list[tuple[int, int, int, int]]) -> None:
    tables = [(min(a, b), b, min(c, d), d) for a, b, c, d in tables]
    found = rates_differ_rows(*np.array(tables, np.int64).T)
    assert found == pytest.approx([rates_differ(*table) for table in tables], rel=1e-6)


@given(st.lists(st.floats(0, 500), min_size=1, max_size=20), st.integers(1, 70))
def test_chi_square_of_many_is_that_of_each(values: list[float], freedom: int) -> None:
    found = chi2_sf_rows(np.array(values), freedom)
    assert found == pytest.approx([chi2_sf(x, freedom) for x in values], rel=1e-9, abs=1e-300)


@given(st.data(), COUNTS)
def test_psi_of_many_is_that_of_each(data: st.DataObject, expected: list[int]) -> None:
    size = len(expected)
    row = st.lists(st.integers(0, 400), min_size=size, max_size=size)
    many = data.draw(st.lists(row, min_size=1, max_size=8))
    found = psi_rows(np.array([expected] * len(many)), np.array(many))
    pairs = [psi(expected, actual) if any(actual) else None for actual in many]
    assert [x if p is not None else None for x, p in zip(found, pairs, strict=True)] == [
        p if p is None else pytest.approx(p, abs=1e-12) for p in pairs
    ]


def test_evidence_is_what_the_contract_assesses() -> None:
    test = Spread(Kind.SHAPE, tuple(range(10)), tuple("abcdefghij"))
    expected, actual = np.arange(100, 110), np.arange(60, 40, -2)
    figures = test.figures(expected[None], actual[None], np.ones(1))
    found = test.evidence(figures, 0, POLICY, 0.5)
    plain = assess(expected.tolist(), actual.tolist())
    assert (found.n, found.m) == (plain.n, plain.m)
    for name in ("corrected", "low", "high", "p"):
        assert getattr(found, name) == pytest.approx(getattr(plain, name))
    assert found.p_warn == pytest.approx(plain.p_material(0.05))
    assert found.p_act == pytest.approx(plain.p_material(0.10))


@given(st.lists(st.integers(1, 60)))
def test_numbers_are_seen_once(numbers: list[int]) -> None:
    seen, known = Seen(), set[int]()
    for number in numbers:
        assert seen.add(number) == (number not in known)
        known.add(number)


def test_in_order_numbers_take_no_room() -> None:
    seen = Seen()
    for number in range(1, 1000):
        seen.add(number)
    assert len(seen._firsts) == 1


# --- rows that are not independent ----------------------------------------------------------


def test_unrest_is_one_by_chance_and_known_where_it_is_not() -> None:
    rng = np.random.default_rng(4)
    known = np.full(400, 28)
    calm = unrest(rng.chisquare(9, (400, 28)), known, 9)
    assert calm.min() == 1.0
    assert np.median(calm) < 1.05
    rough = unrest(3 * rng.chisquare(9, (400, 28)), known, 9)
    assert 2.5 < np.median(rough) < 3.0, "held towards 1"
    assert (unrest(9 * rng.chisquare(9, (4, 28)), np.full(4, 4), 9) == 1).all(), "four say nothing"
    jump = rng.chisquare(9, (400, 28))
    jump[:, 13] = 5000.0
    assert np.median(unrest(jump, known, 9)) < 1.05, "one jump does not excuse itself"


def test_customers_that_come_again_do_not_raise_alarms() -> None:
    """Each payment five times over: without the design effect two in three spans look changed."""
    fleet = Fleet(seed=11)
    for day in range(40):
        for device in ("a", "b"):
            fleet.send(device, day, np.repeat(rows(fleet.rng, 120), 5, axis=0))
    view = judge(fleet.references, fleet.windows)
    late = [
        cell
        for cell in view.cells
        if cell.evidence and cell.kind == "shape" and cell.subject == "AMOUNT" and cell.opened > fleet.windows[30].window.opened
    ]  # fmt: skip
    naive = [
        chi2_sf((e.value / (1 / e.n + 1 / e.m)), e.slots - 1) for c in late if (e := c.evidence)
    ]
    mended = [e.p for c in late if (e := c.evidence)]
    assert np.mean(np.array(naive) < 0.01) > 0.5
    assert np.mean(np.array(mended) < 0.01) < 0.06
    assert not alerts(view)


# --- two features together ------------------------------------------------------------------


def test_a_pair_shows_what_no_feature_shows() -> None:
    """Amounts and counts swap partners: each keeps its spread, their pair does not."""
    fleet = Fleet(pairs=(("AMOUNT", "COUNT"),))
    for day in range(8):
        raw = rows(fleet.rng, 1500)
        if day > 4:
            raw[:, :2] = np.sort(raw[:, :2], axis=0)
        fleet.send("a", day, raw)
    view = judge(fleet.references, fleet.windows)
    found = {(subject, kind) for _, subject, kind in alerts(view)}
    assert found == {("AMOUNT*COUNT", "pair")}
    (fleet_cell,) = [cell for cell in view.alerts if not cell.device]
    assert len(fleet_cell.explained_by) == 3
    assert all("AMOUNT" in text and "COUNT" in text for text in fleet_cell.explained_by[:1])


def test_windows_with_other_pairs_are_left_out() -> None:
    fleet = Fleet(pairs=(("AMOUNT", "COUNT"),))
    fleet.send("a", 0, rows(fleet.rng, 300))
    fleet.send("a", 1, rows(fleet.rng, 300), pairs={"AMOUNT*KIND": (300,)})
    view = judge(fleet.references, fleet.windows)
    assert [(item.reason, item.rows) for item in view.refusals] == [
        ("other pairs than its bundle has", 300)
    ]
