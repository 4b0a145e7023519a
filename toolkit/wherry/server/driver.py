"""Carries rollouts on: looks, lets the planner decide, records, signs, publishes.

What a look changes is one transaction with its signed orders, and only then is anything
published: a server that is killed in between publishes the very same orders when it is
back, and a device takes an order once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from typing import Final

from wherry.endure import Enduring
from wherry.gates.rules import Rules
from wherry.rows import Decision, DeviceRow, Exposure, Order, RolloutRow
from wherry.shadows import add_to
from wherry_contract.assignment import Assignment, ShadowPlan
from wherry_contract.errors import StoreError, WherryError
from wherry_contract.messages import wrap_assignment
from wherry_contract.shadow import ShadowCounts
from wherry_contract.states import RolloutState as R
from wherry_contract.when import to_seconds

from .asker import Asker
from .ledger import Change
from .orders import VALID_SECONDS, AssignmentSigner, named_key
from .rollout import (
    SHADOW_OFF,
    SHADOWED,
    UNDECIDED,
    Look,
    Policy,
    Report,
    echoes,
    gates_due,
    in_shadow,
    judge,
    settle,
    way_back,
)
from .store import Store
from .verdict import TABLE, E, said_of

LOG: Final = logging.getLogger("wherry.server")
_PURGE_SECONDS: Final = 3600.0
_LATE_SECONDS: Final = 5.0
_LONGEST_REST_SECONDS: Final = 30.0
_NO_CLOCK: Final = to_seconds("2026-01-01T00:00:00Z")  # before it, ours was not set yet
_REPEAT_SECONDS: Final = 30.0
_JUMP_SECONDS: Final = 60.0


@dataclass(frozen=True)
class Radio:
    """The link as the driver sees it: since when it hears all devices, and how to speak."""

    listening_since: Callable[[], float | None]
    publish: Callable[[str, str, bytes], None]


@dataclass
class _Heard:
    """What devices have said of one rollout so far, up to the event `last`."""

    last: int = 0
    reports: dict[str, Report] = field(default_factory=dict)
    undecided: set[str] = field(default_factory=set)
    shadowed: set[str] = field(default_factory=set)
    off: dict[str, str] = field(default_factory=dict)
    shadows: dict[str, ShadowCounts] = field(default_factory=dict)
    last_window: int = 0


class Driver:
    """Looks at rollouts now and then, and at once when there is news; lives in one thread."""

    def __init__(
        self,
        store: Store,
        signer: AssignmentSigner,
        *,
        key_of: Callable[[str], str] = lambda _device: "",
        asker: Asker | None = None,
        retain_days: float = 400.0,
        clock: Callable[[], float] = time.time,
        steady: Callable[[], float] = time.monotonic,
    ) -> None:
        """Take what it works with.

        Args:
            store: windows and events older than `retain_days` are dropped from it.
            signer: signs orders.
            key_of: the fingerprint of a device's key; "" where it has none.
            asker: has questions sent; nobody where none are asked.
            retain_days: must exceed what a device's outbox keeps, so that nothing comes twice.
            clock: Unix seconds; may be set by somebody.
            steady: seconds that nobody sets.
        """
        self._store = store
        self._signer = signer
        self._key_of = key_of
        self._asker = asker
        self._radio = Radio(lambda: None, lambda _device, _channel, _payload: None)
        self._retain_seconds = retain_days * 86_400
        self._wake = threading.Event()
        self._stop = threading.Event()
        self._thread = Enduring("driver", self._run, self._stop)
        self._duty = store.duty("rollouts")
        self._published: dict[str, tuple[int, float]] = {}
        self._everything = False
        self._clock, self._steady = clock, steady
        self._clocks = (clock(), steady())
        self._set_at = 0.0
        # by the steady clock; not at once, for a clock that is wrong may soon be set
        self._purge_at = steady() + _PURGE_SECONDS
        self._late_at = steady()
        self._heard: dict[str, _Heard] = {}

    def start(self, radio: Radio) -> None:
        """Start the thread; from now on `radio` reaches devices."""
        self._radio = radio
        try:
            with self._duty.held():  # so that it is known who leads before anything is heard
                pass
        except StoreError as error:
            LOG.warning("rollouts wait: %s", error)
        self._thread.start()

    def stop(self) -> None:
        """End it after the present look."""
        self._stop.set()
        self._wake.set()
        self._thread.join(10.0)
        self._duty.leave()

    @property
    def leads(self) -> bool:
        """Whether rollouts are this server's."""
        return self._duty.mine

    @property
    def alive(self) -> bool:
        """Whether it goes on looking."""
        return self._thread.alive

    def news(self) -> None:
        """Ask for a look soon."""
        self._wake.set()

    def connected(self) -> None:
        """Publish every order anew: the broker may have forgotten them."""
        self._everything = True
        self._wake.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            began = self._steady()
            try:
                self.look()
            except WherryError as error:
                LOG.error("rollouts wait: %s", error)  # noqa: TRY400 - the error says it all
                self._stop.wait(1.0)
            took = self._steady() - began
            self._wake.wait(1.0)
            self._wake.clear()
            # let what belongs together arrive; looks at a large fleet take half the time at most
            self._stop.wait(min(max(0.05, took), _LONGEST_REST_SECONDS))

    def look(self) -> None:
        """Look once at everything.

        Raises:
            WherryError: the store could not be read or written; what was decided stands.
        """
        now = self._now()
        leads = self._duty.mine
        with self._duty.held() as mine:
            if mine and not leads:  # the server before may have signed and not published
                self._everything = True
            if mine:
                self._look(now)

    def _look(self, now: float) -> None:
        devices = {row.device: row for row in self._store.devices()}
        for row in self._store.ledger.rollouts(running=True):
            self._advance(row, self._look_at(row, devices, now))
        self._repeat(devices, now)
        if self._asker and self._radio.listening_since() is not None:
            self._asker.send(devices, self._radio.publish, now)
        if self._steady() >= self._late_at:
            self._late_at = self._steady() + _LATE_SECONDS
            for row in self._store.ledger.late():
                self._note_late(row, self._look_at(row, devices, now))
        if self._steady() >= self._purge_at:
            self._purge_at = self._steady() + _PURGE_SECONDS
            self._store.purge(now - self._retain_seconds, after=_NO_CLOCK)
            self._heard.clear()  # what it holds names places in tables that have shrunk

    def _now(self) -> float:
        """The time; when the clock was set, nobody is silent until they had a chance to speak.

        Nothing is dropped for its age then either, until the clock has gone well for a while.
        """
        wall, steady = self._clock(), self._steady()
        if abs((wall - self._clocks[0]) - (steady - self._clocks[1])) > _JUMP_SECONDS:
            self._set_at = wall
            self._purge_at = steady + _PURGE_SECONDS
        self._clocks = (wall, steady)
        return wall

    def _look_at(self, row: RolloutRow, devices: dict[str, DeviceRow], now: float) -> Look:
        heard = self._heard.setdefault(row.id, _Heard())
        heard.last, new = self._store.events_after(row.id, heard.last)
        for stored in new:
            event = stored.event
            if event.bundle != row.bundle:
                continue
            if event.outcome:
                detail = event.text.removeprefix(event.code).strip()
                heard.reports[stored.device] = Report(event.outcome, event.code, detail)
            elif event.code == UNDECIDED:
                heard.undecided.add(stored.device)
            elif event.code == SHADOWED:
                heard.shadowed.add(stored.device)
            elif event.code == SHADOW_OFF:
                heard.off[stored.device] = event.text.removeprefix(event.code).strip()
        if in_shadow(row):
            self._hear_shadows(row, heard)
        since = self._radio.listening_since()
        return Look(
            now=now,
            listening_since=None if since is None else max(since, self._set_at),
            keyid=self._signer.public.keyid,
            devices=devices,
            reports=dict(heard.reports),
            undecided=frozenset(heard.undecided),
            shadowed=frozenset(heard.shadowed),
            shadows=dict(heard.shadows),
            shadows_off=dict(heard.off),
            in_depot=self._store.depot.holds(row.bundle),
        )

    def _hear_shadows(self, row: RolloutRow, heard: _Heard) -> None:
        """Add up what shadows have counted since the last look."""
        names = [item.device for item in row.devices if item.wave == 0]
        since = row.created_at if not heard.last_window else 0.0
        heard.last_window, new = self._store.windows_of(names, heard.last_window, since)
        for stored in new:
            found = stored.window.shadow
            if found and found.bundle == row.bundle:
                add_to(heard.shadows, stored.device, found)

    def _with_inputs(self, row: RolloutRow, look: Look) -> Look:
        """The same look, with what the gates are asked with if they are due."""
        if not gates_due(row, look):
            return look
        rules = Rules.from_dict(Policy.from_dict(row.policy).gates)
        made = sum(
            bool(item.figures.get("gates")) and item.figures["wave"] == row.wave
            for item in row.decisions
        )
        return replace(look, inputs=self._store.trial.inputs(row, rules, made + 1))

    # --- one rollout --------------------------------------------------------------------

    def _advance(self, row: RolloutRow, look: Look) -> None:
        policy = Policy.from_dict(row.policy)
        settled = tuple(
            settle(item, row.bundle, look, policy.silent_seconds) for item in row.devices
        )
        now_row = replace(row, devices=settled)
        verdict = judge(now_row, self._with_inputs(now_row, look))
        after = TABLE[R(row.state), verdict.event]
        wave = row.wave + (verdict.event == E.PASSED)
        exposures, orders = self._orders(
            replace(row, devices=settled, state=str(after), wave=wave), look
        )
        changed = tuple(
            item for item, before in zip(exposures, row.devices, strict=True) if item != before
        )
        moved = after != row.state or wave != row.wave or "gates" in verdict.figures
        if not moved and not changed:
            return
        decision = None
        if moved:
            figures, reason = dict(verdict.figures), verdict.reason
            if verdict.results:
                figures["gates_said"] = said_of(verdict)
                figures["gate_results"] = [item.to_dict() for item in verdict.results]
            event = str(verdict.event)
            decision = Decision(look.now, row.state, event, str(after), wave, figures, reason)
            LOG.info("%s: %s -> %s: %s", row.id, row.state, after, reason)
        change = Change(look.now, str(after), wave, decision, changed, tuple(orders))
        self._store.ledger.apply(row.id, change)
        self._publish(orders, look.now)
        if moved:
            self._wake.set()

    def _note_late(self, row: RolloutRow, look: Look) -> None:
        """Record how devices fared that took their order when the rollout was done; it stays so."""
        policy = Policy.from_dict(row.policy)
        settled = (settle(item, row.bundle, look, policy.silent_seconds) for item in row.devices)
        changed = [
            item for item, before in zip(settled, row.devices, strict=True) if item != before
        ]
        if changed:
            for item in changed:
                LOG.info("%s: %s, late: %s %s", row.id, item.device, item.outcome, item.code)
            change = Change(row.changed_at, row.state, row.wave, None, tuple(changed))
            self._store.ledger.apply(row.id, change)

    def _orders(self, row: RolloutRow, look: Look) -> tuple[list[Exposure], list[Order]]:
        """Who gets an order now, and what it says."""
        if row.state == R.SHADOW:
            due = [item for item in row.devices if item.wave == 0 and not item.sequence]
        elif row.state in (R.CANARY, R.WAVE) or (row.state == R.HOLD and not in_shadow(row)):
            due = [item for item in row.devices if item.wave <= row.wave and not item.offered_at]
            due = due if look.in_depot else []  # nobody could fetch it
        elif row.state == R.REVERTING:
            due = way_back(row.devices)
        else:
            due = []
        known = self._store.ledger.orders([item.device for item in due]) if due else {}
        new: dict[str, Exposure] = {}
        orders = []
        for item in due:
            device = look.devices.get(item.device)
            digest = row.bundle if row.state != R.REVERTING else self._back_to(row, item)
            last = known.get(item.device)
            shadow = row.state == R.SHADOW
            order = self._order(row, item.device, digest, last, device, look.now, shadow=shadow)
            orders.append(order)
            new[item.device] = _ordered(item, row, order, device, look.now)
        return [new.get(item.device, item) for item in row.devices], orders

    def _back_to(self, row: RolloutRow, item: Exposure) -> str:
        """The bundle to go back to; "" withdraws the order where there was none before.

        What a device last reported does not matter: it may have switched since. One that
        has not is told to serve what it serves.
        """
        if item.previous in ("", row.bundle) or not self._store.depot.holds(item.previous):
            return ""
        return item.previous

    def _order(  # noqa: PLR0917 - an order is made of these
        self,
        row: RolloutRow,
        name: str,
        digest: str,
        last: Order | None,
        device: DeviceRow | None,
        now: float,
        *,
        shadow: bool = False,
    ) -> Order:
        keyid = self._signer.public.keyid
        seen = device.state.sequences.get(keyid, 0) if device and device.state else 0
        sequence = max(seen, last.sequence if last and last.keyid == keyid else 0) + 1
        policy = Policy.from_dict(row.policy)
        back = digest != row.bundle  # what served before has soaked before
        order = Assignment(
            device=name,
            rollout=row.id,
            family=row.family,
            digest=digest,
            size=self._store.bundle(digest).size if digest else 0,
            sequence=sequence,
            issued_at=now,
            expires=now + VALID_SECONDS,
            device_key=self._key_of(name),
            soak_rows=0 if back else policy.soak_rows,
            soak_seconds=0 if back else policy.soak_seconds,
            mode="shadow" if shadow else "live",
            shadow=ShadowPlan(policy.shadow_rows, policy.shadow_seconds) if shadow else None,
        )
        envelope = self._signer.sign(order)
        return Order(name, keyid, sequence, row.id, digest, now, envelope)

    # --- orders that are out ------------------------------------------------------------

    def _publish(self, orders: Iterable[Order], now: float) -> None:
        for order in orders:
            self._radio.publish(order.device, "assignment", wrap_assignment(order.envelope))
            self._published[order.device] = (order.sequence, now)

    def _repeat(self, devices: dict[str, DeviceRow], now: float) -> None:
        """Publish what is not echoed again, and everything to a broker that is new."""
        if self._radio.listening_since() is None:
            return
        everything, self._everything = self._everything, False
        due: list[Order] = []
        old: dict[str, list[Order]] = {}
        for order in self._store.ledger.orders().values():
            device = devices.get(order.device)
            if device is None:
                continue
            missing = not echoes(device, order.keyid, order.sequence)
            if missing and self._is_old(order, now):
                old.setdefault(order.rollout, []).append(order)
            elif everything or (missing and self._is_due(order, now)):
                due.append(order)
        self._publish(due, now)
        for name, orders in old.items():
            self._publish(self._sign_again(name, orders, devices, now), now)

    def _is_old(self, order: Order, now: float) -> bool:
        """Whether it expires soon, or is for a key that the device has no more."""
        if now - order.issued_at > VALID_SECONDS / 2:
            return True
        return named_key(order) != self._key_of(order.device)

    def _is_due(self, order: Order, now: float) -> bool:
        sequence, at = self._published.get(order.device, (0, 0.0))
        return sequence != order.sequence or not 0 <= now - at < _REPEAT_SECONDS

    def _sign_again(
        self, name: str, orders: list[Order], devices: dict[str, DeviceRow], now: float
    ) -> list[Order]:
        """Orders of one rollout, which is read once: it may have as many devices as the fleet."""
        row = self._store.ledger.rollout(name)
        parts = {item.device: item for item in row.devices}
        fresh = []
        for order in orders:
            part, device = parts.get(order.device), devices[order.device]
            shadow = part is not None and order.digest == row.bundle and not part.offered_at
            fresh.append(
                self._order(row, order.device, order.digest, order, device, now, shadow=shadow)
            )
        exposures = tuple(
            replace(parts[order.device], sequence=order.sequence)
            for order in fresh
            if order.device in parts
        )
        change = Change(row.changed_at, row.state, row.wave, None, exposures, tuple(fresh))
        self._store.ledger.apply(name, change)
        return fresh


def _ordered(
    item: Exposure, row: RolloutRow, order: Order, device: DeviceRow | None, now: float
) -> Exposure:
    if row.state == R.REVERTING:
        return replace(item, reverted_at=now, sequence=order.sequence, previous=order.digest)
    if row.state == R.SHADOW:
        return replace(item, sequence=order.sequence)  # nobody is exposed to it
    previous = device.state.bundle if device and device.state else ""
    return replace(item, offered_at=now, sequence=order.sequence, previous=previous)
