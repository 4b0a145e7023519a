"""A point-of-sale application in miniature: it asks its agent about each payment over HTTP."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, Final

from wherry_contract.features import RawValue
from wherry_contract.when import to_text

_SECONDS: Final = 10.0
_LOOK_SECONDS: Final = 0.1


@dataclass(frozen=True)
class Payment:
    """One payment as the application knows it.

    Attributes:
        row: named raw values.
        at: when it happened, Unix seconds.
        fraud: what became known of it later.
        card: whose card it was.
    """

    row: Mapping[str, RawValue]
    at: float
    fraud: bool
    card: int


@dataclass(frozen=True)
class Reply:
    """What the agent said of one payment."""

    payment: Payment
    score: float
    flagged: bool
    bundle: str
    source: str


@dataclass
class Ledger:
    """What came of the payments so far; only its terminals' thread writes."""

    replies: list[Reply] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)


class Terminals(threading.Thread):
    """Sends one group's payments in order, one at a time, at a pace that can be changed."""

    def __init__(self, group: str, address: tuple[str, int], model: str) -> None:
        super().__init__(name=f"terminals-{group}", daemon=True)
        self.group = group
        self.ledger = Ledger()
        self.pause_seconds = 0.0
        self._address = address
        self._path = f"/v2/models/{model}/infer"
        self._queue: deque[Payment] = deque()
        self._more = threading.Condition()
        self._closed = False

    def add(self, payments: Iterable[Payment]) -> None:
        """Hand over payments to be sent."""
        with self._more:
            self._queue.extend(payments)
            self._more.notify()

    @property
    def waiting(self) -> int:
        """Payments that were not sent yet."""
        return len(self._queue)

    def close(self) -> None:
        """Send nothing more."""
        with self._more:
            self._closed = True
            self._more.notify()

    def run(self) -> None:
        """Wait for the agent's first model, then send until closed."""
        connection = http.client.HTTPConnection(*self._address, timeout=_SECONDS)
        while not self._closed and not ready(self._address):
            time.sleep(_LOOK_SECONDS)
        while (payment := self._next()) is not None:
            try:
                self._send(connection, payment)
            except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
                self.ledger.failures.append(f"{type(error).__name__}: {error}")
                connection.close()
            if self.pause_seconds:
                time.sleep(self.pause_seconds)
        connection.close()

    def _next(self) -> Payment | None:
        with self._more:
            while not self._queue and not self._closed:
                self._more.wait()
            return None if self._closed else self._queue.popleft()

    def _send(self, connection: http.client.HTTPConnection, payment: Payment) -> None:
        body = {
            "id": str(len(self.ledger.replies)),
            "rows": [dict(payment.row)],
            "parameters": {"at": to_text(payment.at)},
        }
        connection.request(
            "POST", self._path, json.dumps(body), {"Content-Type": "application/json"}
        )
        response = connection.getresponse()
        answer = json.loads(response.read())
        if response.status != HTTPStatus.OK:
            raise ValueError(str(answer.get("error", response.status)))
        self.ledger.replies.append(_reply(payment, answer))


def ready(address: tuple[str, int], page: str = "ready") -> bool:
    """Whether an agent answers, and has a model (``ready``) or is merely there (``live``)."""
    connection = http.client.HTTPConnection(*address, timeout=_SECONDS)
    try:
        connection.request("GET", f"/v2/health/{page}")
        return connection.getresponse().status == HTTPStatus.OK
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _reply(payment: Payment, answer: Mapping[str, Any]) -> Reply:
    outputs: dict[str, Sequence[Any]] = {item["name"]: item["data"] for item in answer["outputs"]}
    said = answer["parameters"]
    return Reply(
        payment,
        float(outputs["score"][0]),
        bool(outputs["flagged"][0]),
        str(said["bundle"]),
        str(said["source"]),
    )
