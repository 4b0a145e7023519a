"""A client for the broker, and the test that the broker does what it grants.

Some brokers grant what they do not do: one answers a shared subscription and delivers
nothing, another retains nothing for a wildcard. Only a round trip tells.
"""

from __future__ import annotations

import secrets
import ssl
import time
from collections.abc import Callable
from typing import Any, Final, Self

from wherry.broker import reachable
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError
from wherry_contract.topics import Topic, every_device

_SECONDS: Final = 10.0
_SHARE_SECONDS: Final = 3.0


def new_client(
    address: BrokerAddress, client_id: str, context: ssl.SSLContext | None = None
) -> Any:
    """A paho client for an address; not connected yet.

    Args:
        address: where, and as whom.
        client_id: its name.
        context: for a broker of our own; else a public authority vouches for it.
    """
    import paho.mqtt.client as paho
    from paho.mqtt.enums import CallbackAPIVersion

    client = paho.Client(CallbackAPIVersion.VERSION2, client_id=client_id, clean_session=True)
    client.connect_timeout = _SECONDS
    if address.username:
        client.username_pw_set(address.username, address.password)
    if address.tls and context:
        client.tls_set_context(context)
    elif address.tls:
        client.tls_set()
    return client


def connect(client: Any, address: BrokerAddress) -> None:
    """Connect a client.

    Raises:
        LinkError: L01.
    """
    try:
        client.connect(reachable(address.host), address.port, keepalive=30)
    except (OSError, ValueError) as error:
        raise LinkError("L01", f"{address.url}: {error}") from error


def self_test(
    address: BrokerAddress,
    fleet: str,
    *,
    seconds: float = _SECONDS,
    context: ssl.SSLContext | None = None,
) -> None:
    """Publish and see the message come back, live and retained, by a filter with a wildcard.

    Raises:
        LinkError: L01 not reached, L02 refused, L03 granted but not delivered.
    """
    topic = str(Topic(fleet, f"self-test-{secrets.token_hex(8)}", "state"))
    payload = secrets.token_hex(8).encode()
    heard = every_device(fleet, "state")
    with _Listener(address, heard, seconds, context) as live:
        live.client.publish(topic, payload, 1, retain=True)
        live.wait(topic, payload, "a message to a wildcard subscription did not come back")
        try:
            with _Listener(address, heard, seconds, context) as late:
                late.wait(topic, payload, "a retained message did not come to a late subscriber")
        finally:
            gone = live.client.publish(topic, b"", 1, retain=True)
            live.turn(gone.is_published)


def shares(
    address: BrokerAddress,
    fleet: str,
    *,
    seconds: float = _SHARE_SECONDS,
    context: ssl.SSLContext | None = None,
) -> bool:
    """Whether a shared subscription delivers; several brokers grant one, and deliver nothing.

    Raises:
        LinkError: L01 not reached.
    """
    topic = str(Topic(fleet, f"self-test-{secrets.token_hex(8)}", "window"))
    payload = secrets.token_hex(8).encode()
    heard = f"$share/{secrets.token_hex(4)}/{every_device(fleet, 'window')}"
    try:
        with _Listener(address, heard, seconds, context) as live:
            live.client.publish(topic, payload, 1)
            live.wait(topic, payload, "a message to a shared subscription did not come back")
    except LinkError as error:
        if error.code == "L01":
            raise
        return False
    return True


def take_over(address: BrokerAddress, name: str) -> None:
    """Connect under a name and go: whoever had it is disconnected.

    Raises:
        LinkError: L01, L02.
    """
    client = new_client(address, name)
    answers: list[Any] = []
    client.on_connect = lambda _c, _d, _f, reason, _p: answers.append(reason)
    connect(client, address)
    end = time.monotonic() + _SECONDS
    while not answers and time.monotonic() < end and client.loop(0.05) == 0:
        pass
    client.disconnect()
    client.loop(0.01)
    if not answers or answers[0].is_failure:
        raise LinkError("L02", f"{address.url}: {answers[0] if answers else 'no answer'}")


class _Listener:
    """A client that is subscribed, turned by hand."""

    def __init__(
        self, address: BrokerAddress, heard: str, seconds: float, context: ssl.SSLContext | None
    ) -> None:
        self.client = new_client(address, f"self-test-{secrets.token_hex(6)}", context)
        self._address = address
        self._heard = heard
        self._seconds = seconds
        self._refused = ""
        self._granted = False
        self._seen: set[tuple[str, bytes]] = set()
        self.client.on_connect = self._on_connect
        self.client.on_subscribe = self._on_subscribe
        self.client.on_message = self._on_message

    def _on_connect(self, client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
        else:
            client.subscribe(self._heard, 1)

    def _on_subscribe(self, _c: Any, _d: Any, _mid: int, reasons: list[Any], _m: Any) -> None:
        self._granted = not any(reason.is_failure for reason in reasons)
        self._refused = "" if self._granted else f"the subscription to {self._heard}"

    def _on_message(self, _client: Any, _data: Any, message: Any) -> None:
        self._seen.add((message.topic, bytes(message.payload)))

    def __enter__(self) -> Self:
        connect(self.client, self._address)
        if not self.turn(lambda: self._granted):
            raise LinkError("L02", f"{self._address.url}: {self._refused or 'no answer'}")
        return self

    def __exit__(self, *_: object) -> None:
        self.client.disconnect()
        self.client.loop(0.01)

    def turn(self, done: Callable[[], bool]) -> bool:
        """Turn the loop until done, refused, or out of time; returns whether it is done."""
        end = time.monotonic() + self._seconds
        while not done():
            lost = self.client.loop(0.05) != 0
            if lost or self._refused or time.monotonic() > end:
                return done()
        return True

    def wait(self, topic: str, payload: bytes, otherwise: str) -> None:
        """Wait for a message, or raise L03."""
        if not self.turn(lambda: (topic, payload) in self._seen):
            raise LinkError("L03", f"{self._address.url}: {otherwise}")
