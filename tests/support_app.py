"""What tests of the whole agent share: its process, and a fleet's side that stores and acknowledges."""

from __future__ import annotations

import http.client
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from support import PATIENCE, Mosquitto, wait_for
from support_agent import DEVICE, FLEET, Made, write_agent_config

from wherry_agent.config import load_config
from wherry_agent.status import read_status
from wherry_contract.compact import is_compact, read_window, split_windows
from wherry_contract.messages import Ack, Event, Presence, State, ranges
from wherry_contract.profile import ReferenceProfile
from wherry_contract.topics import Topic
from wherry_contract.window import Window

ROW = {"AMOUNT": 12.5, "NIGHTS": 2, "RISK": 3}
QUICK = {
    "reconnect_seconds": 1.0,
    "acknowledge_seconds": 0.5,
    "heartbeat_seconds": 5.0,
    "probe_seconds": 30 * PATIENCE,
}


class AgentProcess:
    """A real `wherry-agent run` in a folder of its own."""

    def __init__(self, folder: Path, *, before: Sequence[str] = (), **settings: Any) -> None:
        """Write its files, unless it has them (`fresh`); `before` are programs to run it under."""
        self.config = folder / "agent.toml"
        if settings.pop("fresh", True):
            write_agent_config(folder, **(QUICK | settings))
        self.folder = folder
        self.state_dir = folder / "state"
        self._before = before
        self._log = folder / "agent.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, environment: Mapping[str, str] | None = None, ready: bool = True) -> Self:
        """Start it, and wait until its port answers."""
        (self.state_dir / "listening").unlink(missing_ok=True)
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._before, *agent_command("run", "--config", str(self.config))],
                stdout=log,
                stderr=log,
                env=dict(os.environ) | dict(environment or {}),
            )
        if ready:
            wait_for(lambda: self._has_port() or self._ended(), what=self.log)
            assert self.process.poll() is None, self.log()
        return self

    def _has_port(self) -> bool:
        return (self.state_dir / "listening").exists()

    def _ended(self) -> bool:
        return self.process is None or self.process.poll() is not None

    def log(self) -> str:
        """What it said so far."""
        return self._log.read_text()

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.process:
            self.process.kill()
            self.process.wait()

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Ask it to end; returns its exit code."""
        assert self.process
        self.process.send_signal(number)
        return self.process.wait(30 * PATIENCE)

    def status(self) -> dict[str, Any]:
        """What its state folder says."""
        return read_status(load_config(self.config))

    @property
    def phase(self) -> str:
        """Where its update is, on disk."""
        return str(self.status()["phase"])

    @property
    def serving(self) -> str:
        """The digest of the active slot."""
        found = self.status()
        return str(found["slots"][found["active"]]["digest"]) if found["active"] else ""

    @property
    def trust(self) -> str:
        """What the active slot has proven."""
        found = self.status()
        return str(found["slots"][found["active"]]["trust"]) if found["active"] else ""

    @property
    def address(self) -> tuple[str, int]:
        """Where it serves."""
        host, _, port = (self.state_dir / "listening").read_text().strip().rpartition(":")
        return host, int(port)

    def ask(self, *rows: Mapping[str, Any], model: str = "fraud") -> tuple[int, dict[str, Any]]:
        """Have rows scored."""
        client = http.client.HTTPConnection(*self.address, timeout=10 * PATIENCE)
        try:
            body = json.dumps({"rows": rows or [ROW]})
            client.request("POST", f"/v2/models/{model}/infer", body)
            response = client.getresponse()
            return response.status, json.loads(response.read())
        finally:
            client.close()


def agent_command(*arguments: str) -> list[str]:
    """The agent's command line."""
    return [sys.executable, "-m", "wherry_agent", *arguments]


