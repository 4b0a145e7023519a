"""Who may knock at the enrolment door, and how often: it is open to anybody, and TLS costs time.

What comes too often is hung up on before TLS begins, so that a flood costs this machine
little and the listeners for enrolled devices nothing. One address cannot take the places of
others; many together can keep new devices out, and no device that is enrolled.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

_MANY: Final = 2048  # addresses that are remembered before those are dropped that may come anew


@dataclass(frozen=True)
class Pace:
    """How much is let through.

    Attributes:
        a_second: connections, in the long run.
        burst: at once, after a quiet time.
        together: open at the same time.
    """

    a_second: float
    burst: int
    together: int


EACH: Final = Pace(a_second=20, burst=200, together=64)
"""Of one address; a shop's tills may share one."""
ALL: Final = Pace(a_second=100, burst=500, together=512)


class _Bucket:
    """Tokens that come back with time."""

    def __init__(self, pace: Pace, now: float) -> None:
        self._pace = pace
        self._tokens, self._at = float(pace.burst), now

    def filled(self, now: float) -> float:
        more = max(0.0, now - self._at) * self._pace.a_second
        self._tokens, self._at = min(float(self._pace.burst), self._tokens + more), now
        return self._tokens

    def take(self) -> None:
        self._tokens -= 1


class Turnstile:
    """Counts who comes; decides, and knows no sockets."""

    def __init__(
        self, each: Pace = EACH, every: Pace = ALL, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Take what one address and all together may do, and a clock, seconds."""
        self._each, self._every, self._clock = each, every, clock
        self._all = _Bucket(every, clock())
        self._buckets: dict[str, _Bucket] = {}
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def enter(self, address: str) -> bool:
        """Whether a connection from an address is let in; then `leave` must follow."""
        who = _neighbourhood(address)
        with self._lock:
            now = self._clock()
            if len(self._buckets) > _MANY:
                self._forget(now)
            known = self._buckets.get(who) or _Bucket(self._each, now)
            if (
                self._all.filled(now) < 1
                or known.filled(now) < 1
                or self._open[who] >= self._each.together
                or self._open.total() >= self._every.together
            ):
                return False
            self._buckets[who] = known
            self._all.take()
            known.take()
            self._open[who] += 1
            return True

    def leave(self, address: str) -> None:
        """Note that a connection which was let in has ended."""
        who = _neighbourhood(address)
        with self._lock:
            self._open[who] -= 1
            if self._open[who] <= 0:
                del self._open[who]

    def _forget(self, now: float) -> None:
        full = [who for who, it in self._buckets.items() if it.filled(now) >= self._each.burst]
        for who in full:
            del self._buckets[who]


def _neighbourhood(address: str) -> str:
    """An address, or the network of a customer's whole line where there are many for each."""
    bare = address.partition("%")[0]
    if ":" not in bare:
        return bare
    found = ipaddress.IPv6Address(bare)
    return str(found.ipv4_mapped or ipaddress.IPv6Network((int(found) >> 64 << 64, 64)))


class Gate(socket.socket):
    """A listening socket behind a turnstile; takes the place of another one."""

    def __init__(self, listener: socket.socket, turnstile: Turnstile) -> None:
        """Take over a listener, and who is let in."""
        family, kind, protocol = listener.family, listener.type, listener.proto
        super().__init__(family, kind, protocol, fileno=listener.detach())
        self.setblocking(False)
        self._turnstile = turnstile

    def accept(self) -> tuple[socket.socket, Any]:
        """The next connection that is let in; raises as `socket.accept` does where there is none."""
        while True:
            handle, address = self._accept()  # type: ignore[attr-defined]  # what socket.accept calls
            if self._turnstile.enter(address[0]):
                break
            socket.close(handle)
        return _Guest(
            self.family, self.type, self.proto, handle, address[0], self._turnstile
        ), address


class _Guest(socket.socket):
    """A connection that says when it ends."""

    def __init__(  # noqa: PLR0917 - a socket's own four first
        self, family: int, kind: int, protocol: int, handle: int, address: str, left: Turnstile
    ) -> None:
        super().__init__(family, kind, protocol, fileno=handle)
        self._address, self._left, self._ended = address, left, False

    def close(self) -> None:
        """Close it."""
        super().close()
        if not self._ended:
            self._ended = True
            self._left.leave(self._address)
