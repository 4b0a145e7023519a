"""A fleet's server that may be killed, the devices that live through it, and what it promised.

The server is `wherry serve` with its broker, TLS and a TUF root, forked under the shim
(support_victim.py). One device lives through everything: a thread that keeps what was not
acknowledged, and connects again.
"""

from __future__ import annotations

import shutil
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.client import HTTPSConnection
from pathlib import Path
from typing import Any

from support import PATIENCE, wait_for
from support_agent import FAMILY, Made, make_bundle
from support_fleet import Device, Server, window
from support_identity import context_of
from support_release import ONE, TWO, act, fetch
from support_victim import KILLED, Victims

from wherry.repository.lab import hold_ceremony
from wherry.repository.repository import Repository
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.store import Store
from wherry_agent.config import load_config
from wherry_agent.identity.enrolment import Enrolment
from wherry_agent.identity.enrolment import enrol as enrol_here
from wherry_contract.errors import WherryError
from wherry_contract.signature import FamilyTrust, TrustRoot

DAY = 86_400.0
KEYS = "--key models-1 --key models-2"
TILL = "till-0"
BUNDLES = (ONE, TWO)


class Victim(Server):
    """The server as a fork of what `Victims` keeps ready."""

    def __init__(self, data: Path, victims: Victims) -> None:
        super().__init__(data, pinned=False)
        self.victims = victims

    def begin(self, **page: int) -> bool:
        """Start it; false if it died before it was ready."""
        (self.data / "server.json").unlink(missing_ok=True)
        words = ["-v", "serve", "--data", str(self.data), "--broker", "mosquitto"]
        self.victims.start(words, self.data, **page)
        there = self.data / "server.json"
        wait_for(lambda: there.exists() or not self.victims.alive, seconds=120, what=self.said)
        return there.exists()

    def start(self) -> None:
        """Start it and wait until it says where it is."""
        assert self.begin(), self.said()

    def said(self) -> str:
        """Its log."""
        return self.victims.said.read_text()

    def bury(self) -> int:
        """Take its exit code once it has ended."""
        return self.victims.end().code

    def kill(self) -> None:
        """Kill it, if it lives, and bury it; and see its brokers end, which still write."""
        self.victims.signal(signal.SIGKILL)
        self.bury()
        wait_for(lambda: not self._has_brokers(), what="the end of its brokers")

    def _has_brokers(self) -> bool:
        folder = f"{self.data}/".encode()
        for path in Path("/proc").glob("[0-9]*/cmdline"):
            with suppress(OSError):  # it ended meanwhile
                if folder in path.read_bytes():
                    return True
        return False


@dataclass
class Shop:
    """A server, and who has to do with it."""

    server: Victim
    folder: Path
    root: bytes
    till: Device | None = None
    made: dict[int, Made] = field(default_factory=dict)
    codes: dict[str, str] = field(default_factory=dict)
    told: set[int] = field(default_factory=set)
    revoked: set[str] = field(default_factory=set)
    enough: Callable[[], bool] = lambda: False  # nobody waits for anything after that

    @property
    def data(self) -> Path:
        """The server's folder."""
        return self.server.data

    # what operators and devices do; each may be begun again -------------------------------

    def release(self, number: int) -> Made:
        """A new bundle is released."""
        made = make_bundle(f"3.0.{number}", bias=-3 + number / 1000)
        self._file(number).write_bytes(made.to_tar())
        act(self.data, f"publish {self._file(number)} --data {{data}} {KEYS}")
        self.made[number] = made
        return made

    def _file(self, number: int) -> Path:
        return self.folder / f"{number}.wherry"

    def take(self, number: int) -> Made:
        """It is taken; again, it is taken again."""
        made = self.made.get(number) or self.release(number)
        with self._file(number).open("rb") as stream:
            size = self._file(number).stat().st_size
            row = self.server.client.upload("bundles", stream, size)
        assert row["digest"] == made.digest
        return made

    def roll(self, number: int) -> str:
        """A rollout to the till is started, if none is, and followed to its end."""
        made = BUNDLES[number % 2]
        rows = self.server.client.get("rollouts")["rollouts"]
        running = [row["id"] for row in rows if row["state"] not in ("done", "reverted")]
        name = running[0] if running else self._start(made)
        self.until(lambda: self.server.client.get(f"rollouts/{name}")["state"] == "done")
        return name

    def _start(self, made: Made) -> str:
        body = {"bundle": made.digest, "select": {"till": "0"}, "waves": ["100%"], "soak_rows": 0}
        return str(self.server.client.post("rollouts", body)["id"])

    def enrol(self, number: int) -> Path:
        """A device comes with a claim code; again, with the same."""
        name = f"till-{number}"
        if name not in self.codes:
            order = {"family": FAMILY, "labels": {"till": str(number)}}
            self.codes[name] = self.server.client.post("claims", order)["codes"][0]
        url = self.server.facts["devices"]["enrol"]
        folder = self.folder / name
        config = folder / "agent.toml"
        if not config.exists():
            enrol_here(Enrolment(url, self.codes[name], name, "", folder, again=False))
        return config

    def tell(self, number: int) -> None:
        """The till sends three windows until they are acknowledged."""
        assert self.till
        if number not in self.told:
            self.told.add(number)
            for _ in range(3):
                place = self.till.place()
                found = window(TILL, place.seq, spool=self.till.spool, bundle=ONE.digest)
                self.till.send("window", found.to_bytes(), place.seq)
        self.until(lambda: not self.till.outbox if self.till else True)

    def revoke(self, number: int) -> str:
        """A device that was enrolled for it is revoked."""
        name = f"till-{number}"
        self.revoked.add(name)
        self.server.client.post(f"devices/{name}/revoke", {})
        return name

    def until(self, look: Callable[[], Any]) -> None:
        """Wait for something, for the server's end, or until it is enough."""
        alive = self.server.victims
        wait_for(
            lambda: look() or not alive.alive or self.enough(),
            seconds=120,
            what=self.server.said,
        )

    # what must hold ------------------------------------------------------------------------

    def is_let_in(self, name: str) -> bool:
        """Whether the depot answers a device."""
        config = load_config(self.folder / name / "agent.toml")
        port = int(self.server.facts["devices"]["depot"].rpartition(":")[2].partition("/")[0])
        assert config.identity
        tls = context_of(config.identity)
        asks = HTTPSConnection("127.0.0.1", port, timeout=10 * PATIENCE, context=tls)
        try:
            asks.request("GET", "/depot/blobs/sha256/" + "0" * 64)
            return asks.getresponse().status == 404
        except TimeoutError:  # no answer is none
            raise
        except OSError:  # TLS hung up
            return False
        finally:
            asks.close()

    def check_list(self) -> Mapping[str, Any]:
        """The list of releases is good for a client that comes for the first time."""
        with suppress(FileExistsError):
            (self.folder / "clients").mkdir()
        memory = self.folder / "clients" / str(time.monotonic_ns())
        return fetch(self.data / "depot", self.root, memory)[1]


