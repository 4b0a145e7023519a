"""What else moves counts: a new model, the rule's answers, the calendar."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from support_monitor import (
    BUNDLE,
    DAY,
    MONDAY,
    NEWER,
    Fleet,
    by_rule,
    cells,
    decisions,
    inputs,
    rows,
    scores,
)

from wherry.monitor import Policy, judge
from wherry.rows import StoredWindow
from wherry_contract.profile import build_profile


def test_a_new_model_keeps_the_features_baseline_and_begins_its_scores() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a"], 0, 3)
    for day in (3, 4):
        fleet.send("a", day, rows(fleet.rng, 400), bundle=NEWER)
    view = judge(fleet.references, fleet.windows)
    assert decisions(view, "AMOUNT", "a") == ["no baseline yet", *["stable"] * 4]
    found = [(cell.bundle, str(cell.decision)) for cell in cells(view, "score", "a", "score")]
    assert found == [
        (BUNDLE, "no baseline yet"),
        (BUNDLE, "stable"),
        (BUNDLE, "stable"),
        (NEWER, "no baseline yet"),
        (NEWER, "stable"),
    ]
    current = {cell.bundle for cell in view.current if cell.subject == "score"}
    assert current == {NEWER}, "what a model did that serves no more is history"


def test_what_the_rule_answered_has_no_score() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a"], 0, 3)
    answered = [replace(item, window=by_rule(item.window)) for item in fleet.windows]
    view = judge(fleet.references, answered)
    assert cells(view, "score", kind="score") == []
    assert cells(view, "flagged", kind="flagged") == []
    assert decisions(view, "AMOUNT") == ["stable"] * 3
    assert sum(item.fallback for item in view.health if not item.device) == 1200


def _weekend(fleet: Fleet, device: str, days: range, *, closed: tuple[int, ...] = ()) -> None:
    """On Saturdays and Sundays other things are bought."""
    for day in days:
        if day % 7 not in closed:
            raw = rows(fleet.rng, 300)
            if day % 7 >= 5:
                raw[:, 2] = 2 - raw[:, 2]
            fleet.send(device, day, raw)


@pytest.fixture
def weekly() -> Fleet:
    """A fleet whose reference has whole weeks in it."""
    fleet = Fleet(contract=inputs(period="week"))
    raw = np.concatenate([rows(fleet.rng, 5000), rows(fleet.rng, 2000)])
    raw[5000:, 2] = 2 - raw[5000:, 2]
    fleet.profile = build_profile(fleet.contract, raw, scores(raw), 0.5)
    fleet.counter = fleet.profile.counter(fleet.contract)
    return fleet


def test_what_the_week_moves_is_judged_by_whole_weeks(weekly: Fleet) -> None:
    _weekend(weekly, "a", range(4, 30))  # from Friday on
    view = judge(weekly.references, weekly.windows)
    found = [(c.opened, c.closed, str(c.decision)) for c in cells(view, "KIND")]
    week = 7 * DAY
    assert found == [
        (MONDAY + 4 * DAY, MONDAY + week, "calendar"),
        *[(MONDAY + n * week, MONDAY + (n + 1) * week, "stable") for n in (1, 2, 3)],
        (MONDAY + 4 * week, MONDAY + 4 * week + 2 * DAY, "calendar"),
    ]
    assert decisions(view, "KIND", "a")[1:] == ["no baseline yet", "stable", "stable", "calendar"]


def test_without_the_period_the_weekend_is_an_alarm() -> None:
    fleet = Fleet()
    _weekend(fleet, "a", range(14))
    assert "act" in decisions(judge(fleet.references, fleet.windows), "KIND", "a")


def test_a_shop_that_closes_on_sundays_is_compared_with_weeks_like_its_own(weekly: Fleet) -> None:
    _weekend(weekly, "a", range(29), closed=(6,))  # the fourth week ends when Monday comes
    view = judge(weekly.references, weekly.windows)
    assert decisions(view, "KIND", "a") == ["no baseline yet", *["stable"] * 3, "calendar"]
    assert set(decisions(view, "KIND")) == {"calendar"}, "the reference has Sundays"


def test_a_week_with_other_days_begins_another_baseline(weekly: Fleet) -> None:
    _weekend(weekly, "a", range(14))
    _weekend(weekly, "a", range(14, 21), closed=(5, 6))
    _weekend(weekly, "a", range(21, 28))
    view = judge(weekly.references, weekly.windows)
    assert decisions(view, "KIND", "a") == [
        "no baseline yet",
        "stable",
        "no baseline yet",
        "stable",
    ]


def test_weekly_buckets_are_whole_weeks_by_themselves(weekly: Fleet) -> None:
    _weekend(weekly, "a", range(21))
    view = judge(weekly.references, weekly.windows, Policy(bucket_seconds=7 * DAY))
    assert decisions(view, "KIND") == ["stable"] * 3


def test_the_same_hours_of_earlier_weeks(weekly: Fleet) -> None:
    """Saturday with Saturdays: no alarm for the weekend, and no wait for Sunday's end."""
    _weekend(weekly, "a", range(21))
    for day in (21, 22):
        weekly.send("a", day, rows(weekly.rng, 300, shift=2.0))
    view = judge(weekly.references, weekly.windows, Policy(same_hours=True))
    found = decisions(view, "AMOUNT", "a")
    assert found == ["no baseline yet"] * 7 + ["stable"] * 14 + ["watch", "act"]
    assert decisions(view, "KIND", "a") == ["no baseline yet"] * 7 + ["stable"] * 16
    assert decisions(view, "KIND") == ["stable"] * 3 + ["calendar"], "all together, by whole weeks"
    whole = judge(weekly.references, weekly.windows)
    assert decisions(whole, "AMOUNT", "a")[-1] == "calendar", "by weeks it would be Sunday first"


