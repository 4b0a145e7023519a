"""How many full windows a core decodes, merges and stores, beside what a user would write.

    python benchmarks/ingest.py [--windows N] [--rounds N] [--store postgresql+psycopg://...]

A full window is of 20 features of 10 bins, 64 score bins and 40 of latency, 1,000 rows. Each
round hands the same new windows to each peer in turn, in batches as the link gathers them, from
memory: no broker is measured. CPU is the process's own; what a database server burns is not in
it. "Merged" is the sum of all histograms by bundle, as the monitor keeps it.
"""

from __future__ import annotations

import argparse
import json
import random
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from common import print_machine

from wherry.rows import DeviceRow
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.ingest import Arrival, Ingest
from wherry.server.store import Store
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS
from wherry_contract.messages import Place
from wherry_contract.slots import FeatureCounts
from wherry_contract.topics import Topic
from wherry_contract.window import Window

DEVICES = 500
FLEET = "shops"
ROWS = 1000


def _counts(chance: random.Random, bins: int) -> tuple[int, ...]:
    cuts = sorted(chance.randint(0, ROWS) for _ in range(bins - 1))
    return tuple(b - a for a, b in zip([0, *cuts], [*cuts, ROWS], strict=True))


def make(count: int, turn: int) -> list[Arrival]:
    """Full windows of many devices, as the broker delivers them."""
    chance = random.Random(turn)
    found = []
    for number in range(count):
        device = f"till-{number % DEVICES}"
        made = Window(
            place=Place(device, f"{turn:016x}", 1 + number // DEVICES, 1),
            bundle="sha256:" + "b" * 64,
            edges="sha256:" + "e" * 64,
            opened=1.79e9,
            closed=1.79e9 + 3600,
            rows=ROWS,
            flagged=10,
            fallback=0,
            errors={},
            features={f"FEATURE_{n}": FeatureCounts(_counts(chance, 10)) for n in range(20)},
            scores=_counts(chance, SCORE_BINS),
            latency=_counts(chance, LATENCY_BINS),
            reason="rows",
        )
        found.append(Arrival(str(Topic(FLEET, device, "window")), made.to_bytes()))
    return found


class Wherry:
    """The server's own ingest, store, and what it would acknowledge."""

    def __init__(self, where: Path | str, folder: Path) -> None:
        """Open a store with the devices in it."""
        self._store = Store(Database(where), Depot(folder / "depot", folder / "keys"))
        for number in range(DEVICES):
            row = DeviceRow(f"till-{number}", "fraud", {}, 1.0)
            self._store.enrol(row, again=True)
        self._ingest = Ingest(self._store, FLEET, time.time, lambda: None)

    def take(self, arrivals: list[Arrival]) -> int:
        """Store a batch; returns how many messages are acknowledged."""
        acks = self._ingest.take(arrivals)
        return sum(last - first + 1 for _, ack in acks for first, last in ack.stored)


class Plain:
    """As a user would write it: json, sums in lists, the payload into SQLite, nothing checked."""

    def __init__(self, path: Path) -> None:
        """Make the table, durable as ours is."""
        self._database = sqlite3.connect(path)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute(
            "CREATE TABLE window (topic TEXT, seq INTEGER, at REAL, payload BLOB)"
        )
        self._sums: dict[str, list[int]] = {}

    def take(self, arrivals: list[Arrival]) -> int:
        """Store a batch in one transaction."""
        rows = []
        for arrival in arrivals:
            found = json.loads(arrival.payload)
            for name, counts in found["features"].items():
                self._add(name, counts["bins"])
            self._add("scores", found["scores"])
            self._add("latency", found["latency"])
            rows.append((arrival.topic, found["seq"], time.time(), arrival.payload))
        with self._database:
            self._database.executemany("INSERT INTO window VALUES (?, ?, ?, ?)", rows)
        return len(rows)

    def _add(self, name: str, counts: list[int]) -> None:
        before = self._sums.get(name)
        self._sums[name] = (
            [a + b for a, b in zip(before, counts, strict=True)] if before else counts
        )


class One(Plain):
    """The same with a transaction for each message, as in an `on_message` callback."""

    def take(self, arrivals: list[Arrival]) -> int:
        """Store each by itself."""
        return sum(super(One, self).take([arrival]) for arrival in arrivals)


def spent(peer: Callable[[list[Arrival]], int], arrivals: list[Arrival], batch: int) -> float:
    """CPU seconds for all of them."""
    began = time.process_time()
    done = sum(peer(arrivals[at : at + batch]) for at in range(0, len(arrivals), batch))
    taken = time.process_time() - began
    if done != len(arrivals):
        raise SystemExit(f"{done} of {len(arrivals)} windows were stored")
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--windows", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--store", default="")
    options = parser.parse_args()
    print_machine("sqlalchemy")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        peers: dict[str, Callable[[list[Arrival]], int]] = {
            "json and SQLite, a transaction for each": One(folder / "one.sqlite").take,
            "json and SQLite, batches": Plain(folder / "plain.sqlite").take,
            "wherry, SQLite": Wherry(folder / "fleet.sqlite", folder).take,
        }
        if options.store:
            peers["wherry, PostgreSQL"] = Wherry(options.store, folder).take
        times: dict[str, list[float]] = {peer: [] for peer in peers}
        for turn in range(options.rounds):
            arrivals = make(options.windows, turn + 1)
            for peer, take in peers.items():
                times[peer].append(spent(take, arrivals, 500) / options.windows * 1e6)
        size = len(arrivals[0].payload)
        print(f"{options.windows} windows of {size} bytes in each of {options.rounds} rounds")
        base = times["json and SQLite, batches"]
        for peer, found in times.items():
            ratio = statistics.median(a / b for a, b in zip(found, base, strict=True))
            one = statistics.median(found)
            print(f"{peer:42} {one:6.0f} us CPU a window, {1e6 / one:7.0f}/s a core, {ratio:5.2f}")


if __name__ == "__main__":
    main()
