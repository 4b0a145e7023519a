"""The whole chain over history: devices, ingest, store, judgement."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wherry.documents import Moment
from wherry.monitor import Cell, FleetView, Policy, Reference, Tally, Watch
from wherry.rows import DeviceRow, StoredWindow
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.ingest import Arrival, Ingest
from wherry.server.store import Store
from wherry_contract.bundle import Parts
from wherry_contract.errors import SetupError
from wherry_contract.topics import Topic
from wherry_contract.window import Window

from .devices import Devices
from .history import History, batches

_FLEET: Final = "replay"


@dataclass(frozen=True)
class Alarm:
    """One drift alert, as somebody would have seen it.

    Attributes:
        at: end of the bucket after which it was there to be seen.
        until: end of the bucket after which it was gone; 0 if it never was.
        cell: what it said when it began.
    """

    at: Moment
    until: Moment
    cell: Cell


@dataclass(frozen=True)
class Replayed:
    """What came of a history.

    Attributes:
        rows: that were answered.
        refused: rows by the code that a device refuses them with.
        windows: that devices sent.
        devices: how many there were.
        alarms: in the order in which they began.
        view: the judgement at its end, of single devices only what moved.
    """

    rows: int
    refused: Mapping[str, int]
    windows: int
    devices: int
    alarms: tuple[Alarm, ...]
    view: FleetView


def replay(
    history: History,
    digest: str,
    parts: Parts,
    *,
    policy: Policy | None = None,
    window_rows: int = 1000,
    window_minutes: float = 60.0,
    step: Callable[[int], None] = lambda _rows: None,
) -> Replayed:
    """Play a history.

    Args:
        history: past rows, in the order of time.
        digest: of the bundle.
        parts: of the bundle.
        policy: how it is judged.
        window_rows: after which a device closes its window.
        window_minutes: after which it does, too.
        step: told how many rows were played.

    Raises:
        SetupError: H02, H06 or H10: the table cannot be read, or is not in the order of time.
        ProbeError: P04, the model does not load here.
        RolloutError: R06, the policy makes no sense.
        StoreError: D01 or D06.
    """
    policy = policy or Policy()
    policy.check()
    devices = Devices(digest, parts, window_rows, window_minutes)
    reference = Reference(parts.profile, parts.manifest.input, parts.manifest.output)
    with tempfile.TemporaryDirectory(prefix="wherry-replay-") as folder:
        server = _Server(Path(folder), {digest: reference}, policy)
        for batch in batches(history, parts.manifest.input):
            late = server.newest - policy.bucket_seconds
            if len(batch.times) and float(batch.times.min()) < late:
                raise SetupError(
                    "H10", f"{history.path.name} is not in the order of time", cure="sort it"
                )
            devices.play(batch)
            server.take(devices.sent, devices)
            step(len(batch.times))
        devices.stop()
        server.take(devices.sent, devices)
        return server.end(devices)


class _Server:
    """What stands behind a fleet's broker: ingest, store and monitor, without a broker."""

    def __init__(self, folder: Path, references: Mapping[str, Reference], policy: Policy) -> None:
        database = Database(folder / "fleet.db")
        self._store = Store(database, Depot(folder / "depot", folder / "keys"))
        self._ingest = Ingest(self._store, _FLEET, lambda: self.newest, lambda: None)
        self._tally = Tally(references, policy.bucket_seconds)
        self._watch = Watch(references, self._tally, policy)
        self._policy = policy
        self._enrolled: set[str] = set()
        self._last = self._windows = 0
        self._bucket: float | None = None
        self._open: dict[tuple[str, str, str], int] = {}
        self._alarms: list[Alarm] = []
        self.newest = 0.0

    def take(self, sent: list[Window], devices: Devices) -> None:
        """Ingest what was sent, and look at each bucket that is over."""
        self.newest = max(self.newest, devices.clock.moment)
        self._enrol(devices.names)
        sent.sort(key=lambda window: (window.closed, window.place.device))
        self._ingest.take(
            [
                Arrival(str(Topic(_FLEET, item.place.device, "window")), item.to_bytes())
                for item in sent
            ]
        )
        sent.clear()
        while True:
            self._last, windows = self._store.windows_after(self._last)
            if not windows:
                return
            self._add(windows)

    def _enrol(self, names: Iterable[str]) -> None:
        for name in set(names) - self._enrolled:
            self._store.enrol(DeviceRow(name, "replay", {}, self.newest))
            self._enrolled.add(name)

    def _add(self, windows: Iterable[StoredWindow]) -> None:
        for stored in windows:
            window = stored.window
            bucket = self._policy.bucket((window.opened + window.closed) / 2)
            if self._bucket is not None and bucket > self._bucket:
                self._look()
            self._bucket = max(bucket, self._bucket or bucket)
            self._tally.add([stored])
            self._windows += 1

    def _look(self) -> FleetView:
        """See what somebody would see now, and note what is new and what is over."""
        view = self._watch.look(brief=True, since=self._policy.bucket_seconds)
        now = {(cell.device, cell.subject, str(cell.kind)): cell for cell in view.alerts}
        for key, cell in now.items():
            if key not in self._open:
                self._open[key] = len(self._alarms)
                self._alarms.append(Alarm(view.newest, 0.0, cell))
        for key in self._open.keys() - now.keys():
            place = self._open.pop(key)
            begun = self._alarms[place]
            self._alarms[place] = Alarm(begun.at, view.newest, begun.cell)
        return view

    def end(self, devices: Devices) -> Replayed:
        """Look for the last time."""
        self._look()
        view = self._watch.look(brief=True)
        self._store.close()
        return Replayed(
            rows=sum(item.rows for item in view.health if not item.device),
            refused=dict(sorted(devices.refused.items())),
            windows=self._windows,
            devices=len(devices.names),
            alarms=tuple(self._alarms),
            view=view,
        )
