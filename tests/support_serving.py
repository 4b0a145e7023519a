"""What tests of the serving port share: a real server with a real model, and raw HTTP by hand."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from support_agent import Made, agent_config

from wherry_agent.clock import SystemClock
from wherry_agent.config import Limits
from wherry_agent.serving.counter import Tally
from wherry_agent.serving.inference import load_model
from wherry_agent.serving.scoring import Scorer
from wherry_agent.serving.served import Served
from wherry_agent.serving.server import Hooks, HttpServer
from wherry_agent.serving.service import Service

SESSION = "0123456789abcdef"
ROW = {"AMOUNT": 12.5, "NIGHTS": 2, "RISK": 3}


@dataclass
class Port:
    """A running serving port.

    Attributes:
        refused: codes of requests that never became a call.
        crashes: what should not have happened.
        tallies: windows that were closed.
    """

    scorer: Scorer
    server: HttpServer
    refused: list[str] = field(default_factory=list)
    crashes: list[Exception] = field(default_factory=list)
    tallies: list[Tally] = field(default_factory=list)

    @property
    def port(self) -> int:
        """The TCP port."""
        return int(self.server.address.rpartition(":")[2])

    def connect(self, seconds: float = 10.0) -> socket.socket:
        """A plain connection."""
        address = self.server.address
        if address.startswith("unix:"):
            client = socket.socket(socket.AF_UNIX)
            client.settimeout(seconds)
            client.connect(address.removeprefix("unix:"))
            return client
        return socket.create_connection(("127.0.0.1", self.port), timeout=seconds)

    def errors(self) -> dict[str, int]:
        """Refused rows by code, of the window so far."""
        self.scorer.stop()
        found: dict[str, int] = {}
        for tally in self.tallies:
            for code, rows in tally.errors.items():
                found[code] = found.get(code, 0) + rows
        return found


def make_served(made: Made) -> Served:
    """A bundle, loaded by the real runtime."""
    return Served.by_model(load_model(made.digest, made.parts))


@contextmanager
def running_port(
    folder: Path,
    served: Served | None,
    *,
    listen: str = "127.0.0.1:0",
    features: tuple[str, ...] = (),
    **limits: float,
) -> Iterator[Port]:
    """A serving port for the length of a block; a crash in it fails the test."""
    config = agent_config(folder, listen=listen, features=features, **limits)
    tallies: list[Tally] = []
    scorer = Scorer(config.limits, SystemClock(), tallies.append, also=config.features)
    scorer.swap(served)
    service = Service(config, scorer, SESSION)
    refused: list[str] = []
    crashes: list[Exception] = []
    hooks = Hooks(service.handle, refused.append, crashes.append)
    server = HttpServer(listen, config.limits, hooks)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    port = Port(scorer, server, refused, crashes, tallies)
    try:
        yield port
    finally:
        server.stop(2.0)
        thread.join(5.0)
    assert not thread.is_alive()
    assert port.crashes == []


def post(path: str, body: bytes, *headers: str) -> bytes:
    """A POST as bytes."""
    lines = [f"POST {path} HTTP/1.1", "Host: till", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def infer(document: Any, *headers: str, model: str = "fraud") -> bytes:
    """An inference request as bytes."""
    return post(f"/v2/models/{model}/infer", json.dumps(document).encode(), *headers)


def read_reply(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One answer: status, headers by lower-case name, body."""
    stream = client.makefile("rb")
    status = stream.readline().split()
    assert status, "the connection was closed without an answer"
    headers = {}
    while line := stream.readline().strip():
        name, _, value = line.decode().partition(":")
        headers[name.lower()] = value.strip()
    return int(status[1]), headers, stream.read(int(headers["content-length"]))


def ask(port: Port, request: bytes) -> tuple[int, dict[str, Any]]:
    """One request on a connection of its own; status and parsed body."""
    with port.connect() as client:
        client.sendall(request)
        status, _, body = read_reply(client)
    return status, json.loads(body) if body else {}


def default_limits() -> Limits:
    """The agent's own defaults."""
    return Limits()
