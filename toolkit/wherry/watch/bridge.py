"""The Sparkplug bridge: asks the server now and then, and publishes what has changed."""

from __future__ import annotations

import logging
import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

import paho.mqtt.client as paho

from wherry.server.round_trip import connect, new_client
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError, SetupError, WherryError

from .sparkplug import EdgeNode, Seen, wants_rebirth

LOG: Final = logging.getLogger("wherry.sparkplug")
_PAUSE_SECONDS: Final = 5.0
_LONGEST: Final = 200  # characters
_LOOP_SECONDS: Final = 0.1
_ANSWER_SECONDS: Final = 15.0


def check_name(name: str) -> None:
    """Refuse a name that cannot be a level of a topic.

    Raises:
        SetupError: H08.
    """
    if not name or set(name) & set("/+#\0") or len(name) > _LONGEST:
        cure = "give a name without / + and #"
        raise SetupError("H08", f"{name[:40]!r} cannot be a Sparkplug name", cure=cure)


class Bridge:
    """One edge node on one broker; a connection that breaks is made again, with new births."""

    def __init__(
        self,
        address: BrokerAddress,
        node: EdgeNode,
        look: Callable[[], Sequence[Seen]],
        seconds: float,
    ) -> None:
        """Take the broker, the node, what finds the devices as they are, and how often to look."""
        self._address = address
        self._node = node
        self._look = look
        self._seconds = seconds
        self._reborn = False
        self._answer: Any = None

    def run(self) -> None:
        """Publish until interrupted; the first connection must succeed.

        Raises:
            LinkError: L01 or L02 at the first connection; L08, the server is not there.
        """
        first = True
        while True:
            try:
                self._session()
            except WherryError as error:
                if first:
                    raise
                LOG.warning("%s; again in %g s", error, _PAUSE_SECONDS)
            first = False
            time.sleep(_PAUSE_SECONDS)

    def _session(self) -> None:
        client = new_client(self._address, f"wherry-sparkplug-{secrets.token_hex(4)}")
        topic, payload = self._node.connecting(time.time())
        client.will_set(topic, payload, 1)
        self._answer = None
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        connect(client, self._address)
        try:
            self._await_answer(client)
            self._talk(client)
        finally:  # on purpose or not: who listens need not wait for the will
            topic, payload = self._node.death(time.time())
            client.publish(topic, payload, 1)
            client.loop(_LOOP_SECONDS)
            client.disconnect()
            client.on_connect = client.on_message = None

    def _await_answer(self, client: paho.Client) -> None:
        end = time.monotonic() + _ANSWER_SECONDS
        while self._answer is None and time.monotonic() < end:
            client.loop(_LOOP_SECONDS)
        if self._answer is None:
            raise LinkError("L01", self._address.url)
        if self._answer.is_failure:
            raise LinkError("L02", f"{self._address.url}: {self._answer}")

    def _talk(self, client: paho.Client) -> None:
        self._reborn, due = True, 0.0
        while client.loop(_LOOP_SECONDS) == paho.MQTT_ERR_SUCCESS:
            if not self._reborn and time.monotonic() < due:
                continue
            devices, now = self._look(), time.time()
            found = (
                self._node.birth(now, devices) if self._reborn else self._node.update(now, devices)
            )
            self._reborn, due = False, time.monotonic() + self._seconds
            for topic, payload in found:
                client.publish(topic, payload, 0)

    def _on_connect(
        self, client: paho.Client, _data: Any, _flags: Any, reason: Any, _more: Any
    ) -> None:
        self._answer = reason
        client.subscribe(self._node.commands, 1)  # before the births, as Sparkplug wants it

    def _on_message(self, _client: Any, _data: Any, message: paho.MQTTMessage) -> None:
        self._reborn = self._reborn or wants_rebirth(bytes(message.payload))
