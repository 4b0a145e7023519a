"""Where a broker is, as host and device write it: ``mqtt://[user:password@]host[:port]``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

from .errors import SetupError


@dataclass(frozen=True)
class BrokerAddress:
    """Where a broker is, and as whom to speak to it."""

    host: str
    port: int
    tls: bool = False
    username: str = ""
    password: str = ""

    @classmethod
    def from_url(cls, url: str) -> BrokerAddress:
        """Read ``mqtt://[user:password@]host[:port]`` or ``mqtts://…``.

        Raises:
            SetupError: H12.
        """
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError as error:
            raise SetupError("H12", str(error)) from error
        if parts.scheme not in ("mqtt", "mqtts") or not parts.hostname:
            raise SetupError("H12", repr(url[:80]))
        tls = parts.scheme == "mqtts"
        user, password = unquote(parts.username or ""), unquote(parts.password or "")
        return cls(parts.hostname, port or (8883 if tls else 1883), tls, user, password)

    @property
    def url(self) -> str:
        """The address without credentials, so that it can be shown."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'mqtts' if self.tls else 'mqtt'}://{host}:{self.port}"
