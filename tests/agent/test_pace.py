"""What bounds a transfer, and when an update may go on: rows, no clocks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from support_agent import order_for

from wherry_agent.update.pace import Meter, Pace, Spent, bar, is_open, left_over
from wherry_contract.assignment import FetchPolicy, MaintenanceWindow
from wherry_contract.errors import LinkError, StoreError, UpdateError, WherryError

NIGHT = MaintenanceWindow("22:30", "05:00", 60)
NOON = MaintenanceWindow("12:00", "13:00")


def at(text: str) -> float:
    """Unix seconds of a time of day, UTC."""
    hours, minutes = text.split(":")
    return 86_400.0 * 20_000 + int(hours) * 3600 + int(minutes) * 60


# window, time of day in UTC, whether it is open
WINDOWS = [
    (NOON, "11:59", False),
    (NOON, "12:00", True),
    (NOON, "12:59", True),
    (NOON, "13:00", False),
    (NIGHT, "21:29", False),
    (NIGHT, "21:30", True),  # 22:30 where the device is
    (NIGHT, "23:30", True),
    (NIGHT, "03:59", True),
    (NIGHT, "04:00", False),
]


@pytest.mark.parametrize(("window", "now", "wanted"), WINDOWS, ids=lambda value: str(value)[-30:])
def test_window(window: MaintenanceWindow, now: str, *, wanted: bool) -> None:
    assert is_open(window, at(now)) == wanted


BARS: list[tuple[str, dict[str, Any], dict[str, bool], str]] = [
    ("nothing in the way", {}, {}, ""),
    ("a payment", {}, {"held": True}, "quiet"),
    ("outside the window", {"window": NIGHT}, {}, "22:30"),
    ("inside the window", {"window": NOON}, {}, ""),
    ("past the deadline", {"window": NIGHT, "deadline": at("12:29")}, {}, ""),
    ("before the deadline", {"window": NIGHT, "deadline": at("12:31")}, {}, "22:30"),
    ("a payment past the deadline", {"deadline": at("12:29")}, {"held": True}, "quiet"),
    ("a metered link", {"policy": FetchPolicy(meter="free")}, {"metered": True}, "free of charge"),
    ("a free link", {"policy": FetchPolicy(meter="free")}, {}, ""),
    ("any link", {}, {"metered": True}, ""),
]


@pytest.mark.parametrize(
    ("order", "told", "why"), [row[1:] for row in BARS], ids=[row[0] for row in BARS]
)
def test_bar(order: dict[str, Any], told: dict[str, bool], why: str) -> None:
    wanted = replace(order_for("sha256:" + "0" * 64, 1), **order)
    found = bar(wanted, at("12:30"), **({"held": False, "metered": False} | told))
    assert (why in found) if why else not found


def test_a_limit_on_the_bandwidth_is_kept_by_pauses() -> None:
    meter, now, came = Meter(Pace(most=1000), 0.0), 0.0, 0
    for _ in range(50):
        came += 500
        now += 0.01
        now += meter.took(500, now)
        assert came / now <= 1000.001
    assert came / now > 990


def test_a_slow_line_is_given_up_after_half_a_minute() -> None:
    meter = Meter(Pace(least=100), 0.0)
    for second in range(1, 30):
        meter.took(50, float(second))
    with pytest.raises(LinkError, match="L04") as caught:
        meter.took(50, 30.0)
    assert "50 bytes a second" in caught.value.detail


def test_a_line_that_is_fast_enough_is_not() -> None:
    meter = Meter(Pace(least=100), 0.0)
    for second in range(1, 200):
        meter.took(101, float(second))


ENDS: list[tuple[str, Pace, type[WherryError]]] = [
    ("bytes", Pace(most_bytes=99), UpdateError),
    ("seconds", Pace(seconds=9.0), UpdateError),
]


@pytest.mark.parametrize(("pace", "error"), [row[1:] for row in ENDS], ids=[row[0] for row in ENDS])
def test_a_transfer_ends(pace: Pace, error: type[WherryError]) -> None:
    with pytest.raises(error, match="U13"):
        Meter(pace, 0.0).took(100, 10.0)


def test_the_room_is_looked_at_now_and_then() -> None:
    looks = []

    def room() -> None:
        looks.append(None)
        if len(looks) > 2:
            raise StoreError("D01")

    meter = Meter(Pace(room=room), 0.0)
    meter.took(200_000, 0.1)
    meter.took(100_000, 0.2)
    assert len(looks) == 2
    with pytest.raises(StoreError):
        meter.took(300_000, 0.3)


def test_what_was_spent_adds_up_over_transfers() -> None:
    spent = Spent()
    for _ in range(2):
        meter = Meter(Pace(spent=spent), 5.0)
        meter.took(10, 6.0)
        meter.took(10, 7.5)
    assert spent.take() == (40, 5.0)
    assert spent.take() == (0, 0.0)


@pytest.mark.parametrize(("count", "seconds"), [(1000, 0.0), (0, 3600.0), (2000, 9e9)])
def test_nothing_is_left(count: int, seconds: float) -> None:
    with pytest.raises(UpdateError, match="U13"):
        left_over(1000, 1.0, count, seconds)


def test_something_is_left() -> None:
    assert left_over(1000, 1.0, 400, 600.0) == (600, 3000.0)
