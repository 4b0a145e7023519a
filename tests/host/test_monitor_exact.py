"""The judgement is exact in its counts: order, repeats and cuts change nothing."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_monitor import (
    DAY,
    MONDAY,
    Fleet,
    cells,
    rows,
)

from wherry.monitor import Policy, judge
from wherry.rows import StoredWindow
from wherry_contract.window import Window

# --- exact ----------------------------------------------------------------------------------


def _split(stored: StoredWindow) -> list[StoredWindow]:
    """One window as two, with everything shared out between them."""
    window = stored.window
    half = {name: _halves(counts) for name, counts in window.features.items()}
    first = {name: pair[0] for name, pair in half.items()}
    second = {name: pair[1] for name, pair in half.items()}
    number = next(iter(first.values())).rows
    marks = np.repeat(np.arange(64), window.scores)
    split_scores = [np.bincount(part, minlength=64) for part in (marks[:number], marks[number:])]
    latency = np.array(window.latency)
    flagged = min(window.flagged, number)
    parts = [
        replace(
            window,
            rows=number,
            features=first,
            scores=tuple(split_scores[0].tolist()),
            flagged=flagged,
            latency=tuple((latency // 2).tolist()),
        ),
        replace(
            window,
            place=replace(window.place, seq=window.place.seq + 100_000),
            rows=window.rows - number,
            features=second,
            scores=tuple(split_scores[1].tolist()),
            flagged=window.flagged - flagged,
            latency=tuple((latency - latency // 2).tolist()),
        ),
    ]
    return [replace(stored, window=Window.from_bytes(part.to_bytes())) for part in parts]


def _halves(counts: Any) -> tuple[Any, Any]:
    """Half of the rows of a feature, from the lowest slot on, and the others."""
    slots = [counts.below, *counts.bins, counts.above, counts.missing]
    rest, taken = counts.rows // 2, []
    for number in slots:
        taken.append(min(number, rest))
        rest -= taken[-1]
    left = [a - b for a, b in zip(slots, taken, strict=True)]
    make = type(counts)
    return tuple(make(tuple(x[1:-2]), x[0], x[-2], x[-1]) for x in (taken, left))  # type: ignore[return-value]


@pytest.fixture(scope="module")
def small() -> Fleet:
    """Five days at two shops, one of which drifts."""
    fleet = Fleet()
    fleet.quiet_days(["a", "b"], 0, 3, 300)
    for day in (3, 4):
        fleet.send("a", day, rows(fleet.rng, 300))
        fleet.send("b", day, rows(fleet.rng, 300, shift=2.0))
    return fleet


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_order_repeats_and_cuts_change_nothing(small: Fleet, data: st.DataObject) -> None:
    kept = data.draw(st.lists(st.sampled_from(small.windows), unique_by=id, min_size=1))
    cut = [part for stored in kept for part in (_split(stored) if data.draw(st.booleans()) else [stored])]  # fmt: skip
    again = cut + data.draw(st.lists(st.sampled_from(cut)))
    shuffled = data.draw(st.permutations(again))
    plain, found = judge(small.references, kept), judge(small.references, shuffled)
    assert found.cells == plain.cells
    assert found.scores == plain.scores
    assert [replace(item, windows=0) for item in found.health] == [
        replace(item, windows=0) for item in plain.health
    ]


def test_what_is_said_of_the_sum_is_said_of_the_sum_of_devices(small: Fleet) -> None:
    """Who counted does not matter for all devices together."""
    everyone = [
        replace(stored, device="one", window=replace(stored.window, place=replace(stored.window.place, seq=n)))
        for n, stored in enumerate(small.windows, start=1)
    ]  # fmt: skip
    apart = [cell for cell in judge(small.references, small.windows).cells if not cell.device]
    joined = [cell for cell in judge(small.references, everyone).cells if not cell.device]
    figures = [[replace(c.evidence, q=1.0) if c.evidence else None for c in x] for x in (apart, joined)]  # fmt: skip
    assert figures[0] == figures[1]


Change = Callable[[Window], Window]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        pytest.param(
            lambda w: replace(w, bundle="sha256:" + "0" * 64),
            "the bundle is not in the depot",
            id="unknown bundle",
        ),
        pytest.param(
            lambda w: replace(w, edges="sha256:" + "1" * 64),
            "counted against other edges",
            id="foreign edges",
        ),
        pytest.param(
            lambda w: replace(w, features={"AMOUNT": w.features["AMOUNT"]}),
            "other features or bins than its edges have",
            id="features are absent",
        ),
        pytest.param(
            lambda w: replace(w, features=w.features | {"KIND": w.features["COUNT"]}),
            "other features or bins than its edges have",
            id="other bins",
        ),
    ],
)
def test_windows_that_do_not_add_up_are_left_out_and_named(
    small: Fleet, change: Change, reason: str
) -> None:
    good, strange = small.windows[:4], small.windows[4]
    bad = replace(strange, window=change(strange.window))
    view = judge(small.references, [*good, bad])
    assert view.cells == judge(small.references, good).cells
    assert view.windows == 4
    (refusal,) = view.refusals
    assert (refusal.device, refusal.reason, refusal.windows) == (strange.device, reason, 1)
    assert refusal.rows == strange.window.rows


def test_a_window_lies_in_the_bucket_of_its_middle() -> None:
    fleet = Fleet()
    long = rows(fleet.rng, 300)
    fleet.send("a", 0, long, opened=MONDAY + 0.9 * DAY, closed=MONDAY + 1.3 * DAY)
    (cell,) = cells(judge(fleet.references, fleet.windows), "AMOUNT")
    assert (cell.opened, cell.closed) == (MONDAY + DAY, MONDAY + 2 * DAY)


# --- what is shown --------------------------------------------------------------------------


def test_a_cut_leaves_what_stands(small: Fleet) -> None:
    view = judge(small.references, small.windows)
    short = view.cut(DAY)
    assert {cell.opened for cell in short.cells if not cell.current} <= {MONDAY + 4 * DAY}
    assert short.alerts == view.alerts
    assert {item.opened for item in short.health} == {MONDAY + 4 * DAY}
    brief = view.cut(brief=True)
    assert all(cell.current for cell in brief.cells if cell.device)
    assert [cell for cell in brief.cells if not cell.device] == [
        cell for cell in view.cells if not cell.device
    ]
    alone = {item.device: item.rows for item in brief.health if item.device}
    assert alone == {"a": 1500, "b": 1500}


def test_cells_too_small_to_publish_are_blank(small: Fleet) -> None:
    view = judge(small.references, small.windows, Policy(fewest=10))
    for pair in view.scores:
        shown = [share * pair.rows for share in pair.actual if share]
        assert min(shown) > 9.5
        assert None in pair.actual
