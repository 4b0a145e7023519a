"""The clock: floors, what is believed, and time told over the network by a signed answer."""

from __future__ import annotations

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from support_agent import DEVICE, make_bundle, order_for, sign
from support_device import HandClock
from support_identity import Fleet, identity_in
from support_tuf import DAY, TufRepository, signer

from wherry.server.doors import server_context
from wherry_agent.clock import TrustedClock
from wherry_agent.identity.enrolment import fingerprint
from wherry_agent.identity.tls import Tls
from wherry_agent.trust.tuf_trust import FOLDER, TufTrust, floor_of
from wherry_agent.update.fetch import Depot
from wherry_contract.assignment import PAYLOAD_TYPE
from wherry_contract.errors import WherryError
from wherry_contract.told_time import PAYLOAD_TYPE as TIME_TYPE
from wherry_contract.told_time import ToldTime, read_nonce

YEARS = 365.25 * DAY
ONE = make_bundle("1.0.0")
NOW = float(int(time.time()))  # certificates are looked at by real clocks too

# --- what is believed -----------------------------------------------------------------------

# floor, board's clock, expected; Unix seconds
BELIEVED: list[tuple[str, float, float, float]] = [
    ("nothing is known", 0.0, NOW, NOW),
    ("nothing is known, 1970", 0.0, 17.0, 17.0),
    ("the board agrees", NOW, NOW + 9, NOW + 9),
    ("1970", NOW, 17.0, NOW),
    ("an hour behind", NOW, NOW - 3600, NOW),
    ("400 days in a drawer", NOW, NOW + 400 * DAY, NOW + 400 * DAY),
    ("ten years ahead", NOW, NOW + 10 * YEARS, NOW),
]


@pytest.mark.parametrize(
    ("floor", "board", "expected"), [r[1:] for r in BELIEVED], ids=[r[0] for r in BELIEVED]
)
def test_what_is_believed(floor: float, board: float, expected: float) -> None:
    assert TrustedClock(HandClock(board), floor).now() == expected


def test_time_goes_on_from_the_floor_when_the_board_is_wrong() -> None:
    board = HandClock(17.0)
    clock = TrustedClock(board, NOW)
    board.steady += 60
    assert clock.now() == NOW + 60
    clock.raise_floor(NOW + 600)
    assert clock.now() == NOW + 600
    clock.raise_floor(NOW)
    assert clock.now() == NOW + 600


def test_a_told_time_holds_against_the_board_until_they_agree() -> None:
    board = HandClock(NOW + YEARS)
    clock = TrustedClock(board, NOW)
    assert clock.now() == NOW + YEARS
    clock.tell(NOW + 10, board.steady - 5)
    assert clock.now() == NOW + 15
    assert clock.doubtful
    board.wall = NOW + 20
    assert clock.now() == NOW + 20
    assert not clock.doubtful
    board.wall = 0.0
    assert clock.now() == NOW + 15


def test_what_looks_out_of_date_puts_the_clock_in_doubt_until_it_is_told() -> None:
    board = HandClock(NOW + 1)
    clock = TrustedClock(board, NOW)
    assert not clock.doubtful
    clock.question()
    assert clock.doubtful
    clock.tell(NOW + 1, board.steady)
    assert not clock.doubtful


@pytest.mark.parametrize(
    ("floor", "board", "expected"),
    [
        (0.0, NOW, True),
        (NOW, 17.0, True),
        (NOW, NOW + 400 * DAY, False),
        (NOW, NOW + 10 * YEARS, True),
    ],
    ids=["nothing is known", "1970", "400 days in a drawer", "ten years ahead"],
)
def test_when_it_is_in_doubt(floor: float, board: float, expected: bool) -> None:  # noqa: FBT001
    assert TrustedClock(HandClock(board), floor).doubtful is expected


# --- over mutual TLS ------------------------------------------------------------------------


class Fort:
    """A depot and a time service behind one listener that wants certificates."""

    def __init__(self, folder: Path, depot: Path) -> None:
        self.fleet = Fleet(folder)
        self.depot = depot
        self.time = NOW
        self.key = "time"
        self.nonce = ""
        self.asked = 0
        self.port = 0

    def tell(self, body: bytes) -> bytes:
        """The time, signed."""
        self.asked += 1
        nonce = self.nonce or read_nonce(body)
        return sign(ToldTime(nonce, self.time).to_bytes(), TIME_TYPE, signer(self.key))


