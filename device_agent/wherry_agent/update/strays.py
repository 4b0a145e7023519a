"""What is known of inputs that strayed, kept over a restart; the other slot's model stands in."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final

from wherry_agent.link.fact import Fact
from wherry_agent.serving.stand_in import StandIn
from wherry_agent.store import StatePair
from wherry_contract.errors import StoreError, WherryError
from wherry_contract.manifest import Manifest
from wherry_contract.reaction import Verdict
from wherry_contract.states import SlotTrust
from wherry_contract.wire import Fields

from .record import DeviceRecord
from .shelf import Shelf

FILE: Final = "inputs"
_log = logging.getLogger("wherry")


class KeptStrays:
    """The agent's `Strays`: on the medium, in events, and on the shelf."""

    def __init__(
        self,
        pair: StatePair,
        shelf: Shelf,
        tell: Callable[[Fact], None],
        record: Callable[[], DeviceRecord],
    ) -> None:
        """Read what was known.

        Args:
            pair: where it is kept.
            shelf: loads bundles.
            tell: takes events.
            record: the device's, as of now.
        """
        self._pair, self._shelf, self._tell, self._record = pair, shelf, tell, record
        self._digest, self._verdict = "", Verdict()
        try:
            saved = Fields(pair.load() or {}, FILE)
            self._digest = saved.text("bundle", "")
            self._verdict = Verdict(saved.text("why", ""), saved.texts("strayed", []))
        except WherryError as error:  # then inputs are trusted until rows speak against them
            _log.warning("what was known of inputs cannot be read: %s", error)

    def recall(self, digest: str) -> Verdict:
        """What was known of a bundle's inputs, perhaps before a restart."""
        return self._verdict if digest == self._digest else Verdict()

    def note(self, digest: str, verdict: Verdict, by: str) -> None:
        """Remember, and tell if it is news."""
        before = self.recall(digest)
        if (digest, verdict) == (self._digest, self._verdict):
            return
        known = self._verdict.why or verdict.why
        self._digest, self._verdict = digest, verdict
        if known:
            self._save()
        if verdict.why and not before.why:
            self._tell(Fact("inputs.left", f"{verdict.why}: {by} answers", "warning"))
        elif before.why and not verdict.why:
            self._tell(Fact("inputs.back", "inputs are as agreed: the model answers", "info"))

    def _save(self) -> None:
        document = {"bundle": self._digest, "why": self._verdict.why}
        try:
            self._pair.save(document | {"strayed": list(self._verdict.strayed)})
        except StoreError as error:  # it holds until a restart; a full disk stops no payment
            _log.warning("what is known of inputs cannot be kept: %s", error)

    def stand_in(self, manifest: Manifest, verdict: Verdict) -> StandIn | None:
        """The other slot's model if it is good, loaded; nothing if it cannot stand in."""
        record = self._record()
        other = record.slots["b" if record.active == "a" else "a"]
        if not record.active or other.trust != SlotTrust.GOOD:
            return None
        try:
            model = self._shelf.load(other.digest).model
        except WherryError as error:
            _log.warning("the previous model cannot stand in: %s", error)
            return None
        return StandIn.between(model, manifest, verdict.strayed) if model else None
