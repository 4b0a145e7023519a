"""The outbox: nothing that was added is lost but by acknowledgement or for want of room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import examples
from support_agent import FLEET
from support_fleet import open_store, window

from wherry.server.ingest import Arrival, Ingest
from wherry_agent.link.outbox import Outbox
from wherry_contract.errors import StoreError
from wherry_contract.messages import Ack, Place

NOW = 1.8e9
DAY = 86_400.0


def opened(folder: Path, *, mib: float = 1.0, days: float = 30.0) -> Outbox:
    return Outbox(folder, "shop-1", mib=mib, days=days)


def saying(text: str) -> Callable[[Place], bytes]:
    return lambda place: f"{place.spool} {place.seq} {place.oldest} {text}".encode()


def made(folder: Path) -> Path:
    folder.mkdir()
    return folder


def a_window(flagged: int) -> Callable[[Place], bytes]:
    return lambda place: replace(window("shop-1", 1, flagged=flagged), place=place).to_bytes()


def texts(outbox: Outbox) -> list[str]:
    return [item.payload.decode().split(" ", 3)[3] for item in outbox.after(0, 10_000)]


def test_what_was_added_comes_in_order(tmp_path: Path) -> None:
    box = opened(tmp_path)
    assert [box.add("window", saying(f"w{turn}"), now=NOW) for turn in range(3)] == [1, 2, 3]
    assert texts(box) == ["w0", "w1", "w2"]
    assert [item.seq for item in box.after(1, 1)] == [2]
    assert (box.newest, box.waiting) == (3, 3)
    box.close()


def test_a_restart_keeps_messages_spool_and_sequence(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.add("window", saying("a"), now=NOW)
    box.add("event", saying("b"), now=NOW)
    before, spool = box.after(0, 9), box.spool
    box.close()
    again = opened(tmp_path)
    assert (again.after(0, 9), again.spool) == (before, spool)
    again.acknowledge(Ack(spool, ((1, 2),)))
    again.close()
    third = opened(tmp_path)
    assert third.waiting == 0
    assert third.add("event", saying("c"), now=NOW) == 3  # a sequence is never used twice
    third.close()


KILLED = """
import sys, pathlib
from wherry_agent.link.outbox import Outbox
box = Outbox(pathlib.Path(sys.argv[1]), "shop-1", mib=1, days=30)
n = 0
while True:
    n += 1
    seq = box.add("window", lambda place: b"w%d" % n, now=1.8e9)
    print(seq, flush=True)
