"""Topic names: ``wherry/v1/<fleet>/<device>/<channel>``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from .errors import MessageError
from .wire import SLUG

UP: Final = ("state", "presence", "window", "event")
DOWN: Final = ("assignment", "ack", "command")
RETAINED: Final = frozenset({"state", "presence", "assignment"})
_TOPIC = re.compile(rf"wherry/v1/({SLUG})/({SLUG})/({'|'.join(UP + DOWN)})")


@dataclass(frozen=True)
class Topic:
    """One device's channel."""

    fleet: str
    device: str
    channel: str

    def __str__(self) -> str:
        return f"wherry/v1/{self.fleet}/{self.device}/{self.channel}"


def parse_topic(text: str) -> Topic:
    """Read a topic name.

    Raises:
        MessageError: G06.
    """
    match = _TOPIC.fullmatch(text)
    if not match:
        raise MessageError("G06", repr(text[:120]))
    return Topic(*match.groups())


def every_device(fleet: str, channel: str) -> str:
    """The filter that hears one channel of every device in a fleet."""
    return f"wherry/v1/{fleet}/+/{channel}"
