"""The fleet's memory: once is once, gaps are known, nothing half-written, one moment to read."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support_fleet import BUNDLE, event, open_store, state, window

from wherry.rows import (
    Decision,
    DeviceRow,
    Exposure,
    Incident,
    Order,
    RolloutRow,
    StoredWindow,
)
from wherry.server.census import Wanted
from wherry.server.intake import INCIDENTS_KEPT, Batch
from wherry.server.ledger import Change
from wherry.server.store import Store
from wherry_contract.errors import RolloutError, StoreError
from wherry_contract.window import Window

pytestmark = pytest.mark.usefixtures("either_store")


def batch(*windows: Window, at: float = 100.0) -> Batch:
    """A batch of windows."""
    return Batch(at, [(item, item.to_bytes()) for item in windows])


def test_a_message_is_counted_once(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        assert store.add(batch(window("a", 1), window("a", 1))).twice == 1
        assert store.add(batch(window("a", 1), window("a", 2))).twice == 1
        assert [item.window.place.seq for item in store.windows()] == [1, 2]
        assert store.counters() == {"windows": 2, "duplicates": 2}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.lists(st.integers(1, 12), max_size=8), max_size=6))
def test_any_order_and_any_repeats_give_the_same_memory(
    tmp_path_factory: pytest.TempPathFactory, batches: list[list[int]]
) -> None:
    with open_store(tmp_path_factory.mktemp("store"), "a") as store:
        for sequences in batches:
            store.add(batch(*(window("a", seq) for seq in sequences)))
        wanted = {seq for sequences in batches for seq in sequences}
        found = [item.window for item in store.windows()]
        assert sorted(item.place.seq for item in found) == sorted(wanted)
        assert all(item == window("a", item.place.seq) for item in found)


def test_outboxes_and_devices_are_told_apart(tmp_path: Path) -> None:
    with open_store(tmp_path, "a", "b") as store:
        store.add(batch(window("a", 1), window("b", 1), window("a", 1, spool="f" * 16)))
        assert len(store.windows()) == 3


def test_what_was_dropped_before_it_arrived_is_known(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        store.add(batch(window("a", 2)))
        assert store.lost("a") == 0  # the first may still come
        found = event("a", 9)
        store.add(Batch(101.0, [(window("a", 8, oldest=6),) * 1 + (b"{}",)], [(found, b"{}")]))
        assert store.lost("a") == 4  # of 1 to 5, only 2 came


@pytest.mark.parametrize(
    ("asked", "wanted"),
    [
        pytest.param({}, [1, 2, 3], id="all"),
        pytest.param({"since": 200.0}, [2, 3], id="since"),
        pytest.param({"until": 200.0}, [1], id="until"),
        pytest.param({"since": 150.0, "until": 250.0}, [2], id="between"),
        pytest.param({"select": {"site": "x"}}, [1, 2, 3], id="label"),
        pytest.param({"select": {"site": "y"}}, [], id="another label"),
        pytest.param({"bundle": BUNDLE}, [1, 2, 3], id="bundle"),
        pytest.param({"bundle": "sha256:" + "0" * 64}, [], id="another bundle"),
    ],
)
def test_windows_are_found(tmp_path: Path, asked: dict[str, object], wanted: list[int]) -> None:
    with open_store(tmp_path, "a") as store:
        store.add(Batch(50.0, states={"a": state("a", labels={"site": "x"})}))
        for seq in (1, 2, 3):
            store.add(batch(window("a", seq), at=seq * 100.0))
        assert [item.window.place.seq for item in store.windows(**asked)] == wanted  # type: ignore[arg-type]  # rows of keywords
        assert all(item.labels == {"site": "x"} for item in store.windows())


def test_the_latest_events_in_their_order(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        events = [event("a", seq, rollout="r1" if seq % 2 else "r2") for seq in range(1, 7)]
        store.add(Batch(1.0, events=[(item, item.to_bytes()) for item in events]))
        assert [item.event.place.seq for item in store.events(limit=3)] == [4, 5, 6]
        assert [item.event.place.seq for item in store.events(rollout="r1")] == [1, 3, 5]
        assert store.events(device="b") == []


def test_retention_takes_the_old_and_a_replay_does_not_bring_it_back(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        store.add(batch(window("a", 1), window("a", 2), at=100.0))
        store.add(batch(window("a", 3), at=300.0))
        assert store.purge(200.0) == 2
        assert store.add(batch(window("a", 1), window("a", 3), at=400.0)).twice == 2
        assert [item.window.place.seq for item in store.windows()] == [3]
        assert store.lost("a") == 0


def test_more_devices_than_a_statement_has_room_for(tmp_path: Path) -> None:
    """SQLite takes 32,766 variables at most, and 999 where it is old."""
    names = [f"d{place}" for place in range(40_000)]
    with open_store(tmp_path, "d7") as store:
        assert set(store.enrolled(names)) == {"d7"}
        assert store.ledger.orders(names) == {}


def test_incidents_are_bounded(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        for turn in range(3):
            many = [Incident(turn, "a", "window", "G01", str(n), 1) for n in range(600)]
            store.add(Batch(1.0, incidents=many))
        kept = store.incidents(limit=10 * INCIDENTS_KEPT)
        assert len(kept) == INCIDENTS_KEPT
        assert kept[-1].detail == "599"
        assert store.counters() == {"incidents": 1800}


def test_a_device_is_enrolled_once_unless_said_again(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        with pytest.raises(RolloutError) as caught:
            store.enrol(DeviceRow("a", "fraud", {}, 2.0))
        assert caught.value.code == "R08"
        store.enrol(DeviceRow("a", "other", {"site": "x"}, 2.0), again=True)
        assert store.device("a").family == "other"
        with pytest.raises(RolloutError) as caught:
            store.device("b")
        assert caught.value.code == "R07"


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    with open_store(tmp_path, "a") as store:
        store.add(batch(window("a", 1)))
        store.add(Batch(7.0, states={"a": state("a")}, presence={"a": (True, "1" * 16)}))
        before = store.devices()
    with open_store(tmp_path) as store:
        assert store.devices() == before
        assert store.windows()[0].window == window("a", 1)
        assert store.device("a").seen_at == 7.0
        store.forget_presence()
        assert not store.device("a").online


def test_tables_of_a_later_wherry_are_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, store._database.writing() as connection:
        connection.exec_driver_sql("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreError, match="9999") as caught, open_store(tmp_path):
        pass
    assert caught.value.code == "D06"


def test_a_commit_is_on_the_medium(tmp_path: Path) -> None:
    """What is acknowledged survives a pulled plug; 2 is FULL."""
    wanted = {"sqlite": {"synchronous": 2, "journal_mode": "wal"}}
    wanted["postgresql"] = {"synchronous_commit": "on"}
    with open_store(tmp_path) as store, store._database.reading() as connection:
        kind = connection.dialect.name
        ask = "PRAGMA" if kind == "sqlite" else "SHOW"
        for name, value in wanted[kind].items():
            assert connection.exec_driver_sql(f"{ask} {name}").scalar() == value


def test_what_a_device_says_cannot_harm_the_store(tmp_path: Path) -> None:
    """PostgreSQL keeps no NUL in text; one device's must not stop the batch, nor a search."""
    with open_store(tmp_path, "a", "b") as store:
        bad = Incident(1.0, "a", "window", "G01", "with \0 and \ud800", 1)
        far = window("b", 2**53 - 1)
        store.add(
            Batch(
                7.0,
                windows=[(far, far.to_bytes())],
                events=[(event("a", 1, text="\0"), b"{}")],
                states={"a": state("a", labels={"x\0": "\0"}, bundle_name="\0")},
                incidents=[bad],
            )
        )
        store.add(Batch(8.0, states={"b": state("b", labels={"site": "paris"})}))
        assert store.incidents()[0].detail == "with \ufffd and ?"
        assert [row.device for row in store.census.page(Wanted("site=paris"), 0, 9)[1]] == ["b"]
        assert store.windows()[0].window.place.seq == 2**53 - 1
        assert store.census.counts().devices == 2


