"""When a drift will have become too large: on drifts whose date is known, and on loans."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest
from support_drift import DAY, MONDAY, Counted, shares_of_psi
from support_loans import EXTRACTS, MONTH, loans_by_month

from wherry.monitor import FleetSums, Forecast, Outlook, Policy, Tally, judge, with_outlook
from wherry.monitor.forecast import Series, forecast
from wherry.monitor.rowmath import Floats, psi_rows
from wherry.monitor.view import WEEK
from wherry_contract.when import to_seconds

LIMIT, M = 0.10, 100_000
_EDGES = np.array([NormalDist().inv_cdf(place / 10) for place in range(1, 10)])


def _shares(shift: float) -> Floats:
    """Tenths of a normal feature whose mean has moved by so many standard deviations."""
    below = [0.0, *(NormalDist().cdf(edge - shift) for edge in _EDGES), 1.0]
    return np.diff(below)


def _crossing(rate: float) -> float:
    """Weeks until the true PSI is the limit."""
    low, high = 0.0, 100.0
    for _ in range(60):
        middle = (low + high) / 2
        now = _shares(rate * middle)
        low, high = (
            (middle, high) if ((now - 0.1) * np.log(now * 10)).sum() < LIMIT else (low, middle)
        )
    return low


def _history(  # a drift that begins after some quiet weeks
    seed: int,
    weeks: int,
    *,
    quiet: int = 0,
    rate: float = 0.0,
    season: float = 0.0,
    jump: float = 0.0,
) -> Series:
    """The PSI of weeks of 14,000 rows."""
    rng = np.random.default_rng(seed)
    before, rows = rng.multinomial(M, np.full(10, 0.1)), np.zeros((weeks, 10), np.int64)
    for week in range(weeks):
        for day in range(7):
            ago = week + (day + 0.5) / 7 - quiet
            shift = (rate * ago + jump) * (ago > 0) + season * math.sin(2 * math.pi * day / 7)
            rows[week] += rng.multinomial(2000, _shares(shift))
    scale = np.full(weeks, 1 / 14_000 + 1 / M)
    values = psi_rows(np.repeat(before[None], weeks, axis=0), rows) - 9 * scale
    return Series((np.arange(weeks) + 0.5) * WEEK, values, 9, scale)


@pytest.mark.parametrize(("quiet", "weeks", "rate"), [(4, 4, 0.06), (12, 8, 0.03)])
def test_the_date_lies_in_its_interval(quiet: int, weeks: int, rate: float) -> None:
    """40 drifts, half-way to the limit: a date for each, and 9 of 10 intervals hold the true one."""
    date = (quiet + _crossing(rate)) * WEEK
    found = [
        forecast(_history(seed, quiet + weeks, quiet=quiet, rate=rate), LIMIT, WEEK)
        for seed in range(40)
    ]
    dated = [item for item in found if item.outlook == Outlook.DUE]
    assert len(dated) >= 38
    held = [item.earliest <= date <= item.latest for item in dated]
    assert np.mean(held) >= 0.87, "95 % is promised, 40 are few"
    assert np.median([abs(item.date - date) for item in dated]) < WEEK


@pytest.mark.parametrize(
    "history",
    [
        pytest.param({}, id="no drift"),
        pytest.param({"season": 0.15}, id="only the week"),
        pytest.param({"quiet": 8, "jump": 0.25}, id="a jump that stays"),
    ],
)
def test_no_date_without_a_growing_drift(history: dict[str, float]) -> None:
    found = [forecast(_history(seed, 16, **history), LIMIT, WEEK) for seed in range(40)]  # type: ignore[arg-type] # numbers
    assert {item.outlook for item in found} == {Outlook.OPEN}


@pytest.mark.parametrize(
    ("history", "outlook", "word"),
    [
        pytest.param({"weeks": 5}, Outlook.OPEN, "6 are needed", id="short"),
        pytest.param({"weeks": 12, "rate": 0.05}, Outlook.PAST, "has been", id="past"),
    ],
)
def test_what_else_is_said(history: dict[str, float], outlook: Outlook, word: str) -> None:
    found = forecast(_history(1, **history), LIMIT, WEEK)  # type: ignore[arg-type] # numbers
    assert found.outlook == outlook
    assert word in found.rule


def test_from_windows_to_a_date() -> None:
    """One of two features drifts; the week that has only begun is not taken for a whole one."""
    fleet = Counted(features=2)
    even = np.full(10, 0.1)
    for day in range(7 * 8 + 2):
        psi = 0.05 * (max(0, day - 14) / 42) ** 2
        fleet.send("till-1", day, np.array([even, shares_of_psi(psi, 10)]), 1500)
    tally = Tally(fleet.references, DAY)
    tally.add(fleet.windows)
    view = judge(fleet.references, fleet.windows)
    kept = FleetSums()
    for _ in range(2):  # the second look adds nothing up anew
        view = with_outlook(view, tally.of(None), fleet.references, {}, kept=kept)
    quiet, drifting = view.forecasts
    assert (quiet.subject, quiet.outlook, quiet.weeks) == ("f0", Outlook.OPEN, 8)
    assert (drifting.subject, drifting.outlook) == ("f1", Outlook.DUE)
    true = MONDAY + DAY * (14 + 42 * math.sqrt(2))
    assert drifting.earliest <= true <= drifting.latest
    assert type(view).__name__ == "FleetView"


def _looks(path: Path, subject: str) -> tuple[list[tuple[float, Forecast]], float]:
    """What was said of a column before it crossed, month by month, and when it did."""
    loans = loans_by_month(path)
    tally, kept, said = Tally(loans.references, MONTH), FleetSums(), list[tuple[float, Forecast]]()
    for stored in loans.windows:
        tally.add([stored])
        if stored.window.closed < to_seconds("2004-10-01T00:00:00Z"):
            continue  # of these the reference was made
        seen = [item for item in loans.windows if item.window.closed <= stored.window.closed]
        view = judge(loans.references, seen[-1:], Policy(bucket_seconds=MONTH))
        found = with_outlook(view, tally.of(None), loans.references, {}, kept=kept).forecasts
        (mine,) = [item for item in found if item.subject == subject]
        if mine.outlook == Outlook.PAST:
            return said, stored.window.closed
        said.append((stored.window.closed, mine))
    raise AssertionError("it never crossed")


def _dates(said: Sequence[tuple[float, Forecast]]) -> list[tuple[float, Forecast]]:
    return [(at, item) for at, item in said if item.outlook == Outlook.DUE]


def _check_defaults(said: Sequence[tuple[float, Forecast]], crossed: float) -> None:
    dates = _dates(said)
    assert crossed == pytest.approx(to_seconds("2005-08-24T00:00:00Z"), abs=20 * DAY)
    assert dates[0][0] < crossed - 200 * DAY
    assert len(dates) >= 7
    held = [item.earliest <= crossed <= item.latest for _, item in dates]
    assert all(held), "its growth is no steady one, and the interval knows"


def test_defaults_get_a_date_before_the_limit_is_crossed() -> None:
    """From December 2004 on, eight months before; each interval holds the true one."""
    with (EXTRACTS / "sba_defaults.csv").open(newline="") as stream:
        table = list(csv.DictReader(stream))
    starts = np.array([to_seconds(f"{row['start']}T00:00:00Z") for row in table])
    bad = np.array([int(row["defaults"]) for row in table])
    counts = np.column_stack([np.array([int(row["loans"]) for row in table]) - bad, bad])
    early = starts + MONTH <= to_seconds("2004-10-01T00:00:00Z")
    before = np.repeat(counts[early].sum(axis=0)[None], len(counts), axis=0)
    scale = 1 / counts.sum(axis=1) + 1 / before.sum(axis=1)
    values, said = psi_rows(before, counts) - scale, list[tuple[float, Forecast]]()
    for last in range(int(early.sum()) + 1, len(counts)):
        part = Series(starts[:last] + MONTH / 2, values[:last], 1, scale[:last])
        found, end = forecast(part, LIMIT, MONTH), float(starts[last - 1] + MONTH)
        if found.outlook == Outlook.PAST:
            _check_defaults(said, end)
            return
        said.append((end, found))
    pytest.fail("it never crossed")


def test_defaults_by_windows(shared: Path) -> None:
    """The same loans, counted into windows, merged and judged."""
    _check_defaults(*_looks(shared / "credit" / "sba_loans_fy1997_fy2010.parquet", "default"))
