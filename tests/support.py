"""What tests share: free ports, waiting for a condition, a real mosquitto, the shared data."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent
# set where the tests run on a board's CPU, at a tenth of this machine's speed or less
EMULATED = bool(os.environ.get("WHERRY_EMULATED"))
# how many times longer than on an idle machine things may take
PATIENCE = float(os.environ.get("WHERRY_PATIENCE", "6" if EMULATED else "1"))
SHARED = Path(os.environ.get("WHERRY_SHARED", ROOT.parent / "shared")) / "data"


def free_port() -> int:
    """A TCP port on loopback that nobody uses now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def emulation_required() -> bool:
    """Whether boards must be tried: in CI, and where ``WHERRY_EMULATION=required`` says so."""
    return os.environ.get("WHERRY_EMULATION") == "required" or os.environ.get("CI") == "true"


def emulators_missing() -> list[str]:
    """What is not here of all that emulates boards and makes their environments."""
    tools = ("qemu-aarch64", "qemu-arm", "apt-get", "dpkg-deb")
    return [name for name in tools if not shutil.which(name)]


def examples(count: int) -> int:
    """How many examples a property is tried with: a tenth of them where CPUs are emulated."""
    return max(5, count // 10) if EMULATED else count


def wait_for(
    look: Callable[[], T], *, seconds: float = 20.0, what: str | Callable[[], str] = ""
) -> T:
    """Look again and again until there is something true to see, and return it.

    Args:
        look: the condition.
        seconds: how long, on an idle machine.
        what: words for what never came, or what makes them then.
    """
    seconds *= PATIENCE
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() >= end:
            text = what() if callable(what) else what
            raise AssertionError(f"waited {seconds:.0f} s for {text or look}")
        time.sleep(0.02)


def accepts(port: int) -> bool:
    """Whether somebody listens on a loopback port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def mosquitto_program() -> str:
    """Debian keeps it outside an ordinary user's path."""
    found = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin:/usr/local/sbin")
    assert found, "mosquitto is missing; `make test-tools` installs it"
    return found


class Mosquitto:
    """A real broker on a free port, which can be killed and started again."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self._settings = folder / "mosquitto.conf"
        self._log = folder / "mosquitto.log"
        self._settings.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\npersistence false\n"
        )
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """As agent.toml wants it."""
        return f"mqtt://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it and wait until it listens."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [mosquitto_program(), "-c", str(self._settings)], stdout=log, stderr=log
            )
        wait_for(lambda: accepts(self.port), what="mosquitto")

    def kill(self) -> None:
        """Kill it without a word, as a power cut would."""
        if self._process:
            self._process.kill()
            self._process.wait()
            self._process = None


@contextmanager
def running_mosquitto(folder: Path) -> Iterator[Mosquitto]:
    """A broker for the length of a block."""
    folder.mkdir(parents=True, exist_ok=True)
    broker = Mosquitto(folder)
    broker.start()
    try:
        yield broker
    finally:
        broker.kill()
