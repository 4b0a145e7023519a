"""What an operator may do with a rollout that is there: pause it, go on, go past gates, undo it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from wherry.rows import PASS, RolloutRow, Word
from wherry_contract.errors import RolloutError
from wherry_contract.states import Outcome

from .ledger import ENDED
from .office import Office, Plan
from .rollout import Policy, in_shadow


@dataclass(frozen=True)
class Undo:
    """An ordinary rollout of the bundle that most devices ran before.

    Attributes:
        bundle: its digest.
        devices: who ran it before, and runs the one that is undone.
        others: devices that ran another one before, or none; they keep what they have.
    """

    bundle: str
    devices: frozenset[str]
    others: int


class Steering:
    """Acts for an operator."""

    def __init__(
        self, office: Office, clock: Callable[[], float], news: Callable[[], None]
    ) -> None:
        """Take who starts rollouts, the clock (Unix seconds), and who is told of news."""
        self._office = office
        self._clock = clock
        self._news = news

    def say(self, name: str, what: str, why: str, wave: int) -> RolloutRow:
        """Note a word; the driver acts on it at its next look.

        Raises:
            RolloutError: R01, R09; R14, the wave is another one, or the shadows score still:
                going past the canary's gates is for who has seen the canary.
        """
        ledger = self._office.store.ledger
        if what == PASS and in_shadow(ledger.rollout(name)):
            cure = "wait for the shadows, or abort it and push it without a shadow"
            raise RolloutError("R14", f"{name} is at its shadow wave, not at its canary", cure=cure)
        ledger.say(name, Word(self._clock(), what, why or what, wave))
        self._news()
        return ledger.rollout(name)

    def undo(self, name: str) -> Undo:
        """What undoing a rollout means.

        Raises:
            RolloutError: R01; R03, it is under way; R15, nobody ran anything before.
        """
        store = self._office.store
        row = store.ledger.rollout(name)
        if row.state not in ENDED:
            cure = f"abort it: `wherry rollout abort {name}`"
            raise RolloutError("R03", f"{name} is {row.state}", cure=cure)
        committed = [item for item in row.devices if item.outcome == Outcome.COMMITTED]
        known = store.enrolled(item.device for item in committed)
        mine = [
            item
            for item in committed
            if (device := known.get(item.device))
            and device.state
            and device.state.bundle == row.bundle
        ]
        before = Counter(i.previous for i in mine if i.previous not in {"", row.bundle})
        if not before:
            raise RolloutError("R15", f"no device that runs {name} ran another bundle before")
        bundle = before.most_common(1)[0][0]
        devices = frozenset(item.device for item in mine if item.previous == bundle)
        return Undo(bundle, devices, len(mine) - len(devices))

    def plan(self, undo: Undo, policy: Policy) -> Plan:
        """Who would be in which wave of it.

        Raises:
            RolloutError: R02, R04, R06.
        """
        return self._office.plan(undo.bundle, {}, policy, undo.devices)

    def start(self, undo: Undo, policy: Policy) -> RolloutRow:
        """Begin it.

        Raises:
            RolloutError: R02, R03, R04, R06.
        """
        return self._office.start(undo.bundle, {}, policy, undo.devices)
