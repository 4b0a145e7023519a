"""Signs of life: what the service manager is told, and whether the agent deserves to be told of.

systemd restarts a service that stops saying that it lives (`WatchdogSec=`). So it is said
only while every part that must live does: the port answers a request of ours, no answer is
overdue, and the loop of updates has come round. Nothing here knows systemd but the few
words of sd_notify(3), which are datagrams to a socket.
"""

from __future__ import annotations

import contextlib
import logging
import math
import socket
import threading
from collections.abc import Callable, Mapping
from typing import Final

from .serving.listen import socket_path

_ASK: Final = b"GET /v2/health/live HTTP/1.1\r\nHost: agent\r\nConnection: close\r\n\r\n"
_ANSWERED: Final = b"HTTP/1.1 "  # whatever it says: a port that is too busy lives
_FEEDS: Final = 3  # in the time after which silence is death
_MOST_STATUS: Final = 200  # characters
_NAP_SECONDS: Final = 5.0  # the longest that a watched part sleeps in one piece
_ASK_SECONDS: Final = 5.0
UPDATES: Final = "updates"

_log = logging.getLogger("wherry")


class Pulse:
    """When each part last showed that it lives. Safe to call from threads."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        """Take the clock, in seconds."""
        self.now = monotonic
        self._lock = threading.Lock()
        self._parts: dict[str, tuple[float, float]] = {}

    def watch(self, part: str, seconds: float) -> None:
        """From now on a part must show itself at least every so many seconds."""
        with self._lock:
            self._parts[part] = (self.now(), seconds)

    def beat(self, part: str) -> None:
        """A part shows itself; one that nobody watches may."""
        with self._lock:
            if part in self._parts:
                self._parts[part] = (self.now(), self._parts[part][1])

    def sleep(self, part: str, wake: threading.Event, seconds: float) -> None:
        """Wait for an event, and show meanwhile that a part does nothing but wait."""
        end = self.now() + seconds
        while True:
            self.beat(part)
            left = end - self.now()
            if wake.wait(max(0.0, min(left, _NAP_SECONDS))) or left <= _NAP_SECONDS:
                return

    def late(self) -> list[str]:
        """Names of the parts that are overdue."""
        now = self.now()
        with self._lock:
            return [name for name, (last, most) in self._parts.items() if now - last > most]


class Notifier:
    """Speaks to the service manager; where there is none it says nothing."""

    def __init__(self, environment: Mapping[str, str], pid: int) -> None:
        """Take what the service manager said when it started us.

        Args:
            environment: ``NOTIFY_SOCKET``, ``WATCHDOG_USEC``, ``WATCHDOG_PID``.
            pid: our process id; the watchdog of another process is not ours.
        """
        self._address = environment.get("NOTIFY_SOCKET", "")
        micros, whose = environment.get("WATCHDOG_USEC", ""), environment.get("WATCHDOG_PID", "")
        ours = self._address and whose in ("", str(pid)) and micros.isascii() and micros.isdigit()
        self.feed_seconds = int(micros) / 1e6 / _FEEDS if ours and int(micros) else 0.0
        """How often the watchdog wants to be fed; 0 if there is none."""

    def ready(self) -> None:
        """The port is open, and whatever was on disk serves."""
        self._tell("READY=1")

    def alive(self) -> None:
        """Feed the watchdog."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """We end, and were asked to."""
        self._tell("STOPPING=1")

    def status(self, words: str) -> None:
        """What `systemctl status` shows."""
        self._tell("STATUS=" + " ".join(words.split())[:_MOST_STATUS])

    def _tell(self, line: str) -> None:
        if not self._address:
            return
        # an abstract socket's name begins with a zero byte, which no environment can hold
        name = "\0" + self._address[1:] if self._address[0] == "@" else self._address
        # whoever does not listen to us cannot end us
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out,
        ):
            out.sendto(line.encode(), name)


class Watchdog:
    """Tells the service manager that we live, as long as all that must live does."""

    def __init__(self, notifier: Notifier, pulse: Pulse, overdue: Callable[[], int]) -> None:
        """Take whom to tell, who shows signs of life, and how many answers are overdue."""
        self._notifier = notifier
        self._pulse = pulse
        self._overdue = overdue
        self._feed_at = -math.inf
        self._well = True

    def feed(self, address: str) -> None:
        """Look, and tell, if it is time to; to be called about every second.

        Args:
            address: where our port listens.
        """
        every, now = self._notifier.feed_seconds, self._pulse.now()
        if not every or now < self._feed_at:
            return
        self._feed_at = now + every
        wrong = [f"{name} hang" for name in self._pulse.late()]
        if self._overdue():
            wrong.append("a request gets no answer")
        if not wrong and not answers(address, min(every, _ASK_SECONDS)):
            wrong.append("the port does not answer")
        if not wrong:
            self._notifier.alive()
            if not self._well:
                self._notifier.status(f"serving on {address}")
            self._well = True
            return
        self._well = False
        self._notifier.status(f"to be restarted: {', '.join(wrong)}")
        _log.error("%s: the service manager is not told that this agent lives", ", ".join(wrong))


def answers(address: str, seconds: float) -> bool:
    """Whether the serving port answers a request; any answer will do.

    Args:
        address: ``host:port`` or ``unix:/path``, where it listens.
        seconds: to wait at each step.
    """
    try:
        with _connect(address, seconds) as line:
            line.sendall(_ASK)
            return line.recv(64).startswith(_ANSWERED)
    except OSError:
        return False


def _connect(address: str, seconds: float) -> socket.socket:
    if path := socket_path(address):
        line = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        line.settimeout(seconds)
        try:
            line.connect(str(path))
        except OSError:
            line.close()
            raise
        return line
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), seconds)
