"""The serving port's address: loopback TCP or a unix socket."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Final

from wherry_contract.errors import SetupError

LISTENING_FILE: Final = "listening"  # in the state folder: where the serving port was found
UNIX: Final = "unix:"
_SOCKET_MODE: Final = 0o660


def bind(listen: str) -> socket.socket:
    """A socket bound to ``host:port`` or ``unix:/path``.

    Raises:
        SetupError: H08 the address is wrong, H11 it is in use.
    """
    path = socket_path(listen)
    return _bind_unix(path) if path else _bind_tcp(listen)


def socket_path(listen: str) -> Path | None:
    """Where the unix socket lies; nothing for TCP."""
    return Path(listen.removeprefix(UNIX)) if listen.startswith(UNIX) else None


def _bind_tcp(listen: str) -> socket.socket:
    host, separator, port = listen.rpartition(":")
    if not separator or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise SetupError("H08", f"serving.listen is {listen!r}, like 127.0.0.1:8600 or unix:/path")
    host = host.strip("[]")
    try:
        family = socket.getaddrinfo(host, int(port), type=socket.SOCK_STREAM)[0][0]
        bound = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise SetupError("H08", f"serving.listen {listen}: {error.strerror}") from error
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, int(port)))
    except OSError as error:
        bound.close()
        raise _in_use(listen, error) from error
    return bound


def _bind_unix(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.is_socket() and not _answers(path):
            path.unlink()  # a former agent of ours was killed
        bound.bind(str(path))
        path.chmod(_SOCKET_MODE)
    except OSError as error:
        bound.close()
        raise _in_use(f"{UNIX}{path}", error) from error
    return bound


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(str(path)) == 0


def _in_use(listen: str, error: OSError) -> SetupError:
    cure = "choose another address under [serving] in agent.toml"
    return SetupError("H11", f"{listen}: {error.strerror or error}", cure=cure)