def run_agent_command(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one command of the agent to its end."""
    return subprocess.run(
        agent_command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        timeout=60 * PATIENCE,
    )


@contextmanager
def agent_process(folder: Path, **settings: Any) -> Iterator[AgentProcess]:
    """An agent that is killed at the end of the block if it still runs."""
    agent = AgentProcess(folder, **settings)
    try:
        yield agent
    finally:
        agent.kill()


class Traffic(threading.Thread):
    """A till that sends a row every few milliseconds, and remembers what went wrong."""

    def __init__(self, agent: AgentProcess) -> None:
        super().__init__(daemon=True)
        self._agent = agent
        self._ended = threading.Event()
        self.bundles: set[str] = set()
        self.rows = 0
        self.failures: list[str] = []

    def run(self) -> None:
        """Send until told to end."""
        while not self._ended.wait(0.01):
            try:
                status, answer = self._agent.ask()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                continue
            if status == 200:
                self.rows += 1
                self.bundles.add(answer["parameters"]["bundle"])
            else:
                self.failures.append(str(answer))

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join(10 * PATIENCE)


class Fleet:
    """The other end of the broker: stores what devices say, and acknowledges it if wanted."""

    def __init__(
        self, broker: Mosquitto, *, acknowledge: bool = True, known: Sequence[Made] = ()
    ) -> None:
        """Take the broker, whether to acknowledge, and bundles whose compact windows are read."""
        self._broker = broker
        self._known = known
        self.heard: list[tuple[str, bytes]] = []
        self.acknowledge = acknowledge
        self.windows: dict[tuple[str, int], Window] = {}
        self.events: dict[tuple[str, int], Event] = {}
        self.states: list[State] = []
        self.presence: list[Presence] = []
        self.arrivals = 0
        self._client = paho.Client(CallbackAPIVersion.VERSION2, clean_session=True)
        self._client.reconnect_delay_set(0.1, 0.2)
        self._client.on_connect = self._on_connect
        self._client.on_message = self._on_message
        self._subscribed = threading.Event()
        self._client.on_subscribe = lambda *_: self._subscribed.set()

    def _on_connect(self, client: paho.Client, *_: Any) -> None:
        client.subscribe(f"wherry/v1/{FLEET}/+/+", 1)

    def _on_message(self, _client: paho.Client, _data: Any, message: paho.MQTTMessage) -> None:
        channel, payload = message.topic.rpartition("/")[2], bytes(message.payload)
        self.heard.append((channel, payload))
        if channel == "window" and is_compact(payload):
            for body in split_windows(payload):
                window = read_window(body, DEVICE, self._find)
                self.windows[window.place.spool, window.place.seq] = window
                self._store(window.place.spool, window.place.seq)
        elif channel == "window":
            window = Window.from_bytes(payload)
            self.windows[window.place.spool, window.place.seq] = window
            self._store(window.place.spool, window.place.seq)
        elif channel == "event":
            event = Event.from_bytes(payload)
            self.events[event.place.spool, event.place.seq] = event
            self._store(event.place.spool, event.place.seq)
        elif channel == "state" and payload:
            self.states.append(State.from_bytes(payload))
        elif channel == "presence" and payload:
            self.presence.append(Presence.from_bytes(payload))

    def _find(self, first: bytes) -> tuple[str, ReferenceProfile]:
        (found,) = (made for made in self._known if made.digest[7:].startswith(first.hex()))
        return found.digest, found.parts.profile

    def _store(self, spool: str, seq: int) -> None:
        self.arrivals += 1
        if self.acknowledge:
            self.publish("ack", Ack(spool, ranges([seq])).to_bytes())

    def publish(self, channel: str, payload: bytes, *, retain: bool = False) -> None:
        """Say something to the device."""
        self._client.publish(str(Topic(FLEET, DEVICE, channel)), payload, 1, retain=retain)

    def order(self, payload: bytes) -> None:
        """Put an assignment there, retained."""
        self.publish("assignment", payload, retain=True)

    def __enter__(self) -> Self:
        self._client.connect("127.0.0.1", self._broker.port)
        self._client.loop_start()
        assert self._subscribed.wait(10 * PATIENCE)
        return self

    def __exit__(self, *_: object) -> None:
        self._client.disconnect()
        self._client.loop_stop()

    @property
    def rows(self) -> int:
        """Rows of all windows that arrived, each counted once."""
        return sum(window.rows for window in list(self.windows.values()))

    def codes(self) -> list[str]:
        """Codes of the events, in their order."""
        found = sorted(self.events.items(), key=lambda item: item[0][1])
        return [event.code for _, event in found]

    def outcomes(self) -> list[tuple[str, str]]:
        """(outcome, bundle) of the reports of updates."""
        found = sorted(self.events.items(), key=lambda item: item[0][1])
        return [(event.outcome, event.bundle) for _, event in found if event.outcome]
