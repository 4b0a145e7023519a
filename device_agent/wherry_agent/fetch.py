"""The depot's client: blobs by digest over HTTP, resumable, capped, never a redirect.

A depot is a folder of static files: ``blobs/sha256/<hex>`` and
``statements/<hex>.dsse.json``. Whatever a portal or proxy in between sends instead is
found out by length and digest, and thrown away.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from wherry_contract.errors import LinkError
from wherry_contract.oci import Descriptor, blob_path

from .store import BlobStore, as_store_error
from .tls import Tls, tls_error

_CHUNK_BYTES: Final = 64 * 1024
_SECONDS: Final = 20.0  # without a byte
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-(\d{1,15})/(\d{1,15}|\*)")


class Source(Protocol):
    """Where bundles come from: a depot, or a file that a person brought."""

    def blob(self, digest: str, limit: int) -> bytes:
        """A small blob."""
        ...

    def statement(self, digest: str, limit: int) -> bytes:
        """The signatures of a bundle."""
        ...

    def fetch(self, wanted: Descriptor, store: BlobStore, stop: Callable[[], bool]) -> bool:
        """Bring a blob into the store; false if it was told to stop."""
        ...

    def place(self) -> Mapping[str, Any]:
        """Where the metadata lies, for the verifier's process: ``url`` or ``folder``, or nothing."""
        ...


class Depot:
    """Reads from one depot."""

    def __init__(self, url: str, *, seconds: float = _SECONDS, tls: Tls | None = None) -> None:
        """Take the base URL, ``http://`` or ``https://``, and who we are."""
        self._parts = urlsplit(url)
        self._seconds = seconds
        self._tls = tls

    def place(self) -> Mapping[str, Any]:
        """Our own base."""
        return {"url": self._parts.geturl()}

    def blob(self, digest: str, limit: int) -> bytes:
        """A small blob; the caller checks its digest.

        Raises:
            LinkError: L04, L05, or L06 if it is longer than `limit` bytes.
        """
        return self._small(blob_path(digest), limit)

    def statement(self, digest: str, limit: int) -> bytes:
        """The signatures of a bundle; likewise."""
        return self._small(f"statements/{digest.partition(':')[2]}.dsse.json", limit)

    def _small(self, path: str, limit: int) -> bytes:
        data, end = b"", time.monotonic() + 3 * self._seconds
        with self._open(path, 0) as response, _told("it was cut off"):
            for chunk in _chunks(response):
                data += chunk
                if len(data) > limit:
                    raise LinkError("L06", f"{path} has more than {limit} bytes")
                if time.monotonic() > end:
                    raise LinkError("L04", f"{path} comes too slowly")
            if response.length:
                raise LinkError("L04", f"{path} was cut off, {response.length} bytes are missing")
        return data

    def fetch(self, wanted: Descriptor, store: BlobStore, stop: Callable[[], bool]) -> bool:
        """Bring a blob into the store, going on where an earlier try was cut off.

        Args:
            wanted: what, with its size.
            store: keeps the part between tries.
            stop: asked after every chunk.

        Returns:
            False if it was told to stop; the part is kept.

        Raises:
            LinkError: L04 cut off, L05 refused, L06 other bytes than wanted.
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
        if done < wanted.size and not self._append(wanted, part, done, stop):
            return False
        if not store.adopt(wanted.digest):
            raise LinkError("L06", f"{wanted.file_name or wanted.digest} has other content")
        return True

    def _append(self, wanted: Descriptor, part: Path, done: int, stop: Callable[[], bool]) -> bool:
        with self._open(blob_path(wanted.digest), done) as response:
            start = _start(response, done, wanted.size)
            try:
                stream = part.open("ab")
                with stream, _told(f"cut off after {start} bytes"):
                    stream.truncate(start)
                    for chunk in _chunks(response):
                        start += len(chunk)
                        if start > wanted.size:
                            stream.truncate(0)
                            raise LinkError("L06", f"more than the {wanted.size} bytes wanted")
                        stream.write(chunk)
                        if stop():
                            return False
            except OSError as error:
                raise as_store_error(error, part.name) from error
        if start < wanted.size:
            raise LinkError("L04", f"cut off at {start} of {wanted.size} bytes")
        return True

    @contextmanager
    def _open(self, path: str, offset: int) -> Iterator[http.client.HTTPResponse]:
        connection = self._connection()
        headers = {"Accept-Encoding": "identity"}
        if offset:
            headers["Range"] = f"bytes={offset}-"
        try:
            try:
                connection.request("GET", f"{self._parts.path}/{path}", headers=headers)
                response = connection.getresponse()
            except (OSError, http.client.HTTPException) as error:
                where = self._parts.netloc
                told = tls_error(error, where) or (self._tls and self._tls.lost(where))
                raise told or LinkError("L04", f"{where}: {error or repr(error)}") from error
            with response:  # it holds the socket on its own when the server closes
                _check_status(response, path)
                yield response
        finally:
            connection.close()

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname, self._parts.port
        if host and self._parts.scheme == "https":
            context = self._tls.context() if self._tls else None
            return http.client.HTTPSConnection(host, port, timeout=self._seconds, context=context)
        if host and self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._seconds)
        raise LinkError("L04", "no depot is configured", cure="set [depot] url in agent.toml")


def _check_status(response: http.client.HTTPResponse, path: str) -> None:
    status = response.status
    if status in (HTTPStatus.OK, HTTPStatus.PARTIAL_CONTENT):
        return
    if 300 <= status < 400:
        raise LinkError("L06", f"{path}: a redirect ({status}), which is not followed")
    raise LinkError("L05", f"{path}: HTTP {status}")


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


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """What has arrived, piece by piece, so that a slow line can be stopped in between."""
    while chunk := response.read1(_CHUNK_BYTES):
        yield chunk


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
