"""The server's link to the broker: one thread owns the client and calls its loop.

Each connection is a new client with a clean session: devices send again what is not
acknowledged, and orders are published again until they are echoed, so nothing depends on
what a broker or a client remembers.
"""

from __future__ import annotations

import logging
import queue
import random
import secrets
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any, Final

from wherry.endure import Enduring
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError, StoreError, WherryError
from wherry_contract.topics import RETAINED, UP, Topic

from .ingest import Arrival, Ingest
from .round_trip import connect, new_client
from .sharing import Sharing

LOG: Final = logging.getLogger("wherry.server")
_LOOP_SECONDS: Final = 0.1
_GATHER_SECONDS: Final = 0.05  # how long a batch may grow
_QUIET_SECONDS: Final = 0.005  # a pause of so long ends it
_BATCH: Final = 500
_RESUBSCRIBE_SECONDS: Final = 5.0
_RECONNECT_SECONDS: Final = 30.0
_CONNECT_SECONDS: Final = 15.0


class Link:
    """Hears every device of the fleet, and speaks to them."""

    def __init__(
        self,
        address: BrokerAddress,
        fleet: str,
        ingest: Ingest,
        on_connect: Callable[[], None],
        context: ssl.SSLContext | None = None,
        *,
        sharing: Sharing | None = None,
    ) -> None:
        """Take what it works with.

        Args:
            address: the broker.
            fleet: its name.
            ingest: takes what arrives.
            on_connect: called at each connection.
            context: for TLS.
            sharing: how messages are divided among servers; None where there is one.
        """
        self._sharing = sharing or Sharing()
        self._address = address
        self._context = context
        self._fleet = fleet
        self._ingest = ingest
        self._on_connect = on_connect
        self._stop = threading.Event()
        self._thread = Enduring("link", self._run, self._stop)
        self._outgoing: queue.SimpleQueue[tuple[str, bytes, int, bool]] = queue.SimpleQueue()
        self._arrived: list[Arrival] = []
        self._refused = ""
        self._subscribe_at = 0.0
        self.listening_since: float | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End it; what has arrived is stored first."""
        self._stop.set()
        self._thread.join(10.0)
        self._sharing.close()

    @property
    def alive(self) -> bool:
        """Whether it goes on listening, or trying to."""
        return self._thread.alive

    def publish(self, device: str, channel: str, payload: bytes) -> None:
        """Send to a device; dropped while there is no connection, to be sent again later."""
        retain = channel in RETAINED
        topic = str(Topic(self._fleet, device, channel))
        if self.listening_since is not None:
            qos = 0 if channel == "ack" else 1
            self._outgoing.put((topic, payload, qos, retain))

    def _run(self) -> None:
        attempts = 0
        while not self._stop.is_set():
            try:
                if self._session():
                    attempts = 0
            except WherryError as error:
                LOG.warning("%s", error)
            finally:
                self.listening_since = None
            attempts += 1
            ceiling = min(_RECONNECT_SECONDS, 0.2 * 2 ** min(attempts, 12))
            self._stop.wait(0.1 + random.random() * ceiling)  # noqa: S311 - jitter, no secret

    def _session(self) -> bool:
        """One connection from beginning to end; returns whether it ever listened."""
        client = new_client(self._address, f"server-{secrets.token_hex(6)}", self._context)
        client.on_connect = self._connected
        client.on_subscribe = self._subscribed
        client.on_message = self._message
        self._arrived, self._refused, self._subscribe_at = [], "", 0.0
        connect(client, self._address)
        listened, end = False, time.monotonic() + _CONNECT_SECONDS
        while not self._stop.is_set():
            lost = client.loop(_LOOP_SECONDS) != 0
            self._gather(client)
            if lost:
                return listened
            if self._refused:
                raise LinkError("L02", f"{self._address.url}: {self._refused}")
            listened = listened or self.listening_since is not None
            if not listened and time.monotonic() > end:
                raise LinkError("L01", f"{self._address.url} does not answer")
            self._attend(client)
        client.disconnect()
        client.loop(_QUIET_SECONDS)
        return True

    def _attend(self, client: Any) -> None:
        self._sharing.look()
        if self._subscribe_at and time.monotonic() >= self._subscribe_at:
            self._subscribe(client)
        while not self._outgoing.empty():
            topic, payload, qos, retain = self._outgoing.get()
            client.publish(topic, payload, qos, retain=retain)

    def _gather(self, client: Any) -> None:
        """Let a batch grow while messages keep coming, then store it and acknowledge."""
        if not self._arrived and not self._ingest.waiting:
            return
        end = time.monotonic() + _GATHER_SECONDS
        before = -1
        while before < len(self._arrived) < _BATCH and time.monotonic() < end:
            before = len(self._arrived)
            client.loop(_QUIET_SECONDS)
        arrived, self._arrived = self._arrived, []
        try:
            acks = self._ingest.take(arrived)
        except StoreError as error:
            LOG.error("nothing is acknowledged: %s", error)  # noqa: TRY400 - the error says it all
            self._stop.wait(0.5)
            return
        for device, ack in acks:
            client.publish(str(Topic(self._fleet, device, "ack")), ack.to_bytes(), 0)

    # --- callbacks, in this thread ------------------------------------------------------

    def _connected(self, client: Any, _data: Any, _flags: Any, reason: Any, _more: Any) -> None:
        if reason.is_failure:
            self._refused = str(reason)
            return
        try:
            self._ingest.connected()
        except StoreError as error:
            self._refused = str(error)
            return
        self._subscribe(client)

    def _subscribe(self, client: Any) -> None:
        self._subscribe_at = 0.0
        client.subscribe([(self._sharing.filter(self._fleet, name), 1) for name in UP])

    def _subscribed(self, _c: Any, _d: Any, _mid: int, reasons: list[Any], _m: Any) -> None:
        if any(reason.is_failure for reason in reasons):
            LOG.warning("the broker refused a subscription; it is tried again")
            self._subscribe_at = time.monotonic() + _RESUBSCRIBE_SECONDS
            return
        if self.listening_since is None:
            self.listening_since = time.time()
            self._on_connect()

    def _message(self, _client: Any, _data: Any, message: Any) -> None:
        if self._sharing.takes(message.topic):
            self._arrived.append(Arrival(message.topic, bytes(message.payload), message.retain))
