"""What tests of the fleet's server share: a real server, and devices that speak its protocol.

A simulated device scores nothing: it reads its own agent.toml, verifies its orders by the root
that it was born with (or by the keys that it pins), and reports, sends and sends again as
SPEC-mqtt.md wants it, over real MQTT.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion
from support import PATIENCE, wait_for
from support_agent import Made, keys, public_key

from wherry.client import Client
from wherry.identity.authority import make_request
from wherry.release import Releases
from wherry.repository.lab import open_keys
from wherry.rows import DeviceRow
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.store import Store
from wherry_agent.config import AgentConfig, load_config
from wherry_agent.identity.tls import Tls
from wherry_agent.trust.tuf_trust import FOLDER, is_root
from wherry_agent.trust.tuf_verify import Verifier
from wherry_contract.address import BrokerAddress
from wherry_contract.assignment import Assignment, open_assignment
from wherry_contract.errors import WherryError
from wherry_contract.histograms import LATENCY_BINS, SCORE_BINS
from wherry_contract.messages import Ack, Event, Place, Presence, State, unwrap_assignment
from wherry_contract.signature import TrustRoot
from wherry_contract.slots import FeatureCounts
from wherry_contract.topics import Topic
from wherry_contract.window import Window

FAMILY = "fraud"
BUNDLE = "sha256:" + "b" * 64
EDGES = "sha256:" + "e" * 64


# --- messages -------------------------------------------------------------------------------


def window(device: str, seq: int, *, spool: str = "0" * 16, oldest: int = 1, **more: Any) -> Window:
    """A plausible window of 10 rows."""
    rows = 10
    counts = FeatureCounts((4, 6))
    values: dict[str, Any] = {
        "bundle": BUNDLE,
        "edges": EDGES,
        "opened": 1.7e9,
        "closed": 1.7e9 + 60,
        "rows": rows,
        "flagged": 1,
        "fallback": 0,
        "errors": {},
        "features": {"AMOUNT": counts},
        "scores": (rows,) + (0,) * (SCORE_BINS - 1),
        "latency": (rows,) + (0,) * (LATENCY_BINS - 1),
        "reason": "rows",
    }
    return Window(Place(device, spool, seq, oldest), **(values | more))


def event(device: str, seq: int, *, spool: str = "0" * 16, **more: Any) -> Event:
    """A plain event."""
    values: dict[str, Any] = {"code": "update.fetch", "text": "", "at": 1.7e9}
    return Event(Place(device, spool, seq, 1), **(values | more))


def state(device: str, **more: Any) -> State:
    """A plain report."""
    values: dict[str, Any] = {
        "agent": "0.1.0",
        "runtime": "onnxruntime",
        "runtime_version": "1.27.0",
        "architecture": "x86_64",
        "labels": {},
        "session": "1" * 16,
        "spool": "0" * 16,
        "phase": "idle",
        "rollout": "",
        "sequences": {},
        "active": "",
        "bundle": "",
        "bundle_name": "",
        "bundle_version": "",
        "trust": "empty",
        "fallback": False,
        "started_at": 1.7e9,
        "reported_at": 1.7e9,
    }
    return State(device=device, **(values | more))


# where the store of a folder is: `either_store` of conftest lets a test run on PostgreSQL, too
PLACE: ContextVar[Callable[[Path], Path | str]] = ContextVar(
    "PLACE", default=lambda folder: folder / "fleet.sqlite"
)


@contextmanager
def open_store(folder: Path, *devices: str) -> Iterator[Store]:
    """A store with these devices enrolled."""
    store = Store(Database(PLACE.get()(folder)), Depot(folder / "depot", folder / "keys"))
    for name in devices:
        store.enrol(DeviceRow(name, FAMILY, {}, 1.0))
    try:
        yield store
    finally:
        store.close()


# --- a server -------------------------------------------------------------------------------


class Server:
    """`wherry serve` as a process of its own; its devices are born with a root, or pin keys."""

    def __init__(self, data: Path, *arguments: str, pinned: bool = False, member: str = "") -> None:
        self.data = data
        self.own = data / "members" / member if member else data
        more = ["--pinned"] if pinned else []
        self._arguments = [*arguments, *more, *(["--member", member] if member else [])]
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it says where it is."""
        self.own.mkdir(parents=True, exist_ok=True)
        trust_keys(self.data)
        (self.own / "server.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "wherry", "-v", "serve", "--data", str(self.data)]
        with (self.own / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*command, *self._arguments], stdout=log, stderr=log, start_new_session=True
            )
        wait_for(self._is_ready, what="wherry serve")

    def _is_ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.own / "log").read_text()
        return (self.own / "server.json").exists()

    @property
    def facts(self) -> dict[str, Any]:
        """What it wrote into server.json."""
        found: dict[str, Any] = json.loads((self.own / "server.json").read_text())
        return found

    @property
    def client(self) -> Client:
        """Its client, with the token."""
        return Client(self.facts["url"], (self.data / "token").read_text())

    @property
    def pid(self) -> int:
        """Of the server's process."""
        assert self._process
        return self._process.pid

    def kill(self) -> None:
        """Kill it without a word."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self, which: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; returns its exit code."""
        assert self._process
        self._process.send_signal(which)
        code = self._process.wait(15 * PATIENCE)
        self._process = None
        return code

    def children(self) -> list[int]:
        """Processes that it started, the broker among them."""
        found = Path(f"/proc/{self.pid}/task").glob("*/children")
        return [int(pid) for path in found for pid in path.read_text().split()]


