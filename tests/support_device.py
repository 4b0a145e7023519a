"""The inside of an agent over real files: its updater, scorer and outbox, on a power that fails.

Only clocks, power and the start of child processes are handed in; all else is the agent's.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import numpy as np
from support_agent import agent_config, keys

from wherry_agent.link.outbox import Outbox
from wherry_agent.link.spool import Spool
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.runtime import installed
from wherry_agent.serving.scoring import Scorer
from wherry_agent.store import BlobStore, StatePair
from wherry_agent.trust.seam import PinnedTrust
from wherry_agent.update.fetch import Depot, Source
from wherry_agent.update.intake import Board
from wherry_agent.update.reach import Reach
from wherry_agent.update.shelf import Shelf
from wherry_agent.update.update_io import Updater
from wherry_contract.assignment import Assignment, open_assignment
from wherry_contract.command import Command, open_command
from wherry_contract.messages import Event
from wherry_contract.signature import ENVELOPE_LIMIT_BYTES, BundleStatement, TrustRoot


class HandClock:
    """A clock that stands until it is moved."""

    def __init__(self, wall: float = 1.8e9) -> None:
        self.wall = wall
        self.steady = 1000.0

    def now(self) -> float:
        """Unix seconds."""
        return self.wall

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.steady

    def pass_by(self, seconds: float) -> None:
        """Let time go by on both."""
        self.wall += seconds
        self.steady += seconds


class RunningClock(HandClock):
    """A clock that runs as the machine's does, and can be moved ahead."""

    def monotonic(self) -> float:
        """Seconds that never go back."""
        return self.steady + time.monotonic()


class PowerCut(BaseException):
    """Nothing runs any more; nobody catches this."""


class Power:
    """Counts durable writes and ends the process before or after one of them."""

    def __init__(self, cut_at: int = 0, *, after: bool = False) -> None:
        self._cut_at = cut_at
        self._after = after
        self.writes = 0

    def write(self, do: Callable[..., Any], *values: Any, **named: Any) -> Any:
        """Do one durable write, or not."""
        self.writes += 1
        cut = self._cut_at and self.writes >= self._cut_at
        if cut and (not self._after or self.writes > self._cut_at):
            raise PowerCut
        found = do(*values, **named)
        if cut:
            raise PowerCut
        return found


class CutPair(StatePair):
    """The state's files, on this power."""

    power: Power

    def save(self, body: dict[str, Any]) -> None:
        """Save, or die."""
        self.power.write(super().save, body)


class CutBlobs(BlobStore):
    """The blobs, on this power."""

    power: Power

    def put(self, digest: str, data: bytes) -> None:
        """Put, or die."""
        self.power.write(super().put, digest, data)

    def adopt(self, digest: str) -> bool:
        """Adopt, or die."""
        return bool(self.power.write(super().adopt, digest))

    def keep_only(self, digests: set[str]) -> int:
        """Tidy up, or die."""
        return int(self.power.write(super().keep_only, digests))


class CutOutbox(Outbox):
    """The outbox, on this power."""

    power: Power

    def add(self, kind: str, make: Any, *, now: float, key: str | None = None) -> int:
        """Add, or die."""
        return int(self.power.write(super().add, kind, make, now=now, key=key))


class HereTrust:
    """Real verification in this process: the same code as the child's, without its start."""

    def __init__(self, root: TrustRoot) -> None:
        self._root = root

    def assignment(self, envelope: bytes) -> Assignment:
        """As `Trust` has it."""
        return open_assignment(envelope, self._root)

    def command(self, envelope: bytes) -> Command:
        """As `Trust` has it."""
        return open_command(envelope, self._root.keys, self._root.assignment_keys)

    def settle(self) -> float:
        """As `Trust` has it."""
        return float("inf")

    def admit(self, order: Assignment, source: Source) -> BundleStatement:
        """As `Trust` has it."""
        envelope = source.statement(order.digest, ENVELOPE_LIMIT_BYTES)
        return self._root.open_bundle_statement(envelope, family=order.family, digest=order.digest)


