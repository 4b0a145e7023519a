"""The serving port: HTTP/1.1 over loopback TCP or a unix socket.

Between requests all connections are watched by one thread, which answers what is plain and short
itself (`parked`); all else has a thread for as long as it lasts, so a slow client holds up nobody.
Everything a client can make large or slow has a limit: heads, bodies, the time from a request's
first byte to its last, the time to take an answer. When all places are taken, the connection that
has been idle longest makes way; if none is idle, the newcomer is told S07.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Final

from wherry_agent.config import Limits
from wherry_contract.errors import ServingError

from .connection import HEAD_LIMIT_BYTES, READ_BYTES, Common, Connection, Hooks, shut
from .listen import UNIX, bind, socket_path
from .parked import Helpers, Parked
from .service import refusal

__all__ = ["HEAD_LIMIT_BYTES", "Hooks", "HttpServer"]

_BACKLOG: Final = 128
_LEAST_IDLE_SECONDS: Final = 1.0  # before a connection may be closed to make room
_GREETING_SECONDS: Final = 0.05
_REAPED_SECONDS: Final = 0.005
_DRAIN_LOOKS_SECONDS: Final = 0.02


class HttpServer:
    """Listens on one address and keeps its connections."""

    def __init__(self, listen: str, limits: Limits, hooks: Hooks) -> None:
        """Bind; from here on clients may connect, and wait until `run` lets them in.

        Args:
            listen: ``host:port`` or ``unix:/path``.
            limits: sizes, times and the number of connections.
            hooks: whom to tell.

        Raises:
            SetupError: H08 the address is wrong, H11 it is in use.
        """
        self.limits = limits
        self.hooks = hooks
        self._lock = threading.Lock()
        self._open: set[Connection] = set()
        self._common = Common(limits, hooks, self.forget, Parked(time.monotonic), Helpers())
        self._path = socket_path(listen)
        self._socket = bind(listen)
        self._socket.listen(_BACKLOG)

    @property
    def address(self) -> str:
        """Where it listens, as agent.toml has it, with the port that was found."""
        if self._path:
            return f"{UNIX}{self._path}"
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def run(self) -> None:
        """Accept connections until `stop`."""
        threading.Thread(target=self._common.parked.run, name="answering", daemon=True).start()
        while not self._common.stopping:
            try:
                taken, _ = self._socket.accept()
            except OSError:
                if not self._common.stopping:  # out of files, or the client has gone: not our end
                    time.sleep(_DRAIN_LOOKS_SECONDS)
                continue
            self._take(taken)

    def _take(self, taken: socket.socket) -> None:
        if taken.family != socket.AF_UNIX:
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        end = time.monotonic() + _GREETING_SECONDS  # some may have gone and not be off the list yet
        while not (room := self._make_room()) and time.monotonic() < end:
            time.sleep(_REAPED_SECONDS)
        if not room:
            self.hooks.refused("S07")
            _turn_away(taken)
            return
        try:
            connection = Connection(self._common, taken)
        except OSError:  # it has gone again
            taken.close()
            return
        with self._lock:
            self._open.add(connection)
        self._common.parked.add(connection)

    def _make_room(self) -> bool:
        with self._lock:
            if len(self._open) < self.limits.connections:
                return True
            latest = time.monotonic() - _LEAST_IDLE_SECONDS
            idle = [item for item in self._open if item.idle_since < latest]
            if not idle:
                return False
            oldest = min(idle, key=lambda item: item.idle_since)
            self._open.discard(oldest)
        oldest.interrupt()
        return True

    def forget(self, connection: Connection) -> None:
        """Take a closed connection off the list."""
        with self._lock:
            self._open.discard(connection)

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._open)

    def overdue(self, seconds: float) -> int:
        """How many requests have waited for their answer for longer than so many seconds."""
        since = time.monotonic() - seconds
        with self._lock:
            return sum(item.asked_at < since for item in self._open)

    def stop(self, seconds: float) -> bool:
        """Let nobody in any more and let requests under way end; false if some did not."""
        self._common.stopping = True
        shut(self._socket)
        self._socket.close()
        if self._path:
            self._path.unlink(missing_ok=True)
        end = time.monotonic() + seconds
        while True:
            with self._lock:
                left = list(self._open)
            for connection in left:
                if connection.idle_since < time.monotonic():
                    connection.interrupt()
            if not left or time.monotonic() > end:
                self._common.parked.close()
                self._common.helpers.close()
                return not left
            time.sleep(_DRAIN_LOOKS_SECONDS)


def _turn_away(taken: socket.socket) -> None:
    """Tell one too many so, without waiting for it."""
    reply = refusal(ServingError("S07"))
    head = (
        f"HTTP/1.1 {reply.status} Service Unavailable\r\nContent-Type: {reply.media_type}\r\n"
        f"Content-Length: {len(reply.body)}\r\nConnection: close\r\nRetry-After: 1\r\n\r\n"
    )
    with taken:
        try:
            taken.settimeout(_GREETING_SECONDS)
            taken.sendall(head.encode() + reply.body)
            taken.shutdown(socket.SHUT_WR)
            taken.recv(READ_BYTES)
        except OSError:
            pass  # it did not want to know
