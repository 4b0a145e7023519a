"""The example's stream, as the demo's terminals send it."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .terminals import Payment


class Stream:
    """Ten days of payments at named groups of terminals, with and without the drift."""

    def __init__(self, example: Path, every: int = 1) -> None:
        """Read it.

        Args:
            example: the folder of the example.
            every: takes one of so many payments, as an emulated board is slow; twice as many
                where a group drifts, or four days would not be enough to be sure of it.
        """
        sys.path.insert(0, str(example))  # the example is scripts, no package
        try:
            self._module: Any = importlib.import_module("stream")
        finally:
            sys.path.remove(str(example))
        self.groups: tuple[str, ...] = self._module.chains()
        self._plain = self._module.payments()
        self._every = every
        self.rows = 0  # that were picked so far

    def days(self, first: int, last: int) -> Mapping[str, Sequence[Payment]]:
        """What each group takes on these days of July, as it was."""
        return self._pick(self._plain, first, last, "")

    def drifted(self, group: str, first: int, last: int) -> Mapping[str, Sequence[Payment]]:
        """The same when one group's tills report another currency."""
        # moved first and thinned then: averages move by all payments of a customer
        return self._pick(self._module.shifted(self._plain, chain=group), first, last, group)

    def _pick(
        self, stream: Iterable[Any], first: int, last: int, more: str
    ) -> dict[str, list[Payment]]:
        found: dict[str, list[Payment]] = {group: [] for group in self.groups}
        for item in stream:
            if first <= datetime.fromtimestamp(item.at, UTC).day <= last:
                found[item.chain].append(Payment(item.row, item.at, item.fraud, item.card))
        for group, payments in found.items():
            every = max(1, self._every // 2) if group == more else self._every
            found[group] = payments[::every]
            self.rows += len(found[group])
        return found
