"""Who has signed in, and how often somebody may try. Clocks are handed in; nothing is on the disk."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

LIFE_SECONDS: Final = 12 * 3600.0
MOST_SESSIONS: Final = 64
TRIES: Final = 8
TRY_SECONDS: Final = 60.0
_MOST_CALLERS: Final = 1024


@dataclass(frozen=True)
class Session:
    """One browser that has signed in.

    Attributes:
        form: stands in each form that it is shown, and must come back with it.
        ends_at: by the steady clock.
    """

    form: str
    ends_at: float


class Sessions:
    """Those who have shown the server's token; a start of the server forgets them."""

    def __init__(self, token: str, steady: Callable[[], float]) -> None:
        """Begin with nobody.

        Args:
            token: what must be shown.
            steady: a clock that never goes back, seconds.
        """
        self._token = token.encode()
        self._steady = steady
        self._lock = threading.Lock()
        self._known: OrderedDict[str, Session] = OrderedDict()  # by digest of the cookie
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    def wait_seconds(self, caller: str) -> float:
        """How long a caller must wait before the next try; 0 for not at all."""
        with self._lock:
            recent = self._recent(caller)
        return recent[0] + TRY_SECONDS - self._steady() if len(recent) >= TRIES else 0.0

    def sign_in(self, caller: str, shown: str) -> str:
        """A new cookie for who shows the token; "" for who does not, which is counted."""
        good = hmac.compare_digest(shown.strip().encode(), self._token)
        with self._lock:
            if not good:
                self._failed[caller] = [*self._recent(caller), self._steady()]
                while len(self._failed) > _MOST_CALLERS:
                    self._failed.popitem(last=False)
                return ""
            self._failed.pop(caller, None)
            cookie = secrets.token_urlsafe(32)
            ends_at = self._steady() + LIFE_SECONDS
            self._known[_digest(cookie)] = Session(secrets.token_urlsafe(24), ends_at)
            while len(self._known) > MOST_SESSIONS:
                self._known.popitem(last=False)
            return cookie

    def of(self, cookie: str) -> Session | None:
        """The session of a cookie; nothing if there is none, or it has ended."""
        with self._lock:
            found = self._known.get(_digest(cookie))
            if found and found.ends_at <= self._steady():
                del self._known[_digest(cookie)]
                return None
            return found

    def sign_out(self, cookie: str) -> None:
        """End a session."""
        with self._lock:
            self._known.pop(_digest(cookie), None)

    def _recent(self, caller: str) -> list[float]:
        now = self._steady()
        return [at for at in self._failed.get(caller, []) if now - at < TRY_SECONDS]


def _digest(cookie: str) -> str:
    return hashlib.sha256(cookie.encode()).hexdigest()
