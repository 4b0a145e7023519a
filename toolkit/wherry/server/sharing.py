"""How servers of one fleet divide what devices send: the broker does it, or shards of devices.

Reports and presence go to every server: they are few, and retained, which shared subscriptions
do not deliver to a newcomer. Storing one twice changes nothing.
"""

from __future__ import annotations

from typing import Final

from wherry_contract.errors import MessageError
from wherry_contract.topics import every_device, parse_topic

from .duty import Shards

GROUP: Final = "wherry"
_DIVIDED: Final = ("window", "event")


class Sharing:
    """One server alone, a shared subscription, or shards where the broker has none."""

    def __init__(self, *, by_broker: bool = False, shards: Shards | None = None) -> None:
        """Take all, or what the broker hands out, or what the shards say."""
        self._by_broker = by_broker
        self._shards = shards

    def filter(self, fleet: str, channel: str) -> str:
        """What to subscribe to for a channel."""
        plain = every_device(fleet, channel)
        return f"$share/{GROUP}/{plain}" if self._by_broker and channel in _DIVIDED else plain

    def takes(self, topic: str) -> bool:
        """Whether a message is this server's; one of a strange topic is, for it is refused."""
        if self._shards is None:
            return True
        try:
            named = parse_topic(topic)
        except MessageError:
            return True
        return named.channel not in _DIVIDED or self._shards.holds(named.device)

    def look(self) -> None:
        """Divide anew now and then."""
        if self._shards is not None:
            self._shards.look()

    def close(self) -> None:
        """Leave all to the others."""
        if self._shards is not None:
            self._shards.close()
