"""A disk that fails: each call once with each error, and many at random, with their seeds.

The inside of the agent runs (the real updater, outbox, store and fetch) under the shim, so
that calls of SQLite's fail as well. A payment is answered throughout; every update ends and
is reported once; when the disk is well again, the next order succeeds.
"""

from __future__ import annotations

import base64
import errno
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support_agent import Depot, Made, keys, order_for, running_depot, signed_order
from support_crash import NEW, OLD
from support_device import Device
from support_shim import Page, quick_folder

DRIVER = Path(__file__).parent / "failing_disk.py"
SHORT = 0
ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS, SHORT)
LASTING = {errno.ENOSPC: 6, errno.EROFS: 3}  # calls that fail one after another


@dataclass(frozen=True)
class Bench:
    """A device that serves OLD, and what its runs need."""

    base: Path
    depot: Depot
    folder: Path

    def run(self, faults: Sequence[dict[str, int]]) -> list[dict[str, Any]]:
        """Carry out runs in one process; each says how it ended."""
        self.folder.mkdir(exist_ok=True)
        page = Page(self.folder / "page", self.base)
        asked = {
            "base": str(self.base),
            "depot": self.depot.url,
            "folder": str(self.folder),
            "faults": faults,
            "orders": [_order(NEW, 2), _order(NEW, 3)],
            "root": keys().root().to_bytes().decode(),
        }
        done = subprocess.run(
            [sys.executable, str(DRIVER)],
            input=json.dumps(asked),
            env=dict(os.environ) | page.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        found = [json.loads(line) for line in done.stdout.splitlines()]
        assert len(found) == len(faults), done.stderr
        return found


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with quick_folder() as folder, running_depot(folder / "depot", OLD, NEW) as depot:
        with Device(folder / "base", depot=depot.url) as device:
            device.updater.start()
            device.updater.offer(signed_order(order_for(OLD.digest, 1)))
            device.settle()
            assert device.serves == OLD.digest
        yield Bench(folder / "base", depot, folder / "runs")


@pytest.fixture(scope="module")
def calls(bench: Bench) -> int:
    """How many calls an update makes that may fail."""
    (found,) = bench.run([_fault(0, SHORT)])
    assert found["outcome"] == "committed"
    assert found["failed"] == 0
    return int(found["asked"])


def _order(made: Made, sequence: int) -> str:
    return base64.b64encode(signed_order(order_for(made.digest, sequence))).decode()


def _fault(place: int, error: int) -> dict[str, int]:
    times = LASTING.get(error, 1)
    return {
        "fail_at": place,
        "fail_errno": error,
        "fail_times": times,
        "per_million": 0,
        "reads": 0,
    }


def _chance(seed: int, per_million: int, *, reads: bool = False) -> dict[str, int]:
    return {"fail_at": 0, "seed": seed, "per_million": per_million, "reads": int(reads)}


def _judge(found: Sequence[dict[str, Any]]) -> str:
    ends = Counter(item["outcome"] for item in found)
    bad = [item for item in found if item["outcome"] not in ("committed", "refused", "reverted")]
    assert not bad, f"{len(bad)} of {len(found)}; {bad[0]['fault']}\n{bad[0]['outcome']}"
    failed = sum(item["failed"] for item in found)
    return f"{len(found)} runs, {failed} calls failed, ends {dict(ends)}"


def test_calls_fail_one_by_one(bench: Bench, calls: int) -> None:
    """Every third call, with the four errors in turn."""
    assert calls > 100
    places = range(1, calls + 1, 3)
    found = bench.run([_fault(place, ERRORS[place % 4]) for place in places])
    assert all(item["failed"] for item in found)
    _judge(found)


def test_calls_fail_at_random(bench: Bench, record_property: Callable[[str, object], None]) -> None:
    found = bench.run([_chance(seed, 20_000, reads=seed % 4 == 0) for seed in range(40)])
    record_property("figure", "seeds 0 to 39 at p = 0.02: " + _judge(found))


@pytest.mark.long
@pytest.mark.parametrize("error", ERRORS, ids=["EIO", "ENOSPC", "EROFS", "short"])
def test_every_call_fails_once(
    bench: Bench, calls: int, error: int, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    found = bench.run([_fault(place, error) for place in range(1, calls + 1)])
    took = time.monotonic() - began
    record_property("figure", f"n = {calls} calls: {_judge(found)}, {took:.0f} s")


@pytest.mark.long
@pytest.mark.parametrize("per_million", [5_000, 20_000, 80_000])
def test_calls_fail_at_random_many_times(
    bench: Bench, per_million: int, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    seeds = range(1000, 2000)
    found = bench.run([_chance(seed, per_million, reads=seed % 4 == 0) for seed in seeds])
    took = time.monotonic() - began
    p = per_million / 1e6
    record_property("figure", f"seeds 1000 to 1999 at p = {p}: {_judge(found)}, {took:.0f} s")
