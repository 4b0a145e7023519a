"""The serving port: HTTP/1.1 over loopback TCP or a unix socket; the only file that knows h11.

h11 judges every head. A head that it found plain is remembered with what it says, and the same
bytes are the same request: a client that asks again and again is not parsed again and again.

One thread for each connection, a bounded number of them. A thread costs less for one row
than an event loop does, and a slow client holds up nobody else. Everything a client can
make large or slow has a limit: heads, bodies, the time from a request's first byte to its
last, the time to take an answer. When all places are taken, the connection that has been
idle longest makes way; if none is idle, the newcomer is told S07.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Final

import h11

from wherry_agent.config import Limits
from wherry_contract.errors import ServingError

from .listen import UNIX, bind, socket_path
from .service import Call, Reply, refusal

HEAD_LIMIT_BYTES: Final = 16 * 1024
_READ_BYTES: Final = 64 * 1024
_BACKLOG: Final = 128
_NEARLY: Final = 0.9  # a read may outlast the deadline by the rest of it
_LEAST_IDLE_SECONDS: Final = 1.0  # before a connection may be closed to make room
_LINGER_SECONDS: Final = 1.0
_GREETING_SECONDS: Final = 0.05
_DRAIN_LOOKS_SECONDS: Final = 0.02
_HEAD_END: Final = b"\r\n\r\n"
_KNOWN_HEADS: Final = 512  # that are remembered, of this length at most
_KNOWN_BYTES: Final = 1024
# what makes a head more than its own bytes say: a body in chunks, a question, an end
_NOT_PLAIN: Final = frozenset({b"transfer-encoding", b"expect", b"connection", b"upgrade"})


@dataclass(frozen=True)
class Hooks:
    """Whom the server tells.

    Attributes:
        handle: answers a call; from any thread.
        refused: counts a request that never became a call, by its code.
        crashed: takes an exception that should not have happened.
    """

    handle: Callable[[Call], Reply]
    refused: Callable[[str], None]
    crashed: Callable[[Exception], None]


@dataclass(frozen=True)
class _Head:
    """What h11 read in the head of a plain request."""

    method: str
    target: str
    length: int
    encoding: str
    json_length: str

    @classmethod
    def of(cls, head: h11.Request) -> _Head:
        """Of any request; `length` is 0 where it is not announced."""
        headers = dict(head.headers)
        return cls(
            method=head.method.decode(),
            target=head.target.decode(errors="replace"),
            length=int(headers.get(b"content-length", b"0")),
            encoding=headers.get(b"content-encoding", b"").decode("latin-1").lower(),
            json_length=headers.get(b"inference-header-content-length", b"").decode("latin-1"),
        )

    def call(self, body: bytes) -> Call:
        """The whole request."""
        return Call(
            self.method, self.target, body, self.encoding, self.json_length, time.monotonic()
        )


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
        self.stopping = False
        self._lock = threading.Lock()
        self._open: set[_Connection] = set()
        self.heads: dict[bytes, _Head] = {}  # plain ones; shared, since a look-up is one step
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
        while not self.stopping:
            try:
                taken, _ = self._socket.accept()
            except OSError:
                if not self.stopping:  # out of files, or the client has gone: not our end
                    time.sleep(_DRAIN_LOOKS_SECONDS)
                continue
            self._take(taken)

    def _take(self, taken: socket.socket) -> None:
        if taken.family != socket.AF_UNIX:
            taken.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if not self._make_room():
            self.hooks.refused("S07")
            _turn_away(taken)
            return
        connection = _Connection(self, taken)
        with self._lock:
            self._open.add(connection)
        try:
            threading.Thread(target=connection.run, name="serving", daemon=True).start()
        except RuntimeError as error:  # no thread to be had: the board is at its end
            self.forget(connection)
            taken.close()
            self.hooks.crashed(error)

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

    def forget(self, connection: _Connection) -> None:
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
        self.stopping = True
        _shut(self._socket)
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
                return not left
            time.sleep(_DRAIN_LOOKS_SECONDS)


_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}
_BUSY: Final = float("inf")


class _Connection:
    """One client: reads a request, has it answered, and again."""

    def __init__(self, server: HttpServer, taken: socket.socket) -> None:
        self._server = server
        self._socket = taken
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._limits = server.limits
        self._deadline = 0.0  # monotonic, of the request that is arriving; 0 before its first byte
        self._hurried = False
        self._ahead = b""  # came with the last plain request, and belongs to the next
        self._plain = False  # whether the request under way never went through h11
        self.idle_since = time.monotonic()  # infinite while a request is under way
        self.asked_at = _BUSY  # when a request was whole; infinite once it is answered

    def interrupt(self) -> None:
        """Make a blocked read end."""
        _shut(self._socket)

    def run(self) -> None:
        """Serve until the client goes, errs or must go."""
        try:
            self._wait_at_most(self._limits.request_seconds)
            while self._one():
                pass
        except OSError:
            pass  # the client went away, or takes no answer
        except Exception as error:  # noqa: BLE001 - a bug in one answer must not end quietly
            self._server.hooks.crashed(error)
        finally:
            self._socket.close()
            self._server.forget(self)

    def _one(self) -> bool:
        """One request and its answer; false if there will be no other."""
        try:
            call = self._receive()
        except ServingError as error:
            self._server.hooks.refused(error.code)
            self._send("", refusal(error), last=True)
            self._linger()
            return False
        except h11.RemoteProtocolError as error:
            self._server.hooks.refused("S01")
            reply = refusal(ServingError("S01", str(error)[:100]))
            self._send("", replace(reply, status=error.error_status_hint), last=True)
            self._linger()
            return False
        if call is None:
            return False
        return self._answer(call)

    def _answer(self, call: Call) -> bool:
        self.asked_at = call.started
        try:
            reply = self._server.hooks.handle(call)
        except Exception as error:  # noqa: BLE001 - a bug in one answer must not end the others
            self._server.hooks.crashed(error)
            reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b'{"error":"a fault of the agent"}')
        self.asked_at = _BUSY
        if self._plain:
            return self._send_plain(reply)
        self._send(call.method, reply, last=self._server.stopping)
        if self._http.our_state is not h11.DONE or self._http.their_state is not h11.DONE:
            return False
        self._http.start_next_cycle()
        return True

    # --- reading ------------------------------------------------------------------------

    def _receive(self) -> Call | None:
        """The next whole request; nothing if the client has gone."""
        self._plain, start = False, b""
        if not self._http.trailing_data[0]:
            start, self._ahead = self._ahead or self._read(), b""
            end = start.find(_HEAD_END) + len(_HEAD_END)
            known = self._server.heads.get(start[:end])
            if known is not None:
                return self._receive_plain(known, start, end)
            self._http.receive_data(start)
        return self._receive_by_h11(start)

    def _receive_plain(self, known: _Head, data: bytes, end: int) -> Call | None:
        whole = end + known.length
        while len(data) < whole:
            more = self._read()
            if not more:  # h11 has the words for it
                self._http.receive_data(data)
                self._http.receive_data(b"")
                return self._receive_by_h11(b"")
            data += more
        self._plain, self._ahead = True, data[whole:]
        self._rest()
        return known.call(data[end:whole])

    def _receive_by_h11(self, start: bytes) -> Call | None:
        head = self._next()
        if not isinstance(head, h11.Request):
            return None
        said = _Head.of(head)
        self._check_length(said.length)
        body = self._body()
        self._rest()
        self._remember(start, head, said)
        return said.call(body)

    def _remember(self, start: bytes, head: h11.Request, said: _Head) -> None:
        """Note what a plain head says, for when the same bytes come again."""
        end = start.find(_HEAD_END) + len(_HEAD_END)
        names = {name for name, _ in head.headers}
        plain = head.http_version == b"1.1" and said.method in {"GET", "POST"}
        # one line each and nothing else, or the bytes before `end` are not just the head
        lines = start[:end].count(b"\r\n") == start[:end].count(b"\n") == len(head.headers) + 2
        if plain and lines and end <= _KNOWN_BYTES and not names & _NOT_PLAIN:
            if len(self._server.heads) >= _KNOWN_HEADS:
                self._server.heads.clear()
            self._server.heads[start[:end]] = said

    def _check_length(self, size: int) -> None:
        if size > self._limits.request_bytes:
            most = self._limits.request_bytes
            raise ServingError("S03", f"{size} bytes, at most {most} are taken")

    def _body(self) -> bytes:
        parts: list[bytes] = []
        size = 0
        while True:
            event = self._next()
            if not isinstance(event, h11.Data):
                return parts[0] if len(parts) == 1 else b"".join(parts)
            parts.append(bytes(event.data))
            size += len(event.data)
            self._check_length(size)

    def _next(self) -> h11.Event | type[h11.PAUSED]:
        while True:
            event = self._http.next_event()
            if event is not h11.NEED_DATA:
                return event  # type: ignore[return-value]  # h11's sentinels are classes of their own
            if self._http.they_are_waiting_for_100_continue:
                go_on = self._http.send(h11.InformationalResponse(status_code=100, headers=[]))
                self._socket.sendall(go_on or b"")
            self._http.receive_data(self._read())

    def _read(self) -> bytes:
        if not self._deadline:
            data = self._wait()
            self.idle_since = _BUSY
            self._deadline = time.monotonic() + self._limits.request_seconds
            return data
        left = self._deadline - time.monotonic()
        if left > 0:
            if left < _NEARLY * self._limits.request_seconds:
                self._socket.settimeout(left)
                self._hurried = True
            try:
                return self._socket.recv(self._most())
            except (TimeoutError, BlockingIOError):
                pass
        raise ServingError("S06", f"not whole after {self._limits.request_seconds:g} s")

    def _wait(self) -> bytes:
        while True:
            try:
                return self._socket.recv(HEAD_LIMIT_BYTES)
            except (TimeoutError, BlockingIOError):
                if self._server.stopping:
                    return b""

    def _most(self) -> int:
        """A head that came whole in one read would pass h11's limit, so heads are read in less."""
        return _READ_BYTES if self._http.their_state is h11.SEND_BODY else HEAD_LIMIT_BYTES

    def _rest(self) -> None:
        """A request is whole: the answer and the next one have a deadline of their own."""
        if self._hurried:
            self._socket.settimeout(None)
            self._hurried = False

    def _wait_at_most(self, seconds: float) -> None:
        """Let the kernel end a read that takes so long: no call of poll goes before each read."""
        whole, part = divmod(seconds, 1.0)
        limit = struct.pack("ll", int(whole), int(part * 1e6))
        self._socket.settimeout(None)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)

    # --- writing ------------------------------------------------------------------------

    def _send(self, method: str, reply: Reply, *, last: bool) -> None:
        if self._http.our_state not in (h11.IDLE, h11.SEND_RESPONSE):
            return
        headers = [
            ("Content-Type", reply.media_type),
            ("Content-Length", str(len(reply.body))),
            *reply.headers,
        ]
        if last:
            headers.append(("Connection", "close"))
        head = h11.Response(
            status_code=reply.status, headers=headers, reason=_REASONS.get(reply.status, b"")
        )
        answer = self._http.send(head) or b""
        if method != "HEAD":
            answer += self._http.send(h11.Data(data=reply.body)) or b""
        answer += self._http.send(h11.EndOfMessage()) or b""
        self._put(answer)
        self._answered(more=bool(self._http.trailing_data[0]))

    def _send_plain(self, reply: Reply) -> bool:
        """The answer to a plain request; false if there will be no other."""
        last = self._server.stopping
        head = b"HTTP/1.1 %d %b\r\nContent-Type: %b\r\nContent-Length: %d\r\n" % (
            reply.status,
            _REASONS.get(reply.status, b""),
            reply.media_type.encode(),
            len(reply.body),
        )
        for name, value in reply.headers:
            head += b"%b: %b\r\n" % (name.encode(), value.encode())
        if last:
            head += b"Connection: close\r\n"
        self._put(head + b"\r\n" + reply.body)
        self._answered(more=bool(self._ahead))
        return not last

    def _answered(self, *, more: bool) -> None:
        self._deadline = 0.0
        if more:
            self._deadline = time.monotonic() + self._limits.request_seconds
        else:
            self.idle_since = time.monotonic()

    def _put(self, answer: bytes) -> None:
        """Send; what does not fit at once has to be taken in time."""
        try:
            sent = self._socket.send(answer, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        if sent < len(answer):
            self._socket.settimeout(self._limits.request_seconds)
            self._socket.sendall(answer[sent:])
            self._socket.settimeout(None)

    def _linger(self) -> None:
        """Take what still arrives for a moment, so that the answer is not lost in a reset."""
        try:
            self._socket.shutdown(socket.SHUT_WR)
            end = time.monotonic() + _LINGER_SECONDS
            while (left := end - time.monotonic()) > 0:
                self._socket.settimeout(left)
                if not self._socket.recv(_READ_BYTES):
                    return
        except OSError:
            return


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
            taken.recv(_READ_BYTES)
        except OSError:
            pass  # it did not want to know


def _shut(taken: socket.socket) -> None:
    with suppress(OSError):  # the other side was quicker
        taken.shutdown(socket.SHUT_RDWR)