@contextmanager
def running_server(data: Path, *arguments: str, pinned: bool = False) -> Iterator[Server]:
    """A server for the length of a block."""
    server = Server(data, *arguments, pinned=pinned)
    server.start()
    try:
        yield server
    finally:
        server.kill()


def trust_keys(data: Path) -> None:
    """Let the tests' bundle key sign for this server."""
    folder = data / "keys"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tests.pub.json").write_text(json.dumps(public_key(keys().bundle).to_dict()))


def release(data: Path, made: Made) -> None:
    """List a bundle as released, signed by everybody who must, as `wherry publish` does."""
    releases = Releases(data)
    path = data.parent / f"{made.digest.partition(':')[2][:12]}.wherry"
    if path.exists():  # it was
        return
    path.write_bytes(made.to_tar())
    new = f"models/{made.parts.manifest.family}" not in releases.repository.families()
    people = ["models-1", "models-2", *(["targets-1", "targets-2"] if new else [])]
    releases.stage(path, 0)
    assert releases.finish(open_keys(data / "keys", people)).complete


def wherry(data: Path, *arguments: str, ok: int = 0) -> subprocess.CompletedProcess[str]:
    """Run a command against the server of a data folder; checks its exit code."""
    found = subprocess.run(
        [sys.executable, "-m", "wherry", *arguments],
        env=os.environ | {"WHERRY_HOME": str(data), "COLUMNS": "200"},
        capture_output=True,
        text=True,
        timeout=60 * PATIENCE,
        check=False,
        stdin=subprocess.DEVNULL,
    )
    assert found.returncode == ok, found.stdout + found.stderr
    return found


# --- devices --------------------------------------------------------------------------------


def judge(config: AgentConfig, pinned: TrustRoot | None) -> Callable[[bytes], Assignment]:
    """The device's own verification of an order, in this process and not in a child.

    Args:
        config: of the device.
        pinned: keys to judge by without asking the server for a list, as while that is killed.
    """
    if pinned or not is_root(config.trust):
        root = pinned or TrustRoot.from_bytes(config.trust.read_bytes())
        return lambda envelope: open_assignment(envelope, root)
    who = config.identity
    about = {
        "task": "assignment",
        "root": str(config.trust),
        "folder": str(config.state_dir / FOLDER),
        "place": {"url": config.depot},
        "identity": who and {name: str(value) for name, value in asdict(who).items()},
    }

    def verify(envelope: bytes) -> Assignment:
        with closing(Verifier.open(about | {"now": time.time()})) as verifier:
            said = verifier.assignment({"envelope": base64.b64encode(envelope).decode()})
        return Assignment.from_bytes(said["payload"].encode(), said["keyid"])

    return verify


