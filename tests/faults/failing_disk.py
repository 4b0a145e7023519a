"""Many updates of one device on a disk that fails, in one process under the shim.

Started by test_failing_disk.py: reads one JSON request, prints one JSON line for each run.
"""

from __future__ import annotations

import base64
import json
import shutil
import sys
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from support_crash import NEW, OLD
from support_device import Device, HandClock
from support_shim import Page

from wherry_contract.errors import StoreError
from wherry_contract.signature import TrustRoot

_STARTS = 40


class Story:
    """What every run needs."""

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self._base = Path(asked["base"])
        self._depot = asked["depot"]
        self._orders = [base64.b64decode(order) for order in asked["orders"]]
        self._root = TrustRoot.from_bytes(asked["root"].encode())
        self._page = Page.of_this_process()
        self._clock = HandClock()

    def run(self, folder: Path, fault: Mapping[str, int]) -> str:
        """One update with one fault; returns how its first order ended."""
        shutil.copytree(self._base, folder)
        self._clock = HandClock()
        self._page.watch(folder / "state")
        self._page.set(armed=1, asked=0, failed=0, **fault)
        strict = not fault.get("reads")
        try:
            for _ in range(_STARTS):
                if self._live(folder, strict=strict):
                    break
        finally:
            self._page.set(armed=0)
        outcome = self._heal(folder, strict=strict)
        shutil.rmtree(folder)
        return outcome

    def _device(self, folder: Path) -> Device:
        return Device(folder, depot=self._depot, clock=self._clock, root=self._root)

    def _live(self, folder: Path, *, strict: bool) -> bool:
        """One start of the agent's inside while the disk fails; false if it could not go on."""
        try:
            device = self._device(folder)
        except StoreError:  # the whole agent goes on with an outbox in memory then
            return False
        with device:
            try:
                device.updater.start()
            except StoreError:
                return False
            assert not strict or device.serves in (OLD.digest, NEW.digest), "no model serves"
            device.updater.offer(self._orders[0])
            device.settle(steps=400)
            assert not strict or device.serves in (OLD.digest, NEW.digest), "no model serves"
        return True

    def _heal(self, folder: Path, *, strict: bool) -> str:
        """The disk is well again: the order has ended once, and the next one succeeds.

        What could not be read while the disk failed may have been taken out of service since.
        """
        with self._device(folder) as device:
            device.updater.start()
            device.updater.offer(self._orders[0])
            device.settle()
            reports = [item[1] for item in device.outcomes() if item[0] == "r2"]
            assert len(reports) == 1, f"reports {device.outcomes()}"
            ended = NEW.digest if reports == ["committed"] else OLD.digest
            assert device.serves == ended or (not strict and device.serves in ("", OLD.digest))
            device.updater.offer(self._orders[1])
            device.settle()
            assert device.serves == NEW.digest
            assert device.updater.record.serving.trust == "good"
        return reports[0]


def main() -> None:
    """Carry out the runs that were asked for."""
    asked: dict[str, Any] = json.load(sys.stdin)
    folder = Path(asked["folder"])
    page, story = Page.of_this_process(), Story(asked)
    for turn, fault in enumerate(asked["faults"]):
        try:
            outcome = story.run(folder / str(turn), fault)
        except Exception:  # noqa: BLE001 - the test shows it with the fault that led to it
            outcome = traceback.format_exc()
        told = {"fault": fault, "outcome": outcome}
        told |= {name: page.get(name) for name in ("asked", "failed")}
        print(json.dumps(told), flush=True)  # noqa: T201 - the answer


if __name__ == "__main__":
    main()
