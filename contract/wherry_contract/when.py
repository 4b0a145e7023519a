"""Time on the wire: RFC 3339 in UTC, with milliseconds, as ``2026-11-24T07:54:29.071Z``."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

_FORM = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z", re.ASCII)
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - all of it is UTC


def to_text(seconds: float) -> str:
    """Unix time to text, to the nearest millisecond."""
    moment = _EPOCH + timedelta(milliseconds=round(seconds * 1000))
    return moment.isoformat(timespec="milliseconds") + "Z"


def to_seconds(text: str) -> float:
    """Text to Unix time.

    Raises:
        ValueError: `text` is not RFC 3339 in UTC, or no such moment exists.
    """
    if not _FORM.fullmatch(text):
        raise ValueError(f"{text[:40]!r} is not a time like 2026-11-24T07:54:29Z")
    return datetime.fromisoformat(text.removesuffix("Z") + "+00:00").timestamp()