def test_a_small_shop_gathers_the_same_hours_over_weeks(weekly: Fleet) -> None:
    for day in range(7 * 6):
        weekly.send("a", day, rows(weekly.rng, 100))
    view = judge(weekly.references, weekly.windows, Policy(same_hours=True))
    mondays = [c for c in cells(view, "COUNT", "a") if c.opened % (7 * DAY) == MONDAY % (7 * DAY)]
    assert [(c.rows, str(c.decision)) for c in mondays] == [
        (300, "no baseline yet"),
        (300, "stable"),
    ]


# --- windows of no one time -----------------------------------------------------------------


def _after(fleet: Fleet, seconds: float) -> list[StoredWindow]:
    """What a fleet sent, each window received so long after it had closed."""
    return [replace(item, received_at=item.window.closed + seconds) for item in fleet.windows]


@pytest.mark.parametrize(
    ("opened", "closed", "reason"),
    [
        pytest.param(9.5e8, MONDAY + 3 * DAY, "too far apart", id="one payment of the year 2000"),
        pytest.param(MONDAY, 4e9, "too far apart", id="one payment of the year 2096"),
        pytest.param(4e9, 4e9 + 60, "in the future", id="a clock of the year 2096"),
        pytest.param(MONDAY + 2.2 * DAY, MONDAY + 3.1 * DAY, "", id="over midnight"),
        pytest.param(MONDAY, MONDAY + 5 * DAY, "", id="of five days, in a quiet shop"),
        pytest.param(9.5e8, 9.5e8 + 60, "", id="late by years: may be, and stands where it was"),
    ],
)
def test_one_wild_time_takes_no_window_along(opened: float, closed: float, reason: str) -> None:
    fleet = Fleet()
    fleet.quiet_days(["a", "b"], 0, 4)
    received = [*_after(fleet, 60.0)]
    fleet.send("b", 4, rows(fleet.rng, 400), opened=opened, closed=closed)
    wild = replace(fleet.windows[-1], received_at=MONDAY + 4 * DAY)
    view = judge(fleet.references, [*received, wild])
    if not reason:
        assert (view.refusals, view.windows) == ((), 9)
        return
    (refusal,) = view.refusals
    assert (refusal.device, refusal.windows, refusal.rows) == ("b", 1, 400)
    assert reason in refusal.reason
    assert view == replace(judge(fleet.references, received), refusals=view.refusals)


def test_a_fleet_that_replays_the_future_is_judged_all_the_same() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a", "b"], 0, 4)
    view = judge(fleet.references, _after(fleet, -500 * DAY))
    assert (view.refusals, view.windows) == ((), 8)
