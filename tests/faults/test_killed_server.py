"""The server's memory after a crash at each call: nothing acknowledged is lost, nothing counted twice.

The ingest and the ledger of rollouts run under the shim in a process of their own; each
crash is then rebuilt from what was not synced, in four ways, and the store is opened anew.
"""

from __future__ import annotations

import copy
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from server_story import BATCHES, DEVICES, offer, take
from support_fleet import open_store
from support_medium import WAYS, Medium, Replayed, replay
from support_shim import Call, Page, quick_folder, read_log

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Story:
    """What it did and what it promised, and the folder before it."""

    before: Medium
    calls: list[Call]
    promises: list[dict[str, Any]]


@pytest.fixture(scope="module")
def story() -> Iterator[Story]:
    with quick_folder() as memory:
        folder = memory / "data"
        folder.mkdir()
        with open_store(folder, *DEVICES):
            pass
        before = Medium(folder)
        page = Page(memory / "page", folder, log=memory / "log")
        done = subprocess.run(
            [sys.executable, str(HERE / "server_story.py")],
            input=json.dumps({"folder": str(folder)}),
            env=dict(os.environ) | page.environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert not done.returncode, done.stderr
        calls = read_log(memory / "log")
        medium = copy.deepcopy(before)
        for call in calls:
            medium.apply(call)
        assert medium.contents() == {
            path.relative_to(folder): None if path.is_dir() else path.read_bytes()
            for path in folder.rglob("*")
        }, "a write went by unseen"
        yield Story(before, calls, [json.loads(line) for line in done.stdout.splitlines()])


def _check(folder: Path, promises: list[dict[str, Any]]) -> None:
    """Open what a crash left: every promise holds; what is sent again makes the whole."""
    with open_store(folder) as store:
        held = {(item.window.place.device, item.window.place.seq) for item in store.windows()}
        for promise in promises:
            for device, first, last in promise.get("stored", ()):
                assert held >= {(device, seq) for seq in range(first, last + 1)}
        sequences = [promise["sequence"] for promise in promises if "sequence" in promise]
        orders = store.ledger.orders()
        for device in DEVICES if sequences else ():
            assert orders[device].sequence >= max(sequences)
        assert len({order.sequence for order in orders.values()}) <= 1, "half a wave was offered"
        for promise in promises:
            if "rollout" in promise:
                offer(store, promise["rollout"], BATCHES)
        for batch in range(BATCHES):
            assert take(store, batch)
        windows = [item.window for item in store.windows()]
        assert len(windows) == len({(item.place.device, item.place.seq) for item in windows}) == 24
        assert store.counters()["windows"] == 24


def _replay(story: Story, wanted: Callable[[int, str], bool] = lambda *_: True) -> Replayed:
    def promised(place: int) -> int:
        return sum(item["calls"] <= place for item in story.promises)

    with quick_folder() as memory:
        left = memory / "left"
        return replay(
            story.before,
            story.calls,
            left,
            lambda place: _check(left, story.promises[: promised(place)]),
            wanted=wanted,
            promised=promised,
        )


def test_a_crash_loses_no_promise(story: Story) -> None:
    """Each call in one of the four ways, in turn."""
    assert len(story.promises) == 2 * BATCHES + 1
    looked = _replay(story, lambda place, way: WAYS[place % 4] == way)
    assert looked.crashes == len(story.calls) + 1 > 40


@pytest.mark.long
def test_a_crash_loses_no_promise_each_way(
    story: Story, record_property: Callable[[str, object], None]
) -> None:
    began = time.monotonic()
    looked = _replay(story)
    took = time.monotonic() - began
    n = len(story.calls)
    record_property("figure", f"n = {n} calls, {looked}, {took:.0f} s")
