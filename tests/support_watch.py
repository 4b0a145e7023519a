"""A real Prometheus beside a test."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

from support import free_port, wait_for


def fetch(url: str, path: str, token: str = "") -> tuple[int, bytes]:
    """Status and body of an answer."""
    asks = HTTPConnection(urlsplit(url).netloc, timeout=30)
    try:
        asks.request("GET", path, headers={"Authorization": f"Bearer {token}"})
        answer = asks.getresponse()
        return answer.status, answer.read()
    finally:
        asks.close()


class Prometheus:
    """Scrapes as its configuration says, and answers queries."""

    def __init__(self, config: Path) -> None:
        self._port = free_port()
        self._url = f"http://127.0.0.1:{self._port}"
        self._config = config
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it and wait until it is ready."""
        folder = self._config.parent
        words = [
            "prometheus",
            f"--config.file={self._config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{self._port}",
        ]
        with (folder / "prometheus.log").open("wb") as log:
            self._process = subprocess.Popen(words, stdout=log, stderr=log, cwd=folder)
        wait_for(self._is_ready, seconds=60, what=self.said)

    def _is_ready(self) -> bool:
        assert self._process
        assert self._process.poll() is None, self.said()
        try:
            return fetch(self._url, "/-/ready")[0] == 200
        except OSError:
            return False

    def said(self) -> str:
        """Its log."""
        return (self._config.parent / "prometheus.log").read_text()

    def stop(self) -> None:
        """Kill it."""
        if self._process:
            self._process.kill()
            self._process.wait()

    def ask(self, path: str, **query: str) -> Any:
        """What its API answers."""
        found = json.loads(fetch(self._url, f"/api/v1/{path}?{urlencode(query)}")[1])
        assert found["status"] == "success", found
        return found["data"]

    def values(self, query: str) -> list[tuple[dict[str, str], float]]:
        """Labels and value of each series that a query finds now."""
        rows = self.ask("query", query=query)["result"]
        return [(row["metric"], float(row["value"][1])) for row in rows]


@contextmanager
def running_prometheus(config: Path) -> Iterator[Prometheus]:
    """One for the length of a block; the configuration's folder takes its data."""
    found = Prometheus(config)
    try:
        found.start()
        yield found
    finally:
        found.stop()


def promtool(*arguments: str, stdin: bytes = b"", ok: int = 0) -> str:
    """Run promtool; returns all that it said."""
    found = subprocess.run(
        ["promtool", *arguments], input=stdin, capture_output=True, check=False, timeout=60
    )
    text = (found.stdout + found.stderr).decode()
    assert found.returncode == ok, text
    return text