"""


def test_what_add_returned_for_survives_kill_9(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout
        seen = [int(writer.stdout.readline()) for _ in range(40)]
        writer.kill()
        seen += [int(line) for line in writer.stdout]
    box = opened(tmp_path)
    held = [item.seq for item in box.after(0, 10_000)]
    assert held[: len(seen)] == seen
    assert [item.payload for item in box.after(0, 3)] == [b"w1", b"w2", b"w3"]
    box.close()


# --- acknowledgements -----------------------------------------------------------------------

ACKS = [
    ("a range", Ack("", ((1, 3),)), [4, 5, 6]),
    ("ranges out of order", Ack("", ((5, 6), (1, 2))), [3, 4]),
    ("overlapping", Ack("", ((1, 4), (2, 5))), [6]),
    ("what was never there", Ack("", ((7, 2**53 - 1),)), [1, 2, 3, 4, 5, 6]),
    ("everything there could be", Ack("", ((1, 2**53 - 1),)), []),
    ("refused for good", Ack("", (), ((2, "G01"), (9, "G02"))), [1, 3, 4, 5, 6]),
    ("nothing", Ack(""), [1, 2, 3, 4, 5, 6]),
]


@pytest.mark.parametrize(("ack", "left"), [row[1:] for row in ACKS], ids=[row[0] for row in ACKS])
def test_acknowledged(tmp_path: Path, ack: Ack, left: list[int]) -> None:
    box = opened(tmp_path)
    for turn in range(6):
        box.add("window", saying(f"{turn}"), now=NOW)
    ours = Ack(box.spool, ack.stored, ack.refused)
    assert box.acknowledge(ours) == 6 - len(left)
    assert [item.seq for item in box.after(0, 99)] == left
    assert box.acknowledge(ours) == 0  # late and twice changes nothing
    box.close()


def test_an_acknowledgement_of_another_spool_is_nothing_to_us(tmp_path: Path) -> None:
    box = opened(tmp_path)
    box.add("window", saying("x"), now=NOW)
    assert box.acknowledge(Ack("0" * 16, ((1, 9),))) == 0
    assert box.waiting == 1
    box.close()


# --- bounds ---------------------------------------------------------------------------------

KIB = "x" * 1024


def test_the_oldest_windows_go_first_then_the_oldest_events(tmp_path: Path) -> None:
    box = opened(tmp_path, mib=5 / 1024)
    box.add("event", saying("first event " + KIB), now=NOW)
    for turn in range(3):
        box.add("window", saying(f"w{turn} " + KIB), now=NOW)
    assert [text[:2] for text in texts(box)] == ["fi", "w0", "w1", "w2"]
    box.add("window", saying("w3 " + KIB), now=NOW)
    assert [text[:2] for text in texts(box)] == ["fi", "w1", "w2", "w3"]
    assert box.dropped == 1
    for turn in range(4):
        box.add("event", saying(f"e{turn} " + KIB), now=NOW)
    assert [text[:2] for text in texts(box)] == ["e0", "e1", "e2", "e3"]
    assert box.dropped == 5
    box.close()
    again = opened(tmp_path)
    assert again.dropped == 5
    again.close()


def test_a_message_larger_than_all_room_is_still_said(tmp_path: Path) -> None:
    box = opened(tmp_path, mib=1 / 1024)
    box.add("window", saying("small"), now=NOW)
    box.add("window", saying("large " + KIB * 3), now=NOW)
    assert [text[:5] for text in texts(box)] == ["large"]
    box.close()


AGES = [
    ("young", 29 * DAY, ["old", "new"]),
    ("too old", 31 * DAY, ["new"]),
]


@pytest.mark.parametrize(("passed", "kept"), [row[1:] for row in AGES], ids=[row[0] for row in AGES])  # fmt: skip
def test_age(tmp_path: Path, passed: float, kept: list[str]) -> None:
    box = opened(tmp_path)
    box.add("window", saying("old"), now=NOW)
    box.add("window", saying("new"), now=NOW + passed)
    assert texts(box) == kept
    assert box.dropped == 2 - len(kept)
    box.close()


def test_age_counts_over_restarts_whatever_the_clock_says_then(tmp_path: Path) -> None:
    """A clock that never goes back begins anew with the machine."""
    for turn, began in enumerate((NOW, 5.0, 9e9)):
        box = opened(tmp_path)
        box.add("window", saying(f"{turn}a"), now=began)
        box.add("window", saying(f"{turn}b"), now=began + 14 * DAY)
        box.close()
    box = opened(tmp_path)
    assert texts(box) == ["0b", "1a", "1b", "2a", "2b"]
    box.close()


def test_the_oldest_sequence_is_told(tmp_path: Path) -> None:
    box = opened(tmp_path)
    for turn in range(3):
        box.add("window", saying(f"{turn}"), now=NOW)
    box.acknowledge(Ack(box.spool, ((1, 2),)))
    box.add("window", saying("last"), now=NOW)
    assert box.after(3, 1)[0].payload.decode() == f"{box.spool} 4 3 last"
    box.close()


# --- copies ---------------------------------------------------------------------------------


def test_a_copied_folder_loses_and_doubles_nothing_at_the_ingest(tmp_path: Path) -> None:
    """Both go on adding, both send what the folder held when it was copied."""
    with closing(opened(folder := made(tmp_path / "a"))) as first:
        first.add("window", a_window(1), now=NOW)
        first.add("window", a_window(2), now=NOW)
    shutil.copytree(folder, tmp_path / "b")
    with closing(opened(folder)) as first, closing(opened(tmp_path / "b")) as second:
        assert (first.copied, second.copied) == (False, True)
        first.add("window", a_window(3), now=NOW)
        second.add("window", a_window(4), now=NOW)
        with open_store(tmp_path, "shop-1") as store:
            ingest = Ingest(store, FLEET, lambda: NOW, lambda: None)
            for box in (first, second):
                for item in box.after(0, 10):
                    arrival = Arrival(f"wherry/v1/{FLEET}/shop-1/window", item.payload)
                    for _, ack in ingest.take([arrival]):
                        first.acknowledge(ack)
                        second.acknowledge(ack)
            assert sorted(item.window.flagged for item in store.windows()) == [1, 2, 3, 4]
            assert (store.lost("shop-1"), store.incidents()) == (0, [])
        assert (first.waiting, second.waiting) == (0, 0)


def test_a_folder_that_was_restored_from_a_copy_uses_no_sequence_twice(tmp_path: Path) -> None:
    with closing(opened(made(tmp_path / "a"))) as box:
        box.add("window", saying("1"), now=NOW)
    shutil.copytree(tmp_path / "a", tmp_path / "backup")
    with closing(opened(tmp_path / "a")) as box:
        box.add("window", saying("2"), now=NOW)
        spool = box.spool
    (tmp_path / "a").rename(tmp_path / "broken")  # its inode stays taken
    shutil.copytree(tmp_path / "backup", tmp_path / "a")
    with closing(opened(tmp_path / "a")) as box:
        box.add("window", saying("3"), now=NOW)
        first, last = (item.payload.decode().split() for item in box.after(0, 9))
    assert first == [spool, "1", "1", "1"]
    assert last[0] != spool
    assert last[1:] == ["1", "1", "3"]


def test_a_moved_folder_is_the_same(tmp_path: Path) -> None:
    with closing(opened(made(tmp_path / "a"))) as box:
        spool = box.spool
    (tmp_path / "a").rename(tmp_path / "b")
    with closing(opened(tmp_path / "b")) as box:
        assert (box.copied, box.spool) == (False, spool)


def test_a_new_spool_leaves_what_waits_its_name(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as box:
        old = box.spool
        box.add("window", saying("a"), now=NOW)
        box.add("window", saying("b"), now=NOW)
        box.renew()
        assert box.spool != old
        box.add("window", saying("c"), now=NOW)
        places = [item.payload.decode().split() for item in box.after(0, 9)]
        assert places == [[old, "1", "1", "a"], [old, "2", "1", "b"], [box.spool, "1", "1", "c"]]
        assert box.acknowledge(Ack(old, ((2, 99),))) == 1  # the twin's third is not ours
        assert texts(box) == ["a", "c"]
        assert box.acknowledge(Ack(box.spool, ((1, 9),))) == 1
    with closing(opened(tmp_path)) as box:
        assert box.acknowledge(Ack(old, ((1, 1),))) == 1
        assert box.waiting == 0


def test_spools_that_hold_nothing_are_forgotten(tmp_path: Path) -> None:
    with closing(opened(tmp_path)) as box:
        for _ in range(5):
            box.add("window", saying("x"), now=NOW)
            box.renew()
        assert len(box._eras) == 6
        box.acknowledge(Ack(box._eras[0][1], ((1, 1),)))
        box.renew()
        assert len(box._eras) == 5


# --- keys -----------------------------------------------------------------------------------


def test_a_message_with_a_key_is_stored_once(tmp_path: Path) -> None:
    box = opened(tmp_path)
    assert box.add("event", saying("a"), now=NOW, key="report:r1:1") == 1
    assert box.add("event", saying("a"), now=NOW, key="report:r1:1") == 0
    box.acknowledge(Ack(box.spool, ((1, 1),)))
    box.close()
    again = opened(tmp_path)
    assert again.add("event", saying("a"), now=NOW, key="report:r1:1") == 0
    again.close()


def test_a_key_that_was_forgotten_blocks_nothing(tmp_path: Path) -> None:
    """After a thousand others a key may be told again, even while its message still waits."""
    box = opened(tmp_path)
    box._database.execute("PRAGMA synchronous=OFF")  # this test is about keys, not the medium
    for turn in range(1100):
        box.add("event", saying("x"), now=NOW, key=f"k{turn}")
    assert box.add("event", saying("x"), now=NOW, key="k0") == 1101
    assert box.add("event", saying("x"), now=NOW, key="k1099") == 0
    box.close()


# --- damage and a full disk -----------------------------------------------------------------

DAMAGE: list[tuple[str, Callable[[bytes], bytes]]] = [
    ("no database", lambda _: b"this is no database, " * 500),
    ("half of it", lambda data: data[: len(data) // 2]),
    ("a page of zeros", lambda data: data[:4096] + bytes(4096) + data[8192:]),
    ("no header", lambda data: bytes(100) + data[100:]),
]


@pytest.mark.parametrize("damage", [row[1] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_a_damaged_file_is_set_aside(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    box = opened(tmp_path)
    for _ in range(20):
        box.add("window", saying(KIB), now=NOW)
    spool = box.spool
    box.close()
    path = tmp_path / "outbox.db"
    path.write_bytes(damage(path.read_bytes()))
    again = opened(tmp_path)
    assert again.damaged is not None
    assert again.damaged.exists()
    assert again.spool != spool  # sequences begin anew, so the spool must
    assert again.add("window", saying("new"), now=NOW) == 1
    again.close()


def test_a_database_of_another_form_is_set_aside(tmp_path: Path) -> None:
    import sqlite3

    database = sqlite3.connect(tmp_path / "outbox.db")
    database.execute("CREATE TABLE message (something TEXT)")
    database.commit()
    database.close()
    box = opened(tmp_path)
    assert box.damaged is not None
    assert box.add("event", saying("x"), now=NOW) == 1
    box.close()


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(place=st.floats(0, 1, exclude_max=True), flips=st.integers(1, 255), cut=st.booleans())
def test_no_damage_keeps_the_agent_from_starting(
    tmp_path: Path, place: float, flips: int, *, cut: bool
) -> None:
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    box = opened(folder)
    for turn in range(10):
        box.add("window", saying(f"{turn} " + KIB), now=NOW)
    box.close()
    path = folder / "outbox.db"
    data = bytearray(path.read_bytes())
    at = int(place * len(data))
    data[at] ^= flips
    path.write_bytes(data[:at] if cut else data)
    again = opened(folder)
    assert again.add("window", saying("after"), now=NOW) > 0
    assert again.after(0, 99)[-1].payload.endswith(b" after")
    again.close()


FULL = """
import pathlib, resource, signal, sys
from wherry_agent.link.outbox import Outbox
from wherry_contract.errors import StoreError
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
box = Outbox(pathlib.Path(sys.argv[1]), "shop-1", mib=1, days=30)
resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, resource.RLIM_INFINITY))
added, code = 0, ""
while not code:
    try:
        box.add("window", lambda place: bytes(5000), now=1.8e9)
        added += 1
    except StoreError as error:
        code = error.code