def test_devices_are_ordered_by_their_characters(tmp_path: Path) -> None:
    """Not by the rules of a database's language, which put a-1 behind ab."""
    names = ["a-1", "a1", "ab", "b"]
    with open_store(tmp_path, *reversed(names)) as store:
        assert [row.device for row in store.devices()] == names


def test_who_reads_what_came_after_misses_nothing(tmp_path: Path) -> None:
    """Though several write at once: numbers become visible in their order."""
    with open_store(tmp_path, "a") as store, open_store(tmp_path) as other:
        many = [
            threading.Thread(target=_write, args=(one, spool))
            for spool, one in enumerate((store, other, store, other))
        ]
        for thread in many:
            thread.start()
        found: list[StoredWindow] = []
        last = 0
        while any(thread.is_alive() for thread in many) or len(found) < 80:
            last, new = store.windows_after(last)
            found += new
        for thread in many:
            thread.join()
        assert len({(w.window.place.spool, w.window.place.seq) for w in found}) == 80


def _write(store: Store, spool: int) -> None:
    for seq in range(1, 21):
        store.add(batch(window("a", seq, spool=f"{spool:016x}")))


# --- rollouts -------------------------------------------------------------------------------


def begun(*devices: str) -> RolloutRow:
    """A rollout over some devices."""
    return RolloutRow(
        id="fraud-1",
        bundle=BUNDLE,
        name="fraud",
        version="1",
        family="fraud",
        state="canary",
        wave=0,
        waves=1,
        select={"site": "x"},
        policy={},
        created_at=1.0,
        changed_at=1.0,
        devices=tuple(Exposure(name, 0) for name in devices),
    )


