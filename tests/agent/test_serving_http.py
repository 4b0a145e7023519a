"""The serving port against clients that are slow, large, odd, many or rude."""

from __future__ import annotations

import json
import os
import re
import socket
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from support import free_port, wait_for
from support_agent import make_bundle
from support_serving import ROW, Port, ask, infer, make_served, post, read_reply, running_port

from wherry_agent.config import Limits
from wherry_agent.serving.listen import bind
from wherry_agent.serving.parked import Parked
from wherry_agent.serving.server import HEAD_LIMIT_BYTES, Hooks, HttpServer
from wherry_agent.serving.service import Call, Reply
from wherry_contract.errors import SetupError

SERVED = make_served(make_bundle())
GET = b"GET /v2/health/live HTTP/1.1\r\nHost: till\r\n\r\n"
ONE = infer({"rows": [ROW]})


@pytest.fixture
def port(tmp_path: Path) -> Iterator[Port]:
    """One that has time: a slow machine must not be taken for a slow client."""
    with running_port(tmp_path, SERVED, request_seconds=30, connections=4) as running:
        yield running


@pytest.fixture
def hasty(tmp_path: Path) -> Iterator[Port]:
    """One that has none, for tests of lateness itself."""
    with running_port(tmp_path, SERVED, request_seconds=0.4, connections=4) as running:
        yield running


def is_closed(client: socket.socket) -> bool:
    """Whether the server has ended the connection."""
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


# --- heads and bodies -------------------------------------------------------------------

BAD: dict[str, tuple[bytes, int, str]] = {
    "garbage": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 a TLS greeting\r\n\r\n", 400, "S01"),
    "no version": (b"GET /v2\r\n\r\n", 400, "S01"),
    "no host": (b"GET /v2 HTTP/1.1\r\n\r\n", 400, "S01"),
    "two lengths": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nx",
        400,
        "S01",
    ),
    "a length of no number": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        400,
        "S01",
    ),
    "a long length": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: " + b"9" * 30 + b"\r\n\r\n",
        400,
        "S01",
    ),
    "a bad chunk": (
        b"POST /v2/models/fraud/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        400,
        "S01",
    ),
    "an unknown transfer coding": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n",
        501,
        "S01",
    ),
    "an oversized header": (
        b"GET /v2 HTTP/1.1\r\nHost: a\r\nCookie: " + b"x" * 2 * HEAD_LIMIT_BYTES + b"\r\n\r\n",
        431,
        "S01",
    ),
    "an endless request line": (b"GET /" + b"x" * 2 * HEAD_LIMIT_BYTES, 431, "S01"),
    "an oversized body": (post("/v2/models/fraud/infer", b" " * (2 << 20)), 413, "S03"),
    "an oversized body that is announced": (
        b"POST /v2/models/fraud/infer HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\n\r\n",
        413,
        "S03",
    ),
    "an oversized body that asks first": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nContent-Length: 1048577\r\nExpect: 100-continue\r\n\r\n",
        413,
        "S03",
    ),
    "an oversized body in chunks": (
        b"POST /v2/models/fraud/infer HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        + (b"10000\r\n" + b" " * 65_536 + b"\r\n") * 17,
        413,
        "S03",
    ),
}

LATE: dict[str, bytes] = {
    "half a head": b"GET /v2 HTTP/1.1\r\nHo",
    "one byte": b"G",
    "half a body": ONE[:-5],
    "half a chunk": (
        b"POST /v2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n10\r\nhalf"
    ),
}


@pytest.mark.parametrize(("sent", "status", "code"), BAD.values(), ids=BAD.keys())
def test_bad_requests_are_told_and_ended(port: Port, sent: bytes, status: int, code: str) -> None:
    is_told_and_ended(port, sent, status, code)


@pytest.mark.parametrize("sent", LATE.values(), ids=LATE.keys())
def test_requests_that_never_come_whole_are_told_and_ended(hasty: Port, sent: bytes) -> None:
    is_told_and_ended(hasty, sent, 408, "S06")


