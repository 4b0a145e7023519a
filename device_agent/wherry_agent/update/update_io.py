"""Carries the update table out: one action for each state, each of which may be repeated.

An action looks at the record and the world, does its work, and returns what came of it;
`updater.step` alone decides what follows, and the new record is on the medium before
anything acts on it. Runs in one thread.
"""

from __future__ import annotations

import hashlib
import math
import random
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Final

from wherry_agent.config import AgentConfig
from wherry_agent.link.fact import Fact
from wherry_agent.store import StatePair
from wherry_contract.assignment import Assignment
from wherry_contract.bundle import MANIFEST_FILE
from wherry_contract.errors import LinkError, StoreError, UpdateError, WherryError
from wherry_contract.manifest import Manifest
from wherry_contract.messages import unwrap_assignment
from wherry_contract.oci import OciManifest
from wherry_contract.states import SlotTrust
from wherry_contract.states import UpdateState as S

from .incumbent import UNREAD_LOOKS_SECONDS, Incumbent
from .intake import Board, Intake
from .kept_record import KeptRecord
from .pace import bar
from .reach import Reach
from .record import DeviceRecord, Update
from .shadowing import Shadowing
from .shelf import slot_for
from .soak import UNDECIDED, judge_soak
from .telling import report_fact, step_fact, undecided_fact
from .transfer import Later
from .updater import (
    RETRY_BUDGET,
    TABLE,
    E,
    Result,
    accept,
    is_new,
    retry_delay,
    stage,
    step,
)

LONGEST_HOLD_SECONDS: Final = 900.0
_DONE: Final = Result(E.DONE)
_SOAK_LOOKS_SECONDS: Final = 1.0
_IDLE_SECONDS: Final = 3600.0
_BARRED_LOOKS_SECONDS: Final = 5.0
_BARRED: Final = frozenset({S.OFFERED, S.ADMIT, S.FETCH, S.PROBE})  # until the switch it may wait
_LOOKED_AT: Final = frozenset({S.SHADOW, S.SOAK})
_MOST_OFFERS: Final = 8


