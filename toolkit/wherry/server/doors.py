"""Where devices knock: two TLS 1.3 listeners in a thread of their own.

    depot    wants a certificate that is still good here; blobs, signatures and metadata
    enrol    wants none: claim codes, renewal by proof of possession, the time; behind a
             turnstile, one request for each connection, which may not last long

Whose certificate it is reaches the handlers as `request.state.peer`, and is looked up with
each request, so that a revoked one is refused at once; its open connections are cut.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import threading
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final

import uvicorn
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp
from uvicorn.protocols.http.h11_impl import H11Protocol

from wherry.endure import LOG
from wherry_contract.errors import IdentityError, SetupError, WherryError
from wherry_contract.identity import LIMIT_BYTES, EnrolRequest, RenewRequest
from wherry_contract.told_time import read_nonce

from .registrar import Registrar
from .turnstile import Gate, Turnstile

_STOP_SECONDS: Final = 2
_ENROL_SECONDS: Final = 30.0  # for TLS, and for the request after it
_READY_SECONDS: Final = 10.0


@dataclass(frozen=True)
class Peer:
    """Who is at the other end; both are "" where no certificate was asked for.

    Attributes:
        device: the certificate's common name.
        serial: of the certificate, hexadecimal.
    """

    device: str = ""
    serial: str = ""


def peer_of(connection: Any) -> Peer:
    """Whom TLS has verified at the other end of a connection (`ssl.SSLObject`)."""
    shown = connection.getpeercert() if connection else None
    if not shown:
        return Peer()
    names = [value for part in shown["subject"] for key, value in part if key == "commonName"]
    return Peer(names[0] if names else "", str(shown["serialNumber"]).lstrip("0"))


class Open:
    """Connections by device, so that they can be cut."""

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None
        self._transports: defaultdict[str, set[asyncio.Transport]] = defaultdict(set)

    def add(self, device: str, transport: asyncio.Transport) -> None:
        """Note a connection; in the listeners' thread."""
        self._loop = asyncio.get_running_loop()
        self._transports[device].add(transport)

    def drop(self, device: str, transport: asyncio.Transport) -> None:
        """Forget one; likewise."""
        held = self._transports.get(device, set())
        held.discard(transport)
        if not held:
            self._transports.pop(device, None)

    def cut(self, device: str) -> None:
        """Cut whatever a device has open; from any thread."""
        if self._loop and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._cut, device)

    def _cut(self, device: str) -> None:
        for transport in self._transports.pop(device, set()):
            transport.abort()


