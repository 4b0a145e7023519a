"""Where TUF metadata comes from: a depot over HTTP, a folder on a stick, or nowhere.

A try that was cut off goes on within the same call, and, where it was long, in the next
process. What is larger than its cap, or comes slower than any link in use, or does not end,
is given up.
"""

from __future__ import annotations

import http.client
import re
import time
from collections.abc import Callable
from http import HTTPStatus
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from wherry_agent.identity.tls import Tls, tls_error
from wherry_agent.store import as_store_error
from wherry_contract.errors import LinkError

from .tuf_part import Part

METADATA_FOLDER: Final = "tuf"  # under a depot's base, or on a stick
_CHUNK_BYTES: Final = 16 * 1024
_TRIES: Final = 4  # of one document, each going on where the last was cut off
_ABSENT: Final = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.FORBIDDEN})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,15})-\d{1,15}/(?:\d{1,15}|\*)")


class Reader(Protocol):
    """Reads a small file by its path under one base."""

    def read(self, path: str, limit: int) -> bytes | None:
        """The file, or nothing if it is not there; never more than `limit` bytes."""
        ...


class NowhereReader:
    """Has nothing: what was verified before must do."""

    def read(self, path: str, limit: int) -> bytes | None:  # noqa: ARG002 - it has nothing
        """Nothing."""
        return None


class FolderReader:
    """Reads from a folder, such as a USB stick's."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self, path: str, limit: int) -> bytes | None:
        """A file.

        Raises:
            LinkError: L06, larger than `limit`, or a path that leads elsewhere.
            StoreError: D06.
        """
        if not set(path.split("/")).isdisjoint({"", ".", ".."}):
            raise LinkError("L06", f"{path} leads elsewhere")
        try:
            with (self._folder / path).open("rb") as stream:
                data = stream.read(limit + 1)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise as_store_error(error, path) from error
        _check_size(len(data), path, limit)
        return data


class Below:
    """One folder of what another reader reads."""

    def __init__(self, reader: Reader, folder: str) -> None:
        self._reader = reader
        self._folder = folder

    def read(self, path: str, limit: int) -> bytes | None:
        """A file in that folder.

        A role's slash is quoted in its file's name. Servers differ in what they make of the
        name in a URL, so where it is not found it is asked for once more, quoted again.
        """
        found = self._reader.read(f"{self._folder}/{path}", limit)
        if found is None and "%" in path:
            found = self._reader.read(f"{self._folder}/{path.replace('%', '%25')}", limit)
        return found


class HttpReader:
    """Reads over HTTP or HTTPS; follows no redirect.

    Args:
        url: the base.
        tls: who we are, for ``https://``.
        seconds: without a byte.
        total_seconds: for all that is read through this reader.
        least_rate: bytes a second, on average, once `seconds` have gone by.
        clock: monotonic seconds.
        part: keeps the beginning of what was cut off.
    """

    def __init__(
        self,
        url: str,
        tls: Tls | None = None,
        *,
        seconds: float = 20.0,
        total_seconds: float = 300.0,
        least_rate: float = 64.0,
        clock: Callable[[], float] = time.monotonic,
        part: Part | None = None,
    ) -> None:
        self._part = part or Part()
        self._parts = urlsplit(url.rstrip("/"))
        self._tls = tls
        self._seconds = seconds
        self._least_rate = least_rate
        self._clock = clock
        self._end = clock() + total_seconds
        self._connection: http.client.HTTPConnection | None = None

    def close(self) -> None:
        """Close the connection."""
        if self._connection:
            self._connection.close()
            self._connection = None

    def read(self, path: str, limit: int) -> bytes | None:
        """A file.

        Raises:
            LinkError: L04 not to be had now, L05 refused, L06 another thing than asked for.
        """
        data = bytearray(self._part.begin(path, limit))
        try:
            found = self._read(path, limit, data)
        except LinkError as error:
            if error.code != "L04":  # going on would bring no better
                self._part.end()
            raise
        self._part.end()
        return found

    def _read(self, path: str, limit: int, data: bytearray) -> bytes | None:
        for left in reversed(range(_TRIES)):
            try:
                return self._try(path, limit, data)
            except LinkError:
                self.close()  # what it still sends belongs to no question of ours
                raise
            except (OSError, http.client.HTTPException) as error:
                self.close()
                if not left or self._clock() > self._end:
                    raise self._lost(path, error) from error
        raise AssertionError  # the last try returns or raises

    def _lost(self, path: str, error: Exception) -> LinkError:
        where = self._parts.netloc
        told = tls_error(error, where) or (self._tls and self._tls.lost(where))
        return told or LinkError("L04", f"{where}: {path}: {error or repr(error)}")

    def _try(self, path: str, limit: int, data: bytearray) -> bytes | None:
        with self._ask(path, len(data)) as response:  # it holds the socket on its own
            if response.status in _ABSENT:
                response.read(_CHUNK_BYTES)
                if not response.isclosed():  # a long page: another connection is cheaper
                    self.close()
                return None
            self._take(response, path, limit, data)
        return bytes(data)

    def _take(
        self, response: http.client.HTTPResponse, path: str, limit: int, data: bytearray
    ) -> None:
        _place(response, path, data)
        if response.length is not None:
            _check_size(len(data) + response.length, path, limit)
        began, start = self._clock(), len(data)
        while chunk := response.read1(_CHUNK_BYTES):
            data += chunk
            _check_size(len(data), path, limit)
            self._part.note(path, data)
            self._check_pace(path, len(data) - start, self._clock() - began)
        if response.length:
            raise ConnectionError(f"{response.length} bytes are missing")

    def _ask(self, path: str, offset: int) -> http.client.HTTPResponse:
        if self._clock() > self._end:
            raise LinkError("L04", f"{path}: the time for it is up")
        headers = {"Accept-Encoding": "identity"} | _range(offset)
        if self._connection is None:
            self._connection = self._connect()
        self._connection.request("GET", f"{self._parts.path}/{path}", headers=headers)
        return self._connection.getresponse()

    def _connect(self) -> http.client.HTTPConnection:
        host, port = self._parts.hostname, self._parts.port
        if host and self._parts.scheme == "https":
            context = self._tls.context() if self._tls else None
            return http.client.HTTPSConnection(host, port, timeout=self._seconds, context=context)
        if host and self._parts.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=self._seconds)
        raise LinkError("L04", "no depot is configured", cure="set [depot] url in agent.toml")

    def _check_pace(self, path: str, came: int, took: float) -> None:
        too_slow = took > self._seconds and came < self._least_rate * took
        if too_slow or self._clock() > self._end:
            raise LinkError("L04", f"{path} comes too slowly: {came} bytes in {took:.0f} s")


def _range(offset: int) -> dict[str, str]:
    return {"Range": f"bytes={offset}-"} if offset else {}


def _place(response: http.client.HTTPResponse, path: str, data: bytearray) -> None:
    """Make `data` end where the response's bytes begin."""
    status = response.status
    if status == HTTPStatus.OK:
        data.clear()
    elif status == HTTPStatus.PARTIAL_CONTENT and data:
        match = _CONTENT_RANGE.fullmatch(response.getheader("Content-Range", ""))
        if not match or int(match[1]) != len(data):
            raise LinkError("L06", f"{path}: another range than was asked for")
    elif 300 <= status < 400:
        raise LinkError("L06", f"{path}: a redirect ({status}), which is not followed")
    else:
        raise LinkError("L05", f"{path}: HTTP {status}")


def _check_size(size: int, path: str, limit: int) -> None:
    if size > limit:
        raise LinkError("L06", f"{path} has more than {limit} bytes")