def is_told_and_ended(port: Port, sent: bytes, status: int, code: str) -> None:
    with port.connect() as client:
        client.sendall(sent)
        found, headers, body = read_reply(client)
        answer = json.loads(body)
        assert (found, answer["code"]) == (status, code)
        assert answer["cure"] in answer["error"]
        assert headers["connection"] == "close"
        assert is_closed(client)
    assert port.refused == [code]
    assert ask(port, ONE)[0] == 200


def test_a_compressed_body_is_refused(port: Port) -> None:
    status, answer = ask(port, post("/v2/models/fraud/infer", b"x", "Content-Encoding: gzip"))
    assert (status, answer["code"]) == (415, "S02")


def test_bodies_in_chunks_and_after_a_question(port: Port) -> None:
    body = json.dumps({"rows": [ROW]}).encode()
    chunks = b"".join(b"%x\r\n%b\r\n" % (1, body[i : i + 1]) for i in range(len(body)))
    head = b"POST /v2/models/fraud/infer HTTP/1.1\r\nHost: a\r\n"
    assert ask(port, head + b"Transfer-Encoding: chunked\r\n\r\n" + chunks + b"0\r\n\r\n")[0] == 200
    with port.connect() as client:
        client.sendall(head + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n" % len(body))
        assert client.recv(100).startswith(b"HTTP/1.1 100 ")
        client.sendall(body)
        assert read_reply(client)[0] == 200


def test_head_has_no_body(port: Port) -> None:
    with port.connect() as client:
        client.sendall(b"HEAD /v2/health/live HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        data = b"".join(iter(lambda: client.recv(4096), b""))
    head, _, body = data.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert body == b""


# --- connections ------------------------------------------------------------------------


def test_one_connection_carries_many_requests(port: Port) -> None:
    with port.connect() as client:
        for _ in range(50):
            client.sendall(ONE)
            assert read_reply(client)[0] == 200


def test_pipelined_requests_are_answered_in_order(port: Port) -> None:
    requests = [infer({"rows": [ROW], "id": str(turn)}) for turn in range(20)]
    with port.connect() as client:
        client.sendall(b"".join(requests))
        stream = client.makefile("rb")
        found = []
        for _ in requests:
            while (line := stream.readline().strip()) != b"":
                if line.lower().startswith(b"content-length"):
                    size = int(line.split()[1])
            found.append(json.loads(stream.read(size))["id"])
    assert found == [str(turn) for turn in range(20)]


def test_a_bad_request_in_a_pipeline_ends_it_after_the_good_ones(port: Port) -> None:
    with port.connect() as client:
        client.sendall(GET + b"nonsense\r\n\r\n" + GET)
        data = b"".join(iter(lambda: client.recv(65_536), b""))
    assert re.findall(rb"HTTP/1.1 (\d+)", data) == [b"200", b"400"]


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(b"GET /v2 HTTP/1.0\r\n\r\n", id="HTTP/1.0"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n", id="asked to"),
    ],
)
def test_a_connection_is_closed_when_the_client_wants_it(port: Port, request_: bytes) -> None:
    with port.connect() as client:
        client.sendall(request_)
        assert read_reply(client)[0] == 200
        assert is_closed(client)


def test_a_slow_loris_holds_up_nobody_and_is_ended(hasty: Port) -> None:
    with ExitStack() as stack:
        slow = [stack.enter_context(hasty.connect()) for _ in range(3)]
        ended = threading.Event()

        def trickle() -> None:
            for byte in b"GET /v2 HTTP/1.1\r\nX: " + b"y" * 10_000:
                if ended.wait(0.05):
                    return
                for client in slow:
                    try:
                        client.send(bytes([byte]))
                    except OSError:
                        return

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            assert ask(hasty, ONE)[0] == 200
            for client in slow:
                status, _, body = read_reply(client)
                assert (status, json.loads(body)["code"]) == (408, "S06")
        finally:
            ended.set()
            thread.join()


def test_an_idle_connection_may_stay_longer_than_a_request(hasty: Port) -> None:
    with hasty.connect() as client:
        client.sendall(GET)
        assert read_reply(client)[0] == 200
        time.sleep(1.0)  # the wait is what is tested: over twice `request_seconds`
        client.sendall(GET)
        assert read_reply(client)[0] == 200


def test_one_too_many_is_told_while_others_are_busy(port: Port) -> None:
    with ExitStack() as stack:
        busy = [stack.enter_context(port.connect()) for _ in range(4)]
        for client in busy:
            client.sendall(ONE[:-1])  # under way: not to be closed for a newcomer
        wait_for(lambda: port.server.connections == 4)
        status, answer = ask(port, GET)
        assert (status, answer["code"]) == (503, "S07")
        assert port.refused == ["S07"]
        for client in busy:
            client.sendall(ONE[-1:])
            assert read_reply(client)[0] == 200


def test_the_longest_idle_connection_makes_way(port: Port) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(port.connect()) for _ in range(4)]
        for client in idle:
            client.sendall(GET)
            assert read_reply(client)[0] == 200
            time.sleep(0.1)  # an answer is read before its thread counts itself as idle
        wait_for(lambda: ask(port, GET)[0] == 200, what="a place")
        assert is_closed(idle[0])
        for client in idle[1:]:
            client.sendall(GET)
            assert read_reply(client)[0] == 200