def _protocol(opened: Open, seconds: float) -> type[H11Protocol]:
    class WithPeer(H11Protocol):
        """Tells handlers who is at the other end; lasts so long at the most, if that is not 0."""

        _peer = Peer()

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as uvicorn has it
            super().connection_made(transport)
            if seconds:
                self.loop.call_later(seconds, transport.abort)
            self._peer = peer_of(transport.get_extra_info("ssl_object"))
            self.app_state = {**self.app_state, "peer": self._peer}
            opened.add(self._peer.device, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            opened.drop(self._peer.device, self.transport)
            super().connection_lost(exc)

    return WithPeer


def server_context(certificate: Path, key: Path, authority: Path | None) -> ssl.SSLContext:
    """TLS 1.3 for a listener.

    Args:
        certificate: the server's, PEM.
        key: its key, PEM.
        authority: who must have signed the other side's certificate; nothing if it needs none.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # a session that is resumed would bring no certificate to look at
    context.num_tickets = 0
    context.load_cert_chain(certificate, key)
    if authority:
        context.load_verify_locations(authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def client_context(certificate: Path, key: Path, authority: Path) -> ssl.SSLContext:
    """TLS 1.3 for the server's own link to its broker."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.load_verify_locations(authority)
    context.load_cert_chain(certificate, key)
    return context


# --- what is behind them --------------------------------------------------------------------


def depot_app(
    registrar: Registrar,
    blob: Callable[[str], Response],
    refused: Callable[[WherryError], Response],
) -> ASGIApp:
    """The depot, for devices whose certificate is still good.

    Args:
        registrar: knows whose is.
        blob: answers for a name under ``/depot/``.
        refused: makes an answer of an error.
    """

    def serve(request: Request) -> Response:
        peer: Peer = request.state.peer
        if not registrar.registry.admits(peer.device, peer.serial):
            raise IdentityError("I04", peer.device[:64])
        return blob(request.path_params["name"])

    routes = [Route("/depot/{name:path}", serve, methods=["GET"])]
    return _app(routes, refused)


def enrol_app(
    registrar: Registrar, tell: Callable[[str], bytes], refused: Callable[[WherryError], Response]
) -> ASGIApp:
    """Claims, renewal and the time, for whoever has no certificate, or an old one.

    Args:
        registrar: lets devices in.
        tell: the signed time for a nonce.
        refused: makes an answer of an error.
    """

    def authority(_: Request) -> Response:
        return Response(registrar.authority.pem, media_type="application/x-pem-file")

    def nonce(_: Request) -> Response:
        return Response(registrar.nonce(), media_type="text/plain")

    routes = [
        Route("/enrol/authority", authority, methods=["GET"]),
        Route("/enrol/nonce", nonce, methods=["POST"]),
        Route("/enrol/claim", _answers(lambda body: _claimed(registrar, body)), methods=["POST"]),
        Route("/enrol/renew", _answers(lambda body: _renewed(registrar, body)), methods=["POST"]),
        Route("/enrol/time", _answers(lambda body: tell(read_nonce(body))), methods=["POST"]),
    ]
    return _app(routes, refused)


def _claimed(registrar: Registrar, body: bytes) -> bytes:
    return registrar.enrol(EnrolRequest.from_bytes(body)).to_bytes()


def _renewed(registrar: Registrar, body: bytes) -> bytes:
    return registrar.renew(RenewRequest.from_bytes(body)).to_bytes()


def _answers(work: Callable[[bytes], bytes]) -> Callable[[Request], Awaitable[Response]]:
    async def handle(request: Request) -> Response:
        data = b""
        try:
            async for chunk in request.stream():
                data += chunk
                if len(data) > LIMIT_BYTES:
                    raise IdentityError("I08", f"more than {LIMIT_BYTES} bytes")
        except ClientDisconnect as error:
            raise IdentityError("I08", "the request was cut off") from error
        return Response(await run_in_threadpool(work, data), media_type="application/json")

    return handle


def _app(routes: list[Route], refused: Callable[[WherryError], Response]) -> ASGIApp:
    def on_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, WherryError)  # noqa: S101 - registered for this class alone
        return refused(error)

    def not_found(_: Request, __: Exception) -> Response:
        return Response("there is no such page\n", HTTPStatus.NOT_FOUND)

    handlers: dict[Any, Any] = {WherryError: on_error, HTTPStatus.NOT_FOUND: not_found}
    return Starlette(routes=routes, exception_handlers=handlers)


# --- the thread -----------------------------------------------------------------------------


class Doors:
    """The listeners, in a thread with an event loop of its own."""

    def __init__(self, opened: Open) -> None:
        """Take what remembers open connections."""
        self._opened = opened
        self._servers: list[tuple[uvicorn.Server, socket.socket]] = []
        self._thread = threading.Thread(target=self._run, name="doors", daemon=True)

    def add(
        self,
        app: ASGIApp,
        listener: socket.socket,
        context: ssl.SSLContext,
        turnstile: Turnstile | None = None,
    ) -> None:
        """Add a listener before the start; where anybody may come, behind a turnstile."""
        config = uvicorn.Config(
            app,
            http=_protocol(self._opened, _ENROL_SECONDS if turnstile else 0.0),
            headers=[("Connection", "close")] if turnstile else None,
            ws="none",
            log_config=None,
            access_log=False,
            lifespan="off",
            timeout_graceful_shutdown=_STOP_SECONDS,
            server_header=False,
        )
        config.load()
        config.ssl = context
        door = Gate(listener, turnstile) if turnstile else listener
        self._servers.append((uvicorn.Server(config), door))

    @property
    def alive(self) -> bool:
        """Whether all of them listen."""
        return self._thread.is_alive() and all(server.started for server, _ in self._servers)

    def start(self) -> None:
        """Start, and wait until devices can come.

        Raises:
            SetupError: H05, they did not start in time.
        """
        self._thread.start()
        end = time.monotonic() + _READY_SECONDS
        while not self.alive and self._thread.is_alive() and time.monotonic() < end:
            time.sleep(0.005)
        if not self.alive:
            raise SetupError("H05", "the listeners for devices did not start")

    def stop(self) -> None:
        """End them."""
        for server, _ in self._servers:
            server.should_exit = True
        self._thread.join(2 * _STOP_SECONDS + 1)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception:  # noqa: BLE001 - what ends a thread unseen is worse than any bug that is logged
            LOG.exception("the listeners for devices ended")

    async def _serve(self) -> None:
        await asyncio.gather(*(server.serve([listener]) for server, listener in self._servers))