@contextmanager
def running_fort(folder: Path, depot: Path) -> Iterator[Fort]:
    fort = Fort(folder, depot)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            """A file of the depot."""
            path = fort.depot / self.path.removeprefix("/depot/")
            self._answer(path.read_bytes() if path.is_file() else None)

        def do_POST(self) -> None:
            """The time."""
            assert self.path == "/enrol/time"
            self._answer(fort.tell(self.rfile.read(int(self.headers["Content-Length"]))))

        def _answer(self, body: bytes | None) -> None:
            self.send_response(404 if body is None else 200)
            self.send_header("Content-Length", str(len(body or b"")))
            self.end_headers()
            self.wfile.write(body or b"")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    context = server_context(fort.fleet.certificate, fort.fleet.key, fort.fleet.authority.file)
    context.verify_mode = ssl.CERT_OPTIONAL  # one listener for both
    server.socket = context.wrap_socket(server.socket, server_side=True)
    fort.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield fort
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class World:
    """A device with an identity, its fleet's fort, and a repository of `NOW`."""

    def __init__(self, folder: Path, fort: Fort) -> None:
        self.fort = fort
        self.folder = folder
        self.repository = TufRepository(fort.depot, now=NOW)
        self.repository.release(ONE, 1)
        self.repository.publish()
        (folder / "root.json").write_bytes(self.repository.root_file())
        made, _ = fort.fleet.device(DEVICE, now=NOW - DAY)
        self.identity = identity_in(made.key.parent, f"https://127.0.0.1:{fort.port}/enrol")
        self.board = HandClock(NOW + 60)
        self.start()

    def start(self) -> None:
        """Start the agent anew."""
        self.clock = TrustedClock(self.board, floor_of(self.folder / FOLDER))
        tls = Tls(self.identity, self.clock.now)
        self.source = Depot(f"https://127.0.0.1:{self.fort.port}/depot", seconds=5, tls=tls)
        root = self.folder / "root.json"
        self.trust = TufTrust(root, self.folder, self.clock, self.source, self.identity)

    def obey(self, **changes: Any) -> None:
        """An order, judged, and its bundle, admitted."""
        ours = {"device_key": fingerprint(self.identity), "issued_at": NOW}
        order = order_for(ONE.digest, 1, **(ours | changes))
        envelope = sign(order.to_bytes(), PAYLOAD_TYPE, signer("order"))
        self.trust.admit(self.trust.assignment(envelope), self.source)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with running_fort(tmp_path / "fleet", tmp_path / "depot") as fort:
        yield World(tmp_path, fort)


def test_the_list_comes_over_mutual_tls(world: World) -> None:
    world.obey()


@pytest.mark.parametrize("named", ["", "a" * 64])
def test_an_order_for_another_key_is_refused(world: World, named: str) -> None:
    with pytest.raises(WherryError, match="T03"):
        world.obey(device_key=named)


def test_a_new_board_a_year_ahead_is_told_the_time(world: World) -> None:
    """Its list would have expired by its own clock; the signed answer says that it has not."""
    world.board.wall = NOW + YEARS
    world.start()
    world.obey()
    assert world.fort.asked == 1
    assert abs(world.clock.now() - NOW) < DAY


def test_a_board_in_1970_is_told_the_time_once(world: World) -> None:
    world.board.wall = 17.0
    world.start()
    world.obey()
    world.obey()
    assert world.fort.asked == 1
    assert floor_of(world.folder / FOLDER) == NOW


def test_a_known_board_a_year_ahead_asks_when_the_list_looks_stale(world: World) -> None:
    world.obey()
    asked = world.fort.asked
    world.board.wall += YEARS
    world.start()
    world.obey()
    assert world.fort.asked == asked + 1


LIES: list[tuple[str, dict[str, Any]]] = [
    ("an answer to another question", {"nonce": "0" * 32}),
    ("signed by an assignment key", {"key": "order"}),
    ("signed by a stranger", {"key": "stranger"}),
    ("outside the key's validity", {"time": NOW + 100 * YEARS}),
]


@pytest.mark.parametrize("lie", [row[1] for row in LIES], ids=[row[0] for row in LIES])
def test_a_time_that_is_not_taken(world: World, lie: dict[str, Any]) -> None:
    for name, value in lie.items():
        setattr(world.fort, name, value)
    world.board.wall = NOW + YEARS
    world.start()
    with pytest.raises(WherryError) as caught:
        world.obey()
    assert world.fort.asked >= 1
    assert caught.value.code in ("T11", "L11")
    assert floor_of(world.folder / FOLDER) in (0.0, NOW)


def test_a_time_told_by_a_key_that_was_taken_back_is_forgotten(world: World) -> None:
    world.fort.time = NOW + 100 * DAY
    world.board.wall = 17.0
    world.start()
    with pytest.raises(WherryError, match="T11"):
        world.obey()
    assert floor_of(world.folder / FOLDER) == NOW + 100 * DAY
    world.repository.time_keys = ("time-2",)
    world.repository.now = NOW + 101 * DAY
    world.repository.publish()
    world.obey()
    assert floor_of(world.folder / FOLDER) == NOW + 101 * DAY
