"""The judgement: silent without drift, loud with it, and plain about why."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from support_monitor import (
    DAY,
    MONDAY,
    Fleet,
    alerts,
    cells,
    decisions,
    rows,
)

from wherry.cli.monitor import _lines
from wherry.monitor import judge

# --- silent ---------------------------------------------------------------------------------


def test_without_drift_changes_are_as_rare_as_promised_and_alerts_absent() -> None:
    """150 ticks of 4 shops: at q = 5 % at most 5 % of ticks call anything changed."""
    fleet = Fleet(seed=7)
    fleet.quiet_days(["a", "b", "c", "d"], 0, 150, 300)
    view = judge(fleet.references, fleet.windows)
    judged = [cell for cell in view.cells if cell.evidence]
    ticks = {cell.closed for cell in judged}
    loud = {cell.closed for cell in judged if cell.evidence and cell.evidence.q <= 0.05}
    assert len(ticks) == 150
    assert len(loud) <= 17  # the binomial's upper 0.1 % point for 150 and 0.05
    small = [cell.evidence.p for cell in judged if cell.evidence and cell.kind == "shape"]
    low = sum(p < 0.01 for p in small)
    # 99.9 % of binomial draws; baselines are shared between days, which widens it
    assert low <= 0.01 * len(small) + 4.5 * np.sqrt(0.01 * len(small))
    assert low > 0, "the test is dead"
    raised = [cell for cell in judged if cell.decision != "stable"]
    assert raised == []


def test_shops_that_differ_are_not_ill_for_it() -> None:
    """Each shop is far from the fleet for ever; against itself it is quiet."""
    fleet = Fleet(seed=3)
    usual = {"a": 0.5, "b": 0.8, "c": 1.3, "d": 2.2}
    for day in range(12):
        for device, shift in usual.items():
            fleet.send(device, day, rows(fleet.rng, 400, shift=shift))
    view = judge(fleet.references, fleet.windows)
    assert {cell.decision for cell in view.cells if cell.device} == {"stable", "no baseline yet"}
    # the same shop against the fleet's reference would be an alarm every day
    lonely = [stored for stored in fleet.windows if stored.device == "d"]
    assert set(decisions(judge(fleet.references, lonely), "AMOUNT")) == {"watch", "act"}


def test_under_250_rows_nothing_is_said_and_counts_go_on() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a"], 0, 5, 120)
    found = cells(judge(fleet.references, fleet.windows), "AMOUNT")
    assert [(cell.rows, str(cell.decision)) for cell in found] == [
        (360, "stable"),
        (240, "not enough data"),
    ]
    assert found[1].rule == "240 of 250 rows; counting goes on"
    assert [cell.current for cell in found] == [True, False], "what was judged stands meanwhile"
    assert found[0].closed - found[0].opened == 3 * DAY


def test_a_tiny_reference_is_not_enough_data_either() -> None:
    fleet = Fleet(reference_rows=200)
    fleet.quiet_days(["a"], 0, 1)
    assert decisions(judge(fleet.references, fleet.windows), "AMOUNT") == ["not enough data"]


def test_a_device_is_judged_once_it_has_a_baseline() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a"], 0, 2)
    view = judge(fleet.references, fleet.windows)
    assert decisions(view, "AMOUNT", "a") == ["no baseline yet", "stable"]
    second = cells(view, "AMOUNT", "a")[1].evidence
    assert second
    assert second.m == 400, "alone in the fleet, there is no one to shrink to"


def test_one_odd_row_raises_nothing() -> None:
    """A value that the reference never saw has a test of its own; the PSI stays what it was."""
    fleet = Fleet()
    for day in range(4):
        raw = rows(fleet.rng, 400)
        raw[0] = [5000.0, np.nan, -1.0]
        fleet.send("a", day, raw)
    view = judge(fleet.references, fleet.windows)
    assert {str(cell.decision) for cell in view.cells if not cell.device} == {"stable"}
    (first, *_) = cells(view, "AMOUNT", kind="range")
    assert first.evidence
    assert (first.evidence.expected, first.evidence.actual) == (0.0, 1 / 400)


# --- loud -----------------------------------------------------------------------------------


def _lose(raw: Any) -> None:
    raw[: len(raw) // 8, 1] = np.nan


def _overflow(raw: Any) -> None:
    raw[: len(raw) // 8, 0] = 9999.0


def _rename(raw: Any) -> None:
    raw[: len(raw) // 8, 2] = -1.0


def _reverse(raw: Any) -> None:
    raw[:, 2] = 2 - raw[:, 2]


def _double(raw: Any) -> None:
    raw[:, 0] = np.minimum(2 * raw[:, 0], 1000.0)


@pytest.mark.parametrize(
    ("fault", "found"),
    [
        pytest.param(_lose, {("COUNT", "missing")}, id="gaps"),
        pytest.param(
            _overflow,
            {("AMOUNT", "range"), ("score", "score"), ("flagged", "flagged")},
            id="out of range",
        ),
        pytest.param(_rename, {("KIND", "unseen")}, id="categories that nobody listed"),
        pytest.param(_reverse, {("KIND", "shape")}, id="categories change places"),
        pytest.param(
            _double,
            {("AMOUNT", "shape"), ("score", "score"), ("flagged", "flagged")},
            id="amounts double",
        ),
    ],
)
def test_exactly_what_moved_is_raised_where_it_moved(
    fault: Callable[[Any], None], found: set[tuple[str, str]]
) -> None:
    fleet = Fleet(seed=5)
    fleet.quiet_days(["a", "b", "c", "d", "e", "f"], 0, 4, 800)
    for day in (4, 5):
        for device in "abcdef":
            raw = rows(fleet.rng, 800)
            if device == "c":
                fault(raw)
            fleet.send(device, day, raw)
    view = judge(fleet.references, fleet.windows)
    at_c = {(subject, kind) for device, subject, kind in alerts(view) if device == "c"}
    assert at_c == found
    assert {device for device, _, _ in alerts(view)} <= {"c", ""}
    for cell in view.alerts:
        assert cell.since == MONDAY + 4 * DAY
        assert cell.evidence
        assert cell.evidence.q <= 0.05
        assert cell.evidence.p_warn <= 0.01
        assert "in 2 of 3" in cell.rule


def test_first_sight_is_watched_then_alarmed_and_the_baseline_stays_clean() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a", "b"], 0, 5)
    for day in range(5, 12):
        fleet.send("a", day, rows(fleet.rng, 400, shift=2.0))
        fleet.send("b", day, rows(fleet.rng, 400))
    view = judge(fleet.references, fleet.windows)
    assert decisions(view, "AMOUNT", "a") == [
        "no baseline yet",
        *["stable"] * 4,
        "watch",
        *["act"] * 6,
    ]
    last = cells(view, "AMOUNT", "a")[-1].evidence
    assert last
    assert last.m == 5 * 400 + 50, "five quiet days, and fifty rows of the others"
    shown = cells(view, "AMOUNT", "a")[-1]
    assert shown.explained_by[0] == shown.slots[-1].label, "doubled amounts fill the last bin"
    score = cells(view, "score", "a", "score")[-1]
    assert score.explained_by == ("AMOUNT",)


def test_when_it_is_over_the_alarm_ends() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a"], 0, 4)
    for day in (4, 5):
        fleet.send("a", day, rows(fleet.rng, 400, shift=2.0))
    fleet.quiet_days(["a"], 6, 9)
    view = judge(fleet.references, fleet.windows)
    assert decisions(view, "AMOUNT", "a")[-5:] == ["watch", "act", "act", "stable", "stable"]
    assert "raised before" in cells(view, "AMOUNT", "a")[-3].rule
    assert not alerts(view)


def test_what_waits_for_rows_takes_one_line_a_place() -> None:
    fleet = Fleet()
    fleet.quiet_days(["a"], 0, 1, 120)
    view = judge(fleet.references, fleet.windows)
    said = [line for line in _lines(view, every=False) if line.startswith("not enough data")]
    assert any("at all devices: 120 of 250 rows" in line for line in said)
    assert len(said) == len({cell.device for cell in view.current})
    assert len(list(_lines(view, every=True))) > len(said) + 5
