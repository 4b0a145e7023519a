"""A fleet that is played: the real store, office and driver, clocks in the hand, no process."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support_agent import Made, make_bundle
from support_fleet import FAMILY, event, open_store, state, trust_keys, window

from wherry.rows import DeviceRow, RolloutRow
from wherry.server.driver import Driver, Radio
from wherry.server.intake import Batch
from wherry.server.office import Office, Site
from wherry.server.orders import AssignmentSigner
from wherry.server.rollout import Policy
from wherry.server.steering import Steering
from wherry.server.store import Store
from wherry_contract.assignment import Assignment
from wherry_contract.histograms import LATENCY_BINS, MEMORY_BINS, SCORE_BINS
from wherry_contract.messages import unwrap_assignment
from wherry_contract.slots import FeatureCounts
from wherry_contract.when import to_seconds

TODAY = to_seconds("2026-11-24T12:00:00Z")
HOUR = 3600.0
OLD, NEW = make_bundle(), make_bundle("1.1.0")


@dataclass
class Till:
    """One device: what it runs, and what its traffic looks like under the new bundle."""

    bundle: str = ""
    proven: str = "good"
    sequences: dict[str, int] = field(default_factory=dict)
    seq: int = 0
    online: bool = True
    shift: float = 0.0  # score bins that the new bundle adds
    failing: bool = False  # whether the new bundle fails nearly every row
    ends: str = "committed"  # or refused, reverted, stuck


class Play:
    """Time passes by `tick`; devices obey what was published, and count an hour's traffic."""

    def __init__(self, store: Store, folder: Path, devices: int) -> None:
        self.store, self.wall, self.steady = store, TODAY, 50.0
        self.folder = folder
        self.tills = {f"till-{place:03}": Till(OLD.digest) for place in range(devices)}
        for place, name in enumerate(self.tills):
            labels = {"site": f"s{place % 4}"}
            store.enrol(DeviceRow(name, FAMILY, labels, 1.0))
        self.quiet = False  # whether nobody buys anything
        self.said: list[tuple[str, Assignment]] = []
        self.chance = np.random.default_rng(5)
        self.restart()
        site = Site("http://x", "f", lambda _: "mqtt://x", lambda: None)
        self.office = Office(store, site, self.signer.public, lambda: self.wall, lambda: None)
        self.steering = Steering(self.office, lambda: self.wall, lambda: None)
        for made in (OLD, NEW):
            self.office.take_bundle(io.BytesIO(made.to_tar()))

    def restart(self) -> None:
        """A server that was killed: all that it knew is what is stored."""
        self.signer = AssignmentSigner(self.folder)
        clocks: Any = {"clock": lambda: self.wall, "steady": lambda: self.steady}
        self.driver = Driver(self.store, self.signer, **clocks)
        self.driver._radio = Radio(lambda: TODAY - HOUR, self._publish)

    def _publish(self, device: str, _channel: str, payload: bytes) -> None:
        envelope = json.loads(unwrap_assignment(payload))
        payload = base64.b64decode(envelope["payload"])
        order = Assignment.from_bytes(payload, self.signer.public.keyid)
        self.said.append((device, order))

    def push(self, made: Made = NEW, **policy: Any) -> str:
        """Begin a rollout; returns its id."""
        return self.office.start(made.digest, {}, Policy(**policy)).id

    def tick(self, seconds: float = HOUR) -> None:
        """Let time pass: traffic, reports, a look, obedience, and a look again."""
        self.wall += seconds
        self.steady += seconds
        self._traffic(seconds)
        self._report()
        self.driver.look()
        self._obey()
        self._report()
        self.driver.look()

    def rollout(self, name: str) -> RolloutRow:
        """As it is stored."""
        return self.store.ledger.rollout(name)

    def until(self, name: str, *states: str, most: int = 30) -> RolloutRow:
        """Tick until a rollout is in one of these states."""
        for _ in range(most):
            if self.rollout(name).state in states:
                break
            self.tick()
        return self.rollout(name)

    def _traffic(self, seconds: float) -> None:
        batch = []
        for place, (name, till) in enumerate(self.tills.items()):
            if not till.online or self.quiet:
                continue
            is_new = till.bundle == NEW.digest
            mean = 20 + place % 9 + (till.shift if is_new else 0)
            rows = 4 if till.failing and is_new else 400
            bins = np.clip(self.chance.normal(mean, 5, rows), 0, 63).astype(int)
            till.seq += 1
            item = window(
                name,
                till.seq,
                bundle=till.bundle,
                rows=rows,
                errors={"E01": 400 - rows} if rows < 400 else {},
                opened=self.wall - seconds + 1,
                closed=self.wall - 1,
                flagged=int(np.count_nonzero(bins > 32)),
                features={"AMOUNT": FeatureCounts((rows // 2, rows - rows // 2))},
                scores=tuple(np.bincount(bins, minlength=SCORE_BINS).tolist()),
                latency=(0,) * 10 + (rows,) + (0,) * (LATENCY_BINS - 11),
                memory=(0,) * 24 + (60,) + (0,) * (MEMORY_BINS - 25),
            )
            batch.append((item, item.to_bytes()))
        self.store.add(Batch(self.wall, batch))

    def _report(self) -> None:
        states = {
            name: state(
                name,
                bundle=till.bundle,
                trust=till.proven,
                active="a",
                sequences=dict(till.sequences),
            )
            for name, till in self.tills.items()
            if till.online
        }
        presence = {name: (till.online, "1" * 16) for name, till in self.tills.items()}
        self.store.add(Batch(self.wall, states=states, presence=presence))

    def _obey(self) -> None:
        events = []
        said, self.said = self.said, []
        for name, order in said:
            till = self.tills[name]
            if not till.online or order.sequence <= till.sequences.get(order.keyid, 0):
                continue
            till.sequences[order.keyid] = order.sequence
            if till.ends == "stuck":  # it has the order, and never ends
                continue
            bad = till.ends != "committed" and order.digest == NEW.digest
            till.bundle = till.bundle if bad else order.digest or till.bundle
            till.seq += 1
            item = event(
                name,
                till.seq,
                rollout=order.rollout,
                bundle=order.digest,
                outcome=till.ends if bad else "committed",
                code="U06" if bad else "update.committed",
            )
            events.append((item, item.to_bytes()))
        self.store.add(Batch(self.wall, events=events))


@contextmanager
def playing(folder: Path, devices: int = 40) -> Iterator[Play]:
    """A played fleet for the length of a block."""
    trust_keys(folder)
    with open_store(folder) as store:
        yield Play(store, folder, devices)
