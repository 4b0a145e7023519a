"""What a part of the agent has to tell, before it has a place in the outbox.

Short-lived children import it, and do without numpy: what needs that is imported when used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wherry_contract.errors import WherryError

if TYPE_CHECKING:
    from wherry_contract.answer import Answer
    from wherry_contract.messages import Event, Place


@dataclass(frozen=True)
class Fact:
    """An event that has no place in the outbox yet; the fields are `Event`'s."""

    code: str
    text: str = ""
    severity: str = "info"
    rollout: str = ""
    bundle: str = ""
    outcome: str = ""
    answer: Answer | None = None

    @classmethod
    def of(cls, error: WherryError, *, rollout: str = "", bundle: str = "") -> Fact:
        """The event of a coded error."""
        text = f"{error.title}: {error.detail}" if error.detail else error.title
        return cls(error.code, text[:1000], "error", rollout, bundle)

    def event(self, place: Place, at: float) -> Event:
        """The message."""
        from wherry_contract.messages import Event

        return Event(place=place, at=at, **self.__dict__)