state = (len(box.after(0, 999)), box.newest, box._bytes)
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
seq = box.add("window", lambda place: bytes(5000), now=1.8e9)
print(added, code, *state, seq)
"""


def test_a_full_disk_loses_nothing_that_was_stored(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, check=True
    )
    added, code, held, newest, size, seq = done.stdout.split()
    assert int(added) > 5
    assert code in ("D01", "D06")  # the limit shows as an I/O error, a full disk as SQLITE_FULL
    assert int(held) == int(newest) == int(added)
    assert int(size) == 5000 * int(added)
    assert int(seq) == int(added) + 1
    box = opened(tmp_path)
    assert box.waiting == int(added) + 1
    box.close()


def test_a_really_full_disk_is_called_full(tmp_path: Path) -> None:
    """A page limit of SQLite's own stands for the disk: the same code path, the same result code."""
    box = opened(tmp_path)
    box._database.execute("PRAGMA max_page_count = 20")
    while box._bytes < 40_000:
        box.add("window", saying(KIB * 4), now=NOW)
    with pytest.raises(StoreError, match="D01"):
        box.add("window", saying(KIB * 60), now=NOW)
    held = box.waiting
    box.close()
    again = opened(tmp_path)
    assert (again.waiting, again.damaged) == (held, None)
    again.close()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="D06"):
        opened(tmp_path / "nowhere")


