"""The ways of telling: an HTTP request, a command, an MQTT message. Each may fail and be tried again.

What is told carries an id, so that who is told twice, because the plug was pulled between telling
and noting it, can see that. Secrets stand in no message of an error.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import os
import secrets
import subprocess  # the user's own command
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlsplit

from wherry.server.round_trip import connect, new_client
from wherry_contract.address import BrokerAddress
from wherry_contract.errors import LinkError, SetupError

_SECONDS: Final = 20.0
_STDERR: Final = 2  # what a command says is talk; stdout is our answer's
_LIMIT_ANSWER: Final = 1 << 16


class Way(Protocol):
    """Tells somebody."""

    def send(self, name: str, body: bytes) -> str:
        """Tell it; returns what came of it, in words.

        Args:
            name: the id of what is told.
            body: JSON.

        Raises:
            LinkError: L14, nobody took it.
            SetupError: H02, H12.
        """
        ...


@dataclass(frozen=True)
class Webhook:
    """A POST of JSON, signed like GitHub's: ``X-Wherry-Signature: sha256=<HMAC of the body>``.

    Attributes:
        url: may hold a token, so only its host is ever shown.
        secret: of the signature; empty for none.
    """

    url: str = field(repr=False)
    secret: bytes = field(default=b"", repr=False)

    def send(self, name: str, body: bytes) -> str:
        """See `Way`; a redirect is not followed, for it would take the body elsewhere."""
        parts = urlsplit(self.url)
        secure = parts.scheme == "https"
        kind = http.client.HTTPSConnection if secure else http.client.HTTPConnection
        headers = {"Content-Type": "application/json", "Idempotency-Key": name}
        if self.secret:
            mark = hmac.new(self.secret, body, hashlib.sha256).hexdigest()
            headers["X-Wherry-Signature"] = f"sha256={mark}"
        place = parts.path or "/"
        connection = kind(parts.hostname or "", parts.port, timeout=_SECONDS)
        try:
            query = f"?{parts.query}" if parts.query else ""
            connection.request("POST", place + query, body, headers)
            response = connection.getresponse()
            response.read(_LIMIT_ANSWER)
        except (OSError, http.client.HTTPException) as error:
            raise LinkError("L14", f"{parts.hostname}: {error or repr(error)}") from error
        finally:
            connection.close()
        if not 200 <= response.status < 300:
            raise LinkError("L14", f"{parts.hostname} answered {response.status}")
        return f"{parts.hostname} took it"


@dataclass(frozen=True)
class Topic:
    """An MQTT message, QoS 1, not retained: who is away is told by a webhook or not at all."""

    url: str = field(repr=False)
    topic: str
    password: str = field(default="", repr=False)

    def send(self, name: str, body: bytes) -> str:
        """See `Way`; done once the broker has acknowledged it."""
        address = BrokerAddress.from_url(self.url)
        if self.password:
            address = replace(address, password=self.password)
        client = new_client(address, f"wherry-hook-{secrets.token_hex(4)}")
        connect(client, address)
        client.loop_start()
        try:
            sent = client.publish(self.topic, body, 1)
            deadline = time.monotonic() + _SECONDS
            while not sent.is_published() and time.monotonic() < deadline:
                sent.wait_for_publish(_SECONDS)
        except (RuntimeError, ValueError) as error:
            raise LinkError("L14", f"{address.url}: {name} was not taken: {error}") from error
        finally:
            client.disconnect()
            client.loop_stop()
        if not sent.is_published():
            raise LinkError("L14", f"{address.url} did not acknowledge {name}")
        return f"{address.url} took it"


@dataclass(frozen=True)
class Command:
    """A command with the JSON on stdin; what it leaves behind is built into a candidate.

    Attributes:
        words: the program and its arguments; no shell reads them.
        folder: where it runs.
        project: a project file that it leaves behind; nothing if it builds nothing.
        bundle: the candidate that is made of it.
    """

    words: tuple[str, ...]
    folder: Path
    project: Path | None = None
    bundle: Path = Path("candidate.wherry")

    def send(self, name: str, body: bytes) -> str:
        """See `Way`; it runs as long as it runs."""
        environment = os.environ | {"WHERRY_CAUSE": name}
        try:
            done = subprocess.run(
                self.words, input=body, cwd=self.folder, env=environment, check=False
            )
        except OSError as error:
            raise SetupError("H02", f"{self.words[0]}: {error.strerror}") from error
        if done.returncode:
            raise LinkError("L14", f"{self.words[0]} ended with {done.returncode}")
        if self.project is None:
            return f"{self.words[0]} is done"
        return f"{self.words[0]} is done; candidate {self.bundle}: {self._candidate()}"

    def _candidate(self) -> str:
        from wherry.build import build
        from wherry.project import load_project

        assert self.project  # noqa: S101 - the caller looked
        return build(load_project(self.project), out=self.bundle).digest
