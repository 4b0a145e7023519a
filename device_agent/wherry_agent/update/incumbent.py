"""What serves while no update moves: from the start on, and again when a slot can be read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

from wherry_agent.config import AgentConfig
from wherry_agent.link.fact import Fact
from wherry_contract.errors import StoreError, UpdateError, WherryError

from .intake import Board
from .kept_record import KeptRecord
from .reach import Reach
from .record import DeviceRecord
from .shelf import Choice, without_active
from .updater import resume

UNREAD_LOOKS_SECONDS: Final = 30.0


class Incumbent:
    """Chooses what serves from the slots there are, and takes out of service what fails."""

    def __init__(self, config: AgentConfig, board: Board, reach: Reach, kept: KeptRecord) -> None:
        self._family = config.family
        self._board = board
        self._reach = reach
        self._kept = kept
        self.unread = False  # the active slot could not be read, and something else stands in
        self._read_at = -math.inf

    def start(self) -> None:
        """Read the record and serve with what it says.

        Raises:
            StoreError: D06, the record cannot be read.
        """
        self._kept.record = self._kept.remember(self._family)
        resumed = resume(self._kept.record)
        if resumed != self._kept.record:  # a start is counted before the model can end it
            self._kept.save_if_possible(resumed)
        self._kept.record = resumed
        former, now = self._kept.record.runtime, self._board.runtime_id
        upgraded = former != now
        if upgraded and former:
            self._kept.tell(
                Fact("agent.runtime", f"{former} -> {now}; golden vectors are run again")
            )
        choice = self._reach.shelf.choose(self._kept.record, probed=upgraded)
        self.serve(choice)
        record = replace(choice.record, runtime=self._board.runtime_id)
        if record != self._kept.record:
            self._kept.save_if_possible(record)
        self._kept.record = record

    def serve(self, choice: Choice) -> None:
        """Serve with what was chosen, and tell what could not be."""
        for digest, error in choice.failures:
            self._kept.tell(Fact.of(error, bundle=digest))
        if choice.failures and not (choice.served and choice.served.model):
            self._kept.tell(Fact.of(UpdateError("U08")))
        self._reach.scorer.swap(choice.served)
        self.note_unread(unread=choice.unread)

    def note_unread(self, *, unread: bool) -> None:
        """Remember whether something stands in for the active slot."""
        self.unread = unread
        self._read_at = self._reach.clock.monotonic() + UNREAD_LOOKS_SECONDS

    def read_again(self) -> None:
        """Serve with the active slot, if what stood in the way of reading it has passed."""
        if not self.unread or self._reach.clock.monotonic() < self._read_at:
            return
        choice = self._reach.shelf.choose(self._kept.record, probed=False)
        if choice.unread:  # told at the start
            self.note_unread(unread=True)
            return
        self.serve(choice)
        if choice.record != self._kept.record:
            self._kept.save_if_possible(choice.record)
        self._kept.changed()

    def check_active(self) -> None:
        """Probe what serves since the start; take it out of service if it fails."""
        if not self._kept.record.active:
            return
        digest = self._kept.record.serving.digest
        try:
            self._reach.shelf.probe(digest)
        except StoreError as error:  # the probe could not run: nobody's fault
            self._kept.tell(Fact.of(error, bundle=digest))
        except WherryError as error:
            self._kept.tell(Fact.of(error, bundle=digest))
            self._kept.save_if_possible(self.fall_back())

    def fall_back(self) -> DeviceRecord:
        """Serve with what is left; the record in which the active slot is bad."""
        choice = self._reach.shelf.choose(without_active(self._kept.record), probed=True)
        self.serve(choice)
        if not choice.failures and not choice.record.active:
            self._kept.tell(Fact.of(UpdateError("U08")))
        return choice.record
