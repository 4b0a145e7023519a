"""A bad line: a proxy between a device and its depot that throttles, loses and cuts."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_PIECE = 1460  # bytes of a segment


@dataclass
class Line:
    """How bad it is; change it while it runs.

    Attributes:
        bytes_per_second: down; 0 for no limit.
        delay_seconds: before an answer begins.
        loss: share of segments that come late, as TCP makes them.
        late_seconds: how late.
        cut_after: bytes of a connection's answer after which it is cut; endless if negative.
        connections: how many there were.
        carried: bytes of answers.
    """

    port: int = 0
    bytes_per_second: float = 0.0
    delay_seconds: float = 0.0
    loss: float = 0.0
    late_seconds: float = 0.1
    cut_after: int = -1
    connections: int = 0
    carried: int = 0
    chance: random.Random = field(default_factory=lambda: random.Random(1))

    @property
    def url(self) -> str:
        """The depot through this line."""
        return f"http://127.0.0.1:{self.port}/depot"


@contextmanager
def bad_line(target: int, **faults: float) -> Iterator[Line]:
    """A line to a port of this machine."""
    line = Line(**faults)  # type: ignore[arg-type]  # the test names fields and their types
    with socket.create_server(("127.0.0.1", 0)) as server:
        line.port = server.getsockname()[1]
        ended = threading.Event()
        thread = threading.Thread(target=_accept, args=(server, target, line, ended), daemon=True)
        thread.start()
        try:
            yield line
        finally:
            ended.set()
            with suppress(OSError):
                socket.create_connection(("127.0.0.1", line.port), 1).close()
            thread.join(5)


def _accept(server: socket.socket, target: int, line: Line, ended: threading.Event) -> None:
    while True:
        client, _ = server.accept()
        if ended.is_set():
            client.close()
            return
        line.connections += 1
        threading.Thread(target=_carry, args=(client, target, line), daemon=True).start()


def _carry(client: socket.socket, target: int, line: Line) -> None:
    with client, suppress(OSError), socket.create_connection(("127.0.0.1", target), 5) as depot:
        request = b""
        while b"\r\n\r\n" not in request:
            piece = client.recv(4096)
            if not piece:
                return
            request += piece
        depot.sendall(request)
        time.sleep(line.delay_seconds)  # the fault itself
        sent = 0
        while piece := depot.recv(_PIECE):
            if 0 <= line.cut_after < sent + len(piece):
                client.sendall(piece[: line.cut_after - sent])
                line.carried += line.cut_after - sent
                return
            late = line.late_seconds if line.chance.random() < line.loss else 0.0
            rate = len(piece) / line.bytes_per_second if line.bytes_per_second else 0.0
            time.sleep(late + rate)
            client.sendall(piece)
            sent += len(piece)
            line.carried += len(piece)
