"""The beginning of a large metadata file that was cut off, kept for the next process.

Only files whose name holds their version are kept, so what comes later is the rest of the
same; and nothing is believed for having been kept: the whole is verified as ever, and what
was kept is gone before that, so that a poisoned beginning costs one fetch.
"""

from __future__ import annotations

import hashlib
import re
from contextlib import suppress
from pathlib import Path
from typing import Final

WORTH_BYTES: Final = 64 * 1024  # what is smaller comes anew: flash wears out
_VERSIONED: Final = re.compile(r"(?:.*/)?\d+\.[^/]+")
_MARK_BYTES: Final = 32


class Part:
    """One unfinished file in a file of its own: a digest of its path, then its bytes.

    It is a cache: what the disk will not take is not kept.
    """

    def __init__(self, place: Path | None = None) -> None:
        """Take the file; nothing keeps nothing."""
        self._place = place
        self._kept = 0  # bytes on the disk of what is read now

    def begin(self, path: str, limit: int) -> bytes:
        """What was kept of a path; nothing if another was cut off last, or it cannot be ours."""
        self._kept = 0
        if not self._place or not _VERSIONED.fullmatch(path):
            return b""
        try:
            with self._place.open("rb") as stream:
                mark, data = stream.read(_MARK_BYTES), stream.read(limit + 1)
        except OSError:
            return b""
        if mark != _mark(path) or len(data) > limit:
            return b""
        self._kept = len(data)
        return data

    def note(self, path: str, data: bytearray) -> None:
        """Keep what has come so far."""
        if not self._place or len(data) < WORTH_BYTES or not _VERSIONED.fullmatch(path):
            return
        anew = not 0 < self._kept <= len(data)
        with suppress(OSError), self._place.open("wb" if anew else "ab") as stream:
            stream.write(_mark(path) + data if anew else data[self._kept :])
            self._kept = len(data)

    def end(self) -> None:
        """Forget what was kept: it is whole now, or it leads nowhere."""
        if self._place and self._kept:
            self._place.unlink(missing_ok=True)
        self._kept = 0


def _mark(path: str) -> bytes:
    return hashlib.sha256(path.encode()).digest()