def test_one_rollout_at_a_time_for_each_device(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        first = store.ledger.create(begun("a", "b"))
        with pytest.raises(RolloutError) as caught:
            store.ledger.create(begun("b", "c"))
        assert caught.value.code == "R03"
        second = store.ledger.create(begun("c"))
        assert (first, second) == ("r1-fraud-1", "r2-fraud-1")
        store.ledger.apply(first, Change(2.0, "done", 0))
        assert store.ledger.create(begun("b")) == "r3-fraud-1"
        assert [item.id for item in store.ledger.rollouts(running=True)] == [second, "r3-fraud-1"]


def test_a_decision_its_exposures_and_its_orders_are_kept_together(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        name = store.ledger.create(begun("a", "b"))
        decision = Decision(2.0, "canary", "passed", "wave", 1, {"committed": 1}, "did well")
        order = Order("a", "k", 3, name, BUNDLE, 2.0, b"signed")
        exposure = Exposure("a", 0, offered_at=2.0, sequence=3)
        store.ledger.apply(name, Change(2.0, "wave", 1, decision, (exposure,), (order,)))
        found = store.ledger.rollout(name)
        assert (found.state, found.wave, found.decisions) == ("wave", 1, (decision,))
        assert found.devices == (exposure, Exposure("b", 0))
        assert store.ledger.orders() == {"a": order}
        bad = Change(3.0, "done", 1, decision, (), (Order("a", None, 4, name, "", 1.0, b""),))  # type: ignore[arg-type]  # the column refuses it
        with pytest.raises(StoreError):
            store.ledger.apply(name, bad)
        assert store.ledger.rollout(name) == found


@pytest.mark.parametrize(
    ("name", "code"), [("r1-fraud-1", "R09"), ("r9", "R01")], ids=["ended", "unknown"]
)
def test_what_cannot_be_stopped(tmp_path: Path, name: str, code: str) -> None:
    with open_store(tmp_path) as store:
        store.ledger.apply(store.ledger.create(begun("a")), Change(2.0, "reverted", 0))
        with pytest.raises(RolloutError) as caught:
            store.ledger.stop(name, "why")
        assert caught.value.code == code


def test_the_first_reason_to_stop_stands(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        name = store.ledger.create(begun("a"))
        store.ledger.stop(name, "first")
        store.ledger.stop(name, "second")
        assert store.ledger.rollout(name).stopped == "first"
