"""The depot's client: blobs by digest over HTTP, resumable, capped, never a redirect.

A depot is a folder of static files: ``blobs/sha256/<hex>`` and
``statements/<hex>.dsse.json``.
"""

from __future__ import annotations

import http.client
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, Protocol
from urllib.parse import urlsplit

from wherry_agent.identity.tls import Tls
from wherry_agent.store import BlobStore
from wherry_contract.errors import LinkError
from wherry_contract.oci import Descriptor, blob_path

from .pace import Pace
from .transfer import bring, check_status, connect, exchange, from_byte, read_small

_SECONDS: Final = 20.0  # without a byte


class Source(Protocol):
    """Where bundles come from: a depot, or a file that a person brought."""

    def blob(self, digest: str, limit: int) -> bytes:
        """A small blob."""
        ...

    def statement(self, digest: str, limit: int) -> bytes:
        """The signatures of a bundle."""
        ...

    def deltas(self, digest: str, limit: int) -> bytes:
        """The list of deltas that lead to a bundle; nothing if there is none."""
        ...

    def fetch(
        self,
        wanted: Descriptor,
        store: BlobStore,
        stop: Callable[[], bool],
        pace: Pace | None = None,
    ) -> bool:
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

    def deltas(self, digest: str, limit: int) -> bytes:
        """The list of deltas that lead to a bundle; nothing if the depot has none.

        Raises:
            LinkError: L04 or L06.
        """
        try:
            return self._small(f"deltas/{digest.partition(':')[2]}.json", limit)
        except LinkError as error:
            if error.code == "L05":
                return b""
            raise

    def _small(self, path: str, limit: int) -> bytes:
        return read_small(lambda offset: self._open(path, offset), path, limit, self._seconds)

    def fetch(
        self,
        wanted: Descriptor,
        store: BlobStore,
        stop: Callable[[], bool],
        pace: Pace | None = None,
    ) -> bool:
        """Bring a blob into the store; as `transfer.bring`."""
        path = blob_path(wanted.digest)
        return bring(lambda offset: self._open(path, offset), wanted, store, stop, pace)

    @contextmanager
    def _open(self, path: str, offset: int) -> Iterator[http.client.HTTPResponse]:
        context = self._tls.context() if self._tls else None
        connection = connect(self._parts, self._seconds, context)
        target = f"{self._parts.path}/{path}"
        asked = exchange(connection, target, from_byte(offset), self._seconds, self._lost)
        with asked as response:
            check_status(response, path)
            yield response

    def _lost(self, where: str) -> LinkError | None:
        return self._tls.lost(where) if self._tls else None