class HereShelf(Shelf):
    """Golden vectors are judged in this process; the child has tests of its own."""

    def probe(self, digest: str) -> dict[str, float]:
        """As `Shelf` has it, without the child."""
        parts = self.parts(digest)
        model = load_model(digest, parts)
        scores = model.scores(parts.golden.matrix(parts.manifest.input))
        gap = parts.golden.judge(scores, parts.manifest.output.threshold)
        return {"largest_gap": gap, "p50_us": 0.0, "p95_us": 0.0, "peak_mib": 0.0}


class Device:
    """One start of an agent's inside: the real `Updater` over a real folder."""

    def __init__(
        self,
        folder: Path,
        *,
        depot: str = "",
        clock: HandClock | None = None,
        power: Power | None = None,
        real_children: bool = False,
        **changes: Any,
    ) -> None:
        self.clock = clock or HandClock()
        self.power = power or Power()
        self.config = agent_config(folder, depot=depot, **changes)
        state = self.config.state_dir
        state.mkdir(parents=True, exist_ok=True)
        self.blobs = CutBlobs(state)
        pair = CutPair(state)
        self.outbox = CutOutbox(state, self.config.device, mib=1, days=30)
        self.blobs.power = pair.power = self.outbox.power = self.power
        self.spool = Spool(self.outbox, self.clock)
        self.scorer = Scorer(self.config.limits, self.clock, self.spool.emit)
        shelf = (Shelf if real_children else HereShelf)(state, self.blobs, self.config.limits)
        trust: Any = HereTrust(changes.get("root") or keys().root())
        if real_children:
            trust = PinnedTrust(self.config.trust)
        reach = Reach(
            self.blobs,
            shelf,
            trust,
            Depot(self.config.depot, seconds=2),
            self.scorer,
            self.spool,
            self.clock,
        )
        self.updater = Updater(self.config, Board("x86_64", *installed()), pair, reach)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.outbox.close()

    @property
    def state(self) -> str:
        """The state in the record."""
        return self.updater.record.state

    @property
    def serves(self) -> str:
        """Digest of the bundle whose model serves; "" if none does."""
        served = self.scorer.served
        return served.digest if served and served.model else ""

    def step(self) -> float:
        """One step of the updater, and its events to disk."""
        wait = self.updater.run_once()
        self.spool.flush()
        return wait

    def step_to(self, state: str) -> None:
        """Step until the record is in a state."""
        for _ in range(50):
            if self.state == state:
                return
            self.step()
        raise AssertionError(f"{state} was never reached: {self.updater.record}")

    def pay(self, rows: int = 10, amount: float = 50.0) -> None:
        """Payments, one by one."""
        served = self.scorer.served
        if served is None:
            return
        for _ in range(rows):
            row = np.zeros((1, len(served.manifest.input.features)))
            row[0, 0] = amount
            self.scorer.answer(row, served, started=self.clock.monotonic(), at=None)

    def until_shadowed(self) -> None:
        """Wait until the shadow, if there is one, has scored what it was offered."""
        shadow = self.scorer.shadow
        while shadow and shadow.waiting:
            time.sleep(0.005)

    def settle(self, *, steps: int = 200, amount: float = 50.0) -> None:
        """Go on, with traffic, until the device is idle."""
        for _ in range(steps):
            wait = self.step()
            if self.state == "idle" and wait > 0:
                return
            if self.state in ("shadow", "soak"):
                self.pay(10, amount)
                self.until_shadowed()
            self.clock.pass_by(1)
        raise AssertionError(f"it never came to rest: {self.updater.record}")

    def events(self) -> list[Event]:
        """What is in the outbox, as events."""
        messages = self.outbox.after(0, 10_000)
        return [Event.from_bytes(item.payload) for item in messages if item.kind == "event"]

    def outcomes(self) -> list[tuple[str, str, str]]:
        """(rollout, outcome, code) of each report."""
        return [(item.rollout, item.outcome, item.code) for item in self.events() if item.outcome]
