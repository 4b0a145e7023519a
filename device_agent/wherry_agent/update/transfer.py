"""One transfer over HTTP: a small file whole, or a blob that goes on where it was cut off.

Whatever a portal or proxy in between sends instead is found out by length and digest, and
thrown away. Who is asked, and what else must be said to them, is the caller's.
"""

from __future__ import annotations

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from pathlib import Path
from typing import Final
from urllib.parse import SplitResult

from wherry_agent.identity.tls import tls_error
from wherry_agent.store import BlobStore, as_store_error
from wherry_contract.errors import LinkError
from wherry_contract.oci import Descriptor

from .pace import Meter, Pace

_CHUNK_BYTES: Final = 64 * 1024
_PAUSE_SECONDS: Final = 0.2
_LONGEST_WAIT_SECONDS: Final = 3600.0
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")

Opener = Callable[[int], AbstractContextManager[http.client.HTTPResponse]]  # from a byte on


class Later(LinkError):  # noqa: N818 - a request, and no fault
    """The depot asks to come again later: it is busy, and neither side has failed.

    Attributes:
        wait_seconds: how much later.
    """

    def __init__(self, detail: str, wait_seconds: float) -> None:
        super().__init__("L04", detail)
        self.wait_seconds = wait_seconds


def connect(
    place: SplitResult, seconds: float, context: ssl.SSLContext | None
) -> http.client.HTTPConnection:
    """A connection for a URL; nothing is sent yet.

    Raises:
        LinkError: L04, it is no ``http://`` or ``https://`` URL.
    """
    host, port = place.hostname, place.port
    if host and place.scheme == "https":
        return http.client.HTTPSConnection(host, port, timeout=seconds, context=context)
    if host and place.scheme == "http":
        return http.client.HTTPConnection(host, port, timeout=seconds)
    raise LinkError("L04", "no depot is configured", cure="set [depot] url in agent.toml")


@contextmanager
def exchange(
    connection: http.client.HTTPConnection,
    path: str,
    headers: Mapping[str, str],
    seconds: float,
    lost: Callable[[str], LinkError | None],
    *,
    body: bytes | None = None,
) -> Iterator[http.client.HTTPResponse]:
    """Ask, and have the answer's head; the connection is closed at the end.

    Args:
        connection: not used before.
        path: with the query.
        headers: of the request.
        seconds: without a byte; the head may take three times as long.
        lost: asked why the other side hung up, with its name.
        body: is posted; nothing asks with GET.

    Raises:
        LinkError: L04, L09 to L11.
    """
    where = f"{connection.host}:{connection.port}"
    method = "GET" if body is None else "POST"
    try:
        try:
            with _by(3 * seconds, connection):
                connection.request(method, path, body, dict(headers))
                response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            told = tls_error(error, where) or lost(where)
            raise told or LinkError("L04", f"{where}: {error or repr(error)}") from error
        with response:  # it holds the socket on its own when the server closes
            yield response
    finally:
        connection.close()


def read_small(opened: Opener, name: str, limit: int, seconds: float) -> bytes:
    """A small file; the caller checks its digest.

    Args:
        opened: asks for it.
        name: for people.
        limit: bytes.
        seconds: a third of what it may take.

    Raises:
        LinkError: L04, L05, or L06 if it is longer than `limit` bytes.
    """
    data, end = b"", time.monotonic() + 3 * seconds
    with opened(0) as response, _told("it was cut off"):
        for chunk in _chunks(response):
            data += chunk
            if len(data) > limit:
                raise LinkError("L06", f"{name} has more than {limit} bytes")
            if time.monotonic() > end:
                raise LinkError("L04", f"{name} comes too slowly")
        if response.length:
            raise LinkError("L04", f"{name} was cut off, {response.length} bytes are missing")
    return data


def bring(
    opened: Opener,
    wanted: Descriptor,
    store: BlobStore,
    stop: Callable[[], bool],
    pace: Pace | None = None,
) -> bool:
    """Bring a blob into the store, going on where an earlier try was cut off.

    Args:
        opened: asks for it.
        wanted: what, with its size.
        store: keeps the part between tries.
        stop: asked after every chunk.
        pace: its bounds.

    Returns:
        False if it was told to stop; the part is kept.

    Raises:
        LinkError: L04 cut off or too slow, L05 refused, L06 other bytes than wanted.
        UpdateError: U13, the pace's bytes or seconds are used up.
        StoreError: D01 or D06.
    """
    part = store.part(wanted.digest)
    try:
        done = part.stat().st_size if part.exists() else 0
        if done > wanted.size:
            part.unlink()
            done = 0
        if not wanted.size:
            part.touch()
    except OSError as error:
        raise as_store_error(error, part.name) from error
    steps = _Steps(stop, pace or Pace())
    if done < wanted.size and not _append(opened, wanted, part, done, steps):
        return False
    if not store.adopt(wanted.digest):
        raise LinkError("L06", f"{wanted.file_name or wanted.digest} has other content")
    return True