class Updater:
    """Owns the device's record and moves it on."""

    def __init__(self, config: AgentConfig, board: Board, pair: StatePair, reach: Reach) -> None:
        self._config = config
        self._board = board
        self._reach = reach
        self._kept = KeptRecord(pair, reach)
        self._incumbent = Incumbent(config, board, reach, self._kept)
        self._intake = Intake(config, board, reach)
        self._shadowing = Shadowing(config.limits, reach)
        self._offers: deque[bytes] = deque(maxlen=_MOST_OFFERS)
        self._offer_tries = 0
        self._lock = threading.Lock()
        self._seen = ""
        self._stopped = False
        self._held_until = -math.inf
        self.wake = threading.Event()
        self.beat: Callable[[], None] = lambda: None  # a sign of life, at each part of a download
        self._actions: Mapping[S, Callable[[Update], Result]] = {
            S.OFFERED: self._offered,
            S.ADMIT: self._admit,
            S.FETCH: self._fetch,
            S.VERIFY: self._verify,
            S.STAGE: self._stage,
            S.PROBE: self._probe,
            S.SHADOW: self._shadow,
            S.SWITCH: self._switch,
            S.SOAK: self._soak,
            S.COMMIT: self._clean,
            S.DISCARD: self._clean,
            S.REVERT: self._revert,
            S.VERIFY_REVERT: self._verify_revert,
            S.REPORT: self._report,
        }

    # --- from outside -------------------------------------------------------------------

    def offer(self, payload: bytes) -> None:
        """Take a payload of the assignment topic; a few wait, so that garbage hides no order."""
        with self._lock:
            self._offers.append(payload)
        self.wake.set()

    def install(self, assignment: Assignment) -> None:
        """Take an order of a person at the device, which needs no signature.

        Every check of the bundle itself stands: its signers, family, counter and probe.

        Raises:
            StoreError: D01 or D06.
        """
        record = accept(self.record, assignment)
        self._kept.save(replace(record, sequences=self.record.sequences))

    def hold(self, seconds: float) -> float:
        """Leave the board in peace for a while, as during a payment: nothing is fetched or probed.

        It is a lease: an application that dies holds up no update for ever.

        Args:
            seconds: from now on; 0 ends it.

        Returns:
            For how many seconds it holds: `LONGEST_HOLD_SECONDS` at most.
        """
        held = min(max(seconds, 0.0), LONGEST_HOLD_SECONDS)
        self._held_until = self._reach.clock.monotonic() + held
        if not held:
            self.wake.set()
        return held

    @property
    def held(self) -> bool:
        """Whether the board is to be left in peace now."""
        return self._reach.clock.monotonic() < self._held_until

    def on_change(self, changed: Callable[[], None]) -> None:
        """Have it told when the record has changed."""
        self._kept.changed = changed

    @property
    def record(self) -> DeviceRecord:
        """What the device remembers of itself and of the update it is in."""
        return self._kept.record

    def stop(self) -> None:
        """Interrupt a download at its next chunk."""
        self._stopped = True
        self.wake.set()

    def start(self) -> None:
        """Read the record and serve with what it says, before any network is looked for.

        Raises:
            StoreError: D06, the record cannot be read.
        """
        self._incumbent.start()

    def check_active(self) -> None:
        """Probe what serves since the start; take it out of service if it fails."""
        self._incumbent.check_active()

    def run_once(self) -> float:
        """Take one step; returns how many seconds to wait for the next, unless woken."""
        if not self._take_offer():
            return 1.0 + retry_delay(self._offer_tries, random.random())  # noqa: S311 - jitter
        if self._offers:
            return 0.0
        self._incumbent.read_again()
        if self.record.state == S.IDLE or self.record.update is None:
            return UNREAD_LOOKS_SECONDS if self._incumbent.unread else _IDLE_SECONDS
        return self._take_step(self.record.update)

    def _take_step(self, update: Update) -> float:
        before = S(self.record.state)
        result = self._act(before, update)
        self._add_up()
        following = step(self.record, result)
        # a look that changed nothing costs no write: the medium wears out
        if following != self.record and not self._kept.save_if_possible(following):
            return 1.0 + retry_delay(4, random.random())  # noqa: S311 - jitter, no secret
        if before == S.SHADOW != following.state:
            self._shadowing.end()
        self._tell_step(before, result)
        if result.event == E.WAIT:
            return _SOAK_LOOKS_SECONDS if before in _LOOKED_AT else _BARRED_LOOKS_SECONDS
        if result.event == E.RETRY and following.update:
            chance = random.random()  # noqa: S311 - jitter, no secret
            delay = retry_delay(following.update.retries, chance)
            return max(delay, result.wait_seconds * (1 + chance / 4))
        return 0.0

    def _add_up(self) -> None:
        """What transfers cost counts for the whole update, over restarts too."""
        count, seconds = self._intake.spent.take()
        if count and self.record.update:
            update = self.record.update
            self._kept.record = self.record.with_update(
                fetched=update.fetched + count, fetch_seconds=update.fetch_seconds + seconds
            )

    # --- orders -------------------------------------------------------------------------

    def _take_offer(self) -> bool:
        """Judge the oldest offer; false if that could not be done now, and is to be tried again."""
        with self._lock:
            payload = self._offers[0] if self._offers else b""
        mark = hashlib.sha256(payload).hexdigest()
        if payload and mark != self._seen:
            try:
                self.judge(payload)
            except (LinkError, StoreError) as error:
                self._kept.tell(Fact.of(error), key=f"offer:{mark[:16]}:{error.code}")
                self._offer_tries += 1
                if self._offer_tries <= RETRY_BUDGET:
                    return False
                # dropped so that it blocks no other, but not seen: it is judged if it is repeated
            except WherryError as error:
                self._kept.tell(Fact.of(error), key=f"refused:{mark[:16]}")
                self._seen = mark
            else:
                self._seen = mark
            self._kept.changed()
        self._offer_tries = 0
        with self._lock:
            if self._offers and self._offers[0] is payload:
                self._offers.popleft()
        return True

    def judge(self, payload: bytes) -> bool:
        """Take the order in a payload, if it is signed for this device and newer than the last.

        Returns:
            Whether it was.

        Raises:
            TrustError: it is not trusted.
            MessageError: G01 to G03, it is no order.
            LinkError, StoreError: that cannot be told now.
        """
        assignment = self._reach.trust.assignment(unwrap_assignment(payload))
        new = is_new(assignment, self.record, self._config.device)
        if new:
            self._kept.save(accept(self.record, assignment))
        return new

    def _tell_step(self, before: S, result: Result) -> None:
        told = step_fact(before, result, self.record)
        if told:
            self._kept.tell(*told)

    # --- actions ------------------------------------------------------------------------

    def _act(self, state: S, update: Update) -> Result:
        if self.record.pending and (state, E.NEWER) in TABLE:
            return Result(E.NEWER, "U02")
        if state in _BARRED and self._barred(update.assignment):
            return Result(E.WAIT)
        try:
            result = self._actions[state](update)
        except Later as error:
            return Result(E.RETRY, error.code, error.detail, error.wait_seconds)
        except (LinkError, StoreError) as error:
            return Result(E.RETRY, error.code, error.detail)
        except WherryError as error:
            result = Result(E.FAIL, error.code, error.detail)
        if result.event == E.FAIL and (state, E.FAIL) not in TABLE:
            return replace(result, event=E.RETRY)
        return result

    def _offered(self, update: Update) -> Result:
        self._intake.check(update.assignment, self.record)
        return _DONE

    def _admit(self, update: Update) -> Result:
        admitted = self._intake.admit(update.assignment, self.record, self._halted)
        return _DONE if admitted else Result(E.WAIT)

    def _fetch(self, update: Update) -> Result:
        fetched = self._intake.fetch(update.assignment, self.record, self._halted)
        return _DONE if fetched else Result(E.WAIT)

    def _halted(self) -> bool:
        self.beat()
        update = self.record.update
        barred = update is not None and bool(self._barred(update.assignment))
        return self._stopped or barred or bool(self._offers)

    def _barred(self, order: Assignment) -> str:
        """Why the order must wait now, told once for each reason; "" if it need not."""
        why = bar(
            order,
            self._reach.clock.now(),
            held=self.held,
            metered=self._config.metered,
        )
        if why:
            fact = Fact("update.waits", why, "info", order.rollout, order.digest)
            self._kept.tell(fact, key=f"waits:{order.rollout}:{order.sequence}:{why}")
        return why

    def _verify(self, update: Update) -> Result:
        self._reach.shelf.parts(update.assignment.digest)
        return _DONE

    def _stage(self, update: Update) -> Result:
        order = update.assignment
        listed = OciManifest.from_bytes(self._reach.blobs.read_whole(order.digest))
        layer = listed.layer(MANIFEST_FILE)
        manifest = Manifest.from_bytes(self._reach.blobs.read(layer.digest))
        size = sum(blob.size for blob in listed.blobs)
        slot = slot_for(order.digest, manifest, size, SlotTrust.UNPROVEN)
        self._kept.save(stage(self.record, slot))
        return _DONE

    def _probe(self, update: Update) -> Result:
        found = self._reach.shelf.probe(update.assignment.digest)
        detail = f"p95 {found['p95_us']:.0f} us a row, {found['peak_mib']:.0f} MiB"
        event = E.SHADOW if update.assignment.mode == "shadow" else E.DONE
        return Result(event, "", detail)

    def _shadow(self, update: Update) -> Result:
        found = self._shadowing.look(update)
        # between the probe and the switch the window may have closed, or a payment begun
        if found.event == E.DONE and self._barred(update.assignment):
            return Result(E.WAIT)
        noted = self._shadowing.to_be_noted(update)
        if noted:
            self._kept.save_if_possible(self.record.with_update(**noted))
        return found

    def _switch(self, update: Update) -> Result:
        if self.record.active != update.slot:
            return Result(E.FAIL, "U06", "it was taken out of service at a start")
        self._reach.scorer.swap(self._reach.shelf.load(update.assignment.digest))
        self._incumbent.note_unread(unread=False)
        return _DONE

    def _soak(self, update: Update) -> Result:
        if self._incumbent.unread:
            return Result(E.WAIT)
        progress = self._reach.scorer.progress
        # rows and seconds count from the last swap in this process: wall clocks jump
        age = self._reach.clock.monotonic() - progress.since
        found = judge_soak(self._reach.scorer.served, update.assignment, progress, age)
        if found.code != UNDECIDED:
            return found
        if not update.undecided:
            self._kept.tell(*undecided_fact(update, found))
            self._kept.save_if_possible(self.record.with_update(undecided=True))
        return Result(E.WAIT)

    def _clean(self, _: Update) -> Result:
        self._reach.shelf.keep_only(self.record.digests)
        return _DONE

    def _revert(self, _: Update) -> Result:
        choice = self._reach.shelf.choose(self.record, probed=False)
        self._incumbent.serve(choice)
        self._kept.save(choice.record)
        return _DONE

    def _verify_revert(self, _: Update) -> Result:
        if not self.record.active:
            raise UpdateError("U08")
        try:
            self._reach.shelf.probe(self.record.serving.digest)
        except StoreError:  # the probe could not run: nobody's fault
            raise
        except WherryError:
            self._kept.save(self._incumbent.fall_back())
            raise
        return _DONE

    def _report(self, update: Update) -> Result:
        fact, key = report_fact(update)
        self._reach.spool.record(fact, key=key)
        return _DONE