def test_a_payload_that_cannot_be_made_stores_nothing(tmp_path: Path) -> None:
    box = opened(tmp_path)

    def fails(_: Place) -> bytes:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        box.add("event", fails, now=NOW, key="k")
    assert box.add("event", saying("x"), now=NOW, key="k") == 1
    box.close()


# --- threads and a model --------------------------------------------------------------------


def test_threads_lose_and_double_nothing(tmp_path: Path) -> None:
    box = opened(tmp_path, mib=16)
    box._database.execute("PRAGMA synchronous=OFF")  # this test is about threads, not the medium
    acked: list[int] = []

    def write(name: str) -> None:
        for turn in range(100):
            box.add("window", saying(f"{name}{turn}"), now=NOW)

    def acknowledge() -> None:
        for _ in range(50):
            for item in box.after(0, 3):
                acked.append(item.seq)
                box.acknowledge(Ack(box.spool, ((item.seq, item.seq),)))

    threads = [threading.Thread(target=write, args=(name,)) for name in "abc"]
    threads.append(threading.Thread(target=acknowledge))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    held = [item.seq for item in box.after(0, 1000)]
    assert sorted(acked + held) == list(range(1, 301))
    assert box.newest == 300
    assert box._bytes == sum(len(item.payload) for item in box.after(0, 1000))
    box.close()


