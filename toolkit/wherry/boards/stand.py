"""A fleet of one board on this machine: the real server, and the real agent under QEMU.

The server is `wherry serve` as users have it, with its broker and its depot behind mutual
TLS; its folder goes when the rehearsal ends. The agent enrols with a claim code, as a
terminal does.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from wherry.children import Children, children
from wherry.client import Client
from wherry.release import Releases
from wherry.repository.lab import open_keys
from wherry_contract.bundle import Layout

from .agent import BoardAgent
from .contacts import contacts, traced, tracer
from .resident import with_children

DEVICE: Final = "board"
_SERVER: Final = "server"
_AGENT: Final = "agent"
_SIGNERS: Final = ("targets-1", "targets-2", "models-1", "models-2")
_START_SECONDS: Final = 60.0
_LOOK_SECONDS: Final = 0.25
_SHOWN: Final = 300


class FailedError(Exception):
    """The board did not do something; an answer, which becomes a step that is not well."""


class Stand:
    """What a rehearsal acts on; see `stand`."""

    def __init__(self, folder: Path, agent: BoardAgent, programs: Children, until: float) -> None:
        self.fleet, self._device = folder / "fleet", folder / "device"
        self._folder, self._agent, self._programs = folder, agent, programs
        self._until = until
        self._enrol_url = ""
        self._strace = tracer()
        self.peak_mib = 0.0

    @property
    def left(self) -> float:
        """Seconds that are left.

        Raises:
            TimeoutError: none are.
        """
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        return left

    def until(self, done: Callable[[], bool]) -> None:
        """Wait, looking at the agent's memory meanwhile.

        Raises:
            FailedError: the agent has ended.
            TimeoutError: the time is up.
        """
        while not done():
            pid = self._programs.pid(_AGENT)
            if pid is None:
                raise FailedError(f"the agent ended: {self.last_words}")
            self.peak_mib = max(self.peak_mib, with_children(pid, self._agent.place.program))
            time.sleep(min(_LOOK_SECONDS, self.left))

    # --- the server -----------------------------------------------------------------------

    def serve(self) -> None:
        """Start it.

        Raises:
            SetupError: H05, it does not start; there is no broker here, perhaps.
        """
        command = [sys.executable, "-m", "wherry", "serve", "--data", str(self.fleet)]
        self._programs.start(_SERVER, command, os.environ)
        ready = (self.fleet / "server.json").exists
        self._programs.wait(_SERVER, ready, seconds=_START_SECONDS)

    @property
    def _facts(self) -> Mapping[str, Any]:
        found: dict[str, Any] = json.loads((self.fleet / "server.json").read_text())
        return found

    @property
    def client(self) -> Client:
        """Its operators' side."""
        return Client(self._facts["url"], (self.fleet / "token").read_text())

    @property
    def broker(self) -> str:
        """Where devices find its broker."""
        return str(self._facts["devices"]["broker"])

    @property
    def doors(self) -> set[tuple[str, int]]:
        """Hosts and ports where devices may come."""
        parts = [urlsplit(url) for url in self._facts["devices"].values() if url]
        return {(part.hostname or "", part.port or 0) for part in parts}

    def release(self, layout: Layout) -> str:
        """Let the laboratory's people release a bundle, put it into the depot; returns its digest."""
        path = self._folder / "bundle.wherry"
        path.write_bytes(layout.to_tar())
        releases = Releases(self.fleet)
        digest = releases.stage(path, 0).digest
        releases.finish(open_keys(releases.keys, _SIGNERS))
        with path.open("rb") as stream:
            self.client.upload("bundles", stream, path.stat().st_size)
        return digest

    def device(self) -> Mapping[str, Any]:
        """The board, as the server knows it."""
        return self.client.get(f"devices/{DEVICE}")

    def events(self) -> list[dict[str, Any]]:
        """What the board said of itself, in order."""
        found: list[dict[str, Any]] = self.client.get("events", device=DEVICE)["events"]
        return found

    # --- the board ------------------------------------------------------------------------

    def enrol(self, family: str, limits: Mapping[str, float]) -> None:
        """Let the board make its key, have it certified, and be told what bounds it.

        Raises:
            FailedError: it could not.
            TimeoutError: the time is up.
        """
        claim = self.client.post("claims", {"family": family, "device": DEVICE})
        arguments = ["--url", claim["url"], "--claim", claim["codes"][0], "--listen", "127.0.0.1:0"]
        self._run("enroll", *arguments, "--into", str(self._device))
        lines = ["", "[limits]", *(f"{name} = {value}" for name, value in limits.items())]
        with self._config.open("a") as stream:
            stream.write("\n".join(lines) + "\n")

    @property
    def _config(self) -> Path:
        return self._device / "agent.toml"

    @property
    def _trace(self) -> Path:
        return self._folder / "contacts"

    def _run(self, *arguments: str) -> None:
        try:
            done = subprocess.run(
                self._agent.command(*arguments),
                env=self._agent.environment,
                capture_output=True,
                timeout=self.left,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise TimeoutError from error
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())[-_SHOWN:]
            raise FailedError(f"{arguments[0]} ended with {done.returncode}: {said}")

    def start(self) -> tuple[str, int]:
        """Start the agent, watched if that is possible; returns where it serves.

        Raises:
            FailedError: it ends.
            TimeoutError: the time is up.
        """
        command = self._agent.command("run", "--config", str(self._config))
        if self._strace:
            command = traced(self._strace, command, self._trace)
        self._programs.start(_AGENT, command, self._agent.environment)
        port = self._device / "state" / "listening"
        self.until(port.exists)
        host, _, number = port.read_text().strip().rpartition(":")
        return host, int(number)

    @property
    def last_words(self) -> str:
        """The end of the agent's log."""
        return self._programs.last_words(_AGENT)

    def contacts(self) -> set[tuple[str, int]] | None:
        """Whom the agent and its children spoke to; None if nobody could watch."""
        return contacts(self._trace.read_text(errors="replace")) if self._strace else None

    def stop_agent(self) -> None:
        """End it, so that all it did is written down."""
        self._programs.stop(_AGENT)


@contextmanager
def stand(folder: Path, agent: BoardAgent, until: float) -> Iterator[Stand]:
    """Everything for the length of a block; nothing outlives it.

    Args:
        folder: an empty one, for the server's data and the board's files.
        agent: on the board.
        until: monotonic seconds, when its time is up.
    """
    logs = folder / "logs"
    logs.mkdir()
    with children(logs) as programs:
        yield Stand(folder, agent, programs, until)
