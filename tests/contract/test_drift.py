"""PSI and its statistics, against published figures, scipy and seeded simulation."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats as scipy_stats

from wherry_contract.psi import assess, psi
from wherry_contract.stats import (
    chi2_sf,
    false_discovery,
    ncx2_centre,
    ncx2_sf,
    rates_differ,
)

HELOC = (
    [565, 803, 807, 729, 1015, 565, 417, 752, 823, 845],
    [236, 334, 331, 310, 416, 269, 185, 298, 407, 352],
)
CALIFORNIA = (
    [725, 1157, 1171, 2022, 2093, 1162, 1911, 1531, 1377, 1299],
    [318, 458, 527, 861, 907, 516, 830, 665, 586, 524],
)


def test_optbinning_heloc() -> None:
    """FICO HELOC scores, printed to six decimals.

    optbinning documentation, tutorial "Scorecard monitoring", cell 24 (Apache-2.0).
    """
    assert round(psi(*HELOC, zero="none"), 6) == 0.004776


def test_optbinning_heloc_by_bin() -> None:
    printed = [
        5.1e-05,
        9.8e-05,
        0.000209,
        6e-06,
        0.000272,
        0.000898,
        6.9e-05,
        0.000608,
        0.002472,
        9.3e-05,
    ]
    expected, actual = HELOC
    totals = sum(expected), sum(actual)
    for place, value in enumerate(printed):
        e, a = expected[place] / totals[0], actual[place] / totals[1]
        assert (a - e) * math.log(a / e) == pytest.approx(value, abs=5.1e-7)


def test_optbinning_california() -> None:
    """California housing scores: the same notebook, cell 44."""
    assert round(psi(*CALIFORNIA, zero="none"), 6) == 0.001206


def test_feature_engine_full_separation() -> None:
    """Values 0 to 19 split in half, empty bins set to 0.0001 and not renormalised.

    feature-engine test suite, test_drop_high_psi_features.py (BSD-3-Clause); the figure
    was taken there from ING probatus.
    """
    expected, actual = [1] * 10, [0] * 9 + [10]
    assert psi(expected, actual, zero="floor", floor=1e-4) == pytest.approx(
        8.283089355027482, abs=1e-12
    )


def test_feature_engine_six_levels() -> None:
    """The same file, test_calculation_when_split_column_is_none, column B."""
    expected, actual = [3, 3, 3, 2, 2, 2], [2, 2, 2, 3, 3, 3]
    for zero in ("floor", "none"):
        found = psi(expected, actual, zero=zero)  # type: ignore[arg-type]
        assert found == pytest.approx(0.1621860432432658, abs=1e-12)


@pytest.mark.parametrize(("expected", "actual"), [HELOC, CALIFORNIA], ids=["heloc", "california"])
def test_half_a_row_in_each_slot_changes_little(expected: list[int], actual: list[int]) -> None:
    assert psi(expected, actual) == pytest.approx(psi(expected, actual, zero="none"), rel=0.01)


# --- the three rules for empty slots


@pytest.mark.parametrize(
    ("zero", "value"),
    [
        # (a, e) = (0.25, 0.75), (0.5, 0.25), (0.25, 0) and so on, worked out by hand
        ("none", math.inf),
        (
            "half",
            (10.5 / 21.5 - 20.5 / 31.5) * math.log((10.5 / 21.5) / (20.5 / 31.5))
            + (10.5 / 21.5 - 10.5 / 31.5) * math.log((10.5 / 21.5) / (10.5 / 31.5))
            + (0.5 / 21.5 - 0.5 / 31.5) * math.log((0.5 / 21.5) / (0.5 / 31.5)),
        ),
        (
            "floor",
            (1 / 2 - 2 / 3) * math.log((1 / 2) / (2 / 3))
            + (1 / 2 - 1 / 3) * math.log((1 / 2) / (1 / 3)),
        ),
    ],
)
def test_zero_rules(zero: str, value: float) -> None:
    expected, actual = [20, 10, 0], [10, 10, 0]
    if zero == "none":
        expected = [20, 10, 1]
    found = psi(expected, actual, zero=zero)  # type: ignore[arg-type]
    assert found == pytest.approx(value)


COUNTS = st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)), min_size=2, max_size=30)


@given(COUNTS)
def test_psi_is_symmetric_and_never_negative(pairs: list[tuple[int, int]]) -> None:
    expected, actual = [a for a, _ in pairs], [b for _, b in pairs]
    value = psi(expected, actual)
    assert value >= 0
    assert math.isfinite(value)
    assert value == pytest.approx(psi(actual, expected))
    assert psi(expected, expected) == 0


@pytest.mark.parametrize(
    ("expected", "actual"),
    [([1, 2], [1, 2, 3]), ([0, 0], [1, 1]), ([1, 1], [0, 0]), ([5], [5]), ([], [])],
    ids=["unequal", "no reference", "no rows", "one slot", "nothing"],
)
def test_what_has_no_psi(expected: list[int], actual: list[int]) -> None:
    with pytest.raises(ValueError):
        assess(expected, actual)


# --- enough data


@pytest.mark.parametrize(
    ("slots", "n", "m", "needed", "enough"),
    [
        (10, 249, 10_000, 250, False),
        (10, 250, 10_000, 250, True),
        (13, 250, 10_000, 250, True),
        (14, 259, 10_000, 260, False),
        (14, 260, 10_000, 260, True),
        (30, 579, 10_000, 580, False),
        (10, 10_000, 249, 250, False),
    ],
)
def test_not_enough_data(slots: int, n: int, m: int, needed: int, enough: bool) -> None:  # noqa: FBT001 - a row
    def spread(rows: int) -> list[int]:
        return [rows // slots + (place < rows % slots) for place in range(slots)]

    found = assess(spread(m), spread(n))
    assert (found.n, found.m, found.needed, found.enough) == (n, m, needed, enough)


# --- what holds without drift, and with it; seeded, so that these are facts and not luck

K, N, M, DRAWS = 10, 1000, 5000, 4000
SHARES = np.array([0.02, 0.05, 0.08, 0.1, 0.15, 0.2, 0.15, 0.1, 0.1, 0.05])


def draws(actual: np.ndarray, seed: int) -> list[tuple[list[int], list[int]]]:
    chance = np.random.default_rng(seed)
    left = chance.multinomial(M, SHARES, DRAWS)
    right = chance.multinomial(N, actual, DRAWS)
    return [(a.tolist(), b.tolist()) for a, b in zip(left, right, strict=True)]


def test_without_drift_the_mean_and_p_are_as_stated() -> None:
    values, chances = [], []
    for expected, actual in draws(SHARES, 1):
        value = psi(expected, actual)
        values.append(value)
        chances.append(chi2_sf(value / (1 / N + 1 / M), K - 1))
    assert np.mean(values) == pytest.approx((K - 1) * (1 / N + 1 / M), rel=0.03)
    for level in (0.01, 0.05, 0.2, 0.5, 0.8):
        wide = 4 * math.sqrt(level * (1 - level) / DRAWS) + 0.1 * level
        assert np.mean(np.array(chances) < level) == pytest.approx(level, abs=wide)


def test_a_bare_threshold_cries_wolf_on_a_hundred_rows() -> None:
    chance = np.random.default_rng(3)
    even = [0.1] * 10
    values = [
        psi(chance.multinomial(50_000, even).tolist(), chance.multinomial(100, even).tolist())
        for _ in range(2000)
    ]
    # design: 40 % false alarms with the bare formula; half a row in each slot tames it little
    assert np.mean(np.array(values) > 0.1) > 0.25


def test_the_interval_holds_the_truth() -> None:
    moved = SHARES * np.linspace(0.6, 1.4, K)
    moved /= moved.sum()
    truth = float(((moved - SHARES) * np.log(moved / SHARES)).sum())
    found = [assess(*pair) for pair in draws(moved, 2)[:250]]
    held = np.mean([item.low <= truth <= item.high for item in found])
    assert 0.90 <= held <= 0.99
    assert all(item.low <= max(item.corrected, 0) <= item.high for item in found)
    assert np.mean([item.corrected for item in found]) == pytest.approx(truth, rel=0.1)


def test_material_is_judged_against_a_stated_size() -> None:
    moved = SHARES * np.linspace(0.6, 1.4, K)
    moved /= moved.sum()
    truth = float(((moved - SHARES) * np.log(moved / SHARES)).sum())
    found = [assess(*pair).p_material(truth) for pair in draws(moved, 4)[:300]]
    # at exactly the stated size the chance is even, so a fifth is below 0.2 at most by a little
    assert 0.1 <= np.mean(np.array(found) < 0.2) <= 0.3


def test_a_small_drift_on_many_rows_is_real_but_not_material() -> None:
    found = assess([50_000] * 10, [52_000, 48_000] * 5)
    assert found.p < 1e-6
    assert found.p_material(0.05) > 0.999


def test_json_form() -> None:
    assert assess([100] * 10, [50] * 10).to_dict() == {
        "psi": 0.0,
        "corrected": -0.027,
        "interval": [0.0, 0.0],
        "p": 1.0,
        "n": 500,
        "m": 1000,
        "slots": 10,
        "enough": True,
        "needed": 250,
    }


# --- distributions, against scipy


@pytest.mark.parametrize("freedom", [1, 2, 3, 9, 10, 63, 400])
@pytest.mark.parametrize("x", [0.0, 1e-9, 0.1, 1.0, 9.0, 30.0, 400.0])
def test_chi_square(x: float, freedom: int) -> None:
    assert chi2_sf(x, freedom) == pytest.approx(
        scipy_stats.chi2.sf(x, freedom), rel=1e-9, abs=1e-300
    )


@pytest.mark.parametrize("freedom", [1, 9, 12, 63])
@pytest.mark.parametrize("centre", [0.0, 0.01, 5.0, 80.0, 5_000.0, 200_000.0])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 1.0, 1.1, 2.0])
def test_non_central_chi_square(share: float, centre: float, freedom: int) -> None:
    x = share * (freedom + centre)
    assert ncx2_sf(x, freedom, centre) == pytest.approx(
        scipy_stats.ncx2.sf(x, freedom, centre) if centre else scipy_stats.chi2.sf(x, freedom),
        abs=1e-8,
    )


@pytest.mark.parametrize("tail", [0.025, 0.5, 0.975])
@pytest.mark.parametrize("x", [1.0, 9.0, 40.0, 3_000.0])
def test_the_centre_is_the_inverse(x: float, tail: float) -> None:
    centre = ncx2_centre(x, 9, tail)
    if centre == 0:
        assert scipy_stats.chi2.sf(x, 9) >= tail
    else:
        assert scipy_stats.ncx2.sf(x, 9, centre) == pytest.approx(tail, abs=1e-6)


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 300), st.integers(0, 300))
def test_rates_against_fisher(
    hits: int, reference_hits: int, more: int, reference_more: int
) -> None:
    rows, reference_rows = hits + more, reference_hits + reference_more
    ours = rates_differ(hits, rows, reference_hits, reference_rows)
    table = [[hits, more], [reference_hits, reference_more]]
    theirs = scipy_stats.fisher_exact(table).pvalue if rows and reference_rows else 1.0
    assert ours == pytest.approx(theirs, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(
    ("hits", "rows", "reference_hits", "reference_rows"),
    [(900, 100_000, 1000, 100_000), (0, 5_000, 400, 50_000), (500, 500, 49_000, 50_000)],
)
def test_rates_of_many_rows(hits: int, rows: int, reference_hits: int, reference_rows: int) -> None:
    table = [[hits, rows - hits], [reference_hits, reference_rows - reference_hits]]
    theirs = scipy_stats.fisher_exact(table).pvalue
    assert rates_differ(hits, rows, reference_hits, reference_rows) == pytest.approx(
        theirs, rel=1e-5
    )


@given(st.lists(st.floats(0, 1), max_size=40), st.sampled_from([0.01, 0.05, 0.2]))
def test_false_discovery_against_scipy(chances: list[float], rate: float) -> None:
    ours = false_discovery(chances, rate)
    if not chances:
        assert ours == []
        return
    theirs = scipy_stats.false_discovery_control(chances) <= rate
    close = np.isclose(scipy_stats.false_discovery_control(chances), rate, rtol=1e-9)
    assert (np.array(ours) == theirs)[~close].all()


def test_the_published_tables_are_as_copied(shared: Path) -> None:
    tables = json.loads((shared / "psi" / "published_psi_tables.json").read_bytes())
    assert len(tables) == 4
    for table in tables:
        zero = "floor" if table["eps"] else "none"
        found = psi(table["expected"], table["actual"], zero=zero, floor=table["eps"] or 1.0)  # type: ignore[arg-type]
        assert round(found, table["decimals"]) == round(table["published_psi"], table["decimals"])
    assert (tables[0]["expected"], tables[0]["actual"]) == HELOC
    assert (tables[1]["expected"], tables[1]["actual"]) == CALIFORNIA
