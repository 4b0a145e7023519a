"""The server's threads: none of them ends unseen, whatever is thrown in it."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import pytest
from support import Mosquitto, free_port, wait_for
from support_fleet import open_store, window

from wherry.broker import Accounts, Supervised, find_engine
from wherry.endure import Enduring
from wherry.server.database import Database
from wherry.server.driver import Driver, Radio
from wherry.server.ingest import Ingest
from wherry.server.link import Link
from wherry.server.orders import AssignmentSigner
from wherry.server.round_trip import connect, new_client
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import StoreError


class Flaky:
    """Fails a few times, and works from then on."""

    def __init__(self, times: int) -> None:
        self.calls = 0
        self._times = times

    def __call__(self) -> None:
        """Fail, or not any more."""
        self.calls += 1
        if self.calls <= self._times:
            raise RuntimeError(f"trouble {self.calls}")


def test_work_that_throws_begins_again_and_is_not_alive_meanwhile(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stop, go, flaky = threading.Event(), threading.Event(), Flaky(1)

    def work() -> None:
        flaky()
        go.wait(20)

    thread = Enduring("work", work, stop)
    assert not thread.alive
    thread.start()
    wait_for(lambda: flaky.calls == 2)
    wait_for(lambda: thread.alive)
    assert "trouble 1" in caplog.text
    stop.set()
    go.set()
    thread.join(5)
    assert not thread.alive


def test_a_driver_that_stumbles_goes_on(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        flaky = Flaky(2)
        driver = Driver(store, AssignmentSigner(tmp_path))
        driver.start(Radio(flaky, lambda _device, _channel, _payload: None))
        try:
            wait_for(lambda: flaky.calls > 3)
            wait_for(lambda: driver.alive)
        finally:
            driver.stop()
        assert not driver.alive


def test_a_link_that_stumbles_connects_again_and_loses_nothing(
    tmp_path: Path, mosquitto: Mosquitto
) -> None:
    address = BrokerAddress("127.0.0.1", mosquitto.port)
    with open_store(tmp_path, "a") as store:
        flaky = Flaky(1)

        def clock() -> float:
            flaky()
            return 1000.0

        link = Link(address, "f", Ingest(store, "f", clock, lambda: None), lambda: None)
        link.start()
        client = new_client(address, "a")
        connect(client, address)
        client.loop_start()
        try:
            wait_for(lambda: link.listening_since)

            def arrives() -> bool:  # a device sends again what is not acknowledged
                client.publish("wherry/v1/f/a/window", window("a", 1).to_bytes(), 1)
                return bool(store.windows())

            wait_for(arrives)
            assert flaky.calls > 1
            assert link.alive
        finally:
            client.disconnect()
            client.loop_stop()
            link.stop()


def test_a_broker_that_cannot_be_started_for_a_while_is_tried_again(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    broker = Supervised(find_engine(), folder, "127.0.0.1", free_port())
    broker.write(Accounts(b"s" * 32, "f", []))
    broker.start()
    try:
        before, log = broker.pid, folder / "broker.log"
        assert broker.alive
        log.unlink()
        log.mkdir()  # its log cannot be opened, as on a bad disk
        os.kill(before, signal.SIGKILL)
        wait_for(lambda: not broker.alive)
        log.rmdir()
        wait_for(lambda: broker.alive and broker.pid != before)
    finally:
        broker.stop()


def _read_after_the_end(database: Database) -> None:
    with database.reading() as connection:
        connection.close()
        connection.exec_driver_sql("SELECT 1")  # no error of the driver: SQLAlchemy's own


def test_whatever_the_database_layer_throws_has_a_code(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(StoreError) as caught:
        _read_after_the_end(store.ledger._database)
    assert caught.value.code == "D06"