def test_a_client_that_takes_no_answer_is_let_go(tmp_path: Path) -> None:
    with running_port(tmp_path, SERVED, request_seconds=0.4) as port, port.connect() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        batch = infer({"rows": [ROW] * 1000})
        client.settimeout(0.2)
        left = b""

        def is_let_go() -> bool:
            nonlocal left
            # a pause may be the server's: only who asks on and on fills both directions
            with suppress(OSError):
                left = left or batch
                left = left[client.send(left) :]
            return port.server.connections == 0

        wait_for(is_let_go, what="its place to be free")


def test_clients_that_vanish_leave_no_trace(port: Port) -> None:
    for sent in (b"", b"G", ONE[:-5], ONE, ONE * 3):
        client = port.connect()
        client.setsockopt(
            socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0"
        )  # close by reset
        client.sendall(sent)
        client.close()
    wait_for(lambda: port.server.connections == 0)
    assert ask(port, ONE)[0] == 200


def test_many_clients_at_once_get_their_own_answers(tmp_path: Path) -> None:
    wrong: list[str] = []

    def work(port: Port, name: str) -> None:
        with port.connect() as client:
            for turn in range(50):
                client.sendall(infer({"rows": [ROW], "id": f"{name}-{turn}"}))
                if json.loads(read_reply(client)[2])["id"] != f"{name}-{turn}":
                    wrong.append(name)

    with running_port(tmp_path, SERVED) as port:
        threads = [threading.Thread(target=work, args=(port, str(n))) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        port.scorer.stop()
        assert wrong == []
        assert sum(tally.rows for tally in port.tallies) == 16 * 50


# --- beginning and end ------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "agent.sock"
    with running_port(tmp_path, SERVED, listen=f"unix:{path}") as port:
        assert ask(port, ONE)[0] == 200
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
    assert not path.exists()


def test_a_socket_left_by_a_killed_agent_is_replaced_and_a_living_one_is_not(
    tmp_path: Path,
) -> None:
    path = tmp_path / "agent.sock"
    bind(f"unix:{path}").close()
    assert path.exists()
    with running_port(tmp_path, SERVED, listen=f"unix:{path}") as port:
        with pytest.raises(SetupError, match="H11"):
            bind(f"unix:{path}")
        assert ask(port, ONE)[0] == 200


def test_no_other_file_is_replaced_by_a_socket(tmp_path: Path) -> None:
    path = tmp_path / "precious"
    path.write_text("kept")
    with pytest.raises(SetupError, match="H11"):
        bind(f"unix:{path}")
    assert path.read_text() == "kept"


@pytest.mark.parametrize(
    "listen", ["", "8600", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", ":8600", "127.0.0.1:70000"]
)
def test_addresses_that_are_none(listen: str) -> None:
    with pytest.raises(SetupError, match="H08"):
        bind(listen)


def test_an_address_in_use() -> None:
    port = free_port()
    with bind(f"127.0.0.1:{port}") as first:
        first.listen()
        with pytest.raises(SetupError, match="H11"):
            bind(f"127.0.0.1:{port}")


def _server(handle: object) -> tuple[HttpServer, threading.Thread, list[Exception]]:
    crashes: list[Exception] = []
    hooks = Hooks(handle, lambda _: None, crashes.append)  # type: ignore[arg-type]
    server = HttpServer("127.0.0.1:0", Limits(), hooks)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    return server, thread, crashes


def test_stopping_answers_what_is_under_way_and_ends_what_is_idle() -> None:
    begun, go_on = threading.Event(), threading.Event()

    def slow(call: Call) -> Reply:
        if call.target == "/slow":
            begun.set()
            go_on.wait(10)
        return Reply(200, b"{}")

    server, thread, _ = _server(slow)
    address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    with (
        socket.create_connection(address, 10) as idle,
        socket.create_connection(address, 10) as busy,
    ):
        idle.sendall(GET)
        assert read_reply(idle)[0] == 200
        busy.sendall(b"GET /slow HTTP/1.1\r\nHost: a\r\n\r\n")
        begun.wait(10)
        done: list[bool] = []
        stopper = threading.Thread(target=lambda: done.append(server.stop(10)))
        stopper.start()
        assert is_closed(idle)
        go_on.set()
        status, headers, _ = read_reply(busy)
        assert (status, headers["connection"]) == (200, "close")
        stopper.join()
    thread.join(5)
    assert done == [True]
    with pytest.raises(ConnectionError):
        socket.create_connection(address, 1)


def test_a_fault_of_ours_is_told_and_the_port_goes_on() -> None:
    def faulty(call: Call) -> Reply:
        if call.target == "/fault":
            raise ZeroDivisionError
        return Reply(200, b"{}")

    server, thread, crashes = _server(faulty)
    address = ("127.0.0.1", int(server.address.rpartition(":")[2]))
    with socket.create_connection(address, 10) as client:
        client.sendall(b"GET /fault HTTP/1.1\r\nHost: a\r\n\r\n")
        assert read_reply(client)[0] == 500
        client.sendall(GET)
        assert read_reply(client)[0] == 200
    assert [type(error) for error in crashes] == [ZeroDivisionError]
    server.stop(2)
    thread.join(5)


class Passing:
    """A connection that goes to a helper, which ends it while its number is taken anew."""

    def __init__(self, parked: Parked, taken: socket.socket, successor: list[Passing]) -> None:
        self.deadline = 0.0
        self.asked = threading.Event()
        self._parked, self.taken, self._successors = parked, taken, successor

    def fileno(self) -> int:
        """Its socket, -1 once it is closed."""
        return self.taken.fileno()

    def ready(self) -> None:
        """Go, and let the successor have the number."""
        self.taken.recv(1)
        self.asked.set()
        for successor in self._successors:
            self._parked.remove(self)
            self.deadline = time.monotonic()
            os.dup2(successor.fileno(), self.taken.fileno())
            successor.taken.close()
            successor.taken = socket.socket(fileno=self.taken.detach())
            self._parked.add(successor)

    def late(self, now: float) -> None:
        """It has gone: whoever asks for it errs."""
        if now > self.deadline:
            self._parked.remove(self)


def test_who_has_gone_is_not_looked_for_under_a_number_that_is_anothers() -> None:
    parked = Parked(time.monotonic)
    (first, one), (second, two) = socket.socketpair(), socket.socketpair()
    successor = Passing(parked, second, [])
    parked.add(Passing(parked, first, [successor]))
    thread = threading.Thread(target=parked.run, daemon=True)
    thread.start()
    one.send(b"x")
    two.send(b"y")
    assert successor.asked.wait(60)
    successor.asked.clear()
    # any look at who is late has passed when this is seen
    for _ in range(3):
        two.send(b"y")
        assert successor.asked.wait(60)
        successor.asked.clear()
    assert thread.is_alive()
    parked.close()
    thread.join(60)
    for taken in (one, two, successor.taken):
        taken.close()
