"""Obeys the fleet's commands: each once, in a thread of its own, whatever an update does meanwhile.

A command tells or looks, and changes nothing: ``self-test``, ``snapshot``, ``logs``. It is
judged by the rules of an order, noted durably, carried out, and answered through the outbox.
One that was noted is never begun again: where the agent ended in between, that is the answer.
"""

from __future__ import annotations

import hashlib
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from wherry_agent.clock import Clock
from wherry_agent.config import AgentConfig
from wherry_agent.store import StatePair
from wherry_agent.trust.seam import Trust
from wherry_agent.update.updater import check_sequence
from wherry_contract.answer import DOCUMENT_LIMIT_BYTES, Answer, size_of
from wherry_contract.command import Command
from wherry_contract.errors import LinkError, MessageError, StoreError, TrustError, WherryError
from wherry_contract.messages import unwrap_command
from wherry_contract.wire import Fields

from .examine import examine
from .fact import Fact
from .log_ring import LogRing
from .spool import Spool

STATE: Final = "commands"
_MOST_WAITING: Final = 8
_MARKS_KEPT: Final = 32
_IDLE_SECONDS: Final = 3600.0
_QUIET_LOOKS_SECONDS: Final = 5.0
_RETRY_SECONDS: Final = 30.0
_BURST: Final = 20  # judged at once; a child process each, and perhaps an answer of 48 KiB
_REFILL_SECONDS: Final = 60.0


@dataclass(frozen=True)
class CommandRecord:
    """What must be remembered across a pulled plug.

    Attributes:
        sequences: last accepted command sequence by key id.
        pending: one that was accepted and not answered yet.
    """

    sequences: Mapping[str, int] = field(default_factory=dict)
    pending: Command | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> CommandRecord:
        """Read a saved record.

        Raises:
            WherryError: it is whole but not of our making.
        """
        fields = Fields(document, STATE)
        sequences, pending = fields.mapping("sequences", {}), fields.mapping("pending", {})
        if not all(type(value) is int for value in sequences.values()):
            raise fields.error("sequences", "integers by key id")
        stored = Fields(pending, "pending")
        command = pending and Command.from_bytes(
            stored.text("payload", limit=64 * 1024).encode(), stored.text("keyid")
        )
        return cls(sequences, command or None, fields.rest())

    def to_dict(self) -> dict[str, Any]:
        """The JSON form."""
        pending = self.pending
        stored = pending and {"payload": pending.to_bytes().decode(), "keyid": pending.keyid}
        document = {"sequences": dict(self.sequences), "pending": stored or {}}
        return document | dict(self.extra)


