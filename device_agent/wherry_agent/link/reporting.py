"""How windows go up: in which form, how many at once, and at what rate.

Pure: time is handed in.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wherry_contract.compact import MOST_WINDOWS, is_compact
from wherry_contract.messages import LIMIT_BYTES
from wherry_contract.wire import Fields

from .outbox import Message

ENCODINGS: Final = ("json", "compact")
_HOUR: Final = 3600.0


@dataclass(frozen=True)
class Reporting:
    """What the operator wants of a link.

    Attributes:
        encoding: ``json``, which any MQTT client reads, or ``compact``, a tenth of its bytes.
        batch_windows: so many compact windows go in one message.
        batch_minutes: that windows wait at most for others.
        bytes_per_hour: of windows, those that are sent again too; 0 for no limit.
    """

    encoding: str = "json"
    batch_windows: int = 1
    batch_minutes: float = 60.0
    bytes_per_hour: int = 0

    @classmethod
    def from_fields(cls, fields: Fields) -> Reporting:
        """Read the section."""
        found = cls(
            encoding=fields.choice("encoding", ENCODINGS, "json"),
            batch_windows=fields.integer("batch_windows", 1, low=1, high=MOST_WINDOWS),
            batch_minutes=fields.number("batch_minutes", 60.0),
            bytes_per_hour=fields.integer("bytes_per_hour", 0),
        )
        if found.batch_windows > 1 and found.encoding != "compact":
            raise fields.error("batch_windows", "1 for json: a batch is of compact windows")
        if not 0 < found.batch_minutes <= 10_080:
            raise fields.error("batch_minutes", "above 0, and at most a week")
        return found


class Dispatcher:
    """Says which windows may go now, and together with which."""

    def __init__(self, wanted: Reporting, now: float) -> None:
        """Take what is wanted, and monotonic seconds."""
        self._wanted = wanted
        self._allowed = float(wanted.bytes_per_hour)
        self._at = now
        self._waits_since: float | None = None

    def may_send(self, size: int, now: float) -> bool:
        """Whether so many bytes are within the rate; they are taken off if they are.

        An hour's bytes may go at once. A message that is larger waits until nothing else went
        for an hour.
        """
        most = self._wanted.bytes_per_hour
        if most == 0:
            return True
        self._allowed = min(most, self._allowed + (now - self._at) * most / _HOUR)
        self._at = now
        if self._allowed < min(size, most):
            return False
        self._allowed -= min(size, most)
        return True

    def ready(
        self, windows: Sequence[Message], now: float, *, hurry: bool = False
    ) -> list[list[Message]]:
        """Groups that go now, each as one message, from the front of what waits.

        Args:
            windows: what waits, oldest first.
            now: monotonic seconds.
            hurry: whether no group waits to be full.
        """
        found = []
        for group in _grouped(windows, self._wanted.batch_windows):
            if len(group) < self._wanted.batch_windows and is_compact(group[-1].payload):
                if self._waits_since is None:
                    self._waits_since = now
                waited = now - self._waits_since
                if not hurry and waited < self._wanted.batch_minutes * 60:
                    break
            if not self.may_send(sum(len(window.payload) for window in group), now):
                break
            self._waits_since = None
            found.append(group)
        return found


def _grouped(windows: Sequence[Message], most: int) -> list[list[Message]]:
    """Windows that lie side by side and may go in one message."""
    groups: list[list[Message]] = []
    size = 0
    for window in windows:
        joins = bool(groups) and len(groups[-1]) < most and is_compact(window.payload)
        size += len(window.payload)
        if joins and is_compact(groups[-1][-1].payload) and size <= LIMIT_BYTES:
            groups[-1].append(window)
        else:
            groups.append([window])
            size = len(window.payload)
    return groups
