"""The last lines of the agent's own log, kept in memory for who is allowed to ask for them.

In memory and not on the disk: a log on flash wears it out, the board's journal has the whole
of it anyway, and what must survive a start goes out as events. Nothing of a customer's gets
in: only our own lines are kept, and of an error that is a bug its kind and its place in the
code, for its words may repeat what was scored.
"""

from __future__ import annotations

import logging
import traceback
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import Final

from wherry_contract.answer import size_of
from wherry_contract.when import to_text

LINES_KEPT: Final = 1000
LINE_CHARACTERS: Final = 300
_FRAMES: Final = 6


class LogRing(logging.Handler):
    """Keeps `LINES_KEPT` lines of at most `LINE_CHARACTERS`: a third of a MiB when it is full."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._lines: deque[str] = deque(maxlen=LINES_KEPT)
        self._gone = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a line; called with the handler's lock held."""
        kind, text = record.levelname, record.getMessage()
        line = f"{to_text(record.created)} {kind} {text}"
        if record.exc_info and record.exc_info[0]:
            line += f" [{where(record.exc_info[0], record.exc_info[2])}]"
        line = " ".join(line.split())[:LINE_CHARACTERS]
        self._gone += len(self._lines) == LINES_KEPT
        self._lines.append(line)

    def last(self, most: int, limit_bytes: int) -> dict[str, object]:
        """The newest lines as a document, the oldest of them first.

        Args:
            most: how many lines; 0 for all that fit.
            limit_bytes: of the document as JSON.
        """
        self.acquire()
        try:
            lines, gone = list(self._lines), self._gone
        finally:
            self.release()
        wanted = lines[-most:] if most else lines
        room = limit_bytes - size_of({"lines": [], "left_out": gone + len(lines)})
        first = len(wanted)
        while first and (room := room - size_of({"": wanted[first - 1]})) >= 0:
            first -= 1
        return {"lines": wanted[first:], "left_out": gone + len(lines) - len(wanted[first:])}


def where(kind: type[BaseException], trace: TracebackType | None) -> str:
    """An error's kind and the last frames that it came through, without its own words."""
    frames = traceback.extract_tb(trace)[-_FRAMES:]
    places = [f"{Path(frame.filename).name}:{frame.lineno} {frame.name}" for frame in frames]
    return " < ".join([kind.__name__, *reversed(places)])
