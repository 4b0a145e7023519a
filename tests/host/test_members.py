"""Several servers share one fleet on PostgreSQL: whichever dies, nothing is lost, nothing runs twice."""

from __future__ import annotations

import random
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from support import Mosquitto, accepts, free_port, running_mosquitto, wait_for
from support_agent import make_bundle
from support_fleet import Behaviour, Device, Server, enrol, running_devices, window
from support_postgres import Postgres, postgres, running_postgres

from wherry.broker import find_engine
from wherry.client import Client
from wherry.server.database import Database
from wherry.server.depot import Depot
from wherry.server.duty import SHARDS, Duty, Shards, shard
from wherry.server.round_trip import shares
from wherry.server.store import Store
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import StoreError, WherryError
from wherry_contract.messages import Place
from wherry_contract.signature import TrustRoot

MADE = make_bundle()


# --- who does what --------------------------------------------------------------------------


@contextmanager
def two(url: str) -> Iterator[tuple[Database, Database]]:
    """Two servers' views of a store."""
    one, other = Database(url), Database(url)
    try:
        yield one, other
    finally:
        one.close()
        other.close()


def test_a_duty_is_ones_until_it_goes() -> None:
    with two(postgres().database()) as (one, other):
        first, second = Duty(one, "work"), Duty(other, "work")
        with first.held() as mine, second.held() as too:
            assert (mine, too) == (True, False)
        with second.held() as mine:
            assert not mine  # it stays with the first, who may come back to it
        first.leave()
        with second.held() as mine:
            assert mine
        third = Duty(one, "other work")
        with third.held() as mine:
            assert mine
        for duty in (first, second, third):
            duty.leave()


def test_who_lost_the_lock_cannot_write() -> None:
    """The lock's connection is the one that is written through: both are gone together."""
    server = postgres()
    with two(server.database()) as (one, other):
        first, second = Duty(one, "work"), Duty(other, "work")
        held = first.held()
        assert held.__enter__()
        name = str(one._engine.url.database)
        server.ask(
            "SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'", name
        )
        wait_for(lambda: _takes(second), what="the lock to pass on")
        with pytest.raises(StoreError) as caught, one.writing() as connection:
            connection.exec_driver_sql("INSERT INTO meta VALUES ('late', 'write')")
        assert caught.value.code == "D08"
        assert not held.__exit__(StoreError, caught.value, None)  # it goes on up
        assert not first.mine
        with one.reading() as connection:
            found = connection.exec_driver_sql("SELECT count(*) FROM meta WHERE name = 'late'")
            assert found.scalar() == 0
        second.leave()


def _takes(duty: Duty) -> bool:
    with duty.held() as mine:
        return mine


def test_servers_divide_the_shards() -> None:
    url = postgres().database()
    with two(url) as (one, other):
        first, second = (Shards(database, steady=_clock()) for database in (one, other))
        first.look()
        assert len(first._mine) == SHARDS  # alone
        for _ in range(3):
            second.look()
            first.look()
        second.look()
        assert len(first._mine) == len(second._mine) == SHARDS // 2
        assert not first._mine & second._mine
        assert first.holds("till-1") != second.holds("till-1")
        first.close()
        for _ in range(2):
            second.look()
        assert len(second._mine) == SHARDS
        second.close()
        assert {shard(f"till-{place}") for place in range(200)} == set(range(SHARDS))


def _clock() -> Any:
    """A clock on which it is always time to look."""
    moments = iter(range(0, 10_000, 10))
    return lambda: float(next(moments))


@pytest.mark.parametrize(("kind", "wanted"), [("mosquitto", True), ("nats", False)])
def test_whether_a_broker_shares_out_is_tried(kind: str, wanted: bool, tmp_path: Path) -> None:  # noqa: FBT001 - a row
    with running_broker(kind, tmp_path) as url:
        assert shares(BrokerAddress.from_url(url), "fleet", seconds=1.0) is wanted


@contextmanager
def running_broker(kind: str, folder: Path) -> Iterator[str]:
    """A broker where everybody may do everything."""
    if kind == "mosquitto":
        with running_mosquitto(folder / "mosquitto") as broker:
            yield broker.url
        return
    port, settings = free_port(), folder / "nats.conf"
    settings.write_text(
        f'server_name: n\nlisten: "127.0.0.1:{free_port()}"\n'
        f'jetstream {{ store_dir: "{folder}/nats" }}\nmqtt {{ listen: "127.0.0.1:{port}" }}\n'
    )
    with (folder / "nats.log").open("wb") as log:
        command = [find_engine("nats").program, "-c", str(settings)]
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        wait_for(lambda: accepts(port), what="nats-server")
        yield f"mqtt://127.0.0.1:{port}"
    finally:
        server.kill()
        server.wait()