ACTIONS = st.lists(
    st.one_of(
        st.tuples(st.just("window"), st.integers(0, 3000)),
        st.tuples(st.just("event"), st.integers(0, 600)),
        st.tuples(st.just("key"), st.integers(0, 3)),
        st.tuples(st.just("ack"), st.integers(1, 40)),
        st.tuples(st.just("day"), st.integers(1, 20)),
        st.tuples(st.just("restart"), st.just(0)),
    ),
    max_size=40,
)


@settings(max_examples=examples(40), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(ACTIONS)
def test_it_behaves_like_a_list(tmp_path: Path, actions: list[tuple[str, int]]) -> None:
    """Against a model of a few lines: same messages, same order, same count of what was dropped."""
    folder = tmp_path / os.urandom(8).hex()
    folder.mkdir()
    box = opened(folder, mib=8 / 1024)
    model: list[tuple[int, str, float, int]] = []  # seq, kind, at, bytes
    told: set[int] = set()
    seq = dropped = 0
    clock, age, opened_at = NOW, 0.0, None
    for what, number in actions:
        if what in ("window", "event", "key"):
            kind = "window" if what == "window" else "event"
            size = 10 if what == "key" else number
            key = f"k{number}" if what == "key" else None
            opened_at = clock if opened_at is None else opened_at
            now = age + clock - opened_at
            found = box.add(kind, lambda _, size=size: bytes(size), now=clock, key=key)  # type: ignore[misc]
            if what == "key" and number in told:
                assert found == 0
                continue
            told |= {number} if what == "key" else set()
            seq += 1
            assert found == seq
            gone = _must_go([*model, (seq, kind, now, size)], now)
            dropped += len(gone)
            model = [item for item in [*model, (seq, kind, now, size)] if item not in gone]
        elif what == "ack":
            box.acknowledge(Ack(box.spool, ((number, number + 2),)))
            model = [item for item in model if not number <= item[0] <= number + 2]
        elif what == "day":
            clock += number * DAY
        else:
            box.close()
            box = opened(folder, mib=8 / 1024)
            age, opened_at = (model[-1][2] if model else 0.0), None
        held = [(item.seq, item.kind, len(item.payload)) for item in box.after(0, 999)]
        assert held == [(item[0], item[1], item[3]) for item in model]
        assert (box.dropped, box._bytes) == (dropped, sum(item[3] for item in model))
    box.close()


def _must_go(
    items: list[tuple[int, str, float, int]], now: float
) -> list[tuple[int, str, float, int]]:
    if sum(item[3] for item in items) <= 8 * 1024 and items[0][2] > now - 30 * DAY:
        return []
    left, gone = sum(item[3] for item in items), []
    for item in sorted(items[:-1], key=lambda item: (item[1] == "event", item[0])):
        if left > 8 * 1024 or item[2] < now - 30 * DAY:
            gone.append(item)
            left -= item[3]
    return gone
