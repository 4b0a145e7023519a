"""The server's HTTP interface, as the commands call it; errors come back as they were raised."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, Final
from urllib.parse import quote, urlencode, urlsplit

from wherry.folder import home
from wherry_contract.errors import CODES, LinkError, RolloutError, SetupError, coded_error

_SECONDS: Final = 60.0
_STARTING_SECONDS: Final = 20.0  # for a server whose folder is in use
_LOOKING_SECONDS: Final = 2.0  # for one that was called a moment ago, as by `wherry serve &`
_ANSWER_LIMIT_BYTES: Final = 256 * 2**20


class Client:
    """Asks one server."""

    def __init__(self, url: str, token: str) -> None:
        """Take the base URL, ``http://host:port``, and the token.

        Raises:
            SetupError: H07, this is no such URL.
        """
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            cure = "write it like http://127.0.0.1:8700"
            raise SetupError("H07", f"{url[:80]!r} is no http:// address", cure=cure)
        self.url = url.rstrip("/")
        self._parts = parts
        self._token = token

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Ask ``/api/v1/<path>``; query values may be lists.

        Raises:
            WherryError: as the server raised it; L08 if it cannot be reached.
        """
        text = urlencode({k: v for k, v in query.items() if v is not None}, doseq=True)
        return self._ask("GET", f"{path}?{text}" if text else path)

    def post(self, path: str, document: Mapping[str, Any]) -> dict[str, Any]:
        """Order something; likewise."""
        return self._ask("POST", path, json.dumps(document).encode())

    def upload(self, path: str, stream: BinaryIO, size: int) -> dict[str, Any]:
        """Send a file of `size` bytes; likewise."""
        return self._ask("POST", path, stream, {"Content-Length": str(size)})

    def _ask(
        self,
        method: str,
        path: str,
        body: bytes | BinaryIO | None = None,
        more: Mapping[str, str] | None = None,
    ) -> dict[str, Any]:
        kind = (
            http.client.HTTPSConnection
            if self._parts.scheme == "https"
            else http.client.HTTPConnection
        )
        connection = kind(self._parts.hostname or "", self._parts.port, timeout=_SECONDS)
        headers = {"Authorization": f"Bearer {self._token}"} | dict(more or {})
        try:
            status, data = _exchange(connection, method, f"/api/v1/{path}", body, headers)
        except (OSError, http.client.HTTPException) as error:
            raise LinkError("L08", f"{self.url}: {error or repr(error)}") from error
        finally:
            connection.close()
        return _answer(status, data)


def _exchange(
    connection: http.client.HTTPConnection,
    method: str,
    path: str,
    body: bytes | BinaryIO | None,
    headers: Mapping[str, str],
) -> tuple[int, bytes]:
    # it may refuse while we still send: its answer says why
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):
        connection.request(method, path, body, dict(headers))
    response = connection.getresponse()
    return response.status, response.read(_ANSWER_LIMIT_BYTES)


def _answer(status: int, data: bytes) -> dict[str, Any]:
    try:
        document = json.loads(data)
    except ValueError as error:
        raise LinkError("L07", f"HTTP {status} without JSON") from error
    if not isinstance(document, dict):
        raise LinkError("L07", f"HTTP {status} with another kind of JSON")
    if status < 400:
        return document
    if document.get("code") not in CODES:
        raise LinkError("L07", f"HTTP {status}: {str(document)[:200]}")
    raised = coded_error(document["code"], str(document.get("detail", "")))
    raised.cure = str(document.get("next", "")) or raised.cure
    raise raised


def segment(name: str) -> str:
    """A name as one segment of a path."""
    return quote(name, safe="")


def find_client(server: str = "", token_file: Path | None = None) -> Client:
    """The server that a command talks to: as said, $WHERRY_SERVER, or the one that runs here.

    Args:
        server: its URL; "" to look for it.
        token_file: where its token is; by default in the data folder.

    Raises:
        SetupError: H02 no token, H07 no server.
        RolloutError: R05, the file holds something else than a token.
    """
    url = server or os.environ.get("WHERRY_SERVER", "") or _running(home())
    path = token_file or home() / "token"
    try:
        token = path.read_text(errors="replace").strip()
    except OSError as error:
        raise SetupError("H02", f"{path}: {error.strerror}", cure="see --token-file") from error
    if not re.fullmatch(r"[\x21-\x7e]{1,256}", token):
        raise RolloutError("R05", f"{path} holds no token")
    return Client(url, token)


def _running(folder: Path) -> str:
    """The URL of the server that keeps its data here; one that is starting is waited for."""
    path = folder / "server.json"
    began = time.monotonic()
    while not path.exists():
        waited = time.monotonic() - began
        if waited > (_STARTING_SECONDS if _is_starting(folder / "lock") else _LOOKING_SECONDS):
            cure = "start it with `wherry serve` here, or say --server, or set $WHERRY_HOME"
            raise SetupError("H07", f"{path} is not there", cure=cure)
        time.sleep(0.05)
    try:
        return str(json.loads(path.read_text())["url"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SetupError("H07", f"{path} is not readable") from error


def _is_starting(lock: Path) -> bool:
    """Whether the process that wrote its number there lives; the lock itself is never touched."""
    try:
        os.kill(int(lock.read_text()), 0)
    except PermissionError:  # it lives, and is somebody else's
        return True
    except (OSError, ValueError, OverflowError):
        return False
    return True