class Allowance:
    """So many at once, and one more each minute: a flood costs a board little."""

    def __init__(self) -> None:
        self._left = float(_BURST)
        self._at = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may be had at a moment of a clock that never goes back."""
        self._left = min(_BURST, self._left + max(0.0, now - self._at) / _REFILL_SECONDS)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True


class Commands:
    """Takes commands from the link and answers them; `run_once` lives in one thread."""

    def __init__(  # noqa: PLR0917 - it reaches for these
        self,
        config: AgentConfig,
        pair: StatePair,
        trust: Trust,
        spool: Spool,
        clock: Clock,
        ring: LogRing,
        *,
        quiet: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take what it works with.

        Args:
            config: of the agent.
            pair: where it remembers.
            trust: says whose command it is.
            spool: takes answers.
            clock: trusted time.
            ring: the agent's last log lines.
            quiet: whether the application wants the board for itself now.
        """
        self._config = config
        self._trust = trust
        self._spool = spool
        self._clock = clock
        self._ring = ring
        self._quiet = quiet
        self._pair = pair
        self._record = CommandRecord()
        self._waiting: deque[bytes] = deque(maxlen=_MOST_WAITING)
        self._lock = threading.Lock()
        self._able = True
        self._marks: deque[str] = deque(maxlen=_MARKS_KEPT)
        self._allowance = Allowance()
        self._fact: Fact | None = None  # an answer that the disk did not take yet
        self.wake = threading.Event()
        self.changed: Callable[[], None] = lambda: None

    @property
    def sequences(self) -> Mapping[str, int]:
        """Last accepted command sequence by key id."""
        return self._record.sequences

    def take(self, payload: bytes) -> None:
        """Take a payload of the command topic; a few wait, and the host sends again."""
        with self._lock:
            self._waiting.append(payload)
        self.wake.set()

    def start(self) -> None:
        """Read what was accepted before; who cannot remember it obeys nobody, and all else goes on."""
        try:
            saved = self._pair.load()
        except StoreError as error:
            self._able = False
            self._spool.tell(_told(error))
            return
        for path in self._pair.damaged:
            self._spool.tell(Fact("D02", f"{path.name} was set aside", "error"))
        try:
            self._record = CommandRecord.from_dict(saved or {})
        except WherryError as error:  # whole, but not of our making
            self._spool.tell(Fact("D02", f"the commands have another form: {error}", "error"))
        if pending := self._record.pending:
            ended = StoreError("D07", "the agent ended while it was at it", cure="ask again")
            self._fact = _failure(pending, "failed", ended)

    def run_once(self) -> float:
        """Take one step; returns how many seconds to wait for the next, unless woken."""
        try:
            if self._fact and self._record.pending:
                self._answer(self._record.pending, self._fact)
                return 0.0
            if not self._waiting or not self._able:
                return _IDLE_SECONDS
            if self._quiet():
                return _QUIET_LOOKS_SECONDS
            with self._lock:
                payload = self._waiting.popleft()
            self._handle(payload)
        except StoreError as error:
            hour = int(self._clock.now() // 3600)
            self._spool.tell(Fact.of(error), key=f"commands:{error.code}:{hour}")
            return _RETRY_SECONDS
        return 0.0

    # --- one command --------------------------------------------------------------------

    def _handle(self, payload: bytes) -> None:
        mark = hashlib.sha256(payload).hexdigest()[:16]
        if mark in self._marks:  # it is sent until the answer is there
            return
        if not self._allowance.take(self._clock.monotonic()):
            fact = Fact("command.busy", f"more than {_BURST} commands at once", "warning")
            self._spool.tell(fact, key=f"busy:{int(self._clock.now() // 3600)}")
            return
        try:
            command = self.judge(payload)
        except LinkError as error:  # nobody can tell now; it comes again
            self._spool.tell(_told(error), key=f"command:{mark}:{error.code}")
            return
        except (TrustError, MessageError) as error:
            self._marks.append(mark)
            self._spool.tell(_told(error), key=f"refused:{mark}")
            return
        self._marks.append(mark)
        if command:
            self._answer(command, self._obey(command))

    def judge(self, payload: bytes) -> Command | None:
        """Note the command in a payload, if it is signed for this device and was not obeyed yet.

        Returns:
            It, or nothing for the very one that was accepted last: it came again.

        Raises:
            TrustError: it is not trusted: T01 to T04, T08, T09, T14.
            MessageError: G01 to G03, it is no command.
            LinkError, StoreError: that cannot be told now.
        """
        command = self._trust.command(unwrap_command(payload))
        last = self._record.sequences.get(command.keyid, 0)
        if not check_sequence(command, last, self._config.device):
            return None
        sequences = dict(self._record.sequences) | {command.keyid: command.sequence}
        self._save(replace(self._record, sequences=sequences, pending=command))
        self.changed()
        return command

    def _obey(self, command: Command) -> Fact:
        try:
            document = self._look(command)
            if size_of(document) > DOCUMENT_LIMIT_BYTES:
                raise MessageError("G02", f"the answer has {size_of(document)} bytes")
        except TrustError as error:
            return _failure(command, "refused", error)
        except WherryError as error:
            return _failure(command, "failed", error)
        well = document.get("well", True)
        text = f"{command.ask}: {'done' if well else 'it found something wrong'}"
        answer = Answer(command.keyid, command.sequence, command.ask, "done", document)
        return Fact("command.answer", text, "info" if well else "warning", answer=answer)

    def _look(self, command: Command) -> Mapping[str, Any]:
        if self._clock.now() > command.expires:
            raise TrustError("T05", "the command has expired")
        if command.ask == "logs":
            return self._ring.last(command.lines, DOCUMENT_LIMIT_BYTES)
        if command.ask in ("self-test", "snapshot"):
            return examine(self._config, command.ask)
        raise TrustError("T08", f"it asks for {command.ask}")

    def _answer(self, command: Command, fact: Fact) -> None:
        self._fact = fact  # kept until the disk has taken it
        self._spool.record(fact, key=f"command:{command.keyid[:16]}:{command.sequence}")
        self._save(replace(self._record, pending=None))
        self._fact = None

    def _save(self, record: CommandRecord) -> None:
        self._pair.save(record.to_dict())
        self._record = record


def _told(error: WherryError) -> Fact:
    fact = Fact.of(error)
    return replace(fact, text=f"a command: {fact.text}")


def _failure(command: Command, outcome: str, error: WherryError) -> Fact:
    answer = Answer(command.keyid, command.sequence, command.ask, outcome)
    return replace(Fact.of(error), answer=answer)
