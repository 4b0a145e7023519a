"""Connections between two requests, all watched by one thread.

A thread for each connection would have to be woken for each request, and eight of them quarrel
over the interpreter. What is short is answered by this thread itself; whoever has something long,
odd or slow is taken out and gets a thread for as long as that lasts.
"""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Final, Protocol

_LOOKS_SECONDS: Final = 0.05  # for who is late, while there is somebody to be late
_SPARE_THREADS: Final = 4
Work = Callable[[], None]


class Watched(Protocol):
    """What a connection can do here."""

    def fileno(self) -> int:
        """Its socket."""
        ...

    def ready(self) -> None:
        """There is something to read; it may take itself out."""
        ...

    @property
    def deadline(self) -> float:
        """Monotonic seconds by which a request that has begun must be whole; 0 for none."""
        ...

    def late(self, now: float) -> None:
        """Look whether that has passed."""
        ...


class Parked:
    """Watches connections until `close`."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._poll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._poll.register(self._wake, select.EPOLLIN)
        self._held: dict[int, Watched] = {}
        self._begun: set[Watched] = set()  # that have sent a part of a request
        self._closed = False

    def add(self, item: Watched) -> None:
        """Watch a connection; from any thread."""
        descriptor = item.fileno()
        self._held[descriptor] = item
        self._poll.register(descriptor, select.EPOLLIN)

    def remove(self, item: Watched) -> None:
        """Watch it no more; to be called by `ready` or `late` alone."""
        descriptor = item.fileno()
        self._poll.unregister(descriptor)
        del self._held[descriptor]
        self._begun.discard(item)

    def run(self) -> None:
        """Serve until `close`."""
        while not self._closed:
            for descriptor, _ in self._poll.poll(_LOOKS_SECONDS if self._begun else None):
                item = self._held.get(descriptor)
                if item is not None:
                    item.ready()
                    # it may have gone to a helper, and its number be another's by now
                    if item.deadline and self._held.get(descriptor) is item:
                        self._begun.add(item)
            if self._begun:
                self._look()
        self._poll.close()
        os.close(self._wake)

    def _look(self) -> None:
        now = self._monotonic()
        for item in list(self._begun):
            if item.deadline:
                item.late(now)
            else:
                self._begun.discard(item)

    def close(self) -> None:
        """End `run`; once is enough."""
        if not self._closed:
            os.eventfd_write(self._wake, 1)  # first: `run` closes it when it sees the other
            self._closed = True


class Helpers:
    """Threads for what takes long; a few are kept for the next."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spare = 0
        self._work: SimpleQueue[Work | None] = SimpleQueue()

    def do(self, work: Work) -> None:
        """Have some work done at once.

        Raises:
            RuntimeError: there is no thread to be had.
        """
        with self._lock:
            if self._spare:
                self._spare -= 1
                self._work.put(work)
                return
        threading.Thread(target=self._run, args=(work,), name="serving", daemon=True).start()

    def _run(self, work: Work | None) -> None:
        while work is not None:
            work()
            with self._lock:
                if self._spare >= _SPARE_THREADS:
                    return
                self._spare += 1
            work = self._work.get()

    def close(self) -> None:
        """Let those that have nothing to do end."""
        with self._lock:
            for _ in range(self._spare):
                self._work.put(None)
            self._spare = 0