def _append(opened: Opener, wanted: Descriptor, part: Path, done: int, steps: _Steps) -> bool:
    with opened(done) as response:
        start = _start(response, done, wanted.size)
        try:
            stream = part.open("ab")
            with stream, _told(f"cut off after {start} bytes"):
                stream.truncate(start)
                for chunk in _chunks(response, steps.chunk_bytes):
                    start += len(chunk)
                    if start > wanted.size:
                        stream.truncate(0)
                        raise LinkError("L06", f"more than the {wanted.size} bytes wanted")
                    stream.write(chunk)
                    if not steps.go_on(len(chunk)):
                        return False
        except OSError as error:
            raise as_store_error(error, part.name) from error
    if start < wanted.size:
        raise LinkError("L04", f"cut off at {start} of {wanted.size} bytes")
    return True


def from_byte(offset: int) -> dict[str, str]:
    """Headers that ask for the plain bytes from one on."""
    plain = {"Accept-Encoding": "identity"}
    return plain | {"Range": f"bytes={offset}-"} if offset else plain


def check_status(response: http.client.HTTPResponse, path: str) -> None:
    """Pass an answer with content.

    Raises:
        LinkError: L05 refused, L06 a redirect; `Later` if it asks for that.
    """
    status = response.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if 300 <= status < 400:
        raise LinkError("L06", f"{path}: a redirect ({status}), which is not followed")
    wait = retry_after(response)
    if wait and status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        raise Later(f"{path}: HTTP {status}, come again in {wait:.0f} s", wait)
    raise LinkError("L05", f"{path}: HTTP {status}")


def retry_after(response: http.client.HTTPResponse) -> float:
    """Seconds that a server asks to wait; 0 if it asks for nothing, an hour at most.

    A date is taken against the server's own, since the board's clock may be wrong.
    """
    asked = response.getheader("Retry-After", "").strip()
    if asked.isascii() and asked.isdigit():
        seconds = float(asked[:9])
    else:
        try:
            then = parsedate_to_datetime(asked)
            seconds = (then - parsedate_to_datetime(response.getheader("Date", ""))).total_seconds()
        except (TypeError, ValueError):  # neither a number nor two dates that compare
            return 0.0
    return min(max(seconds, 0.0), _LONGEST_WAIT_SECONDS)


def _start(response: http.client.HTTPResponse, done: int, size: int) -> int:
    """Where the bytes that follow belong: a server may ignore Range and send everything.

    What announces another length is refused before the part is touched: the page of a
    captive portal must not cost what was already here.
    """
    if response.status == HTTPStatus.OK:
        if response.length not in (None, size):
            raise LinkError("L06", f"{response.length} bytes come where {size} are wanted")
        return 0
    match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
    if not match or int(match[1]) != done or match[3] not in ("*", str(size)):
        raise LinkError("L06", "it sent another range than was asked for")
    return done


def _chunks(response: http.client.HTTPResponse, size: int = _CHUNK_BYTES) -> Iterator[bytes]:
    """What has arrived, piece by piece, so that a slow line can be stopped in between."""
    while chunk := response.read1(size):
        yield chunk


@contextmanager
def _by(seconds: float, connection: http.client.HTTPConnection) -> Iterator[None]:
    """Cut a connection off whose answer has not begun in time.

    A socket's timeout bounds one read, and a server may send a head byte by byte for ever.
    """
    late = threading.Event()

    def cut() -> None:
        late.set()
        with suppress(OSError):  # it may be gone already
            if connection.sock:
                connection.sock.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
    if late.is_set():  # what is left of a head that was cut reads like a whole one
        raise TimeoutError("its answer did not begin in time")


class _Steps:
    """What happens between the chunks of a transfer: measuring, pausing, stopping."""

    def __init__(self, stop: Callable[[], bool], pace: Pace) -> None:
        self._stop = stop
        self._meter = Meter(pace, time.monotonic())
        self.chunk_bytes = pace.chunk_bytes

    def go_on(self, count: int) -> bool:
        """Count a chunk and pause as its pace asks; false if told to stop."""
        pause = self._meter.took(count, time.monotonic())
        while not self._stop():
            if pause <= 0:
                return True
            time.sleep(min(pause, _PAUSE_SECONDS))
            pause -= _PAUSE_SECONDS
        return False


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Tell the network's failures from the disk's: a timeout, a reset, a broken chunk."""
    try:
        yield
    except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
        raise LinkError("L04", f"{what}: {error or repr(error)}") from error
    except OSError as error:
        if error.errno is None:  # TLS has its own
            raise LinkError("L04", f"{what}: {error}") from error
        raise