def make_data(data: Path) -> bytes:
    """A fleet's folder whose list was signed 16 days ago, so that a start signs it anew.

    Returns:
        Its root.
    """
    old = time.time() - 16 * DAY
    hold_ceremony(Repository(data, lambda: old), data / "keys", [FAMILY])
    return (data / "depot" / "tuf" / "1.root.json").read_bytes()


@contextmanager
def running_shop(victims: Victims, data: Path, folder: Path) -> Iterator[Shop]:
    """A server that runs, two bundles that it took, and a till that is connected."""
    shutil.rmtree(data, ignore_errors=True)
    root = make_data(data)
    server = Victim(data, victims)
    server.start()
    shop = Shop(server, folder, root)
    for made in BUNDLES:
        path = folder / "some.wherry"
        path.write_bytes(made.to_tar())
        act(data, f"publish {path} --data {{data}} {KEYS}")
        with path.open("rb") as stream:
            server.client.upload("bundles", stream, path.stat().st_size)
    shop.till = Device(shop.enrol(0), root=fleet_root(data))
    shop.till.start()
    online = f"devices/{TILL}"
    wait_for(lambda: server.client.get(online)["online"], seconds=60, what="the till")
    try:
        yield shop
    finally:
        shop.till.stop()
        server.kill()


def check(shop: Shop, rollouts: Iterable[str]) -> None:
    """Everything that was answered is there, once."""
    client, till = shop.server.client, shop.till
    assert till
    wait_for(lambda: not till.outbox, seconds=60, what=shop.server.said)
    names = {row["device"] for row in client.get("devices")["devices"]}
    assert names == {TILL, *shop.codes}
    for name in shop.codes:
        assert shop.is_let_in(name) == (name not in shop.revoked)
    assert set(shop.check_list()) == {made.digest for made in BUNDLES}
    taken = [row["digest"] for row in client.get("bundles")["bundles"]]
    assert sorted(taken) == sorted(made.digest for made in (*BUNDLES, *shop.made.values()))
    for name in rollouts:
        row = client.get(f"rollouts/{name}")
        assert [item["after"] for item in row["decisions"]].count("done") == 1
        assert [item["outcome"] for item in row["devices"]] == ["committed"]
        assert len({order.sequence for order in till.taken if order.rollout == name}) == 1
    check_messages(shop)
    said = shop.server.said()
    assert "Traceback" not in said, said[said.index("Traceback") :][:9000]


def check_messages(shop: Shop) -> None:
    """Each message that the till has sent is stored once, and so is each report."""
    assert shop.till
    database = Database(shop.data / "fleet.sqlite")
    store = Store(database, Depot(shop.data / "depot", shop.data / "keys"))
    try:
        windows = [item.window.place.seq for item in store.windows()]
        events = [item.event for item in store.events()]
        assert len(windows) == len(set(windows)) == 3 * len(shop.told)
        assert len(windows) + len(events) == shop.till._seq
        told = [event.rollout for event in events if event.outcome]
        assert sorted(told) == sorted({order.rollout for order in shop.till.taken})
        assert store.counters().get("windows", 0) == len(windows)
        assert store.lost(TILL) == 0
    finally:
        store.close()


def fleet_root(data: Path) -> TrustRoot:
    """What a simulated device holds orders against: the keys that the fleet lists."""
    keys = Repository(data).fleet_keys()
    return TrustRoot(dict(keys.keys), {FAMILY: FamilyTrust(tuple(keys.keys))}, keys.assignment_keys)


def survives(shop: Shop, act_once: Callable[[], Any], place: int) -> bool:
    """Do something during which the server is killed, start it again, and do it to its end.

    Returns:
        Whether it was killed; not, if that takes fewer calls.
    """
    server, page = shop.server, shop.server.victims.page
    page.set(begun=0, killed=0, kill_at=place)
    with suppress(WherryError, OSError):
        act_once()
    page.set(kill_at=0)
    killed = bool(page.get("killed"))
    if killed:
        wait_for(lambda: not server.victims.alive, what="its end")
        assert server.bury() == KILLED, server.said()
        server.start()
    act_once()
    assert server.victims.alive, server.said()
    return killed
