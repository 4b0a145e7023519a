"""Asks devices: signs commands, and sends each until it is answered or has expired.

One at a time for a device, the oldest first, so that they come in the order of their
sequences whatever is lost on the way. A device that is away is asked when it comes back.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from wherry.rows import DeviceRow, Question
from wherry_contract.command import ASKS, MOST_LINES, Command
from wherry_contract.errors import IdentityError, RolloutError
from wherry_contract.messages import wrap_command

from .orders import AssignmentSigner
from .store import Store

LOG: Final = logging.getLogger("wherry.server")
LONGEST_SECONDS: Final = 7 * 86_400.0
_REPEAT_SECONDS: Final = 30.0


class Asker:
    """Takes questions from operators' threads, and sends them in the driver's."""

    def __init__(
        self,
        store: Store,
        signer: AssignmentSigner,
        key_of: Callable[[str], str] = lambda _device: "",
        is_out: Callable[[str], bool] = lambda _device: False,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Take what it works with.

        Args:
            store: keeps questions and answers.
            signer: signs as it signs orders.
            key_of: the fingerprint of a device's key; "" where it has none.
            is_out: whether a device was revoked: it will never hear us.
            clock: Unix seconds.
        """
        self._store = store
        self._signer = signer
        self._key_of = key_of
        self._is_out = is_out
        self._clock = clock
        self._sent: dict[int, tuple[str, float]] = {}
        self.news: Callable[[], None] = lambda: None

    def ask(self, device: str, ask: str, *, seconds: float, lines: int = 0) -> Question:
        """Note a question, signed; it is sent soon, or when the device comes back.

        Args:
            device: its id.
            ask: an `ASKS` of the contract.
            seconds: for how long it is kept.
            lines: of ``logs``, how many; 0 for all.

        Raises:
            RolloutError: R06 no such question, R07 no such device, R11 too many are open.
            IdentityError: I04, the device was revoked.
            TrustError: T10, no key that may sign it is here.
        """
        if ask not in ASKS:
            raise RolloutError("R06", f"{ask[:40]!r} is none of {', '.join(ASKS)}")
        if not 0 < seconds <= LONGEST_SECONDS or not 0 <= lines <= MOST_LINES:
            raise RolloutError("R06", f"at most {LONGEST_SECONDS:.0f} s and {MOST_LINES} lines")
        row, now = self._store.device(device), self._clock()
        if self._is_out(device):
            cure = f"let it in again: `wherry device claim --device {device} --again`"
            raise IdentityError("I04", f"{device} hears nothing", cure=cure)
        keyid = self._signer.public.keyid
        seen = row.state.commands.get(keyid, 0) if row.state else 0

        def sign(question: Question) -> bytes:
            return self._signer.sign_command(
                Command(
                    device=device,
                    ask=ask,
                    sequence=question.sequence,
                    issued_at=now,
                    expires=question.expires,
                    device_key=self._key_of(device),
                    lines=lines,
                )
            )

        plain = Question(device, keyid, 0, ask, now, now + seconds, b"")
        question = self._store.questions.add(plain, seen, sign)
        LOG.info("question %d: %s is asked for %s", question.id, device, ask)
        self.news()
        return question

    def send(
        self,
        devices: Mapping[str, DeviceRow],
        publish: Callable[[str, str, bytes], None],
        now: float,
    ) -> None:
        """Send what is due: to who is there, at once, at each new connection, and now and then."""
        first = _first_of_each(self._store.questions.waiting(now))
        for question in first:
            row = devices.get(question.device)
            if row and row.online and self._is_due(question, row, now):
                publish(question.device, "command", wrap_command(question.envelope))
                self._sent[question.id] = (row.session, now)
        kept = {question.id for question in first}
        self._sent = {number: sent for number, sent in self._sent.items() if number in kept}

    def _is_due(self, question: Question, row: DeviceRow, now: float) -> bool:
        session, at = self._sent.get(question.id, ("", 0.0))
        return session != row.session or not 0 <= now - at < _REPEAT_SECONDS


def _first_of_each(questions: Iterable[Question]) -> list[Question]:
    found: dict[str, Question] = {}
    for question in questions:
        found.setdefault(question.device, question)
    return list(found.values())