@dataclass
class Behaviour:
    """What a simulated device does with an order.

    Attributes:
        ends: ``committed``, ``refused`` or ``reverted``, by bundle digest; committed else.
        stays: the phase in which it stays; "" for none.
        vanishes: the phase in which its power is cut; "" for none.
    """

    ends: dict[str, str] = field(default_factory=dict)
    stays: str = ""
    vanishes: str = ""


class Device(threading.Thread):
    """A light device: orders in, reports, windows and events out, until acknowledged."""

    def __init__(
        self, config: Path, behaviour: Behaviour | None = None, root: TrustRoot | None = None
    ) -> None:
        found = load_config(config)
        super().__init__(name=found.device, daemon=True)
        assert found.broker
        self.config = found
        self.behaviour = behaviour or Behaviour()
        self.session, self.spool = secrets.token_hex(8), secrets.token_hex(8)
        self.outbox: dict[int, tuple[str, bytes]] = {}
        self.taken: list[Assignment] = []
        self.heard: list[bytes] = []
        self.refused: dict[int, str] = {}
        self.bundle, self.proven, self.phase, self.rollout = "", "empty", "idle", ""
        self.sequences: dict[str, int] = {}
        self.mute = False  # whether what it says gets no further than its outbox
        self._judge = judge(found, root)
        self._seq = 0
        self._sent: dict[int, float] = {}
        self._stopped = threading.Event()
        self._cut = self._due = False
        self._orders: list[bytes] = []
        self._client: paho.Client | None = None

    # what happens to it

    def cut(self) -> None:
        """Pull its plug: no farewell."""
        self._cut = True
        self.stop()

    def stop(self) -> None:
        """End it."""
        self._stopped.set()
        if self.is_alive() and threading.current_thread() is not self:
            self.join(5 * PATIENCE)

    def send(self, channel: str, payload: bytes, seq: int) -> None:
        """Put a message into the outbox."""
        self.outbox[seq] = (channel, payload)

    def report_soon(self) -> None:
        """Report as it is now."""
        self._due = True

    @property
    def proven_bundle(self) -> str:
        """What it serves, if that has proven itself."""
        return self.bundle if self.proven == "good" else ""

    def place(self) -> Place:
        """The next place."""
        self._seq += 1
        return Place(self.config.device, self.spool, self._seq, 1)

    # its life

    def run(self) -> None:
        """Connect, and connect again, until stopped."""
        while not self._stopped.is_set():
            with suppress(OSError):
                self._session()
            self._stopped.wait(0.1)

    def _session(self) -> None:
        broker = self.config.broker
        assert broker
        name = f"{self.config.device}-{self.session}"
        client = paho.Client(CallbackAPIVersion.VERSION2, client_id=name, clean_session=True)
        if broker.username:
            client.username_pw_set(broker.username, broker.password)
        if self.config.identity and self.config.broker_identity:
            client.tls_set_context(Tls(self.config.identity, time.time).context())
        client.will_set(self._topic("presence"), self._presence(online=False), 1, retain=True)
        client.on_connect = self._on_connect
        client.on_message = self._on_message
        self._client, self._sent = client, {}
        try:
            self._talk(client, broker)
        finally:  # else client and device would hold each other, and its sockets
            client.on_connect = client.on_message = None

    def _talk(self, client: paho.Client, broker: BrokerAddress) -> None:
        client.connect(broker.host, broker.port, 10)
        while not self._stopped.is_set():
            if client.loop(0.02) != 0:
                return
            if client.is_connected():
                self._work()
        if self._cut:
            client.socket().close()  # type: ignore[union-attr]  # connected a moment ago
            return
        client.publish(self._topic("presence"), self._presence(online=False), 1, retain=True)
        client.loop(0.05)
        client.disconnect()

    def _topic(self, channel: str) -> str:
        return str(Topic(self.config.fleet, self.config.device, channel))

    def _presence(self, *, online: bool) -> bytes:
        return Presence(self.config.device, online, self.session).to_bytes()

    def _on_connect(self, client: paho.Client, *_: object) -> None:
        client.subscribe([(self._topic(channel), 0) for channel in ("assignment", "ack")])
        client.publish(self._topic("presence"), self._presence(online=True), 1, retain=True)
        self._report()

    def _on_message(self, _client: object, _data: object, message: paho.MQTTMessage) -> None:
        payload = bytes(message.payload)
        if message.topic.endswith("/ack"):
            ack = Ack.from_bytes(payload)
            if ack.spool == self.spool:
                self.refused |= dict(ack.refused)
                done = [s for s in self.outbox if any(a <= s <= b for a, b in ack.stored)]
                for seq in [*done, *self.refused]:
                    self.outbox.pop(seq, None)
        elif payload:
            self.heard.append(payload)
            self._orders.append(payload)

    def _report(self) -> None:
        now = time.time()
        found = state(
            self.config.device,
            labels=dict(self.config.labels),
            session=self.session,
            spool=self.spool,
            phase=self.phase,
            rollout=self.rollout,
            sequences=dict(self.sequences),
            active="a" if self.bundle else "",
            bundle=self.bundle,
            bundle_name="fraud" if self.bundle else "",
            bundle_version="1",
            trust=self.proven,
            started_at=now,
            reported_at=now,
        )
        assert self._client
        if not self.mute:
            self._client.publish(self._topic("state"), found.to_bytes(), 1, retain=True)

    def _work(self) -> None:
        assert self._client
        now = time.monotonic()
        if self._due:
            self._due = False
            self._report()
        for seq, (channel, payload) in list(self.outbox.items()):
            if not self.mute and now - self._sent.get(seq, -99) > 1.0:
                self._client.publish(self._topic(channel), payload, 1)
                self._sent[seq] = now
        while self._orders and not self._stopped.is_set():
            with suppress(WherryError):
                order = self._judge(unwrap_assignment(self._orders.pop(0)))
                if order.sequence > self.sequences.get(order.keyid, 0):
                    self._obey(order)

    def _obey(self, order: Assignment) -> None:
        self.taken.append(order)
        self.sequences[order.keyid] = order.sequence
        self.rollout = order.rollout
        if not order.digest:
            self._end(order, "withdrawn")
        elif order.digest == self.bundle and self.proven == "good":
            self._end(order, "committed")
        else:
            self._install(order)

    def _install(self, order: Assignment) -> None:
        before = (self.bundle, self.proven)
        end = self.behaviour.ends.get(order.digest, "committed")
        path = ["fetch", "probe"] if end == "refused" else ["fetch", "probe", "switch", "soak"]
        for phase in path:
            self.phase = phase
            if phase == "switch":
                self.bundle, self.proven = order.digest, "unproven"
            self._report()
            if phase == self.behaviour.vanishes:
                assert self._client
                for _ in range(10):  # let the report go out, then pull the plug
                    self._client.loop(0.02)
                self._cut = True
                self._stopped.set()
                return
            if phase == self.behaviour.stays:
                return
        if end == "committed":
            self.proven = "good"
        else:
            self.bundle, self.proven = before
        self._end(order, end)

    def _end(self, order: Assignment, outcome: str) -> None:
        self.phase = "idle"
        place = self.place()
        code = {"refused": "P01", "reverted": "U06"}.get(outcome, f"update.{outcome}")
        found = Event(
            place,
            code,
            "golden vectors disagree" if code == "P01" else outcome,
            time.time(),
            rollout=order.rollout,
            bundle=order.digest,
            outcome=outcome,
        )
        self.send("event", found.to_bytes(), place.seq)
        self._report()


def enrol(server: Server, name: str, **labels: str) -> Path:
    """Enrol a device, as `wherry device add` does; returns its agent.toml."""
    key, csr = make_request()
    order = {"device": name, "family": FAMILY, "labels": labels, "csr": csr}
    files = server.client.post("devices", order)["files"]
    folder = server.data.parent / f"device-{name}"
    folder.mkdir()
    (folder / "device.key").write_bytes(key)
    for file, text in files.items():
        (folder / file).write_text(text)
    return folder / "agent.toml"


@contextmanager
def running_devices(*devices: Device) -> Iterator[None]:
    """Devices for the length of a block."""
    for device in devices:
        device.start()
    try:
        yield
    finally:
        for device in devices:
            device.stop()