# --- three servers --------------------------------------------------------------------------


class Teller(Device):
    """A device whose windows come from another thread than its events."""

    _turn = threading.Lock()

    def place(self) -> Place:
        """The next place."""
        with self._turn:
            return super().place()

    def tell(self) -> None:
        """Put one more window into the outbox."""
        place = self.place()
        made = window(self.config.device, place.seq, spool=self.spool)
        self.send("window", made.to_bytes(), place.seq)


@dataclass
class Trio:
    """Three servers of one fleet, and its devices."""

    url: str
    servers: list[Server]
    devices: list[Teller] = field(default_factory=list)

    def ask(self, path: str) -> dict[str, Any]:
        """What any server says that can be asked now; {} if none can."""
        for server in self.servers:
            try:
                found: dict[str, Any] = server.client.get(path)
            except (WherryError, OSError):
                continue
            return found
        return {}

    def client(self) -> Client:
        """Of the first server."""
        return self.servers[0].client


@contextmanager
def trio(folder: Path, database: Postgres, broker: str, *, devices: int = 3) -> Iterator[Trio]:
    url, data = database.database(), folder / "data"
    words = ["--plain", "--store", url, "--broker", broker]
    servers = [
        Server(data, *words, pinned=True, member=member) for member in ("", "second", "third")
    ]
    with ExitStack() as stack:
        for server in servers:
            stack.callback(server.kill)
            server.start()
        found = Trio(url, servers)
        pinned = TrustRoot.from_bytes
        configs = [enrol(servers[place % 3], f"till-{place}") for place in range(devices)]
        found.devices = [
            Teller(path, Behaviour(), pinned((path.parent / "trust.json").read_bytes()))
            for path in configs
        ]
        stack.enter_context(running_devices(*found.devices))
        yield found


def begin(found: Trio) -> str:
    """Start a rollout in two waves; returns its id."""
    path = found.servers[0].data.parent / "made.wherry"
    path.write_bytes(MADE.to_tar())
    with path.open("rb") as stream:
        found.client().upload("bundles", stream, path.stat().st_size)
    order = {"bundle": MADE.digest, "waves": ["1", "100%"]}
    name: str = found.client().post("rollouts", order)["id"]
    return name


def check(found: Trio, name: str, told: int) -> None:
    """Nothing was lost, and nothing happened twice."""
    wait_for(
        lambda: found.ask(f"rollouts/{name}").get("state") == "done",
        seconds=120.0,
        what=lambda: f"the rollout: {found.ask(f'rollouts/{name}')}",
    )
    wait_for(
        lambda: not any(device.outbox for device in found.devices),
        seconds=120.0,
        what="acknowledgements",
    )
    row = found.ask(f"rollouts/{name}")
    assert [step["event"] for step in row["decisions"]] == ["passed", "finished"]
    assert {item["outcome"] for item in row["devices"]} == {"committed"}
    for device in found.devices:
        assert [order.sequence for order in device.taken] == [1]
    store = Store(Database(found.url), Depot(found.servers[0].data, found.servers[0].data))
    windows = store.windows()
    counters = store.counters()
    store.close()
    places = {(item.device, item.window.place.seq) for item in windows}
    assert len(windows) == len(places) == told == counters["windows"]
    assert counters["events"] == len(found.devices)


@pytest.mark.parametrize(
    "seed", [1, *(pytest.param(n, marks=pytest.mark.long) for n in range(2, 12))]
)
@pytest.mark.slow
def test_whichever_server_is_killed(tmp_path: Path, mosquitto: Mosquitto, seed: int) -> None:
    chance = random.Random(seed)
    with trio(tmp_path, postgres(), mosquitto.url) as found:
        name = begin(found)
        told = 0
        for _turn in range(3):
            victim = chance.choice(found.servers)
            end = time.monotonic() + chance.uniform(0.0, 1.0)
            while time.monotonic() < end:
                for device in found.devices:
                    device.tell()
                    told += 1
                time.sleep(0.02)
            victim.kill()
            for device in found.devices:
                device.tell()
                told += 1
            victim.start()
        check(found, name, told)


@pytest.mark.slow
def test_a_database_that_is_away_for_a_while(tmp_path: Path) -> None:
    """By a broker that shares nothing out: servers divide the devices among themselves."""
    with (
        running_postgres(durable=True) as database,
        running_broker("nats", tmp_path) as broker,
        trio(tmp_path, database, broker) as found,
    ):
        name = begin(found)
        told = 0
        database.kill()
        end = time.monotonic() + 3.0
        while time.monotonic() < end:
            for device in found.devices:
                device.tell()
                told += 1
            time.sleep(0.1)
        assert any(device.outbox for device in found.devices)
        database.start()
        check(found, name, told)
