"""A real PostgreSQL for tests: Debian's programs, an unprivileged user, a free port, its own folder."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import psycopg
from support import free_port, wait_for

from wherry.server.database import Database

_USER = "wherry"


class Postgres:
    """A server that can be killed and started again on what it had committed."""

    def __init__(self, *, durable: bool = False) -> None:
        """Make its files.

        Args:
            durable: commits wait for the medium; else they only survive the death of processes.
        """
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="wherry-pg-"))
        self._account = _unprivileged()
        if self._account:
            os.chown(self.folder, self._account.pw_uid, self._account.pw_gid)
        self._made = 0
        self._template = False
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._durable = durable
        command = ["initdb", "--no-sync", "-A", "trust", "-U", _USER, "-E", "UTF8"]
        self._run([*command, "--locale=C.UTF-8", "-D", str(self.data)])

    @property
    def data(self) -> Path:
        """Its files."""
        return self.folder / "data"

    def _as(self) -> dict[str, object]:
        account = self._account
        if not account:
            return {}
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def _run(self, command: list[str]) -> None:
        path = str(_programs() / command[0])
        done = subprocess.run(
            [path, *command[1:]], cwd=self.folder, capture_output=True, check=False, **self._as()
        )
        assert done.returncode == 0, done.stderr.decode()

    def start(self) -> None:
        """Start it and wait until it answers."""
        settings = {
            "port": self.port,
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": self.folder,
            "fsync": "on" if self._durable else "off",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "jit": "off",
        }
        command = [str(_programs() / "postgres"), "-D", str(self.data)]
        for name, value in settings.items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command, cwd=self.folder, stdout=log, stderr=log, **self._as()
            )
        wait_for(self._answers, seconds=60.0, what="PostgreSQL")

    def _answers(self) -> bool:
        assert self._process
        assert self._process.poll() is None, (self.folder / "log").read_text()
        try:
            self.ask("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def kill(self, which: signal.Signals = signal.SIGQUIT) -> None:
        """End it at once, without a word to anybody; it recovers from its log when it starts."""
        if self._process:
            self._process.send_signal(which)
            self._process.wait(30)
            self._process = None

    def remove(self) -> None:
        """End it for good, with its files."""
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[object, ...]]:
        """What a statement gives."""
        url = f"postgresql://{_USER}@127.0.0.1:{self.port}/{database}"
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def database(self) -> str:
        """The URL of a new database with a store's tables, as `wherry serve --store` wants it."""
        with self._lock:
            if not self._template:
                self.ask("CREATE DATABASE made")
                Database(self._url("made")).close()
                self._template = True
            self._made += 1
            self.ask(f"CREATE DATABASE fleet{self._made} TEMPLATE made")
        return self._url(f"fleet{self._made}")

    def empty_database(self) -> str:
        """The same without any table."""
        with self._lock:
            self._made += 1
            self.ask(f"CREATE DATABASE fleet{self._made}")
        return self._url(f"fleet{self._made}")

    def _url(self, name: str) -> str:
        return f"postgresql+psycopg://{_USER}@127.0.0.1:{self.port}/{name}"


@cache
def _programs() -> Path:
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    beside = shutil.which("initdb")
    assert found or beside, "PostgreSQL is missing; `make test-tools` installs it"
    return found[-1].parent if found else Path(str(beside)).resolve().parent


def _unprivileged() -> pwd.struct_passwd | None:
    """PostgreSQL does not run as root."""
    return pwd.getpwnam("nobody") if os.geteuid() == 0 else None


@cache
def postgres() -> Postgres:
    """The one of this process, started when it is first wanted; `conftest` ends it."""
    server = Postgres()
    server.start()
    return server


def end_postgres() -> None:
    """End it if it was started."""
    if postgres.cache_info().currsize:
        postgres().remove()
        postgres.cache_clear()


@contextmanager
def running_postgres(*, durable: bool = False) -> Iterator[Postgres]:
    """One of the test's own, which it may kill."""
    server = Postgres(durable=durable)
    server.start()
    try:
        yield server
    finally:
        server.remove()
