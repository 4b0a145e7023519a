"""Whoever has something to say never waits for the disk, nor fails."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support_agent import make_bundle
from support_device import HandClock

from wherry_agent.link.fact import Fact
from wherry_agent.link.outbox import Outbox
from wherry_agent.link.spool import Spool
from wherry_agent.serving.counter import Tally
from wherry_contract.errors import StoreError, TrustError
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS
from wherry_contract.messages import Event
from wherry_contract.window import Window

MADE = make_bundle()


class StubbornOutbox(Outbox):
    """An outbox on a disk that is full for a while."""

    full = False

    def add(self, kind: str, make: Any, *, now: float, key: str | None = None) -> int:
        """Add, or not."""
        if self.full:
            raise StoreError("D01", "the test's disk")
        return super().add(kind, make, now=now, key=key)


class Bench:
    """A spool before an outbox, and what is in it."""

    def __init__(self, folder: Path, **changes: float) -> None:
        self.clock = HandClock()
        limits = {"mib": 4.0, "days": 30.0} | changes
        self.outbox = StubbornOutbox(folder, "shop-1", **limits)
        self.spool = Spool(self.outbox, self.clock)

    def events(self) -> list[Event]:
        """What was told."""
        return [
            Event.from_bytes(item.payload)
            for item in self.outbox.after(0, 9999)
            if item.kind == "event"
        ]

    def windows(self) -> list[int]:
        """The numbers of the windows."""
        return [
            Window.from_bytes(item.payload).flagged
            for item in self.outbox.after(0, 9999)
            if item.kind == "window"
        ]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.outbox.close()


def tally(number: int) -> Tally:
    """An empty window that can be told from others by its count of flags."""
    scores = (number,) + (0,) * (SCORE_BINS - 1)
    return Tally(
        bundle=MADE.digest,
        edges=MADE.parts.profile.edges_id,
        opened=1.8e9,
        closed=1.8e9,
        rows=number,
        flagged=number,
        fallback=0,
        errors={},
        features={},
        scores=scores,
        latency=(0,) * LATENCY_BINS,
        reason="rows",
    )


def test_what_is_told_comes_out_in_order(bench: Bench) -> None:
    bench.spool.emit(tally(1))
    bench.spool.tell(Fact("update.soak", "text", "info", "r1", MADE.digest))
    bench.spool.emit(tally(2))
    assert bench.outbox.waiting == 0
    assert bench.spool.flush()
    assert [item.kind for item in bench.outbox.after(0, 9)] == ["window", "event", "window"]
    (event,) = bench.events()
    assert (event.code, event.rollout, event.at) == ("update.soak", "r1", 1.8e9)


def test_a_full_disk_keeps_them_waiting(bench: Bench) -> None:
    bench.outbox.full = True
    bench.spool.emit(tally(1))
    bench.spool.tell(Fact("a"))
    assert not bench.spool.flush()
    bench.clock.pass_by(5)
    bench.outbox.full = False
    assert bench.spool.flush()
    assert bench.windows() == [1]
    assert [event.at for event in bench.events()] == [1.8e9]  # when it happened, not when it fitted


def test_what_does_not_fit_is_dropped_oldest_window_first_and_counted(bench: Bench) -> None:
    bench.outbox.full = True
    bench.spool.tell(Fact("first"))
    for number in range(100):
        bench.spool.emit(tally(number))
    assert bench.spool.lost == 37
    bench.outbox.full = False
    assert bench.spool.flush()
    assert bench.windows() == list(range(37, 100))
    assert [event.code for event in bench.events()] == ["first", "D05"]
    assert "37" in bench.events()[-1].text


def test_dropped_is_told_once_an_hour_and_not_for_each(tmp_path: Path) -> None:
    """What says that there is no room must not take the room."""
    bench = Bench(tmp_path, mib=8 / 1024)
    for number in range(60):
        bench.spool.emit(tally(number))
        bench.spool.flush()
    assert [event.code for event in bench.events()] == ["D05"]
    bench.clock.pass_by(3600)
    bench.spool.flush()
    assert [event.code for event in bench.events()] == ["D05", "D05"]
    assert bench.events()[-1].text == f"{bench.outbox.dropped} messages so far"
    bench.spool.flush()
    assert len(bench.events()) == 2
    bench.outbox.close()


def test_a_fact_with_a_key_is_told_once(bench: Bench) -> None:
    for _ in range(3):
        bench.spool.tell(Fact("a"), key="k")
        bench.spool.flush()
    bench.spool.record(Fact("a"), key="k")
    assert len(bench.events()) == 1


def test_record_is_on_the_medium_or_says_so(bench: Bench) -> None:
    bench.outbox.full = True
    with pytest.raises(StoreError):
        bench.spool.record(Fact("a"), key="k")
    bench.outbox.full = False
    bench.spool.record(Fact("a"), key="k")
    assert len(bench.events()) == 1


def test_the_event_of_an_error_says_what_and_why(bench: Bench) -> None:
    bench.spool.tell(Fact.of(TrustError("T02", "why " * 1000), bundle=MADE.digest))
    bench.spool.flush()
    (event,) = bench.events()
    assert (event.code, event.severity) == ("T02", "error")
    assert event.text.startswith("it is not signed by a trusted key: why")


def test_what_cannot_be_said_blocks_nothing_and_is_told(bench: Bench) -> None:
    """A window whose time no calendar knows, before one that is sound."""
    bench.spool.emit(replace(tally(1), opened=1e15))
    bench.spool.emit(tally(2))
    assert bench.spool.flush()
    assert bench.windows() == [2]
    assert bench.spool.lost == 1
    crash, dropped = bench.events()
    assert (crash.code, dropped.code) == ("agent.crash", "D05")
    assert "OverflowError" in crash.text


def test_an_event_that_cannot_be_said_blocks_nothing_and_is_counted(bench: Bench) -> None:
    bench.clock.wall = 1e15
    bench.spool.tell(Fact("unsayable"))
    bench.clock.wall = 1.8e9
    bench.spool.emit(tally(1))
    assert bench.spool.flush()
    assert bench.windows() == [1]
    assert [(event.code, event.text) for event in bench.events()] == [("D05", "1 messages so far")]


@pytest.mark.parametrize("jump", [-400 * 86_400.0, 400 * 86_400.0], ids=["back", "ahead"])
def test_a_clock_that_jumps_makes_nothing_old(bench: Bench, jump: float) -> None:
    bench.spool.emit(tally(1))
    bench.spool.flush()
    bench.clock.wall += jump
    bench.spool.emit(tally(2))
    bench.spool.flush()
    assert bench.windows() == [1, 2]
    assert bench.events() == []
    bench.clock.pass_by(31 * 86_400)
    bench.spool.emit(tally(3))
    bench.spool.flush()
    assert bench.windows() == [3]


def test_threads_lose_nothing(bench: Bench) -> None:
    def tell(name: str) -> None:
        for turn in range(30):
            bench.spool.tell(Fact(f"{name}{turn}"))
            bench.spool.flush()

    threads = [threading.Thread(target=tell, args=(name,)) for name in "abcd"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert bench.spool.flush()
    wanted = sorted(f"{name}{turn}" for name in "abcd" for turn in range(30))
    assert sorted(event.code for event in bench.events()) == wanted
