"""The enrolment door under a flood: who is let in, and what enrolled devices notice of it."""

from __future__ import annotations

import http.client
import random
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from support import wait_for
from support_fleet import FAMILY, Server, enrol, running_server
from support_identity import context_of

from wherry.server.turnstile import EACH, Pace, Turnstile
from wherry_agent.config import load_config
from wherry_agent.identity.enrolment import Enrolment
from wherry_agent.identity.enrolment import enrol as enrol_here
from wherry_contract.errors import WherryError


class Clock:
    """Seconds, by hand."""

    now = 100.0

    def __call__(self) -> float:
        """Now."""
        return self.now


TWO_AT_ONCE = Pace(a_second=1, burst=2, together=9)
WIDE = Pace(a_second=1000, burst=1000, together=1000)
ROWS = {
    "a burst, and no more": (TWO_AT_ONCE, WIDE, [("a", 0, True), ("a", 0, True), ("a", 0, False)]),
    "it comes back": (TWO_AT_ONCE, WIDE, [("a", 0, True), ("a", 0, True), ("a", 1, True), ("a", 0.5, False)]),
    "no more than the burst": (TWO_AT_ONCE, WIDE, [("a", 99, True), ("a", 0, True), ("a", 0, False)]),
    "others do not suffer": (TWO_AT_ONCE, WIDE, [("a", 0, True), ("a", 0, True), ("a", 0, False), ("b", 0, True)]),
    "all together": (WIDE, TWO_AT_ONCE, [("a", 0, True), ("b", 0, True), ("c", 0, False), ("c", 1, True)]),
    "whoever is refused takes nothing": (
        TWO_AT_ONCE,
        Pace(1, 3, 9),
        [("a", 0, True), ("a", 0, True), *[("a", 0, False)] * 5, ("b", 0, True), ("b", 0, False)],
    ),
    "one line has many addresses": (
        TWO_AT_ONCE,
        WIDE,
        [("2001:db8::1", 0, True), ("2001:db8::2", 0, True), ("2001:db8::3", 0, False), ("2001:db8:0:1::1", 0, True)],
    ),
    "mapped and scoped": (
        TWO_AT_ONCE,
        WIDE,
        [("::ffff:10.0.0.1", 0, True), ("10.0.0.1", 0, True), ("10.0.0.1", 0, False), ("fe80::1%eth0", 0, True)],
    ),
    "open ones": (Pace(99, 99, 2), WIDE, [("a", 0, True), ("a", 0, True), ("a", 9, False), ("b", 0, True)]),
    "open ones, all together": (WIDE, Pace(99, 99, 2), [("a", 0, True), ("b", 0, True), ("c", 9, False)]),
}  # fmt: skip


@pytest.mark.parametrize("row", ROWS)
def test_who_is_let_in(row: str) -> None:
    each, every, comes = ROWS[row]
    clock = Clock()
    turnstile = Turnstile(each, every, clock)
    for address, later, wanted in comes:
        clock.now += later
        assert turnstile.enter(address) == wanted, (address, clock.now)


def test_whoever_leaves_makes_room() -> None:
    turnstile = Turnstile(Pace(99, 99, 1), WIDE, Clock())
    assert turnstile.enter("a")
    assert not turnstile.enter("a")
    turnstile.leave("a")
    assert turnstile.enter("a")


@pytest.mark.parametrize("seed", range(3))
def test_never_more_than_the_pace_and_no_memory_of_old_addresses(seed: int) -> None:
    chance, clock = random.Random(seed), Clock()
    turnstile = Turnstile(Pace(2, 5, 10_000), Pace(50, 100, 10_000), clock)
    came: dict[str, int] = {}
    for turn in range(20_000):
        clock.now += chance.expovariate(40)
        address = f"10.0.{turn // 400}.{chance.randrange(250)}" if turn % 2 else "10.9.9.9"
        if turnstile.enter(address):
            came[address] = came.get(address, 0) + 1
            turnstile.leave(address)
    span = clock.now - 100
    assert sum(came.values()) <= 100 + 50 * span
    assert max(came.values()) <= 5 + 2 * span
    assert len(turnstile._buckets) < 2500
    assert not turnstile._open


# --- a flood --------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    with running_server(tmp_path / "data", "--broker", "mosquitto") as found:
        yield found


def anybody() -> ssl.SSLContext:
    """TLS of somebody who does not ask who is there."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return context


def port_of(server: Server, door: str) -> int:
    return int(server.facts["devices"][door].rpartition(":")[2].partition("/")[0])


def test_a_flood_keeps_no_enrolled_device_out(server: Server, tmp_path: Path) -> None:
    """It is hung up on; a device reads the depot meanwhile, and another address enrols."""
    config = enrol(server, "till-1")
    identity = load_config(config).identity
    assert identity
    known, blind = context_of(identity), anybody()
    ended = threading.Event()
    refused: list[OSError] = []
    served: list[bytes] = []

    def flood() -> None:
        while not ended.is_set():
            with (
                suppress(OSError),
                socket.create_connection(("127.0.0.1", port_of(server, "enrol")), 5) as plain,
            ):
                try:
                    with blind.wrap_socket(plain) as talk:
                        talk.sendall(
                            b"POST /enrol/nonce HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
                        )
                        served.append(talk.recv(1000))
                except OSError as error:
                    refused.append(error)

    threads = [threading.Thread(target=flood) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        wait_for(lambda: len(refused) > 200, seconds=60, what="refusals")
        for _ in range(20):
            asks = http.client.HTTPSConnection(
                "127.0.0.1", port_of(server, "depot"), timeout=10, context=known
            )
            asks.request("GET", "/depot/blobs/sha256/" + "0" * 64)
            assert asks.getresponse().status == 404
            asks.close()
        asks = http.client.HTTPSConnection(
            "127.0.0.1",
            port_of(server, "enrol"),
            timeout=10,
            context=blind,
            source_address=("127.0.0.2", 0),
        )
        asks.request("POST", "/enrol/nonce")
        assert asks.getresponse().status == 200
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert len(served) >= EACH.burst
    code = server.client.post("claims", {"family": FAMILY})["codes"][0]
    order = Enrolment(
        server.facts["devices"]["enrol"], code, "till-2", "", tmp_path / "till-2", again=False
    )

    def enrolled() -> bool:
        with suppress(WherryError):
            return enrol_here(order).exists()
        return False

    wait_for(enrolled, what="the flooded address")


def test_whoever_comes_and_says_nothing_takes_only_their_own_places(server: Server) -> None:
    """Connections that stay open are counted until they end."""
    door = ("127.0.0.1", port_of(server, "enrol"))
    silent = [socket.create_connection(door) for _ in range(EACH.together)]
    blind = anybody()

    def asks(source: str) -> bool:
        found = http.client.HTTPSConnection(
            *door, timeout=5, context=blind, source_address=(source, 0)
        )
        with suppress(OSError):
            found.request("POST", "/enrol/nonce")
            return found.getresponse().status == 200
        return False

    wait_for(lambda: not asks("127.0.0.1"), what="a refusal")
    assert asks("127.0.0.3")
    for one in silent:
        one.close()
    wait_for(lambda: asks("127.0.0.1"), what="room")


def test_a_connection_carries_one_request(server: Server) -> None:
    blind = anybody()
    asks = http.client.HTTPSConnection(
        "127.0.0.1", port_of(server, "enrol"), timeout=10, context=blind
    )
    asks.request("POST", "/enrol/nonce")
    answer = asks.getresponse()
    assert (answer.status, answer.headers["Connection"]) == (200, "close")
    answer.read()
    assert asks.sock is None
