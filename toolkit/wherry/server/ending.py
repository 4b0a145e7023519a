"""How the server's process ends: signals, the lock on its folder, the last listener."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from wherry_contract.errors import RolloutError

_HTTP_STOP_SECONDS: Final = 2
SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Interrupted(BaseException):  # no error, and nothing that may be caught on the way
    """A signal came while the server was starting."""


class Ending:
    """What SIGTERM and SIGINT do: throw while starting, ask politely once HTTP is served.

    What is thrown may be swallowed, as inside a finalizer; so it is looked at again before
    the server waits for anything else.
    """

    def __init__(self) -> None:
        self._asked = False
        self._server: Any = None

    def __call__(self, _number: int, _frame: object) -> None:
        """Take a signal."""
        self._asked = True
        if self._server is not None:
            self._server.should_exit = True
            return
        for which in SIGNALS:  # the end is on its way; once is enough
            signal.signal(which, signal.SIG_IGN)
        raise Interrupted

    def serving(self, server: Any) -> None:
        """From now on this uvicorn server is told, and nothing is thrown into its event loop."""
        self._server = server
        if self._asked:
            raise Interrupted


def restore(handlers: dict[signal.Signals, Any]) -> None:
    """Put signal handlers back."""
    for which, handler in handlers.items():
        signal.signal(which, handler)


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a data folder for a block.

    Raises:
        RolloutError: R10, another server holds it.
    """
    with path.open("a") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RolloutError("R10", str(path.parent)) from error
        stream.truncate(0)
        stream.write(str(os.getpid()))  # so that a command can see that we are starting
        stream.flush()
        yield


def serve_http(app: Any, listener: socket.socket, ending: Ending) -> None:
    """Serve operators until a signal comes."""
    import uvicorn

    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=_HTTP_STOP_SECONDS,
        server_header=False,
    )
    server = uvicorn.Server(config)
    ending.serving(server)
    # uvicorn handles both signals while it runs and raises them again when it has ended
    server.run(sockets=[listener])
