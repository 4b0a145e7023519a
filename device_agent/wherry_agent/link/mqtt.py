"""The link to the broker: the only file that knows paho.

One thread owns the client and calls its loop. The client is never the buffer: it gets at
most twenty new messages from the outbox at a time, and a message leaves the outbox only when
the ingest acknowledges it. Each connection is a new client with a clean session, so that
nothing hides in memory; waits between tries have full jitter, so that a fleet does not
come back in step.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from wherry_agent.clock import Clock
from wherry_agent.config import AgentConfig
from wherry_agent.identity.enrolment import Keeper
from wherry_agent.identity.tls import Tls, tls_error
from wherry_contract.address import BrokerAddress
from wherry_contract.compact import join_windows
from wherry_contract.errors import LinkError, StoreError, WherryError
from wherry_contract.messages import Ack, Presence
from wherry_contract.topics import Topic

from .fact import Fact
from .outbox import Message, Outbox
from .reporting import Dispatcher

IN_FLIGHT: Final = 20
PATIENCE: Final = 5  # sent so often, a message no longer holds up the next
_MOST_SENT: Final = 200
_KINDS: Final = ("event", "window")
_KEEPALIVE_SECONDS: Final = 30
_CONNECT_SECONDS: Final = 10.0
_LOOP_SECONDS: Final = 0.2
_RESEND_CEILING_SECONDS: Final = 900.0
_RESUBSCRIBE_SECONDS: Final = 30.0
_FAREWELL_SECONDS: Final = 3.0
_HELD_SECONDS: Final = 30.0  # a connection that lasted so long ends the doubling of waits


@dataclass(frozen=True)
class Handlers:
    """Whom the link talks to.

    Attributes:
        assignment: takes a payload of the device's assignment topic.
        tell: takes an event, with a key for those that are told once.
        state: makes the state message.
        command: takes a payload of the device's command topic.
    """

    assignment: Callable[[bytes], None]
    tell: Callable[[Fact, str], None]
    state: Callable[[], bytes]
    command: Callable[[bytes], None] = lambda _payload: None


@dataclass
class _Sent:
    message: Message
    at: float
    tries: int = 1

    def due(self, seconds: float) -> float:
        return self.at + min(_RESEND_CEILING_SECONDS, seconds * (1 << min(self.tries - 1, 16)))


class Link:
    """Keeps the device in touch; lives in one thread."""

    def __init__(
        self,
        config: AgentConfig,
        session: str,
        outbox: Outbox,
        clock: Clock,
        handlers: Handlers,
        *,
        tls: Tls | None = None,
    ) -> None:
        self._config = config
        self._tls = tls if config.broker_identity else None
        self._keeper = Keeper(tls, config.device, clock, handlers.tell) if tls else None
        self._session = session
        self._outbox = outbox
        self._clock = clock
        self._handlers = handlers
        self._stop = threading.Event()
        self._changed = threading.Event()
        self._client: paho.Client | None = None
        self._attempts = 0
        self._sent: dict[int, _Sent] = {}
        self._cursors = dict.fromkeys(_KINDS, 0)
        self._dispatcher = Dispatcher(config.reporting, clock.monotonic())
        self._unsubscribed = 0.0  # when to subscribe again; 0 if nothing was refused
        self._heartbeat = 0.0
        self._twin = ""  # whom we parted from
        self._former: str | None = None  # the session before ours, as the broker kept it
        self._held = 0.0  # when this connection will have lasted
        self.connected = False

    def changed(self) -> None:
        """Ask for the state to be published soon."""
        self._changed.set()

    def stop(self) -> None:
        """End `run` soon; what is in the outbox gets a last chance first."""
        self._stop.set()

    def run(self, broker: BrokerAddress) -> None:
        """Connect, and connect again, until told to stop."""
        while not self._stop.is_set():
            try:
                self._keep_identity()
                self._session_with(broker)
            except LinkError as error:
                self._note_refusal(error)
                hour = int(self._clock.now() // 3600)
                self._handlers.tell(Fact.of(error), f"link:{error.code}:{hour}")
            if self.connected and self._former is None:
                self._former = ""  # there was nobody before us
            self.connected = False
            self._attempts += 1
            self._stop.wait(self.pause(self._attempts, random.random()))  # noqa: S311 - jitter

    def pause(self, attempts: int, chance: float) -> float:
        """Seconds before the next try: full jitter, 1 s to the configured ceiling."""
        ceiling: float = min(self._config.limits.reconnect_seconds, 1 << min(attempts, 20))
        return max(1.0, chance * ceiling)

    # --- who we are ---------------------------------------------------------------------

    def _keep_identity(self) -> None:
        if self._keeper:
            self._keeper.keep()

    def _note_refusal(self, error: LinkError) -> None:
        if self._keeper and error.code == "L10":
            self._keeper.refused(silently=False)

    def _hung_up(self, broker: BrokerAddress) -> None:
        """Find out whether the broker left because of our certificate."""
        if self._tls is None or self._keeper is None or self.connected:
            return
        if told := self._tls.lost(f"{broker.host}:{broker.port}"):
            raise told
        self._keeper.refused(silently=True)

    # --- one connection -----------------------------------------------------------------

    def _session_with(self, broker: BrokerAddress) -> None:
        client = self._new_client(broker)
        self._client = client
        self._sent, self._unsubscribed = {}, 0.0
        self._cursors = dict.fromkeys(_KINDS, 0)
        try:
            client.connect(broker.host, broker.port, _KEEPALIVE_SECONDS)
            while not self._stop.is_set():
                if client.loop(_LOOP_SECONDS) != paho.MQTT_ERR_SUCCESS:
                    self._hung_up(broker)
                    return
                if self.connected:
                    self._attend()
            self._farewell(client)
        except (OSError, ValueError) as error:
            where = f"{broker.host}:{broker.port}"
            raise tls_error(error, where) or LinkError("L01", f"{where}: {error}") from error
        finally:
            client.disconnect()  # closes what a refusal or an error left open

    def _new_client(self, broker: BrokerAddress) -> paho.Client:
        client = paho.Client(
            CallbackAPIVersion.VERSION2,
            client_id=f"{self._config.device}-{self._session}",
            clean_session=True,
        )
        client.connect_timeout = _CONNECT_SECONDS
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if broker.tls and self._tls:
            client.tls_set_context(self._tls.context())
        elif broker.tls:
            client.tls_set()
        client.will_set(self._topic("presence"), self._presence(online=False), 1, retain=True)
        client.on_connect = self._on_connect
        client.on_subscribe = self._on_subscribe
        client.on_message = self._on_message
        return client

    def _topic(self, channel: str) -> str:
        return str(Topic(self._config.fleet, self._config.device, channel))

    def _presence(self, *, online: bool) -> bytes:
        return Presence(self._config.device, online, self._session).to_bytes()

    def _attend(self) -> None:
        now = self._clock.monotonic()
        if now >= self._held:
            self._attempts = 0
        if self._unsubscribed and now >= self._unsubscribed:
            self._subscribe()
        if self._changed.is_set() or now >= self._heartbeat:
            self._publish_state(now)
        self._send_more(now)
        self._send_again(now)

    def _publish_state(self, now: float) -> None:
        self._changed.clear()
        self._keep_identity()
        self._publish("state", self._handlers.state(), retain=True)
        beat = self._config.limits.heartbeat_seconds
        self._heartbeat = now + beat * (0.8 + 0.4 * random.random())  # noqa: S311 - jitter

    def _publish(self, channel: str, payload: bytes, *, retain: bool = False) -> None:
        if self._client:
            self._client.publish(self._topic(channel), payload, 1, retain=retain)

    def _send_more(self, now: float, *, hurry: bool = False) -> None:
        """Send what is new: every event, and the windows that may go now."""
        for message in self._next("event"):
            self._send([message], now)
        for group in self._dispatcher.ready(self._next("window"), now, hurry=hurry):
            self._send(group, now)

    def _next(self, kind: str) -> list[Message]:
        # an ingest that never takes some (G07: their names are taken) must get the others
        fresh = sum(sent.tries < PATIENCE for sent in self._sent.values())
        room = min(IN_FLIGHT - fresh, _MOST_SENT - len(self._sent))
        newest = self._outbox.newest
        if room <= 0 or self._cursors[kind] >= newest:
            return []
        if kind == "window":
            room = max(room, self._config.reporting.batch_windows)
        try:
            messages = self._outbox.after(self._cursors[kind], room, kind)
        except StoreError:
            return []
        if not messages:
            self._cursors[kind] = newest
        return messages

    def _send(self, group: list[Message], now: float) -> None:
        kind, payload = group[0].kind, group[0].payload
        if len(group) > 1:
            payload = join_windows(message.payload for message in group)
        self._publish(kind, payload)
        for message in group:
            self._sent[message.seq] = _Sent(message, now)
        self._cursors[kind] = group[-1].seq

    def _send_again(self, now: float) -> None:
        for sent in self._sent.values():
            message = sent.message
            if now < sent.due(self._config.limits.acknowledge_seconds):
                continue
            if message.kind == "event" or self._dispatcher.may_send(len(message.payload), now):
                self._publish(message.kind, message.payload)
                sent.at, sent.tries = now, sent.tries + 1

    def _farewell(self, client: paho.Client) -> None:
        """Give the last window a chance, then say that we go on purpose."""
        end = self._clock.monotonic() + _FAREWELL_SECONDS
        while self.connected and self._clock.monotonic() < end:
            self._send_more(self._clock.monotonic(), hurry=True)
            if not self._sent and min(self._cursors.values()) >= self._outbox.newest:
                break
            if client.loop(0.05) != paho.MQTT_ERR_SUCCESS:
                return
        if self.connected:
            goodbye = client.publish(
                self._topic("presence"), self._presence(online=False), 1, retain=True
            )
            if goodbye.rc != paho.MQTT_ERR_SUCCESS:  # the broker has just gone; paho raises below
                return
            while not goodbye.is_published() and self._clock.monotonic() < end + 1:
                if client.loop(0.05) != paho.MQTT_ERR_SUCCESS:
                    return
        client.disconnect()
        client.loop(0.05)

    # --- callbacks, all in the owner's thread -------------------------------------------

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any
    ) -> None:
        if reason.is_failure:
            raise LinkError("L02", str(reason))
        self.connected = True
        self._held = self._clock.monotonic() + _HELD_SECONDS
        self._heartbeat = 0.0
        if self._keeper:
            self._keeper.accepted()
        self._subscribe()
        client.publish(self._topic("presence"), self._presence(online=True), 1, retain=True)

    def _subscribe(self) -> None:
        self._unsubscribed = 0.0
        if self._client:
            levels = {"assignment": 0, "ack": 0, "presence": 0, "command": 1}
            self._client.subscribe([(self._topic(name), qos) for name, qos in levels.items()])

    def _on_subscribe(
        self, _client: paho.Client, _data: Any, _mid: int, reasons: list[Any], _more: Any
    ) -> None:
        if any(reason.is_failure for reason in reasons):
            self._unsubscribed = self._clock.monotonic() + _RESUBSCRIBE_SECONDS
            fact = Fact("L02", "a subscription was refused; it is tried again", "warning")
            self._handlers.tell(fact, f"suback:{self._session}")

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        channel, payload = message.topic.rpartition("/")[2], bytes(message.payload)
        try:
            if channel == "assignment" and payload:
                self._handlers.assignment(payload)
            elif channel == "command" and payload:
                self._handlers.command(payload)
            elif channel == "ack":
                self._on_ack(Ack.from_bytes(payload))
            elif channel == "presence" and payload:
                self._on_presence(Presence.from_bytes(payload), retained=message.retain)
        except StoreError:
            pass  # what could not be dropped is sent again, and counted once
        except WherryError as error:
            self._handlers.tell(Fact.of(error), f"{error.code}:{channel}:{self._session}")

    def _on_ack(self, ack: Ack) -> None:
        rows = self._outbox.rows_of(ack)
        self._outbox.acknowledge(ack)
        for seq in list(self._sent):
            if any(first <= seq <= last for first, last in rows):
                del self._sent[seq]

    def _on_presence(self, seen: Presence, *, retained: bool) -> None:
        if seen.session == self._session:
            return
        if self._former is None and retained:
            self._former = seen.session
        if self._is_twin(seen, retained=retained):
            fact = Fact("G07", f"session {seen.session} is online too", "error")
            self._handlers.tell(fact, f"twin:{seen.session}")
            self._part_from(seen.session)
        if not seen.online:  # the will of another session came late: we are here
            self._publish("presence", self._presence(online=True), retain=True)

    def _is_twin(self, seen: Presence, *, retained: bool) -> bool:
        """Whether another agent has our id.

        Where an identity has but one connection, twins push each other out and never meet:
        each finds the other's farewell when it comes back.
        """
        if seen.online and not retained:
            return True
        return self._tls is not None and seen.session != self._former

    def _part_from(self, twin: str) -> None:
        """Take another spool, in case the twin's whole machine was copied from ours."""
        if twin != self._twin:  # it says so at each reconnect
            self._outbox.renew()
            self._twin = twin
            self.changed()
