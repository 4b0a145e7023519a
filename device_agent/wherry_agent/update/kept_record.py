"""The device's record, on the medium before anything acts on it."""

from __future__ import annotations

from collections.abc import Callable

from wherry_agent.link.fact import Fact
from wherry_agent.store import StatePair
from wherry_contract.errors import StoreError, WherryError

from .reach import Reach
from .record import DeviceRecord


class KeptRecord:
    """The record of one device, and the pair of files it lies in."""

    def __init__(self, pair: StatePair, reach: Reach) -> None:
        self._pair = pair
        self._reach = reach
        self.changed: Callable[[], None] = lambda: None
        self.record = DeviceRecord()

    def remember(self, family: str) -> DeviceRecord:
        """The record as it lies on the medium, or what can be saved of it.

        Raises:
            StoreError: D06, it cannot be read.
        """
        document = self._pair.load()
        for path in self._pair.damaged:
            self.tell(Fact("D02", f"{path.name} was set aside", "error"))
        if document is not None:
            try:
                return DeviceRecord.from_dict(document)
            except WherryError as error:  # whole, but not of our making
                self.tell(Fact("D02", f"the record has another form: {error}", "error"))
        elif not self._pair.damaged:
            return DeviceRecord()
        return self._reach.shelf.salvage(family)

    def save(self, record: DeviceRecord) -> None:
        """Write a record; it counts once it is on the medium.

        Raises:
            StoreError: D01 or D06; the former record stands.
        """
        self._pair.save(record.to_dict())
        self.record = record

    def save_if_possible(self, record: DeviceRecord) -> bool:
        """The same where a full disk must stop nothing; returns whether it was written."""
        try:
            self.save(record)
        except StoreError as error:
            self.tell(Fact.of(error), key=f"disk:{int(self._reach.clock.now() // 3600)}")
            return False
        self.changed()
        return True

    def tell(self, fact: Fact, key: str | None = None) -> None:
        """Tell a fact upstream; once for each key."""
        self._reach.spool.tell(fact, key=key)
