"""One client of the serving port; the only file that knows h11.

h11 judges every head. A head that it found plain is remembered with what it says, and the same
bytes are the same request: a client that asks again and again is not parsed again and again.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import Final

import h11

from wherry_agent.config import Limits
from wherry_contract.errors import ServingError

from .parked import Helpers, Parked
from .service import Call, Reply, refusal

HEAD_LIMIT_BYTES: Final = 16 * 1024
READ_BYTES: Final = 64 * 1024
BUSY: Final = float("inf")
_NEARLY: Final = 0.9  # a read may outlast the deadline by the rest of it
_LINGER_SECONDS: Final = 1.0
_HEAD_END: Final = b"\r\n\r\n"
_KNOWN_HEADS: Final = 512  # that are remembered, of this length at most
_KNOWN_BYTES: Final = 1024
# what the thread that watches all answers itself: bodies so long, while they take so long
_SHORT_BYTES: Final = 8 * 1024
_SHORT_SECONDS: Final = 0.002
_FADING: Final = 0.1
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


_REASONS: Final = {status.value: status.phrase.encode() for status in HTTPStatus}


@dataclass
class Common:
    """What all connections of a port share.

    Attributes:
        limits: sizes and times.
        hooks: whom to tell.
        forget: takes a closed connection off the list.
        parked: watches those that ask nothing now.
        helpers: threads for what takes long.
        heads: plain ones; a look-up is one step, so no lock is needed.
        usual_seconds: that a short request takes of late, of its thread's own time.
        stopping: whether answers are the last ones.
    """

    limits: Limits
    hooks: Hooks
    forget: Callable[[Connection], None]
    parked: Parked
    helpers: Helpers
    heads: dict[bytes, _Head] = field(default_factory=dict)
    usual_seconds: float = 0.0
    stopping: bool = False


class Connection:
    """One client: reads a request, has it answered, and again."""

    def __init__(self, server: Common, taken: socket.socket) -> None:
        self._server = server
        self._socket = taken
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=HEAD_LIMIT_BYTES)
        self._limits = server.limits
        self._deadline = 0.0  # monotonic, of the request that is arriving; 0 before its first byte
        self._hurried = False
        self._ahead = b""  # came with the last plain request, and belongs to the next
        self._plain = False  # whether the request under way never went through h11
        self._quick = False  # whether the thread that watches all must not wait for this one
        self._unsent = b""
        self.idle_since = time.monotonic()  # infinite while a request is under way
        self.asked_at = BUSY  # when a request was whole; infinite once it is answered
        self._wait_at_most(self._limits.request_seconds)

    def interrupt(self) -> None:
        """Make a blocked read end."""
        shut(self._socket)

    def fileno(self) -> int:
        """Its socket."""
        return self._socket.fileno()

    @property
    def deadline(self) -> float:
        """When a request that has begun must be whole; 0 for none."""
        return self._deadline

    # --- on the thread that watches all ---------------------------------------------------

    def ready(self) -> None:
        """Answer a plain, short request that is whole; whoever needs longer gets a thread."""
        try:
            data = self._socket.recv(HEAD_LIMIT_BYTES, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._end_of_input()
            return
        if not self._deadline:
            self.idle_since = BUSY
            self._deadline = time.monotonic() + self._limits.request_seconds
        data = self._ahead + data
        end = data.find(_HEAD_END) + len(_HEAD_END)
        known = self._server.heads.get(data[:end])
        slow = self._server.usual_seconds > _SHORT_SECONDS
        if slow or known is None or known.length > _SHORT_BYTES or len(data) > end + known.length:
            self._get_thread(data)
        elif len(data) < end + known.length:
            self._ahead = data
        else:
            self._ahead = b""
            self._answer_at_once(known.call(data[end:]))

    def _end_of_input(self) -> None:
        if self._ahead:  # in the middle of a request: h11 has the words for it
            self._get_thread(self._ahead)
        else:
            self._server.parked.remove(self)
            self._close()

    def _answer_at_once(self, call: Call) -> None:
        self._plain = self._quick = True
        try:
            more = self._answer(call)
        except OSError:  # it went away
            more = False
        except Exception as error:  # noqa: BLE001 - a bug in one answer must not end the others
            self._server.hooks.crashed(error)
            more = False
        self._quick = False
        if self._unsent:
            self._get_thread(b"", more=more)
        elif not more:
            self._server.parked.remove(self)
            self._close()

    def late(self, now: float) -> None:
        """Have somebody who is late told so."""
        if now > self._deadline:
            self._get_thread(self._ahead)

    def _get_thread(self, data: bytes, *, more: bool = True) -> None:
        self._server.parked.remove(self)
        self._ahead, self.idle_since = data, BUSY
        try:
            self._server.helpers.do(lambda: self._work(more=more))
        except RuntimeError as error:  # no thread to be had: the board is at its end
            self._close()
            self._server.hooks.crashed(error)

    # --- on a thread of its own -----------------------------------------------------------

    def _work(self, *, more: bool) -> None:
        """Serve until the client has nothing more to ask now, goes, errs or must go."""
        parked = False
        try:
            unsent, self._unsent = self._unsent, b""
            if unsent:
                self._put(unsent)
            while more and not parked:
                if not self._ahead and not self._http.trailing_data[0] and not self._deadline:
                    parked = True
                else:
                    more = self._one()
        except OSError:
            pass  # the client went away, or takes no answer
        except Exception as error:  # noqa: BLE001 - a bug in one answer must not end quietly
            self._server.hooks.crashed(error)
        if parked:
            self.idle_since = time.monotonic()
            with suppress(OSError, ValueError):  # all has ended meanwhile
                self._server.parked.add(self)
                return
        self._close()

    def _close(self) -> None:
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
        began = time.thread_time()
        try:
            reply = self._server.hooks.handle(call)
        except Exception as error:  # noqa: BLE001 - a bug in one answer must not end the others
            self._server.hooks.crashed(error)
            reply = Reply(HTTPStatus.INTERNAL_SERVER_ERROR, b'{"error":"a fault of the agent"}')
        self.asked_at = BUSY
        if self._plain:
            took = time.thread_time() - began  # of this thread: a busy board is not a slow model
            if len(call.body) <= _SHORT_BYTES:
                self._server.usual_seconds += _FADING * (took - self._server.usual_seconds)
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
            self.idle_since = BUSY
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
        return READ_BYTES if self._http.their_state is h11.SEND_BODY else HEAD_LIMIT_BYTES

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
        if sent < len(answer) and self._quick:
            self._unsent = answer[sent:]
        elif sent < len(answer):
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
                if not self._socket.recv(READ_BYTES):
                    return
        except OSError:
            return


def shut(taken: socket.socket) -> None:
    """End a connection, or whatever waits for it."""
    with suppress(OSError):  # the other side was quicker
        taken.shutdown(socket.SHUT_RDWR)
