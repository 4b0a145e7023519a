"""What all devices that are looked at counted, bucket by bucket, kept from look to look. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from .rowmath import Row
from .subjects import Group
from .tally import Sheet

Sums = Mapping[float, Mapping[Group, Row]]


class FleetSums:
    """Adds devices up; only buckets that have changed since are added up anew."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._chosen = frozenset[str]()
        self._ahead = False
        self._clocks: dict[float, int] = {}
        self._kept: dict[float, dict[Group, Row]] = {}

    def read(self, sheet: Sheet) -> Sums:
        """The counts of each bucket, by what counts alike.

        Args:
            sheet: of the devices that are looked at; the same tally's each time.
        """
        if (sheet.chosen, sheet.ahead) != (self._chosen, self._ahead):
            self._chosen, self._ahead = sheet.chosen, sheet.ahead
            self._clocks, self._kept = {}, {}
        everybody = dict.fromkeys(sheet.chosen, 0)  # in one row
        for start in sheet.starts():
            clock = sheet.changed(start)
            if self._clocks.get(start) != clock:
                self._clocks[start] = clock
                self._kept[start] = {
                    group: sheet.matrix(start, group, everybody)[0] for group in sheet.groups(start)
                }
        return self._kept
